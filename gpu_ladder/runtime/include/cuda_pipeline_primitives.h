// Asynchronous copies from global to shared memory: cp.async.
#pragma once

#include "cuda_runtime.h"
#include "gpu_ladder/copies.h"
