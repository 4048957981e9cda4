// The weights and settings of one transformer layer; it owns its memory.
#pragma once

#include <memory>
#include <vector>

#include "cpu/packed_weight.h"

namespace assay::cpu {

// A norm's vectors; without a weight there is no norm.
struct NormWeights {
  std::vector<float> weight;
  std::vector<float> bias;
};

struct TransformerLayerWeights {
  std::shared_ptr<const PackedWeight> qkv, attn_out, mlp_up, mlp_down;
  std::shared_ptr<const PackedWeight> row_keys;  // nullptr: none, see TransformerLayerParams
  NormWeights attn_in_norm, attn_out_norm, attn_residual_norm;
  NormWeights mlp_in_norm, mlp_out_norm, mlp_residual_norm;
  std::vector<float> q_norm, k_norm;
  NormKind norm_kind;
  float epsilon;
  Activation activation;
  bool is_gated;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  float softmax_scale;
  bool is_causal;
  std::int64_t window_left;
  std::int64_t window_right;
  float soft_cap;
  int rotary_dim;
  bool is_rotary_interleaved;

  // Throws std::invalid_argument where the parts do not fit each other.
  void check() const;
  void check_row_keys() const;
  std::int64_t hidden_size() const { return attn_out->out_features(); }
  // Of the packed weights and the norms.
  std::size_t size_bytes() const;
  // False where a packed weight has its sizes only: then the layer can be asked for memory and not be run.
  bool has_numbers() const;
  // Everything but the batch and the angles.
  TransformerLayerParams params() const;
};

}  // namespace assay::cpu
