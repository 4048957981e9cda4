// exp, tanh, erf, sigmoid and softplus on a Vec. Included inside an ISA's namespace after its vec_*.h; includes
// nothing. Every ISA evaluates the same formulas. Coefficients: tools/fit_vec_math.py. Where a product meets a sum,
// vec_fma is spelled out, so that no compiler may contract one copy of a function and not another.
#pragma once

#if defined(__AVX512F__)
// 32 registers keep coefficients from one vector of a loop to the next; called, a function loads them again.
#define ASSAY_VEC_MATH [[gnu::always_inline]] inline
#else
#define ASSAY_VEC_MATH inline
#endif

constexpr float kExpTerms[] = {4.999999404e-01f, 1.666652113e-01f, 4.166827351e-02f, 8.368685842e-03f,
                               1.382013550e-03f};
constexpr float kErfTerms[] = {3.649194241e-01f, -1.821501106e-01f, 1.354509741e-01f, -1.099660248e-01f,
                               9.074409306e-02f, -7.349073142e-02f, 5.725520104e-02f, -4.202929139e-02f,
                               2.845696919e-02f, -1.874660701e-02f, 1.277258713e-02f, -6.823669653e-03f,
                               1.912698848e-03f, -1.275405171e-03f, 1.709874137e-03f, -6.754818605e-04f};
constexpr float kLog1pTerms[] = {8.333301544e-02f, 1.250679232e-02f, 2.187395701e-03f, 5.473898491e-04f};
constexpr float kErfMax = 3.875f, kErfScale = 1.331945956e-01f;

constexpr float kLog2e = 1.44269504f;
// ln 2 in two parts: the high one has 10 bits, so its product with a whole number below 2^14 is exact without FMA.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// terms[0] + terms[1] x + ...; unrolled by the compiler, every step one vec_fma.
template <int kNumTerms>
ASSAY_VEC_MATH Vec vec_polynomial(Vec x, const float (&terms)[kNumTerms]) {
  Vec sum = vec_set1(terms[kNumTerms - 1]);
#pragma GCC unroll 16
  for (int i = kNumTerms - 2; i >= 0; --i) sum = vec_fma(sum, x, vec_set1(terms[i]));
  return sum;
}

// The same, neighbours first, then pairs, then fours: a chain of log2 steps where Horner's waits for every term.
template <int kNumTerms>
ASSAY_VEC_MATH Vec vec_estrin(Vec x, const float (&terms)[kNumTerms]) {
  static_assert(kNumTerms == 16);
  Vec sums[kNumTerms / 2];
#pragma GCC unroll 8
  for (int i = 0; i < kNumTerms / 2; ++i) {
    sums[i] = vec_fma(vec_set1(terms[2 * i + 1]), x, vec_set1(terms[2 * i]));
  }
#pragma GCC unroll 3
  for (int left = kNumTerms / 4; left >= 1; left /= 2) {
    x = vec_mul(x, x);
#pragma GCC unroll 8
    for (int i = 0; i < left; ++i) sums[i] = vec_fma(sums[2 * i + 1], x, sums[2 * i]);
  }
  return sums[0];
}

// exp(x) = 2^exponent * (1 + reduced_expm1), exponent whole, |reduced| <= ln(2) / 2.
struct ExpParts {
  Vec exponent;
  Vec reduced_expm1;
};

ASSAY_VEC_MATH ExpParts vec_exp_parts(Vec x) {
  const Vec exponent = vec_round(vec_mul(x, vec_set1(kLog2e)));
  Vec reduced = vec_fma(exponent, vec_set1(-kLn2High), x);
  reduced = vec_fma(exponent, vec_set1(-kLn2Low), reduced);
  const Vec square = vec_mul(reduced, reduced);
  return {exponent, vec_fma(square, vec_polynomial(reduced, kExpTerms), reduced)};
}

// Within 2 ulp on [-87.3, 88.37]; gradual or 0 below, +inf above; NaN stays NaN. The clamps keep the exponent in
// [-127, 128], whose powers of two are 0 and +inf. vec_min and vec_max return their second operand on NaN.
ASSAY_VEC_MATH Vec vec_exp(Vec x) {
  const Vec clamped = vec_max(vec_set1(-88.0f), vec_min(vec_set1(89.0f), x));
  const ExpParts parts = vec_exp_parts(clamped);
  return vec_mul(vec_add(parts.reduced_expm1, vec_set1(1.0f)), vec_pow2i(parts.exponent));
}

// 1 / (1 + exp(-x)); 0 below -88.37.
ASSAY_VEC_MATH Vec vec_sigmoid(Vec x) {
  const Vec one = vec_set1(1.0f);
  return vec_div(one, vec_add(one, vec_exp(vec_sub(vec_zero(), x))));
}

// Through expm1(2|x|), so that small x keeps its relative accuracy: within 3 ulp everywhere.
ASSAY_VEC_MATH Vec vec_tanh(Vec x) {
  // tanh rounds to 1 in float32 from 9.02 on.
  const Vec doubled = vec_min(vec_set1(20.0f), vec_mul(vec_abs(x), vec_set1(2.0f)));
  const ExpParts parts = vec_exp_parts(doubled);
  const Vec power = vec_pow2i(parts.exponent);
  const Vec expm1 = vec_fma(parts.reduced_expm1, power, vec_sub(power, vec_set1(1.0f)));
  return vec_copysign(vec_div(expm1, vec_add(expm1, vec_set1(2.0f))), x);
}

// Absolute error below 2.7e-7, relative 2.8e-7; exactly 1 from kErfMax on; NaN stays NaN.
ASSAY_VEC_MATH Vec vec_erf(Vec x) {
  const Vec z = vec_max(vec_set1(-kErfMax), vec_min(vec_set1(kErfMax), x));
  const Vec u = vec_fma(vec_mul(z, z), vec_set1(kErfScale), vec_set1(-1.0f));
  return vec_mul(z, vec_estrin(u, kErfTerms));
}

// log(1 + exp(x)) as max(x, 0) + log(1 + t), t = exp(-|x|), so that it neither overflows nor loses digits where it is
// small: within 3 ulp from -87 on, 0 below -88.37; NaN stays NaN. log(1 + t) is the series of twice the inverse
// hyperbolic tangent of t / (2 + t).
inline Vec vec_softplus(Vec x) {
  const Vec t = vec_exp(vec_sub(vec_zero(), vec_abs(x)));
  const Vec s = vec_div(vec_add(t, t), vec_add(t, vec_set1(2.0f)));
  const Vec square = vec_mul(s, s);
  const Vec log1p = vec_fma(vec_mul(s, square), vec_polynomial(square, kLog1pTerms), s);
  return vec_add(vec_max(vec_zero(), x), log1p);  // in this order: vec_max returns its second operand on NaN
}
