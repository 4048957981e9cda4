// The fused transformer layer as Python sees it: its weights, its workspace, its call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind_cpu.h"
#include "cpu/layer_weights.h"

namespace assay::cpu {
namespace {

std::vector<float> copy_floats(py::handle tensor, const std::string& argument) {
  if (tensor.is_none()) return {};
  const TensorView view = required_view(tensor, argument.c_str());
  check_dtype(view, argument.c_str(), {DType::kFloat32});
  check_shape(view, argument.c_str(), {kAnySize});
  ASSAY_CHECK(view.shape[0] >= 1, argument, " must not be empty");
  return {view.ptr<float>(), view.ptr<float>() + view.shape[0]};
}

// From None or an object with .weight and .bias.
NormWeights copy_norm(py::handle norm, const std::string& argument) {
  if (norm.is_none()) return {};
  const py::object weight = norm.attr("weight");
  ASSAY_CHECK(!weight.is_none(), argument, ".weight must be a torch.Tensor, got None");
  return {copy_floats(weight, argument + ".weight"), copy_floats(norm.attr("bias"), argument + ".bias")};
}

std::shared_ptr<TransformerLayerWeights> make_layer(
    PackedWeightPtr qkv, PackedWeightPtr attn_out, PackedWeightPtr mlp_up, PackedWeightPtr mlp_down,
    PackedWeightPtr row_keys, const std::string& norm, float epsilon, py::handle attn_in_norm, py::handle attn_out_norm,
    py::handle attn_residual_norm, py::handle mlp_in_norm, py::handle mlp_out_norm, py::handle mlp_residual_norm,
    py::handle q_norm, py::handle k_norm, const std::string& activation, bool is_gated, int num_heads, int num_kv_heads,
    int head_dim, float softmax_scale, bool is_causal, std::pair<std::int64_t, std::int64_t> window_size,
    float soft_cap, int rotary_dim, bool is_rotary_interleaved) {
  auto layer = std::make_shared<TransformerLayerWeights>(
      TransformerLayerWeights{.qkv = std::move(qkv),
                              .attn_out = std::move(attn_out),
                              .mlp_up = std::move(mlp_up),
                              .mlp_down = std::move(mlp_down),
                              .row_keys = std::move(row_keys),
                              .attn_in_norm = copy_norm(attn_in_norm, "attn_in_norm"),
                              .attn_out_norm = copy_norm(attn_out_norm, "attn_out_norm"),
                              .attn_residual_norm = copy_norm(attn_residual_norm, "attn_residual_norm"),
                              .mlp_in_norm = copy_norm(mlp_in_norm, "mlp_in_norm"),
                              .mlp_out_norm = copy_norm(mlp_out_norm, "mlp_out_norm"),
                              .mlp_residual_norm = copy_norm(mlp_residual_norm, "mlp_residual_norm"),
                              .q_norm = copy_floats(q_norm, "q_norm"),
                              .k_norm = copy_floats(k_norm, "k_norm"),
                              .norm_kind = by_name(kNormKinds, norm, "norm"),
                              .epsilon = epsilon,
                              .activation = by_name(kActivations, activation, "activation"),
                              .is_gated = is_gated,
                              .num_heads = num_heads,
                              .num_kv_heads = num_kv_heads,
                              .head_dim = head_dim,
                              .softmax_scale = softmax_scale,
                              .is_causal = is_causal,
                              .window_left = window_size.first,
                              .window_right = window_size.second,
                              .soft_cap = soft_cap,
                              .rotary_dim = rotary_dim,
                              .is_rotary_interleaved = is_rotary_interleaved});
  layer->check();
  check_scores(softmax_scale, window_size.first, window_size.second, soft_cap);
  return layer;
}

// What a call needs, with rows or without: size_of(params) bytes of either.
template <typename SizeOf>
std::size_t larger_of_both_calls(TransformerLayerParams params, SizeOf size_of) {
  static constexpr std::int32_t kAnyRow = 0;
  const std::size_t all = size_of(params);
  params.rows = &kAnyRow;
  const std::size_t rows = size_of(params);
  return all > rows ? all : rows;
}

// With rows the space for their queries comes on top; without, the rows are all tokens.
std::size_t layer_workspace_size(const TransformerLayerWeights& layer, std::int64_t num_tokens, std::int64_t num_seqs) {
  TransformerLayerParams params = layer.params();
  params.num_tokens = num_tokens;
  params.num_seqs = num_seqs;
  return larger_of_both_calls(params, layer.qkv->table().transformer_layer_workspace_size);
}

std::size_t layer_scratch_size(const TransformerLayerWeights& layer, std::int64_t max_seqlen) {
  TransformerLayerParams params = layer.params();
  params.max_seqlen = max_seqlen;
  return larger_of_both_calls(params, layer.qkv->table().transformer_layer_scratch_size);
}

// The wanted rows, one of each sequence, and where they go.
void set_rows(TransformerLayerParams& params, const TensorView& rows, const TensorView& rows_out,
              std::int64_t hidden_size) {
  check_vector(rows, "rows", DType::kInt32, params.num_seqs);
  for (std::int64_t i = 0; i < params.num_seqs; ++i) {
    const std::int32_t row = rows.ptr<std::int32_t>()[i];
    ASSAY_CHECK(row >= params.cu_seqlens[i] && row < params.cu_seqlens[i + 1], "rows[", i,
                "] must be a token of sequence ", i, ", got ", row);
  }
  ASSAY_CHECK(rows_out.is_present(), "rows_out must be given with rows");
  check_dtype(rows_out, "rows_out", {DType::kFloat32});
  check_shape(rows_out, "rows_out", {params.num_seqs, hidden_size});
  check_contiguous(rows_out, "rows_out");
  params.rows = rows.ptr<std::int32_t>();
  params.rows_out = rows_out.ptr<float>();
}

void bind_transformer_layer(py::handle hidden_states, py::handle cu_seqlens, std::int64_t max_seqlen,
                            const TransformerLayerWeights& layer, py::handle workspace, py::handle position_ids,
                            py::handle cos, py::handle sin, py::handle rows, py::handle rows_out) {
  const TensorView x = required_view(hidden_states, "hidden_states");
  const TensorView lengths = required_view(cu_seqlens, "cu_seqlens");
  const TensorView space = required_view(workspace, "workspace");
  const TensorView wanted = view_of(rows, "rows");
  ASSAY_CHECK(layer.has_numbers(), "layer must have packed weights with numbers, got some of shape only");
  check_dtype(x, "hidden_states", {DType::kFloat32});
  check_shape(x, "hidden_states", {kAnySize, layer.hidden_size()});
  check_contiguous(x, "hidden_states");
  const std::int64_t longest = check_cu_seqlens(lengths, "cu_seqlens", x.shape[0], !wanted.is_present());
  ASSAY_CHECK(max_seqlen >= longest, "max_seqlen must be >= ", longest, ", got ", max_seqlen);
  TransformerLayerParams params = layer.params();
  params.hidden_states = x.ptr<float>();
  params.cu_seqlens = lengths.ptr<std::int32_t>();
  params.num_seqs = lengths.shape[0] - 1;
  params.num_tokens = x.shape[0];
  params.max_seqlen = max_seqlen;
  if (layer.rotary_dim > 0) {
    const TensorView cosines = required_view(cos, "cos");
    const TensorView sines = required_view(sin, "sin");
    const TensorView positions = required_view(position_ids, "position_ids");
    check_rotary(cosines, sines, positions, layer.rotary_dim, params.num_tokens);
    params.cos = cosines.ptr<float>();
    params.sin = sines.ptr<float>();
    params.position_ids = positions.ptr<std::int32_t>();
  } else {
    ASSAY_CHECK(cos.is_none() && sin.is_none(), "cos and sin must be None for a layer of rotary_dim 0");
  }
  if (wanted.is_present()) set_rows(params, wanted, view_of(rows_out, "rows_out"), layer.hidden_size());
  const std::size_t needed = layer.qkv->table().transformer_layer_workspace_size(params);
  check_dtype(space, "workspace", {DType::kUInt8});
  ASSAY_CHECK(static_cast<std::size_t>(space.numel()) >= needed, "workspace must have ", needed, " bytes, got ",
              space.numel());
  ASSAY_CHECK(reinterpret_cast<std::uintptr_t>(space.data) % 64 == 0, "workspace must be 64-byte aligned");
  params.workspace = space.data;
  launch(layer.qkv->table().transformer_layer, params);
}

}  // namespace

void bind_layers(py::module_& m) {
  py::class_<TransformerLayerWeights, std::shared_ptr<TransformerLayerWeights>>(m, "TransformerLayer",
                                                                                py::module_local())
      .def(py::init(&make_layer), py::kw_only(), py::arg("qkv").none(false), py::arg("attn_out").none(false),
           py::arg("mlp_up").none(false), py::arg("mlp_down").none(false), py::arg("row_keys"), py::arg("norm"),
           py::arg("epsilon"), py::arg("attn_in_norm"), py::arg("attn_out_norm"), py::arg("attn_residual_norm"),
           py::arg("mlp_in_norm"), py::arg("mlp_out_norm"), py::arg("mlp_residual_norm"), py::arg("q_norm"),
           py::arg("k_norm"), py::arg("activation"), py::arg("is_gated"), py::arg("num_heads"), py::arg("num_kv_heads"),
           py::arg("head_dim"), py::arg("softmax_scale"), py::arg("is_causal"), py::arg("window_size"),
           py::arg("soft_cap"), py::arg("rotary_dim"), py::arg("is_rotary_interleaved"))
      .def_property_readonly("hidden_size", &TransformerLayerWeights::hidden_size)
      .def_property_readonly("size_bytes", &TransformerLayerWeights::size_bytes)
      .def_property_readonly("arithmetic_name",
                             [](const TransformerLayerWeights& layer) { return layer.qkv->arithmetic_name(); });
  m.attr("ROW_KEYS_MULTIPLE") = kRowKeysMultiple;
  m.def("transformer_layer", &bind_transformer_layer);
  m.def("transformer_layer_workspace_size", &layer_workspace_size);
  m.def("transformer_layer_scratch_size", &layer_scratch_size);
}

}  // namespace assay::cpu
