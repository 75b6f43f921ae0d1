"""Gamma values from the counter random numbers: what a Dirichlet draw is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_ext.models.thought_rule import DRAW_SHIFT, Draw
from latent_ext.ops import sites

# A proposal is accepted with probability above 0.95, so all of these fail once in 10^41 draws; then the mode is taken.
_PROPOSALS = 32


def log_gammas(shapes: Tensor, ids: Tensor, draw: Draw) -> Tensor:
    """Logarithms of Gamma(shape, 1) values, one per token.

    Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000), with their boost for
    shapes below 1: Gamma(a) = Gamma(a + 1) * u^(1 / a). Logarithms, since the boost of a small shape underflows.
    Element ``draw << 20 | token id`` of site TOKEN: draw 1 is the boost, 2 + 2j and 3 + 2j are proposal j (element
    ``token id`` alone is left to Gumbel noise).

    Args:
        shapes: (rows, n), >= 0; the result of a shape 0 is -inf.
        ids: int64 (rows, n), token ids.

    Returns:
        float64 (rows, n).
    """
    shape = shapes.to(torch.float64)
    boosted = shape + 1.0
    d = (boosted - 1.0 / 3.0).unsqueeze(-1)
    c = 1.0 / (3.0 * d.sqrt())
    proposals = torch.arange(_PROPOSALS, device=ids.device)
    rows, n = ids.shape
    elements = (ids.unsqueeze(-1) | ((2 + 2 * proposals) << DRAW_SHIFT)).reshape(rows, -1)
    x = draw.normals(elements, sites.TOKEN).reshape(rows, n, -1).to(torch.float64)
    u = draw.uniforms(elements + (1 << DRAW_SHIFT), sites.TOKEN).reshape(rows, n, -1)
    v = (1.0 + c * x) ** 3
    log_v = v.clamp(min=torch.finfo(torch.float64).tiny).log()
    accepted = (v > 0) & (u.log() < 0.5 * x * x + d * (1.0 - v + log_v))
    first = accepted.float().argmax(-1, keepdim=True)
    chosen = torch.where(accepted.any(-1, keepdim=True), log_v.gather(-1, first), 0.0).squeeze(-1)
    boost = draw.uniforms(ids | (1 << DRAW_SHIFT), sites.TOKEN).log() / shape
    return d.squeeze(-1).log() + chosen + boost
