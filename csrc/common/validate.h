// The only shape and dtype checks: at the border, before a params struct is filled. Host code only.
#pragma once

#include <initializer_list>

#include "common/tensor_view.h"

namespace assay {

constexpr std::int64_t kAnySize = -1;

inline std::string expected_shape(std::initializer_list<std::int64_t> shape) {
  std::string text = "[";
  const char* separator = "";
  for (const std::int64_t size : shape) {
    text += separator + (size == kAnySize ? std::string("*") : std::to_string(size));
    separator = ", ";
  }
  return text + "]";
}

// Dimensions, sizes (kAnySize matches all) and a contiguous last dimension.
inline void check_shape(const TensorView& view, const char* name, std::initializer_list<std::int64_t> shape) {
  bool matches = view.num_dims == static_cast<int>(shape.size());
  int dim = 0;
  for (const std::int64_t size : shape) {
    matches = matches && (size == kAnySize || view.shape[static_cast<std::size_t>(dim)] == size);
    ++dim;
  }
  ASSAY_CHECK(matches, name, " must have shape ", expected_shape(shape), ", got ", shape_string(view));
  const std::size_t last = shape.size() - 1;
  ASSAY_CHECK(view.shape[last] <= 1 || view.strides[last] == 1, name,
              " must be contiguous in its last dimension, got stride ", view.strides[last]);
}

inline void check_dtype(const TensorView& view, const char* name, std::initializer_list<DType> dtypes) {
  std::string names;
  for (const DType dtype : dtypes) {
    if (view.dtype == dtype) return;
    names += (names.empty() ? "" : " or ") + std::string(dtype_name(dtype));
  }
  ASSAY_CHECK(false, name, " must be ", names, ", got ", dtype_name(view.dtype));
}

inline void check_contiguous(const TensorView& view, const char* name) {
  std::int64_t expected = 1;
  for (int dim = view.num_dims - 1; dim >= 0; --dim) {
    const auto i = static_cast<std::size_t>(dim);
    ASSAY_CHECK(view.shape[i] <= 1 || view.strides[i] == expected, name, " must be contiguous, got stride ",
                view.strides[i], " in dimension ", dim);
    expected *= view.shape[i];
  }
}

// A vector of `size` float32, contiguous.
inline void check_vector(const TensorView& view, const char* name, DType dtype, std::int64_t size) {
  check_dtype(view, name, {dtype});
  check_shape(view, name, {size});
}

// cu_seqlens: int32, starts at 0, never falls, ends at num_tokens. Returns the longest sequence.
inline std::int64_t check_cu_seqlens(const TensorView& view, const char* name, std::int64_t num_tokens,
                                     bool allow_empty_sequences) {
  check_dtype(view, name, {DType::kInt32});
  check_shape(view, name, {kAnySize});
  ASSAY_CHECK(view.shape[0] >= 1, name, " must have num_seqs + 1 entries, got 0");
  const std::int32_t* at = view.ptr<std::int32_t>();
  ASSAY_CHECK(at[0] == 0, name, " must start at 0, got ", at[0]);
  std::int64_t longest = 0;
  for (std::int64_t i = 1; i < view.shape[0]; ++i) {
    const std::int64_t length = static_cast<std::int64_t>(at[i]) - at[i - 1];
    ASSAY_CHECK(length >= 0, name, " must not fall, got ", at[i - 1], " then ", at[i], " at index ", i);
    ASSAY_CHECK(allow_empty_sequences || length > 0, "sequence ", i - 1, " is empty: pooling needs at least one token");
    if (length > longest) longest = length;
  }
  ASSAY_CHECK(at[view.shape[0] - 1] == num_tokens, name, " must end at num_tokens = ", num_tokens, ", got ",
              at[view.shape[0] - 1]);
  return longest;
}

// Ids of a table with num_rows rows.
inline void check_ids(const TensorView& ids, const char* name, std::int64_t num_rows) {
  const std::int32_t* at = ids.ptr<std::int32_t>();
  for (std::int64_t i = 0; i < ids.shape[0]; ++i) {
    ASSAY_CHECK(at[i] >= 0 && at[i] < num_rows, name, " must be in [0, ", num_rows, "), got ", at[i], " at index ", i);
  }
}

}  // namespace assay
