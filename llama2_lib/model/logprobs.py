"""Pure functions of logits and of masked tensors: what losses, rewards and reports are made of.

All compute in fp32. Divide logits by the sampling temperature before calling, if the policy that is meant sampled at one.
Left out: every loss; those live with their stage.

Shape suffixes: B batch, T time, V vocabulary.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def token_logprobs(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """log p(label) at each position, (B, T), in nats. Labels that are masked later must still be valid ids."""
    losses = F.cross_entropy(logits_BTV.float().flatten(0, -2), labels_BT.flatten(), reduction="none")
    return -losses.view(labels_BT.shape)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the items of `x` where `mask` holds, over all axes or one. NaN where nothing counts: no mean exists."""
    kept = torch.where(mask, x, 0)      # not x · mask: a NaN under the mask must not leak
    return kept.sum() / mask.sum() if dim is None else kept.sum(dim) / mask.sum(dim)


def whiten(x: Tensor, mask: Tensor | None = None, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """(x − mean) / sqrt(var + eps) over the items that count; the others become 0 (section 3.2.3; biased variance).

    shift_mean False scales only and keeps the mean. One item, or equal items, give 0 (or the mean), never NaN.
    """
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    mean = masked_mean(x, mask)
    scaled = (x - mean) * torch.rsqrt(masked_mean((x - mean).square(), mask) + eps)
    return torch.where(mask, scaled if shift_mean else scaled + mean, 0)


def entropy(logits_BTV: Tensor) -> Tensor:
    """Entropy of the next token's distribution at each position, (B, T), in nats."""
    logp_BTV = logits_BTV.float().log_softmax(-1)
    return -(logp_BTV.exp() * logp_BTV.clamp(min=torch.finfo(torch.float32).min)).sum(-1)   # 0 · −inf is 0 here


def kl(logits_BTV: Tensor, reference_BTV: Tensor) -> Tensor:
    """KL(p ‖ q) at each position, (B, T), in nats: p from `logits_BTV`, q from `reference_BTV`; the whole vocabulary."""
    logp_BTV, logq_BTV = logits_BTV.float().log_softmax(-1), reference_BTV.float().log_softmax(-1)
    p_BTV = logp_BTV.exp()
    return torch.where(p_BTV > 0, p_BTV * (logp_BTV - logq_BTV), 0).sum(-1)
