"""CoLaR's own layout: a Lightning checkpoint of what was trained, over an unchanged base (xiaomi-research/colar,
arXiv 2505.16552)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.layouts.base_model import has_tokenizer
from latent_ext.models.layouts.layout import Checkpoint, Stored
from latent_ext.models.layouts.peft_names import from_peft, to_peft
from latent_ext.models.semantics import Semantics

_WRAPPER, _POLICY, _HEAD = "llm.", "latent_policy.", "lt_head."
_TABLE = "model.embed_tokens.weight"
# Factor on the head's output by hidden size, from the published configurations of Llama bodies.
_EMBEDDING_STD = {2048: 0.018, 3072: 0.018, 4096: 0.008}
_SEMANTICS = Semantics(stop="sampled", least_thoughts=1, speed=5, marker="first")


class OriginalColar:
    """``llm.base_model.model.*`` adapters and ``latent_policy.*`` with a Gaussian head, in a ``.ckpt``."""

    name = "original-colar"
    families: tuple[str, ...] = ("colar",)

    def semantics(self, family: str) -> Semantics:
        return _SEMANTICS

    def recognises(self, stored: Stored) -> bool:
        return any(name.startswith(_POLICY) for name in stored.tensors)

    def read(self, stored: Stored, family: str | None) -> Checkpoint:
        tensors = {}
        for name, tensor in stored.tensors.items():
            if name.startswith(_POLICY):
                tensors[_HEAD + name.removeprefix(_POLICY)] = tensor
            elif name.startswith(_WRAPPER):
                tensors[from_peft(name.removeprefix(_WRAPPER))] = tensor
            else:
                raise CheckpointError(
                    f"checkpoint {stored.source}: tensor {name!r} belongs to no part of the model"
                )
        if _TABLE not in tensors:
            # What was frozen is the base model's.
            tensors = stored.base.weights(tensors, stored.source) | tensors
        config = dict(stored.config or stored.base.config(tensors, stored.source))
        if "latent_embedding_std" not in config:
            width = config.get("hidden_size")
            if width not in _EMBEDDING_STD:
                raise CheckpointError(
                    f"checkpoint {stored.source}: config.json has no latent_embedding_std, "
                    f"and none is known for a Llama of hidden size {width}"
                )
            config["latent_embedding_std"] = _EMBEDDING_STD[width]
        own = has_tokenizer(stored.directory)
        return Checkpoint(
            layout=self.name,
            family="colar",
            config=config,
            tensors=tensors,
            tokenizer_directory=stored.directory if own else stored.base.directory(tensors, stored.source),
            source=stored.source,
            semantics=_SEMANTICS,
            latent_length=config.get("max_latent_length", config.get("latent_length")),
            file=stored.file,
        )

    def stored_names(self, checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
        """The whole body is written, frozen or not, so that the result needs no base."""
        body = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(_HEAD)}
        named = {_WRAPPER + name: tensor for name, tensor in to_peft(body).items()}
        for name, tensor in checkpoint.tensors.items():
            if name.startswith(_HEAD):
                named[_POLICY + name.removeprefix(_HEAD)] = tensor
        same = checkpoint.layout == self.name
        return checkpoint.file if same else "latent.ckpt", named, checkpoint.config
