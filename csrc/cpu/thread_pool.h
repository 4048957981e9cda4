// The one thread pool. A parallel region is a plain function called once per thread; threads share work by
// taking the next index from a counter and meet at barriers. Nothing here is inline: kernel files compiled for
// different instruction sets call these functions, they never instantiate them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace assay::cpu {

class ThreadPool;

// A thread's part [begin, end) of a phase's rows.
struct Share {
  std::int64_t begin;
  std::int64_t end;
};

// The part of the thread at place thread_idx when num_rows are shared out in proportion to the threads' speeds, cut at
// multiples of `multiple` rows. The parts of all threads are every row once, in order.
Share share_of_rows(const std::vector<double>& speeds, int thread_idx, std::int64_t num_rows, std::int64_t multiple);

// What a thread of a region sees. Valid only inside the region.
class ThreadContext {
 public:
  int thread_idx() const noexcept;
  int num_threads() const noexcept;
  // Waits for every thread of the region.
  void barrier() noexcept;
  // The next unclaimed index of work list `list` (0..kMaxWorkLists-1), counting from 0. Lists start at 0 in
  // every region and each is used for one phase only. Offers the core to others where gives_way().
  std::int64_t next(int list) noexcept;
  // For a phase in which every thread takes one part: this thread's of num_rows, in whole multiples of `multiple` rows.
  // Threads that got through their rows faster in the regions before get more of them; cores are not alike fast while
  // others use the same ones. Call finished() at the part's end. At most one such phase in a region.
  Share share(std::int64_t num_rows, std::int64_t multiple) noexcept;
  void finished(const Share& share) noexcept;
  // This thread's scratch, 64-byte aligned: the scratch_bytes that the region was started with. Contents are stale.
  void* scratch() const noexcept;

 private:
  friend class ThreadPool;
  void reserve(std::size_t size_bytes);

  ThreadPool* pool_ = nullptr;
  int thread_idx_ = 0;
  void* scratch_ = nullptr;
  std::size_t scratch_bytes_ = 0;
};

constexpr int kMaxWorkLists = 9;

class ThreadPool {
 public:
  using Body = void (*)(void* state, ThreadContext& context);

  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const noexcept;
  // Runs body once per thread (the caller is thread 0), each with scratch_bytes of scratch, and returns when all are
  // done. Calls from several threads queue up. Bodies must not throw (a thread that left early would leave the others
  // at a barrier): what may fail, the scratch, is allocated here first and throws std::bad_alloc.
  // With inline_only the caller is the region's only thread: for work too small to wake the others.
  void run(Body body, void* state, std::size_t scratch_bytes = 0, bool inline_only = false);

  // Says that a region is about to be run: sleeping threads wake and wait for it on their feet for a short while.
  // Waking takes a good part of a short forward pass, so whoever has something to do first calls this before it.
  void wake() noexcept;

 private:
  friend class ThreadContext;
  struct State;
  State* state_;
};

// Whether threads of regions offer their core, now and then between two work items, to whatever waits for one. Off at
// first; of the whole process. Being nice is not enough: a kernel may let a thread that computes run on to its next
// tick, some milliseconds, before one that has just woken, even a less nice one.
void set_gives_way(bool gives_way) noexcept;
bool gives_way() noexcept;

// Threads this process may use: min of affinity, cgroup v1/v2 quota (rounded up), and of OMP_NUM_THREADS or
// ASSAY_NUM_THREADS (which wins) where set. Throws std::invalid_argument on an unreadable value.
int default_num_threads();

// The pool used by the Python bindings; made on first use. Hold the pointer while a region runs: a resize swaps the
// global pool, and the old one ends with its last holder.
std::shared_ptr<ThreadPool> global_pool();
// Replaces the global pool. Throws std::invalid_argument unless 1 <= num_threads <= 1024.
void set_global_num_threads(int num_threads);

}  // namespace assay::cpu
