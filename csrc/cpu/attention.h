// Attention over ragged sequences. Included inside an ISA's namespace after vec_math.h and gemm.h, so it includes
// nothing but its own parts.
//
// A work item is one (sequence, head, chunk of query rows). A thread packs the keys and values of its item once and
// keeps them for the next item of the same sequence and key head; then, kAttentionRows query rows at a time, it walks
// the keys in tiles of kKeyTile counted from the sequence's first key: scores, online softmax, probs . v. What a row
// computes depends on its own sequence alone, never on how rows are cut into chunks and blocks.
#pragma once

#include "cpu/attention_tiles.h"
//
#if defined(ASSAY_AMX)
#include "cpu/attention_amx.h"
#endif
#include "cpu/attention_pack.h"
//
#include "cpu/attention_softmax.h"

// Keys whose scores are kept at once. One tile for nearly every input of an encoder.
constexpr std::int64_t kKeyTile = 256;
static_assert(kKeyTile % kPanelCols == 0);
// Keys before a window are skipped in steps that keep panels, row blocks and pairs whole, and every key in its lane.
constexpr std::int64_t kKeyStep = 32;
static_assert(kKeyTile % kKeyStep == 0 && kKeyStep % kPanelCols == 0 && kKeyStep % (2 * kBlockUnits) == 0);

// Sizes in floats of a thread's scratch, and where each part starts. Every part is a multiple of 64 bytes.
template <typename Operand>
struct AttentionScratch {
  explicit AttentionScratch(const AttentionParams& p)
      : num_units(p.head_dim / Operand::kPerUnit),
        head_panels(ceil_div(p.head_dim, kPanelCols)),
        key_panel_floats(round_up(num_units, max_of(8, Operand::kUnitsMultiple)) * kPanelCols),
        value_panel_floats(round_up(ceil_div(p.max_seqlen_k, Operand::kPerUnit), max_of(2, Operand::kUnitsMultiple)) *
                           kPanelCols),
        scores(round_up(num_units, kBlockUnits) * kAttentionRows),
        sums(scores + kKeyTile * kAttentionRows),
        keys(sums + round_up(kAttentionRows * head_panels * kPanelCols, 16)),
        values(keys + ceil_div(p.max_seqlen_k, kPanelCols) * key_panel_floats),
        size(values + head_panels * value_panel_floats) {}

  std::int64_t num_units;    // units of head_dim
  std::int64_t head_panels;  // column panels of head_dim
  std::int64_t key_panel_floats;
  std::int64_t value_panel_floats;
  // Starts; the query rows are at 0.
  std::int64_t scores;
  std::int64_t sums;
  std::int64_t keys;
  std::int64_t values;
  std::int64_t size;
};

struct AttentionSequence {
  std::int64_t q_start;
  std::int64_t seqlen_q;
  std::int64_t k_start;
  std::int64_t seqlen_k;
  std::int64_t q_position;  // of query 0 among the keys
};

inline AttentionSequence attention_sequence(const AttentionParams& p, std::int64_t seq) {
  const std::int64_t q_start = p.cu_seqlens_q[seq];
  const std::int64_t k_start = p.cu_seqlens_k[seq];
  const std::int64_t seqlen_q = p.cu_seqlens_q[seq + 1] - q_start;
  const std::int64_t seqlen_k = p.cu_seqlens_k[seq + 1] - k_start;
  return {q_start, seqlen_q, k_start, seqlen_k,
          p.query_positions == nullptr ? seqlen_k - seqlen_q : p.query_positions[seq]};
}

// The keys that query `row` of a sequence sees: from first_key to before last_key. Neither falls from row to row.
inline std::int64_t first_key(const AttentionParams& p, const AttentionSequence& sequence, std::int64_t row) {
  return p.window_left < 0 ? 0 : max_of(0, sequence.q_position + row - p.window_left);
}
inline std::int64_t last_key(const AttentionParams& p, const AttentionSequence& sequence, std::int64_t row) {
  const std::int64_t right = p.is_causal ? 0 : p.window_right;
  return right < 0 ? sequence.seqlen_k : min_of(sequence.seqlen_k, sequence.q_position + row + right + 1);
}

// Where a row is wanted: in L2 for the next item, in L1 for the next block, or in L1 to be written.
enum PrefetchKind { kForLater, kForRead, kForWrite };

// A row of one head on its way into the cache. Rows of one head lie in different pages, where no hardware prefetcher
// follows. Always inline: GCC does not count a prefetch as an effect, and drops calls of a function that does nothing
// else.
template <PrefetchKind kKind, typename Element>
[[gnu::always_inline]] inline void prefetch_row(const Element* row, int head_dim) {
  const char* at = reinterpret_cast<const char*>(row);
  const char* stop = reinterpret_cast<const char*>(row + head_dim);
  for (at -= reinterpret_cast<std::uintptr_t>(at) % kCacheLine; at < stop; at += kCacheLine) {
    __builtin_prefetch(at, kKind == kForWrite, kKind == kForLater ? 2 : 3);
  }
}

template <typename Operand>
void store_attention_rows(const AttentionParams& p, const float* sums, std::int64_t sums_stride, const float* row_sums,
                          std::int64_t token, int head, int num_rows) {
  using Element = typename Operand::Element;
  for (int r = 0; r < num_rows; ++r) {
    Element* out = static_cast<Element*>(p.out) + (token + r) * p.out_stride + head * p.head_dim;
    // A row that sees no key has sum 0 and is zero.
    const bool is_empty = sums == nullptr || row_sums[r] == 0.0f;
    const Vec scale = vec_set1(is_empty ? 0.0f : 1.0f / row_sums[r]);
    for (int col = 0; col < p.head_dim; col += kVecWidth) {
      const int n = p.head_dim - col < kVecWidth ? p.head_dim - col : kVecWidth;
      const Vec v = is_empty ? vec_zero() : vec_mul(vec_load(sums + r * sums_stride + col), scale);
      if constexpr (sizeof(Element) == sizeof(float)) {
        n == kVecWidth ? vec_store(out + col, v) : vec_store_n(out + col, v, n);
      } else {
        n == kVecWidth ? vec_store_bf16(out + col, v) : vec_store_bf16_n(out + col, v, n);
      }
    }
  }
}

// Chunks that every (sequence, head) is cut into: one where there are plenty of them.
inline std::int64_t attention_chunks(const AttentionParams& p, int num_threads) {
  if (num_threads == 1) return 1;
  const std::int64_t wanted = ceil_div(kItemsPerThread * num_threads, p.num_seqs * p.num_heads);
  return min_of(wanted, ceil_div(p.max_seqlen_q, kAttentionRows));
}

// One unit of work, and the rows it reads.
struct AttentionItem {
  AttentionSequence sequence;
  std::int64_t seq;
  int head;
  int kv_head;
  std::int64_t begin;  // query rows of the sequence
  std::int64_t end;
};

inline AttentionItem attention_item(const AttentionParams& p, std::int64_t num_chunks, std::int64_t item_idx) {
  AttentionItem item;
  item.seq = item_idx / (p.num_heads * num_chunks);
  item.head = static_cast<int>(item_idx / num_chunks % p.num_heads);
  item.kv_head = item.head / (p.num_heads / p.num_kv_heads);
  item.sequence = attention_sequence(p, item.seq);
  const std::int64_t chunk_rows =
      ceil_div(ceil_div(item.sequence.seqlen_q, kAttentionRows), num_chunks) * kAttentionRows;
  item.begin = min_of(item.sequence.seqlen_q, item_idx % num_chunks * chunk_rows);
  item.end = min_of(item.sequence.seqlen_q, item.begin + chunk_rows);
  return item;
}

template <typename Operand>
struct AttentionSource {
  using Element = typename Operand::Element;
  const Element* q;
  const Element* k;
  const Element* v;

  AttentionSource(const AttentionParams& p, const AttentionItem& item)
      : q(static_cast<const Element*>(p.q) + (item.sequence.q_start + item.begin) * p.q_stride +
          item.head * p.head_dim),
        k(static_cast<const Element*>(p.k) + item.sequence.k_start * p.k_stride + item.kv_head * p.head_dim),
        v(static_cast<const Element*>(p.v) + item.sequence.k_start * p.v_stride + item.kv_head * p.head_dim) {}
};

// Steps that a block of query rows takes at most: places in its walk over the keys where rows of the next item are
// fetched. Never 0.
constexpr std::int64_t kStepsPerTile = 2;
inline std::int64_t num_steps(const AttentionSequence& sequence) {
  return kStepsPerTile * max_of(1, ceil_div(sequence.seqlen_k, kKeyTile));
}

// The rows that the next item will read, fetched a few at a time while an item computes. In one burst with the rows to
// be written they fill the core's queue of misses, and every load behind them waits for memory.
template <typename Operand>
class AttentionPrefetch {
 public:
  // num_steps: how many steps the item that computes takes; `next` is read over them.
  AttentionPrefetch(const AttentionParams& p, const AttentionItem& next, bool is_packed, std::int64_t num_steps)
      : p_(p),
        source_(p, next),
        num_rows_(next.end - next.begin),
        num_keys_(is_packed ? 0 : next.sequence.seqlen_k),
        rows_per_step_((max_of(num_rows_, num_keys_) << kFractionBits) / num_steps) {}

  // Fetches what belongs to the steps before `step`.
  [[gnu::always_inline]] inline void advance(std::int64_t step) {
    fetch_until((step * rows_per_step_) >> kFractionBits);
  }
  [[gnu::always_inline]] inline void finish() { fetch_until(max_of(num_rows_, num_keys_)); }

 private:
  // A fixed-point number, because a division per step would show.
  static constexpr int kFractionBits = 16;

  [[gnu::always_inline]] inline void fetch_until(std::int64_t until) {
    for (; row_ < until; ++row_) {
      if (row_ < num_rows_) prefetch_row<kForLater>(source_.q + row_ * p_.q_stride, p_.head_dim);
      if (row_ < num_keys_) {
        prefetch_row<kForLater>(source_.k + row_ * p_.k_stride, p_.head_dim);
        prefetch_row<kForLater>(source_.v + row_ * p_.v_stride, p_.head_dim);
      }
    }
  }

  const AttentionParams& p_;
  AttentionSource<Operand> source_;
  std::int64_t num_rows_;
  std::int64_t num_keys_;
  std::int64_t rows_per_step_;
  std::int64_t row_ = 0;
};

// The keys of a tile that rows see, from hidden[r] to visible[r]. Out of line: compilers make much code of it, and most
// tiles are seen whole.
[[gnu::noinline]] inline void find_visible_keys(const AttentionParams& p, const AttentionSequence& sequence,
                                                std::int64_t row0, int num_rows, std::int64_t tile,
                                                std::int64_t num_keys, std::int64_t* hidden, std::int64_t* visible) {
  for (int r = 0; r < num_rows; ++r) {
    hidden[r] = min_of(num_keys, max_of(0, first_key(p, sequence, row0 + r) - tile));
    visible[r] = min_of(num_keys, last_key(p, sequence, row0 + r) - tile);
  }
}

// Scores of keys [tile, tile_end) -> probs, for num_rows rows from row0 of the sequence on.
template <typename Operand>
void softmax_rows(const AttentionParams& p, const AttentionSequence& sequence, std::int64_t row0, int num_rows,
                  std::int64_t tile, std::int64_t tile_end, float* scores, SoftmaxState& state) {
  const float scale_log2 = p.soft_cap > 0 ? kLog2e : p.softmax_scale * kLog2e;
  const std::int64_t num_keys = tile_end - tile;
  const bool is_whole = first_key(p, sequence, row0 + num_rows - 1) <= tile && last_key(p, sequence, row0) >= tile_end;
#if defined(__AVX2__) && !defined(__AVX512F__)
  if (is_whole) return softmax_whole_tile(scores, num_rows, num_keys, scale_log2, state);
#endif
  std::int64_t hidden[kAttentionRows] = {};
  std::int64_t visible[kAttentionRows];
  if (is_whole) {
    for (int r = 0; r < kAttentionRows; ++r) visible[r] = num_keys;
  } else {
    find_visible_keys(p, sequence, row0, num_rows, tile, num_keys, hidden, visible);
  }
  softmax_tile<Operand>(scores, num_rows, hidden, visible, num_keys, scale_log2, state);
}

// kAttentionRows or fewer query rows, from row0 of the sequence on, against the packed keys and values.
template <typename Operand>
void attend_rows(const AttentionParams& p, const AttentionScratch<Operand>& sizes, float* scratch,
                 const AttentionItem& item, std::int64_t row0, int num_rows, AttentionPrefetch<Operand>& prefetch) {
  using Element = typename Operand::Element;
  using Step = typename Operand::Step;
  const AttentionSequence& sequence = item.sequence;
  const int head = item.head;
  const std::int64_t token = sequence.q_start + row0;
  const std::int64_t sums_stride = sizes.head_panels * kPanelCols;
  const std::int64_t first = first_key(p, sequence, row0);
  const std::int64_t last = last_key(p, sequence, row0 + num_rows - 1);
  if (last <= first) return store_attention_rows<Operand>(p, nullptr, 0, nullptr, token, head, num_rows);

  const Element* q = static_cast<const Element*>(p.q) + token * p.q_stride + head * p.head_dim;
  const Element* out = static_cast<const Element*>(p.out) + token * p.out_stride + head * p.head_dim;
  pack_queries<Operand>(q, p.q_stride, num_rows, sizes.num_units, scratch);
  float* scores = scratch + sizes.scores;
  float* sums = scratch + sizes.sums;
  SoftmaxState state;
  // The first tile begins where the window of the first row does. What it leaves out has weight 0 in every row of the
  // block, so a row's bits do not depend on the rows beside it.
  bool is_first = true;
  const std::int64_t first_step = (row0 - item.begin) / kAttentionRows * num_steps(sequence);
  for (std::int64_t tile = first / kKeyStep * kKeyStep; tile < last;) {
    const std::int64_t tile_end = min_of((tile / kKeyTile + 1) * kKeyTile, last);
    const std::int64_t tile_keys = tile_end - tile;
    const float* keys = scratch + sizes.keys + tile / kPanelCols * sizes.key_panel_floats;
    product<Step>({scratch, keys, sizes.key_panel_floats, sizes.num_units, nullptr, scores, 0}, num_rows, tile_keys);
    const std::int64_t step = first_step + tile / kKeyTile * kStepsPerTile;
    prefetch.advance(step + 1);
    if (is_first) {
      for (int r = 0; r < num_rows; ++r) prefetch_row<kForWrite>(out + r * p.out_stride, p.head_dim);
    }
    if (p.soft_cap > 0) cap_scores(scores, num_rows, tile_keys, p.softmax_scale, p.soft_cap);
    softmax_rows<Operand>(p, sequence, row0, num_rows, tile, tile_end, scores, state);
    prefetch.advance(step + 2);
    if (is_first) {  // the queries of the next block
      for (int r = num_rows; r < 2 * num_rows && row0 + r < item.end; ++r) {
        prefetch_row<kForRead>(q + r * p.q_stride, p.head_dim);
      }
    }
    const float* values = scratch + sizes.values + tile / Operand::kPerUnit * kPanelCols;
    product<Step>({scores, values, sizes.value_panel_floats, ceil_div(tile_keys, Operand::kPerUnit),
                   is_first ? nullptr : state.carry, sums, sums_stride},
                  num_rows, p.head_dim);
    is_first = false;
    tile = tile_end;
  }
  store_attention_rows<Operand>(p, sums, sums_stride, state.sum, token, head, num_rows);
}

template <typename Operand>
void attention_items(const AttentionParams& p, ThreadContext& context, int list, float* scratch) {
  const AttentionScratch<Operand> sizes(p);
  const std::int64_t num_chunks = attention_chunks(p, context.num_threads());
  const std::int64_t num_items = p.num_seqs * p.num_heads * num_chunks;
  std::int64_t packed_seq = -1;
  int packed_kv_head = -1;
  const auto is_packed = [&](const AttentionItem& item) {
    return item.seq == packed_seq && item.kv_head == packed_kv_head;
  };
  std::int64_t next_idx = context.next(list);
  while (next_idx < num_items) {
    const AttentionItem item = attention_item(p, num_chunks, next_idx);
    next_idx = context.next(list);
    const std::int64_t num_rows = item.end - item.begin;
    if (num_rows == 0) continue;
    if (!is_packed(item)) {
      const AttentionSource<Operand> source(p, item);
      pack_keys<Operand>(source.k, p.k_stride, item.sequence.seqlen_k, sizes.num_units, sizes.key_panel_floats,
                         scratch + sizes.keys);
      pack_values<Operand>(source.v, p.v_stride, item.sequence.seqlen_k, p.head_dim, sizes.value_panel_floats,
                           scratch + sizes.values);
      packed_seq = item.seq;
      packed_kv_head = item.kv_head;
    }
    // Without a next item its own rows are named, and are in the cache.
    const AttentionItem next = next_idx < num_items ? attention_item(p, num_chunks, next_idx) : item;
    AttentionPrefetch<Operand> prefetch(p, next, is_packed(next),
                                        ceil_div(num_rows, kAttentionRows) * num_steps(item.sequence));
    for (std::int64_t row = 0; row < num_rows; row += kAttentionRows) {
      const std::int64_t end = min_of(num_rows, row + kAttentionRows);
      attend_rows<Operand>(p, sizes, scratch, item, item.begin + row, static_cast<int>(end - row), prefetch);
    }
    prefetch.finish();
  }
}

#if defined(__AVX512BF16__)
using Bfloat16Operand = PairOperand;
#else
using Bfloat16Operand = WidenedOperand;
#endif

// Bytes of 64-byte aligned scratch that each thread of a region brings to attention_region.
inline std::size_t attention_scratch_size(const AttentionParams& p) {
  const std::int64_t floats =
      p.dtype == DType::kFloat32 ? AttentionScratch<Float32Operand>(p).size : AttentionScratch<Bfloat16Operand>(p).size;
  return static_cast<std::size_t>(floats) * sizeof(float);
}

// One phase of a parallel region: threads claim the items of `list` until none is left. No barrier at the end. On AMX
// the thread has a TileSession.
inline void attention_region(const AttentionParams& p, ThreadContext& context, int list, void* scratch) {
  if (p.num_seqs == 0) return;
  if (p.dtype == DType::kFloat32) {
    attention_items<Float32Operand>(p, context, list, static_cast<float*>(scratch));
  } else {
    attention_items<Bfloat16Operand>(p, context, list, static_cast<float*>(scratch));
  }
}

void attention(const AttentionParams& params, ThreadPool& pool) {
  pool.run(
      [](void* state, ThreadContext& context) {
        TileSession<Bfloat16Policy> session;
        attention_region(*static_cast<const AttentionParams*>(state), context, 0, context.scratch());
      },
      const_cast<AttentionParams*>(&params), attention_scratch_size(params));
}
