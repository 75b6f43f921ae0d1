// The registry of places where randomness enters, mirrored by latent_ext/ops/sites.py.
#pragma once

#include "latent_ext/platform.h"

LATENT_EXT_NAMESPACE_BEGIN

constexpr uint32_t kSiteNoise = 0;
constexpr uint32_t kSiteToken = 1;
constexpr uint32_t kSiteInitialState = 2;
constexpr uint32_t kSiteEmbedding = 3;  // 4..15 are reserved

constexpr uint32_t kSiteFirstLayer = 16;
constexpr uint32_t kSitesPerLayer = 8;
constexpr uint32_t kMaxLayers = 510;

// Offsets within a layer; 5..7 are reserved.
constexpr uint32_t kLayerAttentionOutput = 0;
constexpr uint32_t kLayerMlpOutput = 1;
constexpr uint32_t kLayerAttentionProbabilities = 2;
constexpr uint32_t kLayerValueNoise = 3;
constexpr uint32_t kLayerValueWeights = 4;

// layer in [0, kMaxLayers).
LATENT_EXT_HOST_DEVICE LATENT_EXT_INLINE uint32_t layer_site(uint32_t layer, uint32_t offset) {
  return kSiteFirstLayer + kSitesPerLayer * layer + offset;
}

LATENT_EXT_NAMESPACE_END
