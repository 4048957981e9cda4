// The wanted row of each sequence, where a layer is to compute no other.
#pragma once

#include <cuda_runtime.h>

#include "common/types.h"

namespace assay::cuda {

// An empty sequence, which fills up a batch, wants nothing: it gets token 0 and position 0, which are there.
struct LayerRowsParams {
  const std::int32_t* rows;          // [num_seqs] token indices; unread where the sequence is empty
  const std::int32_t* cu_seqlens;    // [num_seqs + 1]
  const std::int32_t* position_ids;  // [num_tokens] or nullptr
  std::int32_t* tokens;              // [num_seqs]: rows, with 0 for empty sequences
  std::int32_t* one_each;            // [num_seqs + 1]: cu_seqlens of one query a sequence
  std::int32_t* in_sequence;         // [num_seqs]: a row's place among its keys
  std::int32_t* rows_position_ids;   // [num_seqs]; unwritten without position_ids
  std::int64_t num_seqs;
};

void launch_layer_rows(const LayerRowsParams& params, cudaStream_t stream);

}  // namespace assay::cuda
