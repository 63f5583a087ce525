"""The transformer once more, packed for writing one token at a time on a CPU.

With one token a row there is little arithmetic, and most of the time goes into launching operators. So each norm's gain and
the attention scale are folded into the matrices that follow, wq, wk and wv become one matrix, w1 and w3 another, all stored
the way the product reads them. Attention stays in fp32: bf16 products of single rows are slower on a CPU. The mathematics is
that of transformer.py, and the tests hold it to that. Left out: everything but one new token a row.

Shape suffixes: B rows, D model width, N query heads, K key-value heads, H head width, S slots so far, V vocabulary.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llama2_lib.model.transformer import KVCache, Transformer, attention_bias


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
        h_BD = self.model.tok_embeddings.weight[token_B].float()
        for i, (qkv, wo, gate_up, w2) in enumerate(self.layers):
            out = self._attend((self._normed(h_BD) @ qkv).float(), turn, bias, cache.keys[i], cache.values[i], new)
            h_BD = h_BD + out.to(self.dtype) @ wo
            gate, up = (self._normed(h_BD) @ gate_up).chunk(2, dim=-1)
            h_BD = h_BD + (F.silu(gate) * up) @ w2
        cache.length += 1
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
