"""The transformer once more, packed for writing one token at a time on a CPU.

With one token a row there is little arithmetic, and most of the time goes into launching operators. So each norm's gain and
the attention scale are folded into the matrices that follow, wq, wk and wv become one matrix, w1 and w3 another, all stored
the way the product reads them. Attention stays in fp32: bf16 products of single rows are slower on a CPU. `Compiled` goes
one further for batches whose shape never changes, and takes the choice of the token in. The mathematics is that of
transformer.py, and the tests hold it to that. Left out: everything but one new token a row.

Shape suffixes: B rows, D model width, N query heads, K key-value heads, G query heads to each of them, H head
width, S slots so far, V vocabulary.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from llama2_lib.model.transformer import KVCache, Transformer, attention_bias, rotate


class Packed:
    """A snapshot of `model`'s weights: make a new one after the weights have changed."""

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        scale = model.config.head_dim ** -0.5
        self.layers = []
        for layer in model.layers:
            a, f = layer.attention, layer.feed_forward
            qkv = torch.cat((a.wq.weight * scale, a.wk.weight, a.wv.weight)) * layer.attention_norm.weight
            gate_up = torch.cat((f.w1.weight, f.w3.weight)) * layer.ffn_norm.weight
            self.layers.append(tuple(map(self._ready, (qkv, a.wo.weight, gate_up, f.w2.weight))))
        self.output = self._ready(model.output.weight * model.norm.weight)

    def _ready(self, weight: Tensor) -> Tensor:
        return weight.t().to(self.dtype).contiguous()

    def _normed(self, h_BD: Tensor) -> Tensor:
        """x / sqrt(mean(x²) + eps); the gain is in the next matrix."""
        mean_square_B = torch.linalg.vecdot(h_BD, h_BD).div_(h_BD.shape[1])
        return (h_BD * mean_square_B.add_(self.model.config.norm_eps).rsqrt_()[:, None]).to(self.dtype)

    def step(self, token_B: Tensor, position_B: Tensor, cache: KVCache) -> Tensor:
        """Logits after one more token a row, (B, V) fp32; its keys and values join `cache`, which is fp32."""
        B, new = len(token_B), cache.length
        bias = attention_bias(new, 1, cache.see_segments(None, B, 1), token_B.device)
        if bias is not None:
            bias = bias.repeat_interleave(self.model.config.n_kv_heads, dim=0)
        turn = torch.complex(*self.model.rope(position_B))[:, None]

        def attend(layer: int, qkv: Tensor) -> Tensor:
            return self._attend(qkv, turn, bias, cache.keys[layer], cache.values[layer], new)
        logits_BV = self.through(token_B, attend)
        cache.length += 1
        return logits_BV

    def through(self, token_B: Tensor, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        """From tokens to logits; attend(layer, queries, keys and values in one) gives what the heads read."""
        h_BD = self.model.tok_embeddings.weight[token_B].float()
        for i, (qkv, wo, gate_up, w2) in enumerate(self.layers):
            out = attend(i, (self._normed(h_BD) @ qkv).float())
            h_BD = h_BD + (out.to(self.dtype) @ wo).float()      # torch 2.6 compiles a sum of two dtypes wrongly
            gate, up = (self._normed(h_BD) @ gate_up).chunk(2, dim=-1)
            h_BD = h_BD + ((F.silu(gate) * up) @ w2).float()
        return (self._normed(h_BD) @ self.output).float()

    def _attend(self, qkv: Tensor, turn: Tensor, bias: Tensor | None, keys_BKSH: Tensor, values_BKSH: Tensor,
                new: int) -> Tensor:
        """Turn queries and keys, store the new key and value in slot `new`, and read all slots up to it: (B, N · H)."""
        c, B = self.model.config, len(qkv)
        turning = (c.n_heads + c.n_kv_heads) * c.head_dim
        pairs = torch.view_as_complex(qkv[:, :turning].unflatten(1, (c.n_heads + c.n_kv_heads, -1, 2)))
        qk = torch.view_as_real(pairs * turn).flatten(-2)
        keys_BKSH[:, :, new] = qk[:, c.n_heads:]
        values_BKSH[:, :, new] = qkv[:, turning:].unflatten(1, (c.n_kv_heads, -1))
        q = qk[:, :c.n_heads].reshape(B * c.n_kv_heads, -1, c.head_dim)
        k, v = (store[:, :, :new + 1].flatten(0, 1) for store in (keys_BKSH, values_BKSH))
        scores = torch.bmm(q, k.mT) if bias is None else torch.baddbmm(bias, q, k.mT)
        return torch.bmm(scores.softmax(-1), v).view(B, -1)


# ---------------------------------------------------------------------------------------------------------- the next token

def top_p_tokens(probs_BV: Tensor, top_p: float | Tensor, uniform_B: Tensor) -> Tensor:
    """One token per row by inverse CDF: the first whose cumulative probability exceeds the uniform draw.

    top_p below 1 first drops every token before which, in falling order, more than top_p of the mass already lies.
    """
    cut = isinstance(top_p, Tensor) or top_p < 1                 # a tensor is below 1: what it holds must not steer the code
    if cut:
        probs_BV, order_BV = probs_BV.sort(dim=-1, descending=True)
        before_BV = probs_BV.cumsum(-1) - probs_BV
        probs_BV = probs_BV.masked_fill(before_BV > top_p, 0)
    cdf_BV = probs_BV.cumsum(-1)
    threshold_B1 = uniform_B[:, None] * cdf_BV[:, -1:]
    token_B1 = torch.searchsorted(cdf_BV, threshold_B1, right=True)
    # rounding can put the threshold on the last step of the CDF: take the last token that has any mass
    token_B1 = token_B1.clamp(max=torch.searchsorted(cdf_BV, cdf_BV[:, -1:].contiguous()))
    return (order_BV.gather(-1, token_B1) if cut else token_B1)[:, 0]


def next_token(logits_BV: Tensor, uniform_B: Tensor | None, temperature: float | Tensor,
               top_p: float | Tensor) -> tuple[Tensor, Tensor]:
    """(token_B, logprob_B): drawn by the uniform numbers, or greedily where none are given; its log-probability is that of
    the distribution before top-p."""
    if uniform_B is None:
        probs_BV, token_B = logits_BV.softmax(-1), logits_BV.argmax(-1)
    else:
        probs_BV = (logits_BV / temperature).softmax(-1)
        token_B = top_p_tokens(probs_BV, top_p, uniform_B)
    return token_B, probs_BV.gather(1, token_B[:, None])[:, 0].log()


# ---------------------------------------------------------------------------------------------------------------- compiled

class Compiled(Packed):
    """The step and the choice of the next token as one, by torch.compile, for batches whose rows and cache keep their shape.

    All slots of the cache are read at each step, those without a token hidden. What limits it is reading them: attention is
    written as sums, which the compiler fuses with the cast, so that a cache in bf16 is read as such and summed in fp32. Each
    shape is compiled once a process, up to eight of them; it needs a C++ compiler.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        super().__init__(model, dtype)
        self.turns = model.rope(torch.arange(model.config.max_seq_len))

    def choose(self, token_B: Tensor, position_B: Tensor, cache: KVCache, uniform_B: Tensor | None, temperature: float,
               top_p: float) -> tuple[Tensor, Tensor]:
        """(token_B, logprob_B) after one more token a row, as `next_token` draws them from `step`."""
        top_p = torch.tensor(top_p) if top_p < 1 else 1                 # a number that changed would be compiled anew
        found = _compiled()(self, token_B, position_B, torch.tensor([cache.length]), cache.segments_BS, cache.keys,
                            cache.values, uniform_B, torch.tensor(temperature), top_p)
        cache.length += 1
        return found


@cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    """`_fixed` by torch.compile, which is asked for here and not at import: its compiler takes seconds to load."""
    return torch.compile(_fixed, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})


def _fixed(packed: Compiled, token_B: Tensor, position_B: Tensor, new_1: Tensor, segments_BS: Tensor | None,
           keys: list[Tensor], values: list[Tensor], uniform_B: Tensor | None, temperature: Tensor,
           top_p: float | Tensor) -> tuple[Tensor, Tensor]:
    c, B = packed.model.config, len(token_B)
    cos, sin = (table[position_B] for table in packed.turns)
    hidden_BS = torch.arange(keys[0].shape[2])[None] > new_1
    if segments_BS is not None:
        hidden_BS = hidden_BS | (segments_BS < 0)
    bias = torch.zeros(hidden_BS.shape).masked_fill(hidden_BS, -torch.inf)[:, None, None]

    def attend(layer: int, qkv: Tensor) -> Tensor:
        heads = qkv.unflatten(1, (-1, 1, c.head_dim))
        turned = rotate(heads[:, :-c.n_kv_heads], (cos[:, None], sin[:, None]))
        for store, new in ((keys[layer], turned[:, c.n_heads:]), (values[layer], heads[:, -c.n_kv_heads:])):
            store.index_copy_(2, new_1, new.to(store.dtype))
        k_BK1SH, v_BK1SH = keys[layer].float()[:, :, None], values[layer].float()[:, :, None]
        q_BKG1H = turned[:, :c.n_heads].reshape(B, c.n_kv_heads, -1, 1, c.head_dim)
        weights_BKGS = ((q_BKG1H * k_BK1SH).sum(-1) + bias).softmax(-1)
        return (weights_BKGS[..., None] * v_BK1SH).sum(-2).view(B, -1)
    return next_token(packed.through(token_B, attend), uniform_B, temperature, top_p)
