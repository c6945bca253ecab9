"""Every example runs as a user would run it, and prints what it promises."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.programs import Programs

EXAMPLES = Path(__file__).parent.parent / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("no examples here: the tests run away from the sources", allow_module_level=True)


Output = Callable[..., str]


@pytest.fixture
def output(programs: Programs) -> Output:
    """What an example prints."""

    def runs(name: str, *arguments: str, warnings: str = "error") -> str:
        done = programs.run(EXAMPLES / name, *arguments, warnings=warnings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return runs


#: The examples whose tests stand with others like them.
ELSEWHERE = {"several_ranks": "distributed/test_resume.py"}


def test_every_example_has_a_test() -> None:
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for name, place in ELSEWHERE.items():
        assert f"{name}.py" in (Path(__file__).parent / place).read_text()
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tests | ELSEWHERE.keys()


def test_norm_test(output: Output) -> None:
    pytest.importorskip("sklearn", reason="the example trains on scikit-learn's digits")
    whole, resumed = output("norm_test.py").splitlines()
    assert resumed == whole.replace("whole", "resumed")
    steps, average, largest, loss = map(float, re.findall(r"[\d.]*\d", whole))
    assert 15_000 / steps == pytest.approx(average, abs=0.05)
    assert 8 < average < largest <= 512
    assert loss < 1.5, "untrained it is log(10) = 2.3"


def test_fused_step(output: Output) -> None:
    *growth, last = output("fused_step.py").splitlines()
    sizes = [int(line.split()[-1]) for line in growth]
    assert len(sizes) > 1
    assert sizes == sorted(set(sizes))
    assert float(last.split()[-1]) < 0.05


def test_layer_statistics(output: Output) -> None:
    pytest.importorskip("sklearn", reason="the example trains on scikit-learn's digits")
    (line,) = output("layer_statistics.py").splitlines()
    steps, first, last, accuracy = map(float, re.findall(r"[\d.]*\d", line))
    assert first == 16 < last <= 512
    assert steps < 6000 / 16
    assert accuracy > 0.5, "untrained it is 0.1"


def test_own_model(output: Output) -> None:
    pytest.importorskip("sklearn", reason="the example trains on scikit-learn's data")
    found = dict(re.findall(r"^(.*?)  +(.*)$", output("own_model.py"), re.MULTILINE))
    assert float(found["test accuracy"].rstrip("%")) > 90
    assert int(found["last batch size"]) > 8


def test_growing_batch(output: Output, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the example trains on scikit-learn's digits")
    pytest.importorskip("matplotlib", reason="the example draws pictures")
    told = output("growing_batch.py", str(tmp_path))
    fixed, growing = (
        [float(number) for number in re.findall(r"[\d.]*\d", line)]
        for line in told.splitlines()[:2]
    )
    assert growing[0] < fixed[0] / 4, "steps"
    assert min(fixed[2], growing[2]) > 85, "test accuracy"
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "batch_size.png").exists()


def _of_a_trainer(output: Output, name: str, module: str) -> list[float]:
    """The numbers of its last line. Libraries of trainers warn of their own."""
    pytest.importorskip("sklearn", reason="the example trains on scikit-learn's data")
    pytest.importorskip(module, reason=f"the example trains by {module}")
    line = output(name, warnings="default").splitlines()[-1]
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", line)]


def test_huggingface_trainer(output: Output) -> None:
    steps, epochs, first, last, before, after = _of_a_trainer(
        output, "huggingface_trainer.py", "transformers"
    )
    assert epochs == 6
    assert first == 8 < last <= 256
    assert steps < 6 * 600 / 8
    assert after < before < 2.0, "untrained it is log(26) = 3.3"


def test_accelerate_loop(output: Output) -> None:
    pytest.importorskip("transformers", reason="the example trains BERT")
    steps, first, last, accuracy = _of_a_trainer(output, "accelerate_loop.py", "accelerate")
    assert first == 16 < last <= 512
    assert steps < 12_000 / 16
    assert accuracy > 0.5, "untrained it is 0.1"


def test_fabric_loop(output: Output) -> None:
    pytest.importorskip("transformers", reason="the example trains GPT-2")
    steps, first, last, loss = _of_a_trainer(output, "fabric_loop.py", "lightning.fabric")
    assert first == 8 < last <= 256
    assert steps < 4000 / 8
    assert loss < 2.0, "untrained it is log(26) = 3.3"


def test_lightning_module(output: Output) -> None:
    pytest.importorskip("transformers", reason="the example trains GPT-2")
    steps, samples, first, last, loss = _of_a_trainer(
        output, "lightning_module.py", "lightning.pytorch"
    )
    assert samples == 4000
    assert first == 8 < last <= 256
    assert steps < samples / 8 / 2
    assert loss < 2.0, "untrained it is log(26) = 3.3"
