// The AMX instructions, which Bochs does not have in this build: decoded where it gives up, and carried out here, by
// the pseudocode of the Intel SDM and independently of the emulation in amx_tiles.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>

namespace assay::interpreter {

// Four-byte VEX prefix, opcode, ModRM, and for memory a base or SIB and a displacement.
struct TileInstruction {
  int opcode, prefix;  // prefix: 0 none, 1 66, 2 F3, 3 F2
  bool is_memory;
  int tile, second, third;     // ModRM.reg, ModRM.rm, VEX.vvvv
  std::uint64_t base, stride;  // the memory operand; stride in bytes
  int length;                  // bytes
};

// The instruction at `code`, or nothing if it is none of AMX's. `reg` reads a register by its number.
template <class Reg>
std::optional<TileInstruction> decode_tile_instruction(const std::uint8_t* code, const Reg& reg) {
  const bool is_vex_of_map_2 = code[0] == 0xc4 && (code[1] & 0x1f) == 2 && (code[2] & 0x84) == 0;  // W0, 128 bits
  const std::uint8_t opcode = code[3];
  if (!is_vex_of_map_2 || (opcode != 0x49 && opcode != 0x4b && opcode != 0x5c && opcode != 0x5e)) return std::nullopt;
  const int r = code[1] & 0x80 ? 0 : 8, x = code[1] & 0x40 ? 0 : 8, b = code[1] & 0x20 ? 0 : 8;  // stored inverted
  const int mod = code[4] >> 6, low = code[4] & 7;
  TileInstruction out{.opcode = opcode,
                      .prefix = code[2] & 3,
                      .is_memory = mod != 3,
                      .tile = ((code[4] >> 3) & 7) | r,
                      .second = low | b,
                      .third = (~code[2] >> 3) & 15,
                      .base = 0,
                      .stride = 0,
                      .length = 5};
  if (!out.is_memory) return out;
  if (low == 4) {
    const std::uint8_t sib = code[5];
    out.length = 6;
    if ((sib & 7) == 5 && mod == 0) return std::nullopt;  // no base: no compiler writes that here
    const int index = ((sib >> 3) & 7) | x;
    out.base = reg((sib & 7) | b);
    out.stride = index == 4 ? 0 : reg(index) << (sib >> 6);
  } else if (low == 5 && mod == 0) {
    std::int32_t displacement;  // from the end of the instruction
    memcpy(&displacement, code + 5, 4);
    out.length = 9;
    out.base = reinterpret_cast<std::uint64_t>(code) + 9 + static_cast<std::uint64_t>(std::int64_t{displacement});
    return out;
  } else {
    out.base = reg(out.second);
  }
  std::int32_t displacement = 0;
  if (mod == 1) displacement = static_cast<std::int8_t>(code[out.length]);
  if (mod == 2) memcpy(&displacement, code + out.length, 4);
  out.base += static_cast<std::uint64_t>(std::int64_t{displacement});
  out.length += mod == 1 ? 1 : mod == 2 ? 4 : 0;
  return out;
}

// TILECFG and the eight tiles. An operand the SDM calls a fault throws.
class Tiles {
 public:
  // Executed so far: dot products; loads and stores; configurations and zeros.
  std::uint64_t num_products = 0, num_moves = 0, num_others = 0;

  void execute(const TileInstruction& in) {
    ++(in.opcode == 0x4b ? num_moves : in.opcode == 0x49 ? num_others : num_products);
    if (in.opcode == 0x49) return configure_or_zero(in);
    if (!is_configured_) throw std::runtime_error("a tile instruction before LDTILECFG");
    if (in.opcode == 0x4b) return move(in);
    if (in.opcode == 0x5c && in.prefix == 2) return dot_bf16(in.tile, in.second, in.third);
    if (in.opcode == 0x5e && in.prefix == 1) return dot_unsigned_signed(in.tile, in.second, in.third);
    throw std::runtime_error("a tile instruction that the kernels are not known to use");
  }

 private:
  static constexpr int kRows = 16, kBytes = 64;
  struct Tile {
    std::uint8_t bytes[kRows][kBytes];
  };

  void configure_or_zero(const TileInstruction& in) {
    if (in.prefix == 0 && in.is_memory) return load_config(reinterpret_cast<const std::uint8_t*>(in.base));
    if (in.prefix == 0) {
      is_configured_ = false;  // TILERELEASE
      memset(tiles_, 0, sizeof tiles_);
    } else if (in.prefix == 3 && !in.is_memory) {
      if (!is_configured_) throw std::runtime_error("TILEZERO before LDTILECFG");
      memset(&tiles_[checked(in.tile)], 0, sizeof(Tile));
    } else {
      throw std::runtime_error("a tile instruction that the kernels are not known to use");
    }
  }

  // All 64 bytes count: a reserved one that is not 0 faults, and a tile that is not full size is none of ours.
  void load_config(const std::uint8_t* config) {
    if (config[0] != 1 || config[1] != 0) throw std::runtime_error("LDTILECFG: palette 1 and start row 0 wanted");
    for (int i = 2; i < 16; ++i) expect(config[i] == 0);
    for (int tile = 0; tile < 16; ++tile) {
      const int columns = config[16 + 2 * tile] | config[17 + 2 * tile] << 8;
      expect(columns == (tile < 8 ? kBytes : 0) && config[48 + tile] == (tile < 8 ? kRows : 0));
    }
    is_configured_ = true;
    memset(tiles_, 0, sizeof tiles_);
  }

  static void expect(bool holds) {
    if (!holds) throw std::runtime_error("LDTILECFG: 8 tiles of 16 rows of 64 bytes wanted, and zeros elsewhere");
  }

  static int checked(int tile) {
    if (tile > 7) throw std::runtime_error("a tile above 7");
    return tile;
  }

  void move(const TileInstruction& in) {
    Tile& tile = tiles_[checked(in.tile)];
    for (std::uint64_t row = 0; row < kRows; ++row) {
      auto* memory = reinterpret_cast<std::uint8_t*>(in.base + row * in.stride);
      if (in.prefix == 2) {
        memcpy(memory, tile.bytes[row], kBytes);  // TILESTORED
      } else if (in.prefix == 3 || in.prefix == 1) {
        memcpy(tile.bytes[row], memory, kBytes);  // TILELOADD, TILELOADDT1
      } else {
        throw std::runtime_error("a tile instruction that the kernels are not known to use");
      }
    }
  }

  template <class T>
  static T element(const Tile& tile, int row, int column) {
    T value;
    memcpy(&value, tile.bytes[row] + column * static_cast<int>(sizeof(T)), sizeof(T));
    return value;
  }

  template <class T>
  static void set_element(Tile& tile, int row, int column, T value) {
    memcpy(tile.bytes[row] + column * static_cast<int>(sizeof(T)), &value, sizeof(T));
  }

  // Denormals count as zero, going in and coming out, whatever MXCSR says.
  static float flushed(float value) {
    return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
  }

  static float bf16(const Tile& tile, int row, int column) {
    const std::uint32_t bits = std::uint32_t{element<std::uint16_t>(tile, row, column)} << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return flushed(value);
  }

  static void expect_distinct(int acc, int a, int b) {
    if (acc == a || acc == b || a == b) throw std::runtime_error("a tile product of a tile with itself");
  }

  void dot_bf16(int acc, int a, int b) {
    expect_distinct(acc, a, b);
    Tile& sum = tiles_[checked(acc)];
    const Tile &left = tiles_[checked(a)], &right = tiles_[checked(b)];
    for (int row = 0; row < kRows; ++row) {
      for (int col = 0; col < 16; ++col) {
        float parts[2] = {0, 0};
        for (int pair = 0; pair < 16; ++pair) {
          for (int i = 0; i < 2; ++i) {
            parts[i] = flushed(std::fma(bf16(left, row, 2 * pair + i), bf16(right, pair, 2 * col + i), parts[i]));
          }
        }
        const float both = flushed(parts[0] + parts[1]);
        set_element(sum, row, col, flushed(flushed(element<float>(sum, row, col)) + both));
      }
    }
  }

  void dot_unsigned_signed(int acc, int a, int b) {
    expect_distinct(acc, a, b);
    Tile& sum = tiles_[checked(acc)];
    const Tile &left = tiles_[checked(a)], &right = tiles_[checked(b)];
    for (int row = 0; row < kRows; ++row) {
      for (int col = 0; col < 16; ++col) {
        auto total = element<std::int32_t>(sum, row, col);
        for (int depth = 0; depth < 64; ++depth) {
          total +=
              element<std::uint8_t>(left, row, depth) * element<std::int8_t>(right, depth / 4, 4 * col + depth % 4);
        }
        set_element(sum, row, col, total);
      }
    }
  }

  bool is_configured_ = false;
  Tile tiles_[8]{};
};

}  // namespace assay::interpreter
