// Kernels that check the emulation of sm_90's units: see self_test.cu.
#include "cuda/emulation/self_test.h"
#include "cuda/hopper.cuh"
#include "cuda/launch_kernel.h"
#include "cuda/tensor_map.h"

namespace assay::cuda {
namespace {

constexpr int kRows = 64, kCols = 128, kDepth = 64;
constexpr int kRowBytes = 128, kAtomBytes = 1024;

struct Maps {
  CUtensorMap a, b, c;
};

template <typename T>
__device__ std::uint32_t rounded_pair(float low, float high) {
  const T pair[2] = {T(low), T(high)};
  std::uint32_t bits;
  memcpy(&bits, pair, sizeof(bits));
  return bits;
}

// products [64, 128] = a [64, 64] b^T, then sums [64, 64] = products, rounded, c; b and c may end before row 128. One
// step of it is left out or done wrong.
template <typename T>
__global__ void warpgroup_kernel(Maps maps, float* products, float* sums, HopperFault fault) {
  ASSAY_DYNAMIC_SHARED(memory);
  unsigned char *a = memory, *b = a + kRows * kRowBytes, *c = b + kCols * kRowBytes;
  PhaseBarrier* filled = reinterpret_cast<PhaseBarrier*>(c + kCols * kRowBytes);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  if (thread == 0) {
    if (fault != HopperFault::kNoInit) init_barrier(filled, 1);
    if (fault != HopperFault::kNoInitFence) fence_barrier_init();
    arrive_and_expect(filled, (kRows + 2 * kCols) * kRowBytes - (fault == HopperFault::kFewBytes ? 128 : 0));
    copy_box(a, &maps.a, 0, 0, 0, filled);
    copy_box(b, &maps.b, 0, 0, 0, filled);
    copy_box(c, &maps.c, 0, 0, 0, filled);
  }
  __syncthreads();
  if (fault == HopperFault::kNextPhase) wait_for_phase(filled, 0);
  if (fault != HopperFault::kNoCopyWait) wait_for_phase(filled, fault == HopperFault::kNextPhase ? 1 : 0);
  float d[kCols / 2];
  if (fault != HopperFault::kNoProductFence) wgmma_fence();
  for (int depth = 0; depth < kDepth / 16; ++depth) {
    const int at = depth * 32 + (fault == HopperFault::kOtherDescriptors ? thread / 32 * 16 : 0);
    wgmma_m64n128k16<T>(d, matrix_descriptor(a + at, 16, kAtomBytes), matrix_descriptor(b + at, 16, kAtomBytes),
                        depth > 0);
  }
  wgmma_commit();
  if (fault != HopperFault::kNoProductWait) wgmma_wait<0>();
  std::uint32_t weights[kCols / 16][4];
  const int row = thread / 32 * 16 + lane / 4, col = lane % 4 * 2;
  for (int i = 0; i < kCols / 2; ++i) products[(row + i / 2 % 2 * 8) * kCols + i / 4 * 8 + col + i % 2] = d[i];
  for (int i = 0; i < kCols / 4; ++i) weights[i / 4][i % 4] = rounded_pair<T>(d[2 * i], d[2 * i + 1]);
  // Rows of c from 64 on become zeros, by the hands of threads.
  if (fault == HopperFault::kWritten || fault == HopperFault::kNoMemoryFence) {
    for (int at = 64 * kRowBytes + thread * 16; at < kCols * kRowBytes; at += 128 * 16) {
      *reinterpret_cast<uint4*>(c + at) = uint4{0, 0, 0, 0};
    }
    if (fault == HopperFault::kWritten) fence_async_memory();
    sync_threads(1, 128);
  }
  float e[kDepth / 2] = {};
  wgmma_fence();
  for (int step = 0; step < kCols / 16; ++step) {
    const int stride = fault == HopperFault::kFarDescriptor ? 1 << 17 : kAtomBytes;
    wgmma_k16_transposed<T>(e, weights[step], matrix_descriptor(c + step * 2 * kAtomBytes, 16, stride));
  }
  wgmma_commit();
  if (fault != HopperFault::kNoLastWait) wgmma_wait<0>();
  for (int i = 0; i < kDepth / 2; ++i) sums[(row + i / 2 % 2 * 8) * kDepth + i / 4 * 8 + col + i % 2] = e[i];
}

}  // namespace

void self_test_warpgroup(const void* a, const void* b, const void* c, int num_rows, float* products, float* sums,
                         bool is_bfloat16, HopperFault fault) {
  const DType dtype = is_bfloat16 ? DType::kBFloat16 : DType::kFloat16;
  const Maps maps = {make_tensor_map(a, dtype, kRows, 1, kDepth, kDepth, kRows),
                     make_tensor_map(b, dtype, num_rows, 1, kDepth, kDepth, kCols),
                     make_tensor_map(c, dtype, num_rows, 1, kDepth, kDepth, kCols)};
  constexpr std::size_t kSharedBytes = (kRows + 2 * kCols) * kRowBytes + sizeof(PhaseBarrier);
  const auto kernel = is_bfloat16 ? warpgroup_kernel<__nv_bfloat16> : warpgroup_kernel<__half>;
  launch_kernel(kernel, dim3(1), dim3(kWarpgroupSize), kSharedBytes, nullptr, maps, products, sums, fault);
}

}  // namespace assay::cuda
