// sm_90a behind functions: barriers in shared memory, copies of tensor boxes (TMA) and products of warpgroups (wgmma).
//
// Bit fields and layouts are those of the PTX manual (mbarrier; cp.async.bulk.tensor; asynchronous warpgroup level
// matrix instructions: register fragments, canonical layouts, matrix descriptor), each compared with CUTLASS
// (cute/arch/copy_sm90_tma.hpp, mma_sm90_desc.hpp, mma_sm90_gmma.hpp; cute/atom/mma_traits_sm90_gmma.hpp).
// cuda/emulation/async_memory.h and warpgroup.h spell them out.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/device.cuh"
// After device.cuh:
#include "cuda/mma.cuh"
#ifdef ASSAY_CUDA_EMULATION
#include "cuda/emulation/async_memory.h"
#include "cuda/emulation/warpgroup.h"
#endif

namespace assay::cuda {

constexpr int kWarpgroupSize = 128;

// In shared memory. A phase ends when the arrivals it was made for and the bytes it was told of have all come; then the
// next begins. Phases count from 0; a wait is for the end of the latest one of its parity.
using PhaseBarrier = std::uint64_t;

#ifdef ASSAY_CUDA_EMULATION

inline std::uint32_t shared_address(const void* shared) { return emulation::shared_address(shared); }

inline void init_barrier(PhaseBarrier* barrier, int num_arrivals,
                         emulation::Location where = emulation::Location::current()) {
  emulation::init_barrier(barrier, num_arrivals, where);
}
inline void fence_barrier_init() { emulation::fence_barrier_init(); }
inline void arrive(PhaseBarrier* barrier, emulation::Location where = emulation::Location::current()) {
  emulation::arrive_at_barrier(barrier, 0, where);
}
inline void arrive_and_expect(PhaseBarrier* barrier, int num_bytes,
                              emulation::Location where = emulation::Location::current()) {
  emulation::arrive_at_barrier(barrier, num_bytes, where);
}
inline void wait_for_phase(PhaseBarrier* barrier, int parity,
                           emulation::Location where = emulation::Location::current()) {
  emulation::wait_for_phase(barrier, parity, where);
}
inline void copy_box(void* shared, const CUtensorMap* map, int x, int y, int z, PhaseBarrier* barrier,
                     emulation::Location where = emulation::Location::current()) {
  emulation::copy_box(shared, map, x, y, z, barrier, where);
}
inline void fence_async_memory() { emulation::fence_async_memory(); }
inline void sync_threads(int barrier_idx, int num_threads, emulation::Location where = emulation::Location::current()) {
  emulation::wait_for_threads(barrier_idx, num_threads, where);
}

template <int kRegisters>
void release_registers() {}
template <int kRegisters>
void take_registers() {}

inline void wgmma_fence(emulation::Location where = emulation::Location::current()) {
  emulation::fence_products(where);
}
inline void wgmma_commit(emulation::Location where = emulation::Location::current()) {
  emulation::close_product_group(where);
}
template <int kGroupsLeftOpen>
void wgmma_wait(emulation::Location where = emulation::Location::current()) {
  emulation::finish_products(kGroupsLeftOpen, where);
}
template <typename T>
void wgmma_m64n128k16(float (&d)[64], std::uint64_t a, std::uint64_t b, bool accumulates,
                      emulation::Location where = emulation::Location::current()) {
  emulation::start_product({.d = d,
                            .a = nullptr,
                            .descriptor_a = a,
                            .descriptor_b = b,
                            .num_cols = 128,
                            .is_b_transposed = false,
                            .accumulates = accumulates,
                            .to_float = &emulation::HalfBits<T>::to_float},
                           where);
}
template <typename T, int kRegisters>
void wgmma_k16_transposed(float (&d)[kRegisters], const std::uint32_t (&a)[4], std::uint64_t b,
                          emulation::Location where = emulation::Location::current()) {
  emulation::start_product({.d = d,
                            .a = a,
                            .descriptor_a = 0,
                            .descriptor_b = b,
                            .num_cols = 2 * kRegisters,
                            .is_b_transposed = true,
                            .accumulates = true,
                            .to_float = &emulation::HalfBits<T>::to_float},
                           where);
}
template <int kRegisters>
void hold(float (&)[kRegisters]) {}

#else

__device__ inline void init_barrier(PhaseBarrier* barrier, int num_arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(num_arrivals) : "memory");
}
// After this thread's init_barrier and before a copy that uses the barrier; other threads need __syncthreads as well.
__device__ inline void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void arrive(PhaseBarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// The phase also waits for num_bytes of copies.
__device__ inline void arrive_and_expect(PhaseBarrier* barrier, int num_bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(num_bytes)
               : "memory");
}
// What others did before they arrived, and the copies, are there afterwards.
__device__ inline void wait_for_phase(PhaseBarrier* barrier, int parity) {
  std::uint32_t is_over = 0;
  do {
    asm volatile(
        "{\n"
        ".reg .pred is_over;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 is_over, [%1], %2;\n"
        "selp.u32 %0, 1, 0, is_over;\n"
        "}"
        : "=r"(is_over)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (is_over == 0);
}
// One thread: the box at element x of head y of token z, by a map of tensor_map.h. It counts as all of its bytes also
// where it lies outside the tensor, and has zeros there.
__device__ inline void copy_box(void* shared, const CUtensorMap* map, int x, int y, int z, PhaseBarrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
// By all warps of a warpgroup: registers per thread, a multiple of 8, handed back to the block or waited for.
template <int kRegisters>
__device__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
// Between a thread's writes to shared memory and a wgmma or a copy that must see them.
__device__ inline void fence_async_memory() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// barrier_idx 1 to 15; 0 is that of __syncthreads.
__device__ inline void sync_threads(int barrier_idx, int num_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier_idx), "r"(num_threads) : "memory");
}

// Before the first wgmma, and whenever its registers were touched since the last wait. Like all that follow: by all
// threads of the warpgroup.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until it returns the accumulators and registers of the products are not to be touched. hold() what was waited for.
template <int kGroupsLeftOpen>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroupsLeftOpen) : "memory");
}
// Keeps the compiler from moving what is done with registers across this point, since it does not know that a product
// writes them later.
template <int kRegisters>
__device__ void hold(float (&registers)[kRegisters]) {
#pragma unroll
  for (int i = 0; i < kRegisters; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

// d [64, 128] = a [64, 16] b [16, 128], or += where it accumulates; both in shared memory, K-major.
template <typename T>
__device__ void wgmma_m64n128k16(float (&d)[64], std::uint64_t a, std::uint64_t b, bool accumulates);
// d [64, 2 kRegisters] += a [64, 16] b [16, 2 kRegisters]; a in registers, b in shared memory, N-major.
template <typename T, int kRegisters>
__device__ void wgmma_k16_transposed(float (&d)[kRegisters], const std::uint32_t (&a)[4], std::uint64_t b);

#define ASSAY_4_OF(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define ASSAY_16_OF(d, i) ASSAY_4_OF(d, i), ASSAY_4_OF(d, i + 4), ASSAY_4_OF(d, i + 8), ASSAY_4_OF(d, i + 12)
#define ASSAY_32_OF(d, i) ASSAY_16_OF(d, i), ASSAY_16_OF(d, i + 16)
#define ASSAY_32_REGISTERS                                                                           \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define ASSAY_64_REGISTERS                                                                           \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "  \
  "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "  \
  "%59, %60, %61, %62, %63}"
// The immediates: a and b are not negated; transposed or not, where that can be asked for.
#define ASSAY_WGMMA(T, type)                                                                                         \
  template <>                                                                                                        \
  __device__ inline void wgmma_m64n128k16<T>(float (&d)[64], std::uint64_t a, std::uint64_t b, bool accumulates) {   \
    asm volatile(                                                                                                    \
        "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %66, 0;\n"                                             \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " ASSAY_64_REGISTERS                          \
        ", %64, %65, accumulates, 1, 1, 0, 0;\n}"                                                                    \
        : ASSAY_32_OF(d, 0), ASSAY_32_OF(d, 32)                                                                      \
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)));                                                       \
  }                                                                                                                  \
  template <>                                                                                                        \
  __device__ inline void wgmma_k16_transposed<T, 32>(float (&d)[32], const std::uint32_t (&a)[4], std::uint64_t b) { \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " ASSAY_32_REGISTERS                  \
                 ", {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"                                                          \
                 : ASSAY_32_OF(d, 0)                                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                              \
  }                                                                                                                  \
  template <>                                                                                                        \
  __device__ inline void wgmma_k16_transposed<T, 64>(float (&d)[64], const std::uint32_t (&a)[4], std::uint64_t b) { \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " ASSAY_64_REGISTERS                 \
                 ", {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"                                                          \
                 : ASSAY_32_OF(d, 0), ASSAY_32_OF(d, 32)                                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                              \
  }

ASSAY_WGMMA(__half, "f16")
ASSAY_WGMMA(__nv_bfloat16, "bf16")

#undef ASSAY_WGMMA
#undef ASSAY_64_REGISTERS
#undef ASSAY_32_REGISTERS
#undef ASSAY_32_OF
#undef ASSAY_16_OF
#undef ASSAY_4_OF

#endif

// A matrix in shared memory in the 128-byte swizzle, as copy_box leaves it: rows of 64 elements, every 8 of them 1024
// bytes on a multiple of 1024. stride_bytes: from 8 rows to the next 8. leading_bytes: from 64 columns to the next 64
// of an N-major matrix; a K-major one has no use for it. Bits 0 to 13 the address, 16 to 29 the leading offset, 32 to
// 45 the stride, all in units of 16 bytes; 49 to 51 the base offset, 0 for a pattern on 1024 bytes; 62 and 63 the
// swizzle, of which 1 is 128 bytes. 16 columns further in a K-major matrix is 32 bytes further: the swizzle goes by the
// bits of the whole address.
__device__ inline std::uint64_t matrix_descriptor(const void* shared, int leading_bytes, int stride_bytes) {
  const auto field = [](std::uint32_t bytes) { return std::uint64_t{(bytes & 0x3ffff) >> 4}; };
  return field(shared_address(shared)) | field(static_cast<std::uint32_t>(leading_bytes)) << 16 |
         field(static_cast<std::uint32_t>(stride_bytes)) << 32 | std::uint64_t{1} << 62;
}

}  // namespace assay::cuda
