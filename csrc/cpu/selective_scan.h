// selective_scan: Mamba's recurrence, channel by channel in vectors, token after token. Included inside an ISA's
// namespace after activation.h, attention_softmax.h and channel_blocks.h; includes nothing.
#pragma once

constexpr int kScanStates = 4;  // states of a channel computed side by side

// What a block of channels carries from token to token, and its columns of a * log2(e), so that exp(step * a) is a
// power of two. They are copied because rows of a that lie a power of two apart would push each other out of the cache.
struct ScanBlock {
  alignas(64) float state[kMaxStateSize * kBlockChannels];
  alignas(64) float log2_decay[kMaxStateSize * kBlockChannels];
};

// What the states of a vector of channels need of one token.
struct ScanToken {
  Vec step;
  Vec input;  // step * u
  const float* b;
  const float* c;
};

// States s to s + kStates of the channels at `i`, stage by stage: one after the other their chains of dependent
// operations would fill the processor's scheduler with waiting ones. Returns sum + c . h over them.
template <int kStates>
inline Vec scan_states(const ScanToken& token, std::int64_t s, std::int64_t i, ScanBlock& block, Vec sum) {
  constexpr int kNumTerms = sizeof(kExp2Terms) / sizeof(kExp2Terms[0]);
  float* states = block.state + s * kBlockChannels + i;
  const float* decay = block.log2_decay + s * kBlockChannels + i;
  Vec rest[kStates], scale[kStates], power[kStates];
#pragma GCC unroll 8
  for (int k = 0; k < kStates; ++k) {
    const Vec exponent = vec_max(vec_set1(-126.0f), vec_mul(token.step, vec_load(decay + k * kBlockChannels)));
    const Vec whole = vec_round(exponent);
    rest[k] = vec_sub(exponent, whole);
    scale[k] = vec_pow2i(whole);
    power[k] = vec_set1(kExp2Terms[kNumTerms - 1]);
  }
#pragma GCC unroll 8
  for (int term = kNumTerms - 2; term >= 0; --term) {
#pragma GCC unroll 8
    for (int k = 0; k < kStates; ++k) power[k] = vec_fma(power[k], rest[k], vec_set1(kExp2Terms[term]));
  }
#pragma GCC unroll 8
  for (int k = 0; k < kStates; ++k) {
    const Vec added = vec_mul(token.input, vec_set1(token.b[s + k]));
    const Vec kept = vec_mul(power[k], scale[k]);
    const Vec state = vec_fma(kept, vec_load(states + k * kBlockChannels), added);
    vec_store(states + k * kBlockChannels, state);
    sum = vec_fma(state, vec_set1(token.c[s + k]), sum);
  }
  return sum;
}

// One token, n channels of the block from its i-th on.
inline void scan_token(const SelectiveScanParams& p, std::int64_t token, std::int64_t channel, std::int64_t i,
                       std::int64_t n, ScanBlock& block) {
  const std::int64_t col = channel + i;
  const Vec u = load_lanes(p.u + token * p.u_stride + col, n);
  const Vec step = vec_softplus(load_lanes(p.delta + token * p.delta_stride + col, n));
  const ScanToken at{step, vec_mul(step, u), p.b + token * p.b_stride, p.c + token * p.c_stride};
  Vec sum = vec_mul(load_lanes(p.d + col, n), u);
  std::int64_t s = 0;
  for (; s + kScanStates <= p.state_size; s += kScanStates) sum = scan_states<kScanStates>(at, s, i, block, sum);
  for (; s < p.state_size; ++s) sum = scan_states<1>(at, s, i, block, sum);
  if (p.z != nullptr) {
    sum = vec_mul(sum, activate<Activation::kSilu>(load_lanes(p.z + token * p.z_stride + col, n)));
  }
  store_lanes(p.out + token * p.out_stride + col, sum, n);
}

inline void scan_channels(const SelectiveScanParams& p, std::int64_t first, std::int64_t last, std::int64_t channel,
                          std::int64_t num_channels) {
  ScanBlock block;
  for (std::int64_t s = 0; s < p.state_size; ++s) {
    // Whole vectors: lanes past the last channel compute with zeros and are never stored.
    for (std::int64_t i = 0; i < num_channels; i += kVecWidth) {
      const std::int64_t n = num_channels - i < kVecWidth ? num_channels - i : kVecWidth;
      const Vec a = load_lanes(p.a + s * p.num_channels + channel + i, n);
      vec_store(block.log2_decay + s * kBlockChannels + i, vec_mul(a, vec_set1(kLog2e)));
      vec_store(block.state + s * kBlockChannels + i, vec_zero());
    }
  }
  for (std::int64_t token = first; token < last; ++token) {
    for_each_vec(num_channels, [&](std::int64_t i, std::int64_t n) { scan_token(p, token, channel, i, n, block); });
  }
}

void selective_scan(const SelectiveScanParams& params, ThreadPool& pool) {
  const SelectiveScanParams& p = params;
  const std::int64_t num_elements = p.num_tokens * p.num_channels * p.state_size;
  for_each_channel_block(pool, p.cu_seqlens, p.num_seqs, p.num_channels, num_elements,
                         [&](std::int64_t first, std::int64_t last, std::int64_t channel, std::int64_t count) {
                           scan_channels(p, first, last, channel, count);
                         });
}
