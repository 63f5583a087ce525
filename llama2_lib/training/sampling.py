"""Replies from all processes: `model.replies`, with the prompts divided among those that torchrun started.

Section 3.2.3 gathers the weights on each node once before it samples, so that every node can write replies on its own; here
each process has the whole model, and writes its part of them. A sample depends on the seed, its prompt and its number among
the samples of that prompt, so the replies are those of one process, up to rounding. On one process these are the functions
of `model.replies`. Left out: prompts that go to whoever is idle.
"""
from __future__ import annotations

from collections.abc import Sequence

from llama2_lib.model import replies as alone
from llama2_lib.model.replies import REPLY_TOKENS, Reply
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import Dialog
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import distributed


def sample(model: Transformer, tokenizer: Tokenizer, dialogs: Sequence[Dialog], temperature: float = 0.0, seed: int = 0,
           max_new_tokens: int = REPLY_TOKENS, copies: int = 1) -> list[Reply]:
    """`copies` replies to each dialogue, those to one dialogue beside each other; all processes must ask for the same."""
    def part(some: list[Dialog]) -> list[list[Reply]]:
        said = alone.sample(model, tokenizer, some, temperature, seed, max_new_tokens, copies)
        return [said[i:i + copies] for i in range(0, len(said), copies)]
    return [reply for own in distributed.divided(list(map(tuple, dialogs)), part) for reply in own]


def replies(model: Transformer, tokenizer: Tokenizer, dialogs: Sequence[Dialog], temperature: float = 0.0,
            seed: int = 0) -> list[str]:
    """The text of one reply to each dialogue."""
    return [r.text for r in sample(model, tokenizer, dialogs, temperature, seed)]


def sample_ids(model: Transformer, tokenizer: Tokenizer, ids: Sequence[list[int]], temperature: float, seed: int,
               max_new_tokens: int = REPLY_TOKENS) -> list[tuple[list[int], str]]:
    """(tokens, why they end there: one of `generation.REASONS`) of one sample that goes on from each of `ids`."""
    def part(some: list[tuple[int, ...]]) -> list[tuple[list[int], str]]:
        samples = alone.sample_ids(model, tokenizer, list(map(list, some)), temperature, seed, max_new_tokens)
        return list(zip(samples.lists(), samples.reasons, strict=True))
    return distributed.divided(list(map(tuple, ids)), part)
