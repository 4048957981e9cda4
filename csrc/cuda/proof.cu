#include <stdexcept>

#include "cuda/chunk.cuh"
#include "cuda/common.cuh"
#include "cuda/device.cuh"
#include "cuda/launch_kernel.h"
#include "cuda/proof.h"

namespace assay::cuda {
namespace {

constexpr std::int64_t kFewerRows[] = {1, 7, 64, 1000};
// Rows repeat after these: a prime, so that equal rows meet every place of a tile.
constexpr std::int64_t kDistinctRows = 61;
constexpr int kThreads = 256;
constexpr std::int64_t kAlignment = 256;
constexpr float kScale = 32.0f;  // lifts what is compared above float16's smallest numbers

std::int64_t aligned(std::int64_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

std::int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

dim3 blocks_of(std::int64_t size) { return dim3(static_cast<unsigned>((size + kThreads - 1) / kThreads)); }

// matrix[row][col], the same for rows that are `period` apart; the second half of a row repeats the first, times
// `sign`.
struct Fill {
  std::int64_t num_rows;
  std::int64_t num_cols;
  std::int64_t period;
  std::uint32_t seed;
  float scale;
  float sign;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T* matrix, Fill p) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.num_rows * p.num_cols) return;
  const std::int64_t row = i / p.num_cols % p.period, col = i % p.num_cols, half = p.num_cols / 2;
  std::uint32_t hash = static_cast<std::uint32_t>(row * half + col % half) + p.seed;
  hash = (hash ^ (hash >> 16)) * 0x45d9f3bu;  // spreads the bits of an index
  hash = (hash ^ (hash >> 16)) * 0x45d9f3bu;
  const float value = static_cast<float>((hash ^ (hash >> 16)) & 0xffffu) / 32768.0f - 1.0f;
  matrix[i] = from_float<T>(value * p.scale * (col < half ? 1.0f : p.sign));
}

__global__ void __launch_bounds__(kThreads) set_kernel(std::uint16_t* words, std::int64_t size, std::uint16_t word) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < size) words[i] = word;
}

__global__ void __launch_bounds__(kThreads)
    copy_kernel(std::uint16_t* to, const std::uint16_t* from, std::int64_t size) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < size) to[i] = from[i];
}

// Raises *differs where a row is not its representative among the kDistinctRows of `expected`.
__global__ void __launch_bounds__(kThreads)
    compare_kernel(const std::uint16_t* out, const std::uint16_t* expected, std::int64_t size, std::int64_t row_size,
                   std::int32_t* differs) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  if (out[i] != expected[i / row_size % kDistinctRows * row_size + i % row_size]) *differs = 1;
}

void fill(void* matrix, DType dtype, const Fill& params, cudaStream_t stream) {
  const auto run = [&](auto* to) {
    launch_kernel(fill_kernel<std::remove_pointer_t<decltype(to)>>, blocks_of(params.num_rows * params.num_cols),
                  dim3(kThreads), 0, stream, to, params);
  };
  if (dtype == DType::kFloat16) return run(static_cast<__half*>(matrix));
  if (dtype == DType::kBFloat16) return run(static_cast<__nv_bfloat16*>(matrix));
  run(static_cast<float*>(matrix));
}

void set(void* words, std::int64_t size, std::uint16_t word, cudaStream_t stream) {
  launch_kernel(set_kernel, blocks_of(size), dim3(kThreads), 0, stream, static_cast<std::uint16_t*>(words), size, word);
}

// Operands on which the order of a sum shows: the second half of every dot product takes back the first, and what is
// left is the rounding on the way, which 16 bits hold as well as 32. On random operands the rounding to 16 bits would
// hide it.
class Proof {
 public:
  Proof(const LtProduct& product, void* memory, cudaStream_t stream) : product_(product), stream_(stream) {
    place(memory);
    const std::int64_t depth = product.weight.in_features;
    fill(x_, dtype(), {kMostProvenRows, depth, kDistinctRows, 1, kScale, 1.0f}, stream);
    fill(weight_, dtype(), {product.features(), depth, product.features(), 0x9e3779b9u, 1.0f, -1.0f}, stream);
    set(bias_, row_words(), 0, stream);
    product_.weight.data = weight_;
    if (product.bias != nullptr) product_.bias = bias_;
  }
  // Only counts.
  explicit Proof(const LtProduct& product) : product_(product), stream_(nullptr) { place(nullptr); }

  std::int64_t size() const { return size_; }

  bool is_invariant(const CublasLt& library, const lt::Algorithm& algorithm) const {
    set(differs_, 2, 0, stream_);
    if (!multiply(library, algorithm, kMostProvenRows, 0xffff)) return false;
    launch_kernel(copy_kernel, blocks_of(kDistinctRows * row_words()), dim3(kThreads), 0, stream_, expected_,
                  static_cast<const std::uint16_t*>(out_), kDistinctRows * row_words());
    compare(kMostProvenRows);
    for (const std::int64_t num_rows : kFewerRows) {
      // Another poison: what an algorithm leaves unwritten must not pass for equal.
      if (!multiply(library, algorithm, num_rows, 0x7fff)) return false;
      compare(num_rows);
    }
    std::int32_t differs = 1;
    ASSAY_CUDA_CHECK(cudaMemcpyAsync(&differs, differs_, sizeof(differs), cudaMemcpyDeviceToHost, stream_));
    ASSAY_CUDA_CHECK(cudaStreamSynchronize(stream_));
    return differs == 0;
  }

 private:
  DType dtype() const { return product_.weight.dtype; }
  // A row of outputs in 16-bit words.
  std::int64_t row_words() const { return product_.features() * element_size(dtype()) / 2; }

  void place(void* memory) {
    const auto take = [&](std::int64_t bytes) {
      const std::int64_t at = size_;
      size_ += aligned(bytes);
      return memory == nullptr ? nullptr : static_cast<char*>(memory) + at;
    };
    const std::int64_t row_bytes = product_.weight.in_features * element_size(dtype());
    x_ = take(kMostProvenRows * row_bytes);
    weight_ = take(product_.features() * row_bytes);
    bias_ = take(row_words() * 2);
    out_ = reinterpret_cast<std::uint16_t*>(take(kMostProvenRows * row_words() * 2));
    expected_ = reinterpret_cast<std::uint16_t*>(take(kDistinctRows * row_words() * 2));
    differs_ = reinterpret_cast<std::int32_t*>(take(sizeof(std::int32_t)));
  }

  bool multiply(const CublasLt& library, const lt::Algorithm& algorithm, std::int64_t num_rows,
                std::uint16_t poison) const {
    set(out_, num_rows * row_words(), poison, stream_);
    const LtOperands operands = {.x = x_,
                                 .x_stride = product_.weight.in_features,
                                 .out = out_,
                                 .out_stride = product_.features(),
                                 .num_rows = num_rows};
    return library.multiply(product_, algorithm, operands, stream_);
  }

  void compare(std::int64_t num_rows) const {
    const std::int64_t size = num_rows * row_words();
    launch_kernel(compare_kernel, blocks_of(size), dim3(kThreads), 0, stream_, static_cast<const std::uint16_t*>(out_),
                  static_cast<const std::uint16_t*>(expected_), size, row_words(), differs_);
  }

  LtProduct product_;
  cudaStream_t stream_;
  void* x_ = nullptr;
  void* weight_ = nullptr;
  void* bias_ = nullptr;
  std::uint16_t* out_ = nullptr;
  std::uint16_t* expected_ = nullptr;
  std::int32_t* differs_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace

std::int64_t proof_scratch_size(const LtProduct& product) { return Proof(product).size(); }

std::optional<lt::Algorithm> prove(const CublasLt& library, const LtProduct& product, void* scratch,
                                   cudaStream_t stream) {
  const Proof proof(product, scratch, stream);
  for (const lt::Algorithm& algorithm : library.candidates(product)) {
    if (proof.is_invariant(library, algorithm)) return algorithm;
  }
  ASSAY_CUDA_CHECK(cudaStreamSynchronize(stream));  // a refusal leaves launches behind that use the scratch
  return std::nullopt;
}

}  // namespace assay::cuda
