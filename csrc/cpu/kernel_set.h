// Every kernel, in dependency order, and the table row they make up. A kernels_<isa>.cpp includes this once, inside
// the anonymous namespace of its ISA, after defining what differs.
#pragma once

// Block fixed point is the bfloat16 mode of those that multiply integers faster than float32 and have nothing for
// bfloat16.
#if (defined(__AVX2__) && !defined(__AVX512F__)) || (defined(__AVX512VNNI__) && !defined(__AVX512BF16__))
#define ASSAY_FIXED_POINT
#endif

// clang-format off: the order is the dependency order
#include "cpu/vec_math.h"
#include "cpu/vec_int.h"
#include "cpu/run_scale.h"
#include "cpu/activation.h"
#if defined(ASSAY_AMX)
#include "cpu/activation_amx.h"
#endif
#include "cpu/gemm_tiles.h"
#if defined(ASSAY_AMX)
#include "cpu/gemm_amx.h"
#endif
#if defined(ASSAY_FIXED_POINT)
#include "cpu/gemm_fixed.h"
#endif
#if defined(ASSAY_AMX)
#include "cpu/gemm_amx_int8.h"
#else
#include "cpu/gemm_int8.h"
#endif
#include "cpu/gemm_policies.h"
#include "cpu/norm.h"
#include "cpu/gemm_panels.h"
#include "cpu/gemm_finish.h"
#if defined(ASSAY_AMX)
#include "cpu/gemm_finish_amx.h"
#endif
#include "cpu/gemm_take.h"
#if defined(ASSAY_AMX)
#include "cpu/gemm_drive_amx.h"
#endif
#include "cpu/gemm.h"
#include "cpu/head_products.h"
#include "cpu/attention.h"
#include "cpu/row_attention.h"
#include "cpu/embedding.h"
#include "cpu/rotary.h"
#include "cpu/pooling.h"
#include "cpu/channel_blocks.h"
#include "cpu/causal_conv1d.h"
#include "cpu/selective_scan.h"
#include "cpu/transformer_layer.h"
#include "cpu/head.h"
#include "cpu/peak.h"
// clang-format on

constexpr KernelTable make_table(Isa isa) {
  return {.isa = isa,
          .arithmetic_name = arithmetic_name,
          .packed_weight_size = packed_weight_size,
          .pack_weight = pack_weight,
          .linear = linear,
          .embed = embed,
          .layer_norm = layer_norm,
          .rms_norm = rms_norm,
          .rotary = rotary,
          .attention = attention,
          .pool = pool,
          .causal_conv1d = causal_conv1d,
          .selective_scan = selective_scan,
          .classifier_head = classifier_head,
          .transformer_layer = transformer_layer,
          .transformer_layer_workspace_size = transformer_layer_workspace_size,
          .transformer_layer_scratch_size = transformer_layer_scratch_size,
          .run_peak = run_peak};
}
