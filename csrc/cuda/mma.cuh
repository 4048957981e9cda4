// Matrix fragments and asynchronous copies: sm_80 instructions behind functions. Fragment layouts are those of the PTX
// manual (mma.m16n8k16, ldmatrix); cuda/emulation/tensor_core.h spells them out.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#ifdef ASSAY_CUDA_EMULATION
#include "cuda/emulation/tensor_core.h"
#endif

namespace assay::cuda {

#ifdef ASSAY_CUDA_EMULATION

inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared,
                        emulation::Location where = emulation::Location::current()) {
  emulation::ldmatrix<4, false>(r, shared, where);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared,
                              emulation::Location where = emulation::Location::current()) {
  emulation::ldmatrix<4, true>(r, shared, where);
}
inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared,
                        emulation::Location where = emulation::Location::current()) {
  emulation::ldmatrix<2, false>(r, shared, where);
}
inline void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* shared,
                              emulation::Location where = emulation::Location::current()) {
  emulation::ldmatrix<2, true>(r, shared, where);
}

template <typename T>
void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  emulation::Location where = emulation::Location::current()) {
  emulation::Product mine{d, a, b};
  emulation::run_with_warp(0xffffffffu, &mine, &emulation::multiply<T>, where);
}

inline void cp_async_16(void* shared, const void* global, bool is_valid,
                        emulation::Location where = emulation::Location::current()) {
  emulation::check_shared(shared, 16, 16, where);
  emulation::check_copied(global, where);
  emulation::copy_later(shared, is_valid ? global : nullptr);
}
inline void cp_async_commit() { emulation::close_copy_group(); }
template <int kGroupsLeftOpen>
void cp_async_wait() {
  emulation::finish_copies(kGroupsLeftOpen);
}

#else

__device__ inline std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

// r[i] is this lane's part of the 8 x 8 matrix whose rows lanes 8 i to 8 i + 7 point at, 16 bytes each, in shared
// memory and 16-byte aligned. All lanes of the warp call it together.
__device__ inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}
// The same for two matrices; lanes 16 to 31 point anywhere.
__device__ inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
}
__device__ inline void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
}

// d [16, 8] += a [16, 16] b [16, 8]; T is __half or __nv_bfloat16, sums are float32.
template <typename T>
__device__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

template <>
__device__ inline void mma_m16n8k16<__half>(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ inline void mma_m16n8k16<__nv_bfloat16>(float (&d)[4], const std::uint32_t (&a)[4],
                                                   const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Copies 16 bytes, or writes 16 zero bytes where !is_valid (`global` is then not read, but must be an address of
// global memory). Both addresses are multiples of 16. Done only after cp_async_wait of its group, for the thread that
// waits, and after a barrier for the others.
__device__ inline void cp_async_16(void* shared, const void* global, bool is_valid) {
  const int num_bytes = is_valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(num_bytes)
               : "memory");
}
// Closes a group: the copies of this thread since the last one.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kGroupsLeftOpen of this thread's groups, the latest, are under way.
template <int kGroupsLeftOpen>
__device__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeftOpen) : "memory");
}

#endif

}  // namespace assay::cuda
