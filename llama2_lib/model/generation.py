"""Text from a model: batched sampling with a static KV cache.

The samples of one prompt share its prefill, rows that finish leave the batch, and prompts of different lengths are padded
on the left. Temperature 0 is greedy; top-p keeps exactly what Llama 2's `sample_top_p` keeps. A sample is a function of the
seed, its prompt and its number among the samples of that prompt: not of the batch it sits in (up to rounding: a batch of
another size sums in another order). Left out: beam search, top-k, penalties, stop strings.

Shape suffixes: N samples, B rows still running, T time, V vocabulary.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llama2_lib.config import require
from llama2_lib.model.decoding import Compiled, Packed, next_token
from llama2_lib.model.transformer import KVCache, Transformer

Step = Callable[[Tensor, Tensor, KVCache], Tensor]   # token_B, position_B, cache → logits_BV
PAD_ID = 0   # fills tokens_NT behind a row's end and prompts on the left; masked everywhere
PREFILL = 2048   # tokens of prompts that a CPU reads at once: more outgrow its cache
SLOTS = 32   # a compiled cache is a multiple of it: fewer shapes to compile
END, BUDGET, CONTEXT = "end token", "budget", "context"
REASONS = (END, BUDGET, CONTEXT)     # why a row stopped: stop_N holds their numbers


@dataclass(frozen=True)
class Samples:
    """New tokens only, sample k of prompt i in row i · samples_per_prompt + k.

    tokens_NT int64; mask_NT bool, True on every token of the reply, its end token included; logprobs_NT fp32, of the
    distribution after the temperature and before top-p (temperature 0: the model's own), 0 where the mask is False;
    stop_N int64: the number in REASONS of what ended the row; the end token counts before the others.
    """
    tokens_NT: Tensor
    logprobs_NT: Tensor
    mask_NT: Tensor
    stop_N: Tensor

    @property
    def finished_N(self) -> Tensor:
        """True for the rows that wrote the end token."""
        return self.stop_N == REASONS.index(END)

    @property
    def reasons(self) -> list[str]:
        """Why each row stopped, in words."""
        return [REASONS[i] for i in self.stop_N.tolist()]

    def lists(self) -> list[list[int]]:
        """The tokens of each row as a list, the end token included."""
        return [row[keep].tolist() for row, keep in zip(self.tokens_NT, self.mask_NT, strict=True)]


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
             dtype: torch.dtype = torch.float32, batch_rows: int = 256, compiled: bool = False) -> Samples:
    """Continue each prompt (a list of ids) `samples_per_prompt` times by at most `max_new_tokens` tokens.

    dtype bfloat16 computes matrix products in bf16, which pays for batches of dozens of rows; the weights stay as they are.
    Weights that are in half precision themselves, as published ones are, are multiplied in it.
    On a CPU the weights are packed at each call (decoding.py). `batch_rows` bounds the rows that run at once. A row also
    stops where the context ends.

    compiled, on a CPU alone: steps of one fixed shape by torch.compile, which pays for many replies of one length. The first
    call of each shape takes 20 seconds more, and a row that has ended stays in its batch to the end. In bfloat16 it keeps
    keys and values in bfloat16 as well.

    Raises ValueError for no or an empty prompt, a prompt that leaves no room in the context, a negative temperature, a top_p
    outside (0, 1], `compiled` for weights that are not whole on a CPU.
    """
    _check(model, prompts, max_new_tokens, temperature, top_p, samples_per_prompt)
    require(_can_pack(model) or not compiled, "generate: compiled steps need weights that lie whole on a CPU; these are on "
                                              f"{model.output.weight.device}")
    K, device, context = samples_per_prompt, model.output.weight.device, model.config.max_seq_len
    total = len(prompts) * K
    samples, dtype = _room(total, max_new_tokens, device), _working(model, dtype)
    uniform_NT = uniform_draws(prompts, K, max_new_tokens, seed).to(device) if temperature > 0 else None
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))      # little padding within a batch
    step, budget = min(len(prompts), max(1, batch_rows // K)), min(max_new_tokens, context)
    slots = -(-(max(map(len, prompts)) + budget) // SLOTS) * SLOTS
    with torch.inference_mode():
        if compiled:
            packed, cache_dtype = Compiled(model, dtype), dtype
        else:
            advance, cache_dtype = _stepper(model, dtype)
        for first in range(0, len(prompts), step):
            chosen = by_length[first:first + step]
            if compiled:                                    # all batches of one shape: the last one says things twice
                chosen += chosen[-1:] * (step - len(chosen))
            rows = torch.tensor([i * K + k for i in chosen for k in range(K)], device=device)
            longest = len(prompts[chosen[-1]])
            cache, logits_BV = _prefill(model, [prompts[i] for i in chosen], slots - longest if compiled else budget, K,
                                        dtype, cache_dtype)
            lengths = torch.tensor([len(prompts[i]) for i in chosen for _ in range(K)], device=device)
            batch = cache, logits_BV, rows, lengths, context, samples, uniform_NT, temperature, top_p, eos_id
            if compiled:
                _decode_whole(packed, *batch)
            else:
                for _ in _decode(advance, *batch):
                    pass
    return samples


@torch.inference_mode()
def stream(model: Transformer, prompt: Sequence[int], *, max_new_tokens: int, temperature: float = 1.0, top_p: float = 1.0,
           eos_id: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Iterator[int]:
    """The tokens of one sample, each as soon as it is drawn, the end token included: those of `generate`, so set."""
    _check(model, [prompt], max_new_tokens, temperature, top_p, 1)
    device, context = model.output.weight.device, model.config.max_seq_len
    samples, dtype = _room(1, max_new_tokens, device), _working(model, dtype)
    uniform_NT = uniform_draws([prompt], 1, max_new_tokens, seed).to(device) if temperature > 0 else None
    advance, cache_dtype = _stepper(model, dtype)
    cache, logits_BV = _prefill(model, [prompt], min(max_new_tokens, context), 1, dtype, cache_dtype)
    row, length = torch.zeros(1, dtype=torch.long, device=device), torch.tensor([len(prompt)], device=device)
    for i in _decode(advance, cache, logits_BV, row, length, context, samples, uniform_NT, temperature, top_p, eos_id):
        yield int(samples.tokens_NT[0, i])


def _room(rows: int, steps: int, device: torch.device) -> Samples:
    """Samples of nothing yet, all of them ended by the budget unless something else ends them."""
    return Samples(torch.full((rows, steps), PAD_ID, device=device), torch.zeros(rows, steps, device=device),
                   torch.zeros(rows, steps, dtype=torch.bool, device=device),
                   torch.full((rows,), REASONS.index(BUDGET), device=device))


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


def _working(model: Transformer, dtype: torch.dtype) -> torch.dtype:
    """`dtype` for float32 weights, else that of the weights."""
    stored = model.output.weight.dtype
    return dtype if stored == torch.float32 else stored


def _autocast(model: Transformer, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(model.output.weight.device.type, dtype, enabled=dtype != torch.float32)


def _prefill(model: Transformer, prompts: Sequence[Sequence[int]], room: int, copies: int, dtype: torch.dtype,
             cache_dtype: torch.dtype) -> tuple[KVCache, Tensor]:
    """A cache with `room` for more tokens and the logits of the next one, (B, V), `copies` rows a prompt, read once.

    Prompts are padded on the left where their lengths differ. A CPU reads a few at a time, the padding that they share not.
    """
    B, longest, device = len(prompts), max(map(len, prompts)), model.output.weight.device
    pads = torch.tensor([longest - len(p) for p in prompts], device=device)
    tokens_BT = torch.tensor([[PAD_ID] * (longest - len(p)) + list(p) for p in prompts], device=device)
    place_BT = torch.arange(longest, device=device) - pads[:, None]
    segments_BT = place_BT.clamp(max=0).sign() if bool(pads.any()) else None
    cache = KVCache(model.config, B, longest + room, cache_dtype, device)
    logits, at_once = [], max(1, PREFILL // longest) if device.type == "cpu" else B
    for start in range(0, B, at_once):
        rows = slice(start, start + at_once)
        first = int(pads[rows].min())
        part = cache.part(rows, first)
        segments = None if segments_BT is None else segments_BT[rows, first:]
        with _autocast(model, dtype):
            h_BTD = model.hidden(tokens_BT[rows, first:], place_BT[rows, first:].clamp(min=0), segments, part)
            logits.append(model.output(h_BTD[:, -1]).float())
    cache.see_segments(segments_BT, B, longest)
    cache.length, logits_BV = longest, torch.cat(logits)
    if copies == 1:
        return cache, logits_BV
    row = torch.arange(len(prompts), device=device).repeat_interleave(copies)
    cache.select(row)
    return cache, logits_BV[row]


def _decode(advance: Step, cache: KVCache, logits_BV: Tensor, row_B: Tensor, length_B: Tensor, context: int,
            samples: Samples, uniform_NT: Tensor | None, temperature: float, top_p: float, eos_id: int) -> Iterator[int]:
    """Fill the rows `row_B` of `samples`, each up to its end token, the context's, or the budget's; yield after each step.

    The rows still running shrink with the batch.
    """
    budget = samples.tokens_NT.shape[1]
    for i in range(budget):
        token_B, logprob_B = next_token(logits_BV, _drawn(uniform_NT, row_B, i), temperature, top_p)
        samples.tokens_NT[row_B, i] = token_B
        samples.logprobs_NT[row_B, i] = logprob_B
        samples.mask_NT[row_B, i] = True
        yield i
        ended_B = token_B == eos_id
        full_B = length_B + i + 1 >= context
        stopped_B = ended_B | full_B
        if bool(stopped_B.any()):
            samples.stop_N[row_B[full_B]] = REASONS.index(CONTEXT)
            samples.stop_N[row_B[ended_B]] = REASONS.index(END)
            kept = cache.leave(stopped_B)
            row_B, token_B, length_B = row_B[kept], token_B[kept], length_B[kept]
        if len(row_B) == 0 or i + 1 == budget:
            return
        logits_BV = advance(token_B, length_B + i, cache)


def _decode_whole(packed: Compiled, cache: KVCache, logits_BV: Tensor, row_B: Tensor, length_B: Tensor, context: int,
                  samples: Samples, uniform_NT: Tensor | None, temperature: float, top_p: float, eos_id: int) -> None:
    """What `_decode` does, with all rows in the batch to the end; what a row says after its own end is dropped."""
    budget, going_B = samples.tokens_NT.shape[1], torch.ones(len(row_B), dtype=torch.bool)
    uniforms = [None] * budget if uniform_NT is None else uniform_NT[row_B].T.contiguous().unbind()
    found = [next_token(logits_BV, uniforms[0], temperature, top_p)]
    for i in range(1, budget):
        token_B = found[-1][0]
        going_B &= (token_B != eos_id) & (length_B + i < context)
        if not bool(going_B.any()):
            break
        position_B = (length_B + i - 1).clamp(max=context - 1)
        found.append(packed.choose(token_B, position_B, cache, uniforms[i], temperature, top_p))
    tokens_BT, logprobs_BT = (torch.stack(parts, 1) for parts in zip(*found, strict=True))
    T, end_BT = len(found), tokens_BT == eos_id
    mask_BT = (end_BT.cumsum(1) == end_BT) & (length_B[:, None] + torch.arange(T) < context)
    samples.tokens_NT[row_B, :T] = tokens_BT.where(mask_BT, PAD_ID)
    samples.logprobs_NT[row_B, :T] = logprobs_BT.where(mask_BT, 0.0)
    samples.mask_NT[row_B, :T] = mask_BT
    samples.stop_N[row_B[length_B + mask_BT.sum(1) >= context]] = REASONS.index(CONTEXT)
    samples.stop_N[row_B[(end_BT & mask_BT).any(1)]] = REASONS.index(END)


def _drawn(uniform_NT: Tensor | None, row_B: Tensor, step: int) -> Tensor | None:
    return None if uniform_NT is None else uniform_NT[row_B, step]


def _can_pack(model: Transformer) -> bool:
    """Whether the weights lie whole on a CPU."""
    weight = model.output.weight
    return weight.device.type == "cpu" and type(weight) is torch.nn.Parameter


def _stepper(model: Transformer, dtype: torch.dtype) -> tuple[Step, torch.dtype]:
    """What computes the next logits, (B, V), from one token a row, and the dtype of the cache it wants."""
    if _can_pack(model):
        return Packed(model, dtype).step, torch.float32

    def step(token_B: Tensor, position_B: Tensor, cache: KVCache) -> Tensor:
        with _autocast(model, dtype):
            return model(token_B[:, None], position_B[:, None], None, cache)[:, 0].float()
    return step, dtype
