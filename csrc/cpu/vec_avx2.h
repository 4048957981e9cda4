// The vector type of the AVX2 path: 8 float32 lanes. Interface: see vec_avx512.h.
#pragma once

#include <immintrin.h>

constexpr int kVecWidth = 8;
using Vec = __m256;

alignas(32) constexpr std::int32_t kLaneTable[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
inline __m256i lane_mask(int n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneTable + kVecWidth - n));
}

inline Vec vec_zero() { return _mm256_setzero_ps(); }
inline Vec vec_set1(float value) { return _mm256_set1_ps(value); }
inline Vec vec_load(const float* source) { return _mm256_loadu_ps(source); }
inline Vec vec_load_n(const float* source, int n) { return _mm256_maskload_ps(source, lane_mask(n)); }
inline void vec_store(float* target, Vec v) { _mm256_storeu_ps(target, v); }
inline void vec_store_n(float* target, Vec v, int n) { _mm256_maskstore_ps(target, lane_mask(n), v); }
inline Vec vec_add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec vec_sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec vec_mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec vec_div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec vec_max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec vec_min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec vec_fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec vec_sqrt(Vec v) { return _mm256_sqrt_ps(v); }
inline Vec vec_round(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec vec_pow2i(Vec v) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline Vec vec_abs(Vec v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
inline Vec vec_copysign(Vec magnitude, Vec sign) {
  const __m256 mask = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_and_ps(mask, sign), _mm256_andnot_ps(mask, magnitude));
}
inline Vec vec_select_lt(Vec a, Vec b, Vec x, Vec y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
inline float vec_sum(Vec v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float vec_max_of(Vec v) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

inline Vec vec_from_bf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Vec vec_load_bf16(const bfloat16* source) {
  return vec_from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}
inline Vec vec_load_bf16_n(const bfloat16* source, int n) {
  alignas(16) bfloat16 lanes[kVecWidth] = {};
  for (int i = 0; i < n; ++i) lanes[i] = source[i];
  return vec_load_bf16(lanes);
}
inline __m128i vec_to_bf16(Vec v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7FFF));
  // Rounding could carry a NaN's payload into infinity: NaNs become the quiet NaN of the same sign instead.
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i words = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
inline void vec_store_bf16(bfloat16* target, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), vec_to_bf16(v));
}
inline void vec_store_bf16_n(bfloat16* target, Vec v, int n) {
  alignas(16) bfloat16 lanes[kVecWidth];
  vec_store_bf16(lanes, v);
  for (int i = 0; i < n; ++i) target[i] = lanes[i];
}
