// attention_varlen's second kernel, for wide sequences on sm_90a. Private to attention_*.
#pragma once

#include <cuda.h>

#include "cuda/attention_kernel.h"
#include "cuda/launch_attention.h"

namespace assay::cuda {

struct HopperAttentionParams {
  AttentionKernelParams attention;
  CUtensorMap q;
  CUtensorMap k;
  CUtensorMap v;
};

constexpr int kHopperKeyTile = 128;

// Whether launch_attention gives wide sequences to this kernel: by the path that was asked for, the card, the dtype and
// the head. It carries every mask and every change of scores. Too few tokens for a wide sequence make no launch.
bool takes_hopper_path(const CudaAttentionParams& params);

// Computes the wide sequences of the schedule, and them alone.
void launch_attention_hopper(const CudaAttentionParams& params, const AttentionKernelParams& kernel_params,
                             cudaStream_t stream);

}  // namespace assay::cuda
