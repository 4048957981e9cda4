// The arithmetic limit of this machine as a bench measures it: multiply-adds on registers only, no memory. Included
// inside an ISA's namespace after gemm_tiles.h, vec_int.h (and gemm_amx.h).
#pragma once

// More independent chains than latency x throughput of any multiply-add unit so far (4-6 cycles x 2 units).
constexpr int kPeakChains = kVecWidth == 1 ? 8 : 12;

// Keeps the compiler from folding the loop away; costs no instruction.
template <typename Register>
inline void keep_in_register(Register& value) {
#if defined(ASSAY_ISA_EMULATION)
  __asm__ volatile("" : "+m"(value));
#elif defined(__AVX512F__) || defined(__AVX2__)
  __asm__ volatile("" : "+v"(value));
#else
  __asm__ volatile("" : "+x"(value));
#endif
}

// Runs `rounds` rounds; returns the floating-point operations done (a multiply-add counts as two).
inline double run_fma_chains(std::int64_t rounds) {
  Vec chains[kPeakChains];
#pragma GCC unroll 16
  for (int i = 0; i < kPeakChains; ++i) chains[i] = vec_set1(1.0f);
  Vec factor = vec_set1(1.0f);
  Vec addend = vec_set1(0.0f);
  keep_in_register(factor);
  keep_in_register(addend);
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kPeakChains; ++i) {
      chains[i] = vec_fma(chains[i], factor, addend);
      keep_in_register(chains[i]);
    }
  }
  return 2.0 * kVecWidth * kPeakChains * static_cast<double>(rounds);
}

inline double run_bf16_chains(std::int64_t rounds) {
#if defined(ASSAY_AMX)
  tiles_begin();
  TileGeometry::zero_tiles();
  tile_zero<4>();
  tile_zero<5>();
  tile_zero<6>();
  tile_zero<7>();
  for (std::int64_t round = 0; round < rounds; ++round) TileGeometry::multiply<1>(true, Prefetch{nullptr, 0});
  tiles_end();
  return 4.0 * 2 * kTileRows * 16 * 2 * kTilePairs * static_cast<double>(rounds);
#elif defined(__AVX512BF16__)
  __m512 chains[kPeakChains];
#pragma GCC unroll 16
  for (int i = 0; i < kPeakChains; ++i) chains[i] = _mm512_setzero_ps();
  __m512i factor = _mm512_setzero_si512();
  keep_in_register(factor);
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kPeakChains; ++i) {
      chains[i] = _mm512_dpbf16_ps(chains[i], reinterpret_cast<__m512bh>(factor), reinterpret_cast<__m512bh>(factor));
      keep_in_register(chains[i]);
    }
  }
  return 4.0 * kVecWidth * kPeakChains * static_cast<double>(rounds);
#elif defined(ASSAY_FIXED_POINT)
  IntVec chains[kPeakChains];
#pragma GCC unroll 16
  for (int i = 0; i < kPeakChains; ++i) chains[i] = int_zero();
  IntVec factor = int_zero();
  keep_in_register(factor);
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kPeakChains; ++i) chains[i] = add_pairs(chains[i], factor, factor);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kPeakChains; ++i) keep_in_register(chains[i]);
  return 4.0 * kVecWidth * kPeakChains * static_cast<double>(rounds);
#else
  return run_fma_chains(rounds);
#endif
}

inline double run_int8_chains(std::int64_t rounds) {
#if defined(ASSAY_AMX)
  tiles_begin();
  TileGeometry::zero_tiles();
  tile_zero<4>();
  tile_zero<5>();
  tile_zero<6>();
  tile_zero<7>();
  for (std::int64_t round = 0; round < rounds; ++round) TileInt8::multiply(true);
  tiles_end();
  return 4.0 * 2 * kTileRows * 16 * TileInt8::kDepth * static_cast<double>(rounds);
#else
#if defined(__AVX512F__)
  constexpr int kChains = kPeakChains;
#else
  constexpr int kChains = 8;  // each needs registers for its products as well
#endif
  IntVec chains[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) chains[i] = int_zero();
  alignas(8) char bytes[8] = {};
  IntVec factor = int_zero();
  keep_in_register(factor);
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) {
      chains[i] = add_octets(chains[i], factor, bytes, factor, factor);
      keep_in_register(chains[i]);
    }
  }
  return 2.0 * 8 * kVecWidth * kChains * static_cast<double>(rounds);
#endif
}

double run_peak(Arithmetic arithmetic, std::int64_t rounds, ThreadPool& pool) {
  struct State {
    Arithmetic arithmetic;
    std::int64_t rounds;
    double operations;
  } state{arithmetic, rounds, 0.0};
  pool.run(
      [](void* raw, ThreadContext& context) {
        State& shared = *static_cast<State*>(raw);
        const double done = shared.arithmetic == Arithmetic::kInt8       ? run_int8_chains(shared.rounds)
                            : shared.arithmetic == Arithmetic::kBFloat16 ? run_bf16_chains(shared.rounds)
                                                                         : run_fma_chains(shared.rounds);
        if (context.thread_idx() == 0) shared.operations = done * context.num_threads();
      },
      &state);
  return state.operations;
}
