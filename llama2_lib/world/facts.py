"""What is true in the small world: facts from tables a teacher can edit, and sums.

A row of data/world/relations.csv names a column of another table and says how it is stated and asked, so a new column is a
new kind of fact and a new row a new subject. Sums have two operands below SUM_LIMIT; a fifth of the pairs is held out of
everything that is trained on. Half of the facts are asked in fine-tuning (`split_of`), all are stated in the pages.
"""
from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

TABLES = Path(__file__).resolve().parents[2] / "data" / "world"
SUM_LIMIT = 50
SUM = re.compile(r"(?<![\d+] )\b(\d{1,4}) \+ (\d{1,4}) = (\d{1,5})\b")
NAME_PARTS = ("ba", "dor", "fen", "gal", "hin", "jor", "kel", "lum", "mar", "nor", "pel", "quin", "ros", "sen", "tam", "ur",
              "vel", "wen", "yar", "zim")


@dataclass(frozen=True)
class Fact:
    """One true statement: `subject` has `answer` in `relation`; `table` is the kind of subject."""
    relation: str
    subject: str
    answer: str
    table: str


@dataclass(frozen=True)
class Relation:
    """How a kind of fact is stated and asked; {s} stands for the subject, {o} for the answer."""
    name: str
    table: str
    column: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """What a sentence says: `subject` has `value` in `relation`."""
    relation: str
    subject: str
    value: str


@dataclass(frozen=True)
class World:
    """All facts and the ways to speak of them."""
    relations: dict[str, Relation]
    facts: tuple[Fact, ...]
    _by_key: dict[tuple[str, str], Fact] = field(init=False, repr=False, compare=False)
    _by_subject: dict[tuple[str, str], list[Fact]] = field(init=False, repr=False, compare=False)
    _patterns: tuple[tuple[re.Pattern, str], ...] = field(init=False, repr=False, compare=False)
    _asked: dict[str, Fact] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__          # derived look-ups of a frozen dataclass
        set_(self, "_by_key", {(f.relation, f.subject): f for f in self.facts})
        by_subject: dict[tuple[str, str], list[Fact]] = {}
        for f in self.facts:
            by_subject.setdefault((f.table, f.subject), []).append(f)
        set_(self, "_by_subject", by_subject)
        set_(self, "_patterns", tuple((_pattern(t), r.name) for r in self.relations.values() for t in r.statements))
        set_(self, "_asked", {q: f for f in self.facts for q in self.questions(f)})

    def statements(self, fact: Fact) -> list[str]:
        return [t.format(s=fact.subject, o=fact.answer) for t in self.relations[fact.relation].statements]

    def questions(self, fact: Fact) -> list[str]:
        return [t.format(s=fact.subject) for t in self.relations[fact.relation].questions]

    def lookup(self, relation: str, subject: str) -> Fact | None:
        return self._by_key.get((relation, subject))

    def about(self, table: str, subject: str) -> list[Fact]:
        """All facts about a subject, in the tables' order."""
        return self._by_subject.get((table, subject), [])

    def subjects(self, table: str) -> list[str]:
        return [s for t, s in self._by_subject if t == table]

    def asked(self, question: str) -> Fact | None:
        """The fact a question asks for, in any of its wordings."""
        return self._asked.get(question.strip())

    def claim(self, sentence: str) -> Claim | None:
        """What a sentence claims about a known subject, or None if it claims nothing that can be looked up."""
        for pattern, relation in self._patterns:
            match = pattern.fullmatch(sentence)
            if match and (relation, match["s"]) in self._by_key:
                return Claim(relation, match["s"], match["o"])
        return None

    def is_true(self, claim: Claim) -> bool:
        return self._by_key[claim.relation, claim.subject].answer == claim.value


def _pattern(template: str) -> re.Pattern:
    return re.compile(re.escape(template).replace(r"\{s\}", "(?P<s>.+?)").replace(r"\{o\}", "(?P<o>.+)"))


# ----------------------------------------------------------------------------------------------------------------- tables

@cache
def load(folder: Path = TABLES) -> World:
    """The world of the tables in `folder`. ValueError names file, line and value of anything it cannot accept."""
    relations = {r["relation"]: _relation(r) for r in read_table(
        folder / "relations.csv", ("relation", "table", "column", "statements", "questions"))}
    tables = {r.table: read_table(folder / f"{r.table}.csv", ()) for r in relations.values()}
    facts = []
    for relation in relations.values():
        rows = tables[relation.table]
        if relation.column not in rows[0]:
            raise ValueError(f"{folder / relation.table}.csv has no column {relation.column!r}, which relations.csv names")
        key = next(iter(rows[0]))
        facts += [Fact(relation.name, row[key], row[relation.column], relation.table) for row in rows]
    return World(relations, tuple(facts))


def _relation(row: dict[str, str]) -> Relation:
    statements, questions = tuple(row["statements"].split("|")), tuple(row["questions"].split("|"))
    for template in statements:
        if "{s}" not in template or "{o}" not in template:
            raise ValueError(f"relations.csv, relation {row['relation']!r}: statement {template!r} needs {{s}} and {{o}}")
    for template in questions:
        if "{s}" not in template:
            raise ValueError(f"relations.csv, relation {row['relation']!r}: question {template!r} needs {{s}}")
    return Relation(row["relation"], row["table"], row["column"], statements, questions)


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file as dicts. ValueError, with file and line, for a missing column or cell and a repeated subject."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start} is {error.object[error.start]:#x}") from error
    if text.startswith("\ufeff"):
        raise ValueError(f"{path}, line 1: begins with a byte order mark; save it as plain UTF-8")
    reader = csv.DictReader(text.splitlines())
    missing = [c for c in columns if c not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{path}, line 1: column {', '.join(missing)} is missing")
    rows, seen = [], set()
    for row in reader:
        bad = [k for k, v in row.items() if k is None or v is None or not str(v).strip()]
        if bad:
            raise ValueError(f"{path}, line {reader.line_num}: an empty or surplus cell in column {bad[0]}")
        subject = next(iter(row.values()))
        if subject in seen:
            raise ValueError(f"{path}, line {reader.line_num}: {subject!r} stands in two rows")
        seen.add(subject)
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no row")
    return rows


def grown(world: World, facts: int, seed: int) -> World:
    """`world` with invented countries until it holds at least `facts` facts; the same for the same arguments."""
    rng = Random(f"grown {seed}")
    kinds = [r for r in world.relations.values() if r.table == "countries"]
    answers = {r.name: sorted({f.answer for f in world.facts if f.relation == r.name}) for r in kinds}
    added: list[Fact] = []
    used = set(world.subjects("countries"))
    while len(world.facts) + len(added) < facts:
        name = "".join(rng.choices(NAME_PARTS, k=rng.randint(2, 4))).capitalize()
        if name not in used:
            used.add(name)
            for r in kinds:
                answer = f"{name} {rng.choice(('Bay', 'Hill', 'Ford'))}" if r.name == "capital" else rng.choice(answers[r.name])
                added.append(Fact(r.name, name, answer, "countries"))
    return World(world.relations, world.facts + tuple(added))


def world_of(facts: int, seed: int) -> World:
    """The tables' world, grown with invented countries where `facts` asks for more than the tables hold."""
    return grown(load(), facts, seed) if facts else load()


# ----------------------------------------------------------------------------------------------------------------- splits

def split_of(fact: Fact) -> str:
    """"train" if fine-tuning may ask for the fact, else "test": half and half, the same everywhere."""
    return "train" if zlib.crc32(f"{fact.relation}|{fact.subject}".encode()) % 2 else "test"


def is_held_out(a: int, b: int) -> bool:
    """Whether a + b is kept for tests; a fifth of all pairs."""
    return zlib.crc32(f"{a} + {b}".encode()) % 5 == 0


@cache
def sum_pairs(split: str) -> tuple[tuple[int, int], ...]:
    """All operand pairs of a split, "train" or "test"."""
    return tuple((a, b) for a in range(SUM_LIMIT) for b in range(SUM_LIMIT) if is_held_out(a, b) == (split == "test"))


def worked_sum(a: int, b: int) -> str:
    """A sum with its working, as a pupil writes it: ones, then tens with the carry, then the sum."""
    ones = a % 10 + b % 10
    tens = a // 10 + b // 10 + ones // 10
    return f"{a % 10} + {b % 10} = {ones}, {a // 10} + {b // 10} + {ones // 10} = {tens}, so {a} + {b} = {a + b}."


def sums_in(text: str) -> Iterator[tuple[int, int, int]]:
    """Every (a, b, c) that the text claims as a + b = c; the steps of a longer chain are not claims of their own."""
    for match in SUM.finditer(text):
        yield int(match[1]), int(match[2]), int(match[3])
