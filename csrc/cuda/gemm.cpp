#include "cuda/gemm.h"

#include "common/check.h"

namespace assay::cuda {
namespace {

// Blocks that keep most of a large card busy (an A100 has 108 multiprocessors, an H100 132).
constexpr std::int64_t kEnoughBlocks = 96;
constexpr std::int64_t kLargeTile = 128;

std::int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

}  // namespace

WeightView WeightView::slice(std::int64_t first, std::int64_t count) const {
  ASSAY_CHECK(!is_gated, "a gated weight has no slices");
  ASSAY_CHECK(first % kSizeUnit == 0 && count % kSizeUnit == 0 && first >= 0 && first + count <= out_features,
              "a slice of a weight must be whole units of ", kSizeUnit, " features inside ", out_features, ", got ",
              count, " from ", first);
  WeightView part = *this;
  part.data = static_cast<const char*>(data) + first * in_features * element_size(dtype);
  part.bias = bias == nullptr ? nullptr : bias + first;
  part.out_features = count;
  return part;
}

GemmTile choose_tile(std::int64_t max_rows, std::int64_t out_columns) {
  const auto tiles = [](std::int64_t size) { return (size + kLargeTile - 1) / kLargeTile; };
  return tiles(max_rows) * tiles(out_columns) >= kEnoughBlocks ? GemmTile::kLarge : GemmTile::kSmall;
}

}  // namespace assay::cuda
