// Activations beside tile products. In halves of vectors where they are dense: multiply-adds on whole ones beside tile
// products make the CPU multiply tiles at five sixths of its rate, and go on doing so in what follows. Included inside
// an AMX namespace after activation.h, so it includes nothing.
#pragma once

// Vec, or half of one: the same operations in the same order, and so the same bits.
struct WholeLanes {
  using V = Vec;
  static V load(const float* from) { return vec_load(from); }
  static V set1(float value) { return vec_set1(value); }
  static V min(V a, V b) { return vec_min(a, b); }
  static V max(V a, V b) { return vec_max(a, b); }
  static V fma(V a, V b, V c) { return vec_fma(a, b, c); }
};
struct HalfLanes {
  using V = __m256;
  static V load(const float* from) { return _mm256_loadu_ps(from); }
  static V set1(float value) { return _mm256_set1_ps(value); }
  static V min(V a, V b) { return _mm256_min_ps(a, b); }
  static V max(V a, V b) { return _mm256_max_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
};

// For results that are rounded to bfloat16 or bytes next: gelu(x) = low (1/2 + t q(t^2)), low = x but at least
// -kGeluMax, t = low but at most kGeluMax, where q is exact. Off by at most 4.4e-5, for -3 < x < 3 by 1.7e-5 (root mean
// square), where rounding to bfloat16 costs 1.3e-3. Half the operations of an erf. Coefficients: tools/fit_vec_math.py.
constexpr float kGeluMax = 4.4f;
constexpr float kGeluTerms[] = {3.987616003e-01f,  -6.607642770e-02f, 9.643028490e-03f,
                                -1.054992550e-03f, 8.429301670e-05f,  -4.724868177e-06f,
                                1.740847324e-07f,  -3.754048628e-09f, 3.569428780e-11f};
template <typename Lanes>
[[gnu::always_inline]] inline typename Lanes::V gelu_rounded(typename Lanes::V x) {
  using V = typename Lanes::V;
  const V low = Lanes::max(Lanes::set1(-kGeluMax), x);  // in this order a NaN in x survives
  const V t = Lanes::min(Lanes::set1(kGeluMax), low);
  const V square = t * t;
  V sum = Lanes::set1(kGeluTerms[8]);
#pragma GCC unroll 8
  for (int i = 7; i >= 0; --i) sum = Lanes::fma(sum, square, Lanes::set1(kGeluTerms[i]));
  return low * Lanes::fma(t, sum, Lanes::set1(0.5f));
}
