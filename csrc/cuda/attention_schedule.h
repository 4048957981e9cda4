// What attention's blocks do, in numbers: tiles, stages, the work list. Plain C++ that kernels and host code both read.
#pragma once

#include "common/types.h"

namespace assay::cuda {

constexpr int kAttentionWarpRows = 16;   // query rows of a warp
constexpr int kAttentionBlockRows = 64;  // of a block whose warps share their keys
constexpr int kAttentionThreads = kAttentionBlockRows / kAttentionWarpRows * 32;
// A sequence with at most this many queries is computed by single warps, several (sequence, head) pairs to a block.
constexpr int kAttentionShortQueries = 32;
// A sequence with at least this many queries and as many keys is wide: a block of the Hopper kernel has
// kAttentionWideRows of its rows; for the other kernels they are two blocks.
constexpr int kAttentionWideLength = 512;
constexpr int kAttentionWideRows = 128;

// One compiled kernel. A row's sums are taken over key tiles counted from its sequence's first key, so they depend on
// these numbers but not on the rows beside it.
struct AttentionTiling {
  int head_dim;       // a smaller head is filled up with zeros in shared memory
  int key_tile;       // keys between two looks at the running maximum
  int num_stages;     // key tiles in shared memory; also the number of warps that can work by themselves
  int blocks_per_sm;  // what registers are limited for
  int row_bytes;      // of a key in shared memory: an odd number of 16-byte units, so that 8 rows fall on all banks
  int tile_bytes;     // key_tile rows; a stage is a tile of keys and one of values
  int scratch_bytes;  // per warp, behind the stages
  int shared_bytes;   // of a block
};

constexpr AttentionTiling make_attention_tiling(int head_dim, int element_bytes, int key_tile, int num_stages,
                                                int blocks_per_sm, int scratch_bytes) {
  const int row_bytes = head_dim * element_bytes + 16;
  const int stages_bytes = num_stages * 2 * key_tile * row_bytes;
  return {head_dim,      key_tile,
          num_stages,    blocks_per_sm,
          row_bytes,     key_tile * row_bytes,
          scratch_bytes, stages_bytes + kAttentionThreads / 32 * scratch_bytes};
}

constexpr AttentionTiling half_attention_tiling(int head_dim, int key_tile, int blocks_per_sm) {
  return make_attention_tiling(head_dim, 2, key_tile, 4, blocks_per_sm, 0);
}

// The scratch takes a warp's weights, [16, key_tile], whose rows are 8 longer so that four of them fall on all banks.
constexpr int kFloatWeightsPadding = 8;
constexpr AttentionTiling float_attention_tiling(int head_dim, int key_tile, int num_stages) {
  return make_attention_tiling(head_dim, 4, key_tile, num_stages, 2,
                               kAttentionWarpRows * (key_tile + kFloatWeightsPadding) * 4);
}

// For float16 and bfloat16, by rising head_dim. Every one stays below the 99 KiB that a block may have on sm_86.
constexpr AttentionTiling kHalfAttentionTilings[] = {
    half_attention_tiling(32, 32, 4), half_attention_tiling(64, 32, 4),  half_attention_tiling(80, 32, 3),
    half_attention_tiling(96, 32, 3), half_attention_tiling(128, 32, 2), half_attention_tiling(256, 16, 2),
};

constexpr AttentionTiling kFloatAttentionTilings[] = {
    float_attention_tiling(64, 32, 4),
    float_attention_tiling(128, 32, 2),
    float_attention_tiling(256, 16, 2),
};

// By its own lengths alone, so that what is computed beside a sequence never decides how it is computed.
enum class AttentionKind : int { kWide, kLong, kShort };
constexpr int kAttentionKinds = 3;

// Rows of one sequence, the unit of the work list; every head computes every entry. The lengths are in it so that a
// block waits for memory once before it can load.
struct AttentionEntry {
  std::int32_t seq;
  std::int32_t block;        // of 128, 64 or 16 rows, by kind
  std::int32_t first_query;  // of the sequence, among all tokens
  std::int32_t num_queries;
  std::int32_t first_key;
  std::int32_t num_keys;
  std::int32_t unused[2];
};

// In device memory; the entries follow: wide, long and short, each kind with the most keys first.
struct AttentionSchedule {
  std::int32_t num_wide;
  std::int32_t num_long;
  std::int32_t num_short;
  std::int32_t next_work;     // beyond the work that every block starts with; 0 between launches
  std::int32_t num_finished;  // blocks; 0 between launches
  std::int32_t unused[3];
};

// The compiled kernel for a head: its place among the tilings of its kind of dtype, and that tiling. Throws
// std::invalid_argument unless head_dim is a multiple of 8 up to 256 and dtype float32, float16 or bfloat16.
int attention_tiling_idx(DType dtype, int head_dim);
AttentionTiling attention_tiling(DType dtype, int head_dim);

// No set of num_seqs lengths with num_tokens queries in all has more entries.
std::int64_t max_attention_entries(std::int64_t num_tokens, std::int64_t num_seqs);

// Bytes.
std::int64_t attention_schedule_size(std::int64_t num_tokens, std::int64_t num_seqs);

// Blocks to launch: what the card holds at a time, or the most work there can be.
std::int64_t attention_grid(const AttentionTiling& tiling, std::int64_t num_tokens, std::int64_t num_seqs,
                            int num_heads, int num_sms);

}  // namespace assay::cuda
