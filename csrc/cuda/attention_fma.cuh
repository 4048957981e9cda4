// A warp's arithmetic in float32, without TF32: lane l has rows l / 8, l / 8 + 4, .. of 16, and every eighth key or
// group of four columns from l % 8 on.
#pragma once

#include "cuda/attention_walk.cuh"

namespace assay::cuda {

template <int kTilingIdx>
struct FmaTile {
  using Element = float;
  static constexpr AttentionTiling kTiling = kFloatAttentionTilings[kTilingIdx];
  static constexpr int kRows = 4;
  static constexpr int kCols = kTiling.key_tile / 8;
  static constexpr int kRowLanes = 8;
  static constexpr int kGroups = kTiling.head_dim / 32;  // of four columns, per lane
  static constexpr int kRowBytes = kTiling.row_bytes;

  static constexpr int kWeightStride = kTiling.key_tile + kFloatWeightsPadding;

  const float* queries[kRows];
  float* weights;  // [16, kWeightStride], of this warp
  float scores[kRows][kCols];
  float sums[kRows][kGroups][4];
  float highest[kRows];
  float sum[kRows];  // of this lane's weights
  int lane;

  __device__ FmaTile(int lane, unsigned char* scratch) : weights(reinterpret_cast<float*>(scratch)), lane(lane) {
    for (int r = 0; r < kRows; ++r) {
      highest[r] = -INFINITY;
      sum[r] = 0.0f;
      for (int g = 0; g < kGroups; ++g) {
        for (int i = 0; i < 4; ++i) sums[r][g][i] = 0.0f;
      }
    }
  }

  __device__ int row(int r) const { return lane / 8 + 4 * r; }
  __device__ int key(int c) const { return lane % 8 + 8 * c; }
  __device__ float& score(int r, int c) { return scores[r][c]; }
  __device__ static float tanh(float x) { return tanhf(x); }

  // Queries are read again for every tile, from the L1 cache. A row that is not there is row 0, and never stored.
  __device__ void load_queries(const float* rows, int stride, int num_rows, int) {
    for (int r = 0; r < kRows; ++r) queries[r] = rows + (row(r) < num_rows ? row(r) : 0) * stride;
  }

  __device__ void compute_scores(const unsigned char* keys, int head_dim) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kCols; ++c) scores[r][c] = 0.0f;
    }
#pragma unroll 1
    for (int col = 0; col < head_dim; col += 4) {
      float4 x[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) x[r] = *reinterpret_cast<const float4*>(queries[r] + col);
#pragma unroll
      for (int c = 0; c < kCols; ++c) {
        const float4 y = *reinterpret_cast<const float4*>(keys + key(c) * kRowBytes + col * 4);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          float& score = scores[r][c];
          score = fmaf(x[r].w, y.w, fmaf(x[r].z, y.z, fmaf(x[r].y, y.y, fmaf(x[r].x, y.x, score))));
        }
      }
    }
  }

  __device__ void shrink(int r, float factor) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[r][g][i] *= factor;
    }
    sum[r] *= factor;
  }

  // To shared memory: a lane needs the weights of all keys of its rows.
  __device__ void take_weights() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kCols; ++c) {
        weights[row(r) * kWeightStride + key(c)] = scores[r][c];
        sum[r] += scores[r][c];
      }
    }
    __syncwarp();
  }

  __device__ void add_values(const unsigned char* values) {
#pragma unroll 1
    for (int key = 0; key < kTiling.key_tile; ++key) {
      float weight[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) weight[r] = weights[row(r) * kWeightStride + key];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const float4 y = *reinterpret_cast<const float4*>(values + key * kRowBytes + (lane % 8 + 8 * g) * 16);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          sums[r][g][0] = fmaf(weight[r], y.x, sums[r][g][0]);
          sums[r][g][1] = fmaf(weight[r], y.y, sums[r][g][1]);
          sums[r][g][2] = fmaf(weight[r], y.z, sums[r][g][2]);
          sums[r][g][3] = fmaf(weight[r], y.w, sums[r][g][3]);
        }
      }
    }
    __syncwarp();  // before the next tile's weights
  }

  __device__ void store(float* rows, int stride, int num_rows, int head_dim, const float (&factor)[kRows],
                        const bool (&sees_keys)[kRows]) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row(r) >= num_rows) continue;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const int col = (lane % 8 + 8 * g) * 4;
        float4 y = {0.0f, 0.0f, 0.0f, 0.0f};
        if (sees_keys[r]) {
          y = {sums[r][g][0] * factor[r], sums[r][g][1] * factor[r], sums[r][g][2] * factor[r],
               sums[r][g][3] * factor[r]};
        }
        if (col < head_dim) *reinterpret_cast<float4*>(rows + row(r) * stride + col) = y;
      }
    }
  }
};

}  // namespace assay::cuda
