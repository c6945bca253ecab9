"""The kernels and the launches each op is made of: the modules that import Triton."""
