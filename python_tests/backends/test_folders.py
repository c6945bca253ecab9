"""An op of a backend is a file of its folder, and no list has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from adadagrad_kernels.backends import BACKENDS, cpu, folders, reference, triton


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "folder_of_ops"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text("__all__ = ['a', 'b_']\na, b_, c = 1, 2, 3\n")
    (package / "_shared.py").write_text("raise AssertionError('this is no op')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("folder_of_ops", "folder_of_ops.first", "folder_of_ops.second"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return package


def test_a_file_more_is_what_it_lists(folder: Path) -> None:
    assert folders.ops("folder_of_ops", [str(folder)]) == {"a": 1, "b_": 2}
    (folder / "second.py").write_text("__all__ = ['d']\nd = 4\n")
    assert folders.files([str(folder)]) == ["first", "second"]
    assert folders.ops("folder_of_ops", [str(folder)]) == {"a": 1, "b_": 2, "d": 4}


@pytest.mark.parametrize("backend", [cpu, reference], ids=lambda backend: backend.__name__)
def test_the_backends_have_their_files_functions(backend: ModuleType) -> None:
    ops = folders.ops(backend.__name__, backend.__path__)
    assert {"batch_moments", "adagrad_step_", "embedding_moments"} <= set(ops)
    for name, op in ops.items():
        assert getattr(backend, name) is op


def test_triton_has_the_ops_with_a_file_of_kernels() -> None:
    kernels = Path(triton.__file__).parent / "kernels"
    files = {path.stem for path in kernels.glob("[!_]*.py")}
    assert "batch_moments" in files
    assert "conv_moments" not in files
    for op in ("batch_moments", "adagrad_step_", "conv_moments", "subtract_square_", "_moments"):
        assert hasattr(triton, op) == (op.removesuffix("_") in files)
    with pytest.raises(AttributeError, match="the backend triton has no conv_moments"):
        _ = triton.conv_moments
    refused = BACKENDS["triton"].obstacle(torch.device("cuda", 0), torch.float32, "conv_moments")
    assert refused == "it has no kernel for conv_moments"


def test_asking_whether_triton_has_an_op_does_not_import_it(tmp_path: Path) -> None:
    code = (
        "import sys; from adadagrad_kernels.backends import triton as b; "
        "print(hasattr(b, 'batch_moments'), 'triton' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
