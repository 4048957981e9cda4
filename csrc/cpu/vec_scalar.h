// The vector type of the portable path: one float32 lane. Interface: see vec_avx512.h.
#pragma once

#include <math.h>
#include <string.h>

constexpr int kVecWidth = 1;
using Vec = float;

inline Vec vec_zero() { return 0.0f; }
inline Vec vec_set1(float value) { return value; }
inline Vec vec_load(const float* source) { return *source; }
inline Vec vec_load_n(const float* source, int n) { return n > 0 ? *source : 0.0f; }
inline void vec_store(float* target, Vec v) { *target = v; }
inline void vec_store_n(float* target, Vec v, int n) {
  if (n > 0) *target = v;
}
inline Vec vec_add(Vec a, Vec b) { return a + b; }
inline Vec vec_sub(Vec a, Vec b) { return a - b; }
inline Vec vec_mul(Vec a, Vec b) { return a * b; }
inline Vec vec_div(Vec a, Vec b) { return a / b; }
inline Vec vec_max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec vec_min(Vec a, Vec b) { return a < b ? a : b; }
// Not fmaf: without hardware FMA it is a slow library call. Kernels are compiled with -ffp-contract=off, so
// the portable path rounds the same way on every compiler.
inline Vec vec_fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec vec_sqrt(Vec v) { return sqrtf(v); }
inline Vec vec_round(Vec v) { return rintf(v); }
inline Vec vec_pow2i(Vec v) {
  const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<std::int32_t>(v) + 127) << 23;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}
inline Vec vec_abs(Vec v) { return fabsf(v); }
inline Vec vec_copysign(Vec magnitude, Vec sign) { return copysignf(magnitude, sign); }
inline Vec vec_select_lt(Vec a, Vec b, Vec x, Vec y) { return a < b ? x : y; }
inline float vec_sum(Vec v) { return v; }
inline float vec_max_of(Vec v) { return v; }

inline Vec vec_load_bf16(const bfloat16* source) {
  const std::uint32_t bits = static_cast<std::uint32_t>(*source) << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}
inline Vec vec_load_bf16_n(const bfloat16* source, int n) { return n > 0 ? vec_load_bf16(source) : 0.0f; }
inline void vec_store_bf16(bfloat16* target, Vec v) {
  std::uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  // Rounding could carry a NaN's payload into infinity: NaNs become the quiet NaN of the same sign instead.
  const std::uint32_t rounded = v != v ? bits | 0x00400000u : bits + 0x7FFFu + ((bits >> 16) & 1u);
  *target = static_cast<bfloat16>(rounded >> 16);
}
inline void vec_store_bf16_n(bfloat16* target, Vec v, int n) {
  if (n > 0) vec_store_bf16(target, v);
}
