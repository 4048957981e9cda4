// What the product kernels share: which tile a block computes, and what happens to a finished sum.
#pragma once

#include "common/check.h"
#include "cuda/common.cuh"
#include "cuda/convert.cuh"
#include "cuda/gemm.h"

namespace assay::cuda {

constexpr int kUnit = 4;        // columns finished at a time
constexpr int kGroupTiles = 8;  // tiles of rows that share a sweep over the weight, so that it is read from L2

struct TileOrigin {
  std::int64_t row;
  std::int64_t col;  // output feature
};

inline std::int64_t num_tiles(std::int64_t size, std::int64_t tile) { return (size + tile - 1) / tile; }

inline dim3 grid_of(std::int64_t blocks) {
  ASSAY_CHECK(blocks <= 0x7fffffff, "a product of ", blocks, " tiles is more than a grid has blocks");
  return dim3(static_cast<unsigned>(blocks));
}

// Features of a tile of kCols columns: in a gated product half the columns are the gate's and half the up matrix's.
inline __device__ std::int64_t tile_features(const GemmParams& p, int cols) {
  return p.weight.is_gated ? cols / 2 : cols;
}

// Blocks go down kGroupTiles tiles of rows before they step to the next features.
inline __device__ TileOrigin tile_origin(const GemmParams& p, std::int64_t block, int tile_rows, int tile_cols) {
  const std::int64_t features = tile_features(p, tile_cols);
  const std::int64_t row_tiles = (p.max_rows + tile_rows - 1) / tile_rows;
  const std::int64_t col_tiles = (p.weight.out_features + features - 1) / features;
  const std::int64_t first = block / (kGroupTiles * col_tiles) * kGroupTiles;
  const std::int64_t height = row_tiles - first < kGroupTiles ? row_tiles - first : kGroupTiles;
  const std::int64_t in_group = block % (kGroupTiles * col_tiles);
  return {(first + in_group % height) * tile_rows, in_group / height * features};
}

inline __device__ std::int64_t true_rows(const GemmParams& p) {
  if (p.num_rows == nullptr) return p.max_rows;
  const std::int64_t rows = *p.num_rows;
  return rows < p.max_rows ? rows : p.max_rows;
}

inline __device__ void activate(Activation activation, float (&values)[kUnit]) {
#pragma unroll
  for (int i = 0; i < kUnit; ++i) values[i] = activate(activation, values[i]);
}

inline __device__ void add_unit(float (&values)[kUnit], const float* from) {
  float more[kUnit];
  load_unit(from, more);
#pragma unroll
  for (int i = 0; i < kUnit; ++i) values[i] += more[i];
}

// Bias, activation, gate and residual of kUnit columns from `col` on, then the store. `up` is unread unless gated. The
// element must be inside.
template <typename T>
inline __device__ void finish_unit(const GemmParams& p, std::int64_t row, std::int64_t col, float (&values)[kUnit],
                                   float (&up)[kUnit]) {
  if (p.weight.bias != nullptr) add_unit(values, p.weight.bias + col);
  activate(p.activation, values);
  if (p.weight.is_gated) {
    if (p.weight.bias != nullptr) add_unit(up, p.weight.bias + p.weight.out_features + col);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) values[i] *= up[i];
  }
  if (p.residual != nullptr) add_unit(values, p.residual + row * p.residual_stride + col);
  const std::int64_t at = row * p.out_stride + col;
  if (p.out_dtype == DType::kFloat32) {
    store_unit(static_cast<float*>(p.out) + at, values);
  } else {
    store_unit(static_cast<T*>(p.out) + at, values);
  }
}

}  // namespace assay::cuda
