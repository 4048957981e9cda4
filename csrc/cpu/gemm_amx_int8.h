// Products of the int8 mode on AMX tiles. A tile product is too quick for its result to be scaled after every run of
// inputs, as Int8 does: here a token and a weight's row have one scale each for their whole depth, whose sum is exact
// in int32 (PackedWeight refuses depths for which it would not be). Included inside an AMX namespace after gemm_amx.h
// and run_scale.h.
#pragma once

struct TileInt8 {
  static constexpr int kRows = 2 * kTileRows;
  static constexpr int kCols = 32;
  static constexpr bool kResumes = false;
  static constexpr int kDepth = 64;
  // An input panel arrives as float32, row by row of a block (put_input), and is sealed in place: [depth blocks][kRows]
  // [kDepth] bytes, then the rows' scales and their least numbers.
  static constexpr std::int64_t kPanelBlockBytes = kRows * kDepth * 4;
  static constexpr std::int64_t kSealedBlockBytes = 2 * kTileBytes;
  // Two tiles of int8 quads; in a panel's first block followed by each column's scaled sum, and its scale.
  static constexpr std::int64_t kWeightSums = 2 * kTileBytes;
  static constexpr std::int64_t kWeightScales = kWeightSums + kCols * 4;
  static constexpr std::int64_t kWeightBlockBytes = kWeightScales + kCols * 4;

  static void put_input(char* panel, int row, std::int64_t col, Vec v) {
    float* block = reinterpret_cast<float*>(panel + (col / kDepth) * kPanelBlockBytes);
    vec_store(block + row * kDepth + col % kDepth, v);
  }
  static void put_inputs(char* panel, int row, std::int64_t col, Vec low, Vec high) {
    put_input(panel, row, col, low);
    put_input(panel, row, col + kVecWidth, high);
  }

  static void seal_panel(char* panel, int rows, std::int64_t num_blocks) {
    RunSpan spans[kRows];
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      const float* from = reinterpret_cast<const float*>(panel + block * kPanelBlockBytes);
      for (int r = 0; r < rows; ++r) spans[r].add<kDepth>(from + r * kDepth);
    }
    float scales[3 * kRows] = {};
    for (int r = 0; r < rows; ++r) {
      const ByteScale scale(spans[r], kInputSteps);
      scales[r] = scale.from_int;
      scales[kRows + r] = scale.least;
      scales[2 * kRows + r] = scale.to_int;
    }
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      const float* from = reinterpret_cast<const float*>(panel + block * kPanelBlockBytes);
      char* to = panel + block * kSealedBlockBytes;
      for (int r = 0; r < rows; ++r) {
        store_run<kDepth>(from + r * kDepth, scales[kRows + r], scales[2 * kRows + r], to + r * kDepth);
      }
    }
    memcpy(panel + num_blocks * kSealedBlockBytes, scales, 2 * kRows * sizeof(float));
  }

  static void pack_weight(const PackWeightParams& p, std::int64_t row, char* panel, int col) {
    std::int32_t largest = 0;
    for (std::int64_t depth0 = 0; depth0 < p.in_features; depth0 += kDepth) {
      alignas(kCacheLine) float run[kDepth] = {};
      for (int d = 0; d < kDepth && depth0 + d < p.in_features; ++d) run[d] = weight_at(p, row, depth0 + d);
      const std::int32_t bits = largest_bits<kDepth>(run);
      largest = bits > largest ? bits : largest;
    }
    const RunScale scale(largest, kWeightLargest);
    std::int32_t sum = 0;
    for (std::int64_t d = 0; d < p.in_features; ++d) {
      const float integer = rintf(weight_at(p, row, d) * scale.to_int);
      const std::int8_t value = static_cast<std::int8_t>(integer == integer ? integer : 0.0f);
      char* tile = panel + d / kDepth * kWeightBlockBytes + col / 16 * kTileBytes;
      reinterpret_cast<std::int8_t*>(tile)[(d % kDepth / 4 * 16 + col % 16) * 4 + d % 4] = value;
      sum += value;
    }
    reinterpret_cast<float*>(panel + kWeightSums)[col] = static_cast<float>(sum) * scale.from_int;
    reinterpret_cast<float*>(panel + kWeightScales)[col] = scale.from_int;
  }

  static void multiply(bool both_rows) {
    tile_dot_int8<0, 4, 6>();
    tile_dot_int8<1, 4, 7>();
    if (!both_rows) return;
    tile_dot_int8<2, 5, 6>();
    tile_dot_int8<3, 5, 7>();
  }

  template <typename Beside>
  static void micro(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                    const Beside& beside, bool) {
    const bool both_rows = rows > kTileRows;
    TileGeometry::zero_tiles();
    TileGeometry::with_panel(num_blocks * kWeightBlockBytes, [&](auto keeps) __attribute__((always_inline)) {
      for (std::int64_t block = 0; block < num_blocks; ++block) {
        beside.block(block, kWeightBlockBytes);
        TileGeometry::load<keeps>(panel + block * kSealedBlockBytes, weights + block * kWeightBlockBytes, both_rows);
        multiply(both_rows);
      }
    });
    TileGeometry::store_tiles(tile, both_rows);
    const float* row_scales = reinterpret_cast<const float*>(panel + num_blocks * kSealedBlockBytes);
    const float* col_scales = reinterpret_cast<const float*>(weights + kWeightScales);
    const float* col_sums = reinterpret_cast<const float*>(weights + kWeightSums);
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < kCols; c += kVecWidth) {
        float* at = tile + r * kCols + c;
        const Vec scale = vec_mul(vec_set1(row_scales[r]), vec_load(col_scales + c));
        const Vec offset = vec_mul(vec_set1(row_scales[kRows + r]), vec_load(col_sums + c));
        vec_store(at, vec_fma(int_to_float(int_load(at)), scale, offset));
      }
    }
  }
};

template <>
inline constexpr bool kLeavesVectorUnits<TileInt8> = true;

template <>
struct TileSession<TileInt8> {
  TileSession() { tiles_begin(); }
  ~TileSession() { tiles_end(); }
};
