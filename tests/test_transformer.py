"""The transformer against transformers' LlamaForCausalLM, against loops and complex numbers, and against itself."""
from __future__ import annotations

import dataclasses

import pytest
import torch
from reference import attention_by_loops, hf_twin, rotate_by_complex, rough_weights

from llama2_lib.config import ModelConfig, preset
from llama2_lib.model.transformer import (
    KVCache,
    RMSNorm,
    ScalarHead,
    Transformer,
    attend,
    attention_bias,
    rope_table,
    rotate,
    visible,
)

# kv heads < heads, eps far from the default, a width that is no power of two, a theta of its own
CONFIG = ModelConfig(dim=96, n_layers=3, n_heads=6, n_kv_heads=2, vocab_size=101, multiple_of=8, norm_eps=3e-4,
                     rope_theta=5000.0, max_seq_len=128)
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model() -> Transformer:
    return rough_weights(Transformer(CONFIG), scale=0.1).eval()


@pytest.fixture(scope="module")
def twin(model):
    return hf_twin(model)


@pytest.fixture(scope="module")
def tokens_BT() -> torch.Tensor:
    return torch.randint(0, CONFIG.vocab_size, (3, 90), generator=torch.Generator().manual_seed(1))


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.float() - b.float()).abs().max().item()


# ----------------------------------------------------------------------------------------------------- against Hugging Face

@torch.no_grad()
def test_whole_sequence_equals_hugging_face(model, twin, tokens_BT):
    assert gap(model(tokens_BT), twin(tokens_BT).logits) <= TOLERANCE


@torch.no_grad()
def test_cached_prefill_then_token_by_token_equals_hugging_face(model, twin, tokens_BT):
    want = twin(tokens_BT).logits
    cache = KVCache(CONFIG, batch=3, length=90)
    parts = [model(tokens_BT[:, :64], cache=cache), model(tokens_BT[:, 64:70], cache=cache)]
    parts += [model(tokens_BT[:, t:t + 1], cache=cache) for t in range(70, 90)]
    assert gap(torch.cat(parts, dim=1), want) <= TOLERANCE, "is a later chunk allowed to see the whole cache?"


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_left_padding_equals_hugging_face_unpadded(model, twin, tokens_BT, cached, shifted):
    pads = torch.tensor([0, 7, 25])
    place_BT = torch.arange(90) - pads[:, None]
    segments_BT = torch.where(place_BT >= 0, 0, -1)
    positions_BT = place_BT.clamp(min=0) if shifted else None     # RoPE is relative: both must do
    if cached:
        cache = KVCache(CONFIG, batch=3, length=90)
        first = model(tokens_BT[:, :64], None if positions_BT is None else positions_BT[:, :64], segments_BT[:, :64], cache)
        rest = [model(tokens_BT[:, t:t + 1], None if positions_BT is None else positions_BT[:, t:t + 1], None, cache)
                for t in range(64, 90)]
        logits = torch.cat([first, *rest], dim=1)
    else:
        logits = model(tokens_BT, positions_BT, segments_BT)
    assert logits.isfinite().all(), "a padded position has nothing to look at"
    for row, pad in enumerate(pads):
        assert gap(logits[row, pad:], twin(tokens_BT[row:row + 1, pad:]).logits[0]) <= TOLERANCE


@torch.no_grad()
def test_negative_controls_fail_visibly(model, tokens_BT):
    want = model(tokens_BT)
    assert gap(want, hf_twin(model, permute=False)(tokens_BT).logits) > 0.1
    published = rough_weights(Transformer(dataclasses.replace(CONFIG, norm_eps=1e-5)), scale=0.1)
    published.tok_embeddings.weight.mul_(0.1)      # eps matters where activations are small, as after initialisation
    assert gap(published(tokens_BT), hf_twin(published)(tokens_BT).logits) <= TOLERANCE
    assert gap(published(tokens_BT), hf_twin(published, norm_eps=1e-6)(tokens_BT).logits) > 1e-3


@torch.no_grad()
def test_bf16_agrees_with_fp32(model, tokens_BT):
    exact = model(tokens_BT)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(tokens_BT).float()
    agree = (exact.argmax(-1) == rounded.argmax(-1)).float().mean().item()
    logp, logq = exact.log_softmax(-1), rounded.log_softmax(-1)
    assert agree >= 0.95, agree
    assert (logp.exp() * (logp - logq)).sum(-1).mean().item() <= 1e-3


# ------------------------------------------------------------------------------------------------------------------- parts

@pytest.mark.parametrize("name, count", [("7b", 6_738_415_616), ("13b", 13_015_864_320), ("34b", 33_743_970_304),
                                         ("70b", 68_976_648_192)])
def test_published_parameter_counts_on_the_meta_device(name, count):
    with torch.device("meta"):
        big = Transformer(preset("llama2_" + name).model)
    assert sum(weight.numel() for weight in big.parameters()) == count


def test_parameter_names_are_metas(model):
    names = set(model.state_dict())
    assert {"tok_embeddings.weight", "norm.weight", "output.weight", "layers.2.attention.wk.weight",
            "layers.0.feed_forward.w3.weight", "layers.1.attention_norm.weight", "layers.1.ffn_norm.weight"} <= names
    assert len(names) == 3 + 9 * CONFIG.n_layers, "a buffer has slipped into the checkpoint"


def test_rmsnorm_equals_its_equation():
    norm = rough_weights(RMSNorm(24, eps=0.1))
    x = torch.randn(5, 24)
    want = torch.stack([row / (sum(v * v for v in row) / 24 + 0.1) ** 0.5 * norm.weight for row in x])
    assert torch.allclose(norm(x), want, atol=1e-6), "is eps inside the root?"
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_rotate_equals_complex_multiplication():
    x = torch.randn(2, 50, 3, 8)
    table = rope_table(8, 50, theta=100.0)
    assert gap(rotate(x, table), rotate_by_complex(x, torch.arange(50), 100.0)) < 1e-5


@pytest.mark.parametrize("keys", [1024, 0], ids=["matmuls", "fused kernel"])
@pytest.mark.parametrize("start, steps, segments", [
    (2, 5, None), (0, 7, None), (6, 1, None), (2, 5, [[0] * 7, [-1, -1, 3, 3, 3, 4, 4]]),
    (6, 1, [[0] * 7, [-1, 0, 0, 0, 0, 0, 0]])])
def test_attend_equals_loops(monkeypatch, start, steps, segments, keys):
    q, k, v = torch.randn(2, steps, 6, 4), torch.randn(2, 7, 3, 4), torch.randn(2, 7, 3, 4)
    segments = None if segments is None else torch.tensor(segments)
    want = attention_by_loops(q, k, v, visible(start, steps, segments, torch.device("cpu")))
    monkeypatch.setattr("llama2_lib.model.transformer.MATMUL_ATTENTION_UP_TO", keys)
    bias = attention_bias(start, steps, segments, torch.device("cpu"))
    got = attend(q, k.transpose(1, 2), v.transpose(1, 2), bias)
    assert gap(got, want) < 1e-5, "does query head n read key-value head n // G?"


def test_rotate_on_a_compiled_or_gpu_path_equals_the_complex_one(monkeypatch):
    x, table = torch.randn(2, 9, 3, 8), rope_table(8, 9, theta=50.0)
    want = rotate(x, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert gap(rotate(x, table), want) < 1e-6


def test_softmax_computes_in_fp32_whatever_goes_in():
    scores = (4 * torch.randn(64, 300)).bfloat16()
    one_ulp = 2.0**-8 + 2.0**-16      # a sum in bf16 would be off by several
    assert torch.allclose(scores.softmax(-1).float(), scores.float().softmax(-1), rtol=one_ulp, atol=0)


def test_visible_by_hand():
    seen = visible(0, 5, torch.tensor([[-1, -1, 0, 0, 1]]), torch.device("cpu"))
    assert seen[0].int().tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]


# -------------------------------------------------------------------------------------------------- packing, cache, building

@torch.no_grad()
def test_packed_segments_equal_separate_sequences(model, tokens_BT):
    row = tokens_BT[:1]
    segments = torch.tensor([[0] * 20 + [1] * 33 + [2] * 30 + [-1] * 7])
    packed = model(row, segments_BT=segments)
    for start, end in ((0, 20), (20, 53), (53, 83)):
        assert gap(packed[:, start:end], model(row[:, start:end])) <= TOLERANCE
    assert gap(packed[:, 20:53], model(row)[:, 20:53]) > 0.1, "without segments a document reads its neighbour"


@torch.no_grad()
def test_rows_that_leave_and_rows_that_multiply_keep_the_rest_right(model, tokens_BT):
    cache = KVCache(CONFIG, batch=3, length=90)
    model(tokens_BT[:, :40], cache=cache)
    cache.select(torch.tensor([0, 0, 1, 2, 2]))
    rows = torch.tensor([0, 0, 1, 2, 2])
    kept = cache.leave(torch.tensor([True, False, True, False, False]))
    assert sorted(kept.tolist()) == [1, 3, 4]
    rows = rows[kept]
    logits = model(tokens_BT[rows, 40:41], cache=cache)
    assert gap(logits[:, 0], model(tokens_BT[rows, :41])[:, -1]) <= TOLERANCE


def test_context_and_cache_overflow_name_both_lengths(model):
    with pytest.raises(ValueError, match="0 \\+ 129 tokens do not fit in 128"):
        model(torch.zeros(1, 129, dtype=torch.long))
    with pytest.raises(ValueError, match="0 \\+ 9 tokens do not fit in 8"):
        model(torch.zeros(1, 9, dtype=torch.long), cache=KVCache(CONFIG, 1, 8))


@torch.no_grad()
def test_built_on_meta_then_materialised_equals_built_on_cpu(tokens_BT):
    torch.manual_seed(5)
    direct = Transformer(CONFIG)
    with torch.device("meta"):
        later = Transformer(CONFIG)
    assert later(tokens_BT.to("meta")).shape == (3, 90, CONFIG.vocab_size)
    later.to_empty(device="cpu")
    later.load_state_dict(direct.state_dict())
    assert torch.equal(later(tokens_BT), direct(tokens_BT)), "are the RoPE tables still those of the meta device?"


def test_initialisation_is_seeded_and_scaled():
    generator = torch.Generator().manual_seed(3)
    big = Transformer(dataclasses.replace(CONFIG, dim=384, n_layers=8))
    big.init_weights(generator)
    first = {name: weight.clone() for name, weight in big.named_parameters()}
    big.init_weights(torch.Generator().manual_seed(3))
    assert all(torch.equal(first[name], weight) for name, weight in big.named_parameters())
    assert first["tok_embeddings.weight"].std().item() == pytest.approx(1, rel=0.02)
    assert first["layers.0.attention.wq.weight"].std().item() == pytest.approx(384 ** -0.5, rel=0.02)
    into_stream = big.config.hidden_dim ** -0.5 / 4
    assert first["layers.7.feed_forward.w2.weight"].std().item() == pytest.approx(into_stream, rel=0.02)
    assert (first["layers.3.ffn_norm.weight"] == 1).all()


def test_gradients_equal_hugging_face(tokens_BT):
    ours = rough_weights(Transformer(CONFIG), scale=0.1)
    theirs = hf_twin(ours)
    for logits in (ours(tokens_BT), theirs(tokens_BT).logits):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
    pairs = ((ours.layers[1].attention.wv, theirs.model.layers[1].self_attn.v_proj),
             (ours.layers[0].attention_norm, theirs.model.layers[0].input_layernorm),
             (ours.layers[2].feed_forward.w3, theirs.model.layers[2].mlp.up_proj),
             (ours.tok_embeddings, theirs.model.embed_tokens))
    for mine, other in pairs:
        assert gap(mine.weight.grad, other.weight.grad) <= 1e-5 * other.weight.grad.abs().max().item() + 1e-6


def test_scalar_head():
    head = ScalarHead(400)
    assert head(torch.randn(2, 3, 400)).shape == (2, 3)
    assert head.out.weight.std().item() == pytest.approx(401 ** -0.5, rel=0.15)
    assert (ScalarHead(8, std=0).out.weight == 0).all()
