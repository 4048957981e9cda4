// What the binding files of the CPU module share: launches, vectors, checks.
#pragma once

#include <cmath>
#include <memory>
#include <string>

#include "bind_names.h"
#include "bind_tensor.h"
#include "common/validate.h"
#include "cpu/kernels.h"
#include "cpu/packed_weight.h"

namespace assay::cpu {

using PackedWeightPtr = std::shared_ptr<const PackedWeight>;

inline constexpr Named<Arithmetic> kArithmetics[] = {{"float32", Arithmetic::kFloat32},
                                                     {"float32_fma", Arithmetic::kFloat32Fma},
                                                     {"bfloat16", Arithmetic::kBFloat16},
                                                     {"int8", Arithmetic::kInt8}};

template <typename Params>
void launch(void (*kernel)(const Params&, ThreadPool&), const Params& params) {
  const std::shared_ptr<ThreadPool> pool = global_pool();
  const py::gil_scoped_release release;
  kernel(params, *pool);
}

inline const float* optional_floats(const TensorView& view, const char* name, std::int64_t size) {
  if (!view.is_present()) return nullptr;
  check_vector(view, name, DType::kFloat32, size);
  return view.ptr<float>();
}

// The ranges that attention and the layers share.
inline void check_scores(float softmax_scale, std::int64_t window_left, std::int64_t window_right, float soft_cap) {
  ASSAY_CHECK(std::isfinite(softmax_scale) && softmax_scale > 0, "softmax_scale must be finite and > 0, got ",
              softmax_scale);
  ASSAY_CHECK(window_left >= -1 && window_right >= -1, "window_size must be two numbers >= -1, got (", window_left,
              ", ", window_right, ")");
  ASSAY_CHECK(std::isfinite(soft_cap) && soft_cap >= 0, "soft_cap must be finite and >= 0, got ", soft_cap);
}

// The tables of rotary positions, [num_positions, rotary_dim / 2] both, and the ids that index them.
inline void check_rotary(const TensorView& cos, const TensorView& sin, const TensorView& position_ids,
                         std::int64_t rotary_dim, std::int64_t num_tokens) {
  check_dtype(cos, "cos", {DType::kFloat32});
  check_shape(cos, "cos", {kAnySize, rotary_dim / 2});
  check_contiguous(cos, "cos");
  check_dtype(sin, "sin", {DType::kFloat32});
  check_shape(sin, "sin", {cos.shape[0], rotary_dim / 2});
  check_contiguous(sin, "sin");
  check_vector(position_ids, "position_ids", DType::kInt32, num_tokens);
  check_ids(position_ids, "position_ids", cos.shape[0]);
}

// Adds causal_conv1d and selective_scan to the module (bind_recurrence.cpp).
void bind_recurrence(py::module_& m);

// Adds the fused transformer layer to the module (bind_layer.cpp).
void bind_layers(py::module_& m);

}  // namespace assay::cpu
