"""The saved format behind the Auto classes, its model card, and the decoding method inside a checkpoint folder."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import filter_repo_objects
from live_models import STEPS, batch_of, live_model, prompts
from random_models import SEED, TOKENIZER, random_model
from transformers import AutoConfig, AutoModelForCausalLM, GPT2LMHeadModel

import latent_ext

HOW = {"max_new_tokens": 16, "sampler": "noise:0.5", "num_paths": 3, "seed": SEED}
VOTING = HOW | {"latent_tokenizer": TOKENIZER}


@pytest.mark.parametrize("body", ["gpt2", "llama"])
@pytest.mark.parametrize("family", ["coconut", "codi"])
def test_a_saved_model_comes_back_through_the_auto_classes(
    generator: torch.Generator, family, body, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    model = latent_ext.LatentForCausalLM.wrap(live_model(generator, family, body), latent_length=STEPS)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.family, config.latent_length) == ("latent_ext", family, STEPS)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is latent_ext.LatentForCausalLM
    for (name, value), (_, wanted) in zip(loaded.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(value, wanted), name
    output = [one.generate(**batch_of(prompts()), **HOW) for one in (model, loaded)]
    assert torch.equal(*output)


@pytest.mark.parametrize("body", ["gpt2", "llama"])
def test_its_generate_and_forward_are_those_of_the_stock_model_inside(
    generator: torch.Generator, body: str
) -> None:
    stock = live_model(generator, "coconut", body)
    model = latent_ext.LatentForCausalLM.wrap(stock, latent_length=STEPS)
    batch = batch_of(prompts())
    assert torch.equal(model(**batch).logits, stock(**batch).logits)
    by_hand = stock.generate(**batch, custom_generate=latent_ext.generate, latent_length=STEPS, **VOTING)
    assert torch.equal(model.generate(**batch, **VOTING), by_hand)


def test_a_loaded_latent_model_is_wrapped_with_its_own_family_and_ids(generator: torch.Generator) -> None:
    loaded = random_model(generator)
    model = latent_ext.LatentForCausalLM.wrap(loaded)
    assert model.causal_lm is loaded.hf
    assert (model.config.family, model.config.latent_length) == ("coconut", loaded.family.latent_length)
    assert model.config.causal_lm["latent_start_id"] == loaded.ids.start


def test_the_model_card_names_family_library_and_tags_and_is_never_overwritten(
    generator: torch.Generator, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    model = latent_ext.LatentForCausalLM.wrap(live_model(generator, "codi", "gpt2"), latent_length=STEPS)
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "transformers"
    assert {"latent_ext", "codi"} <= set(card.data.tags)
    assert f"thinks in {STEPS} vectors" in card.text
    (tmp_path / "README.md").write_text("---\ntags: [mine]\n---\nMy words.\n", encoding="utf-8")
    model.save_pretrained(tmp_path)
    latent_ext.export_custom_generate(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.tags == ["mine", "custom_generate"]
    assert "My words." in card.text


@pytest.mark.parametrize("has_card", [False, True])
def test_pushing_uploads_weights_and_card_and_leaves_a_card_that_is_there(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, has_card: bool
) -> None:
    model, uploaded = latent_ext.LatentForCausalLM.wrap(live_model(generator, "coconut", "gpt2")), []

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns=None, **how):  # type: ignore[no-untyped-def]
        names = filter_repo_objects(os.listdir(folder_path), ignore_patterns=ignore_patterns)
        uploaded.extend((repo_id, name) for name in names)
        return SimpleNamespace(commit_url="https://example.org/commit/1")

    named = SimpleNamespace(repo_id="someone/model")
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **how: named)
    monkeypatch.setattr(HfApi, "file_exists", lambda self, *where, **how: has_card)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert model.push_to_hub("model") == "https://example.org/commit/1"
    written = {"model.safetensors", "config.json", "generation_config.json"} | (
        set() if has_card else {"README.md"}
    )
    assert set(uploaded) == {("someone/model", name) for name in written}


def test_a_config_of_another_body_is_refused_by_name() -> None:
    config = latent_ext.LatentConfig(causal_lm={"model_type": "t5"})
    with pytest.raises(ValueError, match=r"^causal_lm: its model_type is 't5'"):
        latent_ext.LatentForCausalLM(config)


def test_a_folder_with_the_decoding_method_needs_no_other_line(
    generator: torch.Generator, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    model, folder = live_model(generator, "coconut", "gpt2"), tmp_path / "model"
    model.save_pretrained(folder)
    assert latent_ext.export_custom_generate(folder) == folder / "custom_generate"
    assert "custom_generate" in ModelCard.load(folder / "README.md").data.tags
    how = {**batch_of(prompts()), **HOW, "latent_length": STEPS}
    expected = model.generate(custom_generate=latent_ext.generate, **how)
    loaded = GPT2LMHeadModel.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(loaded.generate(**how), expected)
    assert torch.equal(model.generate(custom_generate=str(folder), trust_remote_code=True, **how), expected)
    plain = GPT2LMHeadModel.from_pretrained(folder)
    assert plain.generate.__func__ is GPT2LMHeadModel.generate


def test_exporting_into_what_is_no_folder_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"^directory: "):
        latent_ext.export_custom_generate(tmp_path / "missing")
