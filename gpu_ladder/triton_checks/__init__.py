"""Triton kernels without a device: checked in the interpreter, compiled, and run as PTX."""
