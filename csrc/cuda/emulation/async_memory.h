// What sm_90 does to shared memory by itself, as hopper.cuh names it: barriers that count bytes, copies of boxes of a
// tensor, and the asynchronous units' own view of shared memory.
#pragma once

#include <cuda.h>

#include "cuda/emulation/block.h"

namespace assay::cuda::emulation {

// Of the shared window, where the system has the first KiB; 18 bits, as descriptors hold it.
constexpr std::uint32_t kFirstSharedAddress = 1024;
std::uint32_t shared_address(const void* shared);

// mbarriers, in the 8 bytes that `barrier` points to. An arrival too many, a barrier that was never initialised and
// one that a copy cannot see yet (no fence after its initialisation) are errors.
void init_barrier(void* barrier, int num_arrivals, Location where);
void fence_barrier_init();
void arrive_at_barrier(void* barrier, int bytes_to_come, Location where);
void wait_for_phase(void* barrier, int parity, Location where);

// bar.sync: the first num_threads to come wait for each other.
void wait_for_threads(int barrier_idx, int num_threads, Location where);

// A box of a 3-dimensional tensor, in the map's swizzle, zeros outside the tensor; lands as happen_some_time says, and
// counts its bytes off the barrier then.
void copy_box(void* shared, const CUtensorMap* map, int x, int y, int z, void* barrier, Location where);

// Copies and matrix products see shared memory as copies and this fence have left it: what threads have written since
// is not there.
void fence_async_memory();
const unsigned char* async_memory();  // of dynamic shared memory, byte for byte

// cuTensorMapEncodeTiled, for what copy_box can do; else CUDA_ERROR_NOT_SUPPORTED. What the driver refuses is
// CUDA_ERROR_INVALID_VALUE.
CUresult encode_tensor_map(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                           const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                           const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                           CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill);

}  // namespace assay::cuda::emulation
