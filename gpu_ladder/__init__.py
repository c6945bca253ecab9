"""Checks GPU kernels on a machine without a GPU: see README.md."""
