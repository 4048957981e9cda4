#include "cuda/cublas_lt.h"

#include <dlfcn.h>

#include <stdexcept>

#include "common/check.h"

namespace assay::cuda {
namespace {

// The number of rows that candidates are asked for: large batches are where time goes.
constexpr std::int64_t kHeuristicRows = 4096;
constexpr int kMaxCandidates = 16;
constexpr std::uint32_t kAlignment = 16;  // bytes of every operand's address and rows

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return CUDA_R_16F;
    case DType::kBFloat16:
      return CUDA_R_16BF;
    default:
      return CUDA_R_32F;
  }
}

std::uint32_t epilogue_of(const LtProduct& product) {
  std::uint32_t epilogue = 0;
  if (product.activation == Activation::kRelu) epilogue |= lt::kEpilogueRelu;
  if (product.activation == Activation::kGeluTanh) epilogue |= lt::kEpilogueGelu;
  if (product.bias != nullptr) epilogue |= lt::kEpilogueBias;
  return epilogue == 0 ? lt::kEpilogueDefault : epilogue;
}

template <typename Function>
void bind(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) throw std::runtime_error(std::string("it has no ") + name);
}

lt::Api bind_all(void* library) {
  lt::Api api{};
  bind(library, "cublasLtCreate", api.create);
  bind(library, "cublasLtDestroy", api.destroy);
  bind(library, "cublasLtGetVersion", api.version);
  bind(library, "cublasLtMatmulDescCreate", api.desc_create);
  bind(library, "cublasLtMatmulDescDestroy", api.desc_destroy);
  bind(library, "cublasLtMatmulDescSetAttribute", api.desc_set);
  bind(library, "cublasLtMatrixLayoutCreate", api.layout_create);
  bind(library, "cublasLtMatrixLayoutDestroy", api.layout_destroy);
  bind(library, "cublasLtMatmulPreferenceCreate", api.preference_create);
  bind(library, "cublasLtMatmulPreferenceDestroy", api.preference_destroy);
  bind(library, "cublasLtMatmulPreferenceSetAttribute", api.preference_set);
  bind(library, "cublasLtMatmulAlgoGetHeuristic", api.heuristic);
  bind(library, "cublasLtMatmulAlgoConfigGetAttribute", api.algorithm_get);
  bind(library, "cublasLtMatmul", api.matmul);
  return api;
}

// The descriptors of one product. The library is column-major: it sees out^T [features, rows] = weight x^T, where the
// row-major weight is the transpose of its first operand.
class Descriptors {
 public:
  Descriptors(const lt::Api& api, const LtProduct& product, std::int64_t x_stride, std::int64_t out_stride,
              std::int64_t num_rows)
      : api_(api) {
    const cudaDataType_t type = data_type(product.weight.dtype);
    const auto size = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
    is_made_ =
        api.desc_create(&desc, lt::kCompute32F, CUDA_R_32F) == lt::kSuccess &&
        api.layout_create(&weight, type, size(product.weight.in_features), size(product.features()),
                          product.weight.in_features) == lt::kSuccess &&
        api.layout_create(&x, type, size(product.weight.in_features), size(num_rows), x_stride) == lt::kSuccess &&
        api.layout_create(&out, type, size(product.features()), size(num_rows), out_stride) == lt::kSuccess;
    const std::uint32_t epilogue = epilogue_of(product);
    set(lt::kDescTransposeA, static_cast<std::int32_t>(lt::kTranspose));
    set(lt::kDescEpilogue, epilogue);
    if (product.bias != nullptr) set(lt::kDescBiasPointer, product.bias);
  }
  ~Descriptors() {
    if (desc != nullptr) api_.desc_destroy(desc);
    for (const lt::MatrixLayout layout : {weight, x, out}) {
      if (layout != nullptr) api_.layout_destroy(layout);
    }
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  bool is_made() const { return is_made_; }

  lt::MatmulDesc desc = nullptr;
  lt::MatrixLayout weight = nullptr, x = nullptr, out = nullptr;

 private:
  template <typename Value>
  void set(lt::MatmulDescAttribute attribute, const Value& value) {
    is_made_ = is_made_ && api_.desc_set(desc, attribute, &value, sizeof(value)) == lt::kSuccess;
  }

  const lt::Api& api_;
  bool is_made_ = false;
};

class PreferenceHolder {
 public:
  PreferenceHolder(const lt::Api& api, std::size_t workspace_size) : api_(api) {
    is_made_ = api.preference_create(&preference) == lt::kSuccess;
    const std::uint32_t no_reduction = 0;  // no algorithm that sums parts of the depth afterwards
    set(lt::kPreferenceMaxWorkspaceBytes, static_cast<std::uint64_t>(workspace_size));
    set(lt::kPreferenceReductionSchemeMask, no_reduction);
    for (const auto operand : {lt::kPreferenceMinAlignmentABytes, lt::kPreferenceMinAlignmentBBytes,
                               lt::kPreferenceMinAlignmentCBytes, lt::kPreferenceMinAlignmentDBytes}) {
      set(operand, kAlignment);
    }
  }
  ~PreferenceHolder() {
    if (preference != nullptr) api_.preference_destroy(preference);
  }
  PreferenceHolder(const PreferenceHolder&) = delete;
  PreferenceHolder& operator=(const PreferenceHolder&) = delete;

  bool is_made() const { return is_made_; }

  lt::Preference preference = nullptr;

 private:
  template <typename Value>
  void set(lt::PreferenceAttribute attribute, const Value& value) {
    is_made_ = is_made_ && api_.preference_set(preference, attribute, &value, sizeof(value)) == lt::kSuccess;
  }

  const lt::Api& api_;
  bool is_made_ = false;
};

}  // namespace

GemmChoice gemm_choice(const char* value) {
  const std::string name = value == nullptr ? "" : value;
  if (name.empty() || name == "auto") return GemmChoice::kAuto;
  if (name == "own") return GemmChoice::kOwn;
  ASSAY_CHECK(name == "cublaslt", "ASSAY_CUDA_GEMM='", name, "': choose one of auto, own, cublaslt");
  return GemmChoice::kCublasLt;
}

bool has_lt_epilogue(Activation activation) {
  return activation == Activation::kNone || activation == Activation::kRelu || activation == Activation::kGeluTanh;
}

const std::vector<std::string>& CublasLt::default_names() {
  static const std::vector<std::string> names = {"libcublasLt.so.13", "libcublasLt.so.12"};
  return names;
}

CublasLt::CublasLt(const std::vector<std::string>& names, void* workspace, std::size_t workspace_size)
    : workspace_(workspace), workspace_size_(workspace_size) {
  std::string failures;
  for (const std::string& name : names) {
    void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      failures += std::string("; ") + dlerror();
      continue;
    }
    try {
      api_ = bind_all(library);
      check(api_.create(&handle_), "cublasLtCreate");
      return;
    } catch (const std::runtime_error& error) {
      failures += "; " + name + ": " + error.what();
      dlclose(library);
    }
  }
  throw std::runtime_error("cuBLASLt cannot be used" + failures);
}

// The library itself stays loaded: its kernels are registered with the driver.
CublasLt::~CublasLt() { api_.destroy(handle_); }

void CublasLt::check(lt::Status status, const char* what) const {
  if (status != lt::kSuccess)
    throw std::runtime_error(std::string(what) + " failed with status " + std::to_string(status));
}

std::int64_t CublasLt::attribute(const lt::Algorithm& algorithm, lt::AlgorithmAttribute attribute) const {
  std::int32_t value = 0;
  std::size_t written = 0;
  check(api_.algorithm_get(&algorithm, attribute, &value, sizeof(value), &written),
        "cublasLtMatmulAlgoConfigGetAttribute");
  return value;
}

std::vector<lt::Algorithm> CublasLt::candidates(const LtProduct& product) const {
  const Descriptors parts(api_, product, product.weight.in_features, product.features(), kHeuristicRows);
  const PreferenceHolder holder(api_, workspace_size_);
  if (!parts.is_made() || !holder.is_made()) return {};
  std::vector<lt::HeuristicResult> results(kMaxCandidates);
  int returned = 0;
  const lt::Status status = api_.heuristic(handle_, parts.desc, parts.weight, parts.x, parts.out, parts.out,
                                           holder.preference, kMaxCandidates, results.data(), &returned);
  if (status != lt::kSuccess) return {};
  std::vector<lt::Algorithm> algorithms;
  for (int i = 0; i < returned; ++i) {
    const lt::HeuristicResult& result = results[static_cast<std::size_t>(i)];
    if (result.state != lt::kSuccess || result.workspace_size > workspace_size_) continue;
    if (attribute(result.algorithm, lt::kAlgorithmSplitK) > 1) continue;
    algorithms.push_back(result.algorithm);
  }
  return algorithms;
}

bool CublasLt::multiply(const LtProduct& product, const lt::Algorithm& algorithm, const LtOperands& operands,
                        cudaStream_t stream) const {
  if (operands.num_rows == 0) return true;
  const Descriptors parts(api_, product, operands.x_stride, operands.out_stride, operands.num_rows);
  if (!parts.is_made()) return false;
  const float one = 1.0f, zero = 0.0f;
  return api_.matmul(handle_, parts.desc, &one, product.weight.data, parts.weight, operands.x, parts.x, &zero,
                     operands.out, parts.out, operands.out, parts.out, &algorithm, workspace_, workspace_size_,
                     stream) == lt::kSuccess;
}

std::string CublasLt::describe(const lt::Algorithm& algorithm) const {
  return join("cublaslt ", version(), " algorithm ", attribute(algorithm, lt::kAlgorithmId), " tile ",
              attribute(algorithm, lt::kAlgorithmTileId), " stages ", attribute(algorithm, lt::kAlgorithmStagesId));
}

}  // namespace assay::cuda
