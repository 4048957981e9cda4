// Where sm_90a's code begins: attention_hopper.cu, which only a build for 90a has.
#pragma once

#include "cuda/attention_hopper.h"

namespace assay::cuda {

#ifdef ASSAY_CUDA_HOPPER
constexpr bool kHasHopperKernels = true;
void start_attention_hopper(const HopperAttentionParams& params, DType dtype, unsigned num_blocks, cudaStream_t stream);
#else
constexpr bool kHasHopperKernels = false;
inline void start_attention_hopper(const HopperAttentionParams&, DType, unsigned, cudaStream_t) {}
#endif

}  // namespace assay::cuda
