// Between two products of a transformer layer: a product comes back into the residual stream, and the next one's input
// is made of it, in one pass over memory.
#pragma once

#include <cuda_runtime.h>

#include "common/params.h"

namespace assay::cuda {

// stream = residual_norm(stream + out_norm(delta)); out = in_norm(stream). A norm without a weight is not there;
// without a delta and a residual_norm the stream is only read.
struct ResidualParams {
  float* stream = nullptr;      // [max_rows, hidden_size], 16-byte aligned rows
  const void* delta = nullptr;  // [max_rows, hidden_size] in dtype, or nullptr
  NormView out_norm = {};
  NormView residual_norm = {};
  NormView in_norm = {};
  void* out = nullptr;  // [max_rows, hidden_size] in dtype, or nullptr
  DType dtype = DType::kFloat32;
  std::int64_t max_rows = 0;
  const std::int32_t* num_rows = nullptr;  // on the device: rows that count; nullptr = all
  std::int64_t hidden_size = 0;            // a multiple of 8, at most kMaxHiddenSize
};

constexpr std::int64_t kMaxHiddenSize = 8192;  // a row is held in registers and shared memory

void launch_residual(const ResidualParams& params, cudaStream_t stream);

}  // namespace assay::cuda
