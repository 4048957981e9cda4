// The part of cuBLASLt's binary interface that we call (the same in versions 12 and 13), declared here because the
// library is loaded at run time and its header is not in every toolkit. Values are those of NVIDIA's cublasLt.h.
#pragma once

#include <cuda_runtime.h>
#include <library_types.h>

#include <cstddef>
#include <cstdint>

namespace assay::cuda::lt {

using Status = int;
constexpr Status kSuccess = 0;

using Handle = struct HandleOpaque*;
using MatmulDesc = struct MatmulDescOpaque*;
using MatrixLayout = struct MatrixLayoutOpaque*;
using Preference = struct PreferenceOpaque*;

struct Algorithm {
  std::uint64_t data[8];
};

struct HeuristicResult {
  Algorithm algorithm;
  std::size_t workspace_size;
  Status state;
  float waves_count;
  int reserved[4];
};

enum ComputeType : int { kCompute32F = 68, kCompute32FPedantic = 69 };
enum Operation : std::int32_t { kTranspose = 1 };
enum Epilogue : std::uint32_t { kEpilogueDefault = 1, kEpilogueRelu = 2, kEpilogueBias = 4, kEpilogueGelu = 32 };

enum MatmulDescAttribute : int { kDescTransposeA = 3, kDescEpilogue = 7, kDescBiasPointer = 8 };
enum PreferenceAttribute : int {
  kPreferenceMaxWorkspaceBytes = 1,
  kPreferenceReductionSchemeMask = 3,
  kPreferenceMinAlignmentABytes = 5,
  kPreferenceMinAlignmentBBytes = 6,
  kPreferenceMinAlignmentCBytes = 7,
  kPreferenceMinAlignmentDBytes = 8
};
enum AlgorithmAttribute : int { kAlgorithmId = 0, kAlgorithmTileId = 1, kAlgorithmSplitK = 2, kAlgorithmStagesId = 6 };

// One pointer per function; `load` is in cublas_lt.cpp.
struct Api {
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  std::size_t (*version)();
  Status (*desc_create)(MatmulDesc*, ComputeType, cudaDataType_t scale);
  Status (*desc_destroy)(MatmulDesc);
  Status (*desc_set)(MatmulDesc, MatmulDescAttribute, const void* value, std::size_t size);
  Status (*layout_create)(MatrixLayout*, cudaDataType_t, std::uint64_t rows, std::uint64_t cols, std::int64_t ld);
  Status (*layout_destroy)(MatrixLayout);
  Status (*preference_create)(Preference*);
  Status (*preference_destroy)(Preference);
  Status (*preference_set)(Preference, PreferenceAttribute, const void* value, std::size_t size);
  Status (*heuristic)(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b, MatrixLayout c, MatrixLayout d, Preference,
                      int requested, HeuristicResult*, int* returned);
  Status (*algorithm_get)(const Algorithm*, AlgorithmAttribute, void* value, std::size_t size, std::size_t* written);
  Status (*matmul)(Handle, MatmulDesc, const void* alpha, const void* a, MatrixLayout, const void* b, MatrixLayout,
                   const void* beta, const void* c, MatrixLayout, void* d, MatrixLayout, const Algorithm*,
                   void* workspace, std::size_t workspace_size, cudaStream_t);
};

}  // namespace assay::cuda::lt
