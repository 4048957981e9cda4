// Softmax over one tile of keys for a block of query rows, online across tiles. Included inside an ISA's namespace
// after attention_pack.h.
//
// Exponents are in units of log2: probs = 2^(scores * scale_log2 - max), with scale_log2 = softmax_scale * log2(e).
#pragma once

// 2^f on [-0.5, 0.5], exactly 1 at 0: relative error 8e-8, and 3e-6 for probs that are rounded to bfloat16 anyway.
constexpr float kExp2Terms[] = {1.0f,           6.93147182e-1f, 2.40226477e-1f, 5.55033237e-2f,
                                9.61843692e-3f, 1.33988739e-3f, 1.53533620e-4f};
constexpr float kExp2CoarseTerms[] = {1.0f, 6.93124175e-1f, 2.40240991e-1f, 5.59064262e-2f, 9.58285294e-3f};

// 2^t for t <= 0 (a rounding error above is fine); below -126 it is 2^-126, NaN stays NaN.
template <int kNumTerms>
inline Vec exp2_of_nonpositive(Vec t, const float (&terms)[kNumTerms]) {
  t = vec_max(vec_set1(-126.0f), t);  // in this order a NaN in t survives
  const Vec whole = vec_round(t);
  const Vec power = vec_polynomial(vec_sub(t, whole), terms);
#if defined(__AVX512F__)
  return _mm512_scalef_ps(power, whole);
#else
  return vec_mul(power, vec_pow2i(whole));
#endif
}

alignas(64) constexpr float kLaneIndex[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// v where lane < n, other elsewhere.
inline Vec first_lanes(Vec v, std::int64_t n, Vec other) {
  return vec_select_lt(vec_load(kLaneIndex), vec_set1(static_cast<float>(n)), v, other);
}

// Rows of a block, in whole vectors.
constexpr int kStateRows = (kAttentionRows + kVecWidth - 1) / kVecWidth * kVecWidth;

struct SoftmaxState {
  SoftmaxState() {
    for (int r = 0; r < kStateRows; ++r) {
      max[r] = -__builtin_inff();
      sum[r] = 0.0f;
      carry[r] = 0.0f;
    }
  }
  alignas(64) float max[kStateRows];    // of the scores so far, unscaled
  alignas(64) float sum[kStateRows];    // of the probs so far
  alignas(64) float carry[kStateRows];  // what the last tile's new maximum scales older sums by
};

// A row's scores stand kBlockUnits at a time, kBlockFloats apart. Only the last visible ones need lanes masked.
// The first num_hidden do not count.
inline float row_max(const float* scores, std::int64_t num_hidden, std::int64_t num_visible) {
  Vec best = vec_set1(-__builtin_inff());
  std::int64_t left = num_visible;
  for (std::int64_t hidden = num_hidden; hidden > 0; hidden -= kBlockUnits) {
    for (int i = 0; i < kBlockUnits; i += kVecWidth) {
      const Vec until = first_lanes(vec_load(scores + i), left - i, best);
      best = vec_max(best, first_lanes(best, hidden - i, until));
    }
    left -= kBlockUnits;
    scores += kBlockFloats;
  }
  for (; left >= kBlockUnits; left -= kBlockUnits, scores += kBlockFloats) {
    for (int i = 0; i < kBlockUnits; i += kVecWidth) best = vec_max(best, vec_load(scores + i));
  }
  for (int i = 0; i < left; i += kVecWidth) {
    best = vec_max(best, first_lanes(vec_load(scores + i), left - i, best));
  }
  return vec_max_of(best);
}

// Scores -> probs in place; probs of the first num_hidden keys and of those from num_visible to num_keys are zero.
// Returns the sum of the probs.
template <typename Operand>
float row_probs(float* scores, std::int64_t num_hidden, std::int64_t num_visible, std::int64_t num_keys,
                float scale_log2, float max) {
  const Vec scale = vec_set1(scale_log2);
  const Vec shift = vec_set1(-(max * scale_log2));
  Vec sum = vec_zero();
  std::int64_t key = 0;
  for (; key < num_hidden; key += kBlockUnits, scores += kBlockFloats) {
    for (int i = 0; i < kBlockUnits; i += kVecWidth) {
      Vec probs = exp2_of_nonpositive(vec_fma(vec_load(scores + i), scale, shift), kExp2Terms);
      probs = first_lanes(probs, num_visible - key - i, vec_zero());
      probs = first_lanes(vec_zero(), num_hidden - key - i, probs);
      sum = vec_add(sum, probs);
      vec_store(scores + i, probs);
    }
  }
  for (; key + kBlockUnits <= num_visible; key += kBlockUnits, scores += kBlockFloats) {
    for (int i = 0; i < kBlockUnits; i += kVecWidth) {
      const Vec probs = exp2_of_nonpositive(vec_fma(vec_load(scores + i), scale, shift), kExp2Terms);
      sum = vec_add(sum, probs);
      vec_store(scores + i, probs);
    }
  }
  for (; key < num_keys; key += kBlockUnits, scores += kBlockFloats) {
    for (int i = 0; i < kBlockUnits; i += kVecWidth) {
      Vec probs = exp2_of_nonpositive(vec_fma(vec_load(scores + i), scale, shift), kExp2Terms);
      probs = first_lanes(probs, num_visible - key - i, vec_zero());
      sum = vec_add(sum, probs);
      vec_store(scores + i, probs);
    }
  }
  return vec_sum(sum);
}

#if defined(__AVX512BF16__)
// Probs are rounded to bfloat16 pairs. Their sum is taken after the rounding: the weights of a row add up to one.
template <>
float row_probs<PairOperand>(float* scores, std::int64_t num_hidden, std::int64_t num_visible, std::int64_t num_keys,
                             float scale_log2, float max) {
  const Vec scale = vec_set1(scale_log2);
  const Vec shift = vec_set1(-(max * scale_log2));
  const __m512bh ones = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3F803F80));
  const auto probs_of = [&](const float* at) __attribute__((always_inline)) {
    return exp2_of_nonpositive(vec_fma(vec_load(at), scale, shift), kExp2CoarseTerms);
  };
  Vec sum = vec_zero();
  const auto put = [&](float* at, Vec low, Vec high) __attribute__((always_inline)) {
    const __m512bh pairs = _mm512_cvtne2ps_pbh(high, low);
    sum = _mm512_dpbf16_ps(sum, pairs, ones);
    _mm512_storeu_si512(at, reinterpret_cast<__m512i>(pairs));
  };
  float* pairs = scores;
  std::int64_t key = 0;
  const auto windowed = [&](const float* at, std::int64_t first) __attribute__((always_inline)) {
    const Vec probs = first_lanes(probs_of(at), num_visible - first, vec_zero());
    return first_lanes(vec_zero(), num_hidden - first, probs);
  };
  for (; key < num_hidden; key += 2 * kBlockUnits) {
    put(pairs, windowed(scores, key), windowed(scores + kBlockFloats, key + kBlockUnits));
    scores += 2 * kBlockFloats;
    pairs += kBlockFloats;
  }
  for (; key + 2 * kBlockUnits <= num_visible; key += 2 * kBlockUnits) {
    put(pairs, probs_of(scores), probs_of(scores + kBlockFloats));
    scores += 2 * kBlockFloats;
    pairs += kBlockFloats;
  }
  for (; key < num_keys; key += 2 * kBlockUnits) {
    const std::int64_t left = num_visible - key;
    const Vec low = first_lanes(probs_of(scores), left, vec_zero());
    put(pairs, low,
        left <= kBlockUnits ? vec_zero()
                            : first_lanes(probs_of(scores + kBlockFloats), left - kBlockUnits, vec_zero()));
    scores += 2 * kBlockFloats;
    pairs += kBlockFloats;
  }
  return vec_sum(sum);
}
#endif

// scores = cap * tanh(scores * scale / cap), in place.
inline void cap_scores(float* scores, int num_rows, std::int64_t num_keys, float scale, float cap) {
  const Vec inner = vec_set1(scale / cap);
  const Vec outer = vec_set1(cap);
  for (std::int64_t key = 0; key < num_keys; key += kBlockUnits, scores += kBlockFloats) {
    for (int i = 0; i < num_rows * kBlockUnits; i += kVecWidth) {
      vec_store(scores + i, vec_mul(outer, vec_tanh(vec_mul(vec_load(scores + i), inner))));
    }
  }
}

// Scores of num_keys keys -> probs, and state.carry. Of the tile's keys, row r sees those from hidden[r] (at most
// num_keys) to visible[r]; none where that is no more.
template <typename Operand>
void softmax_tile(float* scores, int num_rows, const std::int64_t* hidden, const std::int64_t* visible,
                  std::int64_t num_keys, float scale_log2, SoftmaxState& state) {
  alignas(64) float tile_sum[kStateRows] = {};
  for (int r = 0; r < num_rows; ++r) {
    const float tile_max = row_max(scores + r * kBlockUnits, hidden[r], visible[r]);
    const float max = tile_max > state.max[r] ? tile_max : state.max[r];
    state.carry[r] = visible[r] > hidden[r] ? (state.max[r] - max) * scale_log2 : 0.0f;
    state.max[r] = max;
  }
  for (int r = 0; r < num_rows; ++r) {
    tile_sum[r] =
        row_probs<Operand>(scores + r * kBlockUnits, hidden[r], visible[r], num_keys, scale_log2, state.max[r]);
  }
  for (int r = 0; r < kStateRows; r += kVecWidth) {
    const Vec carry = exp2_of_nonpositive(vec_load(state.carry + r), kExp2Terms);
    vec_store(state.carry + r, carry);
    vec_store(state.sum + r, vec_fma(vec_load(state.sum + r), carry, vec_load(tile_sum + r)));
  }
}

#if defined(__AVX2__) && !defined(__AVX512F__)
#include "cpu/attention_softmax_avx2.h"
#endif
