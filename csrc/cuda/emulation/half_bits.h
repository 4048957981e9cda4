// 16-bit floats to float32, fast enough for the inner loop of an emulated matrix product.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <array>
#include <bit>
#include <cstdint>

namespace assay::cuda::emulation {

template <typename T>
struct HalfBits;

template <>
struct HalfBits<__nv_bfloat16> {
  static float to_float(std::uint32_t bits) { return std::bit_cast<float>(bits << 16); }
};

template <>
struct HalfBits<__half> {
  static float to_float(std::uint32_t bits) { return table()[bits]; }

 private:
  static const std::array<float, 65536>& table() {
    static const std::array<float, 65536>* values = [] {
      auto* made = new std::array<float, 65536>;  // never freed
      for (std::uint32_t bits = 0; bits < made->size(); ++bits) {
        const __half_raw raw{static_cast<unsigned short>(bits)};
        (*made)[bits] = __half2float(__half(raw));
      }
      return made;
    }();
    return *values;
  }
};

}  // namespace assay::cuda::emulation
