"""The cases of every backend, on Triton's kernels in the interpreter."""

from test_batch_adagrad_step import (
    test_is_the_two_ops_one_after_the_other,
    test_matches_the_definition,
    test_matches_the_definition_at_extreme_shapes,
    test_param_may_have_any_shape,
    test_views_and_their_neighbours,
    test_what_is_not_finite_stays_in_its_coordinate,
)

__all__ = [
    "test_is_the_two_ops_one_after_the_other",
    "test_matches_the_definition",
    "test_matches_the_definition_at_extreme_shapes",
    "test_param_may_have_any_shape",
    "test_views_and_their_neighbours",
    "test_what_is_not_finite_stays_in_its_coordinate",
]
