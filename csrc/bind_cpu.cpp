// The CPU module: turns Python arguments into checked params and calls the kernel table without the GIL.
#include "bind_cpu.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#ifdef __linux__
#include <malloc.h>
#endif

#include <chrono>
#include <string>

#include "cpu/cpu_quota.h"

namespace assay::cpu {
namespace {

PackedWeightPtr make_packed_weight(py::handle weight, py::handle bias, const std::string& arithmetic) {
  const TensorView weight_view = required_view(weight, "weight");
  const TensorView bias_view = view_of(bias, "bias");
  const Arithmetic kind = by_name(kArithmetics, arithmetic, "arithmetic");
  const py::gil_scoped_release release;
  return std::make_shared<const PackedWeight>(weight_view, bias_view, kind);
}

PackedWeightPtr make_gated_weight(py::handle gate, py::handle up, py::handle gate_bias, py::handle up_bias,
                                  const std::string& arithmetic) {
  const TensorView gate_view = required_view(gate, "gate");
  const TensorView up_view = required_view(up, "up");
  const TensorView gate_bias_view = view_of(gate_bias, "gate_bias");
  const TensorView up_bias_view = view_of(up_bias, "up_bias");
  const Arithmetic kind = by_name(kArithmetics, arithmetic, "arithmetic");
  const py::gil_scoped_release release;
  return std::make_shared<const PackedWeight>(gate_view, up_view, gate_bias_view, up_bias_view, kind);
}

PackedWeightPtr make_weight_of_shape(std::int64_t out_features, std::int64_t in_features, bool has_bias, bool is_gated,
                                     const std::string& arithmetic) {
  return std::make_shared<const PackedWeight>(PackedWeight::of_shape(out_features, in_features, has_bias, is_gated,
                                                                     by_name(kArithmetics, arithmetic, "arithmetic")));
}

void check_numbers(const PackedWeight& weight, const char* name) {
  ASSAY_CHECK(weight.has_numbers(), name, " must be a PackedWeight with numbers, got one of shape only");
}

void bind_linear(py::handle hidden_states, const PackedWeightPtr& weight, const std::string& activation,
                 py::handle residual, py::handle out) {
  const TensorView x = required_view(hidden_states, "hidden_states");
  const TensorView add = view_of(residual, "residual");
  const TensorView target = required_view(out, "out");
  check_numbers(*weight, "weight");
  check_dtype(x, "hidden_states", {DType::kFloat32, DType::kBFloat16});
  check_shape(x, "hidden_states", {kAnySize, weight->in_features()});
  check_dtype(target, "out", {DType::kFloat32, DType::kBFloat16});
  check_shape(target, "out", {x.shape[0], weight->out_features()});
  if (add.is_present()) {
    check_dtype(add, "residual", {DType::kFloat32});
    check_shape(add, "residual", {x.shape[0], weight->out_features()});
  }
  launch(weight->table().linear, LinearParams{.x = x.data,
                                              .x_dtype = x.dtype,
                                              .x_stride = x.strides[0],
                                              .weight = weight->view(),
                                              .activation = by_name(kActivations, activation, "activation"),
                                              .residual = add.ptr<float>(),
                                              .residual_stride = add.strides[0],
                                              .out = target.data,
                                              .out_dtype = target.dtype,
                                              .out_stride = target.strides[0],
                                              .num_tokens = x.shape[0]});
}

// A table [*, hidden_size] in the dtype of the word embeddings, or nullptr.
const void* optional_table(const TensorView& table, const char* name, const TensorView& word) {
  if (!table.is_present()) return nullptr;
  check_dtype(table, name, {word.dtype});
  check_shape(table, name, {kAnySize, word.shape[1]});
  check_contiguous(table, name);
  ASSAY_CHECK(table.shape[0] >= 1, name, " must have at least one row");
  return table.data;
}

void bind_embed(py::handle input_ids, py::handle position_ids, py::handle token_type_ids, py::handle word_embeddings,
                py::handle position_embeddings, py::handle token_type_embeddings, py::handle task_type_embeddings,
                py::handle norm_weight, py::handle norm_bias, float epsilon, py::handle out) {
  const TensorView ids = required_view(input_ids, "input_ids");
  const TensorView positions = required_view(position_ids, "position_ids");
  const TensorView types = view_of(token_type_ids, "token_type_ids");
  const TensorView word = required_view(word_embeddings, "word_embeddings");
  const TensorView position = view_of(position_embeddings, "position_embeddings");
  const TensorView token_type = view_of(token_type_embeddings, "token_type_embeddings");
  const TensorView task_type = view_of(task_type_embeddings, "task_type_embeddings");
  const TensorView weight = view_of(norm_weight, "norm_weight");
  const TensorView bias = view_of(norm_bias, "norm_bias");
  const TensorView target = required_view(out, "out");
  check_dtype(word, "word_embeddings", {DType::kFloat32, DType::kBFloat16});
  check_shape(word, "word_embeddings", {kAnySize, kAnySize});
  check_contiguous(word, "word_embeddings");
  const std::int64_t hidden_size = word.shape[1];
  check_dtype(ids, "input_ids", {DType::kInt32});
  check_shape(ids, "input_ids", {kAnySize});
  check_ids(ids, "input_ids", word.shape[0]);
  const std::int64_t num_tokens = ids.shape[0];
  check_vector(positions, "position_ids", DType::kInt32, num_tokens);
  if (position.is_present()) check_ids(positions, "position_ids", position.shape[0]);
  if (types.is_present()) {
    check_vector(types, "token_type_ids", DType::kInt32, num_tokens);
    if (token_type.is_present()) check_ids(types, "token_type_ids", token_type.shape[0]);
  }
  check_dtype(target, "out", {DType::kFloat32});
  check_shape(target, "out", {num_tokens, hidden_size});
  check_contiguous(target, "out");
  launch(active_table().embed,
         EmbedParams{.input_ids = ids.ptr<std::int32_t>(),
                     .position_ids = positions.ptr<std::int32_t>(),
                     .token_type_ids = types.ptr<std::int32_t>(),
                     .word_embeddings = word.data,
                     .position_embeddings = optional_table(position, "position_embeddings", word),
                     .token_type_embeddings = optional_table(token_type, "token_type_embeddings", word),
                     .task_type_embeddings = optional_table(task_type, "task_type_embeddings", word),
                     .table_dtype = word.dtype,
                     .norm_weight = optional_floats(weight, "norm_weight", hidden_size),
                     .norm_bias = optional_floats(bias, "norm_bias", hidden_size),
                     .epsilon = epsilon,
                     .out = target.ptr<float>(),
                     .num_tokens = num_tokens,
                     .hidden_size = hidden_size});
}

void bind_layer_norm(py::handle hidden_states, py::handle weight, py::handle bias, float epsilon, py::handle residual,
                     py::handle out) {
  const TensorView x = required_view(hidden_states, "hidden_states");
  const TensorView scale = required_view(weight, "weight");
  const TensorView shift = view_of(bias, "bias");
  const TensorView add = view_of(residual, "residual");
  const TensorView target = required_view(out, "out");
  check_dtype(x, "hidden_states", {DType::kFloat32});
  check_shape(x, "hidden_states", {kAnySize, kAnySize});
  check_contiguous(x, "hidden_states");
  check_vector(scale, "weight", DType::kFloat32, x.shape[1]);
  for (const auto& [view, name] : {std::pair{&add, "residual"}, std::pair{&target, "out"}}) {
    if (!view->is_present()) continue;
    check_dtype(*view, name, {DType::kFloat32});
    check_shape(*view, name, {x.shape[0], x.shape[1]});
    check_contiguous(*view, name);
  }
  launch(active_table().layer_norm, LayerNormParams{.x = x.ptr<float>(),
                                                    .residual = add.ptr<float>(),
                                                    .weight = scale.ptr<float>(),
                                                    .bias = optional_floats(shift, "bias", x.shape[1]),
                                                    .epsilon = epsilon,
                                                    .out = target.ptr<float>(),
                                                    .num_rows = x.shape[0],
                                                    .hidden_size = x.shape[1]});
}

void bind_rms_norm(py::handle hidden_states, py::handle weight, float epsilon, py::handle out) {
  const TensorView x = required_view(hidden_states, "hidden_states");
  const TensorView scale = required_view(weight, "weight");
  const TensorView target = required_view(out, "out");
  check_dtype(x, "hidden_states", {DType::kFloat32});
  check_shape(x, "hidden_states", {kAnySize, kAnySize});
  check_contiguous(x, "hidden_states");
  check_vector(scale, "weight", DType::kFloat32, x.shape[1]);
  check_dtype(target, "out", {DType::kFloat32});
  check_shape(target, "out", {x.shape[0], x.shape[1]});
  check_contiguous(target, "out");
  launch(active_table().rms_norm, RmsNormParams{.x = x.ptr<float>(),
                                                .weight = scale.ptr<float>(),
                                                .epsilon = epsilon,
                                                .out = target.ptr<float>(),
                                                .num_rows = x.shape[0],
                                                .hidden_size = x.shape[1]});
}

// [*, num_heads, head_dim] with contiguous heads and any token stride.
void check_heads(const TensorView& view, const char* name, DType dtype, std::int64_t head_dim) {
  check_dtype(view, name, {dtype});
  check_shape(view, name, {kAnySize, kAnySize, head_dim});
  ASSAY_CHECK(view.shape[1] <= 1 || view.strides[1] == head_dim, name, " must have contiguous heads, got head stride ",
              view.strides[1], " for head_dim ", head_dim);
}

void check_head_dim(std::int64_t head_dim) {
  ASSAY_CHECK(head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0,
              "head_dim must be a multiple of 8 from 8 to 256, got ", head_dim);
}

void bind_rotary(py::handle q, py::handle k, py::handle cos, py::handle sin, py::handle position_ids,
                 bool is_interleaved, py::handle q_norm, py::handle k_norm, float epsilon) {
  const TensorView query = required_view(q, "q");
  const TensorView key = required_view(k, "k");
  const TensorView cosines = required_view(cos, "cos");
  const TensorView sines = required_view(sin, "sin");
  const TensorView positions = required_view(position_ids, "position_ids");
  check_dtype(query, "q", {DType::kFloat32, DType::kBFloat16});
  ASSAY_CHECK(query.num_dims == 3, "q must be [num_tokens, num_heads, head_dim], got ", shape_string(query));
  const std::int64_t head_dim = query.shape[2];
  check_head_dim(head_dim);
  check_heads(query, "q", query.dtype, head_dim);
  check_heads(key, "k", query.dtype, head_dim);
  ASSAY_CHECK(key.shape[0] == query.shape[0], "k must have num_tokens = ", query.shape[0], ", got ", key.shape[0]);
  ASSAY_CHECK(cosines.num_dims == 2, "cos must be [num_positions, rotary_dim / 2], got ", shape_string(cosines));
  const std::int64_t rotary_dim = 2 * cosines.shape[1];
  ASSAY_CHECK(rotary_dim >= 2 && rotary_dim <= head_dim, "cos must have 1 to head_dim / 2 = ", head_dim / 2,
              " columns, got ", cosines.shape[1]);
  check_rotary(cosines, sines, positions, rotary_dim, query.shape[0]);
  const auto heads = [&](const TensorView& view, py::handle norm, const char* name) {
    return RotaryHeads{.data = view.data,
                       .stride = view.strides[0],
                       .num_tokens = view.shape[0],
                       .num_heads = static_cast<int>(view.shape[1]),
                       .position_ids = positions.ptr<std::int32_t>(),
                       .norm_weight = optional_floats(view_of(norm, name), name, head_dim)};
  };
  launch(active_table().rotary, RotaryParams{.q = heads(query, q_norm, "q_norm"),
                                             .k = heads(key, k_norm, "k_norm"),
                                             .dtype = query.dtype,
                                             .head_dim = static_cast<int>(head_dim),
                                             .rotary_dim = static_cast<int>(rotary_dim),
                                             .is_interleaved = is_interleaved,
                                             .cos = cosines.ptr<float>(),
                                             .sin = sines.ptr<float>(),
                                             .epsilon = epsilon});
}

void bind_attention(py::handle q, py::handle k, py::handle v, py::handle cu_seqlens_q, py::handle cu_seqlens_k,
                    std::int64_t max_seqlen_q, std::int64_t max_seqlen_k, bool is_causal, float softmax_scale,
                    std::int64_t window_left, std::int64_t window_right, float soft_cap, py::handle out) {
  const TensorView query = required_view(q, "q");
  const TensorView key = required_view(k, "k");
  const TensorView value = required_view(v, "v");
  const TensorView lengths_q = required_view(cu_seqlens_q, "cu_seqlens");
  const TensorView lengths_k = required_view(cu_seqlens_k, "cu_seqlens_k");
  const TensorView target = required_view(out, "out");
  check_dtype(query, "q", {DType::kFloat32, DType::kBFloat16});
  ASSAY_CHECK(query.num_dims == 3, "q must be [num_tokens, num_heads, head_dim], got ", shape_string(query));
  const std::int64_t head_dim = query.shape[2];
  check_head_dim(head_dim);
  check_heads(query, "q", query.dtype, head_dim);
  check_heads(key, "k", query.dtype, head_dim);
  check_heads(value, "v", query.dtype, head_dim);
  check_heads(target, "out", query.dtype, head_dim);
  ASSAY_CHECK(value.shape[0] == key.shape[0] && value.shape[1] == key.shape[1], "v must have the shape of k, ",
              shape_string(key), ", got ", shape_string(value));
  ASSAY_CHECK(target.shape[0] == query.shape[0] && target.shape[1] == query.shape[1], "out must have the shape of q, ",
              shape_string(query), ", got ", shape_string(target));
  ASSAY_CHECK(key.shape[1] >= 1 && query.shape[1] % key.shape[1] == 0, "num_heads ", query.shape[1],
              " must be a multiple of num_kv_heads, got ", key.shape[1]);
  const std::int64_t longest_q = check_cu_seqlens(lengths_q, "cu_seqlens", query.shape[0], true);
  const std::int64_t longest_k = check_cu_seqlens(lengths_k, "cu_seqlens_k", key.shape[0], true);
  ASSAY_CHECK(lengths_q.shape[0] == lengths_k.shape[0], "cu_seqlens_k must have ", lengths_q.shape[0], " entries, got ",
              lengths_k.shape[0]);
  ASSAY_CHECK(max_seqlen_q >= longest_q, "max_seqlen must be >= ", longest_q, ", got ", max_seqlen_q);
  check_scores(softmax_scale, window_left, window_right, soft_cap);
  ASSAY_CHECK(max_seqlen_k >= longest_k, "max_seqlen_k must be >= ", longest_k, ", got ", max_seqlen_k);
  launch(active_table().attention, AttentionParams{.q = query.data,
                                                   .k = key.data,
                                                   .v = value.data,
                                                   .dtype = query.dtype,
                                                   .q_stride = query.strides[0],
                                                   .k_stride = key.strides[0],
                                                   .v_stride = value.strides[0],
                                                   .cu_seqlens_q = lengths_q.ptr<std::int32_t>(),
                                                   .cu_seqlens_k = lengths_k.ptr<std::int32_t>(),
                                                   .num_seqs = lengths_q.shape[0] - 1,
                                                   .max_seqlen_q = max_seqlen_q,
                                                   .max_seqlen_k = max_seqlen_k,
                                                   .num_heads = static_cast<int>(query.shape[1]),
                                                   .num_kv_heads = static_cast<int>(key.shape[1]),
                                                   .head_dim = static_cast<int>(head_dim),
                                                   .softmax_scale = softmax_scale,
                                                   .is_causal = is_causal,
                                                   .window_left = window_left,
                                                   .window_right = window_right,
                                                   .soft_cap = soft_cap,
                                                   .query_positions = nullptr,
                                                   .out = target.data,
                                                   .out_stride = target.strides[0]});
}

void bind_pool(py::handle hidden_states, py::handle cu_seqlens, const std::string& pooling, py::handle out) {
  const TensorView x = required_view(hidden_states, "hidden_states");
  const TensorView lengths = required_view(cu_seqlens, "cu_seqlens");
  const TensorView target = required_view(out, "out");
  check_dtype(x, "hidden_states", {DType::kFloat32});
  check_shape(x, "hidden_states", {kAnySize, kAnySize});
  check_cu_seqlens(lengths, "cu_seqlens", x.shape[0], false);
  check_dtype(target, "out", {DType::kFloat32});
  check_shape(target, "out", {lengths.shape[0] - 1, x.shape[1]});
  check_contiguous(target, "out");
  launch(active_table().pool, PoolParams{.hidden_states = x.ptr<float>(),
                                         .hidden_stride = x.strides[0],
                                         .cu_seqlens = lengths.ptr<std::int32_t>(),
                                         .pooling = by_name(kPoolings, pooling, "pooling"),
                                         .out = target.ptr<float>(),
                                         .num_seqs = lengths.shape[0] - 1,
                                         .hidden_size = x.shape[1]});
}

void bind_classifier_head(py::handle pooled, const PackedWeightPtr& dense, const std::string& dense_activation,
                          const PackedWeightPtr& classifier, float logit_mean, float logit_sigma,
                          py::handle row_activations, py::handle dense_buffer, py::handle out) {
  const TensorView x = required_view(pooled, "pooled");
  const TensorView codes = required_view(row_activations, "row_activations");
  const TensorView buffer = view_of(dense_buffer, "dense_buffer");
  const TensorView target = required_view(out, "out");
  ASSAY_CHECK(classifier != nullptr, "classifier must be a PackedWeight, got None");
  const std::int64_t in_features = dense ? dense->in_features() : classifier->in_features();
  check_dtype(x, "pooled", {DType::kFloat32});
  check_shape(x, "pooled", {kAnySize, in_features});
  check_contiguous(x, "pooled");
  const std::int64_t num_rows = x.shape[0];
  for (const PackedWeight* part : {dense.get(), classifier.get()}) {
    if (part != nullptr) check_numbers(*part, part == dense.get() ? "dense" : "classifier");
    ASSAY_CHECK(part == nullptr || part->view().arithmetic == Arithmetic::kFloat32Fma,
                "the weights of a head must be packed as float32_fma");
    ASSAY_CHECK(part == nullptr || &part->table() == &classifier->table(),
                "dense and classifier must be packed for one instruction set");
  }
  if (dense) {
    ASSAY_CHECK(classifier->in_features() == dense->out_features(), "classifier must take ", dense->out_features(),
                " features, takes ", classifier->in_features());
    check_dtype(buffer, "dense_buffer", {DType::kFloat32});
    check_shape(buffer, "dense_buffer", {num_rows, dense->out_features()});
    check_contiguous(buffer, "dense_buffer");
  }
  check_vector(codes, "row_activations", DType::kUInt8, num_rows);
  for (std::int64_t i = 0; i < num_rows; ++i) {
    ASSAY_CHECK(codes.ptr<std::uint8_t>()[i] <= 2, "row_activations must be 0, 1 or 2, got ",
                static_cast<int>(codes.ptr<std::uint8_t>()[i]), " at index ", i);
  }
  ASSAY_CHECK(logit_sigma != 0.0f, "logit_sigma cannot be 0 (division by zero)");
  check_dtype(target, "out", {DType::kFloat32});
  check_shape(target, "out", {num_rows, classifier->out_features()});
  check_contiguous(target, "out");
  launch(classifier->table().classifier_head,
         ClassifierHeadParams{.pooled = x.ptr<float>(),
                              .has_dense = dense != nullptr,
                              .dense = dense ? dense->view() : PackedWeightView{},
                              .dense_activation = by_name(kActivations, dense_activation, "dense_activation"),
                              .classifier = classifier->view(),
                              .logit_mean = logit_mean,
                              .logit_sigma = logit_sigma,
                              .row_activations = codes.ptr<const HeadActivation>(),
                              .dense_buffer = buffer.ptr<float>(),
                              .out = target.ptr<float>(),
                              .num_rows = num_rows});
}

// Operations a second that the threads reach on registers alone.
double peak_flops(const std::string& arithmetic, double seconds) {
  const Arithmetic kind = by_name(kArithmetics, arithmetic, "arithmetic");
  const std::shared_ptr<ThreadPool> pool = global_pool();
  const py::gil_scoped_release release;
  using Clock = std::chrono::steady_clock;
  double best = 0;
  const Clock::time_point end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  do {
    constexpr std::int64_t kRounds = 100000;
    const Clock::time_point start = Clock::now();
    const double operations = active_table().run_peak(kind, kRounds, *pool);
    const double took = std::chrono::duration<double>(Clock::now() - start).count();
    if (operations / took > best) best = operations / took;
  } while (Clock::now() < end);
  return best;
}

void release_free_memory() {
#ifdef __GLIBC__
  const py::gil_scoped_release release;
  malloc_trim(0);
#endif
}

std::vector<std::string> isa_names(bool with_emulated) {
  std::vector<std::string> names;
  for (int i = 0; i < kNumIsas; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (kernel_table(isa) == nullptr || !is_supported(isa)) continue;
    if (!is_emulated(isa) || with_emulated) names.emplace_back(isa_name(isa));
  }
  return names;
}

}  // namespace
}  // namespace assay::cpu

PYBIND11_MODULE(_cpu, m) {
  using namespace assay::cpu;
  namespace py = pybind11;
  m.doc() = "assay's CPU kernels. Use them through assay.ops.";

  py::class_<PackedWeight, std::shared_ptr<PackedWeight>>(m, "PackedWeight", py::module_local())
      .def(py::init([](py::handle weight, py::handle bias, const std::string& arithmetic) {
             return std::const_pointer_cast<PackedWeight>(make_packed_weight(weight, bias, arithmetic));
           }),
           py::arg("weight"), py::arg("bias"), py::arg("arithmetic"))
      .def_static(
          "gated",
          [](py::handle gate, py::handle up, py::handle gate_bias, py::handle up_bias, const std::string& arithmetic) {
            return std::const_pointer_cast<PackedWeight>(make_gated_weight(gate, up, gate_bias, up_bias, arithmetic));
          },
          py::arg("gate"), py::arg("up"), py::arg("gate_bias"), py::arg("up_bias"), py::arg("arithmetic"))
      .def_static(
          "of_shape",
          [](std::int64_t out_features, std::int64_t in_features, bool has_bias, bool is_gated,
             const std::string& arithmetic) {
            return std::const_pointer_cast<PackedWeight>(
                make_weight_of_shape(out_features, in_features, has_bias, is_gated, arithmetic));
          },
          py::kw_only(), py::arg("out_features"), py::arg("in_features"), py::arg("has_bias"), py::arg("is_gated"),
          py::arg("arithmetic"))
      .def_property_readonly("is_gated", &PackedWeight::is_gated)
      .def_property_readonly("out_features", &PackedWeight::out_features)
      .def_property_readonly("in_features", &PackedWeight::in_features)
      .def_property_readonly("size_bytes", &PackedWeight::size_bytes)
      .def_property_readonly("isa", [](const PackedWeight& w) { return isa_name(w.table().isa); })
      .def_property_readonly("arithmetic_name", &PackedWeight::arithmetic_name);
  bind_layers(m);
  bind_recurrence(m);

  m.def("linear", &bind_linear);
  m.def("embed", &bind_embed);
  m.def("layer_norm", &bind_layer_norm);
  m.def("rms_norm", &bind_rms_norm);
  m.def("rotary", &bind_rotary);
  m.def("attention_varlen", &bind_attention);
  m.def("pool", &bind_pool);
  m.def("classifier_head", &bind_classifier_head);

  m.def("release_free_memory", &release_free_memory,
        "Give memory that malloc keeps for later back to the system, where it can be asked to.");
  m.def("available_isas", [] { return isa_names(false); }, "Paths this machine can run, slowest first.");
  m.def("testable_isas", [] { return isa_names(true); }, "available_isas and the emulated paths of this build.");
  m.def("active_isa", [] { return isa_name(active_table().isa); });
  m.def("set_active_isa", [](const std::string& name) { set_active_isa(name.c_str()); });
  m.def("arithmetic_name", [](const std::string& arithmetic) {
    return active_table().arithmetic_name(by_name(kArithmetics, arithmetic, "arithmetic"));
  });
  m.def("peak_flops", &peak_flops,
        "Best multiply-add rate on registers alone within `seconds`, in operations a second.", py::arg("arithmetic"),
        py::arg("seconds") = 0.2);
  m.def("share_of_rows", [](const std::vector<double>& speeds, std::int64_t num_rows, std::int64_t multiple) {
    std::vector<std::pair<std::int64_t, std::int64_t>> shares;
    for (int i = 0; i < static_cast<int>(speeds.size()); ++i) {
      const Share share = share_of_rows(speeds, i, num_rows, multiple);
      shares.emplace_back(share.begin, share.end);
    }
    return shares;
  });
  m.def("num_threads", [] { return global_pool()->num_threads(); });
  m.def("wake_threads", [] { global_pool()->wake(); });
  m.def("set_num_threads", &set_global_num_threads);
  m.def("set_gives_way", &set_gives_way);
  m.def("gives_way", &gives_way);
  m.def("default_num_threads", &default_num_threads);
  m.def("cgroup_cpu_quota", &cgroup_cpu_quota, "CPUs of cgroup quota under a root folder, 0 = none.",
        py::arg("root") = "/");
  m.def("affinity_cores", &affinity_cores);
}
