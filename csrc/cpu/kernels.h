// The one table: per ISA, one row of entry points. kernels.cpp picks; nobody else asks which ISA runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "common/params.h"
#include "cpu/isa.h"
#include "cpu/thread_pool.h"

namespace assay::cpu {

struct KernelTable {
  Isa isa;
  // Words that say how a weight of this arithmetic is multiplied, for the start-up log ("bf16x3 tiles", "fma").
  const char* (*arithmetic_name)(Arithmetic arithmetic);
  std::size_t (*packed_weight_size)(std::int64_t out_features, std::int64_t in_features, Arithmetic arithmetic,
                                    bool is_gated);
  void (*pack_weight)(const PackWeightParams& params, ThreadPool& pool);
  void (*linear)(const LinearParams& params, ThreadPool& pool);
  void (*embed)(const EmbedParams& params, ThreadPool& pool);
  void (*layer_norm)(const LayerNormParams& params, ThreadPool& pool);
  void (*rms_norm)(const RmsNormParams& params, ThreadPool& pool);
  void (*rotary)(const RotaryParams& params, ThreadPool& pool);
  void (*attention)(const AttentionParams& params, ThreadPool& pool);
  void (*pool)(const PoolParams& params, ThreadPool& pool);
  void (*causal_conv1d)(const CausalConv1dParams& params, ThreadPool& pool);
  void (*selective_scan)(const SelectiveScanParams& params, ThreadPool& pool);
  void (*classifier_head)(const ClassifierHeadParams& params, ThreadPool& pool);
  void (*transformer_layer)(const TransformerLayerParams& params, ThreadPool& pool);
  std::size_t (*transformer_layer_workspace_size)(const TransformerLayerParams& params);
  // Bytes of scratch of each thread.
  std::size_t (*transformer_layer_scratch_size)(const TransformerLayerParams& params);
  // Multiply-adds on registers only, on every thread; returns the operations done (benches time it).
  double (*run_peak)(Arithmetic arithmetic, std::int64_t rounds, ThreadPool& pool);
};

// The rows, one per kernels_<isa>.cpp; nullptr where this build has none (not an x86 machine).
const KernelTable* kernel_table(Isa isa);
const KernelTable* kernel_table_by_index(int isa_idx);

// The row in use: ASSAY_FORCE_ISA if set (throws std::invalid_argument on a wrong or unsupported name), else the best
// supported one. set_active_isa changes it for calls that follow.
const KernelTable& active_table();
void set_active_isa(const char* name);

}  // namespace assay::cpu
