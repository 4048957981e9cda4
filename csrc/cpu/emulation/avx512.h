// The AVX-512 intrinsics of the kernels in terms of AVX2's, so that a machine without AVX-512 can test those kernels.
// Given to the compiler in front of a kernels_<isa>.cpp (-include), only where ASSAY_ISA_EMULATION is on: what the
// kernels call becomes a macro for the function here that has the instruction's results, rounding included.
//
// Semantics: Intel SDM, volume 2, "Operation" of each instruction. An intrinsic that the kernels do not use is not
// here, and using it fails to compile.
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#error "this file stands in for AVX-512: compile with AVX2 and FMA alone"
#endif

// 512 bits as two registers, in the views that AVX2 has.
union EmulatedLanes {
  __m512 floats;
  __m512i integers;
  __m512bh bf16_pairs;
  __m256 f[2];
  __m256i i[2];
  float f32[16];
  int32_t i32[16];
};
static_assert(sizeof(EmulatedLanes) == 64);

// Inlined even into code that is compiled without optimisation: a function that takes 512 bits by value has no ABI
// here.
#define ASSAY_EMULATED [[gnu::always_inline]] static inline

ASSAY_EMULATED EmulatedLanes emulated_lanes(__m512 v) { return {.floats = v}; }
ASSAY_EMULATED EmulatedLanes emulated_lanes(__m512i v) { return {.integers = v}; }
ASSAY_EMULATED EmulatedLanes emulated_lanes(__m512bh v) { return {.bf16_pairs = v}; }

// `op` of both halves.
template <typename Op>
ASSAY_EMULATED __m512 emulated_floats(Op op) {
  EmulatedLanes out;
  out.f[0] = op(0);
  out.f[1] = op(1);
  return out.floats;
}
template <typename Op>
ASSAY_EMULATED __m512i emulated_integers(Op op) {
  EmulatedLanes out;
  out.i[0] = op(0);
  out.i[1] = op(1);
  return out.integers;
}

#define ASSAY_EMULATED_FLOATS_1(name)                                           \
  ASSAY_EMULATED __m512 emulated_##name(__m512 a) {                             \
    const EmulatedLanes x = emulated_lanes(a);                                  \
    return emulated_floats([&](int half) { return _mm256_##name(x.f[half]); }); \
  }
#define ASSAY_EMULATED_FLOATS_2(name)                                                      \
  ASSAY_EMULATED __m512 emulated_##name(__m512 a, __m512 b) {                              \
    const EmulatedLanes x = emulated_lanes(a), y = emulated_lanes(b);                      \
    return emulated_floats([&](int half) { return _mm256_##name(x.f[half], y.f[half]); }); \
  }
#define ASSAY_EMULATED_INTEGERS_2(name)                                                      \
  ASSAY_EMULATED __m512i emulated_##name(__m512i a, __m512i b) {                             \
    const EmulatedLanes x = emulated_lanes(a), y = emulated_lanes(b);                        \
    return emulated_integers([&](int half) { return _mm256_##name(x.i[half], y.i[half]); }); \
  }

ASSAY_EMULATED_FLOATS_1(sqrt_ps)
ASSAY_EMULATED_FLOATS_2(add_ps)
ASSAY_EMULATED_FLOATS_2(sub_ps)
ASSAY_EMULATED_FLOATS_2(mul_ps)
ASSAY_EMULATED_FLOATS_2(div_ps)
ASSAY_EMULATED_FLOATS_2(max_ps)
ASSAY_EMULATED_FLOATS_2(min_ps)
ASSAY_EMULATED_INTEGERS_2(add_epi16)
ASSAY_EMULATED_INTEGERS_2(add_epi32)
ASSAY_EMULATED_INTEGERS_2(max_epi32)
ASSAY_EMULATED_INTEGERS_2(maddubs_epi16)
ASSAY_EMULATED_INTEGERS_2(madd_epi16)
ASSAY_EMULATED_INTEGERS_2(and_si256)
ASSAY_EMULATED_INTEGERS_2(or_si256)

ASSAY_EMULATED __m512i emulated_shift_left(__m512i a, int bits) {
  const EmulatedLanes x = emulated_lanes(a);
  return emulated_integers([&](int half) { return _mm256_slli_epi32(x.i[half], bits); });
}
ASSAY_EMULATED __m512i emulated_shift_right(__m512i a, int bits) {
  const EmulatedLanes x = emulated_lanes(a);
  return emulated_integers([&](int half) { return _mm256_srli_epi32(x.i[half], bits); });
}
// Bit i of `table` is the result for the operands' bits a, b, c with i = 4a + 2b + c.
template <int kTable>
ASSAY_EMULATED __m512i emulated_ternarylogic(__m512i a, __m512i b, __m512i c) {
  const EmulatedLanes x = emulated_lanes(a), y = emulated_lanes(b), z = emulated_lanes(c);
  EmulatedLanes out;
  for (int lane = 0; lane < 16; ++lane) {
    uint32_t bits = 0;
    for (int row = 0; row < 8; ++row) {
      if (!(kTable >> row & 1)) continue;
      const auto matches = [row](int32_t v, int place) { return static_cast<uint32_t>(row >> place & 1 ? v : ~v); };
      bits |= matches(x.i32[lane], 2) & matches(y.i32[lane], 1) & matches(z.i32[lane], 0);
    }
    out.i32[lane] = static_cast<int32_t>(bits);
  }
  return out.integers;
}

ASSAY_EMULATED __m512 emulated_set1(float value) {
  return emulated_floats([&](int) { return _mm256_set1_ps(value); });
}
ASSAY_EMULATED __m512i emulated_set1_epi32(int value) {
  return emulated_integers([&](int) { return _mm256_set1_epi32(value); });
}
ASSAY_EMULATED __m512i emulated_set1_epi16(short value) {
  return emulated_integers([&](int) { return _mm256_set1_epi16(value); });
}
ASSAY_EMULATED __m512 emulated_load(const void* from) {
  EmulatedLanes out;
  memcpy(&out, from, sizeof out);
  return out.floats;
}
ASSAY_EMULATED void emulated_store(void* to, EmulatedLanes v) { memcpy(to, &v, sizeof v); }

ASSAY_EMULATED __m512 emulated_fma(__m512 a, __m512 b, __m512 c) {
  const EmulatedLanes x = emulated_lanes(a), y = emulated_lanes(b), z = emulated_lanes(c);
  return emulated_floats([&](int half) { return _mm256_fmadd_ps(x.f[half], y.f[half], z.f[half]); });
}
ASSAY_EMULATED __m512 emulated_abs(__m512 a) {
  const EmulatedLanes x = emulated_lanes(a);
  return emulated_floats([&](int half) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.f[half]); });
}
template <int kMode>
ASSAY_EMULATED __m512 emulated_roundscale(__m512 a) {
  static_assert(kMode >> 4 == 0);  // to whole numbers
  const EmulatedLanes x = emulated_lanes(a);
  return emulated_floats([&](int half) { return _mm256_round_ps(x.f[half], kMode); });
}
// a * 2^floor(b), rounded once.
ASSAY_EMULATED __m512 emulated_scalef(__m512 a, __m512 b) {
  const EmulatedLanes x = emulated_lanes(a), y = emulated_lanes(b);
  EmulatedLanes out;
  bool is_plain = true;  // every power of two is a normal number
  for (int lane = 0; lane < 16; ++lane) is_plain &= y.f32[lane] >= -126.0f && y.f32[lane] < 128.0f;
  for (int lane = 0; lane < 16; ++lane) {
    const float power = floorf(y.f32[lane]);
    if (is_plain) {
      const int32_t bits = (static_cast<int32_t>(power) + 127) << 23;
      float factor;
      memcpy(&factor, &bits, sizeof factor);
      out.f32[lane] = x.f32[lane] * factor;
    } else if (isnan(power)) {
      out.f32[lane] = power;
    } else {
      out.f32[lane] = scalbnf(x.f32[lane], static_cast<int>(fminf(fmaxf(power, -400.0f), 400.0f)));
    }
  }
  return out.floats;
}
template <int kPredicate>
ASSAY_EMULATED __mmask16 emulated_cmp(__m512 a, __m512 b) {
  const EmulatedLanes x = emulated_lanes(a), y = emulated_lanes(b);
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(x.f[0], y.f[0], kPredicate));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(x.f[1], y.f[1], kPredicate));
  return static_cast<__mmask16>(low | high << 8);
}
// All bits of a lane whose bit of `mask` is set.
ASSAY_EMULATED __m256i emulated_lane_mask(int mask) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask), bit), bit);
}
ASSAY_EMULATED __m512 emulated_blend(__mmask16 mask, __m512 a, __m512 b) {
  const EmulatedLanes x = emulated_lanes(a), y = emulated_lanes(b);
  return emulated_floats([&](int half) {
    return _mm256_blendv_ps(x.f[half], y.f[half], _mm256_castsi256_ps(emulated_lane_mask(mask >> 8 * half)));
  });
}
ASSAY_EMULATED __m512i emulated_blend(__mmask16 mask, __m512i a, __m512i b) {
  EmulatedLanes out{.floats = emulated_blend(mask, emulated_lanes(a).floats, emulated_lanes(b).floats)};
  return out.integers;
}

// Masked loads and stores touch no byte of a lane that is masked out: it may lie on a page that is not there.
ASSAY_EMULATED __m512 emulated_load_masked(__mmask16 mask, const float* from) {
  return emulated_floats(
      [&](int half) { return _mm256_maskload_ps(from + 8 * half, emulated_lane_mask(mask >> 8 * half)); });
}
ASSAY_EMULATED void emulated_store_masked(float* to, __mmask16 mask, __m512 v) {
  const EmulatedLanes x = emulated_lanes(v);
  for (int half = 0; half < 2; ++half) {
    _mm256_maskstore_ps(to + 8 * half, emulated_lane_mask(mask >> 8 * half), x.f[half]);
  }
}
ASSAY_EMULATED __m256i emulated_load_masked_epi16(__mmask16 mask, const void* from) {
  alignas(32) uint16_t out[16];
  for (int lane = 0; lane < 16; ++lane) {
    out[lane] = 0;
    if (mask >> lane & 1) memcpy(&out[lane], static_cast<const char*>(from) + 2 * lane, 2);
  }
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(out));
}
ASSAY_EMULATED void emulated_store_masked_epi16(void* to, __mmask16 mask, __m256i v) {
  alignas(32) uint16_t from[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(from), v);
  for (int lane = 0; lane < 16; ++lane) {
    if (mask >> lane & 1) memcpy(static_cast<char*>(to) + 2 * lane, &from[lane], 2);
  }
}
ASSAY_EMULATED __m256i emulated_load_masked_epi32(__mmask8 mask, const void* from) {
  return _mm256_maskload_epi32(static_cast<const int*>(from), emulated_lane_mask(mask));
}

ASSAY_EMULATED __m512i emulated_cvtps_epi32(__m512 a) {
  const EmulatedLanes x = emulated_lanes(a);
  return emulated_integers([&](int half) { return _mm256_cvtps_epi32(x.f[half]); });
}
ASSAY_EMULATED __m512 emulated_cvtepi32_ps(__m512i a) {
  const EmulatedLanes x = emulated_lanes(a);
  return emulated_floats([&](int half) { return _mm256_cvtepi32_ps(x.i[half]); });
}
ASSAY_EMULATED __m512i emulated_cvtepu16_epi32(__m256i a) {
  return emulated_integers([&](int half) {
    return _mm256_cvtepu16_epi32(half == 0 ? _mm256_castsi256_si128(a) : _mm256_extracti128_si256(a, 1));
  });
}
// Truncation, not saturation.
ASSAY_EMULATED __m256i emulated_cvtepi32_epi16(__m512i a) {
  const EmulatedLanes x = emulated_lanes(a);
  alignas(32) int16_t out[16];
  for (int lane = 0; lane < 16; ++lane) out[lane] = static_cast<int16_t>(x.i32[lane]);
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(out));
}
ASSAY_EMULATED __m128i emulated_cvtepi32_epi8(__m512i a) {
  const EmulatedLanes x = emulated_lanes(a);
  alignas(16) int8_t out[16];
  for (int lane = 0; lane < 16; ++lane) out[lane] = static_cast<int8_t>(x.i32[lane]);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(out));
}

// The compilers' tree: halves, quarters, then pairs within a quarter.
template <typename T, typename Op>
ASSAY_EMULATED T emulated_reduce(const T (&lanes)[16], Op op) {
  T v[16];
  memcpy(v, lanes, sizeof v);
  for (int width = 8; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) v[lane] = op(v[lane + width], v[lane]);
  }
  return v[0];
}
ASSAY_EMULATED float emulated_reduce_add(__m512 a) {
  return emulated_reduce(emulated_lanes(a).f32, [](float x, float y) { return x + y; });
}
ASSAY_EMULATED float emulated_reduce_max(__m512 a) {
  return emulated_reduce(emulated_lanes(a).f32, [](float x, float y) { return x > y ? x : y; });
}
ASSAY_EMULATED int32_t emulated_reduce_max(__m512i a) {
  return emulated_reduce(emulated_lanes(a).i32, [](int32_t x, int32_t y) { return x > y ? x : y; });
}

// bfloat16. Denormals count as zeros, going in and coming out.
ASSAY_EMULATED __m256 emulated_without_denormals(__m256 v) {
  const __m256i exponent = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7F800000));
  const __m256i is_zero = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
  const __m256i sign = _mm256_set1_epi32(INT32_MIN);
  return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_or_si256(sign, _mm256_xor_si256(is_zero, _mm256_set1_epi32(-1)))));
}
// To nearest even, in the low half of each lane; a NaN stays one.
ASSAY_EMULATED __m256i emulated_bf16_lanes(__m256 v) {
  const __m256i bits = _mm256_castps_si256(emulated_without_denormals(v));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7FFF));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
}
// 16 lanes of emulated_bf16_lanes side by side.
ASSAY_EMULATED __m256i emulated_cvtneps(__m512 a) {
  const EmulatedLanes x = emulated_lanes(a);
  const __m256i packed = _mm256_packus_epi32(emulated_bf16_lanes(x.f[0]), emulated_bf16_lanes(x.f[1]));
  return _mm256_permute4x64_epi64(packed, 0xD8);  // the pack interleaves quarters
}
ASSAY_EMULATED __m512bh emulated_cvtne2ps(__m512 high, __m512 low) {
  EmulatedLanes out;
  out.i[0] = emulated_cvtneps(low);
  out.i[1] = emulated_cvtneps(high);
  return out.bf16_pairs;
}
ASSAY_EMULATED __m256bh emulated_cvtne2ps_half(__m256 high, __m256 low) {
  EmulatedLanes both;
  both.f[0] = low;
  both.f[1] = high;
  return reinterpret_cast<__m256bh>(emulated_cvtneps(both.floats));
}
// sum + a[2i + 1] b[2i + 1], then + a[2i] b[2i], each rounded once.
ASSAY_EMULATED __m512 emulated_dpbf16(__m512 sum, __m512bh a, __m512bh b) {
  const EmulatedLanes total = emulated_lanes(sum), x = emulated_lanes(a), y = emulated_lanes(b);
  const auto odd = [](__m256i pairs) {
    return emulated_without_denormals(
        _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xFFFF0000)))));
  };
  const auto even = [](__m256i pairs) {
    return emulated_without_denormals(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)));
  };
  return emulated_floats([&](int half) {
    const __m256 before = emulated_without_denormals(total.f[half]);
    const __m256 between = emulated_without_denormals(_mm256_fmadd_ps(odd(x.i[half]), odd(y.i[half]), before));
    return emulated_without_denormals(_mm256_fmadd_ps(even(x.i[half]), even(y.i[half]), between));
  });
}

// sum + the four products of a lane's unsigned bytes of `a` with its signed bytes of `b`, exact.
ASSAY_EMULATED __m512i emulated_dpbusd(__m512i sum, __m512i a, __m512i b) {
  const EmulatedLanes total = emulated_lanes(sum), x = emulated_lanes(a), y = emulated_lanes(b);
  return emulated_integers([&](int half) {
    const __m256i x_even = _mm256_and_si256(x.i[half], _mm256_set1_epi16(0xFF));
    const __m256i x_odd = _mm256_srli_epi16(x.i[half], 8);
    const __m256i y_even = _mm256_srai_epi16(_mm256_slli_epi16(y.i[half], 8), 8);
    const __m256i y_odd = _mm256_srai_epi16(y.i[half], 8);
    const __m256i products = _mm256_add_epi32(_mm256_madd_epi16(x_even, y_even), _mm256_madd_epi16(x_odd, y_odd));
    return _mm256_add_epi32(total.i[half], products);
  });
}

#define _mm512_abs_ps(a) emulated_abs(a)
#define _mm512_add_epi16(a, b) emulated_add_epi16(a, b)
#define _mm512_add_epi32(a, b) emulated_add_epi32(a, b)
#define _mm512_add_ps(a, b) emulated_add_ps(a, b)
#define _mm512_and_si512(a, b) emulated_and_si256(a, b)
#define _mm512_castps_si512(a) emulated_lanes(a).integers
#define _mm512_castsi512_ps(a) emulated_lanes(a).floats
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask(a, b, predicate) emulated_cmp<predicate>(a, b)
#define _mm512_cvtepi32_epi16(a) emulated_cvtepi32_epi16(a)
#define _mm512_cvtepi32_epi8(a) emulated_cvtepi32_epi8(a)
#define _mm512_cvtepi32_ps(a) emulated_cvtepi32_ps(a)
#define _mm512_cvtepu16_epi32(a) emulated_cvtepu16_epi32(a)
#define _mm512_cvtps_epi32(a) emulated_cvtps_epi32(a)
#define _mm512_div_ps(a, b) emulated_div_ps(a, b)
#define _mm512_fmadd_ps(a, b, c) emulated_fma(a, b, c)
#define _mm512_loadu_ps(from) emulated_load(from)
#define _mm512_loadu_si512(from) emulated_lanes(emulated_load(from)).integers
#define _mm512_madd_epi16(a, b) emulated_madd_epi16(a, b)
#define _mm512_maddubs_epi16(a, b) emulated_maddubs_epi16(a, b)
#define _mm512_mask_blend_epi32(mask, a, b) emulated_blend(mask, a, b)
#define _mm512_mask_blend_ps(mask, a, b) emulated_blend(mask, a, b)
#define _mm512_mask_storeu_ps(to, mask, v) emulated_store_masked(to, mask, v)
#define _mm512_maskz_loadu_ps(mask, from) emulated_load_masked(mask, from)
#define _mm512_max_epi32(a, b) emulated_max_epi32(a, b)
#define _mm512_max_ps(a, b) emulated_max_ps(a, b)
#define _mm512_min_ps(a, b) emulated_min_ps(a, b)
#define _mm512_mul_ps(a, b) emulated_mul_ps(a, b)
#define _mm512_or_si512(a, b) emulated_or_si256(a, b)
#define _mm512_reduce_add_ps(a) emulated_reduce_add(a)
#define _mm512_reduce_max_epi32(a) emulated_reduce_max(a)
#define _mm512_reduce_max_ps(a) emulated_reduce_max(a)
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps(a, mode) emulated_roundscale<(mode)>(a)
#define _mm512_scalef_ps(a, b) emulated_scalef(a, b)
#define _mm512_set1_epi16(value) emulated_set1_epi16(value)
#define _mm512_set1_epi32(value) emulated_set1_epi32(value)
#define _mm512_set1_ps(value) emulated_set1(value)
#define _mm512_setzero_ps() emulated_set1(0.0f)
#define _mm512_setzero_si512() emulated_set1_epi32(0)
#undef _mm512_slli_epi32
#define _mm512_slli_epi32(a, bits) emulated_shift_left(a, bits)
#define _mm512_sqrt_ps(a) emulated_sqrt_ps(a)
#undef _mm512_srli_epi32
#define _mm512_srli_epi32(a, bits) emulated_shift_right(a, bits)
#define _mm512_storeu_ps(to, v) emulated_store(to, emulated_lanes(v))
#define _mm512_storeu_si512(to, v) emulated_store(to, emulated_lanes(v))
#define _mm512_sub_ps(a, b) emulated_sub_ps(a, b)
#undef _mm512_ternarylogic_epi32
#define _mm512_ternarylogic_epi32(a, b, c, table) emulated_ternarylogic<table>(a, b, c)
#define _mm256_maskz_loadu_epi16(mask, from) emulated_load_masked_epi16(mask, from)
#define _mm256_maskz_loadu_epi32(mask, from) emulated_load_masked_epi32(mask, from)
#define _mm256_mask_storeu_epi16(to, mask, v) emulated_store_masked_epi16(to, mask, v)
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512DQ__ 1

#if defined(ASSAY_EMULATED_AVX512_BF16)
#define _mm512_cvtne2ps_pbh(high, low) emulated_cvtne2ps(high, low)
#define _mm256_cvtne2ps_pbh(high, low) emulated_cvtne2ps_half(high, low)
#define _mm512_cvtneps_pbh(a) emulated_cvtneps(a)
#define _mm512_dpbf16_ps(sum, a, b) emulated_dpbf16(sum, a, b)
#define _mm512_dpbusd_epi32(sum, a, b) emulated_dpbusd(sum, a, b)
#define __AVX512BF16__ 1
#define __AVX512VNNI__ 1
#endif
