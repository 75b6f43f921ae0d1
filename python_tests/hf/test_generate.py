"""`model.generate(custom_generate=latent_ext.generate)` on stock models: chosen paths, batches, refusals."""

from __future__ import annotations

import pytest
import torch
from live_models import EOS, STEPS, batch_of, live_model, prompts
from random_models import QUESTIONS, SEED, TOKENIZER, random_model, random_reward
from transformers import GPT2LMHeadModel, StoppingCriteria, TextStreamer, pipeline

import latent_ext
from latent_ext.models.coconut import Coconut

NEW = 16
HOW = {
    "custom_generate": latent_ext.generate,
    "latent_length": STEPS,
    "max_new_tokens": NEW,
    "do_sample": False,
}


def generated(model, **how):  # type: ignore[no-untyped-def]
    return model.generate(**{**batch_of(prompts()), **HOW, **how})


def answers_in(sequences: torch.Tensor) -> list[list[int]]:
    """Answer tokens of each row, without padding."""
    first = batch_of(prompts())["input_ids"].shape[1] + STEPS + 1
    return [[token for token in row if token != EOS] for row in sequences[:, first:].tolist()]


@pytest.mark.parametrize("body", ["gpt2", "llama"])
@pytest.mark.parametrize("family", ["coconut", "codi"])
def test_without_a_sampler_it_writes_what_the_accelerated_model_writes(
    generator: torch.Generator, family: str, body: str
) -> None:
    model = live_model(generator, family, body)
    written = generated(model)
    served = latent_ext.accelerate(model).generate(
        **batch_of(prompts()), latent_length=STEPS, max_new_tokens=NEW
    )
    assert torch.equal(written, served)


@pytest.mark.parametrize("select", ["best_of_n", "majority", "weighted_vote"])
def test_it_chooses_the_path_that_solve_chooses(generator: torch.Generator, select: str) -> None:
    loaded, reward = random_model(generator), random_reward(generator)
    how = {"reward": reward, "sampler": "noise:0.5", "select": select, "seed": SEED}
    wanted = latent_ext.solve(
        loaded, list(QUESTIONS), n=8, max_answer_tokens=NEW - STEPS - 1, decode="all", **how
    )
    output = generated(
        loaded.hf, num_paths=8, latent_tokenizer=TOKENIZER, return_dict_in_generate=True, **how
    )
    for row, result in enumerate(wanted):
        if result.chosen is None:
            continue  # no answer was a number: the best-scored path stands for its prompt
        assert int(output.selected_index[row]) == result.chosen
        assert answers_in(output.sequences)[row] == result.best.tokens
        assert output.reward_scores[row].tolist() == result.best.step_scores
    paths = answers_in(output.path_sequences)
    assert paths == [trajectory.tokens for result in wanted for trajectory in result.trajectories]


def test_a_beam_search_returns_its_beams_best_first(generator: torch.Generator) -> None:
    loaded, reward = random_model(generator), random_reward(generator)
    how = {
        "reward": reward,
        "sampler": "noise:0.5",
        "select": "beam",
        "beams": 3,
        "candidates": 2,
        "seed": SEED,
    }
    wanted = latent_ext.solve(loaded, list(QUESTIONS), max_answer_tokens=NEW - STEPS - 1, decode="all", **how)
    model = loaded.hf
    one = generated(model, latent_tokenizer=TOKENIZER, **how)
    two = generated(model, latent_tokenizer=TOKENIZER, return_paths=2, **how)
    for row, result in enumerate(wanted):
        ranked = sorted(result.trajectories, key=lambda trajectory: -trajectory.score)
        assert answers_in(one)[row] == ranked[0].tokens
        assert answers_in(two)[2 * row : 2 * row + 2] == [ranked[0].tokens, ranked[1].tokens]


def test_all_paths_come_back_in_their_order(generator: torch.Generator) -> None:
    model = live_model(generator, "coconut", "gpt2")
    how = {"sampler": "noise:0.5", "seed": SEED, "return_dict_in_generate": True}
    every = generated(model, return_paths=4, **how)
    assert every.selected_index.tolist() == [0, 1, 2, 3] * len(QUESTIONS)
    assert torch.equal(every.sequences, every.path_sequences)
    # Hugging Face lets num_return_sequences exceed 1 where tokens are drawn.
    drawn = {"do_sample": True, "top_k": 0, "temperature": 1e-6}
    again = generated(model, num_return_sequences=4, **how, **drawn)
    assert torch.equal(again.latent_thoughts, every.latent_thoughts)
    assert torch.equal(again.sequences, every.sequences)


def test_padding_a_missing_mask_and_batch_mates_change_nothing(generator: torch.Generator) -> None:
    model = live_model(generator, "coconut", "gpt2")
    how = {**HOW, "sampler": "noise:0.5", "seed": SEED, "return_dict_in_generate": True}
    together = model.generate(**batch_of(prompts()), **how).latent_thoughts
    for row, prompt in enumerate(prompts()):
        ids = prompt.unsqueeze(0)
        for mask in (None, torch.ones_like(ids)):
            alone = model.generate(input_ids=ids, attention_mask=mask, **how).latent_thoughts
            assert torch.equal(alone[0], together[row])


def test_the_config_that_is_saved_with_the_model_says_everything(
    generator: torch.Generator, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    model = live_model(generator, "coconut", "gpt2")
    how = {"num_paths": 4, "sampler": "noise:0.5", "latent_length": STEPS, "max_new_tokens": NEW}
    model.generation_config = latent_ext.LatentGenerationConfig(eos_token_id=EOS, pad_token_id=EOS, **how)
    model.save_pretrained(tmp_path)
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert latent_ext.LatentGenerationConfig.from_pretrained(tmp_path).sampler == "noise:0.5"
    batch = batch_of(prompts())
    runs = [one.generate(**batch, custom_generate=latent_ext.generate, seed=SEED) for one in (model, loaded)]
    assert torch.equal(*runs)
    by_arguments = live_model(generator, "coconut", "gpt2")
    by_arguments.load_state_dict(model.state_dict())
    assert torch.equal(generated(by_arguments, seed=SEED, **how), runs[0])


def test_a_pipeline_of_a_stock_model_answers(generator: torch.Generator) -> None:
    loaded, reward = random_model(generator), random_reward(generator)
    how = {"num_paths": 6, "sampler": "noise:0.5", "reward": reward, "seed": SEED}
    TOKENIZER.padding_side = "left"
    pipe = pipeline("text-generation", model=loaded.hf, tokenizer=TOKENIZER)
    texts = [Coconut().prompt(question) for question in QUESTIONS]
    written = pipe(texts, batch_size=2, latent_tokenizer=TOKENIZER, return_full_text=False, **HOW, **how)
    expected = generated(loaded.hf, latent_tokenizer=TOKENIZER, **how)
    for (one,), tokens in zip(written, answers_in(expected), strict=True):
        answer = one["generated_text"].partition("<|end-latent|>")[2]
        assert answer == TOKENIZER.decode(tokens, skip_special_tokens=True)


class _StopAtLength(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):  # type: ignore[no-untyped-def]
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_a_criterion_ends_the_answer_where_it_says(generator: torch.Generator) -> None:
    model = live_model(generator, "coconut", "gpt2")
    whole = generated(model)
    width = batch_of(prompts())["input_ids"].shape[1] + STEPS + 1
    cut = generated(model, stopping_criteria=[_StopAtLength(width + 3)])
    assert torch.equal(cut, whole[:, : width + 3])


def endless_model(generator: torch.Generator) -> GPT2LMHeadModel:
    """Its end-of-sequence logit is always 0, and of more than a hundred others some are above."""
    model = live_model(generator, "coconut", "gpt2")
    with torch.no_grad():
        model.lm_head.weight[EOS] = 0.0
    return model


def test_a_stop_string_ends_the_answer_behind_the_token_that_completes_it(generator: torch.Generator) -> None:
    model = endless_model(generator)
    whole = answers_in(generated(model))
    string = TOKENIZER.decode(whole[0][2:4])
    cut = answers_in(generated(model, latent_tokenizer=TOKENIZER, latent_stop_strings=string))
    for got, full in zip(cut, whole, strict=True):
        ends = [n for n in range(1, len(full) + 1) if string in TOKENIZER.decode(full[:n])]
        assert got == full[: ends[0] if ends else len(full)]
    assert len(cut[0]) < len(whole[0])


def test_every_listed_end_of_sequence_token_ends_an_answer(generator: torch.Generator) -> None:
    model = endless_model(generator)
    whole = answers_in(generated(model))
    other = whole[0][2]
    cut = answers_in(generated(model, eos_token_id=[EOS, other]))
    for got, full in zip(cut, whole, strict=True):
        assert got == full[: full.index(other) + 1 if other in full else len(full)]


@pytest.mark.parametrize(
    ("argument", "how"),
    [
        ("streamer", {"streamer": TextStreamer(TOKENIZER)}),
        ("synced_gpus", {"synced_gpus": True}),
        ("prefix_allowed_tokens_fn", {"prefix_allowed_tokens_fn": lambda row, ids: [1]}),
        ("inputs_embeds", {"inputs_embeds": torch.zeros(1, 10, 48)}),
        ("logits_processor", {"do_sample": True}),
        ("top_k", {"do_sample": True, "top_k": 5}),
        ("repetition_penalty", {"repetition_penalty": 1.2}),
        ("num_beams", {"num_beams": 2}),
        ("output_scores", {"output_scores": True, "return_dict_in_generate": True}),
        ("sampler", {"num_paths": 4}),
        ("sampler", {"num_paths": 4, "sampler": "heat:1"}),
        ("num_paths", {"num_paths": 0, "sampler": "noise:1"}),
        ("return_paths", {"return_paths": 3, "num_paths": 2, "sampler": "noise:1"}),
        ("return_paths", {"return_paths": 2, "num_paths": 4, "sampler": "noise:1"}),
        ("select", {"select": "best_of_n"}),
        ("select", {"select": "oracle"}),
        ("beams", {"beams": 4}),
        ("latent_length", {"latent_length": 0}),
        ("latent_length", {"latent_length": -1}),
        ("family", {"family": "codi"}),
        ("engine", {"engine": "fast"}),
        ("seed", {"seed": 1 << 70}),
        ("max_new_tokens", {"max_new_tokens": STEPS}),
        ("stop_strings", {"latent_stop_strings": "#"}),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    generator: torch.Generator, argument: str, how: dict[str, object]
) -> None:
    model = live_model(generator, "coconut", "gpt2")
    batch = {name: value[1:2, -10:] for name, value in batch_of(prompts()).items()}
    argument = "top_k|logits_processor" if argument in ("top_k", "logits_processor") else argument
    with pytest.raises((ValueError, TypeError), match=rf"^({argument}): "):
        model.generate(**batch, **{**HOW, **how})


def test_a_latent_rm_at_the_published_positions_is_refused(generator: torch.Generator) -> None:
    model, published = live_model(generator, "coconut", "gpt2"), random_reward(generator)
    published.positions = "published"
    with pytest.raises(ValueError, match=r"has positions='published', which latent_ext.solve alone"):
        model.generate(
            **batch_of(prompts()), **{**HOW, "num_paths": 2, "sampler": "noise:1", "reward": published}
        )


def test_stop_strings_and_misspelled_arguments_are_refused_by_hugging_face(
    generator: torch.Generator,
) -> None:
    model = live_model(generator, "coconut", "gpt2")
    with pytest.raises(ValueError, match="stop strings"):
        generated(model, stop_strings="#", tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="nunber"):
        generated(model, nunber=3)


def test_a_cache_that_holds_something_and_padding_on_the_right_are_refused(
    generator: torch.Generator,
) -> None:
    model, batch = live_model(generator, "coconut", "gpt2"), batch_of(prompts())
    cache = model(batch["input_ids"][:1, :3], use_cache=True).past_key_values
    one = {name: value[:1] for name, value in batch.items()}
    with pytest.raises(ValueError, match=r"^past_key_values: "):
        model.generate(**one, **HOW, past_key_values=cache)
    turned = {name: value.flip(1) for name, value in batch.items()}
    with pytest.raises(ValueError, match=r"^attention_mask: row 1 is padded on the right"):
        model.generate(**turned, **HOW)
