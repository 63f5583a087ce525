"""Text from a model: batched sampling with a static KV cache.

The samples of one prompt share its prefill, rows that finish leave the batch, and prompts of different lengths are padded
on the left. Temperature 0 is greedy; top-p keeps exactly what Llama 2's `sample_top_p` keeps. A sample is a function of the
seed, its prompt and its number among the samples of that prompt: not of the batch it sits in (up to rounding: a batch of
another size sums in another order). Left out: beam search, top-k, penalties, stop strings.

Shape suffixes: N samples, B rows still running, T time, V vocabulary.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llama2_lib.config import require
from llama2_lib.model.logprobs import token_logprobs
from llama2_lib.model.transformer import KVCache, Transformer

PAD_ID = 0   # fills tokens_NT behind a row's end and prompts on the left; masked everywhere


@dataclass(frozen=True)
class Samples:
    """New tokens only, sample k of prompt i in row i · samples_per_prompt + k.

    tokens_NT int64; mask_NT bool, True on every token of the reply, its end token included; logprobs_NT fp32, of the
    distribution after the temperature and before top-p (temperature 0: the model's own), 0 where the mask is False;
    finished_N bool: True if the row wrote the end token, False if the budget or the context ended it.
    """
    tokens_NT: Tensor
    logprobs_NT: Tensor
    mask_NT: Tensor
    finished_N: Tensor

    def lists(self) -> list[list[int]]:
        """The tokens of each row as a list, the end token included."""
        return [row[keep].tolist() for row, keep in zip(self.tokens_NT, self.mask_NT, strict=True)]


def top_p_tokens(probs_BV: Tensor, top_p: float, uniform_B: Tensor) -> Tensor:
    """One token per row by inverse CDF: the first whose cumulative probability exceeds the uniform draw.

    top_p below 1 first drops every token before which, in falling order, more than top_p of the mass already lies.
    """
    if top_p < 1:
        probs_BV, order_BV = probs_BV.sort(dim=-1, descending=True)
        before_BV = probs_BV.cumsum(-1) - probs_BV
        probs_BV = probs_BV.masked_fill(before_BV > top_p, 0)
    cdf_BV = probs_BV.cumsum(-1)
    threshold_B1 = uniform_B[:, None] * cdf_BV[:, -1:]
    token_B1 = torch.searchsorted(cdf_BV, threshold_B1, right=True)
    # rounding can put the threshold on the last step of the CDF: take the last token that has any mass
    token_B1 = token_B1.clamp(max=torch.searchsorted(cdf_BV, cdf_BV[:, -1:].contiguous()))
    return (order_BV.gather(-1, token_B1) if top_p < 1 else token_B1)[:, 0]


def uniform_draws(prompts: Sequence[Sequence[int]], samples_per_prompt: int, steps: int, seed: int) -> Tensor:
    """Uniform numbers in [0, 1) for every sample and step, (N, steps): a stream of its own for (seed, prompt, copy)."""
    copies: Counter[tuple[int, ...]] = Counter()
    rows = []
    for prompt in map(tuple, prompts):
        for copy in range(copies[prompt], copies[prompt] + samples_per_prompt):
            rows.append(np.random.default_rng([seed, copy, len(prompt), *prompt]).random(steps, dtype=np.float32))
        copies[prompt] += samples_per_prompt
    return torch.from_numpy(np.stack(rows))


def generate(model: Transformer, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, temperature: float = 1.0,
             top_p: float = 1.0, eos_id: int, samples_per_prompt: int = 1, seed: int = 0,
             dtype: torch.dtype = torch.float32, batch_rows: int = 256) -> Samples:
    """Continue each prompt (a list of ids) `samples_per_prompt` times by at most `max_new_tokens` tokens.

    dtype bfloat16 computes in bf16 autocast with a bf16 cache, which pays for large batches. `batch_rows` bounds the rows
    that run at once. A row also stops where the context ends. Raises ValueError for no or an empty prompt, a prompt that
    leaves no room in the context, a negative temperature, a top_p outside (0, 1].
    """
    _check(model, prompts, max_new_tokens, temperature, top_p, samples_per_prompt)
    K, device = samples_per_prompt, model.output.weight.device
    total = len(prompts) * K
    samples = Samples(torch.full((total, max_new_tokens), PAD_ID, device=device),
                      torch.zeros(total, max_new_tokens, device=device),
                      torch.zeros(total, max_new_tokens, dtype=torch.bool, device=device),
                      torch.zeros(total, dtype=torch.bool, device=device))
    uniform_NT = uniform_draws(prompts, K, max_new_tokens, seed).to(device) if temperature > 0 else None
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))      # little padding within a batch
    step = max(1, batch_rows // K)
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for first in range(0, len(prompts), step):
            chosen = by_length[first:first + step]
            rows = torch.tensor([i * K + k for i in chosen for k in range(K)], device=device)
            _decode(model, [prompts[i] for i in chosen], rows, samples, uniform_NT, temperature, top_p, eos_id, dtype)
    return samples


def _check(model: Transformer, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, top_p: float,
           samples_per_prompt: int) -> None:
    require(len(prompts) > 0, "generate: there is no prompt")
    require(max_new_tokens >= 1, f"generate: max_new_tokens must be at least 1, got {max_new_tokens}")
    require(temperature >= 0, f"generate: temperature must not be negative (0 is greedy), got {temperature}")
    require(0 < top_p <= 1, f"generate: top_p must lie in (0, 1], got {top_p}")
    require(samples_per_prompt >= 1, f"generate: samples_per_prompt must be at least 1, got {samples_per_prompt}")
    context, vocabulary = model.config.max_seq_len, model.config.vocab_size
    for i, prompt in enumerate(prompts):
        require(len(prompt) > 0, f"generate: prompt {i} is empty; begin it with the bos id")
        require(len(prompt) < context,
                f"generate: prompt {i} has {len(prompt)} tokens; the context of {context} leaves no room for a reply")
        require(min(prompt) >= 0 and max(prompt) < vocabulary,
                f"generate: prompt {i} holds ids {min(prompt)}…{max(prompt)}; the vocabulary is 0…{vocabulary - 1}")


def _prefill(model: Transformer, prompts: Sequence[Sequence[int]], capacity: int, dtype: torch.dtype,
             device: torch.device) -> tuple[KVCache, Tensor]:
    """Cache and last hidden state, (B, 1, D), of the prompts, padded on the left where their lengths differ."""
    longest = max(map(len, prompts))
    pads = torch.tensor([longest - len(p) for p in prompts], device=device)
    tokens_BT = torch.tensor([[PAD_ID] * (longest - len(p)) + list(p) for p in prompts], device=device)
    place_BT = torch.arange(longest, device=device) - pads[:, None]
    padded = bool(pads.any())
    cache = KVCache(model.config, len(prompts), longest + capacity, dtype, device)
    h_BTD = model.hidden(tokens_BT, place_BT.clamp(min=0), place_BT.clamp(max=0).sign() if padded else None, cache)
    return cache, h_BTD[:, -1:]


def _decode(model: Transformer, prompts: Sequence[Sequence[int]], row_B: Tensor, samples: Samples, uniform_NT: Tensor | None,
            temperature: float, top_p: float, eos_id: int, dtype: torch.dtype) -> None:
    """Fill the rows `row_B` of `samples`; the row of each running sequence shrinks with the batch."""
    copies = len(row_B) // len(prompts)
    length_B = torch.tensor([len(p) for p in prompts], device=row_B.device)
    budget = samples.tokens_NT.shape[1]
    cache, h_B1D = _prefill(model, prompts, budget, dtype, row_B.device)
    if copies > 1:
        each = torch.arange(len(prompts), device=row_B.device).repeat_interleave(copies)
        cache.select(each)
        h_B1D, length_B = h_B1D[each], length_B[each]
    for step in range(budget):
        logits_BV = model.output(h_B1D)[:, 0].float()
        if temperature == 0:
            token_B = logits_BV.argmax(-1)
        else:
            logits_BV = logits_BV / temperature
            token_B = top_p_tokens(logits_BV.softmax(-1), top_p, uniform_NT[row_B, step])
        samples.tokens_NT[row_B, step] = token_B
        samples.logprobs_NT[row_B, step] = token_logprobs(logits_BV, token_B)
        samples.mask_NT[row_B, step] = True
        ended_B = token_B == eos_id
        samples.finished_N[row_B] = ended_B
        stopped_B = ended_B | (length_B + step + 1 >= model.config.max_seq_len)
        if step + 1 == budget or bool(stopped_B.all()):
            return
        if bool(stopped_B.any()):
            kept = cache.leave(stopped_B)
            row_B, token_B, length_B = row_B[kept], token_B[kept], length_B[kept]
        h_B1D = model.hidden(token_B[:, None], (length_B + step)[:, None], None, cache)
