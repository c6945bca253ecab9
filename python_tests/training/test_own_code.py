"""Models and data by import path: what a function may give, and what is said where it does not."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adadagrad_kernels.cli import main
from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.training.build import build_model
from adadagrad_kernels.training.data_sets import load_data
from adadagrad_kernels.training.errors import UsageError
from adadagrad_kernels.training.loop import Trainer

SOURCE = """
import torch
from torch import nn

def build(shape, classes):
    return nn.Sequential(nn.Linear(shape[0], 8), nn.Dropout(0.5), nn.Linear(8, classes))

def data(samples=64, features=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, features, generator=generator)
    return inputs, (inputs[:, 0] > 0).long()

def load():
    return (*data(), *data(16, seed=1))

def load_from(folder):
    return (*torch.load(folder / "train.pt"), *data(16, seed=1))

class Nested:
    load = staticmethod(load)

three = lambda: (*data(), *data(16))[:3]
arrays = lambda: tuple(tensor.numpy() for tensor in load())
floats = lambda: (data()[0], data()[1].float(), *data(16))
short = lambda: (data()[0], data()[1][:9], *data(16))
negative = lambda: (data()[0], data()[1] - 1, *data(16))
infinite = lambda: (data()[0] / 0, data()[1], *data(16))
other_shape = lambda: (*data(), *data(16, features=4))
number = 3
no_module = lambda shape, classes: "net"
frozen = lambda shape, classes: nn.Linear(shape[0], classes).requires_grad_(False)
one_score = lambda shape, classes: nn.Linear(shape[0], 1)
flat = lambda shape, classes: nn.Sequential(nn.Linear(shape[0], 2), nn.Flatten(0))
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "mine_of_a_test.py").write_text(SOURCE)
    (tmp_path / "imports_what_is_missing.py").write_text("import there_is_no_such_module\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("mine_of_a_test", "imports_what_is_missing"):
        sys.modules.pop(name, None)


def train(*more: str) -> int:
    task = ["--model", "mine_of_a_test:build", "--data", "mine_of_a_test:load"]
    recipe = ["--optimizer", "sgd", "--eta", "0.5", "--samples", "640", "--quiet", "--out", "run"]
    return main(["train", *task, *recipe, *more])


def test_a_run_of_ones_own_grows_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, which draws from the state that a checkpoint holds."""
    assert train() == 0
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["batch/global"] > 8
    whole = torch.load(tmp_path / "run/model.pt")
    step, steps = Trainer._step, 0

    def stopped(trainer: Trainer, *batch: torch.Tensor) -> object:
        nonlocal steps
        steps += 1
        if steps == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopped)
        assert train("--overwrite") == 128 + signal.SIGTERM
    assert train("--resume") == 0
    again = torch.load(tmp_path / "run/model.pt")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_what_a_function_gives_is_the_data() -> None:
    data = load_data("mine_of_a_test:load", None)
    assert data.train.inputs.shape == (64, 5)
    assert data.classes == 2
    assert load_data("mine_of_a_test:Nested.load", None).checksum == data.checksum
    assert len(data.test) == 16


def test_a_function_with_an_argument_gets_the_folder(tmp_path: Path) -> None:
    torch.save((torch.zeros(4, 5), torch.tensor([0, 1, 2, 2])), tmp_path / "train.pt")
    data = load_data("mine_of_a_test:load_from", tmp_path)
    assert data.classes == 3
    other = load_data("mine_of_a_test:load", None)
    assert data.checksum != other.checksum


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("three", "gave a tuple of 3; accepted are four tensors"),
        ("arrays", "gave a ndarray for the training inputs; accepted is a tensor"),
        ("floats", "and torch.float32; accepted are whole numbers"),
        ("short", "with 9 classes; accepted are as many"),
        ("negative", "gave class -1; accepted are 0 and above"),
        ("infinite", "inputs that are NaN or infinite"),
        ("other_shape", "training inputs of [5] and test inputs of [4]"),
    ],
)
def test_other_data_is_refused(name: str, message: str) -> None:
    with pytest.raises(DataFormatError) as error:
        load_data(f"mine_of_a_test:{name}", None)
    assert message in str(error.value)
    assert f"--data mine_of_a_test:{name}" in str(error.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module_here:build", "the module no_such_module_here could not be imported from"),
        ("imports_what_is_missing:build", "No module named 'there_is_no_such_module'"),
        ("mine_of_a_test:nothing", "mine_of_a_test has no nothing"),
        ("mine_of_a_test:number", "is a int; accepted is a function"),
        ("mine_of_a_test:no_module", "gave a str; accepted is a torch.nn.Module"),
        ("mine_of_a_test:frozen", "parameters that require grad"),
        ("mine_of_a_test:one_score", "gave outputs of [2, 1] for 2 samples; accepted are scores"),
        ("mine_of_a_test:flat", "gave outputs of [4] for 2 samples"),
        ("cnn", "is for images, [channels, height, width], and not for inputs of [5]"),
    ],
)
def test_other_models_are_refused(path: str, message: str) -> None:
    data = load_data("mine_of_a_test:load", None)
    state = torch.get_rng_state()
    with pytest.raises(UsageError) as error:
        build_model(path, data)
    assert message in str(error.value)
    if path.endswith("flat"):
        assert not torch.equal(state, torch.get_rng_state()), "parameters were drawn"


def test_logistic_regression_takes_inputs_of_any_shape() -> None:
    data = load_data("mine_of_a_test:load", None)
    assert build_model("logistic", data)(data.test.inputs).shape == (16, 2)


@pytest.mark.parametrize("option", ["--model", "--data"])
@pytest.mark.parametrize("text", ["cifar", "a:b:c", "a.py:b", ":b", "a:", "../a:b"])
def test_what_is_no_path_is_wrong_usage(
    option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", option, text])
    assert stop.value.code == 2
    assert "or a function of yours such as mypackage.nets:build" in " ".join(
        capsys.readouterr().err.split()
    )


def test_looking_at_a_model_once_draws_nothing(tmp_path: Path) -> None:
    data = load_data("mine_of_a_test:load", None)
    torch.manual_seed(0)
    model = build_model("mine_of_a_test:build", data)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torch.nn.Linear(5, 8)
    torch.nn.Linear(8, 2)
    assert torch.equal(after, torch.get_rng_state())
    assert all(module.training for module in model.modules())
