// The elementwise functions a linear layer can end with. Included inside an ISA's namespace after vec_math.h; includes
// nothing. NaN goes through every one of them: a broken model must not look like a score.
#pragma once

// Choose with with_activation outside of loops; inside them the choice is a compile-time constant.
template <Activation kActivation>
inline Vec activate(Vec x) {
  const Vec one = vec_set1(1.0f);
  if constexpr (kActivation == Activation::kGeluErf) {
    const Vec half = vec_mul(x, vec_set1(0.5f));
    return vec_fma(half, vec_erf(vec_mul(x, vec_set1(0.70710678f))), half);
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    // x/2 (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3): one exp, and no cancellation below 0.
    const Vec cubic = vec_fma(vec_mul(x, x), vec_set1(-1.59576912f * 0.044715f), vec_set1(-1.59576912f));
    return vec_div(x, vec_add(one, vec_exp(vec_mul(x, cubic))));
  } else if constexpr (kActivation == Activation::kGeluQuick) {
    return vec_div(x, vec_add(one, vec_exp(vec_mul(x, vec_set1(-1.702f)))));
  } else if constexpr (kActivation == Activation::kRelu) {
    return vec_max(vec_zero(), x);  // in this order: vec_max returns its second operand on NaN
  } else if constexpr (kActivation == Activation::kSilu) {
    return vec_div(x, vec_add(one, vec_exp(vec_sub(vec_zero(), x))));
  } else if constexpr (kActivation == Activation::kTanh) {
    return vec_tanh(x);
  } else {
    return x;
  }
}

template <Activation kActivation>
struct ActivationTag {
  static constexpr Activation kValue = kActivation;
};

// Calls body(ActivationTag<...>{}) with the tag of `activation`: one switch, then straight code.
template <typename Body>
inline void with_activation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::kNone:
      return body(ActivationTag<Activation::kNone>{});
    case Activation::kGeluErf:
      return body(ActivationTag<Activation::kGeluErf>{});
    case Activation::kGeluTanh:
      return body(ActivationTag<Activation::kGeluTanh>{});
    case Activation::kGeluQuick:
      return body(ActivationTag<Activation::kGeluQuick>{});
    case Activation::kRelu:
      return body(ActivationTag<Activation::kRelu>{});
    case Activation::kSilu:
      return body(ActivationTag<Activation::kSilu>{});
    case Activation::kTanh:
      return body(ActivationTag<Activation::kTanh>{});
  }
}
