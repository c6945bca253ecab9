"""PTX executed on the CPU: what nvcc and Triton emit, warp by warp, with checks.

Example:
    >>> from gpu_ladder.ptx import Module
    >>> kernel = Module(ptx_text).kernels["_Z5scalePfi"]
    >>> report = kernel.launch(grid=(4,), block=(128,), arguments=[array, 512], order="reverse")
    >>> report.findings
    ()
"""

from gpu_ladder.ptx.arguments import Buffer
from gpu_ladder.ptx.errors import PtxError, PtxNotImplementedError
from gpu_ladder.ptx.hook import LaunchHook
from gpu_ladder.ptx.module import Kernel, Module
from gpu_ladder.ptx.report import BufferTraffic, Finding, Report, Total, Traffic

__all__ = [
    "Buffer",
    "BufferTraffic",
    "Finding",
    "Kernel",
    "LaunchHook",
    "Module",
    "PtxError",
    "PtxNotImplementedError",
    "Report",
    "Total",
    "Traffic",
]
