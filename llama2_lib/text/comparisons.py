"""Preference pairs as files hold them: one prompt, a chosen and a rejected reply, a grade, a safety bin (section 3.2.1).

A file holds one object a line: prompt (a text, or messages with role and content), chosen, rejected, grade, safety. The
public schemas are read too: chosen and rejected as whole transcripts ("\\n\\nHuman: … \\n\\nAssistant: …") or as messages.
Left out: ties, more than two replies.
"""
from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from llama2_lib.config import require
from llama2_lib.text.chat import Dialog, Message, dialog, render
from llama2_lib.text.reading import read_places
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.annotators import BOTH_SAFE, BOTH_UNSAFE, CHOSEN_SAFE, GRADES

BINS = (CHOSEN_SAFE, BOTH_SAFE, BOTH_UNSAFE)
UNGRADED = "better"                     # of public pairs, which carry no grade
TURN = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}


@dataclass(frozen=True)
class Comparison:
    """A judged pair. prompt: a dialogue that waits for a reply. safety: one of BINS, or "" in helpfulness data.

    ValueError, naming what is wrong, for an empty reply, two equal replies, an unknown grade or bin, or a prompt that waits
    for nothing.
    """
    prompt: Dialog
    chosen: str
    rejected: str
    grade: str
    safety: str = ""

    def __post_init__(self) -> None:
        require(len(self.prompt) > 0 and self.prompt[-1].role == "user", "the prompt does not end on a user message")
        for name in ("chosen", "rejected"):
            require(bool(getattr(self, name).strip()), f"the {name} reply is empty")
        require(self.chosen.strip() != self.rejected.strip(), f"chosen and rejected are the same reply, {self.chosen!r}")
        require(self.grade in GRADES, f"there is no grade {self.grade!r}; there are {', '.join(GRADES)}")
        require(self.safety in (*BINS, ""), f"there is no safety bin {self.safety!r}; there are {', '.join(BINS)}")

    def sides(self) -> tuple[Dialog, Dialog]:
        """The whole dialogue with the chosen reply, and with the rejected one."""
        return tuple((*self.prompt, Message("assistant", reply)) for reply in (self.chosen, self.rejected))


def statistics(comparisons: Sequence[Comparison], tokenizer: Tokenizer) -> dict[str, float | dict[str, float]]:
    """The columns of Table 6 (comparisons, turns, tokens an example, a prompt, a reply) and the shares of grades and bins.

    Turns are user messages of a dialogue. An example is a prompt with one of its replies. ValueError for no comparisons.
    """
    require(len(comparisons) > 0, "statistics of no comparisons")
    prompts = [len(render(c.prompt, tokenizer)[0]) for c in comparisons]
    wholes = [[len(render(side, tokenizer)[0]) for side in c.sides()] for c in comparisons]
    grades, bins = Counter(c.grade for c in comparisons), Counter(c.safety for c in comparisons if c.safety)
    return {
        "comparisons": len(comparisons), "turns": fmean(sum(m.role == "user" for m in c.prompt) for c in comparisons),
        "tokens_an_example": fmean(n for both in wholes for n in both), "tokens_a_prompt": fmean(prompts),
        "tokens_a_reply": fmean(n - p for p, both in zip(prompts, wholes, strict=True) for n in both),
        "grades": {g: grades[g] / len(comparisons) for g in GRADES},
        "safety": {b: bins[b] / max(1, bins.total()) for b in BINS}}


# ------------------------------------------------------------------------------------------------------------------- files

def write(path: str | os.PathLike, comparisons: Iterable[Comparison]) -> None:
    """One comparison a line; the file appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for c in comparisons:
            messages = [{"role": m.role, "content": m.content} for m in c.prompt]
            record = {"prompt": messages[0]["content"] if len(messages) == 1 else messages, "chosen": c.chosen,
                      "rejected": c.rejected, "grade": c.grade, "safety": c.safety}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    os.replace(partial, path)


def read(path: str | os.PathLike, tokenizer: Tokenizer | None = None, longest: int | None = None) -> list[Comparison]:
    """The comparisons of a file in our schema or a public one. With `longest`, in tokens, no side may be longer.

    ValueError with path and line for whatever `read_jsonl` or Comparison refuses, and for a side that is too long.
    """
    found = []
    for place, record in read_places(path, ("chosen", "rejected")):
        try:
            found.append(_comparison(record))
            for side in found[-1].sides() if longest else ():
                tokens = len(render(side, tokenizer)[0])
                require(tokens <= longest, f"the dialogue is {tokens} tokens long; the model reads {longest}")
        except ValueError as problem:
            raise ValueError(f"{place}: {problem}") from problem
    return found


def _comparison(record: dict) -> Comparison:
    grade, safety = record.get("grade", UNGRADED), record.get("safety", "")
    if "prompt" in record:
        reply = [_last_content(record[side]) for side in ("chosen", "rejected")]
        return Comparison(_messages(record["prompt"]), *reply, grade, safety)
    one, other = _messages(record["chosen"]), _messages(record["rejected"])
    require(one[:-1] == other[:-1], "chosen and rejected answer different dialogues")
    require(one[-1].role == other[-1].role == "assistant", "chosen and rejected must end on a reply of the assistant")
    return Comparison(one[:-1], one[-1].content, other[-1].content, grade, safety)


def _last_content(reply: object) -> str:
    """A reply as text; some public sets repeat the whole dialogue as messages."""
    return reply if isinstance(reply, str) else _messages(reply)[-1].content


def _messages(value: object) -> tuple[Message, ...]:
    """Messages from a text, a transcript with Human and Assistant, or a list of objects with role and content."""
    if isinstance(value, str):
        return tuple(_transcript(value)) if value.startswith(tuple(TURN)) else dialog(value)
    require(isinstance(value, list) and len(value) > 0, f"a dialogue is a text or a list of messages, got {value!r}")
    for m in value:
        require(isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str),
                f"a message has a role and a content, got {m!r}")
    return tuple(Message(m["role"], m["content"]) for m in value)


def _transcript(text: str) -> Iterator[Message]:
    starts = sorted((i, mark) for mark in TURN for i in range(len(text)) if text.startswith(mark, i))
    for (at, mark), (end, _) in zip(starts, [*starts[1:], (len(text), "")], strict=True):
        yield Message(TURN[mark], text[at + len(mark):end].strip())
