"""The registry of random sites: every place in a network where randomness enters, and its number.

A random number of `latent_ext` is a function of (run seed, trajectory key, site, position, element) and never
of a generator's state. The same numbers stand in `csrc/include/latent_ext/sites.h`; a test holds the two
together.

One counter word packs the site (12 bits) and the position (20 bits): ``site << 20 | position``.
"""

from __future__ import annotations

POSITION_BITS = 20
SITE_COUNT = 1 << 12  # sites are 0 .. SITE_COUNT - 1
ELEMENT_COUNT = 1 << 34  # elements are 0 .. ELEMENT_COUNT - 1

FIXED = (1 << POSITION_BITS) - 1
"""The position that means "the same for the whole trajectory"; token positions are 0 .. FIXED - 1."""

# Sites of the whole network.
# Where one position draws several times per feature or token, the element is ``draw << 20 | index``; draw 0 is the index.
NOISE = 0  # Gaussian noise on a thought; index = feature, draw = depth step of depth-recurrent models
TOKEN = 1  # Gumbel noise of the token draw and of a soft token; index = vocabulary id, further draws: Dirichlet weights
INITIAL_STATE = (
    2  # states of depth-recurrent models; index = feature, draw 0: the initial one, t + 1: mixed in at step t
)
EMBEDDING = 3  # dropout after the embedding; element = feature index

# Sites of one layer: FIRST_LAYER_SITE + SITES_PER_LAYER * layer + kind.
FIRST_LAYER_SITE = 16
SITES_PER_LAYER = 8
ATTENTION_OUTPUT = 0  # dropout of the attention output before the residual; element = feature index
MLP_OUTPUT = 1  # dropout of the MLP output before the residual; element = feature index
ATTENTION_PROBABILITIES = 2  # dropout of attention probabilities; element = head << 20 | key position
VALUE_NOISE = (
    3  # noise on the singular values of the value projection W_V; element = index of the singular value
)
VALUE_WEIGHTS = 4  # dense noise on W_V; element = output * inputs + input

MAX_LAYERS = (SITE_COUNT - FIRST_LAYER_SITE) // SITES_PER_LAYER
MAX_HEADS = ELEMENT_COUNT >> POSITION_BITS


def layer_site(layer: int, kind: int) -> int:
    """Site of `kind` in a layer.

    Args:
        layer: layer index, 0 .. `MAX_LAYERS` - 1 (510 layers at most).
        kind: `ATTENTION_OUTPUT`, `MLP_OUTPUT`, `ATTENTION_PROBABILITIES`, `VALUE_NOISE`, `VALUE_WEIGHTS` or
            a reserved 5 .. 7.

    Returns:
        The site, ``16 + 8 * layer + kind``.

    Raises:
        ValueError: if `layer` or `kind` is out of range.
    """
    if not 0 <= layer < MAX_LAYERS:
        raise ValueError(
            f"layer must be in [0, {MAX_LAYERS}), got {layer}: sites are numbered up to {SITE_COUNT - 1}"
        )
    if not 0 <= kind < SITES_PER_LAYER:
        raise ValueError(f"kind must be in [0, {SITES_PER_LAYER}), got {kind}")
    return FIRST_LAYER_SITE + SITES_PER_LAYER * layer + kind


def attention_element(head: int, key_position: int) -> int:
    """Element of the attention probability of `head` towards `key_position`: ``head << 20 | key_position``.

    Raises:
        ValueError: if `head` is not in [0, `MAX_HEADS`) or `key_position` not in [0, 2**20).
    """
    if not 0 <= head < MAX_HEADS:
        raise ValueError(f"head must be in [0, {MAX_HEADS}), got {head}")
    if not 0 <= key_position < 1 << POSITION_BITS:
        raise ValueError(f"key_position must be in [0, {1 << POSITION_BITS}), got {key_position}")
    return head << POSITION_BITS | key_position
