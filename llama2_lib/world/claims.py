"""Reading what a sentence claims, by the statement templates of relations.csv, whoever wrote the sentence.

"The capital of France is Rome." claims (capital, France, Rome); whether that is true is then looked up. Reading is generous
in letter case and articles, and strict in everything else. Left out: pronouns, negation, two claims in one sentence.
"""
from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from llama2_lib.world.facts import SLOT, Fact, World

ARTICLE = re.compile(r"(?:an?|the) ", re.IGNORECASE)
EDGES = " \t\n.,!?\"'*"


@dataclass(frozen=True)
class Claim:
    """What a sentence says, true or not. Names that the world knows are spelled as the world spells them."""
    relation: str
    subject: str
    value: str
    true: bool


@dataclass(frozen=True, eq=False)
class Reader:
    """Everything needed to read claims about one world."""
    patterns: tuple[tuple[str, re.Pattern], ...]                 # (relation, statement)
    questions: tuple[tuple[str, re.Pattern], ...]                # (relation, question)
    subjects: dict[str, dict[str, str]]                          # relation -> folded -> as spelled in the table
    values: dict[str, dict[str, str]]


def fold(text: str) -> str:
    """A name without case, article at its front, or marks at its edges."""
    text = " ".join(text.strip(EDGES).split()).casefold()
    return ARTICLE.sub("", text, count=1) if ARTICLE.match(text) else text


def _pattern(template: str) -> re.Pattern:
    pieces, at = [], 0
    for slot in SLOT.finditer(template):
        pieces += [re.escape(template[at:slot.start()]), rf"(?P<{slot[2]}>.{{1,80}}?)"]
        at = slot.end()
    return re.compile("".join(pieces) + re.escape(template[at:]).rstrip(r"\.?"), re.IGNORECASE)


@functools.lru_cache(maxsize=4)
def reader(world: World) -> Reader:
    """The patterns and names of a world, made ready once."""
    relations = world.relations.values()
    return Reader(
        patterns=tuple((r.name, _pattern(t)) for r in relations for t in r.statements),
        questions=tuple((r.name, _pattern(t)) for r in relations for t in r.questions),
        subjects={r: _folded(f.subject for f in world.of(r)) for r in world.relations},
        values={r: _folded(world.values(r)) for r in world.relations})


def _folded(names: Iterable[str]) -> dict[str, str]:
    return {fold(name): name for name in names}


@functools.lru_cache(maxsize=50_000)
def claim(world: World, sentence: str) -> Claim | None:
    """What one sentence claims, or None if it is about nothing that the world knows.

    A sentence that fits several templates is read as the true claim if there is one, then as the one whose subject and
    value are both known, then as the one whose subject is known, then whose value is.
    """
    r = reader(world)
    best, best_rank = None, (False, False, False)
    bare = sentence.strip(EDGES)
    for relation, pattern in r.patterns:
        if (match := pattern.fullmatch(bare)) is None:
            continue
        subject, value = fold(match["subject"]), fold(match["value"])
        known_subject, known_value = r.subjects[relation].get(subject), r.values[relation].get(value)
        true = known_subject is not None and known_value is not None and world.value(relation, known_subject) == known_value
        rank = (true, known_subject is not None, known_value is not None)
        if rank > best_rank:
            best, best_rank = Claim(relation, known_subject or subject, known_value or value, true), rank
    return best


def bare_value(world: World, relation: str, sentence: str) -> str | None:
    """The value that a short answer names: "Paris.", "It is Paris." """
    bare = re.sub(r"^(?:it is|it's|in)\s+(?=\S)", "", sentence.strip(EDGES), flags=re.IGNORECASE)
    values = reader(world).values[relation]
    return values.get(fold(bare)) or values.get(fold(sentence))


def question(world: World, text: str) -> Fact | None:
    """The fact that a question of relations.csv asks for, or None."""
    r = reader(world)
    for relation, pattern in r.questions:
        if (match := pattern.fullmatch(text.strip(EDGES))) and (subject := r.subjects[relation].get(fold(match["subject"]))):
            return Fact(relation, subject, world.value(relation, subject) or "")
    return None
