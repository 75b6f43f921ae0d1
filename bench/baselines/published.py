"""Best-of-N as LatentTTS runs it (arXiv 2510.07745, `src/infer_gpt2_rm.py` and its generation loop).

The prompt is copied N times first and read N times; every forward, those of thoughts included, computes the
logits of all its positions; all N answers are decoded, the batch staying whole until the last one ends; then
the LatentRM reads prompt and thoughts of every trajectory again, without a cache.

Three things differ so that results can be compared: the LatentRM gets the real positions (the published call
leaves them out, and its scores move with the padding), it does not read the answers, which no thought's score
can see, and dropout follows the scope that is asked for (the published code's own is "prompt+latent").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from baselines.randomness import Randomness
from baselines.task import CACHE, Outcome, Prompts, Task, choose, until_end


@torch.no_grad()
def best_of_n(task: Task, randomness: Randomness) -> Outcome:
    """N trajectories per question; see the module for what is computed.

    Args:
        task: what is asked.
        randomness: masks and noise.
    """
    hf: Any = task.model.hf
    every = torch.arange(task.rows)
    prompts = Prompts.of(task.model, task.questions).select(every // task.n)
    length = prompts.ids.shape[1]
    cache = DynamicCache()

    def read(inputs: dict[str, Tensor], first: int, last: int, *, stochastic: bool) -> Any:
        """Reads places first .. last - 1 of every row; the output has all logits and hidden states."""
        positions = prompts.positions[:, first:last]
        if first >= length:
            positions = prompts.lengths.unsqueeze(1) + torch.arange(first - length, last - length)
        arguments = {CACHE: cache, "use_cache": True, "output_hidden_states": True}
        arguments |= {"position_ids": positions, "attention_mask": prompts.mask_to(last), **inputs}
        if not stochastic:
            return hf(**arguments)
        with randomness.dropout(task.body, every, positions):
            return hf(**arguments)

    clean = length - 1 if task.sampler.drops and task.sampler.scope == "latent" else 0
    if clean:
        read({"input_ids": prompts.ids[:, :clean]}, 0, clean, stochastic=False)
    output = read({"input_ids": prompts.ids[:, clean:]}, clean, length, stochastic=True)
    thoughts = []
    for t in range(task.latent_length):
        hidden = output.hidden_states[-1][:, -1]
        thought = randomness.noisy(hidden, every, prompts.lengths + t)
        thoughts.append(thought)
        place = length + t
        inputs = {"inputs_embeds": thought.unsqueeze(1)}
        output = read(inputs, place, place + 1, stochastic=t + 1 < task.latent_length)

    token = torch.full((task.rows,), task.model.ids.end)
    ended = torch.zeros(task.rows, dtype=torch.bool)
    written = []
    for place in range(length + task.latent_length, length + task.latent_length + task.max_answer_tokens):
        output = read({"input_ids": token.unsqueeze(1)}, place, place + 1, stochastic=False)
        token = output.logits[:, -1].argmax(dim=1)
        written.append(token)
        ended |= token == task.model.ids.eos
        if ended.all():
            break
    answers = torch.stack(written, dim=1).tolist()
    tokens = {row: until_end(answer, task.model.ids.eos) for row, answer in enumerate(answers)}

    embedding = task.reward_body.get_input_embeddings()
    inputs_embeds = torch.cat([embedding(prompts.ids), torch.stack(thoughts, dim=1)], dim=1)
    behind = prompts.lengths.unsqueeze(1) + torch.arange(task.latent_length)
    hidden = task.reward_body(
        inputs_embeds=inputs_embeds,
        position_ids=torch.cat([prompts.positions, behind], dim=1),
        attention_mask=prompts.mask_to(length + task.latent_length),
        use_cache=False,
    ).last_hidden_state
    logits = task.reward.module.classifier(hidden).squeeze(-1)
    return choose(task, logits[:, length:].float(), tokens)
