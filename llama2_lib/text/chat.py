"""Llama 2's chat format, and the only place that decides which tokens are learned from.

Each exchange is tokenised on its own: BOS + `[INST] {user} [/INST] {answer} ` + EOS; a dialogue that waits for an answer
ends with BOS + `[INST] {user} [/INST]`. A system message joins the first user message between `<<SYS>>` marks. The marks
are ordinary text, not control ids, so a user could write them: a message that holds one is refused, as in Meta's code
since August 2023.

Section 3.1: "we utilize an autoregressive objective and zero-out the loss on tokens from the user prompt". The answer's
closing space and EOS are learned: without them a model never stops.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llama2_lib.text.tokenizer import Tokenizer

B_INST, E_INST = "[INST]", "[/INST]"
B_SYS, E_SYS = "<<SYS>>", "<</SYS>>"
TAGS = (B_INST, E_INST, B_SYS, E_SYS)
Role = Literal["system", "user", "assistant"]
Supervise = Literal["answers", "last", "everything"]


@dataclass(frozen=True)
class Message:
    role: Role
    content: str


Dialog = Sequence[Message]


def dialog(*turns: str, system: str | None = None) -> tuple[Message, ...]:
    """Messages from texts that alternate user, assistant, user …, with an optional system message in front."""
    first = () if system is None else (Message("system", system),)
    return first + tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(turns))


def render(dialog: Dialog, tokenizer: Tokenizer, supervise: Supervise = "answers") -> tuple[list[int], list[bool]]:
    """Ids of a dialogue and, for each, whether it is learned from.

    dialog: an optional system message, then user and assistant in turn. One that ends on the user is a prompt.
    supervise: "answers", every assistant message (section 3.1); "last", the last one only (Ghost Attention, section 3.3);
    "everything", all but BOS: what happens without masking, for comparison.

    Returns (ids, loss_mask) of equal length. Raises ValueError, naming the message, for a wrong order of roles, an empty
    message, or a message that holds one of the four tags.
    """
    exchanges = _exchanges(dialog)
    ids: list[int] = []
    mask: list[bool] = []
    for i, (user, answer) in enumerate(exchanges):
        prompt = tokenizer.encode(f"{B_INST} {user} {E_INST}", bos=True)
        whole = prompt
        if answer is not None:
            whole = tokenizer.encode(f"{B_INST} {user} {E_INST} {answer} ", bos=True, eos=True)
            if whole[:len(prompt)] != prompt:
                raise ValueError(f"the tokenizer at {tokenizer.path} merges across the space after {E_INST}: "
                                 f"where the answer {answer!r} begins cannot be told")
        learned = supervise != "last" or i == len(exchanges) - 1
        ids += whole
        mask += [supervise == "everything" and j > 0 or learned and j >= len(prompt) for j in range(len(whole))]
    return ids, mask


def _exchanges(dialog: Dialog) -> list[tuple[str, str | None]]:
    """(user text with the system message folded in, answer or None), checked."""
    messages = list(dialog)
    for i, message in enumerate(messages):
        _check(i, message)
    prefix = ""
    if messages and messages[0].role == "system":
        prefix = f"{B_SYS}\n{messages.pop(0).content}\n{E_SYS}\n\n"
    if not messages:
        raise ValueError("a dialogue needs at least one user message")
    for i, message in enumerate(messages):
        expected = "assistant" if i % 2 else "user"
        if message.role != expected:
            raise ValueError(f"message {i + bool(prefix)} is from {message.role!r} where {expected!r} is due: after an "
                             "optional system message, user and assistant alternate, starting with user")
    texts = [m.content for m in messages]
    texts[0] = prefix + texts[0]
    answers = [t.strip() for t in texts[1::2]] + [None] * (len(texts) % 2)
    return [(user.strip(), answer) for user, answer in zip(texts[::2], answers, strict=True)]


def _check(i: int, message: Message) -> None:
    if message.role not in ("system", "user", "assistant"):
        raise ValueError(f"message {i} has the role {message.role!r}; there are system, user and assistant")
    if not message.content.strip():
        raise ValueError(f"message {i} ({message.role}) is empty")
    for tag in TAGS:
        if tag in message.content:
            raise ValueError(f"message {i} ({message.role}) holds the control tag {tag!r}, which no message may")
