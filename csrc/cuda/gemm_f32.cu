// Products of float32 by FMA, never TF32: tiles of both operands transposed in shared memory, two buffers of them, the
// next pair on its way from global memory while one is multiplied. A thread has 8 columns, four of each half of the
// tile: in a gated product the gate's and the up matrix's of the same features.
#include "cuda/device.cuh"
#include "cuda/gemm_tile.cuh"
#include "cuda/launch_kernel.h"

namespace assay::cuda {
namespace {

constexpr int kDepth = 16;
constexpr int kRowUnits = kDepth / kUnit;  // float4 a row

template <int kTileRows, int kTileCols, int kGroups>
struct Tile {
  static constexpr int kRows = kTileRows;
  static constexpr int kCols = kTileCols;
  static constexpr int kRowGroups = kGroups;  // of four rows a thread
  static constexpr int kThreadCols = kCols / (2 * kUnit);
  static constexpr int kThreads = kRows / (kRowGroups * kUnit) * kThreadCols;
  static constexpr int kXLoads = kRows * kRowUnits / kThreads;  // float4 a thread and tile
  static constexpr int kWeightLoads = kCols * kRowUnits / kThreads;
  static constexpr int kLoadRows = kThreads / kRowUnits;
  static constexpr int kXStride = kRows + kUnit;  // one float4 of padding: the transposed stores spread over banks
  static constexpr int kWeightStride = kCols + kUnit;
};
using LargeTile = Tile<128, 128, 2>;
using SmallTile = Tile<32, 64, 1>;

// Read by float4.
template <typename Tile>
struct alignas(16) Buffers {
  float x[2][kDepth][Tile::kXStride];
  float weight[2][kDepth][Tile::kWeightStride];
};

// The row of x, or of the weight, that a thread copies; nullptr outside.
__device__ const float* x_row(const GemmParams& p, const TileOrigin& origin, int row, std::int64_t num_rows) {
  if (origin.row + row >= num_rows) return nullptr;
  return static_cast<const float*>(p.x) + (origin.row + row) * p.x_stride;
}

template <typename Tile>
__device__ const float* weight_row(const GemmParams& p, const TileOrigin& origin, int row) {
  const int features = static_cast<int>(tile_features(p, Tile::kCols));
  const bool is_up = row >= features;
  const std::int64_t feature = origin.col + row - (is_up ? features : 0);
  if (feature >= p.weight.out_features) return nullptr;
  return static_cast<const float*>(p.weight.data) +
         (feature + (is_up ? p.weight.out_features : 0)) * p.weight.in_features;
}

__device__ float4 load_unit(const float* row, int at, int end) {
  return row != nullptr && at < end ? *reinterpret_cast<const float4*>(row + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// Four depths of one row to four rows of the transposed tile.
template <int kStride>
__device__ void put_unit(float (*tile)[kStride], int depth, int row, const float4& unit) {
  tile[depth][row] = unit.x;
  tile[depth + 1][row] = unit.y;
  tile[depth + 2][row] = unit.z;
  tile[depth + 3][row] = unit.w;
}

template <typename Tile>
using Sums = float[Tile::kRowGroups * kUnit][2 * kUnit];

__device__ void get_unit(const float* from, float* to) {
  const float4 unit = *reinterpret_cast<const float4*>(from);
  to[0] = unit.x;
  to[1] = unit.y;
  to[2] = unit.z;
  to[3] = unit.w;
}

template <typename Tile>
__device__ void multiply(const Buffers<Tile>& shared, int buffer, int thread_row, int thread_col, Sums<Tile>& sums) {
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    float x[Tile::kRowGroups * kUnit], weight[2 * kUnit];
#pragma unroll
    for (int group = 0; group < Tile::kRowGroups; ++group) {
      get_unit(&shared.x[buffer][k][group * (Tile::kRows / Tile::kRowGroups) + thread_row * kUnit], x + group * kUnit);
    }
    get_unit(&shared.weight[buffer][k][thread_col * kUnit], weight);
    get_unit(&shared.weight[buffer][k][Tile::kCols / 2 + thread_col * kUnit], weight + kUnit);
#pragma unroll
    for (int i = 0; i < Tile::kRowGroups * kUnit; ++i) {
#pragma unroll
      for (int j = 0; j < 2 * kUnit; ++j) sums[i][j] = fmaf(x[i], weight[j], sums[i][j]);
    }
  }
}

template <typename Tile>
__device__ void store(const GemmParams& p, const TileOrigin& origin, std::int64_t num_rows, int thread_row,
                      int thread_col, const Sums<Tile>& sums) {
#pragma unroll
  for (int i = 0; i < Tile::kRowGroups * kUnit; ++i) {
    const std::int64_t row = origin.row + i / kUnit * (Tile::kRows / Tile::kRowGroups) + thread_row * kUnit + i % kUnit;
    const std::int64_t col = origin.col + thread_col * kUnit;
    if (row >= num_rows) continue;
    float low[kUnit] = {sums[i][0], sums[i][1], sums[i][2], sums[i][3]};
    float high[kUnit] = {sums[i][4], sums[i][5], sums[i][6], sums[i][7]};
    if (col < p.weight.out_features) finish_unit<float>(p, row, col, low, high);
    if (p.weight.is_gated || col + Tile::kCols / 2 >= p.weight.out_features) continue;
    finish_unit<float>(p, row, col + Tile::kCols / 2, high, low);
  }
}

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads) gemm_f32_kernel(GemmParams p) {
  __shared__ Buffers<Tile> shared;
  const std::int64_t num_rows = true_rows(p);
  const TileOrigin origin = tile_origin(p, blockIdx.x, Tile::kRows, Tile::kCols);
  if (origin.row >= num_rows) return;
  const int thread = static_cast<int>(threadIdx.x);
  const int load_row = thread / kRowUnits, load_depth = thread % kRowUnits * kUnit;
  const int thread_row = thread / Tile::kThreadCols, thread_col = thread % Tile::kThreadCols;
  const int in_features = static_cast<int>(p.weight.in_features);
  const int num_steps = (in_features + kDepth - 1) / kDepth;

  const float* x_rows[Tile::kXLoads];
  const float* weight_rows[Tile::kWeightLoads];
#pragma unroll
  for (int i = 0; i < Tile::kXLoads; ++i) x_rows[i] = x_row(p, origin, load_row + i * Tile::kLoadRows, num_rows);
#pragma unroll
  for (int i = 0; i < Tile::kWeightLoads; ++i) {
    weight_rows[i] = weight_row<Tile>(p, origin, load_row + i * Tile::kLoadRows);
  }
  float4 x_units[Tile::kXLoads], weight_units[Tile::kWeightLoads];
  const auto fetch = [&](int step) {
    const int at = step * kDepth + load_depth;
#pragma unroll
    for (int i = 0; i < Tile::kXLoads; ++i) x_units[i] = load_unit(x_rows[i], at, in_features);
#pragma unroll
    for (int i = 0; i < Tile::kWeightLoads; ++i) weight_units[i] = load_unit(weight_rows[i], at, in_features);
  };
  const auto put = [&](int buffer) {
#pragma unroll
    for (int i = 0; i < Tile::kXLoads; ++i) {
      put_unit(shared.x[buffer], load_depth, load_row + i * Tile::kLoadRows, x_units[i]);
    }
#pragma unroll
    for (int i = 0; i < Tile::kWeightLoads; ++i) {
      put_unit(shared.weight[buffer], load_depth, load_row + i * Tile::kLoadRows, weight_units[i]);
    }
  };

  Sums<Tile> sums = {};
  fetch(0);
  put(0);
  __syncthreads();
  for (int step = 0; step < num_steps; ++step) {
    const bool has_next = step + 1 < num_steps;
    if (has_next) fetch(step + 1);
    multiply<Tile>(shared, step % 2, thread_row, thread_col, sums);
    // The other buffer was read before the last barrier.
    if (has_next) put((step + 1) % 2);
    __syncthreads();
  }
  store<Tile>(p, origin, num_rows, thread_row, thread_col, sums);
}

template <typename Tile>
void launch_tile(const GemmParams& params, cudaStream_t stream) {
  const std::int64_t features = params.weight.is_gated ? Tile::kCols / 2 : Tile::kCols;
  const std::int64_t blocks = num_tiles(params.max_rows, Tile::kRows) * num_tiles(params.weight.out_features, features);
  launch_kernel(gemm_f32_kernel<Tile>, grid_of(blocks), dim3(Tile::kThreads), 0, stream, params);
}

}  // namespace

void launch_gemm_f32(const GemmParams& params, GemmTile tile, cudaStream_t stream) {
  if (tile == GemmTile::kSmall) return launch_tile<SmallTile>(params, stream);
  launch_tile<LargeTile>(params, stream);
}

}  // namespace assay::cuda
