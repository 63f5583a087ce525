"""Closed formulas against real modules, against PyTorch's own FLOP counter, and against the paper's Table 2."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from llama2_lib.config import ModelConfig, preset
from llama2_lib.model.transformer import KVCache, Transformer
from llama2_lib.training import accounting

SMALL = ModelConfig(dim=48, n_layers=3, n_heads=6, n_kv_heads=2, vocab_size=70, multiple_of=8, max_seq_len=64)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.sampled_from([(1, 1), (4, 1), (4, 2), (6, 3), (8, 8)]), st.integers(1, 6), st.integers(1, 90),
       st.sampled_from([None, 1.0, 1.3]))
def test_parameter_count_equals_the_modules(layers, heads, half_width, vocabulary, multiplier):
    config = ModelConfig(dim=heads[0] * 2 * half_width, n_layers=layers, n_heads=heads[0], n_kv_heads=heads[1],
                         vocab_size=vocabulary, multiple_of=16, ffn_dim_multiplier=multiplier)
    with torch.device("meta"):
        model = Transformer(config)
    assert accounting.parameter_count(config) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("name, count", [("llama2_7b", 6_738_415_616), ("llama2_13b", 13_015_864_320),
                                         ("llama2_34b", 33_743_970_304), ("llama2_70b", 68_976_648_192)])
def test_published_counts(name, count):
    assert accounting.parameter_count(preset(name).model) == count


def test_flops_equal_what_pytorch_counts():
    model, tokens = Transformer(SMALL), torch.randint(0, 70, (2, 32))
    with FlopCounterMode(display=False) as forward:
        model(tokens)
    assert forward.get_total_flops() == 64 * accounting.flops_per_token(SMALL, 32, training=False)
    with FlopCounterMode(display=False) as both:
        model(tokens).sum().backward()
    assert both.get_total_flops() == 64 * accounting.flops_per_token(SMALL, 32)


def test_causal_attention_counts_the_keys_that_are_seen():
    pairs = sum(t + 1 for t in range(33))
    want = SMALL.n_layers * 4 * SMALL.dim * pairs / 33
    assert accounting.attention_flops_per_token(SMALL, 33, causal=True) == pytest.approx(want)


def test_the_bytes_of_a_cache_are_its_tensors():
    cache = KVCache(SMALL, batch=5, length=7, dtype=torch.bfloat16)
    assert accounting.kv_cache_bytes(SMALL, 5, 7) == sum(store.nbytes for store in cache.keys + cache.values)


def test_grouped_queries_divide_the_cache_by_the_group():
    grouped = preset("llama2_70b").model
    assert accounting.kv_cache_bytes(grouped, 1, 4096) == 1_342_177_280      # 80 · 2 · 4096 · 8 · 128 · 2 bytes: 1.25 GiB
    assert accounting.largest_batch(grouped, 4096, 2 * 1_342_177_280 + 1) == 2


def test_table_2_to_the_printed_digit():
    for name, (hours, watts, printed) in accounting.TABLE_2.items():
        assert accounting.as_printed(accounting.carbon(hours, watts)) == printed, name
    hours, printed = accounting.TABLE_2_TOTAL
    assert sum(row[0] for row in accounting.TABLE_2.values()) == hours
    total = sum(accounting.carbon(row[0], row[1]) for row in accounting.TABLE_2.values())
    assert accounting.as_printed(total) == printed


def test_no_single_intensity_explains_table_2_by_rounding():
    """What `as_printed` rests on: the intervals that rounding would allow do not meet, those that cutting allows do."""
    def interval(low: float, high: float) -> tuple[float, float]:
        rows = accounting.TABLE_2.values()
        return max((t + low) / (h * w) for h, w, t in rows), min((t + high) / (h * w) for h, w, t in rows)
    lowest, highest = interval(-0.005, 0.005)
    assert lowest > highest
    lowest, highest = interval(0, 0.01)
    assert lowest <= accounting.GRID_KG_PER_KWH * accounting.POWER_USAGE_EFFECTIVENESS / 1e6 < highest


def test_gpu_hours_of_the_7b_are_within_reach_of_table_2():
    config = preset("llama2_7b").model
    flops = 2e12 * accounting.flops_per_token(config, 4096)
    reached = flops / (184_320 * 3600)
    assert accounting.gpu_hours(flops, reached) == pytest.approx(184_320)
    assert 100e12 < reached < 200e12        # of the 312 TFLOP/s of an A100


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="-1"):
        accounting.carbon(-1, 400)
    with pytest.raises(ValueError, match="flops_per_second"):
        accounting.gpu_hours(1, 0)
