// What the attention kernels get, and the launch function of each dtype. Private to attention_*.
#pragma once

#include <cuda_runtime.h>

#include "common/params.h"
#include "cuda/attention_schedule.h"

namespace assay::cuda {

constexpr int kUnlimitedWindow = 1 << 30;  // beyond any key; a position plus or minus it is still an int

struct AttentionKernelParams {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  int q_stride;  // elements, as below; the products with token numbers are 64 bits wide
  int k_stride;
  int v_stride;
  int out_stride;
  const std::int32_t* query_positions;  // or nullptr
  const float* alibi_slopes;            // or nullptr
  AttentionSchedule* schedule;
  bool takes_wide;  // false: launch_attention_hopper does
  int num_heads;
  int heads_per_kv_head;
  int head_dim;
  int window_left;   // a query at p sees keys p - window_left
  int window_right;  // to p + window_right; causality is in here
  float softmax_scale;
  float soft_cap;  // 0 = none
  float soft_cap_inverse;
  bool changes_scores;  // by a soft cap or slopes
  float log2_scale;     // of what softmax gets, for powers of two: softmax_scale is in it unless changes_scores
};

// `tiling_idx` is attention_tiling_idx() of the dtype.
void launch_attention_f16(const AttentionKernelParams& params, int tiling_idx, unsigned num_blocks,
                          cudaStream_t stream);
void launch_attention_bf16(const AttentionKernelParams& params, int tiling_idx, unsigned num_blocks,
                           cudaStream_t stream);
void launch_attention_f32(const AttentionKernelParams& params, int tiling_idx, unsigned num_blocks,
                          cudaStream_t stream);

}  // namespace assay::cuda
