"""The ablation of heads: equal sizes, counted caches, and a study whose numbers are those of its parts."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llama2_lib.analysis import architecture
from llama2_lib.config import ModelConfig, preset
from llama2_lib.training.accounting import parameter_count

TINY = ModelConfig(dim=32, n_layers=1, n_heads=8, n_kv_heads=8, vocab_size=40, multiple_of=8, max_seq_len=512)


@pytest.mark.parametrize("config", [preset("toy").model, preset("llama2_13b").model, TINY])
def test_variants_differ_in_heads_and_hardly_in_size(config):
    if config.dim == 5120:      # the ablation's eight heads do not matter at this size: keep the published forty
        base = dataclasses.replace(config, n_kv_heads=40)
        shapes = {kv: architecture.widened(base, kv) for kv in (40, 8, 1)}
    else:
        shapes = {c.n_kv_heads: c for c in architecture.variants(config).values()}
    counts = [parameter_count(c) for c in shapes.values()]
    half_a_channel = 3 * config.dim * config.n_layers / 2
    assert max(counts) - min(counts) <= 2 * half_a_channel
    assert [c.n_kv_heads for c in shapes.values()] == list(shapes)
    widths = [c.hidden_dim for c in shapes.values()]
    assert widths == sorted(widths) and widths[0] < widths[1]


def test_fewer_key_value_heads_fit_more_sequences():
    costs = {name: architecture.cache_costs(c) for name, c in architecture.variants(TINY).items()}
    assert costs["MHA"]["cache_bytes_per_token"] == 2 * 1 * 8 * 4 * 2       # k and v, layers, heads, width, bytes
    assert costs["GQA"]["largest_batch"] == 4 * costs["MHA"]["largest_batch"]
    assert costs["MQA"]["largest_batch"] == 8 * costs["MHA"]["largest_batch"]


def test_the_study_reports_its_parts(monkeypatch, tmp_path):
    stream_N = np.random.default_rng(0).integers(0, 40, 20 * 128 + 1).astype(np.uint16)
    monkeypatch.setattr(architecture, "token_streams", lambda *_: (stream_N, stream_N[:300]))
    recipe = dataclasses.replace(preset("toy"), model=TINY, runtime=dataclasses.replace(preset("toy").runtime,
                                                                                       precision="float32"))
    result = architecture.gqa_study(recipe, seed=1, workdir=tmp_path, steps=2)
    assert result["gqa_minus_mha"] == pytest.approx(result["loss_GQA"] - result["loss_MHA"])
    assert result["gqa_minus_mqa"] == pytest.approx(result["loss_GQA"] - result["loss_MQA"])
    assert result["cache_mha_over_gqa"] == 4
    assert result == architecture.gqa_study(recipe, seed=1, workdir=tmp_path, steps=2), "a study of a seed repeats"
    assert result["loss_MHA"] != architecture.gqa_study(recipe, seed=2, workdir=tmp_path, steps=2)["loss_MHA"]
