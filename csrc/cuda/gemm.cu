// Products of float16 and bfloat16 by tensor cores (mma.sync m16n8k16, float32 sums): a ring of stages filled by
// cp.async, each kDepth deep, then an epilogue through shared memory that writes whole rows. Four warps, two by two.
#include "cuda/device.cuh"
#include "cuda/gemm_tile.cuh"
#include "cuda/launch_kernel.h"
#include "cuda/mma.cuh"

namespace assay::cuda {
namespace {

constexpr int kDepth = 32;  // of a stage: 64 bytes a row
constexpr int kChunk = 8;   // elements of a 16-byte copy
constexpr int kRowChunks = kDepth / kChunk;
constexpr int kThreads = 128;
constexpr int kWarpsPerSide = 2;
constexpr int kMmaRows = 16;
constexpr int kMmaCols = 8;
constexpr int kMmaDepth = 16;
constexpr int kLoadRows = kThreads / kRowChunks;  // rows that the block copies at a time

template <int kTileRows, int kTileCols, int kNumStages, int kMinBlocks>
struct Tile {
  static constexpr int kRows = kTileRows;
  static constexpr int kCols = kTileCols;
  static constexpr int kStages = kNumStages;
  static constexpr int kBlocksPerSm = kMinBlocks;
  static constexpr int kWarpRows = kRows / kWarpsPerSide;
  static constexpr int kWarpCols = kCols / kWarpsPerSide;
  static constexpr int kStageElements = (kRows + kCols) * kDepth;
  // The epilogue passes one row of warps at a time through shared memory; 8 floats of padding: 32 bytes more a row keep
  // the fragments of a half warp on different banks.
  static constexpr int kPassStride = kCols + 8;
  static constexpr int kStageBytes = kStages * kStageElements * 2;
  static constexpr int kPassBytes = kWarpRows * kPassStride * 4;
  static constexpr int kSharedBytes = kStageBytes > kPassBytes ? kStageBytes : kPassBytes;
};
using LargeTile = Tile<128, 128, 3, 2>;
using SmallTile = Tile<64, 64, 5, 4>;
static_assert(LargeTile::kSharedBytes <= 48 * 1024, "two blocks of the large tile must fit on an sm_86, too");

// Where 16-byte chunk `chunk` of row `row` lies in a stage: eight rows of one chunk fall on different banks.
__device__ int swizzled(int row, int chunk) { return row * kDepth + ((chunk ^ ((row >> 1) & 3)) * kChunk); }

// A thread's share of the copies into a stage: chunk `chunk` of rows first_row, first_row + kLoadRows, ...
template <typename T, typename Tile>
struct Loader {
  const T* x;           // first_row of the tile, or the matrix's start where that row is outside
  const T* weight;      // the same for the tile's columns
  std::int64_t x_step;  // elements from one copied row to the next
  std::int64_t weight_step;
  std::int64_t up_shift;  // from where a gate row would come next to the up row that does
  int rows_left;          // rows of the tile inside the matrix, counted from first_row
  int features_left;      // the same for features, of each matrix
  int tile_features;
  int in_features;
  int first_row;
  int chunk;

  __device__ Loader(const GemmParams& p, const TileOrigin& origin, std::int64_t num_rows) {
    const int thread = static_cast<int>(threadIdx.x);
    first_row = thread / kRowChunks;
    chunk = thread % kRowChunks;
    in_features = static_cast<int>(p.weight.in_features);
    tile_features = p.weight.is_gated ? Tile::kCols / 2 : Tile::kCols;
    rows_left = clamped(num_rows - origin.row, Tile::kRows) - first_row;
    features_left = clamped(p.weight.out_features - origin.col, tile_features) - first_row;
    x = static_cast<const T*>(p.x) + (rows_left > 0 ? (origin.row + first_row) * p.x_stride : 0);
    weight = static_cast<const T*>(p.weight.data) +
             (features_left > 0 ? (origin.col + first_row) * p.weight.in_features : 0);
    x_step = kLoadRows * p.x_stride;
    weight_step = kLoadRows * p.weight.in_features;
    up_shift = p.weight.is_gated ? (p.weight.out_features - tile_features) * p.weight.in_features : 0;
  }

  static __device__ int clamped(std::int64_t left, int most) { return left < most ? static_cast<int>(left) : most; }

  // Rows outside and depths behind the end become zeros.
  __device__ void load(T* stage, int depth) const {
    const int at = depth + chunk * kChunk;
    const bool is_deep_enough = at < in_features;
#pragma unroll
    for (int i = 0; i < Tile::kRows / kLoadRows; ++i) {
      const bool is_valid = is_deep_enough && i * kLoadRows < rows_left;
      cp_async_16(stage + swizzled(first_row + i * kLoadRows, chunk), is_valid ? x + i * x_step + at : x, is_valid);
    }
    T* const columns = stage + Tile::kRows * kDepth;
#pragma unroll
    for (int i = 0; i < Tile::kCols / kLoadRows; ++i) {
      const bool is_up = i * kLoadRows >= tile_features;
      const bool is_valid = is_deep_enough && i * kLoadRows - (is_up ? tile_features : 0) < features_left;
      const std::int64_t offset = i * weight_step + (is_up ? up_shift : 0) + at;
      cp_async_16(columns + swizzled(first_row + i * kLoadRows, chunk), is_valid ? weight + offset : weight, is_valid);
    }
  }
};

template <typename Tile>
using Sums = float[Tile::kWarpRows / kMmaRows][Tile::kWarpCols / kMmaCols][4];

// sums += the warp's rows times its columns, over the depth of a stage in order.
template <typename T, typename Tile>
__device__ void multiply_stage(const T* stage, int warp_row, int warp_col, int lane, Sums<Tile>& sums) {
  constexpr int kRowTiles = Tile::kWarpRows / kMmaRows;
  constexpr int kColTiles = Tile::kWarpCols / kMmaCols;
  // An x4 load takes rows from lanes 0-15 and their second half of the depth from lanes 16-31; for columns, eight of
  // them with both halves, then the next eight.
  const int row = warp_row * Tile::kWarpRows + (lane & 15);
  const int col = warp_col * Tile::kWarpCols + (lane & 7) + ((lane >> 4) << 3);
  const T* const columns = stage + Tile::kRows * kDepth;
#pragma unroll
  for (int k = 0; k < kDepth / kMmaDepth; ++k) {
    std::uint32_t a[kRowTiles][4];
    std::uint32_t b[kColTiles][2];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      ldmatrix_x4(a[i], stage + swizzled(row + i * kMmaRows, 2 * k + (lane >> 4)));
    }
#pragma unroll
    for (int j = 0; j < kColTiles; j += 2) {
      std::uint32_t pair[4];
      ldmatrix_x4(pair, columns + swizzled(col + j * kMmaCols, 2 * k + ((lane >> 3) & 1)));
      b[j][0] = pair[0];
      b[j][1] = pair[1];
      b[j + 1][0] = pair[2];
      b[j + 1][1] = pair[3];
    }
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kColTiles; ++j) mma_m16n8k16<T>(sums[i][j], a[i], b[j]);
    }
  }
}

// A warp's sums to [kWarpRows, kPassStride] floats.
template <typename Tile>
__device__ void put_sums(const Sums<Tile>& sums, int warp_col, int lane, float* buffer) {
#pragma unroll
  for (int i = 0; i < Tile::kWarpRows / kMmaRows; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::kWarpCols / kMmaCols; ++j) {
      const int row = i * kMmaRows + lane / 4;
      const int col = warp_col * Tile::kWarpCols + j * kMmaCols + lane % 4 * 2;
      float* const at = buffer + row * Tile::kPassStride + col;
      *reinterpret_cast<float2*>(at) = make_float2(sums[i][j][0], sums[i][j][1]);
      *reinterpret_cast<float2*>(at + 8 * Tile::kPassStride) = make_float2(sums[i][j][2], sums[i][j][3]);
    }
  }
}

// kWarpRows rows of finished sums from `first_row` on.
template <typename T, typename Tile>
__device__ void store_rows(const GemmParams& p, const float* buffer, std::int64_t first_row, std::int64_t first_col,
                           std::int64_t num_rows) {
  const int features = static_cast<int>(tile_features(p, Tile::kCols));
  const int units = features / kUnit;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kWarpRows * units; i += kThreads) {
    const int row = i / units, col = i % units * kUnit;
    if (first_row + row >= num_rows || first_col + col >= p.weight.out_features) continue;
    const float* const at = buffer + row * Tile::kPassStride + col;
    float values[kUnit] = {}, up[kUnit] = {};
    add_unit(values, at);
    if (p.weight.is_gated) add_unit(up, at + features);
    finish_unit<T>(p, first_row + row, first_col + col, values, up);
  }
}

template <typename T, typename Tile>
__global__ void __launch_bounds__(kThreads, Tile::kBlocksPerSm) gemm_kernel(GemmParams p) {
  ASSAY_DYNAMIC_SHARED(shared);
  const std::int64_t num_rows = true_rows(p);
  const TileOrigin origin = tile_origin(p, blockIdx.x, Tile::kRows, Tile::kCols);
  if (origin.row >= num_rows) return;
  T* const stages = reinterpret_cast<T*>(shared);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int warp_row = warp / kWarpsPerSide, warp_col = warp % kWarpsPerSide;

  const Loader<T, Tile> loader(p, origin, num_rows);
  const int num_steps = (loader.in_features + kDepth - 1) / kDepth;
#pragma unroll
  for (int step = 0; step < Tile::kStages - 1; ++step) {
    if (step < num_steps) loader.load(stages + step * Tile::kStageElements, step * kDepth);
    cp_async_commit();
  }
  Sums<Tile> sums = {};
  int stage = 0;
  for (int step = 0; step < num_steps; ++step) {
    // Every step commits a group, an empty one at the end: all but the newest kStages - 2 being there means stage
    // `step`.
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();
    const int next = step + Tile::kStages - 1;
    // The stage before this one: the barrier above says that every warp has read it.
    const int free_stage = stage == 0 ? Tile::kStages - 1 : stage - 1;
    if (next < num_steps) loader.load(stages + free_stage * Tile::kStageElements, next * kDepth);
    cp_async_commit();
    multiply_stage<T, Tile>(stages + stage * Tile::kStageElements, warp_row, warp_col, lane, sums);
    stage = stage + 1 == Tile::kStages ? 0 : stage + 1;
  }
  cp_async_wait<0>();

  float* const buffer = reinterpret_cast<float*>(shared);
#pragma unroll 1
  for (int pass = 0; pass < kWarpsPerSide; ++pass) {
    __syncthreads();  // the stages, or the last pass, have been read
    if (warp_row == pass) put_sums<Tile>(sums, warp_col, lane, buffer);
    __syncthreads();
    store_rows<T, Tile>(p, buffer, origin.row + pass * Tile::kWarpRows, origin.col, num_rows);
  }
}

template <typename T, typename Tile>
void launch_tile(const GemmParams& params, cudaStream_t stream) {
  const std::int64_t features = params.weight.is_gated ? Tile::kCols / 2 : Tile::kCols;
  const std::int64_t blocks = num_tiles(params.max_rows, Tile::kRows) * num_tiles(params.weight.out_features, features);
  launch_kernel(gemm_kernel<T, Tile>, grid_of(blocks), dim3(kThreads), Tile::kSharedBytes, stream, params);
}

template <typename T>
void launch_type(const GemmParams& params, GemmTile tile, cudaStream_t stream) {
  if (tile == GemmTile::kSmall) return launch_tile<T, SmallTile>(params, stream);
  launch_tile<T, LargeTile>(params, stream);
}

}  // namespace

void launch_gemm(const GemmParams& params, GemmTile tile, cudaStream_t stream) {
  if (params.max_rows == 0 || params.weight.out_features == 0) return;
  if (tile == GemmTile::kAuto) {
    tile = choose_tile(params.max_rows, params.weight.out_features * (params.weight.is_gated ? 2 : 1));
  }
  switch (params.weight.dtype) {
    case DType::kFloat16:
      return launch_type<__half>(params, tile, stream);
    case DType::kBFloat16:
      return launch_type<__nv_bfloat16>(params, tile, stream);
    default:
      return launch_gemm_f32(params, tile, stream);
  }
}

}  // namespace assay::cuda
