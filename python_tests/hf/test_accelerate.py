"""`accelerate`: the live model's own tokens, LatentTTS's fields, and the untouched model back."""

from __future__ import annotations

import copy

import pytest
import torch
from live_models import EOS, IDS, STEPS, TokenClassifier, batch_of, live_model, prompts
from random_models import QUESTIONS, SEED, TOKENIZER, make_engine, random_model, random_reward, sample
from stock_loop import stock_generate
from transformers import GenerationConfig, GPT2LMHeadModel, TextStreamer

import latent_ext
from latent_ext.hf.sampling import latent_sampler
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import GaussianNoise, MCDropout, Sampler

ENGINES = ("auto", "modules", "reference")
NEW = 16
NOISE = {"latent_do_sample": True, "latent_do_sample_by": "noise", "noise_std": 0.5}
DROPOUT = {"latent_do_sample": True, "latent_do_sample_by": "dropout", "dropout_p": 0.2}
FULL = {"return_dict_in_generate": True, "latent_length": STEPS, "max_new_tokens": NEW}


def beam_of(**how: object) -> dict[str, object]:
    return FULL | NOISE | {"num_beams": 3, "num_beam_candidates": 2} | how


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("body", ["gpt2", "llama"])
@pytest.mark.parametrize("family", ["coconut", "codi"])
def test_without_sampling_it_writes_what_the_stock_modules_write(
    generator: torch.Generator, family: str, body: str, engine: str
) -> None:
    model, listed = live_model(generator, family, body), prompts()
    batch, undecided = batch_of(listed), 0
    output = latent_ext.accelerate(model, engine=engine).generate(**batch, **FULL)
    length = batch["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], batch["input_ids"])
    for row, prompt in enumerate(listed):
        stock = stock_generate(
            model,
            prompt,
            latent=IDS["latent_id"],
            end=IDS["latent_end_id"],
            eos=EOS,
            steps=STEPS,
            max_new_tokens=NEW,
        )
        written = output.sequences[row, length:].tolist()
        assert written[: stock.decided] == stock.tokens[: stock.decided]
        if stock.decided == len(stock.tokens):
            assert set(written[stock.decided :]) <= {EOS}
        else:
            undecided += 1
        assert_close(output.latent_thoughts[row], stock.thoughts, "latent_phase")
    assert undecided <= 1


@pytest.mark.parametrize("scope", ["prompt+latent", "latent"])
@pytest.mark.parametrize(
    ("fields", "sampler"),
    [
        (NOISE, Sampler(noise=GaussianNoise(0.5))),
        (DROPOUT, Sampler(dropout=MCDropout(0.2, sites="residual+embedding"))),
    ],
    ids=["noise", "dropout"],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_fields_of_latenttts_name_the_sampler(
    generator: torch.Generator, engine: str, fields: dict[str, object], sampler: Sampler, scope: str
) -> None:
    # The config's embd_pdrop is 0.1: its layer is live, as in the published scripts that do not zero it.
    model, loaded = live_model(generator, "coconut", "gpt2"), random_model(generator)
    loaded.hf = model
    served = latent_ext.accelerate(model, engine=engine, seed=SEED, scope=scope)
    output = served.generate(**batch_of(prompts()), num_return_sequences=3, **FULL, **fields)
    by_hand = Sampler(sampler.dropout, sampler.noise, scope)  # type: ignore[arg-type]
    expected = sample(make_engine("reference", loaded), prompts(), by_hand)
    assert_close(output.latent_thoughts, expected.thoughts, "latent_phase")


def test_its_scope_is_the_published_one_unless_asked_otherwise(generator: torch.Generator) -> None:
    model = live_model(generator, "coconut", "gpt2")
    runs = [
        latent_ext.accelerate(model, seed=1, **how)
        .generate(**batch_of(prompts()), **FULL, **DROPOUT)
        .latent_thoughts
        for how in ({}, {"scope": "prompt+latent"}, {"scope": "latent"})
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_seed_of_pytorch_fixes_a_run_and_the_next_one_differs(generator: torch.Generator) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"))
    how = {**batch_of(prompts()), **FULL, **NOISE}

    def two_runs() -> list[torch.Tensor]:
        torch.manual_seed(5)
        return [served.generate(**how).latent_thoughts for _ in range(2)]

    first, second = two_runs()
    assert not torch.equal(first, second)
    for got, wanted in zip(two_runs(), (first, second), strict=True):
        assert torch.equal(got, wanted)


def test_without_sampling_the_generator_of_pytorch_is_left_alone(generator: torch.Generator) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"))
    before = torch.get_rng_state()
    served.generate(**batch_of(prompts()), **FULL)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_of_a_prompt_are_neighbours_and_the_first_of_many_are_the_few(
    generator: torch.Generator,
) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"), seed=3)
    batch = batch_of(prompts())
    many = served.generate(**batch, num_return_sequences=5, **FULL, **NOISE)
    few = served.generate(**batch, num_return_sequences=2, **FULL, **NOISE)
    thoughts = many.latent_thoughts.reshape(len(QUESTIONS), 5, STEPS, -1)
    assert torch.equal(thoughts[:, :2].reshape_as(few.latent_thoughts), few.latent_thoughts)
    length = batch["input_ids"].shape[1]
    assert torch.equal(many.sequences[:, :length], batch["input_ids"].repeat_interleave(5, dim=0))


def test_padding_and_batch_mates_change_nothing(generator: torch.Generator) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"), seed=3)
    together = served.generate(**batch_of(prompts()), **FULL, **NOISE)
    for row, prompt in enumerate(prompts()):
        alone = served.generate(prompt.unsqueeze(0), **FULL, **NOISE)
        assert torch.equal(alone.latent_thoughts[0], together.latent_thoughts[row])


def test_a_tensor_comes_back_unless_a_dict_is_asked_for(generator: torch.Generator) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"))
    how = {**batch_of(prompts()), **FULL}
    full = served.generate(**how)
    assert torch.equal(served.generate(**how | {"return_dict_in_generate": False}), full.sequences)
    assert full.reward_scores is None
    assert list(full.keys()) == ["sequences", "latent_thoughts"]


def test_a_beam_search_chooses_as_solve_does(generator: torch.Generator) -> None:
    loaded, reward = random_model(generator), random_reward(generator)
    wanted = latent_ext.solve(
        loaded, list(QUESTIONS), reward=reward, sampler="noise:0.5", select="beam", beams=3, candidates=2, seed=SEED,
        max_answer_tokens=NEW - STEPS - 1, decode="all",
    )  # fmt: skip
    served = latent_ext.accelerate(loaded, seed=SEED, scope="latent")
    one = served.generate(**batch_of(prompts()), process_reward_model=reward, **beam_of())
    every = served.generate(
        **batch_of(prompts()), process_reward_model=reward, **beam_of(num_return_sequences=3)
    )
    for row, result in enumerate(wanted):
        assert one.reward_scores[row].tolist() == result.best.step_scores
        first = batch_of(prompts())["input_ids"].shape[1] + STEPS + 1
        answer = one.sequences[row, first : first + len(result.best.tokens)].tolist()
        assert answer == result.best.tokens
        totals = every.reward_scores[3 * row : 3 * row + 3].sum(1)
        assert torch.equal(totals, totals.sort(descending=True).values)
        assert sorted(every.reward_scores[3 * row : 3 * row + 3].tolist()) == sorted(
            one.step_scores for one in result.trajectories
        )


def test_a_live_token_classifier_scores_as_the_latent_rm_of_its_weights(generator: torch.Generator) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"), seed=2)
    reward = random_reward(generator)
    live = TokenClassifier(reward.module.body, reward.module.classifier).eval()
    outputs = [
        served.generate(**batch_of(prompts()), process_reward_model=one, **beam_of())
        for one in (reward, live)
    ]
    assert torch.equal(outputs[0].reward_scores, outputs[1].reward_scores)
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)


def test_restore_gives_the_untouched_model_back(generator: torch.Generator) -> None:
    model = live_model(generator, "coconut", "gpt2")
    before = dict(vars(model))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    served = latent_ext.accelerate(model)
    assert served is model
    served.generate(**batch_of(prompts()), **FULL, **NOISE)
    assert served.restore() is model
    assert vars(model).keys() == before.keys()
    assert model.generate.__func__ is GPT2LMHeadModel.generate
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_an_own_generate_comes_back_after_any_number_of_accelerations(generator: torch.Generator) -> None:
    model = live_model(generator, "coconut", "gpt2")
    model.generate = own = lambda: "own"
    latent_ext.accelerate(model)
    latent_ext.accelerate(model, engine="modules")
    assert model.restore().generate is own


def test_a_copy_of_an_accelerated_model_is_served_by_its_own_weights(generator: torch.Generator) -> None:
    model = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.transformer.ln_f.weight.mul_(2.0)
    how = {**batch_of(prompts()), **FULL}
    assert not torch.equal(twin.generate(**how).latent_thoughts, model.generate(**how).latent_thoughts)


def test_changed_weights_change_the_next_run(generator: torch.Generator) -> None:
    model = live_model(generator, "coconut", "gpt2")
    served, how = latent_ext.accelerate(model), {**batch_of(prompts()), **FULL}
    before = served.generate(**how).latent_thoughts
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.add_(0.1)
    fresh = latent_ext.accelerate(copy.deepcopy(model).eval()).generate(**how).latent_thoughts
    after = served.generate(**how).latent_thoughts
    assert not torch.equal(before, after)
    assert torch.equal(after, fresh)


def test_a_config_object_and_arguments_say_the_same(generator: torch.Generator) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"), seed=4)
    config = latent_ext.LatentGenerationConfig(pad_token_id=EOS, eos_token_id=EOS, **FULL, **NOISE)
    plain = GenerationConfig(pad_token_id=EOS, eos_token_id=EOS, return_dict_in_generate=True)
    for name, value in (FULL | NOISE).items():
        setattr(plain, name, value)
    batch = batch_of(prompts())
    by_arguments = served.generate(**batch, **FULL, **NOISE).latent_thoughts
    for given in (config, plain):
        assert torch.equal(served.generate(**batch, generation_config=given).latent_thoughts, by_arguments)


def test_sampled_answer_tokens_follow_the_temperature(generator: torch.Generator) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"), seed=4)
    how = {
        **batch_of(prompts()),
        **FULL,
        "explicit_do_sample": True,
        "explicit_do_sample_by": "vocab",
        "top_k": 0,
    }
    argmax = served.generate(**batch_of(prompts()), **FULL).sequences
    # At a temperature this low, the noise of a draw never reaches the gap between two logits.
    assert torch.equal(served.generate(**how, temperature=1e-6).sequences, argmax)
    hot = served.generate(**how, temperature=100.0, num_return_sequences=4).sequences
    # Two of four draws may both be empty.
    assert len({tuple(row) for row in hot.tolist()}) >= 4 * len(QUESTIONS) - 1


def test_dropout_without_a_probability_takes_that_of_the_models_layers(generator: torch.Generator) -> None:
    model = live_model(generator, "coconut", "gpt2")
    config = latent_ext.LatentGenerationConfig(latent_do_sample=True, latent_do_sample_by="dropout")
    for block in model.transformer.h:
        block.attn.resid_dropout.p = block.mlp.dropout.p = 0.3
    model.transformer.drop.p = 0.0
    assert latent_sampler(config, model.transformer, "latent").dropout == MCDropout(0.3)
    model.transformer.drop.p = 0.3
    assert latent_sampler(config, model.transformer, "latent").dropout == MCDropout(
        0.3, sites="residual+embedding"
    )
    model.transformer.drop.p = 0.2
    with pytest.raises(ValueError, match=r"^dropout_p: .*0\.2, 0\.3"):
        latent_sampler(config, model.transformer, "latent")


@pytest.mark.parametrize(
    ("argument", "how"),
    [
        ("streamer", {"streamer": TextStreamer(TOKENIZER)}),
        ("logits_processor", {"logits_processor": [lambda ids, scores: scores]}),
        ("prefix_allowed_tokens_fn", {"prefix_allowed_tokens_fn": lambda row, ids: [1]}),
        ("inputs_embeds", {"inputs_embeds": torch.zeros(1, 2, 48)}),
        ("synced_gpus", {"synced_gpus": True}),
        ("nunber", {"nunber": 1}),
        ("repetition_penalty", {"repetition_penalty": 1.3}),
        ("min_new_tokens", {"min_new_tokens": 4}),
        ("top_k", {"explicit_do_sample": True, "explicit_do_sample_by": "vocab", "top_k": 7}),
        ("output_scores", {"output_scores": True}),
        ("max_new_tokens", {"max_new_tokens": STEPS + 1}),
        ("max_latent_length", {"latent_length": None, "max_latent_length": 8}),
        ("latent_length", {"latent_length": 0}),
        ("latent_do_sample_by", {"latent_do_sample": True}),
        ("latent_do_sample_by", {"latent_do_sample": True, "latent_do_sample_by": "heat"}),
        ("explicit_do_sample_by", {"explicit_do_sample": True, "explicit_do_sample_by": "dropout"}),
        ("process_reward_model", {"num_beams": 4, "num_beam_candidates": 2}),
        ("process_reward_model", {"process_reward_model": "latentRM"}),
        ("num_return_sequences", {"num_return_sequences": 0}),
        ("num_beams", {"num_beams": 0}),
        ("max_time", {"max_time": 1.0}),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    generator: torch.Generator, argument: str, how: dict[str, object]
) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"))
    with pytest.raises((ValueError, TypeError), match=rf"^{argument}: "):
        served.generate(**batch_of(prompts()), **FULL | how)


def test_beams_need_candidates_and_cannot_give_more_than_they_are(generator: torch.Generator) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"))
    how = {**batch_of(prompts()), "process_reward_model": random_reward(generator)}
    with pytest.raises(ValueError, match=r"^num_beam_candidates: "):
        served.generate(**how, **beam_of(num_beam_candidates=None))
    with pytest.raises(ValueError, match=r"^num_return_sequences: "):
        served.generate(**how, **beam_of(num_return_sequences=4))


def test_a_prompt_at_whose_end_no_latent_phase_begins_is_refused(generator: torch.Generator) -> None:
    served = latent_ext.accelerate(live_model(generator, "coconut", "gpt2"))
    prompt = prompts()[1]
    for ids in (prompt[:-1], torch.cat([prompt, torch.tensor([IDS["latent_id"]])])):
        with pytest.raises(ValueError, match=r"^input_ids: row 0 "):
            served.generate(ids.unsqueeze(0), **FULL)
    with pytest.raises(ValueError, match=r"^input_ids: got neither"):
        served.generate(**FULL)


def test_models_that_no_engine_runs_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(TypeError, match=r"^model: got Linear"):
        latent_ext.accelerate(torch.nn.Linear(2, 2))
    model = live_model(generator, "coconut", "gpt2")
    with pytest.raises(ValueError, match=r"^model: is in training mode"):
        latent_ext.accelerate(model.train())
    for name, part in (("codi", "projector"), ("colar", "lt_head")):
        with pytest.raises(
            ValueError, match=f"^family: '{name}' forms thoughts through a submodule '{part}'"
        ):
            latent_ext.accelerate(model.eval(), family=name)
    for name in ("soft-thinking", "huginn"):  # their sequences are not what LatentTTS's generate() returns
        with pytest.raises(
            ValueError, match=f"^family: got '{name}'; allowed for a live model are coconut, codi, colar"
        ):
            latent_ext.accelerate(model.eval(), family=name)
    del model.config.latent_start_id
    with pytest.raises(ValueError, match=r"^latent_start_id: "):
        latent_ext.accelerate(model)
    assert (
        latent_ext.accelerate(model, tokenizer=TOKENIZER)
        .generate(**batch_of(prompts()), **FULL)
        .sequences.shape[0]
        == 3
    )
