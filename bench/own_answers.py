"""A control for a LatentRM that reads answers: how often is the answer right that it would write itself?

    python bench/own_answers.py

It learned to write the gold answer behind thoughts, on problems that the generator never saw. What it gains by choosing
among the generator's answers must be seen beside what it knows itself: its own answer, by argmax, behind noise-free thoughts
and behind those of one sampled trajectory, on the shipped held-out problems.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor

import latent_ext
from latent_ext.assets import SHIPPED_SAMPLER
from latent_ext.evaluation.metrics import correct_flags
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.models.answers import canonical_number
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards import LatentRM
from latent_ext.rewards.answers import answer_ids, given_tokens

MOST_TOKENS = 16


@torch.no_grad()
def own_answer(model: LatentModel, reward: LatentRM, prompt: Tensor, thoughts: Tensor) -> str | None:
    """What the LatentRM writes behind prompt ids [length] and thoughts [T, hidden]; None where that is no number."""
    assert reward.answer_format is not None
    given = given_tokens(model.tokenizer, model.ids, reward.answer_format)
    written = answer_ids(model.tokenizer, model.ids, reward.answer_format, "1")[:given]
    body = reward.module.body
    embed = body.get_input_embeddings()
    for _ in range(MOST_TOKENS):
        inputs = torch.cat([embed(prompt), thoughts, embed(torch.tensor(written))]).unsqueeze(0)
        hidden = body(inputs_embeds=inputs, use_cache=False).last_hidden_state[0, -1]
        token = int(reward.module.next_token_logits(hidden).argmax())
        if token == model.ids.eos:
            break
        written.append(token)
    return canonical_number(model.decode(written[given:]).replace(" ", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reward", default="answer_rm")
    parser.add_argument("--splits", nargs="+", default=["test_5", "test_6"])
    parser.add_argument("--limit", type=int, default=500, help="problems per split")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, reward = latent_ext.load(), latent_ext.load_reward(asked.reward)
    for split in asked.splits:
        problems = shipped_problems(split, asked.limit)
        questions = [problem.question for problem in problems]
        for sampler in ("none", SHIPPED_SAMPLER):
            how = {"n": 1, "sampler": sampler, "return_thoughts": True}
            results = latent_ext.solve(model, questions, **how)
            generator, own = 0, 0
            for result, problem in zip(results, problems, strict=True):
                generator += correct_flags(result, str(problem.answer))[0]
                thoughts = result.trajectories[0].thoughts
                assert thoughts is not None
                answer = own_answer(model, reward, model.encode(result.question), thoughts)
                own += answer == canonical_number(str(problem.answer))
            row = {"split": split, "thoughts": sampler, "problems": len(problems)}
            print(json.dumps(row | {"generator": generator / len(problems), "own": own / len(problems)}))


if __name__ == "__main__":
    main()
