"""Llama 2's transformer (section 2.2): RMSNorm, rotary positions, grouped-query attention with a KV cache, SwiGLU.

Parameter names and the layout of wq and wk are Meta's: RoPE turns adjacent pairs of channels. RMSNorm and softmax compute
in fp32 whatever the dtype around them. Left out: dropout (Llama 2 has none), everything about devices, sharding, files and
sampling. The paper is silent on initialisation: here embeddings are normal(0, 1), matrices normal(0, 1 / sqrt(inputs)),
which at Llama 2's widths is about the customary 0.02, and the two projections that write into the residual stream (wo, w2)
are smaller by sqrt(2 · n_layers), as in GPT-2, so that its variance does not grow with depth. At the toy's width a plain
0.02 is four times too small: the model then needs several times the tokens before it learns to copy and to add.

Shape suffixes: B batch, T time (queries), S time (keys), D model width, N query heads, K key-value heads, H head width,
V vocabulary, L layers.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama2_lib.config import ModelConfig, require

MATMUL_ATTENTION_UP_TO = 1024   # keys; beyond, the matrix of scores outgrows the cache

Rope = tuple[Tensor, Tensor]
Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]   # new k, v in; all k, v so far out


class RMSNorm(nn.Module):
    """y = g · x / sqrt(mean(x²) + eps): LayerNorm without the mean and the bias."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).type_as(x)


def rope_table(head_dim: int, length: int, theta: float, device: torch.device | str = "cpu") -> Rope:
    """(cos, sin), each (length, head_dim / 2): pair i at position t turns by the angle t · theta^(−2i / head_dim)."""
    frequency = theta ** -(torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle_TH = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequency)
    return angle_TH.cos(), angle_TH.sin()


def rotate(x_BTNH: Tensor, rope: Rope) -> Tensor:
    """Turn each adjacent pair of channels by its angle, in fp32. `rope` holds cos and sin, each (B or 1, T, H / 2)."""
    cos, sin = (table.unsqueeze(-2) for table in rope)
    pairs = x_BTNH.float().unflatten(-1, (-1, 2))
    # (x_2i + j·x_2i+1) · (cos + j·sin)
    if x_BTNH.device.type == "cpu" and not torch.compiler.is_compiling():   # one pass over memory; compilers fuse the reals
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    else:
        even, odd = pairs.unbind(-1)
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).type_as(x_BTNH)


class KVCache:
    """Keys and values of the tokens seen so far, for `batch` rows of at most `length` tokens, allocated once.

    It also remembers each slot's segment, so that left padding stays hidden from later tokens.
    """

    def __init__(self, config: ModelConfig, batch: int, length: int, dtype: torch.dtype = torch.float32,
                 device: torch.device | str = "cpu") -> None:
        shape_BKSH = (batch, config.n_kv_heads, length, config.head_dim)
        self.keys = [torch.zeros(shape_BKSH, dtype=dtype, device=device) for _ in range(config.n_layers)]
        self.values = [torch.zeros(shape_BKSH, dtype=dtype, device=device) for _ in range(config.n_layers)]
        self.segments_BS: Tensor | None = None
        self.capacity = length
        self.length = 0

    def remember(self, layer: int, k_BTKH: Tensor, v_BTKH: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of `layer`; all of them so far, (B, K, S, H), come back as views."""
        end = self.length + k_BTKH.shape[1]
        for store, new in ((self.keys[layer], k_BTKH), (self.values[layer], v_BTKH)):
            store[:, :, self.length:end] = new.transpose(1, 2)
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def part(self, rows: slice, first: int) -> KVCache:
        """An empty cache for some of the rows, from slot `first` on: what it stores stands in this one."""
        part = copy.copy(self)
        part.keys, part.values = ([store[rows, :, first:] for store in stores] for stores in (self.keys, self.values))
        part.capacity, part.length, part.segments_BS = self.capacity - first, 0, None
        return part

    def select(self, rows: Tensor) -> None:
        """Keep `rows` in this order; a row named twice is copied: so the samples of one prompt share its prefill."""
        self.keys = [k.index_select(0, rows) for k in self.keys]
        self.values = [v.index_select(0, rows) for v in self.values]
        if self.segments_BS is not None:
            self.segments_BS = self.segments_BS.index_select(0, rows)

    def leave(self, gone_B: Tensor) -> Tensor:
        """Drop the rows where `gone_B` holds; the old number of each row that is left, in its new order.

        Rows from the end move into the holes, so the copying grows with the rows that leave, not with those that stay.
        """
        order = torch.arange(len(gone_B), device=gone_B.device)
        left = len(order) - int(gone_B.sum())
        holes, movers = order[:left][gone_B[:left]], order[left:][~gone_B[left:]]
        stores = self.keys + self.values + ([] if self.segments_BS is None else [self.segments_BS])
        for store in (*stores, order):
            store[holes] = store[movers]
        self.keys, self.values = [k[:left] for k in self.keys], [v[:left] for v in self.values]
        self.segments_BS = None if self.segments_BS is None else self.segments_BS[:left]
        return order[:left]

    def see_segments(self, segments_BT: Tensor | None, batch: int, steps: int) -> Tensor | None:
        """Store the segments of the new slots (none given: 0); those of all slots so far, or None if none was ever given."""
        end = self.length + steps
        if segments_BT is None and self.segments_BS is None:
            return None
        if self.segments_BS is None:
            self.segments_BS = torch.zeros(batch, self.capacity, dtype=torch.long, device=segments_BT.device)
        self.segments_BS[:, self.length:end] = 0 if segments_BT is None else segments_BT
        return self.segments_BS[:, :end]


def visible(start: int, steps: int, segments_BS: Tensor | None, device: torch.device) -> Tensor:
    """Which slot each of the `steps` new slots may look at, bool (B or 1, T, S): not later, and of the same segment.

    Segment −1 is padding; it sees itself only, which keeps its softmax defined.
    """
    key = torch.arange(start + steps, device=device)
    query_T1 = key[start:, None]
    seen = (key <= query_T1)[None]
    if segments_BS is not None:
        mine_BT1 = segments_BS[:, start:, None]
        seen = seen & (mine_BT1 == segments_BS[:, None]) & ((mine_BT1 >= 0) | (key == query_T1))
    return seen


def attention_bias(start: int, steps: int, segments_BS: Tensor | None, device: torch.device) -> Tensor | None:
    """0 where `visible`, −inf elsewhere. None where no bias is needed: one new token sees all, and SDPA knows "causal"."""
    if segments_BS is None and (steps == 1 or (start == 0 and not by_matmul(device, steps))):
        return None
    seen_BTS = visible(start, steps, segments_BS, device)
    return torch.zeros(seen_BTS.shape, device=device).masked_fill_(~seen_BTS, -torch.inf)


def by_matmul(device: torch.device, keys: int) -> bool:
    """On a CPU, at course lengths, batched matmuls beat the fused kernel several times over; elsewhere SDPA wins."""
    return device.type == "cpu" and keys <= MATMUL_ATTENTION_UP_TO


def attend(q_BTNH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, bias_BTS: Tensor | None) -> Tensor:
    """softmax(q kᵀ / sqrt(H) + bias) v, (B, T, N, H): query heads k·G … k·G + G−1 read key-value head k (G = N / K)."""
    (B, T, N, H), (K, S) = q_BTNH.shape, k_BKSH.shape[1:3]
    if bias_BTS is not None:
        bias_BTS = bias_BTS.to(q_BTNH.dtype)
    if not by_matmul(q_BTNH.device, S):
        mask = None if bias_BTS is None else bias_BTS[:, None]
        out = F.scaled_dot_product_attention(q_BTNH.transpose(1, 2), k_BKSH, v_BKSH, attn_mask=mask,
                                             is_causal=mask is None and T > 1, enable_gqa=K < N)
        return out.transpose(1, 2)
    # the queries that share a key-value head stand below each other: (B·K, G·T, H)
    q = q_BTNH.unflatten(2, (K, -1)).permute(0, 2, 3, 1, 4).reshape(B * K, -1, H)
    k, v = k_BKSH.flatten(0, 1), v_BKSH.flatten(0, 1)
    if bias_BTS is None:
        scores = torch.bmm(q, k.transpose(1, 2)) / math.sqrt(H)
    else:
        copies = K if bias_BTS.shape[0] > 1 else 1
        bias = bias_BTS[:, None, None].expand(-1, copies, N // K, -1, -1).reshape(-1, N // K * T, S)
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=1 / math.sqrt(H))
    out = torch.bmm(scores.softmax(-1), v)      # the softmax kernel computes in fp32 whatever goes in and comes out
    return out.view(B, K, N // K, T, H).permute(0, 3, 1, 2, 4).reshape(B, T, N, H)


def project(x: Tensor, *linears: nn.Linear) -> tuple[Tensor, ...]:
    """Several linear maps of one input as one larger matmul; one by one on a GPU and where weights are not plain tensors."""
    if x.device.type != "cpu" or any(type(linear.weight) is not nn.Parameter for linear in linears):
        return tuple(linear(x) for linear in linears)
    weight = torch.cat([linear.weight for linear in linears])
    return F.linear(x, weight).split([linear.out_features for linear in linears], dim=-1)


class Attention(nn.Module):
    """Grouped-query attention: `n_kv_heads` keys and values serve `n_heads` queries (all equal: MHA; one: MQA)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)

    def forward(self, x_BTD: Tensor, rope: Rope, bias_BTS: Tensor | None, remember: Remember | None) -> Tensor:
        # the number of heads is read off the tensor: under tensor parallelism each rank has its share
        heads = (-1, self.head_dim)
        q_BTNH, k_BTKH, v_BTKH = (y.unflatten(-1, heads) for y in project(x_BTD, self.wq, self.wk, self.wv))
        q_BTNH, k_BTKH = rotate(q_BTNH, rope), rotate(k_BTKH, rope)
        if remember is None:
            k_BKSH, v_BKSH = k_BTKH.transpose(1, 2), v_BTKH.transpose(1, 2)
        else:
            k_BKSH, v_BKSH = remember(k_BTKH, v_BTKH)
        return self.wo(attend(q_BTNH, k_BKSH, v_BKSH, bias_BTS).flatten(-2))


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) · w3 x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.w2 = nn.Linear(config.hidden_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.hidden_dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, up = project(x_BTD, self.w1, self.w3)
        return self.w2(F.silu(gate) * up)


class TransformerBlock(nn.Module):
    """Pre-norm: h = x + attention(norm(x)); out = h + ffn(norm(h))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x_BTD: Tensor, rope: Rope, bias_BTS: Tensor | None, remember: Remember | None = None) -> Tensor:
        h_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rope, bias_BTS, remember)
        return h_BTD + self.feed_forward(self.ffn_norm(h_BTD))


class Transformer(nn.Module):
    """Token ids in, logits of the next token out. Under `torch.device("meta")` it costs nothing: see `init_weights`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        self._rope: Rope | None = None   # made at first use on each device: nothing to save, cast or materialise
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew (module docstring), from `generator` or torch's own. Call it after `to_empty`."""
        for name, weight in self.named_parameters():
            if weight.dim() == 1:
                nn.init.ones_(weight)
                continue
            std = 1.0 if name == "tok_embeddings.weight" else weight.shape[1] ** -0.5
            if name.endswith(("attention.wo.weight", "feed_forward.w2.weight")):
                std /= math.sqrt(2 * self.config.n_layers)
            nn.init.normal_(weight, std=std, generator=generator)

    def rope(self, positions_BT: Tensor) -> Rope:
        """cos and sin at these positions, each (B, T, H / 2)."""
        if self._rope is None or self._rope[0].device != positions_BT.device:
            c = self.config
            self._rope = rope_table(c.head_dim, c.max_seq_len, c.rope_theta, positions_BT.device)
        return self._rope[0][positions_BT], self._rope[1][positions_BT]

    def hidden(self, tokens_BT: Tensor, positions_BT: Tensor | None = None, segments_BT: Tensor | None = None,
               cache: KVCache | None = None) -> Tensor:
        """Hidden states after the final norm, (B, T, D).

        positions_BT: for RoPE; by default each token's place in the row (attention depends on differences only, so padding
        and packing need no others). segments_BT: a token sees earlier tokens of its own segment only; −1 is padding.
        cache: the keys and values of earlier tokens; the new ones are added. ValueError if the context would overflow.
        """
        B, T = tokens_BT.shape
        start = 0 if cache is None else cache.length
        limit = self.config.max_seq_len if cache is None else cache.capacity
        require(start + T <= limit, f"{start} + {T} tokens do not fit in {limit}")
        if positions_BT is None:
            positions_BT = torch.arange(start, start + T, device=tokens_BT.device)[None]
        rope = self.rope(positions_BT)
        segments_BS = segments_BT if cache is None else cache.see_segments(segments_BT, B, T)
        bias_BTS = attention_bias(start, T, segments_BS, tokens_BT.device)
        h_BTD = self.tok_embeddings(tokens_BT)
        for i, layer in enumerate(self.layers):
            h_BTD = layer(h_BTD, rope, bias_BTS, None if cache is None else (lambda k, v, i=i: cache.remember(i, k, v)))
        if cache is not None:
            cache.length += T
        return self.norm(h_BTD)

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor | None = None, segments_BT: Tensor | None = None,
                cache: KVCache | None = None) -> Tensor:
        """Logits of the next token at each position, (B, T, V); the arguments are those of `hidden`."""
        return self.output(self.hidden(tokens_BT, positions_BT, segments_BT, cache))


class ScalarHead(nn.Module):
    """One number per token from the hidden state: a reward (std of the weights 1/sqrt(dim + 1)) or a value (std 0)."""

    def __init__(self, dim: int, std: float | None = None) -> None:
        super().__init__()
        self.out = nn.Linear(dim, 1, bias=False)
        nn.init.normal_(self.out.weight, std=1 / math.sqrt(dim + 1) if std is None else std)

    def forward(self, h_BTD: Tensor) -> Tensor:
        return self.out(h_BTD).squeeze(-1)
