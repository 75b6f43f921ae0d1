// The last hidden state becomes the next input embedding: norm, scale, Gaussian noise, and a copy into the
// trajectory's thoughts. One block per row; the row is small enough to come from L1 when it is read again.
#pragma once

#include "draw.cuh"
#include "row_norm.cuh"

namespace latent_ext {

template <typename T>
struct NextThoughtArguments {
  const T* hidden;           // [rows, hidden_size]
  const T* weight;           // [hidden_size] or null
  const T* bias;             // [hidden_size] or null
  const T* log_std;          // [rows, hidden_size] or null
  const int64_t* keys;       // [rows]
  const int64_t* positions;  // [rows]
  const int64_t* seed;       // [1], read here so that a captured graph can be replayed with another seed
  T* next_input;             // [rows, hidden_size]
  T* thoughts;               // [rows, steps, hidden_size] or null
  int hidden_size;
  int64_t steps;
  int64_t step;
  float eps;
  float scale;
  float sigma;
  bool relative;  // sigma is a fraction of the thought's root mean square
  NormKind norm;
  bool wide;  // every row can be read in 16-byte packs
};

constexpr size_t kNextThoughtSharedBytes = (kMomentSums + 1) * kMaxWarps * sizeof(float);

template <typename T>
__global__ void __launch_bounds__(kRowThreads) next_thought_kernel(NextThoughtArguments<T> a) {
  const int64_t row = blockIdx.x, offset = row * a.hidden_size;
  const T* const hidden = a.hidden + offset;
  const int begin = static_cast<int>(threadIdx.x) * kPack<T>,
            stride = static_cast<int>(blockDim.x) * kPack<T>;
  const BlockTeam team{reinterpret_cast<float*>(dynamic_shared())};
  const Moments moments = row_moments(hidden, a.hidden_size, a.wide, a.norm, a.eps, team);
  const auto mean_pack = [&](int first) {
    return normed_pack(load_pack(hidden, first, a.hidden_size, a.wide), a.weight, a.bias, first,
                       a.hidden_size, a.wide, a.norm, moments);
  };

  float sigma = a.sigma;
  if (a.relative && a.sigma != 0.0f) {
    float squares = 0.0f;
    for (int first = begin; first < a.hidden_size; first += stride) {
      const Pack<T> m = mean_pack(first);
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) {
        const float scaled = first + i < a.hidden_size ? a.scale * m.value[i] : 0.0f;
        squares += scaled * scaled;
      }
    }
    sigma = a.sigma * square_root(team.sum(squares, kMomentSums) / static_cast<float>(a.hidden_size));
  }

  const Draw draw = make_draw(*a.seed, a.keys[row], kSiteNoise, a.positions[row]);
  for (int first = begin; first < a.hidden_size; first += stride) {
    Pack<T> z = mean_pack(first);
    if (a.sigma == 0.0f) {
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) z.value[i] = a.scale * z.value[i];
    } else {
      const Pack<T> noise = normal_pack<T>(draw, first);
      if (a.log_std == nullptr) {
#pragma unroll
        for (int i = 0; i < kPack<T>; ++i) z.value[i] = a.scale * z.value[i] + sigma * noise.value[i];
      } else {
        const Pack<T> log_std = load_pack(a.log_std + offset, first, a.hidden_size, a.wide);
#pragma unroll
        for (int i = 0; i < kPack<T>; ++i) {
          const float deviation = portable_exp(log_std.value[i]) * sigma * noise.value[i];
          z.value[i] = a.scale * (z.value[i] + deviation);
        }
      }
    }
    store_pack(a.next_input + offset, first, a.hidden_size, a.wide, z);
    if (a.thoughts != nullptr) {
      store_pack(a.thoughts + (row * a.steps + a.step) * a.hidden_size, first, a.hidden_size, a.wide, z);
    }
  }
}

}  // namespace latent_ext
