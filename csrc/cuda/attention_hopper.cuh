// Attention over wide sequences on sm_90a: 128 query rows a block, as two warpgroups of 64 that multiply and weigh,
// and a thread that has the tiles of keys and values copied into a ring ahead of them.
//
// The tensor cores are to have work at all times. A warpgroup starts the scores of a tile and the sums of the one
// before together, and weighs the scores while the sums are under way. The two warpgroups start by turns, so that one
// weighs while the other's scores are computed (both after FlashAttention-3, arXiv 2407.08608, section 3).
//
// What a row's bits depend on is what attention_walk.cuh says, with tiles of kHopperKeyTile keys and blocks of rows
// that begin at multiples of 128 of the sequence's first. Copies read past a sequence's end, into its neighbour: those
// keys are hidden, and those values are made zeros, since a weight of zero times NaN is NaN.
#pragma once

#include "cuda/device.cuh"
// After device.cuh:
#include "cuda/attention_hopper.h"
#include "cuda/attention_mma.cuh"
#include "cuda/hopper.cuh"
#include "cuda/tensor_map.h"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "attention_hopper is for sm_90a alone"
#endif

namespace assay::cuda {

constexpr int kHopperWarpgroups = 2;
constexpr int kHopperRows = kAttentionWideRows / kHopperWarpgroups;  // of a warpgroup
constexpr int kHopperWarps = kHopperWarpgroups * kWarpgroupSize / kWarpSize;
// The copying thread brings a whole warpgroup, since registers change hands by warpgroups: of the 168 that 384 threads
// may have each, those that copy keep 24 and those that multiply get 240.
constexpr int kHopperThreads = (kHopperWarpgroups + 1) * kWarpgroupSize;
constexpr int kCopyingRegisters = 24;
constexpr int kMultiplyingRegisters = 240;
static_assert(kCopyingRegisters + kHopperWarpgroups * kMultiplyingRegisters <= 3 * 168, "of 65,536");
constexpr int kBoxBytes = 128 * kBoxColumns * 2;  // 64 columns of 128 rows
static_assert(kHopperKeyTile == 128 && kAttentionWideRows == 128, "a box is 128 rows of either");

// Dynamic shared memory: the queries, the ring, the barriers.
template <int kHeadDim>
struct HopperShared {
  static constexpr int kBoxes = kHeadDim / kBoxColumns;
  static constexpr int kTileBytes = kBoxes * kBoxBytes;
  static constexpr int kSlots = kHeadDim == 64 ? 8 : 6;
  static constexpr int kBarriers = 2 * kSlots + 2 + kHopperWarpgroups;
  static constexpr int kBytes = (1 + kSlots) * kTileBytes + kBarriers * static_cast<int>(sizeof(PhaseBarrier));
  static_assert(kBytes <= 227 * 1024, "what a block may have on sm_90");

  unsigned char* queries;
  unsigned char* ring;    // [kSlots] tiles, keys and values by turns
  PhaseBarrier* filled;   // [kSlots], by a copy
  PhaseBarrier* emptied;  // [kSlots], by every warp that multiplies
  PhaseBarrier* queries_filled;
  PhaseBarrier* queries_emptied;
  PhaseBarrier* turns;  // [kHopperWarpgroups], each given by every warp of the other warpgroup

  __device__ explicit HopperShared(unsigned char* memory)
      : queries(memory),
        ring(memory + kTileBytes),
        filled(reinterpret_cast<PhaseBarrier*>(ring + kSlots * kTileBytes)),
        emptied(filled + kSlots),
        queries_filled(emptied + kSlots),
        queries_emptied(queries_filled + 1),
        turns(queries_emptied + 1) {}

  __device__ void init_barriers() const {
    for (int slot = 0; slot < kSlots; ++slot) {
      init_barrier(filled + slot, 1);
      init_barrier(emptied + slot, kHopperWarps);
    }
    init_barrier(queries_filled, 1);
    init_barrier(queries_emptied, kHopperWarps);
    for (int group = 0; group < kHopperWarpgroups; ++group) {
      init_barrier(turns + group, kHopperWarps / kHopperWarpgroups);
    }
    fence_barrier_init();
  }

  // Of the tile that is number n since the kernel began; the phase is also the parity of the round.
  __device__ static int slot(int n) { return static_cast<int>(static_cast<unsigned>(n) % kSlots); }
  __device__ static int phase(int n) { return static_cast<int>(static_cast<unsigned>(n) / kSlots % 2); }
  __device__ unsigned char* tile(int n) const { return ring + slot(n) * kTileBytes; }
};

// A warpgroup's arithmetic on 64 rows: as MmaTile's, with 16 rows in each of its warps.
template <typename T, int kHeadDim>
struct HopperTile {
  using Element = T;
  static constexpr int kDepths = kHeadDim / 16;
  static constexpr int kKeySteps = kHopperKeyTile / 16;
  static constexpr int kRows = 2;  // of a lane
  static constexpr int kCols = kHopperKeyTile / 4;
  static constexpr int kRowLanes = 4;
  static constexpr int kAtomBytes = 1024;  // 8 rows of a box

  std::uint32_t weights[kKeySteps][4];
  float scores[kHopperKeyTile / 2];
  float sums[kHeadDim / 2];
  float highest[kRows] = {-INFINITY, -INFINITY};
  float sum[kRows] = {};  // of this lane's weights
  int first_row;          // of this lane

  __device__ explicit HopperTile(int thread) : first_row(thread / kWarpSize * 16 + thread % kWarpSize / 4) {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) sums[i] = 0.0f;
  }

  __device__ int row(int r) const { return first_row + 8 * r; }
  __device__ int key(int c) const { return 8 * (c / 2) + 2 * (thread_idx<kWarpSize>() % 4) + c % 2; }
  __device__ float& score(int r, int c) { return scores[c / 2 * 4 + 2 * r + c % 2]; }
  __device__ static float tanh(float x) { return MmaTile<T, 1>::tanh(x); }

  __device__ void start_scores(const unsigned char* queries, const unsigned char* keys) {
#pragma unroll
    for (int depth = 0; depth < kDepths; ++depth) {
      const int at = depth / 4 * kBoxBytes + depth % 4 * 32;
      wgmma_m64n128k16<T>(scores, matrix_descriptor(queries + at, 16, kAtomBytes),
                          matrix_descriptor(keys + at, 16, kAtomBytes), depth > 0);
    }
  }

  __device__ void start_sums(const unsigned char* values) {
#pragma unroll
    for (int step = 0; step < kKeySteps; ++step) {
      wgmma_k16_transposed<T>(sums, weights[step],
                              matrix_descriptor(values + step * 2 * kAtomBytes, kBoxBytes, kAtomBytes));
    }
  }

  __device__ void shrink(int r, float factor) {
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; ++i) {
      sums[4 * i + 2 * r] *= factor;
      sums[4 * i + 2 * r + 1] *= factor;
    }
    sum[r] *= factor;
  }

  // As MmaTile's, over a flat array of scores.
  __device__ void take_weights() {
#pragma unroll
    for (int i = 0; i < 2 * kKeySteps; ++i) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        weights[i / 2][2 * (i % 2) + r] = round_weights<T>(scores[4 * i + 2 * r], scores[4 * i + 2 * r + 1], sum[r]);
      }
    }
  }

  __device__ void store(T* rows, int stride, int num_rows, int, const float (&factor)[kRows],
                        const bool (&sees_keys)[kRows]) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row(r) >= num_rows) continue;
      T* target = rows + row(r) * stride + key(0);
#pragma unroll
      for (int i = 0; i < kHeadDim / 8; ++i) {
        const std::uint32_t bits = pack_pair<T>(sums[4 * i + 2 * r] * factor[r], sums[4 * i + 2 * r + 1] * factor[r]);
        *reinterpret_cast<std::uint32_t*>(target + 8 * i) = sees_keys[r] ? bits : 0u;
      }
    }
  }
};

// The block's work: rows of one head.
struct HopperItem {
  AttentionEntry entry;
  int head;
  int first_row;
  int position;  // of that row
  TileRange tiles;
};

// Calls visit(item) for every item of this block, in an order that all threads of the block have in common. Blocks go
// forth and back over the list, whose fullest items come first, so that no block has all the longest.
template <typename Visit>
__device__ void for_each_item(const AttentionKernelParams& p, Visit visit) {
  const int block = static_cast<int>(blockIdx.x), num_blocks = static_cast<int>(gridDim.x);
  const int num_items = p.schedule->num_wide * p.num_heads;
  const AttentionEntry* entries = reinterpret_cast<const AttentionEntry*>(p.schedule + 1);
  bool is_forth = true;
  for (int first = 0; first < num_items; first += num_blocks, is_forth = !is_forth) {
    const int idx = first + (is_forth ? block : num_blocks - 1 - block);
    if (idx >= num_items) continue;
    HopperItem item{};
    item.entry = entries[idx / p.num_heads];
    item.head = idx % p.num_heads;
    item.first_row = item.entry.block * kAttentionWideRows;
    item.position = item.first_row + (p.query_positions == nullptr ? item.entry.num_keys - item.entry.num_queries
                                                                   : p.query_positions[item.entry.seq]);
    item.tiles = visible_tiles(p, item.position, min(kAttentionWideRows, item.entry.num_queries - item.first_row),
                               item.entry.num_keys, kHopperKeyTile);
    visit(item);
  }
}

// One thread: has everything copied, in the order in which it is used, as soon as there is room.
template <int kHeadDim>
__device__ void copy_items(const HopperAttentionParams& p, const HopperShared<kHeadDim>& shared) {
  using Shared = HopperShared<kHeadDim>;
  const auto copy = [](unsigned char* tile, const CUtensorMap& map, int head, int token, PhaseBarrier* filled) {
    arrive_and_expect(filled, Shared::kTileBytes);
    for (int box = 0; box < Shared::kBoxes; ++box) {
      copy_box(tile + box * kBoxBytes, &map, box * kBoxColumns, head, token, filled);
    }
  };
  int num_items = 0, num_tiles = 0;
  for_each_item(p.attention, [&](const HopperItem& item) {
    wait_for_phase(shared.queries_emptied, num_items++ % 2 ^ 1);
    copy(shared.queries, p.q, item.head, item.entry.first_query + item.first_row, shared.queries_filled);
    const int kv_head = item.head / p.attention.heads_per_kv_head;
    for (int tile = item.tiles.begin; tile < item.tiles.end; ++tile) {
      const int token = item.entry.first_key + tile * kHopperKeyTile;
      for (int part = 0; part < 2; ++part, ++num_tiles) {
        const int slot = Shared::slot(num_tiles);
        wait_for_phase(shared.emptied + slot, Shared::phase(num_tiles) ^ 1);
        copy(shared.tile(num_tiles), part == 0 ? p.k : p.v, kv_head, token, shared.filled + slot);
      }
    }
  });
}

// A warpgroup, before it multiplies: zeros in the rows from num_rows on of a tile of values. The other warpgroup may
// write the same zeros.
template <int kHeadDim>
__device__ void clear_rows(unsigned char* tile, int num_rows, int group, int thread) {
  for (int box = 0; box < HopperShared<kHeadDim>::kBoxes; ++box) {
    // The swizzle stays inside a row.
    for (int at = num_rows * kBoxColumns * 2 + thread * 16; at < kBoxBytes; at += kWarpgroupSize * 16) {
      *reinterpret_cast<uint4*>(tile + box * kBoxBytes + at) = uint4{0, 0, 0, 0};
    }
  }
  fence_async_memory();
  sync_threads(1 + group, kWarpgroupSize);
}

// A warpgroup's rows of one item. num_tiles counts the tiles it is done with, num_turns the turns it has taken: as many
// as the item has tiles of keys, in either warpgroup.
template <typename T, int kHeadDim>
__device__ void attend_item(const AttentionKernelParams& p, const HopperItem& item,
                            const HopperShared<kHeadDim>& shared, int group, int thread, int queries_phase,
                            int& num_tiles, int& num_turns) {
  using Shared = HopperShared<kHeadDim>;
  const AttentionEntry& x = item.entry;
  const int first_row = item.first_row + group * kHopperRows, position = item.position + group * kHopperRows;
  const int num_rows = min(kHopperRows, x.num_queries - first_row);
  TileRange own = visible_tiles(p, position, num_rows, x.num_keys, kHopperKeyTile);
  if (own.begin >= own.end) own = {item.tiles.begin, item.tiles.begin};
  const unsigned char* queries = shared.queries + group * kHopperRows * kBoxColumns * 2;

  const auto await = [&](int n) { wait_for_phase(shared.filled + Shared::slot(n), Shared::phase(n)); };
  // All lanes of a warp have waited for their products, so one speaks for it.
  const auto arrive_as_warp = [&](PhaseBarrier* barrier) {
    __syncwarp();
    if (thread % kWarpSize == 0) arrive(barrier);
  };
  const auto release_tile = [&] { arrive_as_warp(shared.emptied + Shared::slot(num_tiles++)); };
  const auto take_turn = [&] {
    // The first turn of all is nobody's to give: it is the first warpgroup's.
    wait_for_phase(shared.turns + group, num_turns++ % 2 ^ (group == 0 ? 1 : 0));
  };
  const auto pass_turn = [&] { arrive_as_warp(shared.turns + (kHopperWarpgroups - 1 - group)); };
  // Only what was filled can be released: the two warpgroups must not be a round apart.
  const auto skip = [&](int first, int last) {
    for (int tile = first; tile < last; ++tile) {
      take_turn();
      pass_turn();
      for (int part = 0; part < 2; ++part) {
        await(num_tiles);
        release_tile();
      }
    }
  };

  HopperTile<T, kHeadDim> state(thread);
  wait_for_phase(shared.queries_filled, queries_phase);
  skip(item.tiles.begin, own.begin);
  if (own.begin < own.end) {
    float factor[HopperTile<T, kHeadDim>::kRows];
    const auto weigh = [&](int tile) {
      return weigh_keys(state, p, position, num_rows, tile * kHopperKeyTile, kHopperKeyTile, x.num_keys, item.head,
                        factor);
    };
    const auto release_queries = [&](int tile) {
      if (tile + 1 == own.end) arrive_as_warp(shared.queries_emptied);
    };
    await(num_tiles);
    take_turn();
    wgmma_fence();
    state.start_scores(queries, shared.tile(num_tiles));
    wgmma_commit();
    pass_turn();
    wgmma_wait<0>();
    hold(state.scores);
    release_tile();
    release_queries(own.begin);
    const bool shrinks_first = weigh(own.begin);
    take_scores(state, shrinks_first, factor);
    for (int tile = own.begin + 1; tile < own.end; ++tile) {
      // These keys, and the values of the tile before.
      await(num_tiles + 1);
      take_turn();
      wgmma_fence();
      state.start_scores(queries, shared.tile(num_tiles + 1));
      wgmma_commit();
      await(num_tiles);
      wgmma_fence();
      state.start_sums(shared.tile(num_tiles));
      wgmma_commit();
      pass_turn();
      wgmma_wait<1>();
      hold(state.scores);  // and not the sums, which are under way
      release_queries(tile);
      const bool shrinks = weigh(tile);
      wgmma_wait<0>();
      hold(state.sums);
      release_tile();
      release_tile();
      take_scores(state, shrinks, factor);
    }
    await(num_tiles);
    const int num_values = x.num_keys - (own.end - 1) * kHopperKeyTile;
    if (num_values < kHopperKeyTile) clear_rows<kHeadDim>(shared.tile(num_tiles), num_values, group, thread);
    wgmma_fence();
    state.start_sums(shared.tile(num_tiles));
    wgmma_commit();
    wgmma_wait<0>();
    hold(state.sums);
    release_tile();
  } else {
    arrive_as_warp(shared.queries_emptied);
  }
  skip(own.end, item.tiles.end);
  store_rows(state, p, x, item.head, first_row, position, num_rows);
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kHopperThreads, 1)
    attention_hopper_kernel(const __grid_constant__ HopperAttentionParams p) {
  ASSAY_DYNAMIC_SHARED(memory);
  const HopperShared<kHeadDim> shared(memory);
  if (threadIdx.x == 0) shared.init_barriers();
  __syncthreads();
  // The same in all lanes of a warp, and known to be.
  const int group = __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / kWarpgroupSize, 0);
  if (group == kHopperWarpgroups) {
    release_registers<kCopyingRegisters>();
    if (threadIdx.x % kWarpgroupSize == 0) copy_items<kHeadDim>(p, shared);
    return;
  }
  take_registers<kMultiplyingRegisters>();
  int num_items = 0, num_tiles = 0, num_turns = 0;
  for_each_item(p.attention, [&](const HopperItem& item) {
    attend_item<T, kHeadDim>(p.attention, item, shared, group, static_cast<int>(threadIdx.x) % kWarpgroupSize,
                             num_items++ % 2, num_tiles, num_turns);
  });
}

}  // namespace assay::cuda
