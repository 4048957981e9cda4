// Attention of one query of every sequence over keys that are the values too, one row of them for all heads. Included
// inside an ISA's namespace after attention.h, so it includes nothing.
//
// That is what the attention of a layer becomes when its key and value projections are moved to the query's side
// (transformer_layer.h): heads as wide as the layer, over the layer's own inputs. Neither keys nor values fit the
// caches as a whole, so a work item, one sequence and some of its heads, walks them in tiles of kRowTile from the first
// one seen: packed both ways, scores, online softmax, probs . x. What a head computes depends on its own sequence
// alone, never on the heads beside it.
#pragma once

// Keys that are packed at once: both forms of a tile in L2 up to a width of 1024.
constexpr std::int64_t kRowTile = 32;
static_assert(kRowTile % kPanelCols == 0 && kRowTile % kBlockUnits == 0);
static_assert(kRowKeysMultiple % kBlockUnits == 0 && kRowKeysMultiple % kPanelCols == 0);

// Sizes in floats of a thread's scratch, and where each part starts. Every part is a multiple of 64 bytes.
struct RowAttentionScratch {
  explicit RowAttentionScratch(std::int64_t width)
      : key_panel_floats(width * kPanelCols),
        scores(width * kAttentionRows),
        sums(scores + kRowTile * kAttentionRows),
        keys(sums + width * kAttentionRows),
        values(keys + kRowTile * width),
        size(values + kRowTile * width) {}

  std::int64_t key_panel_floats;
  static constexpr std::int64_t kValuePanelFloats = kRowTile * kPanelCols;
  // Starts; the queries are at 0.
  std::int64_t scores;
  std::int64_t sums;
  std::int64_t keys;
  std::int64_t values;
  std::int64_t size;
};

// Bytes of 64-byte aligned scratch that each thread of a region brings to row_attention_region.
inline std::size_t row_attention_scratch_size(std::int64_t width) {
  return static_cast<std::size_t>(RowAttentionScratch(width).size) * sizeof(float);
}

// Heads of a work item: as many as a tile of the product has rows, fewer where there are too few items for all threads.
inline int row_attention_heads(const AttentionParams& p, int num_threads) {
  const std::int64_t wanted = num_threads == 1 ? 1 : ceil_div(kItemsPerThread * num_threads, p.num_seqs);
  const std::int64_t num_groups = max_of(ceil_div(p.num_heads, kAttentionRows), min_of(p.num_heads, wanted));
  return static_cast<int>(ceil_div(p.num_heads, num_groups));
}

// Heads [head0, head0 + num_heads) of a sequence's query, at most kAttentionRows.
inline void attend_heads(const AttentionParams& p, const RowAttentionScratch& sizes, float* scratch, std::int64_t seq,
                         int head0, int num_heads) {
  const AttentionSequence sequence = attention_sequence(p, seq);
  const std::int64_t last = last_key(p, sequence, 0);
  const float* x = static_cast<const float*>(p.k) + sequence.k_start * p.k_stride;
  const float* q = static_cast<const float*>(p.q) + sequence.q_start * p.q_stride + head0 * p.head_dim;
  float* scores = scratch + sizes.scores;
  float* sums = scratch + sizes.sums;
  pack_queries<Float32Operand>(q, p.head_dim, num_heads, p.head_dim, scratch);
  SoftmaxState state;
  const float* carry = nullptr;
  for (std::int64_t tile = first_key(p, sequence, 0); tile < last; tile += kRowTile) {
    const std::int64_t num_keys = min_of(kRowTile, last - tile);
    const float* rows = x + tile * p.k_stride;
    pack_keys<Float32Operand>(rows, p.k_stride, num_keys, p.head_dim, sizes.key_panel_floats, scratch + sizes.keys);
    pack_values<Float32Operand>(rows, p.k_stride, num_keys, p.head_dim, sizes.kValuePanelFloats,
                                scratch + sizes.values);
    product<FmaStep>({scratch, scratch + sizes.keys, sizes.key_panel_floats, p.head_dim, nullptr, scores, 0}, num_heads,
                     num_keys);
    // The walk begins and ends where the query's window does: all keys of a tile are seen, by all heads alike.
    const std::int64_t hidden[kAttentionRows] = {};
    std::int64_t visible[kAttentionRows];
    for (std::int64_t& count : visible) count = num_keys;
    softmax_tile<Float32Operand>(scores, num_heads, hidden, visible, num_keys, p.softmax_scale * kLog2e, state);
    product<FmaStep>({scores, scratch + sizes.values, sizes.kValuePanelFloats, num_keys, carry, sums, p.head_dim},
                     num_heads, p.head_dim);
    carry = state.carry;
  }
  for (int r = 0; r < num_heads; ++r) {
    store_attention_rows<Float32Operand>(p, sums + r * p.head_dim, p.head_dim, state.sum + r, sequence.q_start,
                                         head0 + r, 1);
  }
}

// One phase of a parallel region: threads claim the items of `list` until none is left. No barrier at the end. Of p:
// float32, one query a sequence, k and v the same rows, head_dim a multiple of kRowKeysMultiple without an upper limit,
// no soft cap; num_kv_heads is taken for 1. `out` may be q: an item reads what it overwrites, and nobody else does.
inline void row_attention_region(const AttentionParams& p, ThreadContext& context, int list, float* scratch) {
  const RowAttentionScratch sizes(p.head_dim);
  const int num_heads = row_attention_heads(p, context.num_threads());
  const std::int64_t num_groups = ceil_div(p.num_heads, num_heads);
  for (std::int64_t item; (item = context.next(list)) < p.num_seqs * num_groups;) {
    const int head0 = static_cast<int>(item % num_groups) * num_heads;
    const int count = static_cast<int>(min_of(num_heads, p.num_heads - head0));
    attend_heads(p, sizes, scratch, item / num_groups, head0, count);
  }
}
