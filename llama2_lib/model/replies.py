"""Replies of a chat model to prompts and dialogues: rendering, sampling and decoding in one call.

Shared by the stages that need replies (preferences, rejection sampling, PPO) and by the analyses that judge them. The
paper's decoding settings differ from study to study; temperature is the caller's. Left out: top-p.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llama2_lib.config import require
from llama2_lib.model.generation import Samples, generate
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import Dialog, Message, dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import Prompt

REPLY_TOKENS = 96      # room for the world's longest good replies; a reply that has not ended by then is cut

# What rejection sampling and PPO optimise: prompts and whole dialogues as ids → a score each, whoever gives it
Scorer = Callable[[Sequence[Prompt], Sequence[list[int]]], Sequence[float]]


@dataclass(frozen=True)
class Reply:
    """The text of a reply, and whether the model ended it itself (False: the budget or the context did)."""
    text: str
    finished: bool

    @property
    def whole(self) -> bool:
        """True if the model ended it and said something."""
        return self.finished and bool(self.text)


def as_dialog(prompt: Prompt) -> Dialog:
    """The prompt as a dialogue that waits for an answer, its rule as the system message."""
    return dialog(prompt.text, system=prompt.system)


def answered(prompt: Prompt, reply: str) -> Dialog:
    """The dialogue of a prompt and its reply."""
    return (*as_dialog(prompt), Message("assistant", reply))


def sample(model: Transformer, tokenizer: Tokenizer, dialogs: Sequence[Dialog], temperature: float = 0.0, seed: int = 0,
           max_new_tokens: int = REPLY_TOKENS, copies: int = 1) -> list[Reply]:
    """`copies` replies to each dialogue, those to one dialogue beside each other.

    ValueError if a dialogue ends on an answer: it does not wait for a reply.
    """
    for i, messages in enumerate(dialogs):
        require(len(messages) > 0 and messages[-1].role == "user", f"dialogue {i} does not end on a user message")
    return _continue(model, tokenizer, [render(d, tokenizer)[0] for d in dialogs], temperature, seed, max_new_tokens, copies)


def continued(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], temperature: float = 0.0, seed: int = 0,
              max_new_tokens: int = REPLY_TOKENS) -> list[Reply]:
    """Each text continued as it stands, after BOS, without the chat format: what a careless program asks."""
    return _continue(model, tokenizer, [tokenizer.encode(t, bos=True) for t in texts], temperature, seed, max_new_tokens, 1)


def _continue(model: Transformer, tokenizer: Tokenizer, ids: list[list[int]], temperature: float, seed: int,
              max_new_tokens: int, copies: int) -> list[Reply]:
    samples = sample_ids(model, tokenizer, ids, temperature, seed, max_new_tokens, copies)
    return [Reply(tokenizer.decode(reply).strip(), bool(done))
            for reply, done in zip(samples.lists(), samples.finished_N, strict=True)]


def sample_ids(model: Transformer, tokenizer: Tokenizer, ids: list[list[int]], temperature: float, seed: int,
               max_new_tokens: int = REPLY_TOKENS, copies: int = 1) -> Samples:
    """Samples that go on from `ids`, from the model in evaluation mode; its mode afterwards is the one before."""
    was_training = model.training
    model.eval()
    samples = generate(model, ids, max_new_tokens=max_new_tokens, temperature=temperature, eos_id=tokenizer.eos_id,
                       seed=seed, samples_per_prompt=copies)
    model.train(was_training)
    return samples


def replies(model: Transformer, tokenizer: Tokenizer, dialogs: Sequence[Dialog], temperature: float = 0.0, seed: int = 0,
            max_new_tokens: int = REPLY_TOKENS, copies: int = 1) -> list[str]:
    """The texts of `sample`."""
    return [r.text for r in sample(model, tokenizer, dialogs, temperature, seed, max_new_tokens, copies)]
