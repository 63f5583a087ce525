"""The two sides of the quality study: equal steps, one difference, and a base model left as it was."""
import pytest
import torch

from llama2_lib.analysis import chat, demonstrations
from llama2_lib.config import ModelConfig, override, preset
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.world.dialogs import prompts
from llama2_lib.world.facts import load

WORLD = load()
RECIPE = override(preset("toy"), **{"runtime.precision": "float32", "sft.demonstrations": 40, "sft.epochs": 1,
                                    "sft.seq_len": 256})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "pretrain"
    folder.mkdir()
    texts = [f"[INST] {p.text} [/INST]" for p in prompts(WORLD, 400, 0)]
    Tokenizer.train(texts, 420, folder / "tokenizer.model")
    torch.manual_seed(0)
    checkpoint.save_model(folder, Transformer(ModelConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=420,
                                                          multiple_of=8, max_seq_len=512)))
    return folder.parent


def test_the_sides_differ_in_count_and_noise_and_read_the_same_number_of_demonstrations():
    sides = demonstrations.arms(RECIPE.sft, few=10)
    clean, noisy = sides["clean_few"], sides["noisy_many"]
    assert clean.demonstrations * clean.epochs == noisy.demonstrations * noisy.epochs == 100
    assert (clean.noise, noisy.noise) == (0.0, demonstrations.NOISE)
    assert clean.optim == noisy.optim
    with pytest.raises(ValueError, match="at least 1, got 0"):
        demonstrations.arms(RECIPE.sft, few=0)


def test_fine_tuning_a_copy_leaves_the_base_model_as_it_was(base):
    model, tokenizer = checkpoint.load_model(base / "pretrain"), Tokenizer.load(base / "pretrain" / "tokenizer.model")
    before = [p.clone() for p in model.parameters()]
    tuned, history = demonstrations.tuned(model, tokenizer, WORLD, RECIPE.sft, RECIPE, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not torch.equal(model.output.weight, tuned.output.weight)
    again, _ = demonstrations.tuned(model, tokenizer, WORLD, RECIPE.sft, RECIPE, seed=3)
    assert torch.equal(tuned.output.weight, again.output.weight)
    assert len(history) > 1


def test_the_study_reports_both_sides_and_the_gain(base, monkeypatch):
    monkeypatch.setattr(chat, "REPLY_TOKENS", 4)
    monkeypatch.setattr(chat.sample, "__defaults__", (0.0, 0, 4, 1))
    found = demonstrations.quality_study(RECIPE, base, seed=0, few=4, count=12)
    assert found["gain"] == pytest.approx(found["gold_clean_few"] - found["gold_noisy_many"])
    assert found["steps_clean_few"] == found["steps_noisy_many"] == 3
