// NVIDIA's library of dense products, loaded at run time where it is there, and the choice of one of its algorithms. A
// product of a weight always runs the algorithm that was chosen once, and only one that was seen to give a row the same
// bits among any number of rows. Host code only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/types.h"
#include "cuda/cublas_lt_api.h"
#include "cuda/gemm.h"

namespace assay::cuda {

// ASSAY_CUDA_GEMM. kAuto: cuBLASLt where it can be loaded and proves itself, else our own kernels. kCublasLt: an error
// instead of the fallback.
enum class GemmChoice : int { kAuto, kOwn, kCublasLt };

// From the variable's value; nullptr or empty = kAuto. Throws std::invalid_argument for another name.
GemmChoice gemm_choice(const char* value);

// A plain product out = activation(x weight^T + bias), both out and bias in the weight's dtype. A gated weight counts
// as one of 2 * out_features.
struct LtProduct {
  WeightView weight;
  const void* bias = nullptr;  // [rows of the weight] or nullptr
  Activation activation = Activation::kNone;

  std::int64_t features() const { return weight.out_features * (weight.is_gated ? 2 : 1); }
};

// Activations that the library's epilogue has.
bool has_lt_epilogue(Activation activation);

struct LtOperands {
  const void* x;
  std::int64_t x_stride;
  void* out;
  std::int64_t out_stride;
  std::int64_t num_rows;
};

class CublasLt {
 public:
  // The first of `names` that loads. Throws std::runtime_error saying what happened to each. The workspace, on the
  // device and 256-byte aligned, must outlive the object; its size decides which algorithms are candidates.
  CublasLt(const std::vector<std::string>& names, void* workspace, std::size_t workspace_size);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  static const std::vector<std::string>& default_names();

  std::size_t version() const { return api_.version(); }
  // The library's suggestions for kHeuristicRows rows, best first, without those that split the depth.
  std::vector<lt::Algorithm> candidates(const LtProduct& product) const;
  // False where the algorithm cannot do it; asynchronous otherwise.
  bool multiply(const LtProduct& product, const lt::Algorithm& algorithm, const LtOperands& operands,
                cudaStream_t stream) const;
  // "cublaslt 130100 algorithm 66 tile 20 stages 8", for logs.
  std::string describe(const lt::Algorithm& algorithm) const;

 private:
  void check(lt::Status status, const char* what) const;
  std::int64_t attribute(const lt::Algorithm& algorithm, lt::AlgorithmAttribute attribute) const;

  lt::Api api_{};
  lt::Handle handle_ = nullptr;
  void* workspace_;
  std::size_t workspace_size_;
};

}  // namespace assay::cuda
