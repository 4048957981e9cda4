// Builds attention's work list on the device: lengths stay there, and a captured graph follows them.
#include "cuda/attention_schedule.h"
#include "cuda/device.cuh"
#include "cuda/launch_attention.h"
#include "cuda/launch_kernel.h"

namespace assay::cuda {
namespace {

constexpr int kBuckets = 128;                         // per kind of work, by number of keys
constexpr int kBucketKeys = 64;                       // longer than kBuckets * kBucketKeys: all alike
constexpr int kThreads = kAttentionKinds * kBuckets;  // one per bucket in the scan

__device__ AttentionKind kind_of(const AttentionEntry& entry) {
  if (entry.num_queries <= kAttentionShortQueries) return AttentionKind::kShort;
  const bool is_wide = entry.num_queries >= kAttentionWideLength && entry.num_keys >= kAttentionWideLength;
  return is_wide ? AttentionKind::kWide : AttentionKind::kLong;
}

__device__ int block_rows(AttentionKind kind) {
  if (kind == AttentionKind::kShort) return kAttentionWarpRows;
  return kind == AttentionKind::kWide ? kAttentionWideRows : kAttentionBlockRows;
}

// The bucket of an entry, kind by kind and the most work first.
__device__ int bucket_of(const AttentionScheduleParams& p, const AttentionEntry& entry, AttentionKind kind) {
  const int rows = block_rows(kind);
  int num_keys = entry.num_keys;
  if (p.is_causal) num_keys = max(0, min(num_keys, num_keys - entry.num_queries + (entry.block + 1) * rows));
  return static_cast<int>(kind) * kBuckets + kBuckets - 1 - min(kBuckets - 1, num_keys / kBucketKeys);
}

template <typename Visit>
__device__ void for_each_entry(const AttentionScheduleParams& p, Visit visit) {
  for (int seq = static_cast<int>(threadIdx.x); seq < p.num_seqs; seq += kThreads) {
    AttentionEntry entry = {};
    entry.seq = seq;
    entry.first_query = p.cu_seqlens_q[seq];
    entry.num_queries = p.cu_seqlens_q[seq + 1] - entry.first_query;
    entry.first_key = p.cu_seqlens_k[seq];
    entry.num_keys = p.cu_seqlens_k[seq + 1] - entry.first_key;
    const AttentionKind kind = kind_of(entry);
    const int rows = block_rows(kind);
    for (; entry.block * rows < entry.num_queries; ++entry.block) visit(entry, bucket_of(p, entry, kind));
  }
}

// A counting sort by one block. The order inside a bucket is left to chance: it decides when rows are computed, not
// how.
__global__ void __launch_bounds__(kThreads) attention_schedule_kernel(AttentionScheduleParams p) {
  __shared__ int place[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  AttentionSchedule* schedule = static_cast<AttentionSchedule*>(p.schedule);
  AttentionEntry* entries = reinterpret_cast<AttentionEntry*>(schedule + 1);
  place[thread] = 0;
  __syncthreads();
  for_each_entry(p, [&](const AttentionEntry&, int bucket) { atomicAdd(&place[bucket], 1); });
  __syncthreads();
  const int count = place[thread];
  for (int step = 1; step < kThreads; step *= 2) {
    const int before = thread >= step ? place[thread - step] : 0;
    __syncthreads();
    place[thread] += before;
    __syncthreads();
  }
  const int num_wide = place[kBuckets - 1], num_not_short = place[2 * kBuckets - 1], num_all = place[kThreads - 1];
  __syncthreads();
  place[thread] -= count;
  __syncthreads();
  for_each_entry(p, [&](const AttentionEntry& entry, int bucket) { entries[atomicAdd(&place[bucket], 1)] = entry; });
  if (thread == 0) {
    schedule->num_wide = num_wide;
    schedule->num_long = num_not_short - num_wide;
    schedule->num_short = num_all - num_not_short;
    schedule->next_work = 0;
    schedule->num_finished = 0;
  }
}

}  // namespace

void launch_attention_schedule(const AttentionScheduleParams& params, cudaStream_t stream) {
  launch_kernel(attention_schedule_kernel, dim3(1), dim3(kThreads), 0, stream, params);
}

}  // namespace assay::cuda
