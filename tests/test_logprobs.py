"""Log-probabilities and masked statistics against plain loops over floats."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2_lib.model.logprobs import entropy, kl, masked_mean, token_logprobs, whiten

rows = st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=1, max_size=12)


def log_softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    total = math.log(sum(math.exp(x - top) for x in logits)) + top
    return [x - total for x in logits]


def test_token_logprobs_against_a_loop():
    logits, labels = 5 * torch.randn(2, 3, 7), torch.randint(0, 7, (2, 3))
    got = token_logprobs(logits, labels)
    for b in range(2):
        for t in range(3):
            want = log_softmax(logits[b, t].tolist())[int(labels[b, t])]
            assert got[b, t].item() == pytest.approx(want, abs=1e-5)
    assert token_logprobs(logits.bfloat16(), labels).dtype == torch.float32


@settings(max_examples=60, deadline=None)
@given(rows)
def test_masked_mean_and_whiten_against_a_loop(row):
    x, mask = torch.tensor([v for v, _ in row]), torch.tensor([m for _, m in row])
    kept = [v for v, m in row if m]
    if not kept:
        assert masked_mean(x, mask).isnan()
        return
    mean = sum(kept) / len(kept)
    var = sum((v - mean) ** 2 for v in kept) / len(kept)
    assert masked_mean(x, mask).item() == pytest.approx(mean, abs=1e-3)
    white = whiten(x, mask)
    assert not white.isnan().any() and (white[~mask] == 0).all()
    if var > 1e-3:
        for got, value in zip(white[mask].tolist(), kept, strict=True):
            assert got == pytest.approx((value - mean) / math.sqrt(var + 1e-8), abs=1e-2)
        assert masked_mean(whiten(x, mask, shift_mean=False), mask).item() == pytest.approx(mean, abs=1e-3)


def test_what_lies_under_the_mask_does_not_matter():
    x, mask = torch.tensor([[1.0, 3.0, math.nan], [5.0, math.inf, math.nan]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    assert masked_mean(x, mask).item() == 3
    assert masked_mean(x, mask, dim=1).tolist() == [2, 5]
    assert whiten(x, mask)[mask].tolist() == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)], abs=1e-5)
    assert whiten(torch.tensor([4.0])).tolist() == [0]


def test_entropy_and_kl_against_a_loop():
    p, q = 3 * torch.randn(2, 2, 9), 3 * torch.randn(2, 2, 9)
    for b in range(2):
        for t in range(2):
            logp, logq = log_softmax(p[b, t].tolist()), log_softmax(q[b, t].tolist())
            assert entropy(p)[b, t].item() == pytest.approx(-sum(math.exp(a) * a for a in logp), abs=1e-5)
            want = sum(math.exp(a) * (a - c) for a, c in zip(logp, logq, strict=True))
            assert kl(p, q)[b, t].item() == pytest.approx(want, abs=1e-5)
    assert (kl(p, p) == 0).all()


def test_excluded_tokens_do_not_give_nan():
    p = torch.tensor([[[0.0, 0.0, -math.inf]]])
    assert entropy(p).item() == pytest.approx(math.log(2))
    assert kl(p, torch.zeros(1, 1, 3)).item() == pytest.approx(math.log(1.5))
