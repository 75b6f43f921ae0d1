"""Every trajectory's own value projection: SVP and dense Gaussian noise on W_V, in plain PyTorch.

The noise belongs to trajectory and layer, not to a position (`sites.FIXED`), so a trajectory keeps one W_V from where
its scope begins to its last stochastic pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from latent_ext.models.value_projection import value_spectrum, value_weight
from latent_ext.ops import philox, sites
from latent_ext.samplers import Sampler


class ValueNoise:
    """Noise on W_V bound to trajectories.

    Args:
        alpha: of the singular values, 0 for none.
        sigma: of every weight, 0 for none.
        seed: int64 [1].
        keys: int64 [trajectories].
    """

    def __init__(self, alpha: float, sigma: float, seed: Tensor, keys: Tensor) -> None:
        self.alpha, self.sigma, self.seed, self.keys = alpha, sigma, seed, keys
        self._normals: dict[tuple[int, int], Tensor] = {}

    @classmethod
    def of(cls, sampler: Sampler, seed: Tensor, keys: Tensor) -> ValueNoise | None:
        """What `sampler` asks for; None for nothing."""
        if sampler.svp == 0.0 and sampler.wv == 0.0:
            return None
        return cls(sampler.svp, sampler.wv, seed, keys)

    def _drawn(self, layer: int, kind: int, count: int) -> Tensor:
        """float32 [trajectories, count]; drawn once, since all passes of a trajectory share them."""
        if (layer, kind) not in self._normals:
            site = sites.layer_site(layer, kind)
            self._normals[layer, kind] = philox.normals(self.seed, self.keys, sites.FIXED, site, count)
        return self._normals[layer, kind]

    def spectral(self, layer: int, rank: int) -> Tensor:
        """alpha * g, float32 [trajectories, rank]."""
        return self.alpha * self._drawn(layer, sites.VALUE_NOISE, rank)

    def dense(self, layer: int, shape: torch.Size) -> Tensor:
        """sigma * e, float32 [trajectories, values, hidden]."""
        drawn = self._drawn(layer, sites.VALUE_WEIGHTS, shape.numel())
        return self.sigma * drawn.reshape(-1, *shape)

    def shift(self, body: PreTrainedModel, layer: int, normed: Tensor) -> Tensor:
        """By how much the values of a layer move.

        Args:
            body: whose W_V it is.
            layer: of the body.
            normed: [rows, hidden], what the layer's attention reads; the same number of neighbouring rows for each
                trajectory.

        Returns:
            float32 [rows, values].
        """
        x = normed.to(torch.float32).reshape(len(self.keys), -1, normed.shape[-1])
        shift = x.new_zeros(())
        if self.alpha > 0.0:
            spectrum = value_spectrum(body, layer)
            scale = self.spectral(layer, len(spectrum.right)).unsqueeze(1)
            shift = shift + ((x @ spectrum.right.t()) * scale) @ spectrum.left.t()
        if self.sigma > 0.0:
            shift = shift + x @ self.dense(layer, value_weight(body, layer).shape).transpose(1, 2)
        return shift.flatten(0, 1)

    def weight(self, body: PreTrainedModel, layer: int) -> Tensor:
        """Each trajectory's W_V itself, float32 [trajectories, values, hidden]: what the reference multiplies by."""
        own = value_weight(body, layer).to(torch.float32).expand(len(self.keys), -1, -1)
        if self.alpha > 0.0:
            spectrum = value_spectrum(body, layer)
            factors = 1.0 + self.spectral(layer, len(spectrum.right))
            own = (spectrum.left * factors.unsqueeze(1)) @ spectrum.right
        return own + self.dense(layer, own.shape[1:]) if self.sigma > 0.0 else own
