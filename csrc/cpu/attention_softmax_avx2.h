// Softmax over a tile that every row of a block sees whole, on AVX2: rows side by side instead of one after the other.
// The same bits as softmax_tile: which of the two a row meets depends on the rows beside it. Included inside the AVX2
// namespace by attention_softmax.h; includes nothing.
#pragma once

// exp2_of_nonpositive of several vectors, step by step: the steps of one chain wait for each other, and the core looks
// only so far ahead for other work.
template <int kNumVecs>
[[gnu::always_inline]] inline void exp2_side_by_side(Vec (&t)[kNumVecs]) {
  constexpr int kLastTerm = sizeof kExp2Terms / sizeof kExp2Terms[0] - 1;
  Vec whole[kNumVecs];
  Vec power[kNumVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kNumVecs; ++i) t[i] = vec_max(vec_set1(-126.0f), t[i]);
#pragma GCC unroll 8
  for (int i = 0; i < kNumVecs; ++i) whole[i] = vec_round(t[i]);
#pragma GCC unroll 8
  for (int i = 0; i < kNumVecs; ++i) t[i] = vec_sub(t[i], whole[i]);
#pragma GCC unroll 8
  for (int i = 0; i < kNumVecs; ++i) whole[i] = vec_pow2i(whole[i]);
#pragma GCC unroll 8
  for (int i = 0; i < kNumVecs; ++i) power[i] = vec_set1(kExp2Terms[kLastTerm]);
#pragma GCC unroll 8
  for (int term = kLastTerm - 1; term >= 0; --term) {
#pragma GCC unroll 8
    for (int i = 0; i < kNumVecs; ++i) power[i] = vec_fma(power[i], t[i], vec_set1(kExp2Terms[term]));
  }
#pragma GCC unroll 8
  for (int i = 0; i < kNumVecs; ++i) t[i] = vec_mul(power[i], whole[i]);
}

// Lane r: op over the lanes of rows[r], in the order of vec_sum and vec_max_of. Lanes 6 and 7 repeat others.
template <typename Op>
[[gnu::always_inline]] inline Vec reduce_rows(const Vec (&rows)[kFmaRows], Op op) {
  static_assert(kFmaRows == 6);
  Vec halves[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const Vec other = r < 2 ? rows[r + 4] : rows[r];
    halves[r] = op(_mm256_permute2f128_ps(rows[r], other, 0x20), _mm256_permute2f128_ps(rows[r], other, 0x31));
  }
  const Vec low = op(_mm256_unpacklo_ps(halves[0], halves[1]), _mm256_unpackhi_ps(halves[0], halves[1]));
  const Vec high = op(_mm256_unpacklo_ps(halves[2], halves[3]), _mm256_unpackhi_ps(halves[2], halves[3]));
  const __m256d a = _mm256_castps_pd(low);
  const __m256d b = _mm256_castps_pd(high);
  return op(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
}

// Lane r: the maximum of row r.
inline Vec whole_max(const float* scores, std::int64_t num_keys) {
  Vec best[kFmaRows];
#pragma GCC unroll 8
  for (int r = 0; r < kFmaRows; ++r) best[r] = vec_set1(-__builtin_inff());
  std::int64_t left = num_keys;
  for (; left >= kBlockUnits; left -= kBlockUnits, scores += kBlockFloats) {
#pragma GCC unroll 8
    for (int r = 0; r < kFmaRows; ++r) {
      const float* row = scores + r * kBlockUnits;
      best[r] = vec_max(vec_max(best[r], vec_load(row)), vec_load(row + kVecWidth));
    }
  }
  for (; left > 0; left -= kVecWidth, scores += kVecWidth) {
#pragma GCC unroll 8
    for (int r = 0; r < kFmaRows; ++r) {
      best[r] = vec_max(best[r], first_lanes(vec_load(scores + r * kBlockUnits), left, best[r]));
    }
  }
  return reduce_rows(best, vec_max);
}

// Scores of kNumRows rows -> probs, and their sums by lane.
template <int kNumRows>
inline void whole_probs(float* scores, std::int64_t num_keys, Vec scale, const float* shifts, Vec* sums) {
  Vec sum[kNumRows];
  Vec shift[kNumRows];
#pragma GCC unroll 8
  for (int r = 0; r < kNumRows; ++r) {
    sum[r] = vec_zero();
    shift[r] = vec_set1(shifts[r]);
  }
  std::int64_t left = num_keys;
  for (; left >= kBlockUnits; left -= kBlockUnits, scores += kBlockFloats) {
    Vec t[2 * kNumRows];
#pragma GCC unroll 8
    for (int i = 0; i < 2 * kNumRows; ++i) t[i] = vec_fma(vec_load(scores + i * kVecWidth), scale, shift[i / 2]);
    exp2_side_by_side(t);
#pragma GCC unroll 8
    for (int i = 0; i < 2 * kNumRows; ++i) {
      vec_store(scores + i * kVecWidth, t[i]);
      sum[i / 2] = vec_add(sum[i / 2], t[i]);
    }
  }
  for (; left > 0; left -= kVecWidth, scores += kVecWidth) {
    Vec t[kNumRows];
#pragma GCC unroll 8
    for (int r = 0; r < kNumRows; ++r) t[r] = vec_fma(vec_load(scores + r * kBlockUnits), scale, shift[r]);
    exp2_side_by_side(t);
#pragma GCC unroll 8
    for (int r = 0; r < kNumRows; ++r) {
      t[r] = first_lanes(t[r], left, vec_zero());
      vec_store(scores + r * kBlockUnits, t[r]);
      sum[r] = vec_add(sum[r], t[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kNumRows; ++r) sums[r] = sum[r];
}

// Scores of num_keys keys -> probs, and state.carry. Rows past num_rows are stale scratch; what is made of them is not
// read.
inline void softmax_whole_tile(float* scores, int num_rows, std::int64_t num_keys, float scale_log2,
                               SoftmaxState& state) {
  static_assert(kStateRows == kVecWidth && kBlockUnits == 2 * kVecWidth);
  const Vec scale = vec_set1(scale_log2);
  const Vec old_max = vec_load(state.max);
  const Vec max = vec_max(whole_max(scores, num_keys), old_max);  // in this order a NaN does not stay
  alignas(32) float shifts[kStateRows];
  vec_store(state.max, max);
  vec_store(shifts, vec_mul(max, vec_set1(-scale_log2)));
  constexpr int kSideBySide = 2;
  Vec sums[kFmaRows];
#pragma GCC unroll 3
  for (int r = 0; r < kFmaRows; r += kSideBySide) {
    if (r < num_rows) {
      whole_probs<kSideBySide>(scores + r * kBlockUnits, num_keys, scale, shifts + r, sums + r);
    } else {
      sums[r] = sums[r + 1] = vec_zero();
    }
  }
  const Vec carry = exp2_of_nonpositive(vec_mul(vec_sub(old_max, max), scale), kExp2Terms);
  vec_store(state.carry, carry);
  vec_store(state.sum, vec_fma(vec_load(state.sum), carry, reduce_rows(sums, vec_add)));
}
