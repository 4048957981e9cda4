// wgmma.m64nNk16 as plain loops: descriptors decoded bit by bit, accumulators that are NaN until they are waited for.
#pragma once

#include "cuda/emulation/block.h"
#include "cuda/emulation/half_bits.h"

namespace assay::cuda::emulation {

constexpr int kWarpgroupWarps = 4;

// One lane's part of d [64, num_cols] (+)= a [64, 16] b [16, num_cols].
struct WarpgroupProduct {
  float* d;                // [num_cols / 2]
  const std::uint32_t* a;  // [4], or nullptr: a is where descriptor_a says, K-major
  std::uint64_t descriptor_a;
  std::uint64_t descriptor_b;
  int num_cols;
  bool is_b_transposed;  // N-major
  bool accumulates;
  float (*to_float)(std::uint32_t);
};

// Errors: no fence since the start or the last wait, lanes or warps of a warpgroup with other operands, descriptors
// that the emulation or the hardware does not take, a block that ends with products nobody waited for.
// The product is computed at once on half of the launches and when it is waited for on the others.
void start_product(const WarpgroupProduct& product, Location where);
void fence_products(Location where);
void close_product_group(Location where);
void finish_products(int groups_left_open, Location where);

}  // namespace assay::cuda::emulation
