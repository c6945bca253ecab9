"""Small models in which a measured layer could go wrong, by what makes them hard: a file each."""

from __future__ import annotations

from support.zoo.layers import LAYERS
from support.zoo.parameters import PARAMETERS
from support.zoo.passes import PASSES
from support.zoo.shared_values import SHARED_VALUES
from support.zoo.ties import TIES
from support.zoo.ways_to_call import WAYS_TO_CALL

ZOO = SHARED_VALUES | WAYS_TO_CALL | TIES | PARAMETERS | PASSES | LAYERS
