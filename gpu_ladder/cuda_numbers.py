"""Numbers and types of the CUDA runtime's interface of C."""

from __future__ import annotations

import ctypes

#: What a launch hook is called with: mangled name, grid, block, arguments, shared bytes.
LAUNCH_HOOK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_size_t,
)

#: Numbers of ``cudaError_t``.
ERRORS = {
    "cudaSuccess": 0,
    "cudaErrorInvalidValue": 1,
    "cudaErrorMemoryAllocation": 2,
    "cudaErrorInitializationError": 3,
    "cudaErrorInvalidConfiguration": 9,
    "cudaErrorInsufficientDriver": 35,
    "cudaErrorNoDevice": 100,
    "cudaErrorInvalidDevice": 101,
    "cudaErrorNoKernelImageForDevice": 209,
    "cudaErrorInvalidResourceHandle": 400,
    "cudaErrorIllegalAddress": 700,
    "cudaErrorLaunchOutOfResources": 701,
    "cudaErrorLaunchTimeout": 702,
    "cudaErrorMisalignedAddress": 716,
    "cudaErrorLaunchFailure": 719,
    "cudaErrorUnknown": 999,
}

#: Numbers of ``cudaDeviceAttr``, without their common beginning.
ATTRIBUTES = {
    "MaxThreadsPerBlock": 1,
    "MultiProcessorCount": 16,
    "MaxThreadsPerMultiProcessor": 39,
    "ComputeCapabilityMajor": 75,
    "ComputeCapabilityMinor": 76,
    "MaxSharedMemoryPerMultiprocessor": 81,
    "MaxSharedMemoryPerBlockOptin": 97,
}
