"""The presets hold the paper's numbers, and `override` lets nothing wrong through."""
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama2_lib import config
from llama2_lib.config import ModelConfig, OptimConfig, override, preset

# model.dim, n_layers, n_heads, n_kv_heads, FFN hidden, parameters, peak learning rate: Table 1 and the params.json files
PAPER = {
    "llama2_7b": (4096, 32, 32, 32, 11008, 6_738_415_616, 3e-4),
    "llama2_13b": (5120, 40, 40, 40, 13824, 13_015_864_320, 3e-4),
    "llama2_34b": (8192, 48, 64, 8, 22016, 33_743_970_304, 1.5e-4),
    "llama2_70b": (8192, 80, 64, 8, 28672, 68_976_648_192, 1.5e-4),
}


def count(m):
    """Parameters by walking the layers one matrix at a time (an oracle apart from training/accounting.py)."""
    kv = m.n_kv_heads * m.head_dim
    layer = sum(rows * cols for rows, cols in [
        (m.dim, m.dim), (kv, m.dim), (kv, m.dim), (m.dim, m.dim),
        (m.hidden_dim, m.dim), (m.dim, m.hidden_dim), (m.hidden_dim, m.dim), (1, m.dim), (1, m.dim)])
    return m.n_layers * layer + 2 * m.vocab_size * m.dim + m.dim


@pytest.mark.parametrize("name", PAPER)
def test_shapes_and_learning_rates_are_the_papers(name):
    recipe, (dim, layers, heads, kv, hidden, parameters, lr) = preset(name), PAPER[name]
    m = recipe.model
    assert (m.dim, m.n_layers, m.n_heads, m.n_kv_heads, m.hidden_dim) == (dim, layers, heads, kv, hidden)
    assert (m.vocab_size, m.max_seq_len, m.rope_theta, m.norm_eps, m.head_dim) == (32_000, 4096, 10_000.0, 1e-5, 128)
    assert count(m) == parameters
    assert recipe.pretrain.optim.peak_lr == lr


@pytest.mark.parametrize("name", PAPER)
def test_the_rest_of_the_recipe_is_the_papers(name):
    recipe = preset(name)
    p, o = recipe.pretrain, recipe.pretrain.optim
    assert (p.tokens, p.seq_len, p.longest) == (2_000_000_000_000, 4096, 4096)
    assert p.batch_tokens == 4_194_304 and 470_000 < p.steps < 500_000           # a global batch of 4M tokens
    assert (o.betas, o.eps, o.weight_decay, o.clip_norm) == ((0.9, 0.95), 1e-5, 0.1, 1.0)
    assert (o.warmup_steps, o.final_lr_fraction) == (2000, 0.1)
    s = recipe.sft
    assert (s.demonstrations, s.epochs, s.batch_size, s.seq_len) == (27_540, 2, 64, 4096)
    assert (s.optim.peak_lr, s.optim.weight_decay, s.noise) == (2e-5, 0.1, 0.0)
    r = recipe.reward
    assert (r.batch_pairs, r.epochs, r.warmup_share, r.optim.warmup_steps, r.unsure) == (512, 1, 0.03, 5, True)
    assert (r.other_share, r.helpful_share, r.optim.peak_lr) == (0.5, 0.1, 5e-6 if name == "llama2_70b" else 1e-5)
    assert recipe.preferences.helpfulness + recipe.preferences.safety == 1_418_091


@pytest.mark.parametrize("name", config.PRESETS)
def test_a_preset_is_called_by_its_name_and_can_be_written_as_json(name):
    recipe = preset(name)
    assert recipe.name == name and recipe.seed == 0
    assert json.loads(json.dumps(config.as_dict(recipe)))["model"]["dim"] == recipe.model.dim


def test_toy_has_little_over_a_million_parameters_and_small_near_a_hundred_million():
    assert count(preset("toy").model) < 1_500_000
    assert 60e6 < count(preset("small").model) < 130e6


def test_an_unknown_preset_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no preset is called '7b'; there are toy, small, llama2_7b"):
        preset("7b")


# -------------------------------------------------------------------------------------------------------------- override

def test_override_changes_what_it_names_and_nothing_else():
    base = preset("toy")
    changed = override(base, **{"model.dim": 64, "seed": 3, "pretrain.optim.peak_lr": 1e-3})
    assert (changed.model.dim, changed.seed, changed.pretrain.optim.peak_lr) == (64, 3, 1e-3)
    back = override(changed, **{"model.dim": 128, "seed": 0, "pretrain.optim.peak_lr": 3e-3})
    assert back == base == preset("toy"), "override must not touch the recipe it was given"


@pytest.mark.parametrize("changes, message", [
    ({"model.dims": 64}, "no setting is called 'model.dims'"),
    ({"modle.dim": 64}, "no setting is called 'modle.dim'"),
    ({"model.dim.x": 64}, "'model.dim' is a plain value"),
    ({"": 1}, "no setting is called ''"),
    ({"model.": 1}, "no setting is called 'model.'|is a plain value|takes"),
    ({"pretrain.optim.lr": 1e-3}, "no setting is called 'pretrain.optim.lr'"),
    ({"model.dim": 64.0}, "model.dim takes int, got 64.0 of float"),
    ({"model.dim": "64"}, "model.dim takes int, got '64' of str"),
    ({"model.dim": True}, "model.dim takes int, got True of bool"),
    ({"seed": None}, "seed takes int, got None"),
    ({"runtime.compile": 1}, "runtime.compile takes bool, got 1"),
    ({"pretrain.optim.peak_lr": "fast"}, "peak_lr takes float, got 'fast'"),
    ({"pretrain.optim.betas": 0.9}, "betas takes 2 values, got 0.9"),
    ({"pretrain.optim.betas": (0.9, "b")}, r"betas\[1\] takes float"),
    ({"pretrain.optim.betas": (0.9, 0.95, 0.99)}, "betas takes 2 values"),
    ({"model": {"dim": 64}}, "model takes ModelConfig"),
    ({"model.dim": 130}, "130 is not a multiple of model.n_heads 4"),
    ({"model.dim": 12}, "head width 3 is odd"),
    ({"model.n_kv_heads": 3}, "n_heads 4 is not a multiple of model.n_kv_heads 3"),
    ({"model.n_layers": 0}, "n_layers must be at least 1, got 0"),
    ({"pretrain.tokens": 100}, "less than one batch"),
    ({"pretrain.batch_tokens": 1000}, "not a multiple"),
    ({"pretrain.optim.peak_lr": 0.0}, "peak_lr must be above 0"),
    ({"pretrain.optim.final_lr_fraction": 1.5}, "final_lr_fraction must lie in 0…1"),
    ({"model.max_seq_len": 64}, "exceeds model.max_seq_len 64"),
    ({"sft.epochs": 0}, "sft.epochs must be at least 1"),
    ({"sft.noise": 1.5}, "sft.noise is a share"),
    ({"world.pii": 1.0}, "world.pii is a share"),
    ({"world.documents": 0}, "documents must be at least 1"),
    ({"runtime.precision": "fp8"}, "must be auto, float32 or bfloat16, got 'fp8'"),
])
def test_override_refuses_wrong_names_types_and_values(changes, message):
    with pytest.raises(ValueError, match=message):
        override(preset("toy"), **changes)


def test_values_that_fit_only_together_can_be_set_together():
    wide = override(preset("toy"), **{"model.n_heads": 6, "model.n_kv_heads": 3, "model.dim": 96})
    assert (wide.model.head_dim, wide.model.n_kv_heads) == (16, 3)


def test_a_config_whole_and_in_part_at_once_is_refused():
    model = ModelConfig(dim=64, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=100)
    assert override(preset("toy"), model=dataclasses.replace(model, max_seq_len=512)).model.dim == 64
    with pytest.raises(ValueError, match="'model' is set whole and in part at once"):
        override(preset("toy"), **{"model": model, "model.dim": 64})


def test_an_int_stands_for_a_float_a_list_for_a_tuple_and_none_for_what_may_be_missing():
    recipe = override(preset("toy"), **{"pretrain.optim.weight_decay": 0, "pretrain.optim.betas": [0.8, 0.9],
                                        "model.ffn_dim_multiplier": None})
    assert recipe.pretrain.optim.weight_decay == 0.0 and isinstance(recipe.pretrain.optim.weight_decay, float)
    assert recipe.pretrain.optim.betas == (0.8, 0.9) and recipe.model.ffn_dim_multiplier is None
    assert override(recipe, **{"model.ffn_dim_multiplier": 2}).model.ffn_dim_multiplier == 2.0


KNOWN = {f.name for f in dataclasses.fields(config.Recipe)}


@given(st.text(max_size=20).filter(lambda name: name.partition(".")[0] not in KNOWN), st.none() | st.integers() | st.text())
def test_no_unknown_name_gets_through(name, value):
    with pytest.raises(ValueError):
        override(preset("toy"), **{name: value})


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("toy").seed = 1


def test_infinite_clipping_is_how_clipping_is_switched_off():
    assert OptimConfig(peak_lr=1e-3, clip_norm=float("inf")).clip_norm == float("inf")
    with pytest.raises(ValueError, match="clip_norm must be above 0"):
        OptimConfig(peak_lr=1e-3, clip_norm=0)
