// Kernels that check the emulation: what is right comes out right, what is wrong is seen. Built into it alone.
#include "cuda/emulation/self_test.h"
#include "cuda/launch_kernel.h"
#include "cuda/mma.cuh"

namespace assay::cuda {
namespace {

constexpr int kWarp = 32;

// c [16, 8] = a [16, 16] b [16, 8] through shared memory, cp.async, ldmatrix and mma.
template <typename T>
__global__ void multiply_kernel(const T* a, const T* b, float* c, bool waits) {
  __shared__ __align__(16) unsigned char a_tile[16 * 16 * sizeof(T)];
  ASSAY_DYNAMIC_SHARED(b_tile);
  const int lane = static_cast<int>(threadIdx.x);
  cp_async_16(a_tile + 16 * lane, reinterpret_cast<const unsigned char*>(a) + 16 * lane, true);
  cp_async_commit();
  if (lane < 16) cp_async_16(b_tile + 16 * lane, reinterpret_cast<const unsigned char*>(b) + 16 * lane, true);
  cp_async_commit();
  if (waits) {
    cp_async_wait<0>();
  } else {
    cp_async_wait<1>();
  }
  __syncwarp();
  std::uint32_t a_part[4], b_part[2];
  ldmatrix_x4(a_part, a_tile + (lane % 16 * 16 + lane / 16 * 8) * sizeof(T));
  ldmatrix_x2_trans(b_part, b_tile + lane % 16 * 8 * sizeof(T));
  float sums[4] = {};
  mma_m16n8k16<T>(sums, a_part, b_part);
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
  cp_async_wait<0>();
}

// b given transposed, [8, 16], as the rows of a weight are.
template <typename T>
__global__ void multiply_transposed_kernel(const T* a, const T* b, float* c) {
  __shared__ __align__(16) T a_tile[16][16];
  __shared__ __align__(16) T b_tile[8][16];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 16 * 16; i += kWarp) a_tile[i / 16][i % 16] = a[i];
  for (int i = lane; i < 8 * 16; i += kWarp) b_tile[i / 16][i % 16] = b[i];
  __syncwarp();
  std::uint32_t a_part[4], b_part[2];
  ldmatrix_x4(a_part, &a_tile[lane % 16][lane / 16 * 8]);
  ldmatrix_x2(b_part, &b_tile[lane % 8][lane / 8 % 2 * 8]);
  float sums[4] = {};
  mma_m16n8k16<T>(sums, a_part, b_part);
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// out[i] = in[last - i], each element through shared memory.
__global__ void reverse_kernel(const float* in, float* out, bool has_barrier) {
  __shared__ float values[256];
  values[threadIdx.x] = in[threadIdx.x];
  if (has_barrier) __syncthreads();
  out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

__global__ void shuffle_kernel(const float* in, float* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const float value = in[lane];
  out[lane] = __shfl_xor_sync(0xffffffffu, value, 5);
  out[kWarp + lane] = __shfl_sync(0xffffffffu, value, 3, 8);
  out[2 * kWarp + lane] = __shfl_up_sync(0xffffffffu, value, 2, 16);
  out[3 * kWarp + lane] = __shfl_down_sync(0xffffffffu, value, 2, 16);
  out[4 * kWarp + lane] = static_cast<float>(__popc(__ballot_sync(0xffffffffu, value > 0.0f)));
}

__global__ void lost_thread_kernel() {
  if (threadIdx.x == 7) return;
  __syncthreads();
}

__global__ void split_barrier_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void diverged_kernel(float* out) {
  if (threadIdx.x < 16) {
    *out = __shfl_sync(0xffffffffu, 1.0f, 0);
  } else {
    *out = __shfl_sync(0xffffffffu, 2.0f, 0);
  }
}

__global__ void overflow_kernel() {
  ASSAY_DYNAMIC_SHARED(memory);
  memory[64 + threadIdx.x] = 1;
}

template <typename T>
void multiply(const void* a, const void* b, float* c, bool is_transposed, bool waits) {
  const T *x = static_cast<const T*>(a), *y = static_cast<const T*>(b);
  if (is_transposed) return launch_kernel(multiply_transposed_kernel<T>, dim3(1), dim3(kWarp), 0, nullptr, x, y, c);
  launch_kernel(multiply_kernel<T>, dim3(1), dim3(kWarp), 256, nullptr, x, y, c, waits);
}

}  // namespace

void self_test_multiply(const void* a, const void* b, float* c, bool is_bfloat16, bool is_transposed, bool waits) {
  is_bfloat16 ? multiply<__nv_bfloat16>(a, b, c, is_transposed, waits)
              : multiply<__half>(a, b, c, is_transposed, waits);
}

void self_test_reverse(const float* in, float* out, int size, bool has_barrier) {
  launch_kernel(reverse_kernel, dim3(1), dim3(static_cast<unsigned>(size)), 0, nullptr, in, out, has_barrier);
}

void self_test_shuffle(const float* in, float* out) {
  launch_kernel(shuffle_kernel, dim3(1), dim3(kWarp), 0, nullptr, in, out);
}

void self_test_fault(const std::string& fault) {
  float unread = 0.0f;
  if (fault == "lost thread") launch_kernel(lost_thread_kernel, dim3(1), dim3(64), 0, nullptr);
  if (fault == "split barrier") launch_kernel(split_barrier_kernel, dim3(1), dim3(64), 0, nullptr);
  if (fault == "diverged warp") launch_kernel(diverged_kernel, dim3(1), dim3(kWarp), 0, nullptr, &unread);
  if (fault == "overflow") launch_kernel(overflow_kernel, dim3(1), dim3(kWarp), 64, nullptr);
  if (fault == "too many threads") launch_kernel(overflow_kernel, dim3(1), dim3(1025), 64, nullptr);
  if (fault == "empty grid") launch_kernel(overflow_kernel, dim3(0), dim3(kWarp), 64, nullptr);
}

}  // namespace assay::cuda
