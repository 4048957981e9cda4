// Launches of what Mamba's layers carry from token to token. As in launch.h; the structs' pointers are device memory.
#pragma once

#include <cuda_runtime_api.h>

#include "common/params.h"

namespace assay::cuda {

// CUDA's limit of blocks in the second dimension of a grid, at the fewest channels a block has.
constexpr std::int64_t kMaxRecurrenceChannels = 65535 * 16;

void launch_causal_conv1d(const CausalConv1dParams& params, cudaStream_t stream);
void launch_selective_scan(const SelectiveScanParams& params, cudaStream_t stream);

}  // namespace assay::cuda
