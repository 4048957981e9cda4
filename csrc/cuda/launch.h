// The host side of the CUDA kernels: one launch function per op, asynchronous on `stream`. Pointers are device memory
// unless said otherwise; sizes are checked by the caller (bind_cuda.cpp).
#pragma once

#include <cuda_runtime.h>

#include "common/params.h"

namespace assay::cuda {

// classifier_head with plain weights: logits = (classifier(act(dense(pooled))) - logit_mean) / logit_sigma, then the
// activation of the row. All float32.
struct HeadParams {
  const float* pooled;        // [num_rows, hidden_size]
  const float* dense_weight;  // [dense_size, hidden_size] or nullptr = no dense layer
  const float* dense_bias;    // [dense_size] or nullptr
  Activation dense_activation;
  const float* classifier_weight;         // [num_labels, dense_size], or [num_labels, hidden_size] without dense
  const float* classifier_bias;           // [num_labels] or nullptr
  float logit_mean;                       // 0 when unset
  float logit_sigma;                      // 1 when unset
  const HeadActivation* row_activations;  // [num_rows]
  float* dense_buffer;                    // [num_rows, dense_size] scratch; unread without dense
  float* out;                             // [num_rows, num_labels]
  std::int64_t num_rows;
  std::int64_t hidden_size;
  std::int64_t dense_size;
  std::int64_t num_labels;
};

// One row per sequence; a sequence without tokens gives NaN.
struct DevicePoolParams {
  const void* hidden_states;  // [num_tokens, hidden_size]
  DType dtype;                // of hidden_states: kFloat32, kFloat16 or kBFloat16
  std::int64_t hidden_stride;
  const std::int32_t* cu_seqlens;  // [num_seqs + 1]
  Pooling pooling;
  float* out;  // [num_seqs, hidden_size]
  std::int64_t num_seqs;
  std::int64_t hidden_size;
};

void launch_pool(const DevicePoolParams& params, cudaStream_t stream);
void launch_classifier_head(const HeadParams& params, cudaStream_t stream);

}  // namespace assay::cuda
