// Launches over whole rows of the hidden size: embeddings, norms, and rows by index. As in launch.h.
#pragma once

#include <cuda_runtime_api.h>

#include "common/params.h"

namespace assay::cuda {

constexpr std::int64_t kMaxNormSize = 16384;  // a row is kept in shared memory

// Number of rows a replayed graph really has: rows at and past *num_live_rows are left alone. nullptr: all are live.
using LiveRows = const std::int32_t*;

// out = norm(x + delta). A row is read and written by one block, so the outputs may be x itself.
struct NormParams {
  NormView norm;      // with a weight
  const void* x;      // [num_rows, hidden_size] float32, or dtype
  DType x_dtype;      // kFloat32 or dtype
  const void* delta;  // [num_rows, hidden_size] in dtype, or nullptr
  float* sum;         // x + delta: the residual stream of a pre-norm block; or nullptr
  float* normed;      // the norm in float32: the residual stream of a post-norm block; or nullptr
  void* out;          // the norm in dtype: what the next product reads; or nullptr
  DType dtype;        // kFloat32, kFloat16 or kBFloat16
  LiveRows num_live_rows;
  std::int64_t num_rows;
  std::int64_t hidden_size;  // at most kMaxNormSize
};

// The sum of a token's embedding rows, then the norm where it has a weight. Ids are inside their tables.
struct EmbedRowsParams {
  const std::int32_t* input_ids;       // [num_tokens]
  const std::int32_t* position_ids;    // [num_tokens]; unread without position_embeddings
  const std::int32_t* token_type_ids;  // [num_tokens] or nullptr = all zeros
  const void* word_embeddings;         // [vocab_size, hidden_size] in dtype
  const void* position_embeddings;     // [max_positions, hidden_size] or nullptr
  const void* token_type_embeddings;   // [type_vocab_size, hidden_size] or nullptr
  const void* task_type_embeddings;    // row 0 of ERNIE's table, [1, hidden_size], or nullptr
  NormView norm;                       // kLayer, or without a weight
  float* hidden_states;                // [num_tokens, hidden_size]
  void* out;                           // the same in dtype, or nullptr
  DType dtype;                         // of the tables and of out
  LiveRows num_live_rows;
  std::int64_t num_tokens;
  std::int64_t hidden_size;  // at most kMaxNormSize
};

// out[i] = x[rows[i]], bytes as they are.
struct GatherRowsParams {
  const void* x;  // [*, row_bytes], rows x_stride_bytes apart
  std::int64_t x_stride_bytes;
  const std::int32_t* rows;  // [num_rows], inside x
  void* out;                 // [num_rows, row_bytes]
  std::int64_t num_rows;
  std::int64_t row_bytes;  // an even number
};

void launch_norm(const NormParams& params, cudaStream_t stream);
void launch_embed(const EmbedRowsParams& params, cudaStream_t stream);
void launch_gather_rows(const GatherRowsParams& params, cudaStream_t stream);

}  // namespace assay::cuda
