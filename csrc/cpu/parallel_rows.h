// Row-wise work over the pool, and loads that stop at the end of a row. Included inside an ISA's namespace after its
// vec_*.h; includes nothing.
#pragma once

// Below this many float32 elements of work (some 10 us) waking the other threads costs more than it gives.
constexpr std::int64_t kInlineElements = 32768;

// Calls body(first, last) for pieces of [0, num_items): all of it on the caller where `num_elements` is small, else
// `items_per_piece` at a time on whichever thread is free. The bits of a result must not depend on the cut: body
// treats every item alike.
template <typename Body>
inline void parallel_rows(ThreadPool& pool, std::int64_t num_items, std::int64_t items_per_piece,
                          std::int64_t num_elements, const Body& body) {
  struct State {
    const Body& body;
    std::int64_t num_items;
    std::int64_t items_per_piece;
  } state{body, num_items, items_per_piece};
  if (num_elements <= kInlineElements || pool.num_threads() == 1) {
    if (num_items > 0) body(std::int64_t{0}, num_items);
    return;
  }
  pool.run(
      [](void* opaque, ThreadContext& context) {
        const State& work = *static_cast<const State*>(opaque);
        for (std::int64_t first; (first = context.next(0) * work.items_per_piece) < work.num_items;) {
          const std::int64_t last = first + work.items_per_piece;
          work.body(first, last < work.num_items ? last : work.num_items);
        }
      },
      &state);
}

// Lanes [0, n) of a row, the rest 0; pass kVecWidth as a literal where the vector is whole.
inline Vec load_lanes(const float* source, std::int64_t n) {
  return n >= kVecWidth ? vec_load(source) : vec_load_n(source, static_cast<int>(n));
}
inline Vec load_lanes(const bfloat16* source, std::int64_t n) {
  return n >= kVecWidth ? vec_load_bf16(source) : vec_load_bf16_n(source, static_cast<int>(n));
}
inline void store_lanes(float* target, Vec v, std::int64_t n) {
  n >= kVecWidth ? vec_store(target, v) : vec_store_n(target, v, static_cast<int>(n));
}
inline void store_lanes(bfloat16* target, Vec v, std::int64_t n) {
  n >= kVecWidth ? vec_store_bf16(target, v) : vec_store_bf16_n(target, v, static_cast<int>(n));
}

// Calls body(col, n) for every vector of a row: n = kVecWidth, and what is left for the last one.
template <typename Body>
inline void for_each_vec(std::int64_t num_cols, const Body& body) {
  std::int64_t col = 0;
  for (; col + kVecWidth <= num_cols; col += kVecWidth) body(col, std::int64_t{kVecWidth});
  if (col < num_cols) body(col, num_cols - col);
}
