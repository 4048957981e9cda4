// Tensor maps: how copy_box (hopper.cuh) finds a box of q, k or v. Host code.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "common/types.h"

namespace assay::cuda {

// Of data [num_tokens, num_heads, head_dim] in float16 or bfloat16, 16-byte aligned, with token_stride elements from a
// token to the next, a multiple of 8: boxes of 64 columns of one head by num_box_tokens tokens in the 128-byte swizzle.
// The driver is found through the CUDA runtime; throws std::runtime_error where it refuses or is too old.
CUtensorMap make_tensor_map(const void* data, DType dtype, std::int64_t num_tokens, std::int64_t num_heads,
                            std::int64_t head_dim, std::int64_t token_stride, int num_box_tokens);

constexpr int kBoxColumns = 64;  // 128 bytes

}  // namespace assay::cuda
