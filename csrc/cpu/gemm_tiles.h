// Matrix micro-kernels of the vector paths, one policy struct per arithmetic. Included inside an ISA's namespace after
// its vec_*.h. gemm.h drives any policy with this interface:
//
//   kRows, kCols   tile of output computed at once: kRows tokens x kCols output features
//   kDepth         input features per depth block; 64 bytes of one packed row per plane
//   kResumes       whether micro() takes `resumes`: the tile holds the sums of the depth before, to be gone on from
//   kLeavesVectorUnits<Policy>  whether micro() leaves vector units idle: the tile before is finished on them
//   micro()'s last argument  what is done beside the products: block() before each depth block, and on tiles piece()
//                  between products
//   packed weight  panels of kCols output features, each [depth blocks][...] as the micro-kernel reads it
//   packed input   panels of kRows tokens, each [depth blocks][kRows][64 bytes]: a panel's block is contiguous, so no
//                  row pitch can make its rows collide in the L1 cache
//
// A tile is accumulated over the whole depth in registers, in one fixed order per output element. That order depends
// on neither the number of tokens nor the position of a row in its panel: batch invariance rests on it.
#pragma once

#if defined(__AVX512F__)
constexpr int kFmaRows = 14;  // 14 x 2 accumulators + 2 weights + 1 input of 32 registers
constexpr int kFmaVecs = 2;
#elif defined(__AVX2__)
constexpr int kFmaRows = 6;  // 6 x 2 accumulators + 2 weights + 1 input of 16 registers
constexpr int kFmaVecs = 2;
#else
constexpr int kFmaRows = 4;
constexpr int kFmaVecs = 8;  // lanes of width 1; compilers vectorise the inner loop with what the target has
#endif

constexpr std::int64_t kCacheLine = 64;  // bytes

// What a micro-kernel pulls towards the core while it multiplies: `bytes` of every depth block's stretch of the weights
// that come next, starting at `at`. Spread over the blocks, the loads hide behind the products.
struct Prefetch {
  const char* at;
  std::int64_t bytes;

  // Always inline: GCC does not count a prefetch as an effect, and drops calls of a function that does nothing else.
  [[gnu::always_inline]] void block(std::int64_t block_idx, std::int64_t block_bytes) const {
    const char* start = at + block_idx * block_bytes;
    std::int64_t i = 0;
#if defined(ASSAY_AMX)
    // Four at a time: beside tiles the number of instructions is what takes long. FMA loops lose by it (AVX2).
    for (; i + 4 * kCacheLine <= bytes; i += 4 * kCacheLine) {
      __builtin_prefetch(start + i, 0, 2);
      __builtin_prefetch(start + i + kCacheLine, 0, 2);
      __builtin_prefetch(start + i + 2 * kCacheLine, 0, 2);
      __builtin_prefetch(start + i + 3 * kCacheLine, 0, 2);
    }
#endif
    for (; i < bytes; i += kCacheLine) __builtin_prefetch(start + i, 0, 2);
  }
  void piece() const {}
};

inline std::int64_t min_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t max_of(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

inline float bf16_to_float(bfloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

inline bfloat16 float_to_bf16(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const std::uint32_t rounded = value != value ? bits | 0x00400000u : bits + 0x7FFFu + ((bits >> 16) & 1u);
  return static_cast<bfloat16>(rounded >> 16);
}

inline float weight_at(const PackWeightParams& p, std::int64_t row, std::int64_t col) {
  const std::int64_t at = row * p.in_features + col;
  return p.weight_dtype == DType::kFloat32 ? static_cast<const float*>(p.weight)[at]
                                           : bf16_to_float(static_cast<const bfloat16*>(p.weight)[at]);
}

#if defined(__AVX2__) && !defined(__AVX512F__)
#include "cpu/gemm_avx2.h"
#elif defined(__AVX512F__) && !defined(ASSAY_ISA_EMULATION)
#include "cpu/gemm_avx512.h"
#endif

// The float32 FMA policies share everything but how a weight is stored.
template <typename Weight>
struct FmaPolicy {
  static constexpr int kRows = kFmaRows;
  static constexpr int kCols = kFmaVecs * kVecWidth;
  static constexpr bool kResumes = true;
  static constexpr int kDepth = 16;
  static constexpr std::int64_t kPanelBlockBytes = kRows * kCacheLine;
  static constexpr std::int64_t kWeightBlockBytes = kDepth * kCols * static_cast<std::int64_t>(sizeof(Weight));
#if defined(__AVX512F__)
  // bfloat16 weights of two depths share a lane: a shift widens one and a mask the other, where widening sixteen
  // neighbours takes two operations on the units that multiply.
  static constexpr bool kIsPaired = sizeof(Weight) == 2;
#else
  static constexpr bool kIsPaired = false;
#endif

  static void put_weight(char* block, int depth, int col, float value) {
    Weight* const weights = reinterpret_cast<Weight*>(block);
    if constexpr (sizeof(Weight) == sizeof(float)) {
      weights[depth * kCols + col] = value;
    } else if constexpr (kIsPaired) {
      weights[((depth / 2) * kCols + col) * 2 + depth % 2] = float_to_bf16(value);
    } else {
      weights[depth * kCols + col] = float_to_bf16(value);
    }
  }
  static void put_input(char* panel, int row, std::int64_t col, Vec v) {
    float* block = reinterpret_cast<float*>(panel) + (col / kDepth) * kRows * kDepth;
    vec_store(block + row * kDepth + col % kDepth, v);
  }

  static Vec load_weight(const float* at) { return vec_load(at); }
  static Vec load_weight(const bfloat16* at) { return vec_load_bf16(at); }

  template <int kUsedRows>
  [[gnu::always_inline]] static void add_depth(const float* x, const Vec (&weight)[kFmaVecs],
                                               Vec (&acc)[kUsedRows][kFmaVecs]) {
#pragma GCC unroll 16
    for (int r = 0; r < kUsedRows; ++r) {
      const Vec input = vec_set1(x[r * kDepth]);
#pragma GCC unroll 8
      for (int j = 0; j < kFmaVecs; ++j) {
#if defined(__AVX512F__) && !defined(ASSAY_ISA_EMULATION)
        // In place: left to choose, GCC 12 multiplies into the input's register, and copies and spills sums.
        __asm__("vfmadd231ps %[weight], %[input], %[acc]"
                : [acc] "+v"(acc[r][j])
                : [weight] "v"(weight[j]), [input] "v"(input));
#else
        acc[r][j] = vec_fma(input, weight[j], acc[r][j]);
#endif
      }
    }
  }

  // One depth block: acc += x . w, depth by depth.
  template <int kUsedRows>
  static void add_block(const float* x, const Weight* w, Vec (&acc)[kUsedRows][kFmaVecs]) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    if constexpr (kUsedRows == kRows && sizeof(Weight) == sizeof(float)) return fma_add_block(x, w, acc);
#endif
#if defined(__AVX512F__)
    if constexpr (kIsPaired) {
#pragma GCC unroll 2
      for (int depth = 0; depth < kDepth; depth += 2) {
        Vec weight[kFmaVecs];
#pragma GCC unroll 8
        for (int j = 0; j < kFmaVecs; ++j) {
          const __m512i pairs = _mm512_loadu_si512(w + depth * kCols + j * kVecWidth * 2);
          weight[j] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
        }
        add_depth(x + depth, weight, acc);
        // Loaded once more: there is no register to keep them in.
        const Weight* again = w + depth * kCols;
        __asm__("" : "+r"(again));
#pragma GCC unroll 8
        for (int j = 0; j < kFmaVecs; ++j) {
          const __m512i pairs = _mm512_loadu_si512(again + j * kVecWidth * 2);
          weight[j] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
        }
        add_depth(x + depth + 1, weight, acc);
      }
      return;
    }
#endif
#pragma GCC unroll 4
    for (int depth = 0; depth < kDepth; ++depth) {
      Vec weight[kFmaVecs];
#pragma GCC unroll 8
      for (int j = 0; j < kFmaVecs; ++j) weight[j] = load_weight(w + depth * kCols + j * kVecWidth);
      add_depth(x + depth, weight, acc);
    }
  }

  template <int kUsedRows>
  [[gnu::noinline]] static void micro_rows(const char* panel, const char* weights, std::int64_t num_blocks, float* tile,
                                           const Prefetch& next, bool resumes) {
    Vec acc[kUsedRows][kFmaVecs];
#pragma GCC unroll 16
    for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kFmaVecs; ++j) acc[r][j] = resumes ? vec_load(tile + r * kCols + j * kVecWidth) : vec_zero();
    }
    const float* x = reinterpret_cast<const float*>(panel);
    const Weight* w = reinterpret_cast<const Weight*>(weights);
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      next.block(block, kWeightBlockBytes);
      add_block<kUsedRows>(x, w, acc);
      x += kRows * kDepth;
      w += kDepth * kCols;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kFmaVecs; ++j) vec_store(tile + r * kCols + j * kVecWidth, acc[r][j]);
    }
  }

  static void micro(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                    const Prefetch& next, bool resumes) {
    dispatch_rows<FmaPolicy>(panel, weights, num_blocks, rows, tile, next, resumes);
  }

  template <typename Policy, typename... More>
  static void dispatch_rows(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                            const Prefetch& next, More... more) {
    if constexpr (kFmaRows == 14) {
      if (rows > 10) return Policy::template micro_rows<14>(panel, weights, num_blocks, tile, next, more...);
      if (rows > 6) return Policy::template micro_rows<10>(panel, weights, num_blocks, tile, next, more...);
      if (rows > 4) return Policy::template micro_rows<6>(panel, weights, num_blocks, tile, next, more...);
      if (rows > 2) return Policy::template micro_rows<4>(panel, weights, num_blocks, tile, next, more...);
    } else {
      if (rows > 4) return Policy::template micro_rows<kFmaRows>(panel, weights, num_blocks, tile, next, more...);
      if (rows > 2) return Policy::template micro_rows<4>(panel, weights, num_blocks, tile, next, more...);
    }
    if (rows > 1) return Policy::template micro_rows<2>(panel, weights, num_blocks, tile, next, more...);
    return Policy::template micro_rows<1>(panel, weights, num_blocks, tile, next, more...);
  }
};

using FmaFloat32 = FmaPolicy<float>;      // float32 weights
using FmaBfloat16 = FmaPolicy<bfloat16>;  // bfloat16 weights widened on load, float32 arithmetic

#if defined(__AVX512BF16__)
// bfloat16 inputs and weights, two products a lane and step, float32 accumulation (VDPBF16PS).
struct DotBfloat16 {
  static constexpr int kRows = kFmaRows;
  static constexpr int kCols = kFmaVecs * kVecWidth;
  static constexpr bool kResumes = false;
  static constexpr int kDepth = 32;
  static constexpr int kPairs = kDepth / 2;
  static constexpr std::int64_t kPanelBlockBytes = kRows * kCacheLine;
  static constexpr std::int64_t kWeightBlockBytes = kDepth * kCols * 2;

  static void put_weight(char* block, int depth, int col, float value) {
    reinterpret_cast<bfloat16*>(block)[((depth / 2) * kCols + col) * 2 + depth % 2] = float_to_bf16(value);
  }
  static void put_input(char* panel, int row, std::int64_t col, Vec v) {
    bfloat16* block = reinterpret_cast<bfloat16*>(panel) + (col / kDepth) * kRows * kDepth;
    vec_store_bf16(block + row * kDepth + col % kDepth, v);
  }

  template <int kUsedRows>
  [[gnu::noinline]] static void micro_rows(const char* panel, const char* weights, std::int64_t num_blocks, float* tile,
                                           const Prefetch& next) {
    __m512 acc[kUsedRows][kFmaVecs];
#pragma GCC unroll 16
    for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kFmaVecs; ++j) acc[r][j] = _mm512_setzero_ps();
    }
    const std::int32_t* x = reinterpret_cast<const std::int32_t*>(panel);  // bf16 pairs
    const std::int32_t* w = reinterpret_cast<const std::int32_t*>(weights);
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      next.block(block, kWeightBlockBytes);
#pragma GCC unroll 4
      for (int pair = 0; pair < kPairs; ++pair) {
        __m512bh weight[kFmaVecs];
#pragma GCC unroll 8
        for (int j = 0; j < kFmaVecs; ++j) {
          weight[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(w + pair * kCols + j * kVecWidth));
        }
#pragma GCC unroll 16
        for (int r = 0; r < kUsedRows; ++r) {
          const __m512bh input = reinterpret_cast<__m512bh>(_mm512_set1_epi32(x[r * kPairs + pair]));
#pragma GCC unroll 8
          for (int j = 0; j < kFmaVecs; ++j) acc[r][j] = _mm512_dpbf16_ps(acc[r][j], input, weight[j]);
        }
      }
      x += kRows * kPairs;
      w += kPairs * kCols;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kUsedRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kFmaVecs; ++j) _mm512_storeu_ps(tile + r * kCols + j * kVecWidth, acc[r][j]);
    }
  }

  static void micro(const char* panel, const char* weights, std::int64_t num_blocks, int rows, float* tile,
                    const Prefetch& next) {
    FmaFloat32::dispatch_rows<DotBfloat16>(panel, weights, num_blocks, rows, tile, next);
  }
};
#endif

template <typename Policy>
constexpr bool kLeavesVectorUnits = false;

// AMX keeps tile shapes in a register that a thread must load before its first tile instruction and clear when it is
// done (a kernel switch saves 8 KiB more while it is set). Other arithmetic has no such state.
template <typename Policy>
struct TileSession {
  TileSession() {}
  ~TileSession() {}
};
