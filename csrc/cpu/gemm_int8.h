// Products of the int8 mode on vector units: every run of kDepth inputs of a token, and of a weight's row, shares one
// float32 scale and becomes whole numbers, as large as kInputSteps, kWeightLargest and kWeightsTogether allow. A run's
// products are exact in int32; runs are added in float32 in order. Included inside an ISA's namespace after
// gemm_tiles.h and run_scale.h.
//
// Inputs are multiplied as unsigned bytes, above the least of their run; a weight's run carries its sum, by which that
// least is multiplied.
#pragma once

#if defined(__AVX512F__)
constexpr int kInt8Rows = 10;  // 10 x 2 sums + 4 weights + constants and products of a row, of 32 registers
#else
constexpr int kInt8Rows = 4;  // 4 x 2 sums + 4 weights + the rest, of 16 registers
#endif

struct Int8 {
  static constexpr int kRows = kInt8Rows;
  static constexpr int kCols = kFmaVecs * kVecWidth;
  static constexpr bool kResumes = true;
  static constexpr int kDepth = 128;
  static constexpr int kOctets = kDepth / 8;
  // An input panel arrives as float32 (put_input) and is sealed in place: [depth blocks][kRows][kDepth] bytes, each
  // block followed by the scales of its rows and their least numbers.
  static constexpr std::int64_t kPanelBlockBytes = kRows * kDepth * 4;
  static constexpr std::int64_t kSealedBlockBytes = kRows * kDepth + 2 * kCacheLine;
  static_assert(2 * kRows * 4 <= 2 * kCacheLine);
  // [kDepth / 4][kCols] quads of int8, then for every column the scaled sum of its run, and its scale.
  static constexpr std::int64_t kWeightSums = kDepth * kCols;
  static constexpr std::int64_t kWeightScales = kWeightSums + kCols * 4;
  static constexpr std::int64_t kWeightBlockBytes = kWeightScales + kCols * 4;

  static void put_input(char* panel, int row, std::int64_t col, Vec v) {
    float* block = reinterpret_cast<float*>(panel + (col / kDepth) * kPanelBlockBytes);
    vec_store(block + row * kDepth + col % kDepth, v);
  }

  static void seal_panel(char* panel, int rows, std::int64_t num_blocks) {
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      const float* from = reinterpret_cast<const float*>(panel + block * kPanelBlockBytes);
      char* to = panel + block * kSealedBlockBytes;
      // All scales first: finding one is a long chain of waits, and a core overlaps chains that stand side by side.
      float scales[3 * kRows] = {};
      for (int r = 0; r < rows; ++r) {
        RunSpan span;
        span.add<kDepth>(from + r * kDepth);
        const ByteScale scale(span, kInputSteps);
        scales[r] = scale.from_int;
        scales[kRows + r] = scale.least;
        scales[2 * kRows + r] = scale.to_int;
      }
      for (int r = 0; r < rows; ++r) {
        store_run<kDepth>(from + r * kDepth, scales[kRows + r], scales[2 * kRows + r], to + r * kDepth);
      }
      memcpy(to + kRows * kDepth, scales, 2 * kRows * sizeof(float));
    }
  }

  // The whole number that the largest weight of a run becomes: most runs reach kWeightLargest, because four weights
  // that meet seldom have one sign and all that size.
  static float weight_steps(const float* run) {
    float largest = 0.0f, together = 0.0f;
    for (int octet = 0; octet < kDepth; octet += 8) {
      float above[2] = {}, below[2] = {};
      for (int d = 0; d < 8; ++d) {
        const float weight = run[octet + d];
        float& sum = weight > 0.0f ? above[d / 2 % 2] : below[d / 2 % 2];
        sum += fabsf(weight);
        largest = fmaxf(largest, fabsf(weight));
      }
      for (int lane = 0; lane < 2; ++lane) together = fmaxf(together, fmaxf(above[lane], below[lane]));
    }
    // Rounding adds up to a half to each of four.
    const float steps = floorf((kWeightsTogether - 2) * (largest / together));
    return steps < kWeightLargest ? steps : kWeightLargest;
  }

  static void pack_weight(const PackWeightParams& p, std::int64_t row, char* panel, int col) {
    for (std::int64_t depth0 = 0; depth0 < p.in_features; depth0 += kDepth) {
      char* block = panel + depth0 / kDepth * kWeightBlockBytes;
      alignas(kCacheLine) float run[kDepth] = {};
      for (int d = 0; d < kDepth && depth0 + d < p.in_features; ++d) run[d] = weight_at(p, row, depth0 + d);
      const RunScale scale(largest_bits<kDepth>(run), weight_steps(run));
      std::int32_t sum = 0;
      for (int d = 0; d < kDepth; ++d) {
        const float integer = rintf(run[d] * scale.to_int);
        const std::int8_t value = static_cast<std::int8_t>(integer == integer ? integer : 0.0f);
        reinterpret_cast<std::int8_t*>(block)[((d / 4) * kCols + col) * 4 + d % 4] = value;
        sum += value;
      }
      reinterpret_cast<float*>(block + kWeightSums)[col] = static_cast<float>(sum) * scale.from_int;
      reinterpret_cast<float*>(block + kWeightScales)[col] = scale.from_int;
    }
  }

  // acc = the integer sums of one depth block: kUsedRows x kCols.
  template <int kUsedRows>
  static void sum_block(const char* panel, const char* weights, IntVec (&acc)[kUsedRows][kFmaVecs]) {
#if defined(__AVX512F__) && !defined(ASSAY_ISA_EMULATION)
    if constexpr (kUsedRows == kRows) return int8_block_sums(panel, weights, acc);
#endif
#pragma GCC unroll 16
    for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kFmaVecs; ++j) acc[r][j] = int_zero();
    }
#if defined(__AVX2__) && !defined(__AVX512F__)
    if constexpr (kUsedRows == kRows) return int8_add_block(panel, weights, acc);
#endif
    for (int octet = 0; octet < kOctets; ++octet) {
      const char* x = panel + octet * 8;
      const char* w = weights + octet * kCols * 8;
      IntVec first[kFmaVecs], second[kFmaVecs];
#pragma GCC unroll 8
      for (int j = 0; j < kFmaVecs; ++j) {
        first[j] = int_load(w + j * kVecWidth * 4);
        second[j] = int_load(w + (kCols + j * kVecWidth) * 4);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kUsedRows; ++r) {
        const IntVec input = int_broadcast(x + r * kDepth);
#pragma GCC unroll 8
        for (int j = 0; j < kFmaVecs; ++j) {
          acc[r][j] = add_octets(acc[r][j], input, x + r * kDepth + 4, first[j], second[j]);
        }
      }
    }
  }

  template <int kUsedRows>
  [[gnu::noinline]] static void micro_rows(const char* panel, const char* weights, std::int64_t num_blocks, float* tile,
                                           const Prefetch& next, bool resumes) {
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      next.block(block, kWeightBlockBytes);
      IntVec acc[kUsedRows][kFmaVecs];
      sum_block<kUsedRows>(panel, weights, acc);
      const float* row_scales = reinterpret_cast<const float*>(panel + kRows * kDepth);
      // Loaded before the tile is written, which they might be a part of as far as a compiler knows.
      Vec col_scales[kFmaVecs], col_sums[kFmaVecs];
#pragma GCC unroll 8
      for (int j = 0; j < kFmaVecs; ++j) {
        col_scales[j] = vec_load(reinterpret_cast<const float*>(weights + kWeightScales) + j * kVecWidth);
        col_sums[j] = vec_load(reinterpret_cast<const float*>(weights + kWeightSums) + j * kVecWidth);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kUsedRows; ++r) {
        const Vec row_scale = vec_set1(row_scales[r]), least = vec_set1(row_scales[kRows + r]);
#pragma GCC unroll 8
        for (int j = 0; j < kFmaVecs; ++j) {
          float* at = tile + r * kCols + j * kVecWidth;
          const Vec before = block == 0 && !resumes ? vec_zero() : vec_load(at);
          const Vec offset = vec_fma(least, col_sums[j], before);
          vec_store(at, vec_fma(int_to_float(acc[r][j]), vec_mul(row_scale, col_scales[j]), offset));
        }
      }
      panel += kSealedBlockBytes;
      weights += kWeightBlockBytes;
    }
  }

  static void micro(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                    const Prefetch& next, bool resumes) {
    if constexpr (kRows > 4) {
      if (rows > 4) return micro_rows<kRows>(panel, weights, num_blocks, tile, next, resumes);
    }
    if (rows > 2) return micro_rows<4>(panel, weights, num_blocks, tile, next, resumes);
    if (rows > 1) return micro_rows<2>(panel, weights, num_blocks, tile, next, resumes);
    return micro_rows<1>(panel, weights, num_blocks, tile, next, resumes);
  }
};
