"""The cases of every backend, on Triton's kernels in the interpreter."""

from test_sparse_mean_step import (
    test_entries_of_one_sample_at_one_column_add_up_and_count_once,
    test_features_that_all_samples_have_make_it_the_mean,
    test_many_entries,
    test_matches_the_definition,
    test_nothing_to_do,
    test_one_sample_is_a_step_of_sgd_and_adagrad,
    test_param_may_have_any_shape,
    test_stored_zeros_touch,
    test_the_known_batch,
    test_untouched_coordinates_are_not_looked_at,
    test_views_and_their_neighbours,
    test_what_is_not_finite_stays_in_its_coordinate,
)

__all__ = [
    "test_entries_of_one_sample_at_one_column_add_up_and_count_once",
    "test_features_that_all_samples_have_make_it_the_mean",
    "test_many_entries",
    "test_matches_the_definition",
    "test_nothing_to_do",
    "test_one_sample_is_a_step_of_sgd_and_adagrad",
    "test_param_may_have_any_shape",
    "test_stored_zeros_touch",
    "test_the_known_batch",
    "test_untouched_coordinates_are_not_looked_at",
    "test_views_and_their_neighbours",
    "test_what_is_not_finite_stays_in_its_coordinate",
]
