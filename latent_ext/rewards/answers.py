"""A LatentRM that reads the answer, too: one score of the whole trajectory, at the answer's last token.

Behind question and thoughts it reads the answer as text. Three things make the score: its head at the answer's last
token; what is known of the answer without it (whether it is the noise-free one, and how sure the generator was); and the
log probability that its own output embedding gives the answer. The last is worth something because it learns to write
the gold answer behind every trajectory's thoughts, right or wrong: a verifier that scores by next-token prediction
(Zhang et al., "Generative verifiers", arXiv 2408.15240).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from latent_ext.models.family import LatentIds
from latent_ext.rewards.answer_reading import is_noise_free
from latent_ext.rewards.branches import ONE_PASS, branches, read_together, trajectory_layout

if TYPE_CHECKING:
    from latent_ext.models.latent_model import LatentModel
    from latent_ext.rewards.latent_rm import LatentRM, LatentRMModule
    from latent_ext.rewards.reward import Seen

# Inputs of `LatentRMModule.evidence`: what is known of an answer beside the hidden state at its end.
EVIDENCE = ("agreement", "confidence", "likelihood")

# Positions that the noise-free answer leaves to a trajectory's own, so that what is read of it hangs on neither.
ANSWER_ROOM = 24

# Where the canonical answer goes in an `answer_format`.
ANSWER = "{answer}"


@dataclass(frozen=True)
class AnswerScores:
    """What a LatentRM says of answers.

    Attributes:
        scores: float32 [questions, N].
        at_end: [questions, N, hidden], final-norm hidden states at the answers' last tokens.
        gold_likelihood: float32 [questions, N], log probability of the gold answer behind each trajectory's thoughts; None
            where no gold answer was read.
    """

    scores: Tensor
    at_end: Tensor
    gold_likelihood: Tensor | None = None


def answer_ids(
    tokenizer: PreTrainedTokenizerBase, ids: LatentIds, answer_format: str, answer: str | None
) -> list[int]:
    """What stands behind the thoughts: the end token, the answer in its format, and the end of the sequence.

    Args:
        answer_format: with ``{answer}`` where the canonical answer goes.
        answer: canonical; None, of a trajectory without one, reads as the empty text.
    """
    text = answer_format.replace(ANSWER, "" if answer is None else answer)
    written = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [ids.end, *written, ids.eos]


def given_tokens(tokenizer: PreTrainedTokenizerBase, ids: LatentIds, answer_format: str) -> int:
    """How many of `answer_ids` stand before a number's first digit: of what follows a log probability is asked.

    Raises:
        ValueError: for a tokenizer that does not tell numbers apart.
    """
    one, other = (answer_ids(tokenizer, ids, answer_format, digit) for digit in ("1", "2"))
    for place, (a, b) in enumerate(zip(one, other, strict=True)):
        if a != b:
            return place
    raise ValueError(f"tokenizer: reads {answer_format!r} with 1 and with 2 as the same tokens {one}")


def check_answer_format(answer_format: object) -> None:
    """Refuses a format that has no place, or several, for the answer.

    Raises:
        ValueError: saying what is needed.
    """
    if isinstance(answer_format, str) and answer_format.count(ANSWER) == 1:
        return
    raise ValueError(f"answer_format: got {answer_format!r}; a text with {ANSWER} once is needed")


def padded(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """int64 [texts, longest], padded on the right, and int64 [texts], their lengths."""
    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    return ids, lengths


def read_answers(
    module: LatentRMModule,
    ids: Tensor,
    positions: Tensor,
    mask: Tensor,
    thoughts: Tensor,
    answers: Tensor,
    answer_lengths: Tensor,
    known: Tensor,
    given: int,
    golds: Tensor | None = None,
    gold_lengths: Tensor | None = None,
) -> AnswerScores:
    """Scores of the answers of some questions' trajectories, in one pass.

    Args:
        module: with `evidence`.
        ids: int64 [questions, longest], prompts padded on the right.
        positions, mask: from `branches`, over thoughts, answers and, where given, gold answers.
        thoughts: [questions, N, T, hidden].
        answers: int64 [questions, N, A], padded on the right; `answer_lengths`: int64 [questions, N].
        known: float32 [questions, N, 2], agreement and confidence.
        given: tokens at the beginning of every answer that its log probability leaves out, at least 1.
        golds: int64 [questions, G], padded likewise; `gold_lengths`: int64 [questions].
    """
    embed: Any = module.body.get_input_embeddings()
    count, steps = thoughts.shape[1:3]
    texts = [answers] if golds is None else [answers, golds.unsqueeze(1).expand(-1, count, -1)]
    own = torch.cat([thoughts.to(embed.weight.dtype), *(embed(text) for text in texts)], dim=2)
    inputs = torch.cat([embed(ids), own.flatten(1, 2)], dim=1)
    hidden = module.body(
        inputs_embeds=inputs,
        attention_mask=mask.to(inputs.dtype),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state[:, ids.shape[1] :]
    hidden = hidden.unflatten(1, (count, own.shape[2]))
    read = judge_answers(
        module, hidden[:, :, steps : steps + answers.shape[2]], answers, answer_lengths, known, given
    )
    if golds is None or gold_lengths is None:
        return read
    after = hidden[:, :, steps + answers.shape[2] :]
    gold = _likelihood(module, after, texts[1], gold_lengths.unsqueeze(1).expand(-1, count), given)
    return replace(read, gold_likelihood=gold)


def judge_answers(
    module: LatentRMModule,
    hidden: Tensor,
    answers: Tensor,
    answer_lengths: Tensor,
    known: Tensor,
    given: int,
) -> AnswerScores:
    """Scores from final-norm hidden states [questions, N, A, d] at the answers' tokens; arguments as in `read_answers`."""
    place = (answer_lengths - 1)[:, :, None, None].expand(-1, -1, 1, hidden.shape[3])
    at_end = hidden.gather(2, place).squeeze(2)
    likelihood = _likelihood(module, hidden, answers, answer_lengths, given)
    assert module.evidence is not None
    evidence = torch.cat([known.to(likelihood), likelihood.unsqueeze(2)], dim=2)
    weighed = functional.linear(evidence, module.evidence.weight.float()).squeeze(2)
    scores = module.score(at_end).float() + weighed
    return AnswerScores(scores, at_end)


def _likelihood(module: LatentRMModule, hidden: Tensor, text: Tensor, lengths: Tensor, given: int) -> Tensor:
    """float32 [questions, N]: log probability of each text's tokens after the first `given`."""
    predicted = module.next_token_logits(hidden[:, :, given - 1 : -1]).float().log_softmax(dim=3)
    each = predicted.gather(3, text[:, :, given:].unsqueeze(3)).squeeze(3)
    inside = torch.arange(given, text.shape[2], device=text.device) < lengths.unsqueeze(2)
    return each.masked_fill(~inside, 0.0).sum(dim=2)


# (prompt ids [length], inputs [N, places, d] behind it) -> final-norm hidden states [N, places, d].
ReadBehind = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def score_answers(
    reward: LatentRM, model: LatentModel, seen: Seen, read_behind: ReadBehind | None = None
) -> list[float | None]:
    """Scores of one question's trajectories; None for one without an answer, or for which there are too few positions.

    Args:
        reward: that reads answers.
        model: the generator, whose tokenizer writes answers.
        seen: with thoughts and answers.
        read_behind: of an engine that runs the LatentRM's body. Default: plain PyTorch.
    """
    assert seen.thoughts is not None
    assert reward.answer_format is not None
    device, module = reward.head_weight.device, reward.module
    written = {
        answer: answer_ids(model.tokenizer, model.ids, reward.answer_format, answer)
        for answer in set(seen.answers)
    }
    text = [written[answer] for answer in seen.answers]
    given = given_tokens(model.tokenizer, model.ids, reward.answer_format)
    found: list[float | None] = [None] * len(text)
    prompts = {
        steps: reward.prompt(seen.prompt, seen.noise_free_tokens, steps)
        for steps in set(map(len, seen.thoughts))
    }
    readable = [
        n
        for n, (answer, logprob, thoughts) in enumerate(
            zip(seen.answers, seen.logprobs, seen.thoughts, strict=True)
        )
        if answer is not None
        and logprob is not None
        and math.isfinite(logprob)
        and len(prompts[len(thoughts)]) + len(thoughts) + len(text[n]) <= reward.blocks.max_positions
    ]
    if not readable and any(answer is not None for answer in seen.answers):
        warnings.warn(
            f"reward: {reward.name} has no room for any answer behind a prompt of {len(seen.prompt)} tokens; none is scored",
            RuntimeWarning,
            stacklevel=2,
        )
    # An engine reads behind a cache, row by row: no mask bounds how many.
    most = ONE_PASS if read_behind is None else len(text)
    for steps, part in read_together(seen.thoughts, readable, most):
        answers, answer_lengths = padded([torch.tensor(text[n]) for n in part])
        prompt = prompts[steps]
        known = torch.tensor(
            [[is_noise_free(seen.answers[n], seen.noise_free_answer), seen.logprobs[n]] for n in part]
        )
        own = (torch.stack([seen.thoughts[n] for n in part]), answers, answer_lengths, known)
        thoughts, answers, answer_lengths, known = (tensor.unsqueeze(0).to(device) for tensor in own)
        if read_behind is None:
            ids, lengths = padded([prompt.cpu()])
            positions, mask = branches(lengths, len(part), trajectory_layout(steps, (answers.shape[2],)))
            scores = read_answers(
                module,
                ids.to(device),
                positions.to(device),
                mask.to(device),
                thoughts,
                answers,
                answer_lengths,
                known,
                given,
            ).scores[0]
        else:
            embedded = module.body.get_input_embeddings()(answers[0])
            inputs = torch.cat([thoughts[0].to(embedded.dtype), embedded], dim=1)
            hidden = read_behind(prompt, inputs)[:, steps:].unsqueeze(0).to(embedded.dtype)
            scores = judge_answers(module, hidden, answers, answer_lengths, known, given).scores[0]
        for n, score in zip(part, scores.tolist(), strict=True):
            found[n] = score
    return found
