// The vector type of the AVX-512 paths: 16 float32 lanes. Included inside a kernel file's own namespace, never
// elsewhere: every function is local to that file (see docs/kernels.md, "one interface, one file per ISA").
//
// The interface that vec_scalar.h, vec_avx2.h and vec_avx512.h share:
//   Vec, kVecWidth; vec_zero, vec_set1, vec_load, vec_load_n (first n lanes, the rest 0), vec_store, vec_store_n,
//   vec_add/sub/mul/div/max/min, vec_fma(a, b, c) = a*b + c with one rounding, vec_sqrt, vec_round (to nearest even),
//   vec_pow2i(v) = 2^v for integral v in [-126, 127], vec_abs, vec_copysign(magnitude, sign),
//   vec_select_lt(a, b, x, y) = a < b ? x : y per lane (false on NaN), vec_sum, vec_max_of (fixed trees),
//   vec_load_bf16(_n), vec_store_bf16(_n) (round to nearest even, NaN stays NaN).
#pragma once

#include <immintrin.h>

constexpr int kVecWidth = 16;
using Vec = __m512;

inline __mmask16 lane_mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

inline Vec vec_zero() { return _mm512_setzero_ps(); }
inline Vec vec_set1(float value) { return _mm512_set1_ps(value); }
inline Vec vec_load(const float* source) { return _mm512_loadu_ps(source); }
inline Vec vec_load_n(const float* source, int n) { return _mm512_maskz_loadu_ps(lane_mask(n), source); }
inline void vec_store(float* target, Vec v) { _mm512_storeu_ps(target, v); }
inline void vec_store_n(float* target, Vec v, int n) { _mm512_mask_storeu_ps(target, lane_mask(n), v); }
inline Vec vec_add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec vec_sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec vec_mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec vec_div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec vec_max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec vec_min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec vec_fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec vec_sqrt(Vec v) { return _mm512_sqrt_ps(v); }
inline Vec vec_round(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec vec_pow2i(Vec v) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
inline Vec vec_abs(Vec v) { return _mm512_abs_ps(v); }
inline Vec vec_copysign(Vec magnitude, Vec sign) {
  const __m512i mask = _mm512_set1_epi32(INT32_MIN);
  return _mm512_castsi512_ps(
      _mm512_ternarylogic_epi32(mask, _mm512_castps_si512(sign), _mm512_castps_si512(magnitude), 0xCA));
}
inline Vec vec_select_lt(Vec a, Vec b, Vec x, Vec y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
inline float vec_sum(Vec v) { return _mm512_reduce_add_ps(v); }
inline float vec_max_of(Vec v) { return _mm512_reduce_max_ps(v); }

inline Vec vec_from_bf16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Vec vec_load_bf16(const bfloat16* source) {
  return vec_from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}
inline Vec vec_load_bf16_n(const bfloat16* source, int n) {
  return vec_from_bf16(_mm256_maskz_loadu_epi16(lane_mask(n), source));
}
#if defined(__AVX512BF16__)
// One instruction; unlike the long form it rounds denormals to zero.
inline __m256i vec_to_bf16(Vec v) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)); }
#else
inline __m256i vec_to_bf16(Vec v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7FFF));
  // Rounding could carry a NaN's payload into infinity: NaNs become the quiet NaN of the same sign instead.
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, quiet), 16));
}
#endif
inline void vec_store_bf16(bfloat16* target, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), vec_to_bf16(v));
}
inline void vec_store_bf16_n(bfloat16* target, Vec v, int n) {
  _mm256_mask_storeu_epi16(target, lane_mask(n), vec_to_bf16(v));
}
#if defined(__AVX512BF16__)
// 32 neighbours, of which `low` are the first 16, rounded as vec_store_bf16 does.
inline void vec_store_bf16_pair(bfloat16* target, Vec low, Vec high) {
  _mm512_storeu_si512(target, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
}
#endif
