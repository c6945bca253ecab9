"""What ranks say of a tensor-parallel model is what one process says of a whole one."""

from __future__ import annotations

import planned_cases
import pytest
from support.ranks import Told, values


@pytest.mark.parametrize("case", [case.__name__ for case in planned_cases.EXACT])
def test_records_are_those_of_the_whole_model(told: dict[str, list[Told]], case: str) -> None:
    of_ranks = values(told[case])
    for of_rank in of_ranks:
        errors = dict(of_rank["errors"])
        products = errors.pop("sum_sq_inner_products")
        spread = errors.pop("noise_estimate", None)
        if case == "inner_products_of_the_layers":
            assert spread < 1e-10
        else:  # no rank has the norms of whole samples, unless its plan is of one rank
            assert spread is None or spread < 1e-6
        assert errors.keys() >= {"batch_size", "mean_sq_norm", "sum_sq_norms", "mean_gradient"}
        assert max(errors.values()) < 1e-12, errors
        assert "variance" in errors
        # Others are by a difference.
        assert products < (1e-12 if case == "inner_products_of_the_layers" else 1e-6)
        assert of_rank["bits"] == of_ranks[0]["bits"]
