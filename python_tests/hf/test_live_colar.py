"""`accelerate` on a live CoLaR: its own tokens, numbers of thoughts of its rows, and the untouched model back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from live_colar import EOS, LATENT, SEPARATOR, colar_prompts, live_colar, stock_colar
from live_models import batch_of, live_model, prompts
from random_models import projector_module, random_llama_reward, random_reward
from torch import nn
from transformers import StoppingCriteriaList

import latent_ext
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards import LatentRM, save_reward

MOST, NEW = 5, 16
FULL = {"return_dict_in_generate": True, "max_latent_length": MOST, "max_new_tokens": NEW}
NOISE = {"latent_do_sample": True, "latent_do_sample_by": "noise", "noise_std": 0.3}


def thought_counts(written: torch.Tensor) -> list[int]:
    """Latent tokens before each row's separator; an answer may hold the token, too."""
    return [row.index(SEPARATOR) for row in written.tolist()]


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_without_sampling_it_writes_what_the_stock_modules_write(
    generator: torch.Generator, engine: str
) -> None:
    model, listed = live_colar(generator), colar_prompts(generator)
    batch, undecided = batch_of(listed), 0
    output = latent_ext.accelerate(model, engine=engine).generate(**batch, **FULL)
    length = batch["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], batch["input_ids"])
    counts = thought_counts(output.sequences[:, length:])
    assert output.latent_thoughts.shape == (len(listed), max(counts), model.config.hidden_size)
    for row, prompt in enumerate(listed):
        stock = stock_colar(model, prompt, most=MOST, max_new_tokens=NEW)
        written = output.sequences[row, length:].tolist()
        assert written[: stock.decided] == stock.tokens[: stock.decided]
        if stock.decided < len(stock.tokens):
            undecided += 1
            continue
        assert set(written[stock.decided :]) <= {EOS}
        assert counts[row] == len(stock.thoughts)
        assert_close(output.latent_thoughts[row, : counts[row]], stock.thoughts, "latent_phase")
        assert not output.latent_thoughts[row, counts[row] :].any()
    assert undecided <= 2


def rows_of(output, length: int) -> list[tuple[list[int], torch.Tensor]]:  # type: ignore[no-untyped-def]
    """Per row what was written, without padding, and its own thoughts."""
    found = []
    counts = thought_counts(output.sequences[:, length:])
    rows = zip(output.sequences[:, length:].tolist(), output.latent_thoughts, counts, strict=True)
    for written, thoughts, count in rows:
        end = written.index(EOS) + 1 if EOS in written else len(written)
        found.append((written[:end], thoughts[:count]))
    return found


def test_sampled_rows_do_not_depend_on_those_beside_them(generator: torch.Generator) -> None:
    served, listed = latent_ext.accelerate(live_colar(generator), seed=3), colar_prompts(generator)
    batch = batch_of(listed)
    together = rows_of(
        served.generate(**batch, num_return_sequences=4, **FULL, **NOISE), batch["input_ids"].shape[1]
    )
    assert any(not torch.equal(together[4 * b][1], together[4 * b + 1][1]) for b in range(len(listed)))
    for row, prompt in enumerate(listed[:3]):
        alone = served.generate(prompt.unsqueeze(0), num_return_sequences=2, **FULL, **NOISE)
        for mine, other in zip(rows_of(alone, len(prompt)), together[4 * row : 4 * row + 2], strict=True):
            assert mine[0] == other[0]
            assert_close(mine[1], other[1], "latent_phase")


def test_every_row_is_thoughts_the_separator_and_an_answer_within_the_limit(
    generator: torch.Generator,
) -> None:
    batch = batch_of(colar_prompts(generator))
    served = latent_ext.accelerate(live_colar(generator), seed=3)
    output = served.generate(**batch, num_return_sequences=4, **FULL, **NOISE)
    length = batch["input_ids"].shape[1]
    assert output.sequences.shape[1] <= length + NEW
    for written, thoughts in rows_of(output, length):
        assert len(thoughts) <= MOST
        assert written[: len(thoughts) + 1] == [LATENT] * len(thoughts) + [SEPARATOR]


def test_stop_rules_are_asked_in_each_rows_own_answer(generator: torch.Generator) -> None:
    model, batch = live_colar(generator), batch_of(colar_prompts(generator))
    served, length = latent_ext.accelerate(model), batch["input_ids"].shape[1]
    plain = served.generate(**batch, **FULL).sequences[:, length:].tolist()

    def two_answer_tokens(ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        ends = [row[length:].index(SEPARATOR) if SEPARATOR in row[length:] else NEW for row in ids.tolist()]
        return torch.tensor([ids.shape[1] - length - end - 1 >= 2 for end in ends])

    criteria = StoppingCriteriaList([two_answer_tokens])  # type: ignore[list-item]
    cut = served.generate(**batch, **FULL, stopping_criteria=criteria).sequences[:, length:].tolist()
    for whole, shorter in zip(plain, cut, strict=True):
        first = whole.index(SEPARATOR) + 1
        assert shorter[: first + 2] == whole[: first + 2][: len(shorter)]
        assert set(shorter[first + 2 :]) <= {EOS}


def test_custom_generate_serves_it_too(generator: torch.Generator) -> None:
    model, listed = live_colar(generator), colar_prompts(generator)
    batch = batch_of(listed)
    wanted = latent_ext.accelerate(model).generate(**batch, **FULL).sequences
    model.restore()
    found = latent_ext.generate(
        model,
        batch["input_ids"],
        generation_config=latent_ext.LatentGenerationConfig(
            max_latent_length=MOST, max_length=batch["input_ids"].shape[1] + NEW, eos_token_id=EOS
        ),
        attention_mask=batch["attention_mask"],
    )
    assert torch.equal(found, wanted)


def test_restore_gives_the_untouched_model_back(generator: torch.Generator) -> None:
    model = live_colar(generator)
    before = dict(vars(model))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    served = latent_ext.accelerate(model)
    served.generate(**batch_of(colar_prompts(generator)), **FULL, **NOISE)
    assert served.restore() is model
    assert vars(model).keys() == before.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


class Classifier(nn.Module):
    """``COCONUT...ForTokenClassification`` as far as weights and names go, with CODI's projector."""

    def __init__(self, reward: LatentRM) -> None:
        super().__init__()
        self.add_module(reward.module.body.base_model_prefix, reward.module.body)
        self.projector, self.classifier = reward.module.applied_projector, reward.module.classifier


@pytest.mark.parametrize("family", ["colar", "codi"])
def test_a_live_projected_latent_rm_scores_as_its_saved_file(
    generator: torch.Generator, tmp_path: Path, family: str
) -> None:
    colar = family == "colar"
    model = live_colar(generator) if colar else live_model(generator, "codi", "gpt2")
    reward = (random_llama_reward if colar else random_reward)(generator)
    size = model.config.hidden_size
    reward.module.add_module("projector", projector_module(size, size + 5).eval().requires_grad_(False))
    save_reward(reward, tmp_path)
    batch = batch_of(colar_prompts(generator) if colar else prompts())
    how = (FULL if colar else FULL | {"max_latent_length": None, "latent_length": MOST}) | NOISE
    served = latent_ext.accelerate(model, seed=2)
    outputs = [
        served.generate(**batch, num_return_sequences=3, process_reward_model=one, **how)
        for one in (latent_ext.load_reward(tmp_path), Classifier(reward).eval())
    ]
    assert outputs[0].reward_scores.shape == outputs[0].latent_thoughts.shape[:2]
    assert torch.equal(outputs[0].reward_scores, outputs[1].reward_scores)
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    if colar:
        counts = torch.tensor(thought_counts(outputs[1].sequences[:, batch["input_ids"].shape[1] :]))
        behind = torch.arange(outputs[1].reward_scores.shape[1]) >= counts.unsqueeze(1)
        assert not outputs[1].reward_scores[behind].any()


def test_a_projector_of_another_form_is_refused(generator: torch.Generator) -> None:
    reward = random_llama_reward(generator)
    reward.module.add_module("projector", nn.Linear(4, 4))
    served = latent_ext.accelerate(live_colar(generator))
    with pytest.raises(ValueError, match=r"^process_reward_model: its projector is not CODI's"):
        served.generate(
            **batch_of(colar_prompts(generator)), process_reward_model=Classifier(reward).eval(), **FULL
        )


@pytest.mark.parametrize(
    ("argument", "how"),
    [
        ("latent_length", {"max_latent_length": None, "latent_length": 4}),
        ("max_latent_length", {"max_latent_length": 0}),
        ("max_new_tokens", {"max_new_tokens": MOST + 1}),
        ("num_beams", {"num_beams": 3, "num_beam_candidates": 2}),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    generator: torch.Generator, argument: str, how: dict[str, object]
) -> None:
    served = latent_ext.accelerate(live_colar(generator))
    reward = random_llama_reward(generator)
    with pytest.raises(ValueError, match=rf"^{argument}: "):
        served.generate(**batch_of(colar_prompts(generator)), process_reward_model=reward, **FULL | how)


def test_a_model_that_does_not_fit_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"^family: 'colar' forms thoughts through a submodule 'lt_head'"):
        latent_ext.accelerate(live_model(generator, "coconut", "llama"), family="colar")
    model = live_colar(generator)
    with pytest.raises(ValueError, match=r"^family: 'coconut'"):
        latent_ext.accelerate(model, family="coconut")
    with pytest.raises(ValueError, match=r"^model: is one of family 'colar'"):
        latent_ext.LatentForCausalLM.wrap(model)
    model.config.latent_embedding_std = -1.0
    with pytest.raises(ValueError, match=r"^latent_embedding_std: "):
        latent_ext.accelerate(model)
    model.config.latent_embedding_std, model.config.latent_id = 0.1, -1
    with pytest.raises(ValueError, match=r"^latent_id: "):
        latent_ext.accelerate(model)
