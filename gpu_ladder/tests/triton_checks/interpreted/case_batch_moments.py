"""The cases of every backend, on Triton's kernels in the interpreter."""

from test_batch_moments import (
    test_denormals_are_numbers,
    test_gives_what_was_asked,
    test_identical_rows_have_no_variance,
    test_matches_the_definition,
    test_matches_the_definition_at_extreme_shapes,
    test_narrow_inputs_are_summed_as_float32,
    test_one_column_of_a_matrix,
    test_rows_gigabytes_apart,
    test_rows_that_are_one_row,
    test_scaling_by_a_power_of_two_scales_exactly,
    test_variance_is_by_deviations,
    test_views_with_an_offset_and_a_row_stride,
    test_what_is_not_finite_stays_in_its_column_and_row,
    test_wide_rows_are_summed_in_float64,
)

__all__ = [
    "test_denormals_are_numbers",
    "test_gives_what_was_asked",
    "test_identical_rows_have_no_variance",
    "test_matches_the_definition",
    "test_matches_the_definition_at_extreme_shapes",
    "test_narrow_inputs_are_summed_as_float32",
    "test_one_column_of_a_matrix",
    "test_rows_gigabytes_apart",
    "test_rows_that_are_one_row",
    "test_scaling_by_a_power_of_two_scales_exactly",
    "test_variance_is_by_deviations",
    "test_views_with_an_offset_and_a_row_stride",
    "test_what_is_not_finite_stays_in_its_column_and_row",
    "test_wide_rows_are_summed_in_float64",
]
