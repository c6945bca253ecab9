"""The doctor itself: what it says, refuses, imports, and the page about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.subprocesses import output
from torch import nn
from torch.utils.data import DataLoader

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

from traps import Indices, OneHot, codes

from adadagrad_kernels import integrations
from adadagrad_kernels.integrations import checkup
from adadagrad_kernels.integrations.checkup import TRAPS, traps_table

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore::UserWarning:lightning",
    "ignore:.set_vital. is deprecated:UserWarning",  # of torch, which torchdata reads
)

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "doctor.md"


def test_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {
        "backends": {"cpu": None, "cuda": "no driver"},
        "openmp": ["libgomp.so"],
    }
    monkeypatch.setattr("adadagrad_kernels.backends.describe", lambda: said)
    assert codes() == []
    said["backends"]["cpu"] = "no module _C"
    said["openmp"] = ["libgomp.so", "libiomp5.so"]
    found = integrations.doctor()
    assert [f.code for f in found] == ["no-compiled-kernels", "several-openmp"]
    assert found[0].where == "backend cpu: no module _C"
    assert found[1].where == "libgomp.so, libiomp5.so"


def test_what_it_cannot_take_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="got a int; accepted are a DataLoader, a Trainer of"):
        integrations.doctor([nn.Linear(1, 1), 3])


def test_a_module_that_asks_for_its_trainer_is_refused() -> None:
    class Asks(OneHot):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1.0 / self.trainer.max_steps)

    with pytest.raises(ValueError, match=r"not attached.*pass its optimizer"):
        integrations.doctor(Asks(4))


def test_a_finding_says_all() -> None:
    loader = DataLoader(Indices(8), batch_size=4, drop_last=True)
    (finding,) = integrations.doctor(loader)
    trap = next(trap for trap in TRAPS if trap.code == finding.code)
    assert finding.as_dict() == {
        "code": "drop-last-stock",
        "where": "DataLoader: BatchSampler(drop_last=True)",
        "reason": trap.reason,
        "change": trap.change,
    }
    assert all(text in str(finding) for text in finding.as_dict().values())


def test_every_trap_has_a_test_and_a_code_of_its_own() -> None:
    here = Path(__file__).parent
    tests = "".join(path.read_text(encoding="utf-8") for path in here.glob("test_doctor*.py"))
    found = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', tests))
    assert {trap.code for trap in TRAPS} <= found
    assert len({trap.code for trap in TRAPS}) == len(TRAPS)


def test_no_framework_is_imported() -> None:
    frameworks = "('lightning', 'pytorch_lightning', 'transformers', 'accelerate')"
    told = output(
        "import sys, torch\n"
        "from adadagrad_kernels import integrations\n"
        "loader = torch.utils.data.DataLoader(range(8), batch_size=4, drop_last=True)\n"
        "print(integrations.doctor(loader, torch.nn.Linear(2, 1))[0].code)\n"
        f"print([name for name in {frameworks} if name in sys.modules])"
    )
    assert told.splitlines() == ["drop-last-stock", "[]"]
    assert integrations.doctor is checkup.doctor


def test_the_page_has_the_table() -> None:
    if not PAGE.exists():
        pytest.skip("no docs here: the tests run away from the sources")
    assert traps_table() in PAGE.read_text(encoding="utf-8"), "make docs writes it"


def test_the_program_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    if not PAGE.exists():
        pytest.skip("no docs here: the tests run away from the sources")
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec(program, {})
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert told == ["drop-last-stock", "step-scheduler"]
