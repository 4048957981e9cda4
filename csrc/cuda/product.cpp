#include "cuda/product.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "common/check.h"
#include "cuda/launch_elementwise.h"
#include "cuda/proof.h"

namespace assay::cuda {
namespace {

std::int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

LtProduct library_product(const Product& product) {
  return {.weight = product.weight,
          .bias = product.cublas_lt_bias,
          .activation = product.weight.is_gated ? Activation::kNone : product.activation};
}

// No more rows at a time than the proof went to.
void multiply_by_library(const Product& product, const ProductOperands& p, cudaStream_t stream) {
  const LtProduct asked = library_product(product);
  const std::int64_t element = element_size(product.weight.dtype);
  const bool is_gated = product.weight.is_gated;
  const std::int64_t out_stride = is_gated ? asked.features() : p.out_stride;
  for (std::int64_t first = 0; first < p.max_rows; first += kMostProvenRows) {
    const LtOperands operands = {.x = static_cast<const char*>(p.x) + first * p.x_stride * element,
                                 .x_stride = p.x_stride,
                                 .out = static_cast<char*>(is_gated ? p.scratch : p.out) + first * out_stride * element,
                                 .out_stride = out_stride,
                                 .num_rows = std::min(p.max_rows - first, kMostProvenRows)};
    if (!product.cublas_lt->multiply(asked, product.algorithm, operands, stream)) {
      throw std::runtime_error(join("cuBLASLt refused ", operands.num_rows, " rows of a product it was chosen for"));
    }
  }
}

}  // namespace

std::int64_t Product::scratch_size(std::int64_t max_rows) const {
  if (is_own() || !weight.is_gated) return 0;
  return max_rows * 2 * weight.out_features * element_size(weight.dtype);
}

bool is_for_library(const WeightView& weight, Activation activation) {
  return weight.is_gated || has_lt_epilogue(activation);
}

Product ProductChooser::choose(const WeightView& weight, Activation activation, const void* cublas_lt_bias,
                               const std::function<void*(std::int64_t)>& allocate, cudaStream_t stream) {
  Product product{.weight = weight, .activation = activation};
  if (!is_for_library(weight, activation)) return product;
  product.cublas_lt_bias = cublas_lt_bias;
  const LtProduct asked = library_product(product);
  const auto is_same = [&](const Decision& decision) {
    return decision.features == asked.features() && decision.in_features == weight.in_features &&
           decision.dtype == weight.dtype && decision.activation == asked.activation &&
           decision.has_bias == (cublas_lt_bias != nullptr);
  };
  auto decision = std::find_if(decisions_.begin(), decisions_.end(), is_same);
  if (decision == decisions_.end()) {
    void* const scratch = allocate(proof_scratch_size(asked));
    decisions_.push_back({.features = asked.features(),
                          .in_features = weight.in_features,
                          .dtype = weight.dtype,
                          .activation = asked.activation,
                          .has_bias = cublas_lt_bias != nullptr,
                          .algorithm = prove(*library_, asked, scratch, stream)});
    decision = std::prev(decisions_.end());
  }
  if (decision->algorithm.has_value()) {
    product.cublas_lt = library_;
    product.algorithm = *decision->algorithm;
  } else if (is_required_) {
    throw std::runtime_error(
        join("ASSAY_CUDA_GEMM=cublaslt: the library has no batch-invariant algorithm for a weight [", asked.features(),
             ", ", weight.in_features, "]"));
  }
  return product;
}

void launch_product(const Product& product, const ProductOperands& operands, cudaStream_t stream) {
  const WeightView& weight = product.weight;
  if (product.is_own()) {
    return launch_gemm({.x = operands.x,
                        .x_stride = operands.x_stride,
                        .weight = weight,
                        .activation = product.activation,
                        .out = operands.out,
                        .out_dtype = weight.dtype,
                        .out_stride = operands.out_stride,
                        .max_rows = operands.max_rows,
                        .num_rows = operands.num_rows},
                       GemmTile::kAuto, stream);
  }
  multiply_by_library(product, operands, stream);
  if (!weight.is_gated) return;
  launch_gated_activation({.gate_up = operands.scratch,
                           .out = operands.out,
                           .dtype = weight.dtype,
                           .activation = product.activation,
                           .num_live_rows = operands.num_rows,
                           .num_rows = operands.max_rows,
                           .inner_size = weight.out_features},
                          stream);
}

}  // namespace assay::cuda
