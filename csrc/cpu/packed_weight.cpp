#include "cpu/packed_weight.h"

#include <cstring>
#include <new>

#include "common/validate.h"

namespace assay::cpu {
namespace {
constexpr std::size_t kAlignment = 64;
}

void PackedWeight::Free::operator()(void* memory) const { ::operator delete(memory, std::align_val_t{kAlignment}); }

PackedWeight::PackedWeight(const TensorView& weight, const TensorView& bias, Arithmetic arithmetic)
    : table_(&active_table()), arithmetic_(arithmetic) {
  check_dtype(weight, "weight", {DType::kFloat32, DType::kBFloat16});
  check_shape(weight, "weight", {kAnySize, kAnySize});
  check_contiguous(weight, "weight");
  out_features_ = weight.shape[0];
  in_features_ = weight.shape[1];
  ASSAY_CHECK(out_features_ >= 1 && in_features_ >= 1, "weight must not be empty, got ", shape_string(weight));
  if (bias.is_present()) {
    check_vector(bias, "bias", DType::kFloat32, out_features_);
    bias_.assign(bias.ptr<float>(), bias.ptr<float>() + out_features_);
  }
  size_bytes_ = table_->packed_weight_size(out_features_, in_features_, arithmetic_);
  data_.reset(::operator new(size_bytes_, std::align_val_t{kAlignment}));
  std::memset(data_.get(), 0, size_bytes_);
  table_->pack_weight({.weight = weight.data,
                       .weight_dtype = weight.dtype,
                       .out_features = out_features_,
                       .in_features = in_features_,
                       .arithmetic = arithmetic_,
                       .packed = data_.get()});
}

PackedWeightView PackedWeight::view() const {
  return {.data = data_.get(),
          .bias = bias_.empty() ? nullptr : bias_.data(),
          .out_features = out_features_,
          .in_features = in_features_,
          .arithmetic = arithmetic_,
          .isa_idx = static_cast<int>(table_->isa)};
}

void EncoderLayerWeights::check() const {
  const std::int64_t hidden = attn_out->out_features();
  const auto fits = [](const PackedWeight& weight, const char* name, std::int64_t out, std::int64_t in) {
    ASSAY_CHECK(weight.out_features() == out && weight.in_features() == in, name, " must be [", out, ", ", in,
                "], got [", weight.out_features(), ", ", weight.in_features(), "]");
  };
  fits(*attn_out, "attn_out", hidden, hidden);
  fits(*qkv, "qkv", 3 * hidden, hidden);
  fits(*mlp_up, "mlp_up", mlp_up->out_features(), hidden);
  fits(*mlp_down, "mlp_down", hidden, mlp_up->out_features());
  ASSAY_CHECK(num_heads >= 1 && hidden % num_heads == 0, "num_heads must divide hidden_size ", hidden, ", got ",
              num_heads);
  const std::vector<float>* norms[] = {&attn_norm_weight, &attn_norm_bias, &mlp_norm_weight, &mlp_norm_bias};
  for (const auto* norm : norms) {
    ASSAY_CHECK(static_cast<std::int64_t>(norm->size()) == hidden, "norm weights must have hidden_size = ", hidden,
                " entries, got ", norm->size());
  }
  for (const auto* part : {attn_out.get(), mlp_up.get(), mlp_down.get()}) {
    ASSAY_CHECK(&part->table() == &qkv->table() && part->view().arithmetic == qkv->view().arithmetic,
                "the weights of an encoder layer must be packed for one instruction set and arithmetic");
  }
}

EncoderLayerParams EncoderLayerWeights::params() const {
  EncoderLayerParams params{};
  params.qkv = qkv->view();
  params.attn_out = attn_out->view();
  params.mlp_up = mlp_up->view();
  params.mlp_down = mlp_down->view();
  params.attn_norm_weight = attn_norm_weight.data();
  params.attn_norm_bias = attn_norm_bias.data();
  params.mlp_norm_weight = mlp_norm_weight.data();
  params.mlp_norm_bias = mlp_norm_bias.data();
  params.epsilon = epsilon;
  params.activation = activation;
  params.num_heads = num_heads;
  params.head_dim = static_cast<int>(hidden_size() / num_heads);
  params.softmax_scale = softmax_scale;
  return params;
}

}  // namespace assay::cpu
