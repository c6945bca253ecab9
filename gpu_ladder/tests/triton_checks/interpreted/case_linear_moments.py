"""The cases of the GPU backends, on Triton's kernels in the interpreter."""

from test_linear_moments_gpu import (
    test_dimensions_of_positions,
    test_gives_what_was_asked,
    test_matches_the_definition,
    test_one_row_for_all,
    test_rows_of_wider_tensors,
    test_the_variance_changes_nothing_else,
    test_variance_is_by_deviations,
    test_what_is_empty,
    test_what_is_not_finite_stays_where_it_is,
)

__all__ = [
    "test_dimensions_of_positions",
    "test_gives_what_was_asked",
    "test_matches_the_definition",
    "test_one_row_for_all",
    "test_rows_of_wider_tensors",
    "test_the_variance_changes_nothing_else",
    "test_variance_is_by_deviations",
    "test_what_is_empty",
    "test_what_is_not_finite_stays_where_it_is",
]
