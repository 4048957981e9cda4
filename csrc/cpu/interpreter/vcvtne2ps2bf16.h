// VCVTNE2PS2BF16, which Bochs 2.8 gets wrong: both halves of its result come from the second source. By the Intel SDM
// the first source becomes the upper half.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "cpu/interpreter/bochs.h"

namespace assay::interpreter {

// To nearest even; denormals count as zero, and a NaN stays one, quietly.
inline std::uint32_t bf16_bits(std::uint32_t bits) {
  const std::uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return bits >> 16 | 0x40;
  if (magnitude < 0x00800000) return bits >> 16 & 0x8000;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Executes the instruction that ends before the program counter: EVEX.512.F2.0F38.W0 72 /r without a mask.
inline void vcvtne2ps2bf16(const Bochs& bochs) {
  constexpr unsigned kMemoryOperand = 32;
  for (int length = 6; length <= 11; ++length) {
    const auto* code = reinterpret_cast<const std::uint8_t*>(bochs.pc()) - length;
    if (code[0] != 0x62 || (code[1] & 7) != 2 || (code[2] & 0x87) != 7 || code[4] != 0x72) continue;
    if (code[3] >> 5 != 2 || (code[3] & 0x17) != 0) throw std::runtime_error("VCVTNE2PS2BF16 with a mask or narrow");
    const unsigned r = code[1] & 0x80 ? 0 : 8, x = code[1] & 0x40 ? 0 : 16, b = code[1] & 0x20 ? 0 : 8,
                   r_high = code[1] & 0x10 ? 0 : 16, v_high = code[3] & 8 ? 0 : 16;  // all stored inverted
    const bool is_memory = code[5] >> 6 != 3;
    const Zmm high = bochs.zmm((~code[2] >> 3 & 15) | v_high);
    const Zmm low = bochs.zmm(is_memory ? kMemoryOperand : (code[5] & 7u) | b | x);
    std::uint16_t halves[32];
    for (int i = 0; i < 16; ++i) {
      halves[i] = static_cast<std::uint16_t>(bf16_bits(low.lanes[i]));
      halves[16 + i] = static_cast<std::uint16_t>(bf16_bits(high.lanes[i]));
    }
    Zmm result;
    memcpy(result.lanes, halves, sizeof halves);
    bochs.set_zmm((code[5] >> 3 & 7u) | r | r_high, result);
    return;
  }
  throw std::runtime_error("VCVTNE2PS2BF16 could not be decoded");
}

}  // namespace assay::interpreter
