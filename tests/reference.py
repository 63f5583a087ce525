"""Slow, obvious oracles that share no code with the library: what the tests compare against."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llama2_lib.config import ModelConfig


def rough_weights(model: nn.Module, seed: int = 0, scale: float = 0.15) -> nn.Module:
    """Weights at which mistakes show: matrices far from zero, gains spread around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.3 * noise if weight.dim() == 1 else scale * noise)
    return model


def hf_llama(config: ModelConfig, norm_eps: float | None = None, **settings):
    """transformers' LlamaForCausalLM of the same shape, random weights, fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=config.dim, intermediate_size=config.hidden_dim, num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads, num_key_value_heads=config.n_kv_heads, vocab_size=config.vocab_size,
        rms_norm_eps=config.norm_eps if norm_eps is None else norm_eps, rope_theta=config.rope_theta,
        max_position_embeddings=config.max_seq_len, tie_word_embeddings=False, **settings)).eval()


def hf_twin(model: nn.Module, permute: bool = True, **settings):
    """transformers' model with the weights of ours, copied by an independent list of names and a loop over rows."""
    names = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
             "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
             "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
             "tok_embeddings": "embed_tokens"}
    theirs = {}
    for name, weight in model.state_dict().items():
        if permute and name.endswith(("wq.weight", "wk.weight")):
            weight = permuted_rows(weight, model.config.head_dim)
        for ours, other in names.items():
            name = name.replace(ours, other)
        theirs["lm_head.weight" if name == "output.weight" else "model." + name] = weight
    twin = hf_llama(model.config, **settings)
    twin.load_state_dict(theirs)
    return twin


def permuted_rows(weight: Tensor, head_dim: int) -> Tensor:
    """Row h·d + 2i + j of Meta's wq or wk becomes row h·d + j·d/2 + i of Hugging Face's: one row at a time."""
    out = torch.empty_like(weight)
    for row in range(weight.shape[0]):
        head, inside = divmod(row, head_dim)
        pair, member = divmod(inside, 2)
        out[head * head_dim + member * head_dim // 2 + pair] = weight[row]
    return out


def rotate_by_complex(x_BTNH: Tensor, positions_T: Tensor, theta: float) -> Tensor:
    """RoPE as Meta writes it: adjacent channels are a complex number, multiplied by exp(i · angle). In float64."""
    width = x_BTNH.shape[-1]
    angle = torch.outer(positions_T.double(), theta ** (-torch.arange(0, width, 2).double() / width))
    number = torch.view_as_complex(x_BTNH.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(number * torch.polar(torch.ones_like(angle), angle)[:, None]).flatten(-2)


def attention_by_loops(q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, seen_BTS: Tensor) -> Tensor:
    """Attention one query at a time; key-value heads are repeated, then each query head reads its own."""
    B, T, N, H = q_BTNH.shape
    k = k_BSKH.repeat_interleave(N // k_BSKH.shape[2], dim=2)
    v = v_BSKH.repeat_interleave(N // v_BSKH.shape[2], dim=2)
    out = torch.zeros_like(q_BTNH)
    for b in range(B):
        for t in range(T):
            slots = [s for s in range(k.shape[1]) if seen_BTS[b % len(seen_BTS), t, s]]
            for n in range(N):
                scores = torch.stack([q_BTNH[b, t, n] @ k[b, s, n] / math.sqrt(H) for s in slots])
                out[b, t, n] = sum(w * v[b, s, n] for w, s in zip(scores.softmax(0), slots, strict=True))
    return out


def sample_top_p_as_published(probs_V: Tensor, top_p: float) -> Tensor:
    """The distribution Llama 2's `sample_top_p` draws from, (V,): sort, drop where cumsum − p > top_p, renormalise."""
    order = sorted(range(len(probs_V)), key=lambda i: -float(probs_V[i]))
    kept, before = torch.zeros_like(probs_V), 0.0
    for i in order:
        if before > top_p:
            break
        kept[i] = probs_V[i]
        before += float(probs_V[i])
    return kept / kept.sum()


def greedy_one_by_one(model: nn.Module, prompt: list[int], steps: int, eos_id: int) -> list[int]:
    """Greedy continuation without a cache or a batch: the whole sequence again for every token."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == eos_id:
            break
    return ids[len(prompt):]


def contaminated_by_loops(sample: list[int], documents: list[list[int]], longer_than: int, budget: int) -> list[bool]:
    """Appendix A.6 word by word: every place of the sample against every place of every document, at every length."""
    marks = [False] * len(sample)
    for document in documents:
        for i in range(len(sample)):
            for j in range(len(document)):
                if sample[i:i + 10] != document[j:j + 10]:
                    continue
                differ = 0
                for n in range(min(len(sample) - i, len(document) - j)):
                    same = sample[i + n] == document[j + n]
                    differ += not same
                    if same and differ <= budget and n >= 10 and n + 1 > longer_than:
                        marks[i:i + n + 1] = [True] * (n + 1)
    return marks
