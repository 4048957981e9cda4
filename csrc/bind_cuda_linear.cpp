// Dense products on the device as Python sees them: weights, the plain product, the library.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>

#include "bind_cuda_products.h"

namespace assay::cuda {
namespace {

constexpr Named<GemmTile> kTiles[] = {
    {"auto", GemmTile::kAuto}, {"large", GemmTile::kLarge}, {"small", GemmTile::kSmall}};
constexpr std::int64_t kMaxInFeatures = 1 << 30;

std::shared_ptr<BoundWeight> make_weight(py::object weight, py::object bias, bool is_gated) {
  const TensorView matrix = required_device_view(weight, "weight");
  check_dtype(matrix, "weight", {DType::kFloat32, DType::kFloat16, DType::kBFloat16});
  check_shape(matrix, "weight", {kAnySize, kAnySize});
  check_contiguous(matrix, "weight");
  check_alignment(matrix, "weight", 16);
  const std::int64_t rows = matrix.shape[0], matrices = is_gated ? 2 : 1;
  ASSAY_CHECK(rows % (kSizeUnit * matrices) == 0, "weight must have a multiple of ", kSizeUnit * matrices,
              " rows, got ", rows);
  ASSAY_CHECK(matrix.shape[1] % kSizeUnit == 0 && matrix.shape[1] >= kSizeUnit && matrix.shape[1] <= kMaxInFeatures,
              "weight must have a multiple of ", kSizeUnit, " columns up to ", kMaxInFeatures, ", got ",
              matrix.shape[1]);
  const TensorView vector = device_view(bias, "bias");
  if (vector.is_present()) {
    check_vector(vector, "bias", DType::kFloat32, rows);
    check_alignment(vector, "bias", 16);
  }
  const WeightView view = {.data = matrix.data,
                           .bias = vector.is_present() ? vector.ptr<float>() : nullptr,
                           .out_features = rows / matrices,
                           .in_features = matrix.shape[1],
                           .dtype = matrix.dtype,
                           .is_gated = is_gated};
  return std::make_shared<BoundWeight>(BoundWeight{view, std::move(weight), std::move(bias)});
}

// A row-major matrix whose rows start on 16 bytes.
void check_matrix(const TensorView& view, const char* argument, std::int64_t rows, std::int64_t cols) {
  check_shape(view, argument, {rows, cols});
  check_alignment(view, argument, 16);
  ASSAY_CHECK(view.shape[0] <= 1 || (view.strides[0] >= cols && view.strides[0] % kSizeUnit == 0), argument,
              "'s row stride must be a multiple of ", kSizeUnit, " and at least ", cols, ", got ", view.strides[0]);
}

std::int64_t row_stride(const TensorView& view) { return view.shape[0] <= 1 ? view.shape[1] : view.strides[0]; }

void linear(py::handle hidden_states, const BoundWeight& weight, const std::string& activation, py::handle residual,
            py::handle out, py::handle num_rows, std::uintptr_t stream, const std::string& tile) {
  const WeightView& matrix = weight.view;
  const TensorView x = required_device_view(hidden_states, "hidden_states");
  const TensorView target = required_device_view(out, "out");
  const TensorView added = device_view(residual, "residual");
  const TensorView count = device_view(num_rows, "num_rows");
  check_dtype(x, "hidden_states", {matrix.dtype});
  check_matrix(x, "hidden_states", kAnySize, matrix.in_features);
  check_dtype(target, "out", {matrix.dtype, DType::kFloat32});
  check_matrix(target, "out", x.shape[0], matrix.out_features);
  if (added.is_present()) {
    check_dtype(added, "residual", {DType::kFloat32});
    check_matrix(added, "residual", x.shape[0], matrix.out_features);
  }
  if (count.is_present()) check_vector(count, "num_rows", DType::kInt32, 1);
  launch_gemm({.x = x.data,
               .x_stride = row_stride(x),
               .weight = matrix,
               .activation = by_name(kActivations, activation, "activation"),
               .residual = added.is_present() ? added.ptr<float>() : nullptr,
               .residual_stride = added.is_present() ? row_stride(added) : 0,
               .out = target.data,
               .out_dtype = target.dtype,
               .out_stride = row_stride(target),
               .max_rows = x.shape[0],
               .num_rows = count.is_present() ? count.ptr<std::int32_t>() : nullptr},
              by_name(kTiles, tile, "tile"), stream_of(stream));
}

// A product as a layer computes it, with what it points to.
struct BoundProduct {
  Product product;
  std::vector<py::object> kept;
};

std::shared_ptr<BoundProduct> make_product(const BoundWeight& weight, const std::string& activation,
                                           BoundLibrary* library, std::uintptr_t stream) {
  auto bound = std::make_shared<BoundProduct>();
  bound->product =
      choose_product(weight, by_name(kActivations, activation, "activation"), library, bound->kept, stream_of(stream));
  return bound;
}

void multiply(const BoundProduct& bound, py::handle hidden_states, py::handle out, py::handle scratch,
              std::uintptr_t stream) {
  const WeightView& weight = bound.product.weight;
  const TensorView x = required_device_view(hidden_states, "hidden_states");
  const TensorView target = required_device_view(out, "out");
  const TensorView space = required_device_view(scratch, "scratch");
  check_dtype(x, "hidden_states", {weight.dtype});
  check_matrix(x, "hidden_states", kAnySize, weight.in_features);
  check_dtype(target, "out", {weight.dtype});
  check_matrix(target, "out", x.shape[0], weight.out_features);
  check_vector(space, "scratch", DType::kUInt8, space.numel());
  check_alignment(space, "scratch", 16);
  const std::int64_t needed = bound.product.scratch_size(x.shape[0]);
  ASSAY_CHECK(space.numel() >= needed, "scratch must have ", needed, " bytes, got ", space.numel());
  launch_product(bound.product,
                 {.x = x.data,
                  .x_stride = row_stride(x),
                  .out = target.data,
                  .out_stride = row_stride(target),
                  .max_rows = x.shape[0],
                  .num_rows = nullptr,
                  .scratch = space.data},
                 stream_of(stream));
}

std::shared_ptr<BoundLibrary> open_cublas_lt(py::object workspace, const std::vector<std::string>& names) {
  const GemmChoice choice = gemm_choice(std::getenv("ASSAY_CUDA_GEMM"));
  const TensorView space = required_device_view(workspace, "workspace");
  check_vector(space, "workspace", DType::kUInt8, space.numel());
  check_alignment(space, "workspace", 256);
  auto bound = std::make_shared<BoundLibrary>(BoundLibrary{std::move(workspace), std::nullopt, ""});
  if (choice == GemmChoice::kOwn) {
    bound->failure = "ASSAY_CUDA_GEMM=own";
    return bound;
  }
  try {
    bound->chooser.emplace(std::make_shared<const CublasLt>(names.empty() ? CublasLt::default_names() : names,
                                                            space.data, static_cast<std::size_t>(space.numel())),
                           choice == GemmChoice::kCublasLt);
  } catch (const std::runtime_error& error) {
    if (choice == GemmChoice::kCublasLt) throw;
    bound->failure = error.what();
  }
  return bound;
}

const char* weight_dtype_name(const BoundWeight& weight) { return dtype_name(weight.view.dtype); }

}  // namespace

Product choose_product(const BoundWeight& weight, Activation activation, BoundLibrary* library,
                       std::vector<py::object>& kept, cudaStream_t stream) {
  kept.push_back(weight.weight);
  kept.push_back(weight.bias);
  if (library == nullptr || !library->chooser || !is_for_library(weight.view, activation)) {
    return {.weight = weight.view, .activation = activation};
  }
  const void* cublas_lt_bias = nullptr;
  if (weight.view.bias != nullptr) {
    // The library adds a bias of the output's dtype.
    const py::object rounded = weight.bias.attr("to")(weight.weight.attr("dtype"));
    cublas_lt_bias = required_device_view(rounded, "bias").data;
    kept.push_back(rounded);
  }
  py::object scratch;
  const auto allocate = [&](std::int64_t size) {
    const py::module_ torch = py::module_::import("torch");
    scratch = torch.attr("empty")(size, py::arg("dtype") = torch.attr("uint8"),
                                  py::arg("device") = weight.weight.attr("device"));
    return required_device_view(scratch, "scratch").data;
  };
  const Product product = library->chooser->choose(weight.view, activation, cublas_lt_bias, allocate, stream);
  if (!product.is_own()) kept.push_back(library->workspace);
  return product;
}

void bind_linear(py::module_& m) {
  py::class_<BoundWeight, std::shared_ptr<BoundWeight>>(m, "Weight")
      .def(py::init(&make_weight), py::arg("weight"), py::arg("bias") = py::none(), py::arg("is_gated") = false)
      .def_property_readonly("out_features", [](const BoundWeight& weight) { return weight.view.out_features; })
      .def_property_readonly("in_features", [](const BoundWeight& weight) { return weight.view.in_features; })
      .def_property_readonly("is_gated", [](const BoundWeight& weight) { return weight.view.is_gated; })
      .def_property_readonly("dtype_name", &weight_dtype_name);
  py::class_<BoundLibrary, std::shared_ptr<BoundLibrary>>(m, "CublasLt")
      .def_property_readonly("version",
                             [](const BoundLibrary& library) -> std::optional<std::size_t> {
                               if (!library.chooser) return std::nullopt;
                               return library.chooser->library().version();
                             })
      .def_readonly("failure", &BoundLibrary::failure);
  py::class_<BoundProduct, std::shared_ptr<BoundProduct>>(m, "Product")
      .def(py::init(&make_product), py::arg("weight"), py::arg("activation"), py::arg("cublas_lt").none(true),
           py::arg("stream"))
      .def_property_readonly("name", [](const BoundProduct& bound) { return bound.product.name(); })
      .def("scratch_size",
           [](const BoundProduct& bound, std::int64_t rows) { return bound.product.scratch_size(rows); })
      .def("multiply", &multiply, py::arg("hidden_states"), py::arg("out"), py::arg("scratch"), py::arg("stream"));
  m.def("open_cublas_lt", &open_cublas_lt, py::arg("workspace"), py::arg("names") = std::vector<std::string>{},
        "cuBLASLt as ASSAY_CUDA_GEMM says, by these file names where any are given.");
  m.def("linear", &linear, py::arg("hidden_states"), py::arg("weight"), py::arg("activation"), py::arg("residual"),
        py::arg("out"), py::arg("num_rows"), py::arg("stream"), py::arg("tile") = "auto");
}

}  // namespace assay::cuda
