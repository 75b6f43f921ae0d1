"""Small calls of every CUDA op, for compute-sanitizer: a script, since a test runner would be checked along with them.

compute-sanitizer --tool memcheck python python_tests/cuda/sanitized_calls.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# One allocation per tensor: a read past a tensor's end is then a read past an allocation's.
os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [
    str(_TESTS.parent),
    str(_TESTS),
    str(_TESTS / "ops"),
    str(_TESTS / "engine"),
    str(_TESTS / "cuda"),
]

import torch  # noqa: E402
from op_cases import DTYPES, OP_NAMES, random_case  # noqa: E402
from random_models import BODIES, MAX_TOKENS, QUESTIONS, SEED, keys_of  # noqa: E402
from torch import Tensor  # noqa: E402

from latent_ext.engine.base import LatentRequest  # noqa: E402
from latent_ext.engine.cuda import CudaEngine  # noqa: E402
from latent_ext.engine.cuda_prompts import PromptCache  # noqa: E402
from latent_ext.engine.cuda_rungs import BIT_EQUAL, rung_report  # noqa: E402
from latent_ext.samplers import Sampler  # noqa: E402


def small_ops() -> None:
    generator = torch.Generator().manual_seed(1)
    for name in OP_NAMES:
        for dtype in DTYPES:
            case = random_case(name, generator, rows=5, hidden=96, dtype=dtype)
            arguments = {n: v.cuda() for n, v in case.arguments.items() if isinstance(v, Tensor)}
            case.with_arguments(**arguments).run()


@torch.no_grad()
def rollouts() -> None:
    """`latent_rollout` with a LatentRM and pruning, on prompts of random keys and values."""
    usable = [choice.name for choice in rung_report("cuda") if choice.usable and choice.name in BIT_EQUAL]
    generator = torch.Generator().manual_seed(2)
    for make_model, make_reward in BODIES.values():
        model, reward = make_model(generator), make_reward(generator)
        model.hf.cuda()
        reward.module.cuda()
        prompts = [model.encode(question) for question in QUESTIONS]
        for rung in usable:
            engine = CudaEngine(model, MAX_TOKENS, "bf16", rung)
            sampler = Sampler.parse("dropout:0.2+noise:0.4")
            cache, scored = (_random_cache(engine, prompts) for _ in range(2))
            request = LatentRequest(prompts, keys_of([p.cpu() for p in prompts], 4), sampler, SEED)
            settings, inputs = engine.inputs(request, cache, scored)
            settings = type(settings)(**(vars(settings) | {"keep": (2, 2, 2, 1), "candidates": 2}))
            engine.roll_out(settings, inputs, reward)


def _random_cache(engine: CudaEngine, prompts: list[Tensor]) -> PromptCache:
    """No graph is recorded here: recording needs the allocator that is switched off."""
    blocks = engine.blocks
    shape = (blocks.layers, len(prompts), blocks.kv_heads, max(map(len, prompts)), blocks.head_dim)
    key, value = (torch.randn(shape, device="cuda").to(blocks.dtype) for _ in range(2))
    lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device="cuda")
    hidden = torch.randn(len(prompts), blocks.hidden_size, device="cuda").to(blocks.dtype)
    return PromptCache(key, value, lengths, hidden)


if __name__ == "__main__":
    small_ops()
    rollouts()
    torch.cuda.synchronize()
    print("all calls returned")
