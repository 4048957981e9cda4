// The functions of mma.cuh as one warp's plain loops, with the fragment layouts of the PTX manual.
#pragma once

#include "cuda/emulation/block.h"
#include "cuda/emulation/half_bits.h"

namespace assay::cuda::emulation {

struct MatrixLoad {
  const void* row;
  std::uint32_t* registers;
};

// Matrix i of 8 x 8 halves: lane 8 i + r holds the address of row r. Lane l gets the two neighbours 2 (l % 4) of row
// l / 4; transposed, of column l / 4.
template <int kMatrices, bool kIsTransposed>
void load_matrices(void* const (&arguments)[kLanes]) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int matrix = 0; matrix < kMatrices; ++matrix) {
      std::uint32_t bits = 0;
      for (int i = 0; i < 2; ++i) {
        const int fast = lane % 4 * 2 + i, slow = lane / 4;
        const int row = kIsTransposed ? fast : slow, col = kIsTransposed ? slow : fast;
        const void* address = static_cast<MatrixLoad*>(arguments[matrix * 8 + row])->row;
        bits |= std::uint32_t{static_cast<const std::uint16_t*>(address)[col]} << 16 * i;
      }
      static_cast<MatrixLoad*>(arguments[lane])->registers[matrix] = bits;
    }
  }
}

template <int kMatrices, bool kIsTransposed>
void ldmatrix(std::uint32_t* registers, const void* row, Location where) {
  constexpr std::size_t kRowBytes = 16;
  // The addresses of the lanes past the last row are ignored.
  if (lane_idx() < kMatrices * 8) check_shared(row, kRowBytes, kRowBytes, where);
  MatrixLoad mine{row, registers};
  run_with_warp(0xffffffffu, &mine, &load_matrices<kMatrices, kIsTransposed>, where);
}

struct Product {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

// d [16, 8] += a [16, 16] b [16, 8]. Lane l, g = l / 4, t = l % 4, has pairs of neighbours in a row of a: rows g and
// g + 8 at columns 2 t, then the same rows at columns 2 t + 8; in a column of b: column g at rows 2 t and 2 t + 8; of
// d: rows g and g + 8 at columns 2 t.
template <typename T>
void multiply(void* const (&arguments)[kLanes]) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* fragment = static_cast<Product*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 2; ++i) {
      for (int part = 0; part < 4; ++part) {
        a[g + part % 2 * 8][2 * t + part / 2 * 8 + i] = HalfBits<T>::to_float(fragment->a[part] >> 16 * i & 0xffff);
      }
      for (int part = 0; part < 2; ++part) {
        b[2 * t + part * 8 + i][g] = HalfBits<T>::to_float(fragment->b[part] >> 16 * i & 0xffff);
      }
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    float* d = static_cast<Product*>(arguments[lane])->d;
    const int g = lane / 4, t = lane % 4;
    for (int part = 0; part < 4; ++part) {
      const int row = g + part / 2 * 8, col = 2 * t + part % 2;
      float sum = d[part];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][col];
      d[part] = sum;
    }
  }
}

}  // namespace assay::cuda::emulation
