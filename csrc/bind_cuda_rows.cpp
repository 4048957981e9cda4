// embed, layer_norm, rms_norm and gather_rows: sizes checked, then launched.
#include "bind_cuda.h"
#include "cuda/launch_rows.h"

namespace assay::cuda {
namespace {

struct NormArguments {
  Pointer x;
  std::string x_dtype;
  Pointer delta, weight, bias, sum, normed, out;
  std::string dtype;
  Pointer num_live_rows;
};

void norm(NormKind kind, const NormArguments& a, float epsilon, std::int64_t num_rows, std::int64_t hidden_size,
          Pointer stream) {
  check_size(num_rows, "num_rows", 0, kMaxBlocks);
  check_size(hidden_size, "hidden_size", 1, kMaxNormSize);
  const DType dtype = float_type_by_name(a.dtype, "dtype"), x_dtype = float_type_by_name(a.x_dtype, "x_dtype");
  ASSAY_CHECK(x_dtype == DType::kFloat32 || x_dtype == dtype, "x_dtype must be float32 or dtype (", a.dtype, "), got ",
              a.x_dtype);
  ASSAY_CHECK(a.sum != 0 || a.normed != 0 || a.out != 0, "one of sum, normed and out must be given");
  if (num_rows == 0) return;
  launch_norm({.norm = {.kind = kind,
                        .weight = required<const float>(a.weight, "weight"),
                        .bias = device_pointer<const float>(a.bias),
                        .epsilon = epsilon},
               .x = required<const void>(a.x, "x"),
               .x_dtype = x_dtype,
               .delta = device_pointer<const void>(a.delta),
               .sum = device_pointer<float>(a.sum),
               .normed = device_pointer<float>(a.normed),
               .out = device_pointer<void>(a.out),
               .dtype = dtype,
               .num_live_rows = device_pointer<const std::int32_t>(a.num_live_rows),
               .num_rows = num_rows,
               .hidden_size = hidden_size},
              stream_of(stream));
}

void layer_norm(Pointer x, const std::string& x_dtype, Pointer delta, Pointer weight, Pointer bias, float epsilon,
                Pointer sum, Pointer normed, Pointer out, const std::string& dtype, Pointer num_live_rows,
                std::int64_t num_rows, std::int64_t hidden_size, Pointer stream) {
  norm(NormKind::kLayer, {x, x_dtype, delta, weight, bias, sum, normed, out, dtype, num_live_rows}, epsilon, num_rows,
       hidden_size, stream);
}

void rms_norm(Pointer x, const std::string& x_dtype, Pointer delta, Pointer weight, float epsilon, Pointer sum,
              Pointer normed, Pointer out, const std::string& dtype, Pointer num_live_rows, std::int64_t num_rows,
              std::int64_t hidden_size, Pointer stream) {
  norm(NormKind::kRms, {x, x_dtype, delta, weight, 0, sum, normed, out, dtype, num_live_rows}, epsilon, num_rows,
       hidden_size, stream);
}

void embed(Pointer input_ids, Pointer position_ids, Pointer token_type_ids, Pointer word_embeddings,
           Pointer position_embeddings, Pointer token_type_embeddings, Pointer task_type_embeddings,
           Pointer norm_weight, Pointer norm_bias, float epsilon, Pointer hidden_states, Pointer out,
           const std::string& dtype, Pointer num_live_rows, std::int64_t num_tokens, std::int64_t hidden_size,
           Pointer stream) {
  check_size(num_tokens, "num_tokens", 0, kMaxBlocks);
  check_size(hidden_size, "hidden_size", 1, kMaxNormSize);
  const DType type = float_type_by_name(dtype, "dtype");
  if (num_tokens == 0) return;
  if (position_embeddings != 0) required<const void>(position_ids, "position_ids");
  launch_embed({.input_ids = required<const std::int32_t>(input_ids, "input_ids"),
                .position_ids = device_pointer<const std::int32_t>(position_ids),
                .token_type_ids = device_pointer<const std::int32_t>(token_type_ids),
                .word_embeddings = required<const void>(word_embeddings, "word_embeddings"),
                .position_embeddings = device_pointer<const void>(position_embeddings),
                .token_type_embeddings = device_pointer<const void>(token_type_embeddings),
                .task_type_embeddings = device_pointer<const void>(task_type_embeddings),
                .norm = {.kind = NormKind::kLayer,
                         .weight = device_pointer<const float>(norm_weight),
                         .bias = device_pointer<const float>(norm_bias),
                         .epsilon = epsilon},
                .hidden_states = required<float>(hidden_states, "hidden_states"),
                .out = device_pointer<void>(out),
                .dtype = type,
                .num_live_rows = device_pointer<const std::int32_t>(num_live_rows),
                .num_tokens = num_tokens,
                .hidden_size = hidden_size},
               stream_of(stream));
}

void gather_rows(Pointer x, std::int64_t x_stride_bytes, Pointer rows, Pointer out, std::int64_t num_rows,
                 std::int64_t row_bytes, Pointer stream) {
  check_size(num_rows, "num_rows", 0, kMaxBlocks);
  check_size(row_bytes, "row_bytes", 2, INT64_MAX);
  check_size(x_stride_bytes, "x_stride_bytes", row_bytes, INT64_MAX);
  ASSAY_CHECK(row_bytes % 2 == 0 && x_stride_bytes % 2 == 0, "row_bytes and x_stride_bytes must be even, got ",
              row_bytes, " and ", x_stride_bytes);
  if (num_rows == 0) return;
  launch_gather_rows({.x = required<const void>(x, "x"),
                      .x_stride_bytes = x_stride_bytes,
                      .rows = required<const std::int32_t>(rows, "rows"),
                      .out = required<void>(out, "out"),
                      .num_rows = num_rows,
                      .row_bytes = row_bytes},
                     stream_of(stream));
}

}  // namespace

void bind_rows(py::module_& m) {
  m.def("layer_norm", &layer_norm, py::kw_only(), py::arg("x"), py::arg("x_dtype"), py::arg("delta"), py::arg("weight"),
        py::arg("bias"), py::arg("epsilon"), py::arg("sum"), py::arg("normed"), py::arg("out"), py::arg("dtype"),
        py::arg("num_live_rows"), py::arg("num_rows"), py::arg("hidden_size"), py::arg("stream"));
  m.def("rms_norm", &rms_norm, py::kw_only(), py::arg("x"), py::arg("x_dtype"), py::arg("delta"), py::arg("weight"),
        py::arg("epsilon"), py::arg("sum"), py::arg("normed"), py::arg("out"), py::arg("dtype"),
        py::arg("num_live_rows"), py::arg("num_rows"), py::arg("hidden_size"), py::arg("stream"));
  m.def("embed", &embed, py::kw_only(), py::arg("input_ids"), py::arg("position_ids"), py::arg("token_type_ids"),
        py::arg("word_embeddings"), py::arg("position_embeddings"), py::arg("token_type_embeddings"),
        py::arg("task_type_embeddings"), py::arg("norm_weight"), py::arg("norm_bias"), py::arg("epsilon"),
        py::arg("hidden_states"), py::arg("out"), py::arg("dtype"), py::arg("num_live_rows"), py::arg("num_tokens"),
        py::arg("hidden_size"), py::arg("stream"));
  m.def("gather_rows", &gather_rows, py::kw_only(), py::arg("x"), py::arg("x_stride_bytes"), py::arg("rows"),
        py::arg("out"), py::arg("num_rows"), py::arg("row_bytes"), py::arg("stream"));
}

}  // namespace assay::cuda
