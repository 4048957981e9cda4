// A warp's arithmetic on tensor cores: float16 or bfloat16 in, float32 sums (mma m16n8k16).
//
// In the fragments lane l holds rows l / 4 and l / 4 + 8 of 16, and columns 2 (l % 4) and the next of every 8.
#pragma once

#include "cuda/attention_walk.cuh"
#include "cuda/convert.cuh"

namespace assay::cuda {

// Two weights as one register of T. The rounded ones are what is summed, so that the weights of a row add up to 1.
template <typename T>
__device__ inline std::uint32_t round_weights(float low, float high, float& sum) {
  const std::uint32_t bits = pack_pair<T>(low, high);
  const float2 rounded = unpack_pair<T>(bits);
  sum += rounded.x + rounded.y;
  return bits;
}

template <typename T, int kTilingIdx>
struct MmaTile {
  using Element = T;
  static constexpr AttentionTiling kTiling = kHalfAttentionTilings[kTilingIdx];
  static constexpr int kDepths = kTiling.head_dim / 16;
  static constexpr int kKeySteps = kTiling.key_tile / 16;
  static constexpr int kRows = 2;  // of a lane
  static constexpr int kCols = 4 * kKeySteps;
  static constexpr int kRowLanes = 4;  // lanes that share a row
  static constexpr int kRowBytes = kTiling.row_bytes;

  std::uint32_t queries[kDepths][4];
  std::uint32_t weights[kKeySteps][4];
  float scores[2 * kKeySteps][4];
  float sums[2 * kDepths][4];
  float highest[kRows] = {-INFINITY, -INFINITY};
  float sum[kRows] = {};  // of this lane's weights
  int lane;

  __device__ MmaTile(int lane, unsigned char*) : lane(lane) {
    for (int i = 0; i < 2 * kDepths; ++i) {
      for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
    }
  }

  __device__ int row(int r) const { return lane / 4 + 8 * r; }
  __device__ int key(int c) const { return 8 * (c / 2) + 2 * (lane % 4) + c % 2; }
  __device__ float& score(int r, int c) { return scores[c / 2][2 * r + c % 2]; }

  // Absolute error 2e-7, below the rounding of a score to T.
  __device__ static float tanh(float x) {
    return 1.0f - 2.0f * reciprocal_approx(exp2_approx(2.0f * kLog2E * x) + 1.0f);
  }

  __device__ void load_queries(const T* rows, int stride, int num_rows, int head_dim) {
    for (int r = 0; r < kRows; ++r) {
      const T* source = rows + row(r) * stride + 2 * (lane % 4);
      for (int i = 0; i < 2 * kDepths; ++i) {
        const bool is_valid = row(r) < num_rows && 8 * i < head_dim;
        queries[i / 2][2 * (i % 2) + r] = is_valid ? *reinterpret_cast<const std::uint32_t*>(source + 8 * i) : 0u;
      }
    }
  }

  __device__ void compute_scores(const unsigned char* keys, int) {
    // ldmatrix: lanes 0 to 7 name the rows of the first of four 8 x 8 matrices, and so on: keys 0 to 7 at depths 0 to 7
    // and 8 to 15, then keys 8 to 15.
    const unsigned char* source = keys + (lane / 16 * 8 + lane % 8) * kRowBytes + lane / 8 % 2 * 16;
    for (int i = 0; i < 2 * kKeySteps; ++i) {
      for (int j = 0; j < 4; ++j) scores[i][j] = 0.0f;
    }
#pragma unroll
    for (int depth = 0; depth < kDepths; ++depth) {
#pragma unroll
      for (int step = 0; step < kKeySteps; ++step) {
        std::uint32_t fragment[4];
        ldmatrix_x4(fragment, source + step * 16 * kRowBytes + depth * 32);
        const std::uint32_t low[2] = {fragment[0], fragment[1]}, high[2] = {fragment[2], fragment[3]};
        mma_m16n8k16<T>(scores[2 * step], queries[depth], low);
        mma_m16n8k16<T>(scores[2 * step + 1], queries[depth], high);
      }
    }
  }

  __device__ void shrink(int r, float factor) {
#pragma unroll
    for (int i = 0; i < 2 * kDepths; ++i) {
      sums[i][2 * r] *= factor;
      sums[i][2 * r + 1] *= factor;
    }
    sum[r] *= factor;
  }

  // The scores are weights by now. Two neighbouring score fragments are one weight fragment.
  __device__ void take_weights() {
#pragma unroll
    for (int i = 0; i < 2 * kKeySteps; ++i) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        weights[i / 2][2 * (i % 2) + r] = round_weights<T>(scores[i][2 * r], scores[i][2 * r + 1], sum[r]);
      }
    }
  }

  __device__ void add_values(const unsigned char* values) {
    // Transposed: keys 0 to 7, then 8 to 15, at columns 0 to 7; the same at columns 8 to 15.
    const unsigned char* source = values + (lane / 8 % 2 * 8 + lane % 8) * kRowBytes + lane / 16 * 16;
#pragma unroll
    for (int step = 0; step < kKeySteps; ++step) {
#pragma unroll
      for (int depth = 0; depth < kDepths; ++depth) {
        std::uint32_t fragment[4];
        ldmatrix_x4_trans(fragment, source + step * 16 * kRowBytes + depth * 32);
        const std::uint32_t low[2] = {fragment[0], fragment[1]}, high[2] = {fragment[2], fragment[3]};
        mma_m16n8k16<T>(sums[2 * depth], weights[step], low);
        mma_m16n8k16<T>(sums[2 * depth + 1], weights[step], high);
      }
    }
  }

  __device__ void store(T* rows, int stride, int num_rows, int head_dim, const float (&factor)[kRows],
                        const bool (&sees_keys)[kRows]) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row(r) >= num_rows) continue;
      T* target = rows + row(r) * stride + 2 * (lane % 4);
#pragma unroll
      for (int i = 0; i < 2 * kDepths; ++i) {
        const std::uint32_t bits = pack_pair<T>(sums[i][2 * r] * factor[r], sums[i][2 * r + 1] * factor[r]);
        if (8 * i < head_dim) *reinterpret_cast<std::uint32_t*>(target + 8 * i) = sees_keys[r] ? bits : 0u;
      }
    }
  }
};

}  // namespace assay::cuda
