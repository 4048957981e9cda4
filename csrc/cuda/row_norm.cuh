// One block's row: read once into shared memory, normalised from there. Each thread owns the chunks t, t + threads, ...
// of the row and is the only one to touch them, so no barrier guards the row itself.
#pragma once

#include "cuda/chunk.cuh"
#include "cuda/common.cuh"

namespace assay::cuda {

constexpr int kMaxNormThreads = 512;
constexpr int kMaxNormWarps = kMaxNormThreads / kWarpSize;

// Threads for a row: two chunks each where that is enough of them. Of hidden_size alone, since the order of sums
// follows from it.
inline unsigned norm_threads(std::int64_t hidden_size) {
  const std::int64_t wanted = (hidden_size + 2 * kChunk - 1) / (2 * kChunk);
  const std::int64_t whole_warps = (wanted + kWarpSize - 1) / kWarpSize * kWarpSize;
  return static_cast<unsigned>(whole_warps < kMaxNormThreads ? whole_warps : kMaxNormThreads);
}

inline std::size_t norm_shared_bytes(std::int64_t hidden_size) {
  const std::int64_t num_threads = norm_threads(hidden_size);
  const std::int64_t per_pass = num_threads * kChunk;
  return static_cast<std::size_t>((hidden_size + per_pass - 1) / per_pass * per_pass) * sizeof(float);
}

// This thread's chunks of a row in shared memory. Halves of a chunk lie apart: a warp's accesses then fall on
// neighbouring banks.
struct RowChunks {
  float4* halves;
  std::int64_t hidden_size;

  __device__ RowChunks(unsigned char* shared, std::int64_t size)
      : halves(reinterpret_cast<float4*>(shared) + threadIdx.x), hidden_size(size) {}

  // Calls body(idx, col, count) for each: columns [col, col + count).
  template <typename Body>
  __device__ void for_each(const Body& body) const {
    int idx = 0;
    for (std::int64_t col = threadIdx.x * kChunk; col < hidden_size; col += std::int64_t{blockDim.x} * kChunk) {
      const std::int64_t left = hidden_size - col;
      body(idx, col, static_cast<int>(left < kChunk ? left : kChunk));
      ++idx;
    }
  }
  __device__ void put(int idx, const float (&x)[kChunk]) const {
    halves[2 * idx * blockDim.x] = make_float4(x[0], x[1], x[2], x[3]);
    halves[(2 * idx + 1) * blockDim.x] = make_float4(x[4], x[5], x[6], x[7]);
  }
  __device__ void get(int idx, float (&x)[kChunk]) const {
    const float4 a = halves[2 * idx * blockDim.x], b = halves[(2 * idx + 1) * blockDim.x];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
  }
};

// Every thread gets the sum over the block: a tree over the lanes, then the warps in order. `partial` holds
// kMaxNormWarps values and is for this call alone: nothing waits until all have read it.
__device__ inline float block_sum(float value, float* partial) {
  value = warp_sum(value);
  if (threadIdx.x % kWarpSize == 0) partial[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float total = partial[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarpSize; ++warp) total += partial[warp];
  return total;
}

// Normalises the row in `chunks` and hands every normed chunk to write(col, count, x). All threads of the block call
// it together, once.
template <typename Write>
__device__ void norm_row(const NormView& norm, bool is_vector, const RowChunks& chunks, const Write& write) {
  __shared__ float partial[2][kMaxNormWarps];
  const float size = static_cast<float>(chunks.hidden_size);
  float x[kChunk];
  float mean = 0.0f;
  if (norm.kind == NormKind::kLayer) {
    float sum = 0.0f;
    chunks.for_each([&](int idx, std::int64_t, int) {
      chunks.get(idx, x);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) sum += x[i];  // past the end of the row x is 0
    });
    mean = block_sum(sum, partial[0]) / size;
  }
  float squares = 0.0f;
  chunks.for_each([&](int idx, std::int64_t, int count) {
    chunks.get(idx, x);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float deviation = i < count ? x[i] - mean : 0.0f;
      squares = fmaf(deviation, deviation, squares);
    }
  });
  const float inverse = 1.0f / sqrtf(block_sum(squares, partial[1]) / size + norm.epsilon);
  chunks.for_each([&](int idx, std::int64_t col, int count) {
    float weight[kChunk];
    chunks.get(idx, x);
    load_chunk(norm.weight + col, count, is_vector, weight);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[i] = (x[i] - mean) * inverse * weight[i];
    if (norm.bias != nullptr) {
      float bias[kChunk];
      load_chunk(norm.bias + col, count, is_vector, bias);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) x[i] += bias[i];
    }
    write(col, count, x);
  });
}

}  // namespace assay::cuda
