// First include of every kernel file: the CUDA language, from nvcc or from the emulation.
#pragma once

#ifdef ASSAY_CUDA_EMULATION
#include <cuda_runtime.h>
// After it: the emulation defines the language's words anew.
#include "cuda/emulation/language.h"
#else
#include <cuda_runtime.h>
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// The dynamic shared memory of a launch, 1024-byte aligned, as `unsigned char* name`.
#ifdef ASSAY_CUDA_EMULATION
#define ASSAY_DYNAMIC_SHARED(name) unsigned char* const name = ::assay::cuda::emulation::dynamic_shared_memory()
#else
#define ASSAY_DYNAMIC_SHARED(name)                                        \
  extern __shared__ __align__(1024) unsigned char assay_dynamic_shared[]; \
  unsigned char* const name = assay_dynamic_shared
#endif
