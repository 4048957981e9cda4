// classifier_head. Included inside an ISA's namespace after vec_math.h and gemm.h (linear); includes only its kin.
#pragma once

#include "cpu/parallel_rows.h"

// v - v is 0 for a finite v and NaN for the rest. Added to a score, it keeps an overflowed logit from passing for a
// confident one: sigmoid(+inf) is NaN here, not 1.
inline Vec nan_unless_finite(Vec v) { return vec_sub(v, v); }

inline float max_logit(const float* row, std::int64_t num_cols) {
  Vec lanes = vec_set1(row[0]);
  std::int64_t col = 0;
  for (; col + kVecWidth <= num_cols; col += kVecWidth) lanes = vec_max(lanes, vec_load(row + col));
  float best = vec_max_of(lanes);
  for (; col < num_cols; ++col) best = row[col] > best ? row[col] : best;
  return best;
}

inline void softmax_row(float* row, std::int64_t num_cols) {
  // Subtract the row max first: exp overflows float32 above 88.
  const Vec max = vec_set1(max_logit(row, num_cols));
  Vec sums = vec_zero(), poison = vec_zero();
  for_each_vec(num_cols, [&](std::int64_t col, std::int64_t n) {
    const Vec logits = load_lanes(row + col, n);
    poison = vec_add(poison, nan_unless_finite(logits));
    store_lanes(row + col, vec_exp(vec_sub(logits, max)), n);
    sums = vec_add(sums, load_lanes(row + col, n));  // read back: lanes past the end are 0 again
  });
  const Vec sum = vec_set1(vec_sum(sums) + vec_sum(poison));
  for_each_vec(num_cols, [&](std::int64_t col, std::int64_t n) {
    store_lanes(row + col, vec_div(load_lanes(row + col, n), sum), n);
  });
}

inline void sigmoid_row(float* row, std::int64_t num_cols) {
  for_each_vec(num_cols, [&](std::int64_t col, std::int64_t n) {
    const Vec logits = load_lanes(row + col, n);
    store_lanes(row + col, vec_add(vec_sigmoid(logits), nan_unless_finite(logits)), n);
  });
}

// score = activation((logit - mean) / sigma), in place.
inline void score_row(const ClassifierHeadParams& p, std::int64_t row_idx, std::int64_t num_labels) {
  float* row = p.out + row_idx * num_labels;
  const Vec mean = vec_set1(p.logit_mean), sigma = vec_set1(p.logit_sigma);
  for_each_vec(num_labels, [&](std::int64_t col, std::int64_t n) {
    store_lanes(row + col, vec_div(vec_sub(load_lanes(row + col, n), mean), sigma), n);
  });
  switch (p.row_activations[row_idx]) {
    case HeadActivation::kIdentity:
      break;
    case HeadActivation::kSigmoid:
      sigmoid_row(row, num_labels);
      break;
    case HeadActivation::kSoftmax:
      softmax_row(row, num_labels);
      break;
  }
}

// out = activation(x @ weight^T + bias), all float32, rows end to end.
inline void head_linear(const float* x, const PackedWeightView& weight, Activation activation, float* out,
                        std::int64_t num_rows, ThreadPool& pool) {
  linear({.x = x,
          .x_dtype = DType::kFloat32,
          .x_stride = weight.in_features,
          .weight = weight,
          .activation = activation,
          .residual = nullptr,
          .residual_stride = 0,
          .out = out,
          .out_dtype = DType::kFloat32,
          .out_stride = weight.out_features,
          .num_tokens = num_rows},
         pool);
}

void classifier_head(const ClassifierHeadParams& params, ThreadPool& pool) {
  const ClassifierHeadParams& p = params;
  const float* features = p.pooled;
  if (p.has_dense) {
    head_linear(features, p.dense, p.dense_activation, p.dense_buffer, p.num_rows, pool);
    features = p.dense_buffer;
  }
  head_linear(features, p.classifier, Activation::kNone, p.out, p.num_rows, pool);
  constexpr std::int64_t kRowsPerPiece = 64;
  const std::int64_t num_labels = p.classifier.out_features;
  // An exp costs some four times what a load and a store do.
  parallel_rows(pool, p.num_rows, kRowsPerPiece, p.num_rows * num_labels * 4,
                [&](std::int64_t first, std::int64_t last) {
                  for (std::int64_t row = first; row < last; ++row) score_row(p, row, num_labels);
                });
}
