// One transformer block on the device: the formulas stand at TransformerLayerParams in common/params.h. Host code only.
#pragma once

#include "common/params.h"
#include "cuda/product.h"

namespace assay::cuda {

// Weights and settings; pointers are device memory that somebody else keeps alive.
struct TransformerLayer {
  Product qkv;       // [(num_heads + 2 * num_kv_heads) * head_dim, hidden_size]
  Product attn_out;  // [hidden_size, num_heads * head_dim]
  Product mlp_up;    // [intermediate_size, hidden_size]; may be gated
  Product mlp_down;  // [hidden_size, intermediate_size]
  NormView attn_in_norm;
  NormView attn_out_norm;
  NormView attn_residual_norm;
  NormView mlp_in_norm;
  NormView mlp_out_norm;
  NormView mlp_residual_norm;
  const float* q_norm_weight = nullptr;  // [head_dim] or nullptr
  const float* k_norm_weight = nullptr;
  float epsilon = 0.0f;
  bool is_gated = false;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float softmax_scale = 0.0f;
  bool is_causal = false;
  std::int64_t window_left = -1;
  std::int64_t window_right = -1;
  float soft_cap = 0.0f;
  int rotary_dim = 0;
  bool is_rotary_interleaved = false;

  // Throws std::invalid_argument where the parts do not fit each other.
  void check() const;
  std::int64_t hidden_size() const { return attn_out.weight.out_features; }
  std::int64_t q_size() const { return static_cast<std::int64_t>(num_heads) * head_dim; }
  std::int64_t kv_size() const { return static_cast<std::int64_t>(num_kv_heads) * head_dim; }
  std::int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
  DType dtype() const { return qkv.weight.dtype; }
};

// A batch whose true size is cu_seqlens[num_seqs] tokens, at most max_tokens, and is read on the device.
struct LayerBatch {
  float* hidden_states = nullptr;            // [max_tokens, hidden_size], in and out
  const std::int32_t* cu_seqlens = nullptr;  // [num_seqs + 1]
  std::int64_t num_seqs = 0;
  std::int64_t max_tokens = 0;
  std::int64_t max_seqlen = 0;
  const std::int32_t* position_ids = nullptr;  // [max_tokens]; these three are unread where rotary_dim is 0
  const float* cos = nullptr;                  // [num_positions, rotary_dim / 2]
  const float* sin = nullptr;
  const std::int32_t* rows = nullptr;  // [num_seqs] or nullptr: as in TransformerLayerParams
  float* rows_out = nullptr;           // [num_seqs, hidden_size]
  void* schedule = nullptr;   // of attention over cu_seqlens, built already; nullptr: built here. Unread with rows
  void* workspace = nullptr;  // transformer_layer_workspace_size bytes, 256-byte aligned
};

// Room for the full layer and for rows alike.
std::int64_t transformer_layer_workspace_size(const TransformerLayer& layer, std::int64_t max_tokens,
                                              std::int64_t num_seqs);

void launch_transformer_layer(const TransformerLayer& layer, const LayerBatch& batch, cudaStream_t stream);

}  // namespace assay::cuda
