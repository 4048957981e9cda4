// Matrix micro-kernels on AMX tiles: the policies of gemm_tiles.h over 32 tokens x 32 output features, two by two
// accumulator tiles of 16 x 16. Included inside an AMX namespace after gemm_tiles.h.
//
// TileBfloat16 multiplies bfloat16 inputs and weights. TileFloat32 splits every float32 into a bfloat16 and the
// bfloat16 of what is left (hi + lo, 16 bits of significand together) and adds lo.hi + hi.lo + hi.hi; the dropped
// lo.lo is 2^-16 of a product, so results are within a few float32 roundings of a float32 product.
#pragma once

#include "cpu/amx_tiles.h"

constexpr std::int64_t kTileBytes = 1024;  // 16 rows x 64 bytes
constexpr int kTileRows = 16;
constexpr int kTilePairs = 16;  // a tile is 32 input features deep

struct TileGeometry {
  static constexpr int kRows = 2 * kTileRows;
  static constexpr int kCols = 32;
  static constexpr bool kResumes = false;
  static constexpr int kDepth = 2 * kTilePairs;

  // Where a token's 32 inputs of one depth block start, in bfloat16 elements from the plane's start.
  static std::int64_t input_offset(int row, std::int64_t col) { return row * kDepth + col % kDepth; }
  static std::int64_t weight_offset(int depth, int col) {
    return (col / 16) * (kTileBytes / 2) + ((depth / 2) * 16 + col % 16) * 2 + depth % 2;
  }
  static void store_tiles(float* tile, bool both_rows) {
    constexpr std::int64_t stride = kCols * static_cast<std::int64_t>(sizeof(float));
    tile_store<0>(tile, stride);
    tile_store<1>(tile + 16, stride);
    if (!both_rows) return;
    tile_store<2>(tile + kTileRows * kCols, stride);
    tile_store<3>(tile + kTileRows * kCols + 16, stride);
  }
  static void zero_tiles() {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
  }
  // Tiles 4, 5 = inputs of the two token halves; 6, 7 = weights of the two column halves.
  static void load_inputs(const char* at, bool both_rows) {
    tile_load<4>(at, kCacheLine);
    if (both_rows) tile_load<5>(at + kTileBytes, kCacheLine);
  }
  static void load_weights(const char* at) {
    tile_load<6>(at, kCacheLine);
    tile_load<7>(at + kTileBytes, kCacheLine);
  }
  static void multiply(bool both_rows) {
    tile_dot_bf16<0, 4, 6>();
    tile_dot_bf16<1, 4, 7>();
    if (!both_rows) return;
    tile_dot_bf16<2, 5, 6>();
    tile_dot_bf16<3, 5, 7>();
  }
};

struct TileBfloat16 : TileGeometry {
  static constexpr std::int64_t kPanelBlockBytes = 2 * kTileBytes;
  static constexpr std::int64_t kWeightBlockBytes = 2 * kTileBytes;

  static void put_weight(char* block, int depth, int col, float value) {
    reinterpret_cast<bfloat16*>(block)[weight_offset(depth, col)] = float_to_bf16(value);
  }
  static void put_input(char* panel, int row, std::int64_t col, Vec v) {
    char* block = panel + (col / kDepth) * kPanelBlockBytes;
    vec_store_bf16(reinterpret_cast<bfloat16*>(block) + input_offset(row, col), v);
  }
  template <typename Beside>
  static void micro(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                    const Beside& beside) {
    const bool both_rows = rows > kTileRows;
    zero_tiles();
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      beside.block(block, kWeightBlockBytes);
      load_inputs(panel + block * kPanelBlockBytes, both_rows);
      load_weights(weights + block * kWeightBlockBytes);
      multiply(both_rows);
    }
    store_tiles(tile, both_rows);
  }
};

struct TileFloat32 : TileGeometry {
  static constexpr std::int64_t kPlaneBytes = 2 * kTileBytes;  // hi plane, then lo plane
  static constexpr std::int64_t kPanelBlockBytes = 2 * kPlaneBytes;
  static constexpr std::int64_t kWeightBlockBytes = 2 * kPlaneBytes;

  static void put_weight(char* block, int depth, int col, float value) {
    const bfloat16 hi = float_to_bf16(value);
    bfloat16* at = reinterpret_cast<bfloat16*>(block) + weight_offset(depth, col);
    at[0] = hi;
    at[kPlaneBytes / 2] = float_to_bf16(value - bf16_to_float(hi));
  }
  static void put_input(char* panel, int row, std::int64_t col, Vec v) {
    bfloat16* at = reinterpret_cast<bfloat16*>(panel + (col / kDepth) * kPanelBlockBytes) + input_offset(row, col);
    vec_store_bf16(at, v);
    vec_store_bf16(at + kPlaneBytes / 2, vec_sub(v, vec_load_bf16(at)));
  }
  template <typename Beside>
  static void micro(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                    const Beside& beside) {
    const bool both_rows = rows > kTileRows;
    zero_tiles();
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      beside.block(block, kWeightBlockBytes);
      const char* x = panel + block * kPanelBlockBytes;
      const char* w = weights + block * kWeightBlockBytes;
      load_inputs(x + kPlaneBytes, both_rows);  // lo . hi
      load_weights(w);
      multiply(both_rows);
      load_inputs(x, both_rows);  // hi . hi
      multiply(both_rows);
      load_weights(w + kPlaneBytes);  // hi . lo
      multiply(both_rows);
    }
    store_tiles(tile, both_rows);
  }
};

template <>
inline constexpr bool kLeavesVectorUnits<TileBfloat16> = true;
template <>
inline constexpr bool kLeavesVectorUnits<TileFloat32> = true;

template <>
struct TileSession<TileBfloat16> {
  TileSession() { tiles_begin(); }
  ~TileSession() { tiles_end(); }
};
template <>
struct TileSession<TileFloat32> {
  TileSession() { tiles_begin(); }
  ~TileSession() { tiles_end(); }
};
