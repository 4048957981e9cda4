// Products of the bfloat16 mode on AVX2, which has no bfloat16 instruction: block fixed point. Included inside the AVX2
// namespace after gemm_tiles.h and run_scale.h.
//
// Each run of kDepth inputs of a token, and of a weight's row, shares one float32 scale and keeps 13 bits a number
// (sign and 12): finer than bfloat16's 8 unless one number of the run is 32 times as large as the rest. VPMADDWD
// multiplies 16 of them where an FMA multiplies 8; a run's products stay exact in int32, and runs are added in float32
// in order.
#pragma once

struct FixedPoint {
  static constexpr int kRows = 3;
  static constexpr int kVecs = 4;
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
    for (int i = 0; i < kDepth; i += 2 * kVecWidth) {
      const __m256i low = _mm256_cvtps_epi32(vec_mul(vec_load(run + i), factor));
      const __m256i high = _mm256_cvtps_epi32(vec_mul(vec_load(run + i + kVecWidth), factor));
      const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * 2), packed);
    }
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
      alignas(32) float run[kDepth] = {};
      for (int d = 0; d < kDepth && depth0 + d < p.in_features; ++d) run[d] = weight_at(p, row, depth0 + d);
      const RunScale scale(largest_bits<kDepth>(run), kLargest);
      alignas(32) std::int16_t integers[kDepth];
      quantize(run, scale.to_int, reinterpret_cast<char*>(integers));
      std::int16_t* at = reinterpret_cast<std::int16_t*>(block);
      for (int d = 0; d < kDepth; ++d) at[((d / 2) * kCols + col) * 2 + d % 2] = integers[d];
      reinterpret_cast<float*>(block + kWeightScales)[col] = scale.from_int;
    }
  }

  // sum + a . b over pairs. In assembly because GCC 12 would gather all products first and spill the sums.
  static __m256i add_products(__m256i sum, __m256i a, __m256i b) {
#if defined(__AVXVNNI__)
    return _mm256_dpwssd_avx_epi32(sum, a, b);
#else
    __m256i products;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(a), "x"(b));
    return sum;
#endif
  }

  // The integer sums of one depth block: kUsedRows x kCols.
  template <int kUsedRows>
  static void add_block(const char* panel, const char* weights, __m256i (&acc)[kUsedRows][kVecs]) {
    if constexpr (kUsedRows == kRows) {
      fixed_add_block(panel, weights, acc);
    } else {
      const float* x = reinterpret_cast<const float*>(panel);  // pairs of int16, read as float for VBROADCASTSS
      const std::int32_t* w = reinterpret_cast<const std::int32_t*>(weights);
#pragma GCC unroll 2
      for (int pair = 0; pair < kPairs; ++pair) {
        __m256i weight[kVecs];
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) {
          weight[j] = _mm256_load_si256(reinterpret_cast<const __m256i*>(w + pair * kCols + j * kVecWidth));
        }
#pragma GCC unroll 16
        for (int r = 0; r < kUsedRows; ++r) {
          const __m256i input = _mm256_castps_si256(_mm256_broadcast_ss(x + r * kPairs + pair));
#pragma GCC unroll 8
          for (int j = 0; j < kVecs; ++j) acc[r][j] = add_products(acc[r][j], input, weight[j]);
        }
      }
    }
  }

  template <int kUsedRows>
  [[gnu::noinline]] static void micro_rows(const char* panel, const char* weights, std::int64_t num_blocks, float* tile,
                                           const Prefetch& next, bool resumes) {
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      next.block(block, kWeightBlockBytes);
      __m256i acc[kUsedRows][kVecs];
#pragma GCC unroll 16
      for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) acc[r][j] = _mm256_setzero_si256();
      }
      add_block<kUsedRows>(panel, weights, acc);
      const float* row_scales = reinterpret_cast<const float*>(panel + kRows * kRowBytes);
      const float* col_scales = reinterpret_cast<const float*>(weights + kWeightScales);
#pragma GCC unroll 16
      for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) {
          float* at = tile + r * kCols + j * kVecWidth;
          const Vec scale = vec_mul(vec_set1(row_scales[r]), vec_load(col_scales + j * kVecWidth));
          vec_store(at,
                    vec_fma(_mm256_cvtepi32_ps(acc[r][j]), scale, block == 0 && !resumes ? vec_zero() : vec_load(at)));
        }
      }
      panel += kSealedBlockBytes;
      weights += kWeightBlockBytes;
    }
  }

  static void micro(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                    const Prefetch& next, bool resumes) {
    if (rows == kRows) return micro_rows<kRows>(panel, weights, num_blocks, tile, next, resumes);
    if (rows == 2) return micro_rows<2>(panel, weights, num_blocks, tile, next, resumes);
    micro_rows<1>(panel, weights, num_blocks, tile, next, resumes);
  }
};
