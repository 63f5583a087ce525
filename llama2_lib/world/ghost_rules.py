"""More kinds of system rules, for the dialogues of Ghost Attention: "Mark each answer as a note." (section 3.3).

No page of the corpus and no demonstration holds them, so data/ghost_rules.csv may get a line without a new corpus: what a
rule's sign is, and where it goes. They are there since a model that learns to hold few kinds of rules holds others less
(claim B15); the paper's own lists of hobbies, languages and public figures were open at the end as well.
"""
from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from llama2_lib.world.rules import LAST_MARK, Kind, Rule, _kind
from llama2_lib.world.tables import TABLES, TableError, parts, read_rows

GHOST_RULES = TABLES.parent / "ghost_rules.csv"


def _pair(sign: str) -> tuple[str, str]:
    """What stands on the left and on the right: "( )" has two marks, "+" stands on both sides."""
    left, *right = sign.split()
    return left, right[0] if right else left


def _around(reply: str, sign: str) -> str:
    left, right = _pair(sign)
    return f"{left} {reply} {right}"


def _is_around(sign: str) -> re.Pattern:
    left, right = map(re.escape, _pair(sign))
    return re.compile(rf"\A{left}.*\w.*{right}\Z", re.DOTALL)


def _stops(reply: str, sign: str) -> str:
    """Each full stop becomes the sign, and so does a last mark of another kind, or none."""
    return LAST_MARK.sub(".", reply, count=1).replace(".", sign)


def _has_stops(sign: str) -> re.Pattern:
    mark = re.escape(sign)
    return re.compile(rf"\A[^.!?]*(?:{mark}[^.!?]*)*{mark}\Z")


# Where a sign goes: how to put it there, what a reply that has it looks like, how to take it off
FORMS: dict[str, Kind] = {
    "before": _kind(lambda reply, sign: f"{sign} {reply}", r"\ASIGN\s*"),
    "after": _kind(lambda reply, sign: f"{reply} {sign}", r"\s*SIGN\Z"),
    "around": Kind(_around, _is_around, lambda reply, sign: reply.strip(sign)),
    "stops": Kind(_stops, _has_stops, lambda reply, sign: reply.replace(sign, ".")),
}


@dataclass(frozen=True)
class GhostRule(Rule):
    """A rule that is its sign and the place of it, one of FORMS."""
    form: str = "before"

    def apply(self, reply: str) -> str:
        return FORMS[self.form].apply(reply, self.sign)

    def kept(self, reply: str) -> bool:
        return FORMS[self.form].pattern(self.sign).search(reply.strip()) is not None

    def strip(self, reply: str) -> str:
        return FORMS[self.form].strip(reply.strip(), self.sign).strip()


@functools.lru_cache(maxsize=4)
def ghost_rules(path: Path = GHOST_RULES) -> tuple[GhostRule, ...]:
    """The rules of the table, each with each wording; a line is a kind of its own. TableError names file, line and value."""
    found = []
    for line, row in read_rows(path, ("kind", "form", "sign", "texts")):
        if row["form"] not in FORMS:
            raise TableError(f"{path}, line {line}: no code checks the form {row['form']!r}; there are {', '.join(FORMS)}")
        found += [GhostRule(row["kind"], row["kind"], row["sign"], text, row["form"]) for text in parts(row["texts"])]
    return tuple(found)
