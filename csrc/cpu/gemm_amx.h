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
  // The sums that store_tiles left in `tile`, to be gone on from, or none.
  static void begin_tiles(const float* tile, bool both_rows, bool resumes) {
    if (!resumes) return zero_tiles();
    constexpr std::int64_t stride = kCols * static_cast<std::int64_t>(sizeof(float));
    tile_load<0>(tile, stride);
    tile_load<1>(tile + 16, stride);
    if (!both_rows) return;
    tile_load<2>(tile + kTileRows * kCols, stride);
    tile_load<3>(tile + kTileRows * kCols + 16, stride);
  }
  static void zero_tiles() {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
  }
  // Weights of a panel that stay in L1 while row panels pass; longer ones come from L2 every time.
  static constexpr std::int64_t kKeptWeightBytes = 32 * 1024;

  // Tiles 4, 5 = inputs of the two token halves; 6, 7 = weights of the two column halves. In the order of their first
  // use: the first product waits for two of them only. Inputs are read once for every weight panel, and would push the
  // weights out of L1.
  template <bool kKeepsWeights>
  static void load(const char* inputs, const char* weights, bool both_rows) {
    tile_load_past_l1<4>(inputs, kCacheLine);
    load_weights<kKeepsWeights>(weights);
    if (both_rows) tile_load_past_l1<5>(inputs + kTileBytes, kCacheLine);
  }
  static void load_inputs(const char* at, bool both_rows) {
    tile_load_past_l1<4>(at, kCacheLine);
    if (both_rows) tile_load_past_l1<5>(at + kTileBytes, kCacheLine);
  }
  template <bool kKeepsWeights>
  static void load_weights(const char* at) {
    if constexpr (kKeepsWeights) {
      tile_load<6>(at, kCacheLine);
      tile_load<7>(at + kTileBytes, kCacheLine);
    } else {
      tile_load_past_l1<6>(at, kCacheLine);
      tile_load_past_l1<7>(at + kTileBytes, kCacheLine);
    }
  }
  // body(std::bool_constant: whether the panel's weights are kept in L1).
  template <typename Body>
  [[gnu::always_inline]] static void with_panel(std::int64_t weight_bytes, Body&& body) {
    if (weight_bytes <= kKeptWeightBytes) {
      body(std::true_type{});
    } else {
      body(std::false_type{});
    }
  }
  // beside.piece() between kPieces (1 or 3) of the four products: other work in small pieces, so that the next product
  // is never far behind.
  template <int kPieces, typename Beside>
  [[gnu::always_inline]] static void multiply(bool both_rows, const Beside& beside) {
    tile_dot_bf16<0, 4, 6>();
    if constexpr (kPieces > 1) beside.piece();
    tile_dot_bf16<1, 4, 7>();
    beside.piece();
    if (!both_rows) return;
    tile_dot_bf16<2, 5, 6>();
    if constexpr (kPieces > 1) beside.piece();
    tile_dot_bf16<3, 5, 7>();
  }
};

// 16 neighbours as bfloat16, of which `low` are the first 8.
inline void store_halves(char* to, __m256 low, __m256 high) {
  const __m256i pairs = reinterpret_cast<__m256i>(_mm256_cvtne2ps_pbh(high, low));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), pairs);
}

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
  // A token's whole depth block, of which `low` are the first 16 inputs.
  static void put_inputs(char* panel, int row, std::int64_t col, Vec low, Vec high) {
    char* block = panel + (col / kDepth) * kPanelBlockBytes;
    vec_store_bf16_pair(reinterpret_cast<bfloat16*>(block) + input_offset(row, col), low, high);
  }
  template <typename Beside>
  static void micro(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                    const Beside& beside, bool resumes) {
    const bool both_rows = rows > kTileRows;
    begin_tiles(tile, both_rows, resumes);
    with_panel(num_blocks * kWeightBlockBytes, [&](auto keeps) __attribute__((always_inline)) {
      for (std::int64_t block = 0; block < num_blocks; ++block) {
        beside.block(block, kWeightBlockBytes);
        load<keeps>(panel + block * kPanelBlockBytes, weights + block * kWeightBlockBytes, both_rows);
        multiply<3>(both_rows, beside);
      }
    });
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
  static void put_inputs(char* panel, int row, std::int64_t col, Vec low, Vec high) {
    bfloat16* at = reinterpret_cast<bfloat16*>(panel + (col / kDepth) * kPanelBlockBytes) + input_offset(row, col);
    vec_store_bf16_pair(at, low, high);
    vec_store_bf16_pair(at + kPlaneBytes / 2, vec_sub(low, vec_load_bf16(at)),
                        vec_sub(high, vec_load_bf16(at + kVecWidth)));
  }
  static void put_line(char* line, Vec low, Vec high) {
    bfloat16* const at = reinterpret_cast<bfloat16*>(line);
    vec_store_bf16_pair(at, low, high);
    vec_store_bf16_pair(at + kPlaneBytes / 2, vec_sub(low, vec_load_bf16(at)),
                        vec_sub(high, vec_load_bf16(at + kVecWidth)));
  }
  template <typename Beside>
  static void micro(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                    const Beside& beside, bool resumes) {
    const bool both_rows = rows > kTileRows;
    begin_tiles(tile, both_rows, resumes);
    with_panel(num_blocks * kWeightBlockBytes, [&](auto keeps) __attribute__((always_inline)) {
      for (std::int64_t block = 0; block < num_blocks; ++block) {
        beside.block(block, kWeightBlockBytes);
        const char* x = panel + block * kPanelBlockBytes;
        const char* w = weights + block * kWeightBlockBytes;
        load<keeps>(x + kPlaneBytes, w, both_rows);  // lo . hi
        multiply<1>(both_rows, beside);
        load_inputs(x, both_rows);  // hi . hi
        multiply<1>(both_rows, beside);
        load_weights<keeps>(w + kPlaneBytes);  // hi . lo
        multiply<1>(both_rows, beside);
      }
    });
    store_tiles(tile, both_rows);
  }
};

// Depth blocks whose weights stay in L1 while row panels pass; 0: the depth is not cut.
template <typename Policy>
constexpr std::int64_t kChunkBlocks = 0;
template <>
inline constexpr std::int64_t kChunkBlocks<TileBfloat16> =
    TileGeometry::kKeptWeightBytes / TileBfloat16::kWeightBlockBytes;
template <>
inline constexpr std::int64_t kChunkBlocks<TileFloat32> =
    TileGeometry::kKeptWeightBytes / TileFloat32::kWeightBlockBytes;

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
