// causal_conv1d: each channel of a token summed with those of the few tokens before it. Included inside an ISA's
// namespace after activation.h and channel_blocks.h; includes nothing.
#pragma once

// Tokens [first, last) of one sequence, channels [channel, channel + num_channels). Terms are added oldest first; those
// before the sequence are left out, which is the same as adding zeros.
template <Activation kActivation>
inline void convolve(const CausalConv1dParams& p, std::int64_t first, std::int64_t last, std::int64_t channel,
                     std::int64_t num_channels) {
  for (std::int64_t token = first; token < last; ++token) {
    const std::int64_t oldest = token - first + 1 < p.width ? first : token - p.width + 1;
    const float* x = p.x + oldest * p.x_stride + channel;
    const float* weight = p.weight + (p.width - 1 - (token - oldest)) * p.num_channels + channel;
    float* out = p.out + token * p.out_stride + channel;
    for_each_vec(num_channels, [&](std::int64_t i, std::int64_t n) {
      Vec sum = p.bias == nullptr ? vec_zero() : load_lanes(p.bias + channel + i, n);
      for (std::int64_t step = 0; step <= token - oldest; ++step) {
        sum = vec_fma(load_lanes(x + step * p.x_stride + i, n), load_lanes(weight + step * p.num_channels + i, n), sum);
      }
      store_lanes(out + i, activate<kActivation>(sum), n);
    });
  }
}

void causal_conv1d(const CausalConv1dParams& params, ThreadPool& pool) {
  const CausalConv1dParams& p = params;
  const std::int64_t num_elements = p.num_tokens * p.num_channels * p.width;
  with_activation(p.activation, [&](auto tag) {
    constexpr Activation kActivation = decltype(tag)::kValue;
    for_each_channel_block(pool, p.cu_seqlens, p.num_seqs, p.num_channels, num_elements,
                           [&](std::int64_t first, std::int64_t last, std::int64_t channel, std::int64_t count) {
                             convolve<kActivation>(p, first, last, channel, count);
                           });
  });
}
