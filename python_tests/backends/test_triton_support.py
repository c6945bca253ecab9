"""Which releases of Triton, devices and element types the backend `triton` takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from adadagrad_kernels import backends, ops, use_backend
from adadagrad_kernels.backends import cuda, reference
from adadagrad_kernels.backends import triton as backend
from adadagrad_kernels.errors import BackendUnavailableError

triton = pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    for asked in (backend._unsupported, backend._too_old):
        asked.cache_clear()
    yield
    for asked in (backend._unsupported, backend._too_old):
        asked.cache_clear()


@pytest.mark.parametrize("version", ["2.3.1", "3.0.0", "3.2.0+git35c6c7c6", "3.4.0"])
def test_a_release_that_cannot_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    reason = backend.unavailable()
    assert reason is not None
    assert f"Triton {version} does not know `disable_licm`" in reason
    assert "need 3.5 or newer" in reason
    with use_backend("triton"), pytest.raises(BackendUnavailableError, match=r"3\.5 or newer"):
        ops.batch_moments(torch.ones(2, 3))
    assert _taken_by_auto(monkeypatch) is reference, "auto goes on"


@pytest.mark.parametrize("version", ["3.5.0", "3.6.0", "3.10.1", "4.0.0"])
def test_a_release_that_can(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    assert _taken_by_auto(monkeypatch) is backend
    assert backend.unavailable() is None


def _taken_by_auto(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What runs on a GPU that can do all, where the CUDA kernels were not built."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda, "unavailable", lambda: "it was not built")
    monkeypatch.setattr(backends, "_best", {})
    with use_backend("auto"):
        return backends.select(torch.device("cuda", 0))


def test_one_that_cannot_be_imported_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: object())
    assert "Triton cannot be imported (" in str(backend.unavailable())


def test_float64_is_refused() -> None:
    reason = backend.refuses(torch.device("cuda", 0), torch.float64)
    assert reason == (
        "it has no kernels for torch.float64; accepted are torch.float32, torch.bfloat16, "
        "torch.float16"
    )


@pytest.mark.parametrize(
    ("capability", "taken"), [((7, 5), False), ((8, 0), True), ((12, 1), True)]
)
def test_every_device_is_asked_for_itself(
    capability: tuple[int, int], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one here; the first, which may be the current one, can do all."""
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda d: capability if d.index == 1 else (9, 0)
    )
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert backend.refuses(torch.device("cuda", 0), torch.float32) is None
    reason = backend.refuses(torch.device("cuda", 1), torch.float32)
    assert reason is None if taken else "cuda:1 has compute capability 7.5" in str(reason)
