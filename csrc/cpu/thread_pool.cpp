#include "cpu/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "common/check.h"
#include "cpu/cpu_quota.h"
#include "cpu/gate.h"

namespace assay::cpu {
namespace {

// A worker spins this long for the next region before it sleeps: longer than the gap between two ops of one forward
// pass, far shorter than the gap between two requests.
constexpr std::chrono::microseconds kSpinBeforeSleep{60};
// After wake(): tokenising a handful of texts takes less.
constexpr std::chrono::microseconds kSpinAfterWake{2000};
// At a barrier, and at the end of a region: longer than threads with a core each wait for each other.
constexpr int kSpinsAtBarrier = 4000;
// Between two offers of a core. Where others do want it an offer costs the rest of a time slice, so they are not made
// at every small work item.
constexpr std::chrono::microseconds kGiveWayEvery{1000};
// The generation counts regions in its low half and calls of wake() in its high half. A worker is never more than one
// region behind, so the halves may wrap around.
constexpr std::uint32_t kWakeStep = std::uint32_t{1} << 16;

std::uint16_t region_of(std::uint32_t generation) { return static_cast<std::uint16_t>(generation); }
constexpr std::size_t kScratchAlignment = 64;
// How far a thread's speed moves towards what a region showed, and how far from the mean it may go.
constexpr double kSpeedStep = 0.5;
constexpr double kSlowest = 0.5;
constexpr double kFastest = 2.0;

std::atomic<bool> is_giving_way{false};

void offer_core() {
  thread_local std::chrono::steady_clock::time_point last;
  const auto now = std::chrono::steady_clock::now();
  if (now - last < kGiveWayEvery) return;
  std::this_thread::yield();
  last = std::chrono::steady_clock::now();
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Until the gate's word is not `value` any more.
void wait_while(Gate& gate, std::uint32_t value) {
  for (int spins = 0; spins < kSpinsAtBarrier; ++spins) {
    if (gate.load() != value) return;
    pause();
  }
  gate.sleep_while(value);
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::vector<ThreadContext> contexts;
  std::mutex run_mutex;    // one region at a time
  int region_threads = 1;  // threads of the region that runs
  Body body = nullptr;
  void* body_state = nullptr;
  Gate generation;  // a new region number starts a region
  std::atomic<bool> stopping{false};
  alignas(64) Gate num_running;
  alignas(64) std::atomic<int> barrier_arrived{0};
  alignas(64) Gate barrier_phase;
  struct alignas(64) Counter {
    std::atomic<std::int64_t> value{0};
  };
  Counter counters[kMaxWorkLists];
  struct alignas(64) Pace {
    std::chrono::steady_clock::time_point start;
    double rows_per_second = 0.0;  // in the last region with shares; the caller's is 0 again once learnt from
  };
  std::vector<Pace> paces;     // of each thread
  std::vector<double> speeds;  // what they showed so far, against their mean; changed between regions only

  // After a region of all threads: takes over what it showed, where each of them had a share. Most regions have none:
  // they cost one look at the caller's own pace.
  void learn_speeds() {
    if (paces[0].rows_per_second == 0.0) return;
    double sum = 0.0;
    bool all_known = true;
    for (const Pace& pace : paces) {
      all_known = all_known && pace.rows_per_second > 0.0;
      sum += pace.rows_per_second;
    }
    const double mean = sum / static_cast<double>(paces.size());
    for (std::size_t i = 0; all_known && i < paces.size(); ++i) {
      speeds[i] += kSpeedStep * (std::clamp(paces[i].rows_per_second / mean, kSlowest, kFastest) - speeds[i]);
    }
    paces[0].rows_per_second = 0.0;
  }

  void worker_loop(int thread_idx) {
    std::uint32_t seen = 0;
    while (true) {
      auto spin_until = std::chrono::steady_clock::now() + kSpinBeforeSleep;
      while (region_of(generation.load()) == region_of(seen)) {
        pause();
        const auto now = std::chrono::steady_clock::now();
        if (now <= spin_until) continue;
        const std::uint32_t current = generation.load();
        if (current == seen) {
          generation.sleep_while(seen);
        } else if (region_of(current) == region_of(seen)) {
          seen = current;
          spin_until = now + kSpinAfterWake;
        }
      }
      seen = generation.load();
      if (stopping.load(std::memory_order_acquire)) return;
      body(body_state, contexts[static_cast<std::size_t>(thread_idx)]);
      num_running.add(static_cast<std::uint32_t>(-1));
    }
  }
};

int ThreadContext::thread_idx() const noexcept { return thread_idx_; }

int ThreadContext::num_threads() const noexcept { return pool_->state_->region_threads; }

void ThreadContext::barrier() noexcept {
  ThreadPool::State& state = *pool_->state_;
  const int num_threads = state.region_threads;
  if (num_threads == 1) return;
  const std::uint32_t phase = state.barrier_phase.load();
  if (state.barrier_arrived.fetch_add(1, std::memory_order_acq_rel) == num_threads - 1) {
    state.barrier_arrived.store(0, std::memory_order_relaxed);
    state.barrier_phase.add(1);
    return;
  }
  wait_while(state.barrier_phase, phase);
}

std::int64_t ThreadContext::next(int list) noexcept {
  if (gives_way()) offer_core();
  return pool_->state_->counters[list].value.fetch_add(1, std::memory_order_relaxed);
}

Share share_of_rows(const std::vector<double>& speeds, int thread_idx, std::int64_t num_rows, std::int64_t multiple) {
  double before = 0.0, sum = 0.0;
  for (int i = 0; i < static_cast<int>(speeds.size()); ++i) {
    if (i < thread_idx) before += speeds[static_cast<std::size_t>(i)];
    sum += speeds[static_cast<std::size_t>(i)];
  }
  // Both neighbours of a cut add the same numbers in the same order.
  const auto cut = [&](double speed) {
    const double multiples = static_cast<double>(num_rows) * (speed / sum) / static_cast<double>(multiple);
    return std::min(num_rows, static_cast<std::int64_t>(std::llround(multiples)) * multiple);
  };
  const bool is_last = thread_idx + 1 == static_cast<int>(speeds.size());
  const double after = before + speeds[static_cast<std::size_t>(thread_idx)];
  return {thread_idx == 0 ? 0 : cut(before), is_last ? num_rows : cut(after)};
}

Share ThreadContext::share(std::int64_t num_rows, std::int64_t multiple) noexcept {
  ThreadPool::State& state = *pool_->state_;
  if (num_threads() == 1) return {0, num_rows};
  state.paces[static_cast<std::size_t>(thread_idx_)].start = std::chrono::steady_clock::now();
  return share_of_rows(state.speeds, thread_idx_, num_rows, multiple);
}

void ThreadContext::finished(const Share& share) noexcept {
  if (num_threads() == 1) return;
  ThreadPool::State::Pace& own = pool_->state_->paces[static_cast<std::size_t>(thread_idx_)];
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - own.start;
  own.rows_per_second = static_cast<double>(share.end - share.begin) / std::max(taken.count(), 1e-9);
}

void* ThreadContext::scratch() const noexcept { return scratch_; }

void ThreadContext::reserve(std::size_t size_bytes) {
  if (size_bytes <= scratch_bytes_) return;
  ::operator delete(scratch_, std::align_val_t{kScratchAlignment});
  scratch_ = nullptr;
  scratch_bytes_ = 0;
  scratch_ = ::operator new(size_bytes, std::align_val_t{kScratchAlignment});
  scratch_bytes_ = size_bytes;
}

ThreadPool::ThreadPool(int num_threads) : state_(new State) {
  state_->contexts.resize(static_cast<std::size_t>(num_threads));
  state_->paces.resize(static_cast<std::size_t>(num_threads));
  state_->speeds.resize(static_cast<std::size_t>(num_threads), 1.0);
  for (int i = 0; i < num_threads; ++i) {
    state_->contexts[static_cast<std::size_t>(i)].pool_ = this;
    state_->contexts[static_cast<std::size_t>(i)].thread_idx_ = i;
  }
  for (int i = 1; i < num_threads; ++i) {
    state_->workers.emplace_back([state = state_, i] { state->worker_loop(i); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true, std::memory_order_release);
  state_->generation.add(1);
  for (std::thread& worker : state_->workers) worker.join();
  for (ThreadContext& context : state_->contexts) {
    ::operator delete(context.scratch_, std::align_val_t{kScratchAlignment});
  }
  delete state_;
}

int ThreadPool::num_threads() const noexcept { return static_cast<int>(state_->contexts.size()); }

void ThreadPool::wake() noexcept {
  if (state_->workers.empty()) return;
  state_->generation.add(kWakeStep);
}

void ThreadPool::run(Body body, void* body_state, std::size_t scratch_bytes, bool inline_only) {
  const std::lock_guard<std::mutex> lock(state_->run_mutex);
  for (ThreadContext& context : state_->contexts) context.reserve(scratch_bytes);
  state_->body = body;
  state_->body_state = body_state;
  for (State::Counter& counter : state_->counters) counter.value.store(0, std::memory_order_relaxed);
  const int num_workers = inline_only ? 0 : static_cast<int>(state_->workers.size());
  state_->region_threads = num_workers + 1;
  if (num_workers > 0) {
    state_->num_running.reset(static_cast<std::uint32_t>(num_workers));
    state_->generation.add(1);
  }
  body(body_state, state_->contexts[0]);
  if (num_workers == 0) return;
  while (const std::uint32_t still_running = state_->num_running.load()) {
    wait_while(state_->num_running, still_running);
  }
  state_->learn_speeds();
}

namespace {

int threads_from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return 0;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  // OMP_NUM_THREADS may be a list, one number per nesting level: the first is ours.
  ASSAY_CHECK((*end == '\0' || *end == ',') && value >= 1 && value <= 1024, name, "='", text,
              "': want a whole number from 1 to 1024");
  return static_cast<int>(value);
}

std::mutex global_mutex;
std::shared_ptr<ThreadPool>* global_instance = nullptr;  // never freed: workers may outlive static destructors

// Worker threads do not survive fork(): the child starts over with a pool of its own. The old object is left
// alone, because joining threads that do not exist would hang.
void forget_pool_in_child() {
  global_instance = nullptr;
  new (&global_mutex) std::mutex;
}

void register_fork_handler() {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
  (void)registered;
}

}  // namespace

int default_num_threads() {
  int count = affinity_cores();
  const double quota = cgroup_cpu_quota("/");
  if (quota > 0) count = std::min(count, std::max(1, static_cast<int>(std::ceil(quota))));
  if (const int wanted = threads_from_environment("ASSAY_NUM_THREADS")) return wanted;
  if (const int wanted = threads_from_environment("OMP_NUM_THREADS")) return std::min(count, wanted);
  return count;
}

void set_gives_way(bool gives_way) noexcept { is_giving_way.store(gives_way, std::memory_order_relaxed); }

bool gives_way() noexcept { return is_giving_way.load(std::memory_order_relaxed); }

std::shared_ptr<ThreadPool> global_pool() {
  const std::lock_guard<std::mutex> lock(global_mutex);
  register_fork_handler();
  if (global_instance == nullptr) {
    global_instance = new std::shared_ptr<ThreadPool>(std::make_shared<ThreadPool>(default_num_threads()));
  }
  return *global_instance;
}

void set_global_num_threads(int num_threads) {
  ASSAY_CHECK(num_threads >= 1 && num_threads <= 1024, "num_threads must be 1 to 1024, got ", num_threads);
  const std::lock_guard<std::mutex> lock(global_mutex);
  register_fork_handler();
  if (global_instance == nullptr) global_instance = new std::shared_ptr<ThreadPool>;
  if (*global_instance != nullptr && (*global_instance)->num_threads() == num_threads) return;
  *global_instance = std::make_shared<ThreadPool>(num_threads);
}

}  // namespace assay::cpu
