#include "cpu/packed_weight.h"

#include <cstring>
#include <new>

#include "common/validate.h"

namespace assay::cpu {
namespace {
constexpr std::size_t kAlignment = 64;
// The depth up to which a sum of products of bytes (255 * 127 each) is exact in int32, on every ISA alike.
constexpr std::int64_t kMaxInt8Depth = 66000;

void check_matrix(const TensorView& view, const char* name) {
  check_dtype(view, name, {DType::kFloat32, DType::kBFloat16});
  check_shape(view, name, {kAnySize, kAnySize});
  check_contiguous(view, name);
  ASSAY_CHECK(view.shape[0] >= 1 && view.shape[1] >= 1, name, " must not be empty, got ", shape_string(view));
}
}  // namespace

void PackedWeight::Free::operator()(void* memory) const { ::operator delete(memory, std::align_val_t{kAlignment}); }

PackedWeight::PackedWeight(bool is_gated, Arithmetic arithmetic)
    : table_(&active_table()), arithmetic_(arithmetic), is_gated_(is_gated) {}

PackedWeight::PackedWeight(const TensorView& weight, const TensorView& bias, Arithmetic arithmetic)
    : PackedWeight(false, arithmetic) {
  check_matrix(weight, "weight");
  if (bias.is_present()) {
    check_vector(bias, "bias", DType::kFloat32, weight.shape[0]);
    bias_.assign(bias.ptr<float>(), bias.ptr<float>() + weight.shape[0]);
  }
  pack(weight, TensorView{});
}

PackedWeight::PackedWeight(const TensorView& gate, const TensorView& up, const TensorView& gate_bias,
                           const TensorView& up_bias, Arithmetic arithmetic)
    : PackedWeight(true, arithmetic) {
  check_matrix(gate, "gate");
  check_dtype(up, "up", {gate.dtype});
  check_shape(up, "up", {gate.shape[0], gate.shape[1]});
  check_contiguous(up, "up");
  const std::int64_t size = gate.shape[0];
  if (gate_bias.is_present() || up_bias.is_present()) {
    bias_.assign(static_cast<std::size_t>(2 * size), 0.0f);
    if (gate_bias.is_present()) {
      check_vector(gate_bias, "gate_bias", DType::kFloat32, size);
      std::memcpy(bias_.data(), gate_bias.data, static_cast<std::size_t>(size) * sizeof(float));
    }
    if (up_bias.is_present()) {
      check_vector(up_bias, "up_bias", DType::kFloat32, size);
      std::memcpy(bias_.data() + size, up_bias.data, static_cast<std::size_t>(size) * sizeof(float));
    }
  }
  pack(gate, up);
}

PackedWeight PackedWeight::of_shape(std::int64_t out_features, std::int64_t in_features, bool has_bias, bool is_gated,
                                    Arithmetic arithmetic) {
  ASSAY_CHECK(out_features >= 1 && in_features >= 1, "out_features and in_features must be >= 1, got ", out_features,
              " and ", in_features);
  PackedWeight weight(is_gated, arithmetic);
  weight.set_shape(out_features, in_features);
  if (has_bias) weight.bias_.assign(static_cast<std::size_t>(is_gated ? 2 * out_features : out_features), 0.0f);
  return weight;
}

void PackedWeight::set_shape(std::int64_t out_features, std::int64_t in_features) {
  out_features_ = out_features;
  in_features_ = in_features;
  ASSAY_CHECK(arithmetic_ != Arithmetic::kInt8 || in_features_ <= kMaxInt8Depth, "arithmetic='int8' takes at most ",
              kMaxInt8Depth, " input features, got ", in_features_);
  panel_bytes_ = table_->packed_weight_size(out_features_, in_features_, arithmetic_, is_gated_);
}

void PackedWeight::pack(const TensorView& weight, const TensorView& up) {
  set_shape(weight.shape[0], weight.shape[1]);
  data_.reset(::operator new(panel_bytes_, std::align_val_t{kAlignment}));
  std::memset(data_.get(), 0, panel_bytes_);
  const std::shared_ptr<ThreadPool> pool = global_pool();
  table_->pack_weight({.weight = weight.data,
                       .up = up.data,
                       .weight_dtype = weight.dtype,
                       .out_features = out_features_,
                       .in_features = in_features_,
                       .arithmetic = arithmetic_,
                       .packed = data_.get()},
                      *pool);
}

PackedWeightView PackedWeight::view() const {
  return {.data = data_.get(),
          .bias = bias_.empty() ? nullptr : bias_.data(),
          .out_features = out_features_,
          .in_features = in_features_,
          .arithmetic = arithmetic_,
          .isa_idx = static_cast<int>(table_->isa),
          .is_gated = is_gated_};
}

}  // namespace assay::cpu
