"""Where a model looks: the attention weights of every layer and head, which the model itself never keeps (Figure 10).

    A = softmax(q kᵀ / √H + causal mask)

The model multiplies A by the values at once. Here the forward pass is taken layer by layer, and A is computed a second time
from the layer's own input, outside of the model file. Left out: batches of dialogues, caches, attention rollout over layers.

Shape suffixes: L layers, N query heads, T queries, S keys.
"""
from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from llama2_lib.config import require
from llama2_lib.model.transformer import Attention, Rope, Transformer, rotate, visible


@torch.no_grad()
def weights(model: Transformer, ids: list[int]) -> Tensor:
    """The attention weights of one sequence, (L, N, T, S): row t is where token t looks, and sums to 1.

    ValueError for no tokens, or more than the context holds.
    """
    T, context = len(ids), model.config.max_seq_len
    require(1 <= T <= context, f"attention of {T} tokens in a context of {context}")
    tokens_BT = torch.tensor([ids])
    rope = model.rope(torch.arange(T)[None])
    seen_TT = visible(0, T, None, tokens_BT.device)[0]
    h_BTD, found = model.tok_embeddings(tokens_BT), []
    for layer in model.layers:
        found.append(_of_layer(layer.attention, layer.attention_norm(h_BTD), rope, seen_TT))
        h_BTD = layer(h_BTD, rope, torch.zeros(1, T, T).masked_fill_(~seen_TT, -torch.inf))
    return torch.stack(found)


def _of_layer(attention: Attention, x_BTD: Tensor, rope: Rope, seen_TT: Tensor) -> Tensor:
    """A of one layer, (N, T, S); each key-value head serves the query heads beside each other."""
    heads = (-1, attention.head_dim)
    q_TNH = rotate(attention.wq(x_BTD).unflatten(-1, heads), rope)[0]
    k_SKH = rotate(attention.wk(x_BTD).unflatten(-1, heads), rope)[0]
    k_SNH = k_SKH.repeat_interleave(q_TNH.shape[1] // k_SKH.shape[1], dim=1)
    scores_NTS = torch.einsum("tnh,snh->nts", q_TNH, k_SNH) / math.sqrt(attention.head_dim)
    return scores_NTS.masked_fill(~seen_TT, -torch.inf).softmax(-1)


def binned(weights_LNTT: Tensor, bins: int) -> np.ndarray:
    """The largest weight over all layers and heads, (bins, bins): neighbouring tokens share a bin, as in Figure 10."""
    largest_TT = weights_LNTT.amax((0, 1))
    edges = np.linspace(0, len(largest_TT), bins + 1).round().astype(int)
    require(bool((np.diff(edges) > 0).all()), f"{len(largest_TT)} tokens do not fill {bins} bins")
    return np.array([[float(largest_TT[a:b, c:d].max()) for c, d in zip(edges, edges[1:], strict=False)]
                     for a, b in zip(edges, edges[1:], strict=False)])


def mass(weights_LNTT: Tensor, on: slice) -> Tensor:
    """How much of each token's attention lies on the tokens `on`, (L, N, T)."""
    return weights_LNTT[..., on].sum(-1)
