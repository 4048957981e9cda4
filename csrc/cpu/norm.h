// layer_norm and rms_norm. Included inside an ISA's namespace after its vec_*.h; includes only its kin.
#pragma once

#include "cpu/parallel_rows.h"

// Independent partial sums: enough to hide the latency of an add, and shorter chains round less.
constexpr int kSumVecs = kVecWidth == 1 ? 16 : 4;
alignas(64) constexpr float kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// Folds add(sum, col, n) over a row, in an order fixed by hidden_size.
template <typename Add>
inline float sum_over_row(std::int64_t hidden_size, const Add& add) {
  Vec sums[kSumVecs];
#pragma GCC unroll 16
  for (int i = 0; i < kSumVecs; ++i) sums[i] = vec_zero();
  std::int64_t col = 0;
  for (; col + kSumVecs * kVecWidth <= hidden_size; col += kSumVecs * kVecWidth) {
#pragma GCC unroll 16
    for (int i = 0; i < kSumVecs; ++i) sums[i] = add(sums[i], col + i * kVecWidth, std::int64_t{kVecWidth});
  }
  for (; col + kVecWidth <= hidden_size; col += kVecWidth) sums[0] = add(sums[0], col, std::int64_t{kVecWidth});
  if (col < hidden_size) sums[1] = add(sums[1], col, hidden_size - col);
#pragma GCC unroll 16
  for (int step = kSumVecs / 2; step > 0; step /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < step; ++i) sums[i] = vec_add(sums[i], sums[i + step]);
  }
  return vec_sum(sums[0]);
}

// out = (x + residual - mean) / sqrt(variance + epsilon) * weight + bias for one row; residual and bias may be nullptr,
// out may alias x or residual. The variance is the mean of squared deviations: E[x^2] - mean^2 would cancel.
inline void layer_norm_row(const float* x, const float* residual, const float* weight, const float* bias, float epsilon,
                           std::int64_t hidden_size, float* out) {
  if (residual != nullptr) {
    for_each_vec(hidden_size, [&](std::int64_t col, std::int64_t n) {
      store_lanes(out + col, vec_add(load_lanes(x + col, n), load_lanes(residual + col, n)), n);
    });
    x = out;
  }
  const float size = static_cast<float>(hidden_size);
  const float sum = sum_over_row(
      hidden_size, [&](Vec total, std::int64_t col, std::int64_t n) { return vec_add(total, load_lanes(x + col, n)); });
  const Vec mean = vec_set1(sum / size);
  const float squares = sum_over_row(hidden_size, [&](Vec total, std::int64_t col, std::int64_t n) {
    // Lanes past the end load 0 and must not add mean^2.
    const Vec center = n >= kVecWidth ? mean : vec_mul(mean, load_lanes(kOnes, n));
    const Vec deviation = vec_sub(load_lanes(x + col, n), center);
    return vec_fma(deviation, deviation, total);
  });
  const Vec inverse_std = vec_div(vec_set1(1.0f), vec_sqrt(vec_set1(squares / size + epsilon)));
  for_each_vec(hidden_size, [&](std::int64_t col, std::int64_t n) {
    const Vec normed = vec_mul(vec_sub(load_lanes(x + col, n), mean), inverse_std);
    const Vec scale = load_lanes(weight + col, n);
    store_lanes(out + col, bias == nullptr ? vec_mul(normed, scale) : vec_fma(normed, scale, load_lanes(bias + col, n)),
                n);
  });
}

// out = x / sqrt(mean(x^2) + epsilon) * weight for one row; out may alias x.
inline void rms_norm_row(const float* x, const float* weight, float epsilon, std::int64_t hidden_size, float* out) {
  const float squares = sum_over_row(hidden_size, [&](Vec total, std::int64_t col, std::int64_t n) {
    const Vec v = load_lanes(x + col, n);
    return vec_fma(v, v, total);
  });
  const Vec mean = vec_set1(squares / static_cast<float>(hidden_size) + epsilon);
  const Vec inverse = vec_div(vec_set1(1.0f), vec_sqrt(mean));
  for_each_vec(hidden_size, [&](std::int64_t col, std::int64_t n) {
    store_lanes(out + col, vec_mul(vec_mul(load_lanes(x + col, n), inverse), load_lanes(weight + col, n)), n);
  });
}

// Whichever of the two; out may alias x.
inline void norm_row(const NormView& norm, const float* x, std::int64_t hidden_size, float* out) {
  if (norm.kind == NormKind::kRms) return rms_norm_row(x, norm.weight, norm.epsilon, hidden_size, out);
  layer_norm_row(x, nullptr, norm.weight, norm.bias, norm.epsilon, hidden_size, out);
}

constexpr std::int64_t kNormRowsPerPiece = 16;

void layer_norm(const LayerNormParams& params, ThreadPool& pool) {
  const LayerNormParams& p = params;
  parallel_rows(pool, p.num_rows, kNormRowsPerPiece, p.num_rows * p.hidden_size,
                [&](std::int64_t first, std::int64_t last) {
                  for (std::int64_t row = first; row < last; ++row) {
                    const std::int64_t at = row * p.hidden_size;
                    layer_norm_row(p.x + at, p.residual == nullptr ? nullptr : p.residual + at, p.weight, p.bias,
                                   p.epsilon, p.hidden_size, p.out + at);
                  }
                });
}

void rms_norm(const RmsNormParams& params, ThreadPool& pool) {
  const RmsNormParams& p = params;
  parallel_rows(pool, p.num_rows, kNormRowsPerPiece, p.num_rows * p.hidden_size,
                [&](std::int64_t first, std::int64_t last) {
                  for (std::int64_t row = first; row < last; ++row) {
                    const std::int64_t at = row * p.hidden_size;
                    rms_norm_row(p.x + at, p.weight, p.epsilon, p.hidden_size, p.out + at);
                  }
                });
}
