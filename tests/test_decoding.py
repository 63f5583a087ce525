"""The packed decoder against the transformer it was packed from."""
from __future__ import annotations

import pytest
import torch
from reference import rough_weights

from llama2_lib.config import ModelConfig
from llama2_lib.model.decoding import Packed
from llama2_lib.model.transformer import KVCache, Transformer

CONFIG = ModelConfig(dim=96, n_layers=3, n_heads=6, n_kv_heads=2, vocab_size=101, multiple_of=8, norm_eps=3e-4,
                     rope_theta=5000.0, max_seq_len=128)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return rough_weights(Transformer(CONFIG), scale=0.1)


@torch.no_grad()
@pytest.mark.parametrize("pads", [[0, 0, 0], [0, 7, 25]])
def test_packed_steps_equal_the_whole_sequence(model, pads):
    tokens_BT = torch.randint(0, 101, (3, 90), generator=torch.Generator().manual_seed(1))
    place_BT = torch.arange(90) - torch.tensor(pads)[:, None]
    segments_BT = torch.where(place_BT >= 0, 0, -1) if any(pads) else None
    whole = model(tokens_BT, place_BT.clamp(min=0), segments_BT)
    cache = KVCache(CONFIG, 3, 90)
    model(tokens_BT[:, :70], place_BT[:, :70].clamp(min=0), None if segments_BT is None else segments_BT[:, :70], cache)
    packed = Packed(model, torch.float32)
    for t in range(70, 90):
        assert (packed.step(tokens_BT[:, t], place_BT[:, t], cache) - whole[:, t]).abs().max() <= 2e-5


@torch.no_grad()
def test_bf16_stays_close(model):
    tokens_BT = torch.randint(0, 101, (8, 40), generator=torch.Generator().manual_seed(2))
    want = model(tokens_BT)[:, -1].log_softmax(-1)
    cache = KVCache(CONFIG, 8, 40)
    model(tokens_BT[:, :39], cache=cache)
    got = Packed(model, torch.bfloat16).step(tokens_BT[:, 39], torch.full((8,), 39), cache).log_softmax(-1)
    assert (want.exp() * (want - got)).sum(-1).mean() <= 1e-3
