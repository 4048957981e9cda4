// What the bindings of CUDA products and layers share: device tensors, and the objects that keep them alive.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bind_cuda.h"
#include "bind_names.h"
#include "bind_tensor.h"
#include "common/validate.h"
#include "cuda/product.h"

namespace assay::cuda {

// The emulation runs on host memory.
#ifdef ASSAY_CUDA_EMULATION
constexpr Device kDevice = Device::kCpu;
#else
constexpr Device kDevice = Device::kCuda;
#endif

inline TensorView device_view(py::handle tensor, const char* argument) { return view_of(tensor, argument, kDevice); }
inline TensorView required_device_view(py::handle tensor, const char* argument) {
  return required_view(tensor, argument, kDevice);
}

inline void check_alignment(const TensorView& view, const char* argument, std::uintptr_t bytes) {
  ASSAY_CHECK(reinterpret_cast<std::uintptr_t>(view.data) % bytes == 0, argument, " must be ", bytes, "-byte aligned");
}

// A weight and the tensors it points into.
struct BoundWeight {
  WeightView view;
  py::object weight;
  py::object bias;  // float32, or None
};

// The library for a model's products, its workspace and its decisions; or why there is none.
struct BoundLibrary {
  py::object workspace;
  std::optional<ProductChooser> chooser;
  std::string failure;
};

// A product of `weight`, by our own kernel without a library. What the product points to is added to `kept`.
Product choose_product(const BoundWeight& weight, Activation activation, BoundLibrary* library,
                       std::vector<py::object>& kept, cudaStream_t stream);

}  // namespace assay::cuda
