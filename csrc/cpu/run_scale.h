// The scale that a run of numbers shares when they become integers. Included inside an ISA's namespace after vec_int.h.
#pragma once

// The largest magnitude of `count` numbers as its bits. The order of bits of non-negative floats is the order of
// integers, with infinity and NaN on top.
template <int kCount>
std::int32_t largest_bits(const float* run) {
  IntVec most = int_zero();
  for (int i = 0; i < kCount; i += kVecWidth) most = int_max(most, magnitude_bits(vec_load(run + i)));
  return int_max_of(most);
}

// What a number is multiplied by to become an integer of magnitude <= `steps`, and the scale that brings it back. NaN
// or infinity in a run makes the scale NaN: every product with that token, and no other, is NaN. Runs below 1e-30 are
// taken as zero.
struct RunScale {
  float to_int, from_int;

  RunScale(std::int32_t largest_bits, float steps) {
    float largest;
    memcpy(&largest, &largest_bits, sizeof largest);
    const bool is_finite = largest_bits < 0x7F800000;
    const bool is_zero = largest < 1e-30f;
    to_int = is_finite && !is_zero ? steps / largest : 0.0f;
    from_int = !is_finite ? __builtin_nanf("") : is_zero ? 0.0f : largest / steps;
  }
};

// The least and the largest of a run of inputs, and whether all are finite.
struct RunSpan {
  Vec least = vec_set1(__builtin_inff()), most = vec_set1(-__builtin_inff());
  IntVec bits = int_zero();

  template <int kCount>
  void add(const float* run) {
    for (int i = 0; i < kCount; i += kVecWidth) {
      const Vec v = vec_load(run + i);
      least = vec_min(least, v);
      most = vec_max(most, v);
      bits = int_max(bits, magnitude_bits(v));
    }
  }
};

// How the inputs of a span become bytes: a number is least + from_int * a whole number up to `steps`, so that a run of
// one sign, as activations leave it, loses no bit. NaN and infinity as in RunScale; a span below 1e-30 is taken as a
// constant.
struct ByteScale {
  float to_int, from_int, least;

  ByteScale(const RunSpan& span, float steps) {
    least = -vec_max_of(vec_sub(vec_zero(), span.least));
    const float size = vec_max_of(span.most) - least;
    const bool is_finite = int_max_of(span.bits) < 0x7F800000;
    const bool is_constant = size < 1e-30f;
    to_int = is_finite && !is_constant ? steps / size : 0.0f;
    from_int = !is_finite ? __builtin_nanf("") : is_constant ? 0.0f : size / steps;
  }
};

// kCount inputs of a span to bytes; `out` may start where they do, because each step writes behind what it has read.
template <int kCount>
void store_run(const float* run, float least, float to_int, char* out) {
  const Vec from = vec_set1(least), factor = vec_set1(to_int);
  for (int i = 0; i < kCount; i += kByteRun) store_bytes(run + i, from, factor, out + i);
}
