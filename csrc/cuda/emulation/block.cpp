#include "cuda/emulation/block.h"

#include <link.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/emulation/fiber.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace assay::cuda::emulation {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr std::size_t kCanaryBytes = 1024;
constexpr int kPoison = 0xff;

enum class State { kReady, kAtBarrier, kInWarp, kWaiting, kReturned };

struct Copy {
  void* shared;
  const void* source;  // nullptr: zeros
  int group;
};

struct Thread {
  Context context{};
  State state = State::kReady;
  uint3 idx{};
  Location where;  // where it waits
  // In a warp function: which, for whom, on what.
  unsigned mask = 0;
  void* arguments = nullptr;
  WarpFunction function = nullptr;
  // Waiting: for what.
  std::function<bool()> is_done;
  const char* awaited = nullptr;
  std::vector<Copy> copies;
  int group = 0;  // copies being gathered belong to it
};

struct Memory {
  unsigned char* begin = nullptr;
  std::size_t size = 0;
};

// One launch at a time.
struct Machine {
  std::mutex mutex;
  unsigned num_launches = 0;
  bool copies_at_once = false;
  std::uint64_t num_blocks = 0;
  std::uint64_t num_turns = 0;                // that all warps have had
  unsigned num_yielding = 0;                  // threads that go on in the next turn
  std::vector<std::function<void()>> events;  // under way
  std::vector<std::function<void()>> end_checks;
  unsigned char* first_stack_end = nullptr;
  std::vector<Thread> threads;
  unsigned num_threads = 0;
  unsigned num_returned = 0;
  unsigned num_at_barrier = 0;
  const Thread* first_at_barrier = nullptr;
  unsigned lanes_in_warp[kMaxThreads / kLanes] = {};  // per warp, those in a warp function
  Thread* current = nullptr;
  Context scheduler{};
  std::exception_ptr failure;
  void (*call)(void*) = nullptr;
  void* call_context = nullptr;
  Location launch;
  std::unique_ptr<unsigned char[]> shared_storage;
  Memory dynamic_shared;
  Memory static_shared;
};

Machine& machine() {
  static Machine* instance = new Machine;  // never freed: a kernel may run while the process ends
  return *instance;
}

std::string idx_text(const uint3& idx) {
  return "(" + std::to_string(idx.x) + ", " + std::to_string(idx.y) + ", " + std::to_string(idx.z) + ")";
}

bool is_same_place(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

// Every __shared__ variable is thread_local (see language.h) and this library has no other thread_local ones, so the
// calling thread's block of them is the static shared memory of all kernels together.
thread_local volatile unsigned char static_shared_anchor;

int find_static_shared(dl_phdr_info* object, std::size_t, void* result) {
  const auto here = reinterpret_cast<std::uintptr_t>(&find_static_shared);
  bool is_ours = false;
  std::size_t tls_size = 0;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr) & segment = object->dlpi_phdr[i];
    const std::uintptr_t begin = object->dlpi_addr + segment.p_vaddr;
    if (segment.p_type == PT_LOAD) is_ours = is_ours || (here >= begin && here - begin < segment.p_memsz);
    if (segment.p_type == PT_TLS) tls_size = segment.p_memsz;
  }
  if (!is_ours) return 0;
  *static_cast<Memory*>(result) = {static_cast<unsigned char*>(object->dlpi_tls_data), tls_size};
  return 1;
}

bool contains(const Memory& memory, const void* address, std::size_t size) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.begin);
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  return at >= begin && at + size <= begin + memory.size;
}

void perform(const Copy& copy) {
  constexpr std::size_t kBytes = 16;
  if (copy.source == nullptr) {
    std::memset(copy.shared, 0, kBytes);
  } else {
    std::memcpy(copy.shared, copy.source, kBytes);
  }
}

void wait_for_turn() {
  Machine& m = machine();
  switch_context(m.current->context, m.scheduler);
}

void enter_thread() {
  Machine& m = machine();
  try {
    m.call(m.call_context);
    for (const Copy& copy : m.current->copies) {
      if (copy.source != nullptr) fail_in_thread("returns with a cp.async that nobody waited for");
    }
  } catch (...) {
    m.failure = std::current_exception();
  }
  m.current->state = State::kReturned;
  ++m.num_returned;
  wait_for_turn();  // for ever
}

std::string stuck_threads(const Machine& m) {
  std::string text = "block " + idx_text(blockIdx) + " is stuck";
  int num_listed = 0;
  for (unsigned i = 0; i < m.num_threads && num_listed < 4; ++i) {
    const Thread& thread = m.threads[i];
    if (thread.state == State::kReturned) continue;
    const char* place = thread.state == State::kAtBarrier ? "the barrier"
                        : thread.state == State::kWaiting ? thread.awaited
                                                          : "the warp function";
    text += "; thread " + idx_text(thread.idx) + " waits at " + place + " in " + text_of(thread.where);
    ++num_listed;
  }
  return text + "; " + std::to_string(m.num_returned) + " of " + std::to_string(m.num_threads) +
         " threads have returned, " + std::to_string(m.num_at_barrier) + " wait at a barrier";
}

void start_threads(Machine& m) {
  for (unsigned i = 0; i < m.num_threads; ++i) {
    Thread& thread = m.threads[i];
    thread.state = State::kReady;
    thread.idx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    thread.copies.clear();
    thread.group = 0;
    prepare_context(thread.context, m.first_stack_end + i * kStackBytes, &enter_thread);
  }
  m.num_returned = m.num_at_barrier = 0;
  std::fill(std::begin(m.lanes_in_warp), std::end(m.lanes_in_warp), 0u);
}

// Runs a warp until all of its lanes wait for other warps: the farther one is ahead of the rest, the more it can meet
// of what they have not read or written yet. Returns whether any lane has moved.
bool run_warp(Machine& m, unsigned first, bool is_reversed) {
  const unsigned num_lanes = std::min(m.num_threads - first, unsigned{kLanes});
  for (bool has_moved = false;;) {
    bool moves = false;
    for (unsigned i = 0; i < num_lanes; ++i) {
      Thread& thread = m.threads[first + (is_reversed ? num_lanes - 1 - i : i)];
      if (thread.state == State::kWaiting && thread.is_done()) thread.state = State::kReady;
      if (thread.state != State::kReady) continue;
      moves = true;
      m.current = &thread;
      threadIdx = thread.idx;
      switch_context(m.scheduler, thread.context);
      if (m.failure != nullptr) std::rethrow_exception(std::exchange(m.failure, nullptr));
    }
    if (!moves) return has_moved;
    has_moved = true;
    is_reversed = !is_reversed;
  }
}

// Whether there was one.
bool let_one_happen(Machine& m, bool latest) {
  if (m.events.empty()) return false;
  const auto which = latest ? m.events.end() - 1 : m.events.begin();
  const auto event = std::move(*which);
  m.events.erase(which);
  event();
  return true;
}

void run_block(Machine& m, bool is_reversed) {
  ++m.num_blocks;
  m.events.clear();
  m.num_yielding = 0;
  m.end_checks.clear();
  std::memset(m.dynamic_shared.begin, kPoison, m.dynamic_shared.size + kCanaryBytes);
  std::memset(m.static_shared.begin, kPoison, m.static_shared.size);
  start_threads(m);
  const unsigned num_warps = (m.num_threads + kLanes - 1) / kLanes;
  while (m.num_returned < m.num_threads) {
    bool has_moved = false;
    for (unsigned i = 0; i < num_warps; ++i) {
      has_moved |= run_warp(m, (is_reversed ? num_warps - 1 - i : i) * kLanes, is_reversed);
    }
    ++m.num_turns;
    if (!has_moved && m.num_yielding == 0 && !let_one_happen(m, is_reversed)) fail(stuck_threads(m));
    is_reversed = !is_reversed;
  }
  if (!m.events.empty()) fail("block " + idx_text(blockIdx) + " ends with a copy under way");
  for (const auto& check : m.end_checks) check();
  for (std::size_t i = 0; i < kCanaryBytes; ++i) {
    if (m.dynamic_shared.begin[m.dynamic_shared.size + i] != kPoison) {
      fail("block " + idx_text(blockIdx) + " wrote past its " + std::to_string(m.dynamic_shared.size) +
           " bytes of dynamic shared memory");
    }
  }
}

void check_launch(const dim3& grid, const dim3& block, std::size_t shared_bytes) {
  const std::uint64_t num_threads = std::uint64_t{block.x} * block.y * block.z;
  if (num_threads == 0 || num_threads > kMaxThreads || block.z > 64) {
    fail("a block of " + idx_text({block.x, block.y, block.z}) + " threads is not 1 to 1024");
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    fail("a grid of " + idx_text({grid.x, grid.y, grid.z}) + " blocks is outside CUDA's limits");
  }
  if (shared_bytes > kMaxSharedBytes) {
    fail(std::to_string(shared_bytes) + " bytes of shared memory are more than " + std::to_string(kMaxSharedBytes));
  }
}

}  // namespace

std::string text_of(const Location& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line()) + " (" + where.function_name() + ")";
}

void fail(const std::string& what) {
  throw std::runtime_error("kernel launched at " + text_of(machine().launch) + ": " + what);
}

void fail_in_thread(const std::string& what) {
  fail("block " + idx_text(blockIdx) + " thread " + idx_text(machine().current->idx) + " " + what);
}

void run_kernel(dim3 grid, dim3 block, std::size_t shared_bytes, Location where, void (*call)(void*), void* context) {
  Machine& m = machine();
  const std::lock_guard lock(m.mutex);
  m.launch = where;
  check_launch(grid, block, shared_bytes);
  if (m.first_stack_end == nullptr) {
    constexpr std::size_t kSharedAlignment = 1024;
    m.first_stack_end = map_stacks(kMaxThreads);
    m.threads.resize(kMaxThreads);
    m.shared_storage = std::make_unique<unsigned char[]>(kMaxSharedBytes + kCanaryBytes + kSharedAlignment);
    const auto address = reinterpret_cast<std::uintptr_t>(m.shared_storage.get());
    m.dynamic_shared.begin = m.shared_storage.get() + (kSharedAlignment - address % kSharedAlignment);
  }
  m.dynamic_shared.size = shared_bytes;
  static_shared_anchor = 0;  // has this thread's block allocated
  dl_iterate_phdr(&find_static_shared, &m.static_shared);
  m.num_threads = block.x * block.y * block.z;
  m.call = call;
  m.call_context = context;
  gridDim = grid;
  blockDim = block;
  ++m.num_launches;
  m.copies_at_once = m.num_launches % 4 >= 2;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(m, (m.num_launches + x) % 2 != 0);
      }
    }
  }
}

void wait_at_barrier(Location where) {
  Machine& m = machine();
  Thread& self = *m.current;
  self.where = where;
  if (m.num_at_barrier == 0) {
    m.first_at_barrier = &self;
  } else if (!is_same_place(m.first_at_barrier->where, where)) {
    fail_in_thread("is at the barrier in " + text_of(where) + " while thread " + idx_text(m.first_at_barrier->idx) +
                   " waits at the one in " + text_of(m.first_at_barrier->where));
  }
  if (m.num_at_barrier + 1 < m.num_threads) {
    self.state = State::kAtBarrier;
    ++m.num_at_barrier;
    return wait_for_turn();
  }
  for (unsigned i = 0; i < m.num_threads; ++i) m.threads[i].state = State::kReady;
  m.num_at_barrier = 0;
}

void wait_until(std::function<bool()> is_done, const char* what, Location where) {
  if (is_done()) return;
  Thread& self = *machine().current;
  self.is_done = std::move(is_done);
  self.awaited = what;
  self.where = where;
  self.state = State::kWaiting;
  wait_for_turn();
}

void happen_some_time(std::function<void()> event) {
  if (machine().copies_at_once) return event();
  machine().events.push_back(std::move(event));
}

bool product_happens_at_once() { return (machine().num_launches + 1) % 4 >= 2; }

void let_others_run(Location where) {
  Machine& m = machine();
  ++m.num_yielding;
  wait_until([&m, turn = m.num_turns] { return m.num_turns != turn; }, "its next turn", where);
  --m.num_yielding;
}

void at_block_end(std::function<void()> check) { machine().end_checks.push_back(std::move(check)); }

int warp_idx() { return static_cast<int>(machine().current - machine().threads.data()) / kLanes; }

std::uint64_t block_number() { return machine().num_blocks; }

std::size_t dynamic_shared_size() { return machine().dynamic_shared.size; }

int lane_idx() { return static_cast<int>((machine().current - machine().threads.data()) % kLanes); }

void run_with_warp(unsigned mask, void* arguments, WarpFunction function, Location where) {
  Machine& m = machine();
  Thread& self = *m.current;
  const unsigned warp = static_cast<unsigned>(m.current - m.threads.data()) / kLanes;
  Thread* const lanes = &m.threads[warp * kLanes];
  const unsigned my_bit = 1u << (&self - lanes);
  if ((mask & my_bit) == 0) fail_in_thread("is not in the mask of its warp function in " + text_of(where));
  self.mask = mask;
  self.arguments = arguments;
  self.function = function;
  self.where = where;
  const auto check_partner = [&](const Thread& other) {
    if (other.mask == mask && other.function == function && is_same_place(other.where, where)) return;
    fail_in_thread("is in a warp function in " + text_of(where) + " while thread " + idx_text(other.idx) +
                   " of its mask is in another one in " + text_of(other.where));
  };
  unsigned& waiting = m.lanes_in_warp[warp];
  const unsigned partners = waiting & mask;
  if (partners != 0) check_partner(lanes[std::countr_zero(partners)]);
  if ((partners | my_bit) != mask) {
    self.state = State::kInWarp;
    waiting |= my_bit;
    return wait_for_turn();
  }
  void* all[kLanes] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    check_partner(lanes[lane]);
    all[lane] = lanes[lane].arguments;
  }
  function(all);
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) != 0) lanes[lane].state = State::kReady;
  }
  waiting &= ~mask;
}

unsigned char* dynamic_shared_memory() { return machine().dynamic_shared.begin; }

void check_shared(const void* address, std::size_t size, std::size_t alignment, Location where) {
  const Machine& m = machine();
  if (!contains(m.dynamic_shared, address, size) && !contains(m.static_shared, address, size)) {
    fail_in_thread("gives an address that is not in its shared memory, in " + text_of(where));
  }
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) {
    fail_in_thread("gives an address that is not a multiple of " + std::to_string(alignment) + ", in " +
                   text_of(where));
  }
}

void check_copied(const void* address, Location where) {
  if (reinterpret_cast<std::uintptr_t>(address) % 16 == 0) return;
  fail_in_thread("copies from an address that is not a multiple of 16, in " + text_of(where));
}

void copy_later(void* shared, const void* source) {
  Thread& self = *machine().current;
  const Copy copy{shared, source, self.group};
  // As early as it may happen on some launches, as late as it may on the others: either can be what a kernel overlooks.
  if (machine().copies_at_once) perform(copy);
  self.copies.push_back(copy);
}

void close_copy_group() { ++machine().current->group; }

void finish_copies(int groups_left_open) {
  Thread& self = *machine().current;
  std::size_t num_kept = 0;
  for (const Copy& copy : self.copies) {
    // Copies that are in no group yet are waited for by nobody.
    if (copy.group >= self.group - groups_left_open) {
      self.copies[num_kept++] = copy;
    } else if (!machine().copies_at_once) {
      perform(copy);
    }
  }
  self.copies.resize(num_kept);
}

}  // namespace assay::cuda::emulation
