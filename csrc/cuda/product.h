// A weight's product and what computes it: our own kernel, or the library's algorithm that was chosen for it at load.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cuda/cublas_lt.h"
#include "cuda/gemm.h"

namespace assay::cuda {

struct Product {
  WeightView weight;
  Activation activation = Activation::kNone;
  std::shared_ptr<const CublasLt> cublas_lt = nullptr;  // nullptr = our own kernel
  const void* cublas_lt_bias = nullptr;                 // in the weight's dtype
  lt::Algorithm algorithm{};

  bool is_own() const { return cublas_lt == nullptr; }
  // "own", or the library's version and algorithm, for logs.
  std::string name() const { return is_own() ? "own" : cublas_lt->describe(algorithm); }
  // Bytes of scratch: the library makes gate and up separately.
  std::int64_t scratch_size(std::int64_t max_rows) const;
};

// Whether the library could compute it: a gated product as two plain ones and a pass for the activation; a plain one
// only with an activation its epilogue has, because a pass of its own costs what the library gains.
bool is_for_library(const WeightView& weight, Activation activation);

// Decides, at load, who computes a product. A decision holds for every weight of one shape, so that a model's layers
// agree and the proof runs once.
class ProductChooser {
 public:
  // is_required: no fallback to our own kernel where the library could compute a product and no algorithm is proved.
  ProductChooser(std::shared_ptr<const CublasLt> library, bool is_required)
      : library_(std::move(library)), is_required_(is_required) {}

  // `allocate` gives device memory that stays until the stream has passed this call. Waits for the stream. Throws
  // std::runtime_error where is_required demands.
  Product choose(const WeightView& weight, Activation activation, const void* cublas_lt_bias,
                 const std::function<void*(std::int64_t)>& allocate, cudaStream_t stream);

  const CublasLt& library() const { return *library_; }

 private:
  struct Decision {
    std::int64_t features, in_features;
    DType dtype;
    Activation activation;
    bool has_bias;
    std::optional<lt::Algorithm> algorithm;
  };

  std::shared_ptr<const CublasLt> library_;
  bool is_required_;
  std::vector<Decision> decisions_;
};

struct ProductOperands {
  const void* x = nullptr;  // [max_rows, in_features] in the weight's dtype
  std::int64_t x_stride = 0;
  void* out = nullptr;  // [max_rows, out_features] in the weight's dtype
  std::int64_t out_stride = 0;
  std::int64_t max_rows = 0;
  const std::int32_t* num_rows = nullptr;  // on the device; rows behind them may be written with anything
  void* scratch = nullptr;                 // scratch_size bytes, 16-byte aligned
};

void launch_product(const Product& product, const ProductOperands& operands, cudaStream_t stream);

}  // namespace assay::cuda
