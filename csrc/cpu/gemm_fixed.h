// Products of the bfloat16 mode where no instruction multiplies bfloat16 but some multiply integers faster than
// float32: block fixed point. Included inside an ISA's namespace after gemm_tiles.h and run_scale.h.
//
// Each run of kDepth inputs of a token, and of a weight's row, shares one float32 scale and keeps 13 bits a number
// (sign and 12): finer than bfloat16's 8 unless one number of the run is 32 times as large as the rest. VPMADDWD
// and VPDPWSSD multiply two of them a lane where an FMA multiplies one; a run's products stay exact in int32, and runs
// are added in float32 in order, so the sums are the same on every instruction set.
#pragma once

#if defined(__AVX512F__)
constexpr int kFixedRows = kFmaRows;  // 14 x 2 sums + 2 weights + 1 input, of 32 registers
constexpr int kFixedVecs = kFmaVecs;
#else
constexpr int kFixedRows = 3;  // 3 x 4 sums + 2 weights + 1 input + 1 product, of 16 registers
constexpr int kFixedVecs = 4;
#endif

struct FixedPoint {
  static constexpr int kRows = kFixedRows;
  static constexpr int kVecs = kFixedVecs;
  static constexpr int kCols = kVecs * kVecWidth;
  static constexpr bool kResumes = true;
  static constexpr int kDepth = 128;
  static constexpr int kPairs = kDepth / 2;
  // The largest with kDepth * kLargest^2 < 2^31.
  static constexpr float kLargest = 4095.0f;
  // An input panel arrives as float32 (put_input) and is sealed in place: [depth blocks][kRows][kDepth] int16, each
  // block followed by the scales of its rows.
  static constexpr std::int64_t kPanelBlockBytes = kRows * kDepth * 4;
  static constexpr std::int64_t kRowBytes = kDepth * 2;
  static constexpr std::int64_t kSealedBlockBytes = kRows * kRowBytes + kCacheLine;
  // [kPairs][kCols] pairs of int16, then the scales of the kCols columns.
  static constexpr std::int64_t kWeightScales = kPairs * kCols * 4;
  static constexpr std::int64_t kWeightBlockBytes = kWeightScales + kCols * 4;

  static void put_input(char* panel, int row, std::int64_t col, Vec v) {
    float* block = reinterpret_cast<float*>(panel + (col / kDepth) * kPanelBlockBytes);
    vec_store(block + row * kDepth + col % kDepth, v);
  }

  // kDepth floats to kDepth int16; out may start where run does, because each step writes behind what it has read.
  static void quantize(const float* run, float to_int, char* out) {
    const Vec factor = vec_set1(to_int);
    for (int i = 0; i < kDepth; i += kShortRun) store_shorts(run + i, factor, out + i * 2);
  }

  static void seal_panel(char* panel, int rows, std::int64_t num_blocks) {
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      const float* from = reinterpret_cast<const float*>(panel + block * kPanelBlockBytes);
      char* to = panel + block * kSealedBlockBytes;
      float scales[kRows];
      for (int r = 0; r < rows; ++r) {
        const RunScale scale(largest_bits<kDepth>(from + r * kDepth), kLargest);
        quantize(from + r * kDepth, scale.to_int, to + r * kRowBytes);
        scales[r] = scale.from_int;
      }
      memcpy(to + kRows * kRowBytes, scales, static_cast<std::size_t>(rows) * sizeof(float));
    }
  }

  static void pack_weight(const PackWeightParams& p, std::int64_t row, char* panel, int col) {
    for (std::int64_t depth0 = 0; depth0 < p.in_features; depth0 += kDepth) {
      char* block = panel + depth0 / kDepth * kWeightBlockBytes;
      alignas(kCacheLine) float run[kDepth] = {};
      for (int d = 0; d < kDepth && depth0 + d < p.in_features; ++d) run[d] = weight_at(p, row, depth0 + d);
      const RunScale scale(largest_bits<kDepth>(run), kLargest);
      alignas(kCacheLine) std::int16_t integers[kDepth];
      quantize(run, scale.to_int, reinterpret_cast<char*>(integers));
      std::int16_t* at = reinterpret_cast<std::int16_t*>(block);
      for (int d = 0; d < kDepth; ++d) at[((d / 2) * kCols + col) * 2 + d % 2] = integers[d];
      reinterpret_cast<float*>(block + kWeightScales)[col] = scale.from_int;
    }
  }

  // acc = the integer sums of one depth block: kUsedRows x kCols.
  template <int kUsedRows>
  static void sum_block(const char* panel, const char* weights, IntVec (&acc)[kUsedRows][kVecs]) {
#if defined(__AVX512F__)
    if constexpr (kUsedRows == kRows) return fixed_block_sums(panel, weights, acc);
#endif
#pragma GCC unroll 16
    for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[r][j] = int_zero();
    }
#if !defined(__AVX512F__)
    if constexpr (kUsedRows == kRows) return fixed_add_block(panel, weights, acc);
#endif
#pragma GCC unroll 2
    for (int pair = 0; pair < kPairs; ++pair) {
      IntVec weight[kVecs];
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) weight[j] = int_load(weights + (pair * kCols + j * kVecWidth) * 4);
#pragma GCC unroll 16
      for (int r = 0; r < kUsedRows; ++r) {
        const IntVec input = int_broadcast(panel + r * kRowBytes + pair * 4);
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) acc[r][j] = add_pairs(acc[r][j], input, weight[j]);
      }
    }
  }

  template <int kUsedRows>
  [[gnu::noinline]] static void micro_rows(const char* panel, const char* weights, std::int64_t num_blocks, float* tile,
                                           const Prefetch& next, bool resumes) {
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      next.block(block, kWeightBlockBytes);
      IntVec acc[kUsedRows][kVecs];
      sum_block<kUsedRows>(panel, weights, acc);
      const float* row_scales = reinterpret_cast<const float*>(panel + kRows * kRowBytes);
      const float* col_scales = reinterpret_cast<const float*>(weights + kWeightScales);
#pragma GCC unroll 16
      for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) {
          float* at = tile + r * kCols + j * kVecWidth;
          const Vec scale = vec_mul(vec_set1(row_scales[r]), vec_load(col_scales + j * kVecWidth));
          const Vec before = block == 0 && !resumes ? vec_zero() : vec_load(at);
          vec_store(at, vec_fma(int_to_float(acc[r][j]), scale, before));
        }
      }
      panel += kSealedBlockBytes;
      weights += kWeightBlockBytes;
    }
  }

  static void micro(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                    const Prefetch& next, bool resumes) {
    if constexpr (kRows == kFmaRows) {
      FmaFloat32::dispatch_rows<FixedPoint>(panel, weights, num_blocks, rows, tile, next, resumes);
    } else {
      if (rows == kRows) return micro_rows<kRows>(panel, weights, num_blocks, tile, next, resumes);
      if (rows == 2) return micro_rows<2>(panel, weights, num_blocks, tile, next, resumes);
      micro_rows<1>(panel, weights, num_blocks, tile, next, resumes);
    }
  }
};
