// Per-head RMSNorm and rotary position embedding, in place on q and k.
#include "cuda/chunk.cuh"
#include "cuda/common.cuh"
#include "cuda/dtype.h"
#include "cuda/launch_elementwise.h"
#include "cuda/launch_kernel.h"

namespace assay::cuda {
namespace {

constexpr int kRotaryThreads = 128;

// A head is cut into units of two chunks, one lane each: a chunk of the first halves of pairs and the chunk of the
// second halves; of interleaved pairs, two neighbouring chunks; past rotary_dim, two neighbouring chunks that do not
// turn. All of them share one chunk of angles.
struct HeadUnits {
  int num_turned;  // units that turn come first
  int log2_lanes;  // of the lanes a head takes, a power of two that divides a warp
};

int num_units_of(int size, int per_unit) { return (size + per_unit - 1) / per_unit; }

HeadUnits head_units(const RotaryParams& p) {
  const bool has_norm = p.q.norm_weight != nullptr || p.k.norm_weight != nullptr;
  const int num_turned = num_units_of(p.rotary_dim / 2, kChunk);
  // What is neither normalised nor turned stays as it is.
  const int num_units = num_turned + (has_norm ? num_units_of(p.head_dim - p.rotary_dim, 2 * kChunk) : 0);
  int log2_lanes = 0;
  while (1 << log2_lanes < num_units) ++log2_lanes;
  return {num_turned, log2_lanes};
}

// Where a unit's chunks lie in the head.
struct Unit {
  int first, first_count;
  int second, second_count;
};

__device__ int clamped_count(int start, int end) { return max(0, min(kChunk, end - start)); }

__device__ Unit unit_of(const RotaryParams& p, const HeadUnits& units, int idx) {
  const int half = p.rotary_dim / 2;
  if (idx < units.num_turned && !p.is_interleaved) {
    const int start = idx * kChunk, count = clamped_count(start, half);
    return {start, count, half + start, count};
  }
  // In order: the pairs, or what follows them.
  const bool is_turned = idx < units.num_turned;
  const int start = is_turned ? idx * 2 * kChunk : p.rotary_dim + (idx - units.num_turned) * 2 * kChunk;
  const int end = is_turned ? p.rotary_dim : p.head_dim;
  return {start, clamped_count(start, end), start + kChunk, clamped_count(start + kChunk, end)};
}

// (a, b) -> (a cos - b sin, b cos + a sin)
__device__ void turn(float& a, float& b, float cos, float sin) {
  const float turned = a * cos - b * sin;
  b = b * cos + a * sin;
  a = turned;
}

// Some lanes per head (HeadUnits), the heads of q and then those of k of one token after the other.
template <typename T>
__global__ void __launch_bounds__(kRotaryThreads)
    rotary_kernel(RotaryParams p, HeadUnits units, LiveRows num_live_rows, bool is_vector) {
  const int num_heads = p.q.num_heads + p.k.num_heads;
  const std::int64_t thread = std::int64_t{blockIdx.x} * kRotaryThreads + threadIdx.x;
  // Heads of all tokens are fewer than 2^31 (see the launch), and 32-bit divisions much cheaper.
  const unsigned item = static_cast<unsigned>(thread >> units.log2_lanes);
  const std::int64_t token = item / static_cast<unsigned>(num_heads);
  const int head_idx = static_cast<int>(item % static_cast<unsigned>(num_heads));
  const int unit_idx = static_cast<int>(threadIdx.x) & ((1 << units.log2_lanes) - 1);
  const std::int64_t num_tokens = num_live_rows == nullptr ? p.q.num_tokens : *num_live_rows;
  const RotaryHeads& heads = head_idx < p.q.num_heads ? p.q : p.k;
  Unit unit = unit_of(p, units, unit_idx);
  // Lanes with nothing to do stay for the sums of their warp.
  const bool is_live = token < p.q.num_tokens && token < num_tokens && unit.first_count > 0;
  T* head = static_cast<T*>(heads.data);
  float a[kChunk] = {}, b[kChunk] = {};
  if (is_live) {
    const int idx = head_idx < p.q.num_heads ? head_idx : head_idx - p.q.num_heads;
    head += token * heads.stride + static_cast<std::int64_t>(idx) * p.head_dim;
    load_chunk(head + unit.first, unit.first_count, is_vector, a);
    if (unit.second_count > 0) load_chunk(head + unit.second, unit.second_count, is_vector, b);
  }
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) squares = fmaf(a[i], a[i], fmaf(b[i], b[i], squares));
  for (int step = 1 << units.log2_lanes >> 1; step > 0; step /= 2) {
    squares += __shfl_xor_sync(kFullWarp, squares, step);
  }
  if (!is_live) return;
  if (heads.norm_weight != nullptr) {
    const float inverse = 1.0f / sqrtf(squares / static_cast<float>(p.head_dim) + p.epsilon);
    float weight[kChunk];
    load_chunk(heads.norm_weight + unit.first, unit.first_count, is_vector, weight);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) a[i] = a[i] * inverse * weight[i];
    if (unit.second_count > 0) {
      load_chunk(heads.norm_weight + unit.second, unit.second_count, is_vector, weight);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) b[i] = b[i] * inverse * weight[i];
    }
  }
  const int half = p.rotary_dim / 2;
  if (unit_idx < units.num_turned) {
    const std::int64_t angles = static_cast<std::int64_t>(heads.position_ids[token]) * half + unit_idx * kChunk;
    const int count = clamped_count(unit_idx * kChunk, half);
    float cos[kChunk], sin[kChunk];
    load_chunk(p.cos + angles, count, is_vector, cos);
    load_chunk(p.sin + angles, count, is_vector, sin);
    if (p.is_interleaved) {
#pragma unroll
      for (int i = 0; i < kChunk / 2; ++i) {
        turn(a[2 * i], a[2 * i + 1], cos[i], sin[i]);
        turn(b[2 * i], b[2 * i + 1], cos[kChunk / 2 + i], sin[kChunk / 2 + i]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) turn(a[i], b[i], cos[i], sin[i]);
    }
  }
  store_chunk(head + unit.first, unit.first_count, is_vector, a);
  if (unit.second_count > 0) store_chunk(head + unit.second, unit.second_count, is_vector, b);
}

template <typename T>
bool has_vector_heads(const RotaryParams& p) {
  // Half a turned part is a whole number of chunks, and so is what follows it, two by two.
  if (p.rotary_dim % (2 * kChunk) != 0 || (p.head_dim - p.rotary_dim) % kChunk != 0) return false;
  for (const RotaryHeads* heads : {&p.q, &p.k}) {
    if (!has_vector_rows(heads->data, heads->stride, sizeof(T)) ||
        !has_vector_rows(heads->norm_weight, p.head_dim, sizeof(float))) {
      return false;
    }
  }
  return has_vector_rows(p.cos, p.rotary_dim / 2, sizeof(float)) &&
         has_vector_rows(p.sin, p.rotary_dim / 2, sizeof(float));
}

}  // namespace

void launch_rotary(const RotaryParams& params, LiveRows num_live_rows, cudaStream_t stream) {
  const RotaryParams& p = params;
  const HeadUnits units = head_units(p);
  const std::int64_t num_items = p.q.num_tokens * (p.q.num_heads + p.k.num_heads);
  if (num_items == 0) return;
  if (num_items > INT32_MAX) throw std::invalid_argument("rotary: num_tokens * heads must be less than 2^31");
  const std::int64_t num_threads = num_items << units.log2_lanes;
  with_float_type(p.dtype, [&](auto element) {
    using T = decltype(element);
    launch_kernel(rotary_kernel<T>, dim3(static_cast<unsigned>((num_threads + kRotaryThreads - 1) / kRotaryThreads)),
                  dim3(kRotaryThreads), 0, stream, p, units, num_live_rows, has_vector_heads<T>(p));
  });
}

}  // namespace assay::cuda
