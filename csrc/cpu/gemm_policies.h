// Which micro-kernels an ISA multiplies with, and the dtype between two products. Included inside an ISA's namespace
// after the gemm_*.h with the micro-kernels; includes nothing.
#pragma once

#if defined(ASSAY_AMX)
using Float32Policy = TileFloat32;
using Bfloat16Policy = TileBfloat16;
using Int8Policy = TileInt8;
#elif defined(__AVX512BF16__)
using Float32Policy = FmaFloat32;
using Bfloat16Policy = DotBfloat16;
using Int8Policy = Int8;
#elif defined(ASSAY_FIXED_POINT)
using Float32Policy = FmaFloat32;
using Bfloat16Policy = FixedPoint;
using Int8Policy = Int8;
#else
using Float32Policy = FmaFloat32;
using Bfloat16Policy = FmaBfloat16;
using Int8Policy = Int8;
#endif

// Between two matrix products activations are kept in the dtype the next product reads anyway.
template <typename Policy>
constexpr DType kActivationDtype = DType::kFloat32;
#if defined(__AVX512BF16__)
template <>
inline constexpr DType kActivationDtype<Bfloat16Policy> = DType::kBFloat16;
template <>
inline constexpr DType kActivationDtype<Int8Policy> = DType::kBFloat16;
#endif

// An activation as it would come back from memory, for those that stay in a panel: what a product reads must not depend
// on the way there.
template <typename Policy>
Vec as_activation(Vec v) {
  return v;
}
#if defined(__AVX512BF16__)
template <>
Vec as_activation<Int8Policy>(Vec v) {
  alignas(kCacheLine) bfloat16 lanes[kVecWidth];
  vec_store_bf16(lanes, v);
  return vec_load_bf16(lanes);
}
#endif

#if defined(ASSAY_AMX)
// Whether results are rounded to 8 bits or less of significand on their way to the next product.
template <typename Policy>
constexpr bool kRoundsActivations = false;
template <>
inline constexpr bool kRoundsActivations<TileBfloat16> = true;
template <>
inline constexpr bool kRoundsActivations<TileInt8> = true;
#endif
