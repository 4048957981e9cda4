// A stand-in for cuBLASLt on host memory, for tests of everything around it: a test says which algorithms it suggests,
// some of them with the faults that `prove` must find. Built as a library of its own and loaded as the real one is.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "common/types.h"
#include "cuda/cublas_lt_api.h"

namespace lt = assay::cuda::lt;

// The behaviour of an algorithm, in its first word.
enum Behaviour : std::uint64_t {
  kInvariant,
  kOrderByRows,   // sums backwards where there are few rows
  kOrderByPlace,  // sums backwards in every third row
  kRefusesFewRows,
  kSplitsDepth,     // says that it splits the depth
  kWantsWorkspace,  // more than anybody gives
  kForgetsLastRow,
};

namespace assay::cuda::lt {

struct HandleOpaque {};
struct MatmulDescOpaque {
  std::int32_t transpose_a;
  std::uint32_t epilogue;
  const void* bias;
};
struct MatrixLayoutOpaque {
  cudaDataType_t type;
  std::uint64_t rows, cols;
  std::int64_t ld;
};
struct PreferenceOpaque {
  std::uint64_t workspace_size;
};

}  // namespace assay::cuda::lt

namespace {

constexpr lt::Status kInvalidValue = 7;
constexpr lt::Status kNotSupported = 15;
constexpr std::uint64_t kFewRows = 64;

std::vector<std::uint64_t> suggestions;
std::int64_t num_heuristics = 0;
std::int64_t num_products = 0;

float number(const void* data, cudaDataType_t type, std::int64_t at) {
  if (type == CUDA_R_32F) return static_cast<const float*>(data)[at];
  if (type == CUDA_R_16F) return __half2float(static_cast<const __half*>(data)[at]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
}

void put(void* data, cudaDataType_t type, std::int64_t at, float value) {
  if (type == CUDA_R_32F) {
    static_cast<float*>(data)[at] = value;
  } else if (type == CUDA_R_16F) {
    static_cast<__half*>(data)[at] = __float2half_rn(value);
  } else {
    static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(value);
  }
}

std::vector<float> column(const void* data, const lt::MatrixLayoutOpaque& layout, std::uint64_t col) {
  std::vector<float> values(layout.rows);
  for (std::uint64_t i = 0; i < layout.rows; ++i) {
    values[i] = number(data, layout.type, static_cast<std::int64_t>(col) * layout.ld + static_cast<std::int64_t>(i));
  }
  return values;
}

float finish(float sum, const lt::MatmulDescOpaque& desc, cudaDataType_t type, std::int64_t feature) {
  if (desc.epilogue & lt::kEpilogueBias) sum += number(desc.bias, type, feature);
  if (desc.epilogue & lt::kEpilogueRelu) return sum < 0.0f ? 0.0f : sum;
  if (desc.epilogue & lt::kEpilogueGelu) {
    return 0.5f * sum * (1.0f + std::tanh(0.79788456f * (sum + 0.044715f * sum * sum * sum)));
  }
  return sum;
}

template <typename Value>
lt::Status read(Value& to, const void* value, std::size_t size) {
  if (size != sizeof(to)) return kInvalidValue;
  std::memcpy(&to, value, size);
  return lt::kSuccess;
}

}  // namespace

extern "C" {

// What the next calls of cublasLtMatmulAlgoGetHeuristic suggest; counters start again.
void fake_cublas_lt_suggest(const std::uint64_t* behaviours, int count) {
  suggestions.assign(behaviours, behaviours + count);
  num_heuristics = num_products = 0;
}
std::int64_t fake_cublas_lt_num_heuristics() { return num_heuristics; }
std::int64_t fake_cublas_lt_num_products() { return num_products; }

lt::Status cublasLtCreate(lt::Handle* handle) {
  *handle = new lt::HandleOpaque;
  return lt::kSuccess;
}
lt::Status cublasLtDestroy(lt::Handle handle) {
  delete handle;
  return lt::kSuccess;
}
std::size_t cublasLtGetVersion() { return 130000; }

lt::Status cublasLtMatmulDescCreate(lt::MatmulDesc* desc, lt::ComputeType compute, cudaDataType_t scale) {
  if (compute != lt::kCompute32F || scale != CUDA_R_32F) return kInvalidValue;
  *desc = new lt::MatmulDescOpaque{0, lt::kEpilogueDefault, nullptr};
  return lt::kSuccess;
}
lt::Status cublasLtMatmulDescDestroy(lt::MatmulDesc desc) {
  delete desc;
  return lt::kSuccess;
}
lt::Status cublasLtMatmulDescSetAttribute(lt::MatmulDesc desc, lt::MatmulDescAttribute attribute, const void* value,
                                          std::size_t size) {
  switch (attribute) {
    case lt::kDescTransposeA:
      return read(desc->transpose_a, value, size);
    case lt::kDescEpilogue:
      return read(desc->epilogue, value, size);
    case lt::kDescBiasPointer:
      return read(desc->bias, value, size);
  }
  return kInvalidValue;
}

lt::Status cublasLtMatrixLayoutCreate(lt::MatrixLayout* layout, cudaDataType_t type, std::uint64_t rows,
                                      std::uint64_t cols, std::int64_t ld) {
  if (ld < static_cast<std::int64_t>(rows)) return kInvalidValue;
  *layout = new lt::MatrixLayoutOpaque{type, rows, cols, ld};
  return lt::kSuccess;
}
lt::Status cublasLtMatrixLayoutDestroy(lt::MatrixLayout layout) {
  delete layout;
  return lt::kSuccess;
}

lt::Status cublasLtMatmulPreferenceCreate(lt::Preference* preference) {
  *preference = new lt::PreferenceOpaque{0};
  return lt::kSuccess;
}
lt::Status cublasLtMatmulPreferenceDestroy(lt::Preference preference) {
  delete preference;
  return lt::kSuccess;
}
lt::Status cublasLtMatmulPreferenceSetAttribute(lt::Preference preference, lt::PreferenceAttribute attribute,
                                                const void* value, std::size_t size) {
  if (attribute == lt::kPreferenceMaxWorkspaceBytes) return read(preference->workspace_size, value, size);
  std::uint32_t other = 0;
  return read(other, value, size);
}

lt::Status cublasLtMatmulAlgoGetHeuristic(lt::Handle, lt::MatmulDesc, lt::MatrixLayout, lt::MatrixLayout,
                                          lt::MatrixLayout, lt::MatrixLayout, lt::Preference preference, int requested,
                                          lt::HeuristicResult* results, int* returned) {
  ++num_heuristics;
  *returned = 0;
  for (const std::uint64_t behaviour : suggestions) {
    if (*returned == requested) break;
    lt::HeuristicResult& result = results[(*returned)++];
    result = {};
    result.algorithm.data[0] = behaviour;
    result.workspace_size = behaviour == kWantsWorkspace ? preference->workspace_size + 1 : 0;
  }
  return lt::kSuccess;
}

lt::Status cublasLtMatmulAlgoConfigGetAttribute(const lt::Algorithm* algorithm, lt::AlgorithmAttribute attribute,
                                                void* value, std::size_t size, std::size_t* written) {
  if (size != sizeof(std::int32_t)) return kInvalidValue;
  std::int32_t number = static_cast<std::int32_t>(algorithm->data[0]);
  if (attribute == lt::kAlgorithmSplitK) number = algorithm->data[0] == kSplitsDepth ? 2 : 1;
  std::memcpy(value, &number, size);
  *written = size;
  return lt::kSuccess;
}

lt::Status cublasLtMatmul(lt::Handle, lt::MatmulDesc desc, const void*, const void* a, lt::MatrixLayout a_layout,
                          const void* b, lt::MatrixLayout b_layout, const void*, const void*, lt::MatrixLayout, void* d,
                          lt::MatrixLayout d_layout, const lt::Algorithm* algorithm, void*, std::size_t, cudaStream_t) {
  ++num_products;
  if (desc->transpose_a != lt::kTranspose || a_layout->rows != b_layout->rows || a_layout->cols != d_layout->rows ||
      b_layout->cols != d_layout->cols) {
    return kInvalidValue;
  }
  const std::uint64_t behaviour = algorithm->data[0], num_rows = b_layout->cols, depth = b_layout->rows;
  if (behaviour == kRefusesFewRows && num_rows < kFewRows) return kNotSupported;
  std::vector<std::vector<float>> features;
  for (std::uint64_t feature = 0; feature < a_layout->cols; ++feature) {
    features.push_back(column(a, *a_layout, feature));
  }
  for (std::uint64_t row = 0; row < num_rows; ++row) {
    if (behaviour == kForgetsLastRow && row + 1 == num_rows) break;
    const bool is_backwards =
        (behaviour == kOrderByRows && num_rows < kFewRows) || (behaviour == kOrderByPlace && row % 3 == 2);
    const std::vector<float> x = column(b, *b_layout, row);
    for (std::uint64_t feature = 0; feature < features.size(); ++feature) {
      const std::vector<float>& weight = features[feature];
      float sum = 0.0f;
      for (std::uint64_t k = 0; k < depth; ++k) {
        const std::uint64_t at = is_backwards ? depth - 1 - k : k;
        sum = std::fma(x[at], weight[at], sum);
      }
      const auto place = static_cast<std::int64_t>(feature);
      put(d, d_layout->type, static_cast<std::int64_t>(row) * d_layout->ld + place,
          finish(sum, *desc, d_layout->type, place));
    }
  }
  return lt::kSuccess;
}

}  // extern "C"
