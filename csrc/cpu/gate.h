// A word that threads wait on, asleep if it takes long.
//
// Not std::atomic::wait, and no yielding: libstdc++'s wait yields a few times before it sleeps, and a thread that
// yields on Linux gives up the rest of its time slice in favour of whoever else wants the core, milliseconds at a time,
// although what it waits for is some microseconds away. A thread that sleeps keeps its claim and comes back as soon as
// it is woken.
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#endif

namespace assay::cpu {

class Gate {
 public:
  std::uint32_t load() const noexcept { return word_.load(std::memory_order_acquire); }

  // Between uses: nobody waits.
  void reset(std::uint32_t value) noexcept { word_.store(value, std::memory_order_relaxed); }

  // What was written before is seen by whoever sees the sum. Returns it.
  std::uint32_t add(std::uint32_t amount) noexcept {
    // Sequentially consistent, as in sleep_while: either this thread sees the sleeper or the sleeper sees the sum.
    const std::uint32_t sum = word_.fetch_add(amount, std::memory_order_seq_cst) + amount;
    if (num_sleepers_.load(std::memory_order_seq_cst) > 0) wake_all();
    return sum;
  }

  // Returns when the word is not `value` any more.
  void sleep_while(std::uint32_t value) noexcept {
    num_sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (word_.load(std::memory_order_seq_cst) == value) sleep(value);
    num_sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

 private:
#if defined(__linux__)
  // Returns at once where the word is not `value`, and may return for no reason.
  void sleep(std::uint32_t value) noexcept {
    syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word_), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
  }
  void wake_all() noexcept {
    syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word_), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }
  static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t) &&
                std::atomic<std::uint32_t>::is_always_lock_free);
#else
  void sleep(std::uint32_t value) noexcept { word_.wait(value); }
  void wake_all() noexcept { word_.notify_all(); }
#endif

  std::atomic<std::uint32_t> word_{0};
  std::atomic<int> num_sleepers_{0};
};

}  // namespace assay::cpu
