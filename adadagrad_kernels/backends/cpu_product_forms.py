"""Which of the equivalent forms of a linear layer's moments to compute: a function of its sizes.

    tiles     each sample's contribution, tile by tile; every statistic from these
    rank one  one position: a contribution is a product x y', its norm a product of norms
    gram      few positions: |h_i|^2 = sum_{t, t'} (x_it . x_it') (y_it . y_it')

All give every statistic that is asked; "gram" only the norms.
"""

from __future__ import annotations

#: What a sample's contribution costs beyond its multiplications: a tile goes to cache and back for
#: norm and sum, about this many vector operations for each of its vectors.
_TILE_OVERHEAD = 4.0
#: Small products of a sample's positions with each other run at this fraction of the speed.
_SMALL_PRODUCT_SPEED = 0.2


def linear_form(
    positions: int, in_features: int, out_features: int, variance: bool, inner_products: bool
) -> str:
    """The form that costs least."""
    if positions == 1:
        return "rank one"
    if variance or inner_products:
        return "tiles"
    tiles = _TILE_OVERHEAD * in_features * out_features
    gram = positions**2 * (in_features + out_features) / _SMALL_PRODUCT_SPEED
    return "gram" if gram < tiles else "tiles"


def products_by_gram(samples: int, in_features: int, out_features: int) -> bool:
    """Whether <h_i, sum_k h_k> costs less by the products of all pairs of samples.

    Else it is the product of x_i with the gradient, times y_i.
    """
    return samples * (in_features + out_features) < in_features * out_features
