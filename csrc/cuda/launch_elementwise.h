// Launches that change every element on its own, or every head. As in launch.h.
#pragma once

#include <cuda_runtime_api.h>

#include "common/params.h"
#include "cuda/launch_rows.h"

namespace assay::cuda {

// rotary as in common/params.h, in place; dtype may also be kFloat16. q and k are of the same tokens: equal num_tokens
// and position_ids. k may have no heads.
void launch_rotary(const RotaryParams& params, LiveRows num_live_rows, cudaStream_t stream);

// out = activation(gate) * up
struct GatedActivationParams {
  const void* gate_up;  // [num_rows, 2 * inner_size]: gate, then up
  void* out;            // [num_rows, inner_size]
  DType dtype;          // of both: kFloat32, kFloat16 or kBFloat16; arithmetic is float32
  Activation activation;
  LiveRows num_live_rows;
  std::int64_t num_rows;
  std::int64_t inner_size;
};

void launch_gated_activation(const GatedActivationParams& params, cudaStream_t stream);

}  // namespace assay::cuda
