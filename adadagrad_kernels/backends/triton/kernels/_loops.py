"""What releases of Triton differ in, for loops over the rows of G.

From 3.5 on `tl.range` can be told to leave in a loop what does not change there (`disable_licm`):
masks and addresses of columns, which take more registers outside than they cost inside. Before
that the loops are plain, and a kernel may need more registers; what it computes is the same.
"""

import inspect

import triton.language as tl

#: Whether this release can be told.
CONSTANTS_STAY = tl.constexpr("disable_licm" in inspect.signature(tl.range.__init__).parameters)
