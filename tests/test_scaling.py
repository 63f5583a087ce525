"""The studies of pretraining on a stream made up here: equal budgets, equal data, and only the stated thing different."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from llama2_lib.analysis import scaling, stability
from llama2_lib.config import OptimConfig, override, preset
from llama2_lib.course import pretraining as draw
from llama2_lib.training import accounting
from llama2_lib.world.facts import load

STREAM = (np.arange(40_000) * np.arange(40_000) // 7 % 61).astype(np.uint16)      # a pattern with something to learn


@pytest.fixture
def recipe():
    toy = preset("toy")
    return override(toy, **{"model.vocab_size": 64, "model.dim": 64, "model.n_layers": 2, "pretrain.batch_tokens": 256,
                            "pretrain.seq_len": 32, "pretrain.long_seq_len": None, "pretrain.long_share": 0.0,
                            "runtime.precision": "float32", "pretrain.optim": OptimConfig(3e-3, 100)})


@pytest.fixture
def streams(monkeypatch):
    """Replaces the corpus by STREAM; records the recipes that asked for it."""
    asked = []

    def stream(recipe, folder=""):
        asked.append(recipe)
        return STREAM[:-2000], STREAM[-2000:], None

    monkeypatch.setattr(scaling, "stream", stream)
    return asked


@pytest.mark.parametrize("name", ["toy", "small", "llama2_34b", "llama2_70b"])
def test_four_sizes_of_any_preset_keep_the_shape_of_its_heads(name):
    model = preset(name).model
    configs = [scaling.resized(model, f) for f in scaling.FRACTIONS]
    counts = [accounting.parameter_count(c) for c in configs]
    assert configs[-1] == model and counts == sorted(set(counts))
    for c in configs:
        assert c.head_dim == model.head_dim and c.n_heads % c.n_kv_heads == 0 and c.n_layers >= model.n_layers / 2
    with pytest.raises(ValueError, match="lies in 0…1, got 1.5"):
        scaling.resized(model, 1.5)


def test_a_short_budget_keeps_the_recipe_but_not_a_warm_up_longer_than_a_tenth(recipe):
    short = scaling.with_budget(recipe, 10_000)
    assert short.pretrain.steps == 10_000 // 256 and short.pretrain.optim.warmup_steps == short.pretrain.steps // 10
    assert replace(short, pretrain=recipe.pretrain) == recipe


def test_sizes_see_the_same_tokens_and_the_larger_learns_more(recipe, streams):
    arms = scaling.scaling_study(recipe, tokens=10_000, fractions=(0.25, 1.0), progress=False)
    assert len({arm.history[-1]["tokens"] for arm in arms}) == 1 and arms[0].parameters < arms[1].parameters
    assert arms[1].validation_loss < arms[0].validation_loss < np.log(64) + 1
    again = scaling.scaling_study(recipe, tokens=10_000, fractions=(1.0,), progress=False)[0]
    assert again.validation_loss == arms[1].validation_loss, "an arm hangs on what ran before it"
    tokens, losses = arms[1].curve(5)
    assert tokens[0] == 5 * 256 and losses[0] == pytest.approx(np.mean([r["loss"] for r in arms[1].history[:5]]))


def test_up_sampling_changes_the_mixture_alone(recipe, streams, monkeypatch):
    monkeypatch.setattr(scaling, "fact_accuracy", lambda model, tokenizer, world: model)
    (one, model), (two, _) = scaling.upsampling_study(recipe, load(), tokens=5_000, weights=(1.0, 3.0), progress=False)
    assert model is one.model and one.history[-1]["tokens"] == two.history[-1]["tokens"]
    a, b = streams
    assert (a.mixture.encyclopedia, b.mixture.encyclopedia) == (1.0, 3.0)
    assert replace(a, mixture=b.mixture) == b


def test_the_short_run_is_the_same_but_for_what_is_broken(recipe):
    def losses(**settings):
        return [r["loss"] for r in stability.short_run(recipe, STREAM, steps=12, peak_lr=1e-3, **settings)]

    clean = losses()
    assert clean == losses() and len(clean) == 12
    hit = losses(spoil_at=4)
    assert hit[:4] == clean[:4] and hit[4] != clean[4] and hit[5] != clean[5]
    assert losses(spoil_at=4, clip_norm=1e-3)[5] != hit[5], "is the setting passed on to the optimiser?"


def test_a_spoiled_batch_repeats_one_token(recipe):
    from llama2_lib.text.batching import Batch
    ids = torch.arange(8).view(2, 4)
    bad = stability.spoiled(Batch(ids, ids + 1, ids > 2))
    assert set(bad.tokens_BT.flatten().tolist()) == set(bad.labels_BT.flatten().tolist()) == {stability.SPOILED_TOKEN}
    assert torch.equal(bad.mask_BT, ids > 2)


def test_the_pictures_and_tables_of_the_notebook(recipe, streams, capsys):
    from collections import Counter

    from llama2_lib.analysis.accuracy import Accuracy
    arms = scaling.scaling_study(recipe, tokens=5_000, fractions=(0.5, 1.0), progress=False)
    history = arms[0].history
    some = Accuracy(Counter(a=1), Counter(a=2, b=2))
    figures = [draw.sizes(arms), draw.histories({"x": history, "y": history}, level=1.0),
               draw.excess({"x": history}, history, 2), draw.schedules({"toy": recipe.pretrain}),
               draw.schedule(10, 0.1, 100), draw.knowledge({"facts": {1: some, 2: some}}, some)]
    assert [len(f.axes) for f in figures] == [1, 2, 1, 1, 1, 2]
    assert all(line.get_ydata().max() == 0 for line in figures[2].axes[0].lines)
    models = {name: preset(f"llama2_{name.lower()}") for name in accounting.TABLE_2}
    draw.recipe_table(models)
    draw.carbon_table(models)
    draw.loss_table(history, (1, 2, 10**6))
    out = capsys.readouterr().out
    assert "68,976,648,192" in out and "476,837" in out and out.count("291.42") == 2 and f"{history[1]['loss']:.2f}" in out
