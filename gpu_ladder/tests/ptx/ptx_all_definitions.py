"""All definitions of arithmetic instructions: importing a file registers what it defines."""

from __future__ import annotations

import ptx_bit_definitions
import ptx_conversion_definitions
import ptx_extremum_definitions
import ptx_float_definitions
from ptx_definitions import DEFINITIONS

FILES = (
    ptx_bit_definitions,
    ptx_conversion_definitions,
    ptx_extremum_definitions,
    ptx_float_definitions,
)
__all__ = ["DEFINITIONS", "FILES"]
