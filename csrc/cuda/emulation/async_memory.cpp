#include "cuda/emulation/async_memory.h"

#include <cstring>
#include <string>
#include <vector>

namespace assay::cuda::emulation {
namespace {

constexpr int kRank = 3;
constexpr std::uint32_t kElementBytes = 2;
constexpr std::size_t kSwizzleRowBytes = 128;

// What encode_tensor_map leaves in the opaque bytes.
struct TensorMap {
  std::uint64_t mark;
  const unsigned char* address;
  std::uint64_t sizes[kRank];
  std::uint64_t strides[kRank];  // bytes
  std::uint32_t box[kRank];
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));
constexpr std::uint64_t kMark = 0x7465'6e73'6f72'206dull;

// In shared memory. 0xff bytes, the poison, are no valid state.
struct Barrier {
  std::uint16_t phase : 1;
  std::uint16_t is_fenced : 1;
  std::uint16_t num_arrivals : 14;
  std::uint16_t arrivals_to_come;
  std::int32_t bytes_to_come;
};
static_assert(sizeof(Barrier) == 8);

// Of the block that runs.
struct BlockState {
  std::uint64_t block = 0;
  std::vector<unsigned char> memory;  // the asynchronous view
  std::vector<Barrier*> unfenced;
  struct {
    int num_waiting = 0;
    int num_threads = 0;
    std::uint64_t num_rounds = 0;
  } named[16];
};

BlockState& block_state() {
  static BlockState* state = new BlockState;  // never freed, as the machine
  if (state->block != block_number()) {
    *state = BlockState{};
    state->block = block_number();
    state->memory.assign(dynamic_shared_size(), 0xff);
  }
  return *state;
}

Barrier& barrier_at(void* address, Location where) {
  check_shared(address, sizeof(Barrier), sizeof(Barrier), where);
  Barrier& barrier = *static_cast<Barrier*>(address);
  const bool is_valid =
      barrier.num_arrivals >= 1 && barrier.num_arrivals <= 1024 && barrier.arrivals_to_come <= barrier.num_arrivals;
  if (!is_valid) fail_in_thread("uses a barrier that was not initialised, in " + text_of(where));
  return barrier;
}

void end_phase_if_complete(Barrier& barrier) {
  if (barrier.arrivals_to_come != 0 || barrier.bytes_to_come != 0) return;
  barrier.phase ^= 1;
  barrier.arrivals_to_come = barrier.num_arrivals;
}

// 128-byte swizzle: bits 4 to 6 of an address, the 16 bytes within a row, are xored with bits 7 to 9, the row.
std::size_t swizzled(std::size_t address) { return address ^ (address >> 7 & 7) << 4; }

}  // namespace

std::uint32_t shared_address(const void* shared) {
  return kFirstSharedAddress +
         static_cast<std::uint32_t>(static_cast<const unsigned char*>(shared) - dynamic_shared_memory());
}

void init_barrier(void* barrier, int num_arrivals, Location where) {
  check_shared(barrier, sizeof(Barrier), sizeof(Barrier), where);
  const auto count = static_cast<std::uint16_t>(num_arrivals);
  auto* made = static_cast<Barrier*>(barrier);
  *made = {.phase = 0,
           .is_fenced = 0,
           .num_arrivals = static_cast<std::uint16_t>(count & 0x3fff),
           .arrivals_to_come = count,
           .bytes_to_come = 0};
  block_state().unfenced.push_back(made);
}

void fence_barrier_init() {
  for (Barrier* barrier : block_state().unfenced) barrier->is_fenced = 1;
  block_state().unfenced.clear();
}

void arrive_at_barrier(void* barrier, int bytes_to_come, Location where) {
  Barrier& at = barrier_at(barrier, where);
  if (at.arrivals_to_come == 0) fail_in_thread("is one arrival too many, in " + text_of(where));
  at.bytes_to_come += bytes_to_come;
  --at.arrivals_to_come;
  end_phase_if_complete(at);
}

void wait_for_phase(void* barrier, int parity, Location where) {
  Barrier* at = &barrier_at(barrier, where);
  wait_until([at, parity] { return at->phase != parity; }, "the barrier's phase", where);
}

void wait_for_threads(int barrier_idx, int num_threads, Location where) {
  if (barrier_idx < 1 || barrier_idx > 15 || num_threads % kLanes != 0) {
    fail_in_thread("waits at a barrier that there is not, in " + text_of(where));
  }
  auto* named = &block_state().named[barrier_idx];
  if (named->num_waiting == 0) named->num_threads = num_threads;
  if (named->num_threads != num_threads) {
    fail_in_thread("waits at a barrier for another number of threads, in " + text_of(where));
  }
  const std::uint64_t round = named->num_rounds;
  if (++named->num_waiting == num_threads) {
    named->num_waiting = 0;
    ++named->num_rounds;
  }
  wait_until([named, round] { return named->num_rounds != round; }, "the named barrier", where);
}

void copy_box(void* shared, const CUtensorMap* map, int x, int y, int z, void* barrier, Location where) {
  Barrier* at = &barrier_at(barrier, where);
  if (!at->is_fenced) fail_in_thread("copies with a barrier that no fence has shown to copies, in " + text_of(where));
  TensorMap tensor;
  std::memcpy(&tensor, map, sizeof(tensor));
  if (tensor.mark != kMark || reinterpret_cast<std::uintptr_t>(map) % 64 != 0) {
    fail_in_thread("copies by something that is no tensor map, in " + text_of(where));
  }
  const std::size_t num_rows = std::size_t{tensor.box[1]} * tensor.box[2];
  check_shared(shared, num_rows * kSwizzleRowBytes, kSwizzleRowBytes, where);
  const std::int64_t first[kRank] = {x, y, z};
  happen_some_time([=] {
    const std::size_t start = shared_address(shared) - kFirstSharedAddress;
    const auto is_inside = [&](int dim, std::int64_t at) {
      return at >= 0 && at < static_cast<std::int64_t>(tensor.sizes[dim]);
    };
    for (std::size_t row = 0; row < num_rows; ++row) {
      const std::int64_t j = first[1] + static_cast<std::int64_t>(row % tensor.box[1]);
      const std::int64_t k = first[2] + static_cast<std::int64_t>(row / tensor.box[1]);
      for (std::uint32_t col = 0; col < tensor.box[0]; ++col) {
        const std::int64_t i = first[0] + col;
        std::uint16_t bits = 0;
        if (is_inside(0, i) && is_inside(1, j) && is_inside(2, k)) {
          const std::int64_t offset = i * kElementBytes + j * static_cast<std::int64_t>(tensor.strides[1]) +
                                      k * static_cast<std::int64_t>(tensor.strides[2]);
          std::memcpy(&bits, tensor.address + offset, sizeof(bits));
        }
        const std::size_t target = swizzled(start + row * kSwizzleRowBytes + col * kElementBytes);
        std::memcpy(dynamic_shared_memory() + target, &bits, sizeof(bits));
        std::memcpy(&block_state().memory[target], &bits, sizeof(bits));
      }
    }
    at->bytes_to_come -= static_cast<std::int32_t>(num_rows * tensor.box[0] * kElementBytes);
    end_phase_if_complete(*at);
  });
}

void fence_async_memory() {
  std::vector<unsigned char>& memory = block_state().memory;
  std::memcpy(memory.data(), dynamic_shared_memory(), memory.size());
}

const unsigned char* async_memory() { return block_state().memory.data(); }

CUresult encode_tensor_map(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                           const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                           const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  const bool is_half = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  if (!is_half || rank != kRank || swizzle != CU_TENSOR_MAP_SWIZZLE_128B ||
      interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE ||
      box[0] * kElementBytes != kSwizzleRowBytes) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  TensorMap made{};
  made.mark = kMark;
  made.address = static_cast<const unsigned char*>(address);
  bool is_valid = reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
  for (int dim = 0; dim < kRank; ++dim) {
    made.sizes[dim] = sizes[dim];
    made.box[dim] = box[dim];
    made.strides[dim] = dim == 0 ? kElementBytes : strides[dim - 1];
    is_valid = is_valid && sizes[dim] >= 1 && sizes[dim] <= 1ull << 32 && box[dim] >= 1 && box[dim] <= 256;
    is_valid =
        is_valid && steps[dim] == 1 && (dim == 0 || (made.strides[dim] % 16 == 0 && strides[dim - 1] < 1ull << 40));
  }
  if (!is_valid) return CUDA_ERROR_INVALID_VALUE;
  std::memset(map, 0, sizeof(*map));
  std::memcpy(map, &made, sizeof(made));
  return CUDA_SUCCESS;
}

}  // namespace assay::cuda::emulation
