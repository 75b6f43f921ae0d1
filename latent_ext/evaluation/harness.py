"""A latent reasoning model as a model of EleutherAI's lm-evaluation-harness (extra "harness").

Its ``generate_until`` tasks then run N trajectories per question inside and hand over the chosen one's text:

    python -m latent_ext.evaluation.harness run --model latent_ext --model_args pretrained=shipped,n=16 \\
        --include_path examples/harness --tasks latent_ext_arithmetic

The harness finds models by imports, so this module registers the name "latent_ext" and then is the harness's own command
line. From Python, importing it is enough: ``lm_eval.simple_evaluate(model="latent_ext", model_args={...}, ...)``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise ImportError(
        f"latent_ext.evaluation.harness needs the extra 'harness': pip install 'latent_ext[harness]' ({error})"
    ) from None

from latent_ext.models.load import load
from latent_ext.rewards.latent_rm_files import load_reward
from latent_ext.search.solve import solve

_NONE = ("", "none", "None", None)


@register_model("latent_ext")
class LatentExtLM(LM):  # type: ignore[misc, unused-ignore]
    """Best-of-N, votes or beam search over thoughts, behind the harness's ``generate_until``.

    Args:
        pretrained: "shipped", a directory or a Hub id, as in `latent_ext.load`.
        reward: likewise, as in `latent_ext.load_reward`; "none" for none, by default.
        n: trajectories per question; None with ``select="beam"``.
        sampler: as in `latent_ext.solve`.
        question_field: the field of a task's documents that holds the bare question. Default: what the model reads is the
            task's own text, few-shot examples and "Question:" included, which few latent models were trained on.
        max_answer_tokens: longest answer; a task's ``max_gen_toks`` can only lower it.
        seed: run seed; repeat k of a request is drawn with seed + k.
        family, latent_length, device: as in `latent_ext.load`.
        batch_size, max_batch_size: of the harness, not used: memory is planned by `latent_ext.solve`.
        settings: further keywords of `latent_ext.solve`: select, scope, temperature, engine, weights, beams, ...

    How trajectories are drawn is said by these arguments. A task's ``do_sample`` and ``temperature`` are not used, with a
    warning where they ask for sampling.

    Raises:
        ValueError: naming the argument at fault, what came and what is allowed.
    """

    def __init__(
        self,
        pretrained: str = "shipped",
        reward: str | None = None,
        n: int | None = None,
        sampler: str = "dropout:0.2",
        question_field: str | None = None,
        max_answer_tokens: int = 64,
        seed: int = 0,
        family: str | None = None,
        latent_length: int | None = None,
        device: str | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        place = device or "cpu"
        if place.startswith("cuda") and not torch.cuda.is_available():
            # The harness's command line asks for cuda:0 where nothing was said.
            warnings.warn(
                f"device: no CUDA device for {place!r}; the CPU is taken", UserWarning, stacklevel=2
            )
            place = "cpu"
        self.model = load(pretrained, family=family, latent_length=latent_length, device=place)
        self.reward = None if reward in _NONE else load_reward(str(reward), device=place)
        self.question_field, self.seed, self.longest = question_field, seed, max_answer_tokens
        self.settings = {"n": n, "sampler": sampler, **settings}

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The chosen trajectory's text per request, cut at the first of the task's ``until`` texts; "" for none.

        Args:
            requests: with ``args`` (context, generation keywords) and ``doc``.
            disable_tqdm: no progress bar.
        """
        from tqdm import tqdm

        # What differs in length or repeat runs apart: seed and longest answer belong to a whole run.
        groups: dict[tuple[int, int], list[int]] = {}
        seen: dict[int, int] = {}
        for place, request in enumerate(requests):
            repeat = seen.get(id(request), 0)
            seen[id(request)] = repeat + 1
            groups.setdefault((self._longest(request.args[1]), repeat), []).append(place)
        texts = [""] * len(requests)
        with tqdm(disable=disable_tqdm, desc="latent_ext", unit=" trajectories") as bar:
            for (longest, repeat), places in groups.items():
                results = solve(
                    self.model,
                    [self._question(requests[place]) for place in places],
                    reward=self.reward,
                    seed=self.seed + repeat,
                    max_answer_tokens=longest,
                    progress=lambda done, total, before=bar.n: bar.update(before + done - bar.n),  # type: ignore[misc]
                    **self.settings,
                )
                for place, result in zip(places, results, strict=True):
                    chosen = "" if result.best is None else result.best.text or ""
                    texts[place] = cut_at(chosen, requests[place].args[1].get("until"))
        return texts

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> NoReturn:
        """Refused: see the error."""
        self._refuse("loglikelihood")

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> NoReturn:
        """Refused: see the error."""
        self._refuse("loglikelihood_rolling")

    @staticmethod
    def _refuse(kind: str) -> NoReturn:
        raise ValueError(
            f"latent_ext: {kind} requests are refused: the probability of a text depends on the sampled thoughts; "
            "tasks with output_type generate_until are allowed"
        )

    def _question(self, request: Any) -> str:
        if self.question_field is None:
            return str(request.args[0])
        if self.question_field not in request.doc:
            known = ", ".join(sorted(request.doc))
            raise ValueError(
                f"question_field: got {self.question_field!r}; this task's documents have {known}"
            )
        return str(request.doc[self.question_field])

    def _longest(self, keywords: dict[str, Any]) -> int:
        if keywords.get("do_sample") and not self.settings.get("temperature"):
            warnings.warn(
                "do_sample: this task asks for sampled tokens; latent_ext samples thoughts, and tokens with temperature=",
                UserWarning,
                stacklevel=3,
            )
        return min(self.longest, int(keywords.get("max_gen_toks", self.longest)))


def cut_at(text: str, until: str | Iterable[str] | None) -> str:
    """`text` up to the first place where one of the `until` texts begins.

    >>> cut_at("### 12 Question: 7", ["Question:", "#### "])
    '### 12 '
    """
    listed = [until] if isinstance(until, str) else list(until or ())
    places = [place for place in (text.find(stop) for stop in listed if stop) if place >= 0]
    return text[: min(places)] if places else text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
