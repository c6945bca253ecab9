"""What docs/internals/architecture.md promises: imports run one way, and every op is complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.calls import runs
from torch.utils._device import _device_constructors

import adadagrad_kernels
from adadagrad_kernels import _native, ops
from adadagrad_kernels.backends import BACKENDS

ROOT = Path(__file__).parent.parent
PACKAGE = Path(adadagrad_kernels.__file__).parent

# From the top; a layer imports from those below it, and the parts of one layer not each other.
LAYERS = [
    ("cli",),
    ("integrations", "report", "training", "writers"),
    ("batching",),
    ("criteria", "distributed", "optim"),
    ("statistics",),
    ("ops",),
    ("backends",),
    ("checks",),
    ("_native",),
    ("averages",),
    ("shared_errors", "wrappers"),
    ("files", "memory", "optional", "ranks", "settings"),
    ("shards", "stages"),
    ("errors",),
    ("_C", "_C_cuda"),
]
HEIGHT = {part: -depth for depth, parts in enumerate(LAYERS) for part in parts}
# The package itself, which has the public names, and what starts the command line.
ABOVE_ALL = ("__init__", "__main__")

OPS = [name.removesuffix("_") for name in ops.__all__ if name[0].islower()]


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and part of every import from this package; ``""`` for the package itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute here"
            module = node.module or ""
            names = [module]
            if module == "adadagrad_kernels":
                names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "adadagrad_kernels":
                yield node.lineno, rest.partition(".")[0]


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if _part(path) not in ABOVE_ALL)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    own = _part(path)
    for line, part in _imports(path):
        if not part and own == "cli":
            continue  # for the version
        allowed = part == own or HEIGHT.get(part, 0) < HEIGHT[own]
        assert part in HEIGHT, f"{path}:{line}: from the package itself; import from {LAYERS}"
        assert allowed, f"{path}:{line}: {own} must not import {part}"


def test_no_modules_import_each_other() -> None:
    """Not even inside of functions, or for types alone."""
    of = {}
    for path in (*SOURCES, *(PACKAGE / f"{name}.py" for name in ABOVE_ALL)):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        of[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    imports = {
        module: {found for name in _imported(path) if (found := _module(name, of)) != module}
        for module, path in of.items()
    }
    left = dict(imports)
    while done := [m for m, names in left.items() if not (names - {None}) & left.keys()]:
        for module in done:
            del left[module]
    assert not left, f"these, and what is between them, import each other: {sorted(left)}"


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module(name: str, known: dict[str, Path]) -> str | None:
    """The module in which an imported name is."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


#: What makes tensors on the device that ``torch.set_default_device`` says, by torch's own list.
FACTORIES = {function.__name__.removeprefix("fft_") for function in _device_constructors()}
#: Parts that run models of their own, on the CPU.
PROGRAMS = ("cli", "report", "training")


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if _part(path) not in PROGRAMS],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_every_tensor_that_is_made_has_its_device(path: Path) -> None:
    """The address of one that lies elsewhere must not reach a kernel."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called.startswith("torch.") and called.rpartition(".")[2] in FACTORIES:
            named = {keyword.arg for keyword in node.keywords}
            assert "device" in named, f"{path}:{node.lineno}: {called} has no device"


def test_the_layers_are_all_there_and_documented() -> None:
    parts = {_part(path) for path in SOURCES} | {"_C", "_C_cuda"}
    assert parts == set(HEIGHT)
    document = ROOT / "docs" / "internals" / "architecture.md"
    if not document.exists():
        pytest.skip("no docs here: the tests run away from the sources")
    drawn = re.search(r"```layers\n(.*?)```", document.read_text(), re.DOTALL)
    assert drawn is not None
    lines = [tuple(line.split("  ")[0].split(", ")) for line in drawn[1].splitlines()]
    assert lines == LAYERS


def test_addresses_of_tensors_are_taken_below_the_ops() -> None:
    """Optimizers may ask whether two tensors share a storage, but never where an element is."""
    address = re.compile(r"(?<!untyped_storage\(\)\.)\bdata_ptr\(")
    users = {_part(path) for path in SOURCES if address.search(path.read_text(encoding="utf-8"))}
    assert users <= {"checks", "backends"}


def test_native_sources_know_neither_torch_nor_python() -> None:
    if not (ROOT / "csrc").is_dir():
        pytest.skip("no C++ sources here: the tests run away from the sources")
    found = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    assert found
    for path in found:
        included = re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"))
        foreign = [name for name in included if re.match(r"(torch|ATen|c10|pybind11|Python)", name)]
        assert "bindings" in path.parts or not foreign, f"{path} includes {foreign}"
        assert not any(name.startswith(("torch", "ATen", "c10")) for name in included), path


@pytest.mark.parametrize("op", OPS)
def test_every_op_is_complete(op: str) -> None:
    """One name in every folder: module, backends, registration, tests, benchmark, documentation."""
    public = next(name for name in ops.__all__ if name.removesuffix("_") == op)
    assert (PACKAGE / "ops" / f"{op}.py").exists()
    assert hasattr(torch.ops.adadagrad_kernels, public)
    for name in ("reference", "cpu"):
        assert runs(BACKENDS[name], public), f"backend {name} lacks {public}"
    assert (ROOT / "python_tests" / "ops" / f"test_{op}.py").exists()
    if (ROOT / "benchmarks").is_dir():
        assert (ROOT / "benchmarks" / "ops" / f"bench_{op}.py").exists()
        assert f"`{public}`" in (ROOT / "README.md").read_text()


ADDING = ROOT / "docs" / "internals" / "adding_a_kernel.md"
#: Of code, for an op that has kernels of its own on every backend.
MOST_FILES = 12
#: An op that has files of its own in every folder.
WITH_ALL_FILES = "accumulate_moments"
#: Ops that no other one is made of: what names one of them is part of it.
NAMED_BY_THEIR_OWN = tuple(
    op for op in OPS if op.startswith(("adagrad_", "embedding_", "norm_layer_", "sparse_mean_"))
)


def _documented_files(block: str) -> list[str]:
    if not ADDING.exists():
        pytest.skip("no docs here: the tests run away from the sources")
    found = re.search(rf"```{block}\n(.*?)```", ADDING.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return [line.split()[0] for line in found[1].splitlines()]


def test_documented_files_of_an_op_are_there_and_counted() -> None:
    for block in ("code", "proof"):
        for pattern in _documented_files(block):
            path = pattern.replace("<op>", WITH_ALL_FILES).replace("<kind>", "*")
            assert list(ROOT.glob(path)), f"{ADDING.name} has {pattern}, and {path} is not there"
    code = _documented_files("code")
    text = ADDING.read_text(encoding="utf-8")
    assert len(set(code)) == len(code) <= MOST_FILES
    assert f"touches {len(code)} files of code" in text


@pytest.mark.parametrize("op", NAMED_BY_THEIR_OWN)
def test_an_op_is_in_no_other_files_than_documented(op: str) -> None:
    allowed = {
        path
        for pattern in _documented_files("code")
        for path in ROOT.glob(pattern.replace("<op>", op).replace("<kind>", "*"))
    }
    package = ROOT / "adadagrad_kernels"
    folders = (package / "ops", package / "backends", ROOT / "csrc")
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    sources = (".py", ".pyi", ".cpp", ".h", ".inl", ".cu", ".cuh", ".cmake")
    files = {path for path in files if path.suffix in sources}
    files |= {ROOT / "CMakeLists.txt", *package.glob("*.pyi")}
    name = re.compile(rf"\b{op}_?\b")
    named = {path for path in files if name.search(path.read_text(encoding="utf-8"))}
    assert package / "ops" / f"{op}.py" in named
    assert named <= allowed, f"{ADDING.name} lacks {sorted(map(str, named - allowed))}"


@pytest.mark.parametrize(
    ("bindings", "users", "module"),
    [("cpu", "backends/cpu/*.py", r"\b_C"), ("cuda", "backends/cuda.py", r"\b_module\(\)")],
    ids=["_C", "_C_cuda"],
)
def test_a_compiled_module_binds_what_is_asked_of_it(
    bindings: str, users: str, module: str
) -> None:
    """Nothing else would say so before the call: their functions are `Any` to a type-checker."""
    folder = ROOT / "csrc" / "bindings"
    if not folder.is_dir():
        pytest.skip("no C++ sources here: the tests run away from the sources")
    sources = [*(folder / bindings).glob("*.cpp"), *folder.glob("*.h")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    bound = re.findall(r'm\.def\(\s*"(\w+)"|\(m, "(\w+)"', text)
    names = {function or type_ for function, type_ in bound}
    asked = {
        name
        for path in PACKAGE.glob(users)
        for name in re.findall(rf"{module}\.(\w+)", path.read_text(encoding="utf-8"))
    }
    assert {"batch_moments", "adagrad_step", "read_lists", "Update"} <= asked
    assert asked <= names, f"no file of {folder / bindings} binds {sorted(asked - names)}"
    compiled = {"cpu": _native.C, "cuda": _native.C_cuda}[bindings]
    for name in names if compiled is not None else ():
        assert hasattr(compiled, name), f"{name} is bound in the sources, and not in {compiled}"
