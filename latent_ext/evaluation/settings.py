"""Settings of a run: everything that its results depend on, and a hash of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch

from latent_ext import _native
from latent_ext._version import __version__
from latent_ext.engine import choose_engine
from latent_ext.evaluation.datasets import Dataset
from latent_ext.evaluation.worker import Worker
from latent_ext.models.latent_model import hash_weights


def settings_of(worker: Worker, datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Settings of the run of a recipe, plain values with a "hash" over the rest.

    Two runs with the same hash have the same ledger: for the native engine bit for bit. Shards, executors, threads,
    batches and places of files are not part of it.
    """
    recipe = worker.recipe
    engine, choice = choose_engine(
        worker.model, recipe.engine, max_answer_tokens=recipe.max_answer_tokens, weights=recipe.weights
    )
    arms = []
    for arm in recipe.arms:
        reward = recipe.reward_of(arm)
        arms.append(
            {
                "name": arm.name,
                "kind": "pool" if arm.is_pool else "search",
                "greedy": arm.is_greedy,
                **({"n": arm.n} if arm.is_pool else {}),
                **arm.settings,
                "reward": reward,
            }
        )
    found = {
        "version": __version__,
        "model": recipe.model,
        "weights_hash": worker.model.weights_hash,
        "family": worker.model.family.name,
        "latent_length": worker.model.family.latent_length,
        "switches": worker.model.semantics.differences(),
        "rewards": {name: _reward_hash(reward) for name, reward in worker.rewards.items()},
        "reward_positions": recipe.reward_positions,
        "engine": choice.name,
        "weights": engine.weights,
        "device": worker.model.device.type,
        "isa_class": isa_class(),
        # The native engine owes its bits to nobody; the others to the library's matrix products.
        "torch": None if choice.name == "native" else torch.__version__,
        "max_answer_tokens": recipe.max_answer_tokens,
        "datasets": [{"name": one.name, "problems": len(one.problems), "hash": one.hash} for one in datasets],
        "arms": arms,
        "seeds": list(recipe.seeds),
        "at": list(recipe.at),
        "checker": recipe.checker,
    }
    return found | {"hash": settings_hash(found)}


def settings_hash(settings: dict[str, Any]) -> str:
    """32 hex digits of the BLAKE2b over the canonical JSON of all but "hash"."""
    rest = {name: value for name, value in settings.items() if name != "hash"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def isa_class() -> str:
    """ISA levels that give the same bits have one class: "fma" for AVX2 and AVX-512, "default" below."""
    return "default" if _native.cpu_capability() == "default" else "fma"


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two settings, one phrase each; names alone where a value is long."""
    listed = []
    for name in sorted({*found, *wanted} - {"hash"}):
        old, new = found.get(name), wanted.get(name)
        if old == new:
            continue
        if (
            isinstance(old, list)
            and isinstance(new, list)
            and all(isinstance(one, dict) for one in [*old, *new])
        ):
            by_name = [{one.get("name"): one for one in side} for side in (old, new)]
            changed = [
                str(key)
                for key in dict.fromkeys([*by_name[0], *by_name[1]])
                if by_name[0].get(key) != by_name[1].get(key)
            ]
            listed.append(f"{name} ({', '.join(changed) or 'their order'})")
        else:
            texts = [
                text if len(text := json.dumps(value)) <= 60 else text[:57] + "..." for value in (old, new)
            ]
            listed.append(f"{name} ({texts[0]}, now {texts[1]})")
    return listed


def _reward_hash(reward: Any) -> str:
    module = getattr(reward, "module", None)
    if isinstance(module, torch.nn.Module):
        return hash_weights(module)
    return hashlib.blake2b(repr(reward).encode(), digest_size=8).hexdigest()
