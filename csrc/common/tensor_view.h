// A tensor as it crosses the border: pointer, dtype, shape, strides. Host code only.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "common/check.h"
#include "common/types.h"

namespace assay {

constexpr int kMaxDims = 4;

inline const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kInt32:
      return "int32";
    case DType::kInt8:
      return "int8";
    case DType::kUInt8:
      return "uint8";
    case DType::kFloat16:
      return "float16";
  }
  return "unknown";
}

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int num_dims = 0;
  std::array<std::int64_t, kMaxDims> shape{};
  std::array<std::int64_t, kMaxDims> strides{};  // in elements

  bool is_present() const { return num_dims > 0; }
  std::int64_t numel() const {
    std::int64_t n = 1;
    for (int i = 0; i < num_dims; ++i) n *= shape[i];
    return n;
  }
  template <typename T>
  T* ptr() const {
    return static_cast<T*>(data);
  }
};

inline std::string shape_string(const TensorView& view) {
  std::string text = "[";
  for (int i = 0; i < view.num_dims; ++i) text += (i ? ", " : "") + std::to_string(view.shape[i]);
  return text + "]";
}

}  // namespace assay
