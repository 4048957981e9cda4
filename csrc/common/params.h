// One plain struct per kernel: what a launch needs, already validated. No functions, no ownership.
// Shapes use the words of docs/kernels.md; strides count elements, not bytes.
#pragma once

#include "common/types.h"

namespace assay {

// A weight [out_features, in_features] laid out for one ISA's matrix kernel, with its bias.
// The layout belongs to the kernel table that packed it (`isa_idx`); nobody else reads `data`.
struct PackedWeightView {
  const void* data;
  const float* bias;  // [out_features] or nullptr
  std::int64_t out_features;
  std::int64_t in_features;
  Arithmetic arithmetic;
  int isa_idx;
  // Two matrices in one, gate and up: a product is activation(x gate^T + b) * (x up^T + c), and bias is [2,
  // out_features].
  bool is_gated = false;
};

// A norm over a row of hidden_size; weight nullptr = no norm.
struct NormView {
  NormKind kind = NormKind::kLayer;
  const float* weight = nullptr;  // [hidden_size]
  const float* bias = nullptr;    // [hidden_size] or nullptr; always nullptr for kRms
  float epsilon = 0.0f;
};

struct PackWeightParams {
  const void* weight;  // [out_features, in_features] row-major, contiguous; the gate of a gated weight
  const void* up;      // the other matrix of a gated weight, of the same shape, or nullptr
  DType weight_dtype;  // kFloat32 or kBFloat16
  std::int64_t out_features;
  std::int64_t in_features;
  Arithmetic arithmetic;
  void* packed;  // 64-byte aligned, packed_weight_size bytes, zeroed
};

// out = activation(x @ weight^T + bias) + residual; x is normalised first where input_norm has a weight.
struct LinearParams {
  const void* x;  // [num_tokens, in_features] float32 or bfloat16
  DType x_dtype;
  std::int64_t x_stride;
  PackedWeightView weight;
  Activation activation;
  const float* residual;  // [num_tokens, out_features] float32 or nullptr; may alias out
  std::int64_t residual_stride;
  void* out;  // [num_tokens, out_features] float32 or bfloat16
  DType out_dtype;
  std::int64_t out_stride;
  std::int64_t num_tokens;
  NormView input_norm = {};  // over in_features; x is then float32
};

// out = layer_norm(sum of the present tables' rows); a table that is absent is nullptr.
// Ids are checked against the table sizes by the caller.
struct EmbedParams {
  const std::int32_t* input_ids;       // [num_tokens]
  const std::int32_t* position_ids;    // [num_tokens]
  const std::int32_t* token_type_ids;  // [num_tokens] or nullptr = all zeros
  const void* word_embeddings;         // [vocab_size, hidden_size] in table_dtype
  const void* position_embeddings;     // [max_positions, hidden_size] or nullptr
  const void* token_type_embeddings;   // [type_vocab_size, hidden_size] or nullptr
  const void* task_type_embeddings;    // row 0 of ERNIE's table, [1, hidden_size], or nullptr
  DType table_dtype;                   // kFloat32 or kBFloat16; all tables share it
  const float* norm_weight;            // [hidden_size] or nullptr = no LayerNorm
  const float* norm_bias;              // [hidden_size] or nullptr
  float epsilon;
  float* out;  // [num_tokens, hidden_size] float32
  std::int64_t num_tokens;
  std::int64_t hidden_size;
};

// out = layer_norm(x + residual); statistics in float32, two-pass variance.
struct LayerNormParams {
  const float* x;         // [num_rows, hidden_size]
  const float* residual;  // [num_rows, hidden_size] or nullptr
  const float* weight;    // [hidden_size]
  const float* bias;      // [hidden_size] or nullptr
  float epsilon;
  float* out;  // [num_rows, hidden_size]; may alias x or residual
  std::int64_t num_rows;
  std::int64_t hidden_size;
};

// out = x / sqrt(mean(x^2) + epsilon) * weight
struct RmsNormParams {
  const float* x;       // [num_rows, hidden_size]
  const float* weight;  // [hidden_size]
  float epsilon;
  float* out;  // [num_rows, hidden_size]; may alias x
  std::int64_t num_rows;
  std::int64_t hidden_size;
};

// Heads to normalise and rotate in place: q or k inside a buffer of any token stride.
struct RotaryHeads {
  void* data;  // [num_tokens, num_heads, head_dim]
  std::int64_t stride;
  std::int64_t num_tokens;
  int num_heads;
  const std::int32_t* position_ids;  // [num_tokens] rows of cos and sin; unread where rotary_dim is 0
  const float* norm_weight;          // [head_dim] RMSNorm before the rotation, or nullptr
};

// Turns the first rotary_dim of every head by its position's angles: pair i is (i, i + rotary_dim / 2), or
// (2 i, 2 i + 1) where interleaved.
struct RotaryParams {
  RotaryHeads q;
  RotaryHeads k;
  DType dtype;  // kFloat32 or kBFloat16; arithmetic is float32
  int head_dim;
  int rotary_dim;
  bool is_interleaved;
  const float* cos;  // [num_positions, rotary_dim / 2]
  const float* sin;  // [num_positions, rotary_dim / 2]
  float epsilon;     // of the norms
};

// Softmax(q k^T * softmax_scale) v per sequence and head. Grouped queries: num_heads % num_kv_heads == 0.
// A query at position p of its keys sees keys p - window_left to p + window_right; is_causal: none after p.
struct AttentionParams {
  const void* q;  // [num_q_tokens, num_heads, head_dim]; token stride q_stride, head stride head_dim
  const void* k;  // [num_k_tokens, num_kv_heads, head_dim]
  const void* v;
  DType dtype;  // kFloat32 or kBFloat16 for q, k, v and out alike; accumulation is float32
  std::int64_t q_stride;
  std::int64_t k_stride;
  std::int64_t v_stride;
  const std::int32_t* cu_seqlens_q;  // [num_seqs + 1]
  const std::int32_t* cu_seqlens_k;  // [num_seqs + 1]
  std::int64_t num_seqs;
  std::int64_t max_seqlen_q;
  std::int64_t max_seqlen_k;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  float softmax_scale;
  bool is_causal;
  std::int64_t window_left;   // -1 = unlimited
  std::int64_t window_right;  // -1 = unlimited
  float soft_cap;             // scores = soft_cap * tanh(scores / soft_cap) before the mask; 0 = none
  // Position of each sequence's first query among its keys; nullptr: seqlen_k - seqlen_q, the last queries.
  const std::int32_t* query_positions;  // [num_seqs]
  void* out;                            // [num_q_tokens, num_heads, head_dim]
  std::int64_t out_stride;
};

struct PoolParams {
  const float* hidden_states;  // [num_tokens, hidden_size]
  std::int64_t hidden_stride;
  const std::int32_t* cu_seqlens;  // [num_seqs + 1]; no sequence is empty
  Pooling pooling;
  float* out;  // [num_seqs, hidden_size]
  std::int64_t num_seqs;
  std::int64_t hidden_size;
};

// out[t, c] = activation(bias[c] + sum over k of weight[k, c] * x[t - width + 1 + k, c]), each channel by itself;
// tokens before a sequence's first count as zeros.
struct CausalConv1dParams {
  const float* x;  // [num_tokens, num_channels]
  std::int64_t x_stride;
  const float* weight;  // [width, num_channels], contiguous; the last row meets the token itself
  const float* bias;    // [num_channels] or nullptr
  Activation activation;
  const std::int32_t* cu_seqlens;  // [num_seqs + 1]
  float* out;                      // [num_tokens, num_channels]; shares no memory with x
  std::int64_t out_stride;
  std::int64_t num_tokens;
  std::int64_t num_seqs;
  std::int64_t num_channels;
  std::int64_t width;
};

constexpr std::int64_t kMaxStateSize = 64;  // of selective_scan; a channel's state lies on the stack

// The recurrence of Mamba. Each channel has a state h [state_size], which is 0 where a sequence begins:
//
//   step = softplus(delta[t, channel]); h = exp(step * a[:, channel]) * h + step * u[t, channel] * b[t]
//   out[t, channel] = (c[t] . h + d[channel] * u[t, channel]) * silu(z[t, channel])
struct SelectiveScanParams {
  const float* u;  // [num_tokens, num_channels]
  std::int64_t u_stride;
  const float* delta;  // [num_tokens, num_channels]
  std::int64_t delta_stride;
  const float* a;  // [state_size, num_channels], contiguous, <= 0
  const float* b;  // [num_tokens, state_size]
  std::int64_t b_stride;
  const float* c;  // [num_tokens, state_size]
  std::int64_t c_stride;
  const float* d;  // [num_channels]
  const float* z;  // [num_tokens, num_channels], or nullptr = no gate
  std::int64_t z_stride;
  const std::int32_t* cu_seqlens;  // [num_seqs + 1]
  float* out;                      // [num_tokens, num_channels]; may be u, delta or z
  std::int64_t out_stride;
  std::int64_t num_tokens;
  std::int64_t num_seqs;
  std::int64_t num_channels;
  std::int64_t state_size;  // at most kMaxStateSize
};

// logits = (classifier(act(dense(pooled))) - logit_mean) / logit_sigma; probs = activation per row.
struct ClassifierHeadParams {
  const float* pooled;  // [num_rows, hidden_size]
  bool has_dense;
  PackedWeightView dense;                 // kFloat32Fma; unread when !has_dense
  Activation dense_activation;            // applied after dense
  PackedWeightView classifier;            // kFloat32Fma
  float logit_mean;                       // 0 when unset
  float logit_sigma;                      // 1 when unset
  const HeadActivation* row_activations;  // [num_rows]
  float* dense_buffer;                    // [num_rows, dense.out_features] scratch; unread when !has_dense
  float* out;                             // [num_rows, num_labels]
  std::int64_t num_rows;
};

// head_dim and hidden_size of a layer with row_keys are multiples of this: a whole number of panels of every kernel.
constexpr std::int64_t kRowKeysMultiple = 32;

// One transformer block, in place on hidden_states; a norm without a weight is not there:
//
//   h = attn_in_norm(x); q, k, v = h qkv^T; q, k = rotary(q_norm(q), k_norm(k)); a = attention(q, k, v) attn_out^T
//   x = attn_residual_norm(x + attn_out_norm(a))
//   h = mlp_in_norm(x); m = activation(h mlp_up^T) mlp_down^T
//   x = mlp_residual_norm(x + mlp_out_norm(m))
struct TransformerLayerParams {
  float* hidden_states;            // [num_tokens, hidden_size] float32, in and out
  const std::int32_t* cu_seqlens;  // [num_seqs + 1]
  std::int64_t num_seqs;
  std::int64_t num_tokens;
  std::int64_t max_seqlen;
  PackedWeightView qkv;       // [(num_heads + 2 * num_kv_heads) * head_dim, hidden_size]
  PackedWeightView attn_out;  // [hidden_size, num_heads * head_dim]
  PackedWeightView mlp_up;    // [intermediate_size, hidden_size]; may be gated
  PackedWeightView mlp_down;  // [hidden_size, intermediate_size]
  // The key projection of every key head transposed, [num_kv_heads * hidden_size, head_dim]; out_features 0 = none.
  // With it a call with rows projects no keys and values. Not for a layer with rotary positions, head norms,
  // attn_in_norm or a soft cap.
  PackedWeightView row_keys;
  NormView attn_in_norm;
  NormView attn_out_norm;
  NormView attn_residual_norm;
  NormView mlp_in_norm;
  NormView mlp_out_norm;
  NormView mlp_residual_norm;
  const float* q_norm_weight;  // [head_dim] RMSNorm per head, or nullptr
  const float* k_norm_weight;
  float epsilon;  // of q_norm and k_norm
  Activation activation;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  float softmax_scale;
  bool is_causal;
  std::int64_t window_left;  // as in AttentionParams
  std::int64_t window_right;
  float soft_cap;
  int rotary_dim;  // 0 = none: the next three are then unread
  bool is_rotary_interleaved;
  const float* cos;  // [num_positions, rotary_dim / 2]
  const float* sin;
  const std::int32_t* position_ids;  // [num_tokens]
  // Rows whose output is wanted, or nullptr for all. With rows, only their output is computed, into
  // rows_out; hidden_states is then left untouched. One row per sequence, row i inside sequence i.
  const std::int32_t* rows;  // [num_seqs] token indices
  float* rows_out;           // [num_seqs, hidden_size]
  void* workspace;           // transformer_layer_workspace_size bytes, 64-byte aligned
};

}  // namespace assay
