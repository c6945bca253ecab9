"""The cases of every backend, on Triton's kernels in the interpreter."""

from test_accumulate_moments import (
    test_bits_are_the_same_from_run_to_run,
    test_matches_the_definition,
    test_matches_the_definition_at_larger_shapes,
    test_narrow_rows_are_summed_as_float32,
    test_one_row_for_all,
    test_reads_and_writes_only_its_tensors,
    test_squares_are_of_deviations,
    test_sum_and_squares_at_addresses_of_their_own,
    test_what_is_not_finite_stays_in_its_column_and_row,
    test_whole_numbers_are_exact,
    test_wide_rows_are_summed_in_float64,
    test_without_squares,
)

__all__ = [
    "test_bits_are_the_same_from_run_to_run",
    "test_matches_the_definition",
    "test_matches_the_definition_at_larger_shapes",
    "test_narrow_rows_are_summed_as_float32",
    "test_one_row_for_all",
    "test_reads_and_writes_only_its_tensors",
    "test_squares_are_of_deviations",
    "test_sum_and_squares_at_addresses_of_their_own",
    "test_what_is_not_finite_stays_in_its_column_and_row",
    "test_whole_numbers_are_exact",
    "test_wide_rows_are_summed_in_float64",
    "test_without_squares",
]
