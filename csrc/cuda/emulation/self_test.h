// Host side of the emulation's own tests (tests/test_cuda_emulation.py). All memory is the host's.
#pragma once

#include <string>

namespace assay::cuda {

// c [16, 8] = a [16, 16] b [16, 8], or b [8, 16] where is_transposed. Without `waits` a copy is used before it is done.
void self_test_multiply(const void* a, const void* b, float* c, bool is_bfloat16, bool is_transposed, bool waits);

// out[i] = in[size - 1 - i]; wrong without the barrier.
void self_test_reverse(const float* in, float* out, int size, bool has_barrier);

// in [32], out [5, 32]: xor 5; lane 3 of 8; up 2 of 16; down 2 of 16; how many are positive.
void self_test_shuffle(const float* in, float* out);

// Launches a kernel with the named mistake.
void self_test_fault(const std::string& fault);

// What self_test_warpgroup leaves out or does wrong; kWritten changes a tile as it should be done.
enum class HopperFault {
  kNone,
  kWritten,
  kNoInit,
  kNoInitFence,
  kFewBytes,
  kNextPhase,
  kNoCopyWait,
  kNoProductFence,
  kOtherDescriptors,
  kNoProductWait,
  kNoMemoryFence,
  kFarDescriptor,
  kNoLastWait,
};

// products [64, 128] = a [64, 64] b^T and sums [64, 64] = products, rounded, c, by tensor copies and wgmma. b and c
// [num_rows, 64], zeros from there to row 128.
void self_test_warpgroup(const void* a, const void* b, const void* c, int num_rows, float* products, float* sums,
                         bool is_bfloat16, HopperFault fault);

}  // namespace assay::cuda
