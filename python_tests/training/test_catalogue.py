"""A row of a table is all that there is to say of a name: nothing states it a second time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from adadagrad_kernels.batching import BatchController
from adadagrad_kernels.cli.arguments import build_parser
from adadagrad_kernels.cli.command_options import COMMAND_OPTIONS
from adadagrad_kernels.training.build import build_policy
from adadagrad_kernels.training.catalogue import (
    CONSTANTS,
    OPTIMIZERS,
    SETTINGS,
    SHAPES,
    TESTS,
    build_optimizer,
)
from adadagrad_kernels.training.config import RunConfig, resolve
from adadagrad_kernels.training.data_sets import DATA_SETS
from adadagrad_kernels.training.option import Option, table_of
from adadagrad_kernels.training.options import OPTIONS
from adadagrad_kernels.training.readers import build_schedule

CLI = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def config(*arguments: str) -> RunConfig:
    return resolve(build_parser().parse_args(["train", *arguments]), 1437, 360)


def test_the_fields_of_a_run_are_the_rows_that_define_it() -> None:
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    assert fields == {option.name for option in OPTIONS if option.defines}
    assert set(CONSTANTS) <= fields
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(RunConfig)
        if field.default is not dataclasses.MISSING
    }
    rows = {option.name: option.default for option in OPTIONS}
    assert defaults == {name: rows[name] for name in defaults}


def test_an_option_of_a_run_is_an_option_of_the_command() -> None:
    given = vars(build_parser().parse_args(["train"]))
    for option in OPTIONS:
        assert given[option.name] == option.default
    assert {option.flag for option in OPTIONS if option.defines} == set(config().options())


def test_the_command_has_the_options_of_its_tables_and_no_others() -> None:
    given = vars(build_parser().parse_args(["train"]))
    rows = (*COMMAND_OPTIONS, *OPTIONS)
    assert len({row.name for row in rows}) == len(rows)
    assert set(given) - {"command"} == {row.name for row in rows}
    for row in COMMAND_OPTIONS:
        assert given[row.name] == (False if row.read is None else row.default)


@pytest.mark.parametrize("row", [row for row in COMMAND_OPTIONS if row.excludes])
def test_of_two_options_that_exclude_each_other_one_is_accepted(row: Option) -> None:
    other = f"--{row.excludes}"
    build_parser().parse_args(["train", row.flag])
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["train", row.flag, other])


def test_every_constant_belongs_to_a_test() -> None:
    assert {name for test in TESTS.values() for name in test.constants} == set(CONSTANTS)
    for row in DATA_SETS.values():
        assert set(row.constants) <= set(CONSTANTS)
        assert set(row.lr) <= set(OPTIMIZERS)


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_test_is_built_for_every_optimizer_that_it_takes(test: str, optimizer: str) -> None:
    if TESTS[test].reads_metric and OPTIMIZERS[optimizer].metric is None:
        pytest.skip("refused by the command")
    run = config("--test", test, "--optimizer", optimizer)
    model = nn.Linear(3, 2)
    built = build_optimizer(optimizer, model.parameters(), lr=run.lr)
    rule = build_policy(run, 1437, model, built)
    assert (rule is None) == (test == "none")
    assert BatchController(rule, batch_size=8, max_batch_size=64).batch_size == 8
    if rule is not None:
        assert not TESTS[test].reads_coordinates or getattr(rule, "needs_variance", False)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_a_schedule_begins_with_the_smallest_size(shape: str) -> None:
    numbers = ",".join(["100", "4"][: len(SHAPES[shape].numbers)])
    assert build_schedule(f"{shape}:{numbers}", 8, 64)(0) == 8


def test_an_optimizer_gets_the_settings_that_it_takes_and_no_other() -> None:
    parameters = [torch.zeros(2, requires_grad=True)]
    given = {"momentum": 0.5, "beta2": 0.75, "weight_decay": 0.25}
    assert set(given) == set(SETTINGS)
    for name, kind in OPTIMIZERS.items():
        group = build_optimizer(name, parameters, lr=0.1, **given).param_groups[0]
        found = {
            "momentum": group.get("momentum") == 0.5,
            "beta2": group.get("betas") == (0.9, 0.75),
            "weight_decay": group.get("weight_decay") == 0.25,
        }
        assert {setting for setting, has in found.items() if has} == set(kind.takes)


def test_the_documented_table_is_made_of_the_rows() -> None:
    if not CLI.exists():
        pytest.skip("no documents here: the tests run away from the sources")
    for rows in (OPTIONS, COMMAND_OPTIONS):
        assert table_of(rows) in CLI.read_text(), "docs/reference/cli.md is behind: run `make docs`"
