// A product for every head with a weight of its own: out[row, head] = x[row, head] . weight(head)^T + bias. Included
// inside an ISA's namespace after gemm.h, so it includes nothing.
#pragma once

struct HeadProducts {
  const void* x;  // [num_rows, num_heads, in_features]
  DType x_dtype;
  std::int64_t x_stride;
  void* out;  // [num_rows, num_heads, out_features]
  DType out_dtype;
  std::int64_t out_stride;
  std::int64_t num_rows;
  int num_heads;
  std::int64_t in_features;
  std::int64_t out_features;
};

// Rows that a work item multiplies by a head's weight: the weight is small, so few of them keep many threads busy.
template <typename Policy>
std::int64_t head_products_rows(std::int64_t in_features) {
  return min_of(max_block_rows<Policy>(in_features), 4 * Policy::kRows);
}

// Bytes of scratch of each thread.
template <typename Policy>
std::size_t head_products_scratch(std::int64_t in_features) {
  const std::int64_t panels = head_products_rows<Policy>(in_features) / Policy::kRows;
  return static_cast<std::size_t>(panels * input_panel_bytes<Policy>(in_features));
}

// One phase of a parallel region: threads claim the items of `list` until none is left. No barrier at the end.
template <typename Policy, typename WeightOf>
void head_products_phase(const HeadProducts& p, WeightOf weight_of, ThreadContext& context, int list, char* scratch) {
  const std::int64_t x_element = p.x_dtype == DType::kFloat32 ? 4 : 2;
  const std::int64_t out_element = p.out_dtype == DType::kFloat32 ? 4 : 2;
  const std::int64_t rows_per_block = head_products_rows<Policy>(p.in_features);
  const std::int64_t num_blocks = ceil_div(p.num_rows, rows_per_block);
  for (std::int64_t item; (item = context.next(list)) < num_blocks * p.num_heads;) {
    const std::int64_t head = item / num_blocks;
    const std::int64_t row0 = item % num_blocks * rows_per_block;
    const std::int64_t rows = min_of(rows_per_block, p.num_rows - row0);
    const char* x = static_cast<const char*>(p.x) + (row0 * p.x_stride + head * p.in_features) * x_element;
    char* out = static_cast<char*>(p.out) + (row0 * p.out_stride + head * p.out_features) * out_element;
    pack_input_panels<Policy>(x, p.x_dtype, p.x_stride, p.in_features, rows, NormView{}, nullptr, scratch);
    const Epilogue epilogue{nullptr, 0, out, p.out_dtype, p.out_stride};
    const PackedWeightView weight = weight_of(static_cast<int>(head));
    multiply_panels<Policy>(scratch, rows, weight, 0, num_weight_panels<Policy>(weight), Activation::kNone,
                            StoreTiles<Policy>{epilogue, false});
  }
}
