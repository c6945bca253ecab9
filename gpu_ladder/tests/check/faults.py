"""The launches of faults.cu; the name says what has to be found."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np

from gpu_ladder.check import Launch, Output


class Scale(ctypes.Structure):
    _fields_ = (("factor", ctypes.c_float), ("shift", ctypes.c_int))


def launches() -> Iterator[Launch]:
    n = 100
    x = np.arange(n, dtype=np.float32)
    scaled = {"n": n, "by": Scale(2.0, 1), "x": x, "y": Output(n, np.float32)}
    right = 2 * np.roll(x, -1)
    yield Launch("scale<float>", 1, scaled, 128, expected={"y": right}, name="nothing")
    whole = np.arange(2 * n, dtype=np.float32)
    views = {"n": n, "x": whole[:n], "y": whole[n:]}
    yield Launch("beyond", 1, {**views, "n": n - 1}, 128, expected={"y": x}, name="nothing either")
    yield Launch("scale<float>", 1, scaled, 128, expected={"y": right + (x == 3)}, name="numbers")
    longer = {"n": n, "x": whole, "y": Output(n, np.float32)}
    yield Launch("beyond", 1, longer, 128, name="out_of_bounds")
    output = {"n": n, "x": x, "y": Output(n, np.float32)}
    yield Launch("unwritten", 1, output, 128, name="uninitialised")
    shifted = np.arange(n + 1, dtype=np.float32)[1:]
    square = {"x": np.zeros((32, 32), np.float32), "y": Output(32, np.float32)}
    yield Launch("turned", 1, square, 32, efficiency=0.5, name="wasted_traffic")
    yield Launch("scale<float>", 1, {**scaled, "x": shifted}, 128, vector_bytes=16, name="narrow")
    yield Launch("turned", 1, square, 2048, name="launch")
