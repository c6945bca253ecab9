// The part of CUDA C++ and of its runtime that runs on a host; what is not here does not compile.
#pragma once

#include "gpu_ladder/api.h"
#include "gpu_ladder/arithmetic.h"
#include "gpu_ladder/atomics.h"
#include "gpu_ladder/device.h"
#include "gpu_ladder/vectors.h"
