"""Prompts and demonstrations, dialogues of several turns, and reading a reader's own question.

The front door of three files: `prompts` (what is asked), `replies` (good and bad answers), `rules` (system rules). Here are
dialogues, whose every reply keeps the system rule (section 3.3), and `recognise`, which finds the prompt behind a free text.
Left out: turns that refer to earlier ones.
"""
from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

from llama2_lib.config import require
from llama2_lib.world.claims import EDGES, fold, question
from llama2_lib.world.facts import OPERANDS, World
from llama2_lib.world.prompts import (
    HELPFUL,
    KINDS,
    NUMBERS,
    SAFETY,
    SLOT,
    TRAIN,
    HowTo,
    Prompt,
    classes,
    draw_prompt,
    howtos,
    howtos_of,
    prompts,
    wordings,
)
from llama2_lib.world.replies import DAMAGES, damaged, damages, demonstration
from llama2_lib.world.rules import Rule, all_rules, draw_rule
from llama2_lib.world.writing import grammar

__all__ = [
    "CHAT", "DAMAGES", "HELPFUL", "KINDS", "SAFETY", "HowTo", "Prompt", "Rule", "all_rules", "conversation", "damaged",
    "damages", "demonstration", "draw_prompt", "draw_rule", "howtos", "howtos_of", "prompts", "recognise"]

# What people talk about in dialogues: the helpful kinds, short ones oftener, and no rule inside a turn.
CHAT: Mapping[str, float] = {
    "fact": 0.4, "sum": 0.2, "copy": 0.1, "reverse": 0.05, "last": 0.05, "list": 0.05, "dated": 0.05, "howto": 0.04,
    "story": 0.03, "poem": 0.03}
SOURCES = {"sum": r"[0-9]{1,9}\s*\+\s*[0-9]{1,9}", "year": r"[0-9]{1,4}", "count": "|".join(NUMBERS)}


def conversation(world: World, rng: Random, turns: int, system: Rule | None = None, split: str = TRAIN,
                 mix: Mapping[str, float] = CHAT) -> list[tuple[str, str]]:
    """(user, assistant) for each turn, no question twice in a row; every reply keeps the rule `system`, if there is one.

    The rule's text is for the caller to place: as a system message (`system.text`), or nowhere.
    """
    require(turns >= 1, f"a conversation has at least one turn, got {turns}")
    pairs: list[tuple[str, str]] = []
    kinds, weights = list(mix), list(mix.values())
    for _ in range(turns):
        (kind,) = rng.choices(kinds, weights)
        prompt = draw_prompt(world, kind, rng, split)
        while pairs and prompt.text == pairs[-1][0]:
            prompt = draw_prompt(world, kind, rng, split)
        pairs.append((prompt.text, demonstration(world, replace(prompt, rule=system), rng)))
    return pairs


# ------------------------------------------------------------------------------------------------------------- recognition

@functools.lru_cache(maxsize=4)
def _patterns(world: World) -> tuple[tuple[str, re.Pattern], ...]:
    """(kind, pattern) for each wording of prompts.csv, its slots as named groups."""
    found = []
    for kind, texts in wordings(world).items():
        for text in texts:
            pieces = re.split(r"(\{[^}]*\})", text.rstrip(" .?"))
            found.append((kind, re.compile("".join(map(_piece, pieces)), re.IGNORECASE)))
    return tuple(found)


def _piece(piece: str) -> str:
    slot = SLOT.fullmatch(piece)
    return f"(?P<{slot[2]}>{SOURCES.get(slot[2], '.{1,200}?')})" if slot else re.escape(piece)


def recognise(world: World, text: str) -> Prompt | None:
    """The prompt that a reader's own text asks, or None if no wording of the world fits. Never raises."""
    text = " ".join(text.split())
    if (fact := question(world, text)) is not None:
        return Prompt("fact", text, fact=fact)
    bare = text.strip(EDGES)
    for kind, pattern in _patterns(world):
        if (match := pattern.fullmatch(bare)) and (prompt := RESOLVE[kind](world, kind, text, match.groupdict())):
            return prompt
    return None


def _sum(world: World, kind: str, text: str, found: dict[str, str]) -> Prompt | None:
    a, b = map(int, found["sum"].split("+"))
    return Prompt(kind, text, operands=(a, b)) if max(a, b) < OPERANDS else None


def _creative(world: World, kind: str, text: str, found: dict[str, str]) -> Prompt | None:
    topic = next((t for t in grammar(world).topics if fold(t) == fold(found["topic"])), None)
    return Prompt(kind, text, topic=topic) if topic else None


def _howto(world: World, kind: str, text: str, found: dict[str, str]) -> Prompt | None:
    howto = next((h for h in howtos(world) if fold(h.request) == fold(found["request"])), None)
    return Prompt(kind, text, howto=howto) if howto else None


def _words(world: World, kind: str, text: str, found: dict[str, str]) -> Prompt | None:
    words = tuple(w for w in (w.strip(EDGES) for w in found["words"].split()) if w)
    return Prompt(kind, text, words=words) if words else None


def _list(world: World, kind: str, text: str, found: dict[str, str]) -> Prompt | None:
    topic, number = found["class"].casefold(), NUMBERS.get(found["count"].casefold(), 0)
    return Prompt(kind, text, topic=topic, number=number) if number and topic in classes(world) else None


def _dated(world: World, kind: str, text: str, found: dict[str, str]) -> Prompt | None:
    fact = next((f for f in world.of("year") if fold(f.subject) == fold(found["event"])), None)
    return Prompt(kind, text, fact=fact, number=int(found["year"])) if fact else None


RESOLVE: dict[str, Callable[[World, str, str, dict[str, str]], Prompt | None]] = {
    "sum": _sum, "story": _creative, "poem": _creative, "howto": _howto, "list": _list, "dated": _dated,
    **dict.fromkeys(("copy", "reverse", "last"), _words)}
