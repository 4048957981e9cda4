// Per-head RMSNorm and rotary position embedding, in place on q and k. Included inside an ISA's namespace after norm.h
// and gemm.h; includes nothing.
#pragma once

constexpr int kMaxHeadDim = 256;

// (a, b) -> (a cos - b sin, b cos + a sin)
inline void rotate_halves(const float* cos, const float* sin, int half, float* head) {
  for_each_vec(half, [&](std::int64_t i, std::int64_t n) {
    const Vec a = load_lanes(head + i, n);
    const Vec b = load_lanes(head + half + i, n);
    const Vec c = load_lanes(cos + i, n);
    const Vec s = load_lanes(sin + i, n);
    store_lanes(head + i, vec_fma(a, c, vec_sub(vec_zero(), vec_mul(b, s))), n);
    store_lanes(head + half + i, vec_fma(b, c, vec_mul(a, s)), n);
  });
}

inline void rotate_pairs(const float* cos, const float* sin, int half, float* head) {
  for (int i = 0; i < half; ++i) {
    const float a = head[2 * i];
    const float b = head[2 * i + 1];
    head[2 * i] = a * cos[i] - b * sin[i];
    head[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

template <typename Element>
inline void rotate_token(const RotaryParams& p, const RotaryHeads& heads, std::int64_t token) {
  alignas(kCacheLine) float head[kMaxHeadDim];
  const int half = p.rotary_dim / 2;
  const std::int64_t angles = half == 0 ? 0 : heads.position_ids[token] * static_cast<std::int64_t>(half);
  // What is neither normalised nor turned stays as it is.
  const int width = heads.norm_weight == nullptr ? p.rotary_dim : p.head_dim;
  for (int idx = 0; idx < heads.num_heads; ++idx) {
    Element* at = static_cast<Element*>(heads.data) + token * heads.stride + idx * p.head_dim;
    for_each_vec(width, [&](std::int64_t i, std::int64_t n) { store_lanes(head + i, load_lanes(at + i, n), n); });
    if (heads.norm_weight != nullptr) rms_norm_row(head, heads.norm_weight, p.epsilon, p.head_dim, head);
    if (half > 0) (p.is_interleaved ? rotate_pairs : rotate_halves)(p.cos + angles, p.sin + angles, half, head);
    for_each_vec(width, [&](std::int64_t i, std::int64_t n) { store_lanes(at + i, load_lanes(head + i, n), n); });
  }
}

// Tokens [first, last) of one set of heads.
inline void rotate_heads(const RotaryParams& p, const RotaryHeads& heads, std::int64_t first, std::int64_t last) {
  for (std::int64_t token = first; token < last; ++token) {
    p.dtype == DType::kFloat32 ? rotate_token<float>(p, heads, token) : rotate_token<bfloat16>(p, heads, token);
  }
}

constexpr std::int64_t kRotaryTokensPerItem = 16;

// One phase of a parallel region, both sets of heads. No barrier at the end.
inline void rotary_region(const RotaryParams& p, ThreadContext& context, int list) {
  const std::int64_t num_tokens = max_of(p.q.num_tokens, p.k.num_tokens);
  for (std::int64_t first; (first = context.next(list) * kRotaryTokensPerItem) < num_tokens;) {
    const std::int64_t last = first + kRotaryTokensPerItem;
    rotate_heads(p, p.q, first, min_of(last, p.q.num_tokens));
    rotate_heads(p, p.k, first, min_of(last, p.k.num_tokens));
  }
}

void rotary(const RotaryParams& params, ThreadPool& pool) {
  const RotaryParams& p = params;
  const std::int64_t num_elements = (p.q.num_tokens * p.q.num_heads + p.k.num_tokens * p.k.num_heads) * p.head_dim;
  parallel_rows(pool, p.q.num_tokens, kRotaryTokensPerItem, num_elements, [&](std::int64_t first, std::int64_t last) {
    rotate_heads(p, p.q, first, last);
    rotate_heads(p, p.k, first, last);
  });
}
