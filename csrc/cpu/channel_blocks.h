// Work on sequences whose channels are independent of each other while their tokens come in order. Included inside an
// ISA's namespace after parallel_rows.h; includes nothing.
#pragma once

constexpr std::int64_t kBlockVecs = kVecWidth == 1 ? 16 : 4;
// Channels walked side by side: whole cache lines of a token's row, and few enough that one sequence is work for many
// threads.
constexpr std::int64_t kBlockChannels = kBlockVecs * kVecWidth;

// Calls body(first, last, channel, num_channels) for every block of channels of every sequence with tokens
// [first, last). num_elements: what all of it comes to, as for parallel_rows.
template <typename Body>
inline void for_each_channel_block(ThreadPool& pool, const std::int32_t* cu_seqlens, std::int64_t num_seqs,
                                   std::int64_t num_channels, std::int64_t num_elements, const Body& body) {
  const std::int64_t blocks_per_seq = (num_channels + kBlockChannels - 1) / kBlockChannels;
  parallel_rows(pool, num_seqs * blocks_per_seq, 1, num_elements, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t seq = item / blocks_per_seq, channel = item % blocks_per_seq * kBlockChannels;
      const std::int64_t left = num_channels - channel;
      body(std::int64_t{cu_seqlens[seq]}, std::int64_t{cu_seqlens[seq + 1]}, channel,
           left < kBlockChannels ? left : kBlockChannels);
    }
  });
}
