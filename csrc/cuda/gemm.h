// Dense products by our own kernels. An output element is summed over the whole depth in one accumulator and one order,
// whatever the number of rows, the tile or its place in it: a row's bits depend on that row alone.
#pragma once

#include <cuda_runtime.h>

#include "common/types.h"

namespace assay::cuda {

// A weight in the memory of torch: [out_features, in_features] row-major, contiguous, 16-byte aligned, both sizes
// multiples of kSizeUnit. Gated: the gate's out_features rows above those of the up matrix, and a bias as long.
struct WeightView {
  const void* data = nullptr;
  const float* bias = nullptr;  // [out_features] or nullptr
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  DType dtype = DType::kFloat32;  // kFloat16, kBFloat16 or kFloat32
  bool is_gated = false;

  // Output features [first, first + count) of a plain weight; both multiples of kSizeUnit.
  WeightView slice(std::int64_t first, std::int64_t count) const;
};

constexpr std::int64_t kSizeUnit = 8;  // 16 bytes of 16-bit numbers: what is read and written at once

// out = activation(x weight^T + bias) + residual; gated: activation(x gate^T + bias) * (x up^T + bias) + residual.
struct GemmParams {
  const void* x = nullptr;  // [max_rows, in_features] in the weight's dtype, 16-byte aligned rows
  std::int64_t x_stride = 0;
  WeightView weight;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;  // [max_rows, out_features] or nullptr; may alias out
  std::int64_t residual_stride = 0;
  void* out = nullptr;                // [max_rows, out_features], 16-byte aligned rows
  DType out_dtype = DType::kFloat32;  // the weight's dtype or kFloat32
  std::int64_t out_stride = 0;
  std::int64_t max_rows = 0;
  const std::int32_t* num_rows = nullptr;  // on the device: rows that count, at most max_rows; nullptr = all
};

// Tiles differ in speed only.
enum class GemmTile : int { kAuto, kLarge, kSmall };

void launch_gemm(const GemmParams& params, GemmTile tile, cudaStream_t stream);

// What launch_gemm runs for kAuto: the small tile where the large one would leave most of a card idle.
GemmTile choose_tile(std::int64_t max_rows, std::int64_t out_columns);

// Of launch_gemm.
void launch_gemm_f32(const GemmParams& params, GemmTile tile, cudaStream_t stream);

}  // namespace assay::cuda
