// From the sums of a panel to results: rescaling of int8, bias, activation.
#pragma once

#include "latent_ext/activation.h"
#include "panel_product.h"

LATENT_EXT_NAMESPACE_BEGIN

struct FloatSums {
  typedef FloatPart Part;
  static constexpr bool kInteger = false;
  static LATENT_EXT_INLINE Part zero() { return FloatPart{}; }
  static LATENT_EXT_INLINE Part load_sum(const float* from) { return load_part(from); }
  static LATENT_EXT_INLINE void store_sum(float* to, const Part& sum) {
    *reinterpret_cast<UnalignedFloatPart*>(to) = sum;
  }
};

// 32-bit integers in the places of floats.
struct IntSums {
  typedef IntPart Part;
  static constexpr bool kInteger = true;
  static constexpr int32_t kOffset = 0;  // what was added to every input
  static LATENT_EXT_INLINE Part zero() { return IntPart{}; }
  static LATENT_EXT_INLINE Part load_sum(const float* from) { return (IntPart)load_part(from); }
  static LATENT_EXT_INLINE void store_sum(float* to, const Part& sum) {
    *reinterpret_cast<UnalignedFloatPart*>(to) = (FloatPart)sum;
  }
};

// Calls body(function) with the activation as a function of Floats.
template <class Body>
LATENT_EXT_INLINE void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kNone:
      return body([](const Floats& x) LATENT_EXT_INLINE_LAMBDA { return x; });
    case Activation::kGeluTanh:
      return body([](const Floats& x) LATENT_EXT_INLINE_LAMBDA { return gelu_tanh(x); });
    case Activation::kGeluErf:
      return body([](const Floats& x) LATENT_EXT_INLINE_LAMBDA { return gelu_erf(x); });
    case Activation::kSilu:
      return body([](const Floats& x) LATENT_EXT_INLINE_LAMBDA { return silu(x); });
    case Activation::kRelu:
      return body([](const Floats& x) LATENT_EXT_INLINE_LAMBDA { return relu(x); });
  }
}

// Sums become fp32: an integer sum, freed of the inputs' offset, times both scales.
template <class Product>
LATENT_EXT_INLINE Floats sum_value(const LinearCall& call, int64_t row, int64_t output, const float* sums) {
  if constexpr (Product::kInteger) {
    const uint32_t* packed_sums = reinterpret_cast<const uint32_t*>(call.linear.sums) + output;
    Words sum = bits_of(load_lanes(sums));
    if constexpr (Product::kOffset != 0) {
      Words weights;
      LATENT_EXT_EACH_PART weights.part[i] =
          *reinterpret_cast<const UnalignedWordPart*>(packed_sums + i * kPartLanes);
      static_assert(Product::kOffset == 128, "the shift below multiplies by 128");
      sum = sum - (weights << 7);
    }
    return float_of_int(sum) * (Floats(call.rows.scales[row]) * load_lanes(call.linear.scales + output));
  } else {
    return load_lanes(sums);
  }
}

template <class Product>
void products(const LinearCall& call, int64_t first_panel, int64_t last_panel) {
  panel_products<Product>(call, first_panel, last_panel,
                          [](const LinearCall& of, int64_t row, int64_t output, int64_t count,
                             const float* sums, float* out) LATENT_EXT_INLINE_LAMBDA {
                            // inside, so that the products are compiled once and not once per activation
                            with_activation(of.activation, [&](auto act) LATENT_EXT_INLINE_LAMBDA {
                              each_sixteen(count, [&](int64_t i, int64_t left) LATENT_EXT_INLINE_LAMBDA {
                                Floats y = sum_value<Product>(of, row, output + i, sums + i);
                                if (of.linear.bias) y = y + load_row(of.linear.bias + output + i, left);
                                store_row(out + i, act(y), left);
                              });
                            });
                          });
}

LATENT_EXT_NAMESPACE_END
