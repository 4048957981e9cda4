#include "cpu/layer_weights.h"

#include <cmath>

#include "common/check.h"

namespace assay::cpu {
namespace {

void check_size(const PackedWeight& weight, const char* name, std::int64_t out, std::int64_t in) {
  ASSAY_CHECK(weight.out_features() == out && weight.in_features() == in, name, " must be [", out, ", ", in, "], got [",
              weight.out_features(), ", ", weight.in_features(), "]");
}

void check_norm(const NormWeights& norm, const char* name, NormKind kind, std::int64_t size) {
  if (norm.weight.empty()) return;
  ASSAY_CHECK(static_cast<std::int64_t>(norm.weight.size()) == size, name, ".weight must have shape [", size,
              "], got [", norm.weight.size(), "]");
  if (norm.bias.empty()) return;
  ASSAY_CHECK(kind == NormKind::kLayer, name, ".bias must be None for norm='rms'");
  ASSAY_CHECK(static_cast<std::int64_t>(norm.bias.size()) == size, name, ".bias must have shape [", size, "], got [",
              norm.bias.size(), "]");
}

}  // namespace

void TransformerLayerWeights::check() const {
  ASSAY_CHECK(num_heads >= 1, "num_heads must be >= 1, got ", num_heads);
  ASSAY_CHECK(num_kv_heads >= 1 && num_heads % num_kv_heads == 0, "num_heads ", num_heads,
              " must be a multiple of num_kv_heads, got ", num_kv_heads);
  ASSAY_CHECK(head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0,
              "head_dim must be a multiple of 8 from 8 to 256, got ", head_dim);
  const std::int64_t hidden = hidden_size();
  const std::int64_t q_size = static_cast<std::int64_t>(num_heads) * head_dim;
  const std::int64_t kv_size = static_cast<std::int64_t>(num_kv_heads) * head_dim;
  check_size(*qkv, "qkv", q_size + 2 * kv_size, hidden);
  check_size(*attn_out, "attn_out", hidden, q_size);
  check_size(*mlp_up, "mlp_up", mlp_up->out_features(), hidden);
  check_size(*mlp_down, "mlp_down", hidden, mlp_up->out_features());
  for (const auto* part : {qkv.get(), attn_out.get(), mlp_up.get(), mlp_down.get(), row_keys.get()}) {
    if (part == nullptr) continue;  // row_keys
    ASSAY_CHECK(&part->table() == &qkv->table() && part->view().arithmetic == qkv->view().arithmetic,
                "the weights of a layer must be packed for one instruction set and arithmetic");
    ASSAY_CHECK(part == mlp_up.get() || !part->is_gated(), "only mlp_up may be a gated weight");
  }
  ASSAY_CHECK(mlp_up->is_gated() == is_gated, "mlp_up must be ",
              is_gated ? "a gated weight (pack_gated_weight), got a plain one" : "a plain weight, got a gated one");
  check_norm(attn_in_norm, "attn_in_norm", norm_kind, hidden);
  check_norm(attn_out_norm, "attn_out_norm", norm_kind, hidden);
  check_norm(attn_residual_norm, "attn_residual_norm", norm_kind, hidden);
  check_norm(mlp_in_norm, "mlp_in_norm", norm_kind, hidden);
  check_norm(mlp_out_norm, "mlp_out_norm", norm_kind, hidden);
  check_norm(mlp_residual_norm, "mlp_residual_norm", norm_kind, hidden);
  for (const auto& [norm, name] : {std::pair{&q_norm, "q_norm"}, std::pair{&k_norm, "k_norm"}}) {
    ASSAY_CHECK(norm->empty() || static_cast<int>(norm->size()) == head_dim, name, " must have shape [", head_dim,
                "], got [", norm->size(), "]");
  }
  ASSAY_CHECK(std::isfinite(epsilon) && epsilon >= 0, "epsilon must be finite and >= 0, got ", epsilon);
  ASSAY_CHECK(rotary_dim >= 0 && rotary_dim <= head_dim && rotary_dim % 2 == 0,
              "rotary_dim must be an even number from 0 to head_dim ", head_dim, ", got ", rotary_dim);
  if (row_keys != nullptr) check_row_keys();
}

void TransformerLayerWeights::check_row_keys() const {
  const std::int64_t hidden = hidden_size();
  check_size(*row_keys, "row_keys", num_kv_heads * hidden, head_dim);
  ASSAY_CHECK(row_keys->view().bias == nullptr, "row_keys must have no bias");
  ASSAY_CHECK(hidden % kRowKeysMultiple == 0 && head_dim % kRowKeysMultiple == 0,
              "row_keys must be None unless hidden_size and head_dim are multiples of ", kRowKeysMultiple, ", got ",
              hidden, " and ", head_dim);
  ASSAY_CHECK(rotary_dim == 0 && q_norm.empty() && k_norm.empty() && attn_in_norm.weight.empty() && soft_cap == 0,
              "row_keys must be None for a layer with rotary positions, q_norm, k_norm, attn_in_norm or a soft cap");
}

std::size_t TransformerLayerWeights::size_bytes() const {
  std::size_t num_floats = q_norm.size() + k_norm.size();
  for (const NormWeights* norm :
       {&attn_in_norm, &attn_out_norm, &attn_residual_norm, &mlp_in_norm, &mlp_out_norm, &mlp_residual_norm}) {
    num_floats += norm->weight.size() + norm->bias.size();
  }
  const std::size_t row_bytes = row_keys == nullptr ? 0 : row_keys->size_bytes();
  return qkv->size_bytes() + attn_out->size_bytes() + mlp_up->size_bytes() + mlp_down->size_bytes() + row_bytes +
         num_floats * sizeof(float);
}

bool TransformerLayerWeights::has_numbers() const {
  return qkv->has_numbers() && attn_out->has_numbers() && mlp_up->has_numbers() && mlp_down->has_numbers() &&
         (row_keys == nullptr || row_keys->has_numbers());
}

TransformerLayerParams TransformerLayerWeights::params() const {
  const auto norm = [&](const NormWeights& weights) {
    return NormView{.kind = norm_kind,
                    .weight = weights.weight.empty() ? nullptr : weights.weight.data(),
                    .bias = weights.bias.empty() ? nullptr : weights.bias.data(),
                    .epsilon = epsilon};
  };
  TransformerLayerParams params{};
  params.qkv = qkv->view();
  params.attn_out = attn_out->view();
  params.mlp_up = mlp_up->view();
  params.mlp_down = mlp_down->view();
  if (row_keys != nullptr) params.row_keys = row_keys->view();
  params.attn_in_norm = norm(attn_in_norm);
  params.attn_out_norm = norm(attn_out_norm);
  params.attn_residual_norm = norm(attn_residual_norm);
  params.mlp_in_norm = norm(mlp_in_norm);
  params.mlp_out_norm = norm(mlp_out_norm);
  params.mlp_residual_norm = norm(mlp_residual_norm);
  params.q_norm_weight = q_norm.empty() ? nullptr : q_norm.data();
  params.k_norm_weight = k_norm.empty() ? nullptr : k_norm.data();
  params.epsilon = epsilon;
  params.activation = activation;
  params.num_heads = num_heads;
  params.num_kv_heads = num_kv_heads;
  params.head_dim = head_dim;
  params.softmax_scale = softmax_scale;
  params.is_causal = is_causal;
  params.window_left = window_left;
  params.window_right = window_right;
  params.soft_cap = soft_cap;
  params.rotary_dim = rotary_dim;
  params.is_rotary_interleaved = is_rotary_interleaved;
  return params;
}

}  // namespace assay::cpu
