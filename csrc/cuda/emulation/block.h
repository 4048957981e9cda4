// An emulated launch: the threads of a block are fibers that take turns on the calling thread, blocks run one after
// another. What a GPU leaves undefined is an error here where it can be seen: see run_kernel.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

// CUDA's own names, as kernels use them.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace assay::cuda::emulation {

using Location = std::source_location;

constexpr int kLanes = 32;
constexpr std::size_t kMaxSharedBytes = 227 * 1024;  // what a block of an H100 may have

// Runs call(context) once per thread. Throws std::runtime_error, naming the launch, the place and the thread, where
//   - the launch is larger than CUDA allows;
//   - some threads wait at a barrier, or lanes of a mask at a warp function, that the others never reach, or reach
//     elsewhere;
//   - a thread writes past the dynamic shared memory, or returns with copies still in flight;
//   - a block ends with events under way.
// Shared memory, dynamic and static, is full of 0xff bytes (NaN) when a block starts. A warp goes on until it must wait
// for others, and which warp and which lane go first alternates: what a missing barrier leaves to chance comes out in
// more than one way.
void run_kernel(dim3 grid, dim3 block, std::size_t shared_bytes, Location where, void (*call)(void*), void* context);

// __syncthreads: every thread of the block, at one place in the code.
void wait_at_barrier(Location where);

// A warp function: waits for every lane of `mask`, then the last to come runs it on the arguments of all. `arguments`
// stays valid until then; lanes outside the mask are nullptr.
using WarpFunction = void (*)(void* const (&arguments)[kLanes]);
void run_with_warp(unsigned mask, void* arguments, WarpFunction function, Location where);

// The thread waits until is_done() holds; `what` names that for the error where it never does.
void wait_until(std::function<bool()> is_done, const char* what, Location where);

// Lets `event` happen at once on half of the launches, and on the others when no thread of the block can go on without
// it: the latest or the oldest of those that are under way.
void happen_some_time(std::function<void()> event);
// The same choice for products, so that four launches see every pair of choices; and a turn for all other warps, for
// a product that is late.
bool product_happens_at_once();
void let_others_run(Location where);

// `check` runs when all threads of the block have returned.
void at_block_end(std::function<void()> check);

int lane_idx();
int warp_idx();
std::uint64_t block_number();  // of all blocks that have run
unsigned char* dynamic_shared_memory();
std::size_t dynamic_shared_size();

// Throw std::runtime_error with the launch, the second with the block and the thread as well.
[[noreturn]] void fail(const std::string& what);
[[noreturn]] void fail_in_thread(const std::string& what);
std::string text_of(const Location& where);

// Throws unless [address, address + size) is shared memory and `address` a multiple of `alignment`.
void check_shared(const void* address, std::size_t size, std::size_t alignment, Location where);

// Throws unless `address` is a multiple of 16.
void check_copied(const void* address, Location where);

// cp.async: the copy of 16 bytes, or of zeros where source is nullptr, happens at once on half of the launches, and on
// the others when the thread waits for its group.
void copy_later(void* shared, const void* source);
void close_copy_group();
void finish_copies(int groups_left_open);

}  // namespace assay::cuda::emulation
