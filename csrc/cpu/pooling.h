// pool: one row per sequence. Included inside an ISA's namespace after its vec_*.h; includes only its kin.
#pragma once

#include "cpu/parallel_rows.h"

constexpr int kMeanVecs = kVecWidth == 1 ? 16 : 4;  // columns summed side by side, in vectors
// Tokens are summed in blocks of this many and the blocks' sums in order: the rounding error grows with
// kMeanBlock + num_tokens / kMeanBlock instead of num_tokens.
constexpr std::int64_t kMeanBlock = 32;

// The mean over tokens [first, last) of kVecs vectors of columns, the last of them n lanes wide.
template <int kVecs>
inline void mean_columns(const PoolParams& p, std::int64_t first, std::int64_t last, std::int64_t col, std::int64_t n,
                         float* out) {
  Vec total[kVecs];
#pragma GCC unroll 16
  for (int i = 0; i < kVecs; ++i) total[i] = vec_zero();
  for (std::int64_t begin = first; begin < last; begin += kMeanBlock) {
    const std::int64_t end = begin + kMeanBlock < last ? begin + kMeanBlock : last;
    Vec sum[kVecs];
#pragma GCC unroll 16
    for (int i = 0; i < kVecs; ++i) sum[i] = vec_zero();
    for (std::int64_t token = begin; token < end; ++token) {
      const float* row = p.hidden_states + token * p.hidden_stride + col;
#pragma GCC unroll 16
      for (int i = 0; i < kVecs; ++i) {
        sum[i] = vec_add(sum[i], load_lanes(row + i * kVecWidth, i + 1 < kVecs ? kVecWidth : n));
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kVecs; ++i) total[i] = vec_add(total[i], sum[i]);
  }
  const Vec count = vec_set1(static_cast<float>(last - first));
#pragma GCC unroll 16
  for (int i = 0; i < kVecs; ++i) {
    store_lanes(out + col + i * kVecWidth, vec_div(total[i], count), i + 1 < kVecs ? kVecWidth : n);
  }
}

inline void pool_mean(const PoolParams& p, ThreadPool& pool) {
  constexpr std::int64_t kColsPerItem = kMeanVecs * kVecWidth;
  const std::int64_t items_per_seq = (p.hidden_size + kColsPerItem - 1) / kColsPerItem;
  const std::int64_t num_tokens = p.cu_seqlens[p.num_seqs] - p.cu_seqlens[0];
  parallel_rows(pool, p.num_seqs * items_per_seq, items_per_seq < 4 ? items_per_seq : 4, num_tokens * p.hidden_size,
                [&](std::int64_t begin, std::int64_t end) {
                  for (std::int64_t item = begin; item < end; ++item) {
                    const std::int64_t seq = item / items_per_seq;
                    const std::int64_t first = p.cu_seqlens[seq], last = p.cu_seqlens[seq + 1];
                    float* out = p.out + seq * p.hidden_size;
                    std::int64_t col = item % items_per_seq * kColsPerItem;
                    if (col + kColsPerItem <= p.hidden_size) {
                      mean_columns<kMeanVecs>(p, first, last, col, kVecWidth, out);
                      continue;
                    }
                    for (; col < p.hidden_size; col += kVecWidth) {
                      mean_columns<1>(p, first, last, col, p.hidden_size - col, out);
                    }
                  }
                });
}

inline void pool_one_token(const PoolParams& p, ThreadPool& pool) {
  constexpr std::int64_t kSeqsPerPiece = 16;
  parallel_rows(pool, p.num_seqs, kSeqsPerPiece, p.num_seqs * p.hidden_size, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t seq = begin; seq < end; ++seq) {
      const std::int64_t token = p.pooling == Pooling::kCls ? p.cu_seqlens[seq] : p.cu_seqlens[seq + 1] - 1;
      memcpy(p.out + seq * p.hidden_size, p.hidden_states + token * p.hidden_stride,
             static_cast<std::size_t>(p.hidden_size) * sizeof(float));
    }
  });
}

void pool(const PoolParams& params, ThreadPool& pool) {
  params.pooling == Pooling::kMean ? pool_mean(params, pool) : pool_one_token(params, pool);
}
