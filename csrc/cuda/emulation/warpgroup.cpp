#include "cuda/emulation/warpgroup.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/emulation/async_memory.h"

namespace assay::cuda::emulation {
namespace {

constexpr int kDepth = 16;
constexpr int kWarpRows = 16;
constexpr int kMaxCols = 256;
constexpr int kMaxWarps = 32;
constexpr float kPoison = __builtin_nanf("");

// The registers of a warp's accumulator, as the products leave them; the threads' own are NaN meanwhile.
struct Accumulator {
  float* registers[kLanes];
  std::vector<float> values;  // [kWarpRows, num_cols]
  int num_cols;
  int num_under_way;
};

struct Pending {
  WarpgroupProduct lanes[kLanes];
  int group;
  bool is_computed;
};

struct Operands {
  std::uint64_t descriptor_a, descriptor_b;
  int num_cols;
  bool operator==(const Operands&) const = default;
};

struct Warp {
  std::vector<Accumulator> accumulators;
  std::vector<Pending> pending;
  int group = 0;
  bool is_fenced = false;
  std::size_t num_products = 0;
};

struct BlockState {
  std::uint64_t block = 0;
  Warp warps[kMaxWarps];
  std::vector<Operands> history[kMaxWarps / kWarpgroupWarps];  // of each warpgroup
};

BlockState& block_state() {
  static BlockState* state = new BlockState;  // never freed, as the machine
  if (state->block == block_number()) return *state;
  *state = BlockState{};
  state->block = block_number();
  at_block_end([] {
    for (int i = 0; i < kMaxWarps; ++i) {
      const Warp& warp = state->warps[i];
      if (!warp.pending.empty()) fail("a warp returns with a wgmma that nobody waited for");
      if (warp.num_products != state->history[i / kWarpgroupWarps].size()) {
        fail("the warps of a warpgroup have started different numbers of wgmma");
      }
    }
  });
  return *state;
}

Warp& this_warp() { return block_state().warps[warp_idx()]; }

// The matrix descriptor's fields, in bytes.
struct Descriptor {
  std::uint32_t start, leading, stride;
};

Descriptor decode(std::uint64_t bits) {
  const auto field = [&](int low) { return static_cast<std::uint32_t>(bits >> low & 0x3fff) << 4; };
  constexpr std::uint64_t kUsed = 0xc00e'3fff'3fff'3fffull;
  if ((bits & ~kUsed) != 0) fail_in_thread("gives a matrix descriptor with bits that mean nothing");
  if (bits >> 62 != 1 || (bits >> 49 & 7) != 0) {
    fail_in_thread("gives a matrix descriptor that is not of the 128-byte swizzle on 1024 bytes");
  }
  return {field(0), field(16), field(32)};
}

std::uint32_t read(std::uint32_t address) {
  const std::uint32_t at = (address ^ (address >> 7 & 7) << 4) - kFirstSharedAddress;  // swizzled
  if (address < kFirstSharedAddress || at + 2 > dynamic_shared_size()) {
    fail_in_thread("gives a matrix descriptor that leads outside dynamic shared memory");
  }
  std::uint16_t bits;
  std::memcpy(&bits, async_memory() + at, sizeof(bits));
  return bits;
}

// K-major: 64 columns of a row lie in 128 bytes, 8 rows in 1024, the next 8 rows a stride further.
std::uint32_t k_major(const Descriptor& matrix, int row, int depth) {
  return matrix.start + static_cast<std::uint32_t>(row % 8 * 128 + depth * 2) +
         static_cast<std::uint32_t>(row / 8) * matrix.stride;
}

// N-major: 64 of N lie in 128 bytes, the next 64 a leading offset further; 8 of K in 1024, the next 8 a stride further.
std::uint32_t n_major(const Descriptor& matrix, int col, int depth) {
  return matrix.start + static_cast<std::uint32_t>(col % 64 * 2 + depth % 8 * 128) +
         static_cast<std::uint32_t>(col / 64) * matrix.leading + static_cast<std::uint32_t>(depth / 8) * matrix.stride;
}

// Row and column, in a warp's part of d, of register i of a lane: as those of mma.m16n8 side by side.
int row_of(int lane, int i) { return lane / 4 + i / 2 % 2 * 8; }
int col_of(int lane, int i) { return i / 4 * 8 + lane % 4 * 2 + i % 2; }

void compute(const Pending& product, int warp_in_group, std::vector<float>& values) {
  static float a[kWarpRows][kDepth], b[kDepth][kMaxCols];
  const WarpgroupProduct& first = product.lanes[0];
  const Descriptor matrix_b = decode(first.descriptor_b);
  for (int depth = 0; depth < kDepth; ++depth) {
    for (int col = 0; col < first.num_cols; ++col) {
      b[depth][col] =
          first.to_float(read(first.is_b_transposed ? n_major(matrix_b, col, depth) : k_major(matrix_b, col, depth)));
    }
  }
  if (first.a == nullptr) {
    const Descriptor matrix_a = decode(first.descriptor_a);
    for (int row = 0; row < kWarpRows; ++row) {
      for (int depth = 0; depth < kDepth; ++depth) {
        a[row][depth] = first.to_float(read(k_major(matrix_a, warp_in_group * kWarpRows + row, depth)));
      }
    }
  } else {
    // Register i of a: rows g and g + 8 at columns 2 t, then the same rows at columns 2 t + 8.
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < 8; ++i) {
        const std::uint32_t bits = product.lanes[lane].a[i / 2] >> i % 2 * 16 & 0xffff;
        a[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i / 4 * 8 + i % 2] = first.to_float(bits);
      }
    }
  }
  if (!first.accumulates) std::fill(values.begin(), values.end(), 0.0f);
  for (int row = 0; row < kWarpRows; ++row) {
    float* const sums = &values[static_cast<std::size_t>(row * first.num_cols)];
    for (int depth = 0; depth < kDepth; ++depth) {
      const float x = a[row][depth];
      for (int col = 0; col < first.num_cols; ++col) sums[col] += x * b[depth][col];
    }
  }
}

Accumulator& accumulator_of(Warp& warp, const WarpgroupProduct& product) {
  for (Accumulator& known : warp.accumulators) {
    if (known.registers[0] == product.d) return known;
  }
  fail_in_thread("has lost an accumulator");
}

void add_accumulator(Warp& warp, const Pending& product) {
  for (const Accumulator& known : warp.accumulators) {
    if (known.registers[0] == product.lanes[0].d) return;
  }
  const int num_cols = product.lanes[0].num_cols;
  Accumulator made{.registers = {}, .values = {}, .num_cols = num_cols, .num_under_way = 0};
  made.values.resize(static_cast<std::size_t>(kWarpRows * num_cols));
  for (int lane = 0; lane < kLanes; ++lane) {
    made.registers[lane] = product.lanes[lane].d;
    for (int i = 0; i < num_cols / 2; ++i) {
      made.values[static_cast<std::size_t>(row_of(lane, i) * num_cols + col_of(lane, i))] = made.registers[lane][i];
      made.registers[lane][i] = kPoison;
    }
  }
  warp.accumulators.push_back(std::move(made));
}

void start(void* const (&arguments)[kLanes]) {
  Pending product{};
  for (int lane = 0; lane < kLanes; ++lane) product.lanes[lane] = *static_cast<WarpgroupProduct*>(arguments[lane]);
  const WarpgroupProduct& first = product.lanes[0];
  for (const WarpgroupProduct& lane : product.lanes) {
    if (lane.descriptor_a != first.descriptor_a || lane.descriptor_b != first.descriptor_b) {
      fail_in_thread("gives another matrix descriptor than the rest of its warp");
    }
  }
  Warp& warp = this_warp();
  if (!warp.is_fenced) fail_in_thread("starts a wgmma without a wgmma.fence since the last wait");
  std::vector<Operands>& history = block_state().history[warp_idx() / kWarpgroupWarps];
  const Operands operands{first.descriptor_a, first.descriptor_b, first.num_cols};
  if (warp.num_products == history.size()) history.push_back(operands);
  if (history[warp.num_products++] != operands) {
    fail_in_thread("gives another matrix descriptor than another warp of its warpgroup");
  }
  add_accumulator(warp, product);
  Accumulator& accumulator = accumulator_of(warp, first);
  ++accumulator.num_under_way;
  product.group = warp.group;
  product.is_computed = product_happens_at_once();
  if (product.is_computed) compute(product, warp_idx() % kWarpgroupWarps, accumulator.values);
  warp.pending.push_back(product);
}

void finish(Warp& warp, const Pending& product) {
  Accumulator& accumulator = accumulator_of(warp, product.lanes[0]);
  if (!product.is_computed) compute(product, warp_idx() % kWarpgroupWarps, accumulator.values);
  if (--accumulator.num_under_way > 0) return;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < accumulator.num_cols / 2; ++i) {
      const int at = row_of(lane, i) * accumulator.num_cols + col_of(lane, i);
      accumulator.registers[lane][i] = accumulator.values[static_cast<std::size_t>(at)];
    }
  }
  warp.accumulators.erase(warp.accumulators.begin() + (&accumulator - warp.accumulators.data()));
}

void finish_groups(void* const (&arguments)[kLanes]) {
  Warp& warp = this_warp();
  const int last = warp.group - *static_cast<int*>(arguments[0]);
  // In order; those that are in no group yet are waited for by nobody.
  std::size_t num_done = 0;
  while (num_done < warp.pending.size() && warp.pending[num_done].group < last) finish(warp, warp.pending[num_done++]);
  warp.pending.erase(warp.pending.begin(), warp.pending.begin() + static_cast<std::ptrdiff_t>(num_done));
  warp.is_fenced = false;
}

void fence(void* const (&)[kLanes]) { this_warp().is_fenced = true; }
void close_group(void* const (&)[kLanes]) { ++this_warp().group; }

}  // namespace

void start_product(const WarpgroupProduct& product, Location where) {
  WarpgroupProduct mine = product;
  run_with_warp(0xffffffffu, &mine, &start, where);
}

void fence_products(Location where) {
  int nothing = 0;
  run_with_warp(0xffffffffu, &nothing, &fence, where);
}

void close_product_group(Location where) {
  int nothing = 0;
  run_with_warp(0xffffffffu, &nothing, &close_group, where);
}

void finish_products(int groups_left_open, Location where) {
  if (!product_happens_at_once()) let_others_run(where);
  run_with_warp(0xffffffffu, &groups_left_open, &finish_groups, where);
}

}  // namespace assay::cuda::emulation
