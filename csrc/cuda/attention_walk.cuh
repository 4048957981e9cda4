// The walk that every attention kernel shares: work items, key tiles through shared memory, masks, softmax. `Tile` is
// one warp's arithmetic on 16 query rows and one tile of keys (attention_mma.cuh, attention_fma.cuh).
//
// What a row's bits depend on: its query, its sequence's keys and values, and the order of the sums over them. Tiles
// begin at multiples of key_tile of the sequence's first key, a tile's sums have a fixed order, and a tile that a row
// does not see at all leaves the row as it is. So neither the rows beside it nor the kind of work item shows.
#pragma once

#include "cuda/device.cuh"
// After device.cuh:
#include "cuda/attention_kernel.h"
#include "cuda/common.cuh"
#include "cuda/mma.cuh"

namespace assay::cuda {

constexpr float kLog2E = 1.44269504f;

// 2^x; denormal results are zero, as are results of -infinity.
__device__ inline float exp2_approx(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return exp2f(x);
#endif
}

__device__ inline float reciprocal_approx(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0f / x;
#endif
}

// x, hidden from the optimiser: what follows from it is computed anew where it is needed instead of staying in
// registers, which the sums need.
__device__ inline int fresh(int x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(x));
#endif
  return x;
}

// Below kNumThreads.
template <int kNumThreads = kAttentionThreads>
__device__ int thread_idx() {
  return static_cast<int>(static_cast<unsigned>(fresh(static_cast<int>(threadIdx.x))) % kNumThreads);
}

// data [num_tokens, any heads, head_dim] -> a token's head.
template <typename Element>
__device__ Element* token_head(Element* data, int token, int stride, int head, int head_dim) {
  return data + static_cast<std::int64_t>(token) * stride + head * head_dim;
}

// Key tiles [begin, end).
struct TileRange {
  int begin;
  int end;
};

// Tiles with a key that one of num_rows queries from `position` on sees.
__device__ inline TileRange visible_tiles(const AttentionKernelParams& p, int position, int num_rows, int num_keys,
                                          int key_tile) {
  const int first = max(0, position - p.window_left);
  const int last = min(num_keys - 1, position + num_rows - 1 + p.window_right);
  if (num_rows <= 0 || first > last) return {0, 0};
  return {first / key_tile, last / key_tile + 1};
}

// Starts copying a tile of keys or values from global to shared memory by the threads 0 to kThreads - 1; what lies
// beyond num_rows or head_dim becomes zero. A thread keeps to its columns of 16 bytes.
template <class Tile, int kThreads>
__device__ void load_tile(unsigned char* tile, const typename Tile::Element* rows, int stride, int num_rows,
                          int head_dim, int thread) {
  constexpr int kPerChunk = 16 / static_cast<int>(sizeof(typename Tile::Element));
  constexpr int kChunks = Tile::kTiling.head_dim / kPerChunk;
  constexpr int kCols = kChunks < kThreads ? kChunks : kThreads;  // copied at a time
  constexpr int kStep = kThreads / kCols;
  static_assert(kChunks % kCols == 0, "every thread has the same number of columns");
  const int first = thread / kCols;
  if (first >= kStep) return;
#pragma unroll
  for (int col = 0; col < kChunks; col += kCols) {
    const int chunk = col + thread % kCols;
    const bool is_head = chunk * kPerChunk < head_dim;
    const typename Tile::Element* source = rows + first * stride + chunk * kPerChunk;
    unsigned char* target = tile + first * Tile::kTiling.row_bytes + chunk * 16;
#pragma unroll
    for (int row = 0; row < Tile::kTiling.key_tile; row += kStep) {
      if (row + kStep > Tile::kTiling.key_tile && row + first >= Tile::kTiling.key_tile) break;
      cp_async_16(target + row * Tile::kTiling.row_bytes, source, is_head && row + first < num_rows);
      source += kStep * stride;
    }
  }
}

// Soft cap and slopes: the scores become what softmax gets, as exponents of two. Which of them a call has is asked once
// and not for every score: behind branches of their own, scores would be computed one after the other.
template <class Tile>
__device__ void change_scores(Tile& tile, const AttentionKernelParams& p, int position, int first_key, int head) {
  const auto for_each_score = [&](auto change) {
#pragma unroll
    for (int r = 0; r < Tile::kRows; ++r) {
#pragma unroll
      for (int c = 0; c < Tile::kCols; ++c) tile.score(r, c) = change(tile.score(r, c), r, c);
    }
  };
  if (p.soft_cap > 0.0f) {
    const float inner = p.softmax_scale * p.soft_cap_inverse, outer = p.soft_cap * kLog2E;
    for_each_score([&](float score, int, int) { return outer * Tile::tanh(score * inner); });
  } else {
    const float scale = p.softmax_scale * kLog2E;
    for_each_score([&](float score, int, int) { return score * scale; });
  }
  if (p.alibi_slopes == nullptr) return;
  const float slope = p.alibi_slopes[head] * kLog2E;
  for_each_score([&](float score, int r, int c) {
    const int distance = first_key + tile.key(c) - position - tile.row(r);
    return fmaf(-slope, fabsf(static_cast<float>(distance)), score);
  });
}

template <class Tile>
__device__ void hide_keys(Tile& tile, const AttentionKernelParams& p, int position, int first_key, int num_keys) {
#pragma unroll
  for (int r = 0; r < Tile::kRows; ++r) {
    const int first = position + tile.row(r) - p.window_left - first_key;
    const int last = min(position + tile.row(r) + p.window_right, num_keys - 1) - first_key;
#pragma unroll
    for (int c = 0; c < Tile::kCols; ++c) {
      if (tile.key(c) < first || tile.key(c) > last) tile.score(r, c) = -INFINITY;
    }
  }
}

// Scores become weights 2^(scale * (score - the row's maximum so far)). Whether what was summed under lower maxima has
// to shrink, and each row's factor; sums and the weights of the tile before are left alone.
template <class Tile>
__device__ bool weigh_scores(Tile& tile, float scale, float (&factor)[Tile::kRows]) {
  bool has_risen = false;
#pragma unroll
  for (int r = 0; r < Tile::kRows; ++r) {
    float highest = tile.highest[r];
#pragma unroll
    for (int c = 0; c < Tile::kCols; ++c) highest = fmaxf(highest, tile.score(r, c));
    for (int step = 1; step < Tile::kRowLanes; step *= 2) {
      highest = fmaxf(highest, __shfl_xor_sync(kFullWarp, highest, step));
    }
    has_risen = has_risen || highest != tile.highest[r];
    // A row without a visible key so far has only scores of -infinity, and -infinity minus itself is NaN. Rounded as a
    // product: within a multiply-add what this rounding leaves would stay over, and a row that has not risen shrink.
    const float offset = highest == -INFINITY ? 0.0f : __fmul_rn(highest, scale);
    factor[r] = exp2_approx(__fmul_rn(tile.highest[r], scale) - offset);
    tile.highest[r] = highest;
#pragma unroll
    for (int c = 0; c < Tile::kCols; ++c) tile.score(r, c) = exp2_approx(fmaf(tile.score(r, c), scale, -offset));
  }
  // Where no row of the warp has risen every factor is 1: left out, the bits are the same.
  return __any_sync(kFullWarp, has_risen);
}

// The scores of a tile, from first_key on, become powers, as in weigh_scores. num_rows queries from `position` on are
// there.
template <class Tile>
__device__ bool weigh_keys(Tile& tile, const AttentionKernelParams& p, int position, int num_rows, int first_key,
                           int key_tile, int num_keys, int head, float (&factor)[Tile::kRows]) {
  if (p.changes_scores) change_scores(tile, p, position, first_key, head);
  // The keys that all rows see.
  const int first = position + num_rows - 1 - p.window_left, last = min(position + p.window_right, num_keys - 1);
  if (first_key < first || first_key + key_tile - 1 > last) hide_keys(tile, p, position, first_key, num_keys);
  return weigh_scores(tile, p.log2_scale, factor);
}

// What follows weigh_keys once nothing reads the sums and the weights of the tile before.
template <class Tile>
__device__ void take_scores(Tile& tile, bool shrinks, const float (&factor)[Tile::kRows]) {
  if (shrinks) {
#pragma unroll
    for (int r = 0; r < Tile::kRows; ++r) tile.shrink(r, factor[r]);
  }
  tile.take_weights();
}

// After the last tile: sums divided by those of the weights; zeros for a row that sees no key.
template <class Tile>
__device__ void store_rows(const Tile& tile, const AttentionKernelParams& p, const AttentionEntry& x, int head,
                           int first_row, int position, int num_rows) {
  float factor[Tile::kRows];
  bool sees_keys[Tile::kRows];
#pragma unroll
  for (int r = 0; r < Tile::kRows; ++r) {
    float sum = tile.sum[r];
    for (int step = 1; step < Tile::kRowLanes; step *= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
    factor[r] = 1.0f / sum;
    const int at = position + tile.row(r);
    sees_keys[r] = max(0, at - p.window_left) <= min(x.num_keys - 1, at + p.window_right);
  }
  using Element = typename Tile::Element;
  tile.store(
      token_head(static_cast<Element*>(p.out), fresh(x.first_query + first_row), p.out_stride, fresh(head), p.head_dim),
      p.out_stride, num_rows, p.head_dim, factor, sees_keys);
}

// The rows of one warp: from first_row of x on, num_rows of them (none where <= 0). A short item is one warp by itself,
// else all warps of the block take the same steps over `tiles` with their keys in common.
template <class Tile>
__device__ void attend(const AttentionKernelParams& p, const AttentionEntry& x, int head, int first_row, int position,
                       bool is_short, TileRange tiles, unsigned char* shared) {
  constexpr int kKeyTile = Tile::kTiling.key_tile;
  constexpr int kTileBytes = Tile::kTiling.tile_bytes;
  constexpr int kStageBytes = 2 * kTileBytes;
  constexpr int kStages = Tile::kTiling.num_stages;
  using Element = typename Tile::Element;
  const int thread = thread_idx();
  const int warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int num_rows = min(kAttentionWarpRows, x.num_queries - first_row);
  // A short item has the stage of its warp; a block goes around all of them.
  const auto stage_of = [&](int tile) { return shared + (is_short ? warp : tile % kStages) * kStageBytes; };

  // Of the next tile to copy.
  const int kv_head = head / p.heads_per_kv_head, first_token = x.first_key + tiles.begin * kKeyTile;
  const Element* next_keys = token_head(static_cast<const Element*>(p.k), first_token, p.k_stride, kv_head, p.head_dim);
  const Element* next_values =
      token_head(static_cast<const Element*>(p.v), first_token, p.v_stride, kv_head, p.head_dim);
  const auto load = [&](unsigned char* target, const Element* source, int stride, int tile) {
    const int num_keys = x.num_keys - tile * kKeyTile;
    if (tile >= tiles.end) return;
    if (is_short) load_tile<Tile, kWarpSize>(target, source, stride, num_keys, p.head_dim, thread_idx<kWarpSize>());
    if (!is_short) load_tile<Tile, kAttentionThreads>(target, source, stride, num_keys, p.head_dim, thread_idx());
  };
  const auto load_keys = [&](int tile) {
    load(stage_of(tile), next_keys, p.k_stride, tile);
    next_keys += kKeyTile * p.k_stride;
  };
  const auto load_values = [&](int tile) {
    load(stage_of(tile) + kTileBytes, next_values, p.v_stride, tile);
    next_values += kKeyTile * p.v_stride;
  };

  // A short item has two copies under way, its keys and its values; a block has kStages - 1 of both together.
  for (int i = 0; i < (is_short ? 1 : kStages - 1); ++i) {
    load_keys(tiles.begin + i);
    if (is_short) cp_async_commit();
    load_values(tiles.begin + i);
    cp_async_commit();
  }
  Tile state(lane, shared + kStages * kStageBytes + warp * Tile::kTiling.scratch_bytes);
  state.load_queries(
      token_head(static_cast<const Element*>(p.q), x.first_query + first_row, p.q_stride, head, p.head_dim), p.q_stride,
      num_rows, p.head_dim);

  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const unsigned char* stage = stage_of(tile);
    if (is_short) {
      cp_async_wait<1>();  // the keys
      __syncwarp();
    } else {
      cp_async_wait<kStages - 2>();
      __syncthreads();  // this tile is there for all, and all are done with the one before it
      load_keys(tile + kStages - 1);
      load_values(tile + kStages - 1);
      cp_async_commit();
    }
    // Whether some row of the warp sees some key of the tile.
    const int first_key = tile * kKeyTile, last_key = first_key + kKeyTile - 1;
    const int first_seen = position - p.window_left, last_seen = position + num_rows - 1 + p.window_right;
    const bool is_seen = num_rows > 0 && last_key >= first_seen && first_key <= last_seen;
    if (is_seen) state.compute_scores(stage, p.head_dim);
    if (is_short) {
      __syncwarp();  // the keys are read
      load_keys(tile + 1);
      cp_async_commit();
    }
    if (is_seen) {
      float factor[Tile::kRows];
      const bool shrinks = weigh_keys(state, p, position, num_rows, first_key, kKeyTile, x.num_keys, head, factor);
      take_scores(state, shrinks, factor);
    }
    if (is_short) {
      cp_async_wait<1>();  // the values
      __syncwarp();
    }
    if (is_seen) state.add_values(stage + kTileBytes);
    if (is_short) {
      __syncwarp();  // the values are read
      load_values(tile + 1);
      cp_async_commit();
    }
  }

  store_rows(state, p, x, head, first_row, position, num_rows);
}

// Entries in the order of their rows: wide ones, unless another launch takes them, as two blocks each, then long ones.
// Work w below num_long * num_heads is such a block of one head; above it, num_stages entries of short sequences.
// Blocks fetch the next work while they compute; of each kind the fullest came first.
template <class Tile>
__global__ void __launch_bounds__(kAttentionThreads, Tile::kTiling.blocks_per_sm)
    attention_kernel(AttentionKernelParams p) {
  ASSAY_DYNAMIC_SHARED(shared);
  // Kept out of registers, which the sums need.
  __shared__ struct {
    int num_wide;   // blocks of wide entries
    int num_long;   // work items
    int num_short;  // (entry, head) pairs
    int fetched;
  } plan;
  constexpr int kStages = Tile::kTiling.num_stages;
  constexpr int kWideBlocks = kAttentionWideRows / kAttentionBlockRows;
  const AttentionEntry* entries = reinterpret_cast<const AttentionEntry*>(p.schedule + 1);
  if (threadIdx.x == 0) {
    plan.num_wide = p.takes_wide ? kWideBlocks * p.schedule->num_wide : 0;
    plan.num_long = (plan.num_wide + p.schedule->num_long) * p.num_heads;
    plan.num_short = p.schedule->num_short * p.num_heads;
  }
  __syncthreads();
  int work = static_cast<int>(blockIdx.x);
  while (work < plan.num_long + (plan.num_short + kStages - 1) / kStages) {
    const int warp = thread_idx() / kWarpSize;
    if (threadIdx.x == 0) plan.fetched = static_cast<int>(gridDim.x) + atomicAdd(&p.schedule->next_work, 1);
    const bool is_short = work >= plan.num_long;
    const int unit = is_short ? (work - plan.num_long) * kStages + warp : work;
    // Every warp takes part in a long item; a short one may leave some without rows.
    if (!is_short || (warp < kStages && unit < plan.num_short)) {
      // Among the blocks, if all entries behind the wide ones were one block.
      const int block = ((is_short ? plan.num_long : 0) + unit) / p.num_heads;
      const bool is_wide = block < plan.num_wide;
      const AttentionEntry x = entries[is_wide ? block / kWideBlocks : block - plan.num_wide + p.schedule->num_wide];
      const int block_rows = is_short ? kAttentionWarpRows : kAttentionBlockRows;
      const int block_row =
          is_wide ? x.block * kAttentionWideRows + block % kWideBlocks * kAttentionBlockRows : x.block * block_rows;
      const int row = block_row + (is_short ? 0 : warp * kAttentionWarpRows);
      const int position = p.query_positions == nullptr ? x.num_keys - x.num_queries : p.query_positions[x.seq];
      const TileRange tiles = visible_tiles(p, position + block_row, min(block_rows, x.num_queries - block_row),
                                            x.num_keys, Tile::kTiling.key_tile);
      attend<Tile>(p, x, unit % p.num_heads, row, position + row, is_short, tiles, shared);
    }
    __syncthreads();  // `fetched` is there; the stages are free
    work = plan.fetched;
    __syncthreads();  // `fetched` is read
  }
  // The last block out leaves the schedule as it found it, for the next layer.
  if (threadIdx.x == 0 && atomicAdd(&p.schedule->num_finished, 1) == static_cast<int>(gridDim.x) - 1) {
    p.schedule->next_work = 0;
    p.schedule->num_finished = 0;
  }
}

}  // namespace assay::cuda
