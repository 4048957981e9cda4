// A linear layer's weight as the kernels want it, and a whole encoder layer of them: they own their memory.
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

  PackedWeightView view() const;
  std::int64_t out_features() const { return out_features_; }
  std::int64_t in_features() const { return in_features_; }
  std::size_t size_bytes() const { return size_bytes_; }
  const KernelTable& table() const { return *table_; }
  const char* arithmetic_name() const { return table_->arithmetic_name(arithmetic_); }

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  const KernelTable* table_;
  Arithmetic arithmetic_;
  std::int64_t out_features_;
  std::int64_t in_features_;
  std::size_t size_bytes_;
  std::unique_ptr<void, Free> data_;
  std::vector<float> bias_;
};

struct EncoderLayerWeights {
  std::shared_ptr<const PackedWeight> qkv, attn_out, mlp_up, mlp_down;
  std::vector<float> attn_norm_weight, attn_norm_bias, mlp_norm_weight, mlp_norm_bias;
  float epsilon;
  Activation activation;
  int num_heads;
  float softmax_scale;

  // Throws std::invalid_argument where the parts do not fit each other.
  void check() const;
  std::int64_t hidden_size() const { return attn_out->out_features(); }
  // Everything but the batch.
  EncoderLayerParams params() const;
};

}  // namespace assay::cpu
