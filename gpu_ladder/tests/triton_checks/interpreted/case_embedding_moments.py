"""The cases of every backend, on Triton's kernels in the interpreter."""

from test_embedding_moments import (
    test_gives_what_was_asked,
    test_gradient_is_that_of_autograd,
    test_identities,
    test_indices_outside_are_refused,
    test_kinds_of_indices_and_padding,
    test_matches_the_definition,
    test_more_dimensions_and_one,
    test_one_index_only,
    test_strides_among_guards,
    test_untouched_rows_are_zeros,
    test_variance_beside_a_large_mean,
    test_what_is_not_finite_stays_visible,
)

__all__ = [
    "test_gives_what_was_asked",
    "test_gradient_is_that_of_autograd",
    "test_identities",
    "test_indices_outside_are_refused",
    "test_kinds_of_indices_and_padding",
    "test_matches_the_definition",
    "test_more_dimensions_and_one",
    "test_one_index_only",
    "test_strides_among_guards",
    "test_untouched_rows_are_zeros",
    "test_variance_beside_a_large_mean",
    "test_what_is_not_finite_stays_visible",
]
