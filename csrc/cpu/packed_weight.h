// A linear layer's weight as the kernels want it; it owns its memory.
#pragma once

#include <memory>
#include <vector>

#include "common/tensor_view.h"
#include "cpu/kernels.h"

namespace assay::cpu {

class PackedWeight {
 public:
  // weight [out_features, in_features] float32 or bfloat16, contiguous; bias [out_features] float32 or absent.
  PackedWeight(const TensorView& weight, const TensorView& bias, Arithmetic arithmetic);
  // The two matrices of a gated MLP in one weight: of one shape and dtype, each with its bias or without.
  PackedWeight(const TensorView& gate, const TensorView& up, const TensorView& gate_bias, const TensorView& up_bias,
               Arithmetic arithmetic);
  // A weight that has every size and no numbers: for telling beforehand what memory a model needs.
  static PackedWeight of_shape(std::int64_t out_features, std::int64_t in_features, bool has_bias, bool is_gated,
                               Arithmetic arithmetic);

  // Of a weight without numbers only the sizes are of use: whoever runs a kernel checks has_numbers first.
  PackedWeightView view() const;
  bool has_numbers() const { return data_ != nullptr; }
  std::int64_t out_features() const { return out_features_; }
  std::int64_t in_features() const { return in_features_; }
  bool is_gated() const { return is_gated_; }
  // Of the panels and the bias.
  std::size_t size_bytes() const { return panel_bytes_ + bias_.size() * sizeof(float); }
  const KernelTable& table() const { return *table_; }
  const char* arithmetic_name() const { return table_->arithmetic_name(arithmetic_); }

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  PackedWeight(bool is_gated, Arithmetic arithmetic);
  void set_shape(std::int64_t out_features, std::int64_t in_features);
  void pack(const TensorView& weight, const TensorView& up);

  const KernelTable* table_;
  Arithmetic arithmetic_;
  bool is_gated_;
  std::int64_t out_features_;
  std::int64_t in_features_;
  std::size_t panel_bytes_;
  std::unique_ptr<void, Free> data_;
  std::vector<float> bias_;  // [out_features], or [2, out_features] where gated
};

}  // namespace assay::cpu
