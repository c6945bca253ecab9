"""The cases of every backend, on Triton's kernels in the interpreter."""

from test_norm_layer_moments import (
    test_gives_what_was_asked,
    test_gradients_are_those_of_autograd,
    test_group_norm_is_that_of_autograd,
    test_groups_of_features,
    test_identities,
    test_matches_the_definition,
    test_strides_among_guards,
    test_variance_beside_a_large_mean,
    test_what_is_not_finite_stays_visible,
)

__all__ = [
    "test_gives_what_was_asked",
    "test_gradients_are_those_of_autograd",
    "test_group_norm_is_that_of_autograd",
    "test_groups_of_features",
    "test_identities",
    "test_matches_the_definition",
    "test_strides_among_guards",
    "test_variance_beside_a_large_mean",
    "test_what_is_not_finite_stays_visible",
]
