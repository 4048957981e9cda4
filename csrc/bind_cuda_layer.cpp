// The fused transformer layer on the device as Python sees it: its weights, its workspace, its call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind_cuda_products.h"
#include "cuda/launch_attention.h"
#include "cuda/layer.h"
#include "cuda/residual.h"

namespace assay::cuda {
namespace {

constexpr std::uintptr_t kWorkspaceAlignment = 256;

struct BoundLayer {
  TransformerLayer layer;
  std::vector<py::object> kept;  // what the layer points to
};

// A float32 vector on the device, or nullptr for None.
const float* vector_of(py::handle tensor, const std::string& argument, std::int64_t size,
                       std::vector<py::object>& kept) {
  if (tensor.is_none()) return nullptr;
  const TensorView view = required_device_view(tensor, argument.c_str());
  check_vector(view, argument.c_str(), DType::kFloat32, size);
  check_alignment(view, argument.c_str(), 16);
  kept.push_back(py::reinterpret_borrow<py::object>(tensor));
  return view.ptr<float>();
}

// From None or an object with .weight and .bias.
NormView norm_of(py::handle norm, const std::string& argument, NormKind kind, float epsilon, std::int64_t size,
                 std::vector<py::object>& kept) {
  if (norm.is_none()) return {};
  const py::object weight = norm.attr("weight"), bias = norm.attr("bias");
  ASSAY_CHECK(!weight.is_none(), argument, ".weight must be a torch.Tensor, got None");
  ASSAY_CHECK(bias.is_none() || kind == NormKind::kLayer, argument, ".bias must be None for norm='rms'");
  return {.kind = kind,
          .weight = vector_of(weight, argument + ".weight", size, kept),
          .bias = vector_of(bias, argument + ".bias", size, kept),
          .epsilon = epsilon};
}

std::shared_ptr<BoundLayer> make_layer(
    const BoundWeight& qkv, const BoundWeight& attn_out, const BoundWeight& mlp_up, const BoundWeight& mlp_down,
    const std::string& norm, float epsilon, py::handle attn_in_norm, py::handle attn_out_norm,
    py::handle attn_residual_norm, py::handle mlp_in_norm, py::handle mlp_out_norm, py::handle mlp_residual_norm,
    py::handle q_norm, py::handle k_norm, const std::string& activation, bool is_gated, int num_heads, int num_kv_heads,
    int head_dim, float softmax_scale, bool is_causal, std::pair<std::int64_t, std::int64_t> window_size,
    float soft_cap, int rotary_dim, bool is_rotary_interleaved, BoundLibrary* cublas_lt, std::uintptr_t stream) {
  const NormKind kind = by_name(kNormKinds, norm, "norm");
  const Activation mlp_activation = by_name(kActivations, activation, "activation");
  auto bound = std::make_shared<BoundLayer>();
  TransformerLayer& layer = bound->layer;
  // Own products first: what does not fit together must be refused before the library proves anything.
  layer.qkv.weight = qkv.view;
  layer.attn_out.weight = attn_out.view;
  layer.mlp_up.weight = mlp_up.view;
  layer.mlp_down.weight = mlp_down.view;
  layer.epsilon = epsilon;
  layer.is_gated = is_gated;
  layer.num_heads = num_heads;
  layer.num_kv_heads = num_kv_heads;
  layer.head_dim = head_dim;
  layer.softmax_scale = softmax_scale;
  layer.is_causal = is_causal;
  layer.window_left = window_size.first;
  layer.window_right = window_size.second;
  layer.soft_cap = soft_cap;
  layer.rotary_dim = rotary_dim;
  layer.is_rotary_interleaved = is_rotary_interleaved;
  layer.check();
  const auto norm_by = [&](py::handle source, const char* argument) {
    return norm_of(source, argument, kind, epsilon, layer.hidden_size(), bound->kept);
  };
  layer.attn_in_norm = norm_by(attn_in_norm, "attn_in_norm");
  layer.attn_out_norm = norm_by(attn_out_norm, "attn_out_norm");
  layer.attn_residual_norm = norm_by(attn_residual_norm, "attn_residual_norm");
  layer.mlp_in_norm = norm_by(mlp_in_norm, "mlp_in_norm");
  layer.mlp_out_norm = norm_by(mlp_out_norm, "mlp_out_norm");
  layer.mlp_residual_norm = norm_by(mlp_residual_norm, "mlp_residual_norm");
  layer.q_norm_weight = vector_of(q_norm, "q_norm", head_dim, bound->kept);
  layer.k_norm_weight = vector_of(k_norm, "k_norm", head_dim, bound->kept);
  const auto choose = [&](const BoundWeight& weight, Activation after) {
    return choose_product(weight, after, cublas_lt, bound->kept, stream_of(stream));
  };
  layer.qkv = choose(qkv, Activation::kNone);
  layer.attn_out = choose(attn_out, Activation::kNone);
  layer.mlp_up = choose(mlp_up, mlp_activation);
  layer.mlp_down = choose(mlp_down, Activation::kNone);
  return bound;
}

void set_angles(LayerBatch& batch, const TransformerLayer& layer, py::handle position_ids, py::handle cos,
                py::handle sin) {
  if (layer.rotary_dim == 0) {
    ASSAY_CHECK(cos.is_none() && sin.is_none(), "cos and sin must be None for a layer of rotary_dim 0");
    return;
  }
  const TensorView cosines = required_device_view(cos, "cos");
  const TensorView sines = required_device_view(sin, "sin");
  const TensorView positions = required_device_view(position_ids, "position_ids");
  check_dtype(cosines, "cos", {DType::kFloat32});
  check_shape(cosines, "cos", {kAnySize, layer.rotary_dim / 2});
  check_contiguous(cosines, "cos");
  check_dtype(sines, "sin", {DType::kFloat32});
  check_shape(sines, "sin", {cosines.shape[0], layer.rotary_dim / 2});
  check_contiguous(sines, "sin");
  check_vector(positions, "position_ids", DType::kInt32, batch.max_tokens);
  batch.cos = cosines.ptr<float>();
  batch.sin = sines.ptr<float>();
  batch.position_ids = positions.ptr<std::int32_t>();
}

void set_rows(LayerBatch& batch, py::handle rows, py::handle rows_out, std::int64_t hidden_size) {
  const TensorView wanted = device_view(rows, "rows");
  if (!wanted.is_present()) return;
  check_vector(wanted, "rows", DType::kInt32, batch.num_seqs);
  ASSAY_CHECK(!rows_out.is_none(), "rows_out must be given with rows");
  const TensorView out = required_device_view(rows_out, "rows_out");
  check_dtype(out, "rows_out", {DType::kFloat32});
  check_shape(out, "rows_out", {batch.num_seqs, hidden_size});
  check_contiguous(out, "rows_out");
  check_alignment(out, "rows_out", 16);
  batch.rows = wanted.ptr<std::int32_t>();
  batch.rows_out = out.ptr<float>();
}

void transformer_layer(py::handle hidden_states, py::handle cu_seqlens, std::int64_t max_seqlen,
                       const BoundLayer& bound, py::handle workspace, py::handle position_ids, py::handle cos,
                       py::handle sin, py::handle rows, py::handle rows_out, std::uintptr_t stream,
                       py::handle schedule) {
  const TransformerLayer& layer = bound.layer;
  const TensorView x = required_device_view(hidden_states, "hidden_states");
  const TensorView lengths = required_device_view(cu_seqlens, "cu_seqlens");
  const TensorView space = required_device_view(workspace, "workspace");
  check_dtype(x, "hidden_states", {DType::kFloat32});
  check_shape(x, "hidden_states", {kAnySize, layer.hidden_size()});
  check_contiguous(x, "hidden_states");
  check_alignment(x, "hidden_states", 16);
  check_dtype(lengths, "cu_seqlens", {DType::kInt32});
  check_shape(lengths, "cu_seqlens", {kAnySize});
  ASSAY_CHECK(lengths.shape[0] >= 1, "cu_seqlens must have num_seqs + 1 entries, got 0");
  ASSAY_CHECK(max_seqlen >= 0, "max_seqlen must be >= 0, got ", max_seqlen);
  LayerBatch batch{.hidden_states = x.ptr<float>(),
                   .cu_seqlens = lengths.ptr<std::int32_t>(),
                   .num_seqs = lengths.shape[0] - 1,
                   .max_tokens = x.shape[0],
                   .max_seqlen = max_seqlen};
  set_angles(batch, layer, position_ids, cos, sin);
  set_rows(batch, rows, rows_out, layer.hidden_size());
  check_dtype(space, "workspace", {DType::kUInt8});
  const std::int64_t needed = transformer_layer_workspace_size(layer, batch.max_tokens, batch.num_seqs);
  ASSAY_CHECK(space.numel() >= needed, "workspace must have ", needed, " bytes, got ", space.numel());
  check_alignment(space, "workspace", kWorkspaceAlignment);
  batch.workspace = space.data;
  const TensorView order = device_view(schedule, "schedule");
  if (order.is_present()) {
    check_alignment(order, "schedule", 16);
    batch.schedule = order.data;
  }
  const py::gil_scoped_release release;
  launch_transformer_layer(layer, batch, stream_of(stream));
}

py::tuple product_names(const BoundLayer& bound) {
  const TransformerLayer& layer = bound.layer;
  return py::make_tuple(layer.qkv.name(), layer.attn_out.name(), layer.mlp_up.name(), layer.mlp_down.name());
}

}  // namespace

void bind_layer(py::module_& m) {
  py::class_<BoundLayer, std::shared_ptr<BoundLayer>>(m, "TransformerLayer")
      .def(py::init(&make_layer), py::kw_only(), py::arg("qkv").none(false), py::arg("attn_out").none(false),
           py::arg("mlp_up").none(false), py::arg("mlp_down").none(false), py::arg("norm"), py::arg("epsilon"),
           py::arg("attn_in_norm"), py::arg("attn_out_norm"), py::arg("attn_residual_norm"), py::arg("mlp_in_norm"),
           py::arg("mlp_out_norm"), py::arg("mlp_residual_norm"), py::arg("q_norm"), py::arg("k_norm"),
           py::arg("activation"), py::arg("is_gated"), py::arg("num_heads"), py::arg("num_kv_heads"),
           py::arg("head_dim"), py::arg("softmax_scale"), py::arg("is_causal"), py::arg("window_size"),
           py::arg("soft_cap"), py::arg("rotary_dim"), py::arg("is_rotary_interleaved"),
           py::arg("cublas_lt").none(true), py::arg("stream"))
      .def_property_readonly("hidden_size", [](const BoundLayer& bound) { return bound.layer.hidden_size(); })
      .def_property_readonly("dtype_name", [](const BoundLayer& bound) { return dtype_name(bound.layer.dtype()); })
      .def_property_readonly("products", &product_names);
  m.def("transformer_layer", &transformer_layer, py::arg("hidden_states"), py::arg("cu_seqlens"), py::arg("max_seqlen"),
        py::arg("layer"), py::arg("workspace"), py::arg("position_ids"), py::arg("cos"), py::arg("sin"),
        py::arg("rows"), py::arg("rows_out"), py::arg("stream"), py::arg("schedule") = py::none());
  m.def(
      "transformer_layer_workspace_size",
      [](const BoundLayer& bound, std::int64_t num_tokens, std::int64_t num_seqs) {
        ASSAY_CHECK(num_tokens >= 0 && num_seqs >= 0, "num_tokens and num_seqs must be >= 0, got ", num_tokens, " and ",
                    num_seqs);
        return transformer_layer_workspace_size(bound.layer, num_tokens, num_seqs);
      },
      py::arg("layer"), py::arg("num_tokens"), py::arg("num_seqs"));
}

}  // namespace assay::cuda
