// Stacks to switch between: one per thread of an emulated block.
#pragma once

#include <cstddef>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace assay::cuda::emulation {

#if defined(__x86_64__)
using Context = void*;  // the stack pointer; everything else lies on the stack
#else
using Context = ucontext_t;
#endif

constexpr std::size_t kStackBytes = 128 * 1024;

// `context` will run entry(), which must never return, on the stack that ends at `stack_end` (16-byte aligned).
void prepare_context(Context& context, unsigned char* stack_end, void (*entry)());

// Goes on where `to` stands; returns when someone switches back to `from`.
void switch_context(Context& from, Context& to);

// `count` stacks with an unmapped page below each, so that an overflow faults. Returns the end of the first; the others
// follow every kStackBytes.
unsigned char* map_stacks(std::size_t count);

}  // namespace assay::cuda::emulation
