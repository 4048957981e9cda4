// attention_varlen on the device. Pointers are device memory; everything is asynchronous on `stream`, allocates nothing
// and reads nothing back, so both launches can be captured in a CUDA graph and replayed with other sequence lengths.
#pragma once

#include <cuda_runtime.h>

#include "common/params.h"

namespace assay::cuda {

// Which rows the blocks of an attention launch compute, in which order: built once per set of sequence lengths and used
// by every layer, head count and dtype. Launches that share a schedule must be on one stream.
struct AttentionScheduleParams {
  const std::int32_t* cu_seqlens_q;  // [num_seqs + 1]; sequences may be empty
  const std::int32_t* cu_seqlens_k;  // [num_seqs + 1]
  std::int64_t num_seqs;
  std::int64_t num_tokens;  // at least cu_seqlens_q[num_seqs], which the device reads
  bool is_causal;           // only the order of the work follows from it, never a result
  void* schedule;           // attention_schedule_size(num_tokens, num_seqs) bytes, 16-byte aligned
};

// Which kernels may compute a call. kHopper: wide sequences (attention_schedule.h) of float16 and bfloat16 with
// head_dim 64 or 128 by wgmma, on a card of compute capability 9.0 and a build for 90a; kPortable kernels do the rest.
enum class AttentionPath { kPortable, kHopper };

// kPortable until a card has shown that the other one is right and faster (docs/gpu-status.md).
constexpr AttentionPath kDefaultAttentionPath = AttentionPath::kPortable;

struct CudaAttentionParams {
  AttentionParams attention;    // float32, float16 or bfloat16; cu_seqlens and max_seqlens are unread
  std::int64_t num_tokens;      // as given to the schedule; with kHopper also the rows of q in memory
  std::int64_t num_key_tokens;  // rows of k and v in memory, at least cu_seqlens_k[num_seqs]
  const float* alibi_slopes;    // [num_heads]: scores -= slope * |key - position of the query|; nullptr = none
  void* schedule;               // of the same cu_seqlens
  AttentionPath path = kDefaultAttentionPath;
};

void launch_attention_schedule(const AttentionScheduleParams& params, cudaStream_t stream);

// Throws std::invalid_argument for a head_dim that is no multiple of 8 up to 256 and for rows that do not begin on 16
// bytes.
void launch_attention(const CudaAttentionParams& params, cudaStream_t stream);

}  // namespace assay::cuda
