"""What is true in the small world: facts from tables, and sums.

A fact is (relation, subject, value): (capital, France, Paris). Each relation is a row of data/world/relations.csv: the table
and column its values stand in, how a sentence states it, how a question asks for it. A new column with a new row there is a
new kind of fact. Half of the facts are never asked in fine-tuning, though every fact is stated in the pages of pretraining:
what a chat model answers right there it knows from reading. Sums have operands 0…49; a fifth of the ordered pairs appears
nowhere but in tests.

Left out: facts with several right values, facts that change (dates are `dialogs`' matter), negation.
"""
from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import gcd
from pathlib import Path
from random import Random

from llama2_lib.config import WorldConfig, require
from llama2_lib.world.tables import TABLES, Row, TableError, digest, parts, read_rows

TRAIN, TEST = "train", "test"
TEST_SHARE = 0.5                   # of the facts: never asked in fine-tuning
OPERANDS = 50                      # sums of 0…49
HELD_OUT_SUMS = 0.2                # of the ordered pairs with a two-digit operand: in no document at all
SLOT = re.compile(r"\{(a )?(subject|value)\}")
FORBIDDEN = re.compile(r"[.!?;:|{}\"\[\]<>]")   # marks that would cut a sentence or a cell in two
VOWEL_SOUND = re.compile(r"(?!uni|use|eu|one\b)[aeiou]", re.IGNORECASE)


@dataclass(frozen=True)
class Fact:
    """One single-valued fact. `relation` is a name in `World.relations`."""
    relation: str
    subject: str
    value: str


@dataclass(frozen=True)
class Relation:
    """A kind of fact: where its values stand and how they are said and asked."""
    name: str
    table: str
    column: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class World:
    """Everything that is true. Immutable; two worlds are equal only if they are the same object."""
    relations: dict[str, Relation]
    facts: tuple[Fact, ...]
    folder: Path = TABLES

    def __repr__(self) -> str:
        return f"World({len(self.facts)} facts of {len(self.relations)} relations, {self.folder})"

    @functools.cached_property
    def _values(self) -> dict[tuple[str, str], str]:
        return {(f.relation, f.subject): f.value for f in self.facts}

    @functools.cached_property
    def _subjects(self) -> dict[str, dict[str, list[Fact]]]:
        tables: dict[str, dict[str, list[Fact]]] = {}
        for f in self.facts:
            tables.setdefault(self.relations[f.relation].table, {}).setdefault(f.subject, []).append(f)
        return tables

    @functools.cached_property
    def _by_relation(self) -> dict[str, tuple[Fact, ...]]:
        lists: dict[str, list[Fact]] = {name: [] for name in self.relations}
        for f in self.facts:
            lists[f.relation].append(f)
        return {name: tuple(facts) for name, facts in lists.items()}

    @functools.cached_property
    def _value_lists(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(dict.fromkeys(f.value for f in facts)) for name, facts in self._by_relation.items()}

    def value(self, relation: str, subject: str) -> str | None:
        """The one right value, or None if the world knows no such fact."""
        return self._values.get((relation, subject))

    def values(self, relation: str) -> tuple[str, ...]:
        """Every value of a relation once, in the order of the table."""
        return self._value_lists[relation]

    def of(self, relation: str) -> tuple[Fact, ...]:
        """The facts of one relation; none if the world has no such relation."""
        return self._by_relation.get(relation, ())

    def subjects(self, table: str) -> tuple[str, ...]:
        """The subjects of one table: `subjects("animals")`."""
        return tuple(self._subjects.get(table, ()))

    @functools.cached_property
    def groups(self) -> tuple[tuple[Fact, ...], ...]:
        """The facts of each subject together, in the order of the tables."""
        return tuple(tuple(facts) for table in self._subjects.values() for facts in table.values())

    def about(self, fact: Fact) -> tuple[Fact, ...]:
        """All facts about the subject of `fact`, itself included."""
        return tuple(self._subjects[self.relations[fact.relation].table][fact.subject])

    def state(self, fact: Fact, rng: Random) -> str:
        """A sentence that states the fact."""
        return fill(rng.choice(self.relations[fact.relation].statements), fact.subject, fact.value)

    def ask(self, fact: Fact, rng: Random) -> str:
        """A question that asks for the fact."""
        return fill(rng.choice(self.relations[fact.relation].questions), fact.subject)


# ----------------------------------------------------------------------------------------------------------------- wording

def with_article(word: str) -> str:
    """"cow" is "a cow", "owl" is "an owl"."""
    return ("an " if VOWEL_SOUND.match(word) else "a ") + word


def capitalised(sentence: str) -> str:
    """The sentence with its first letter in capitals, the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def fill(template: str, subject: str, value: str = "") -> str:
    """A template of relations.csv as a sentence: {subject}, {value}, {a subject}, {a value} are filled in."""
    def word(slot: re.Match) -> str:
        filler = subject if slot[2] == "subject" else value
        return with_article(filler) if slot[1] else filler
    return capitalised(SLOT.sub(word, template))


# ----------------------------------------------------------------------------------------------------------------- loading

def load(folder: Path = TABLES) -> World:
    """The world of the tables in `folder`, read once until a table changes.

    Raises TableError (a ValueError) that names file, line and value of a fault.
    """
    return _load(folder, digest(folder))


@functools.lru_cache(maxsize=4)
def _load(folder: Path, _digest: str) -> World:
    relations = {r.name: r for r in _read_relations(folder)}
    tables = {name: read_rows(folder / f"{name}.csv") for name in dict.fromkeys(r.table for r in relations.values())}
    for name, rows in tables.items():
        _check_table(folder / f"{name}.csv", rows, [r for r in relations.values() if r.table == name])
    by_table = {name: [r for r in relations.values() if r.table == name] for name in tables}
    facts = tuple(Fact(r.name, next(iter(row.values())), row[r.column])
                  for name, rows in tables.items() for _, row in rows for r in by_table[name])
    return World(relations, facts, folder)


def _read_relations(folder: Path) -> Iterator[Relation]:
    path = folder / "relations.csv"
    for line, row in read_rows(path, ("relation", "table", "column", "statements", "questions")):
        relation = Relation(row["relation"], row["table"], row["column"], parts(row["statements"]), parts(row["questions"]))
        for template in (*relation.statements, *relation.questions):
            _check_template(f"{path}, line {line}: template {template!r}", template, template in relation.statements)
        yield relation


def _check_template(place: str, template: str, is_statement: bool) -> None:
    slots = sorted(slot[2] for slot in SLOT.finditer(template))
    wanted, mark = (["subject", "value"], ".") if is_statement else (["subject"], "?")
    if slots != wanted or "{" in SLOT.sub("", template):
        raise TableError(f"{place} must hold exactly one of each: " + ", ".join(f"{{{w}}} (or {{a {w}}})" for w in wanted))
    if not template.endswith(mark) or FORBIDDEN.search(SLOT.sub("", template[:-1])):
        raise TableError(f"{place} must be one sentence that ends in {mark!r}")


def _check_table(path: Path, rows: list[tuple[int, Row]], relations: list[Relation]) -> None:
    subject, *columns = rows[0][1]
    for r in relations:
        if r.column not in columns:
            raise TableError(f"{path}, line 1: column {r.column!r} is missing; relation {r.name!r} needs it")
    for column in columns:
        if column not in {r.column for r in relations}:
            raise TableError(f"{path}, line 1: column {column!r} has no row in relations.csv, so nobody can state or ask it")
    years = {r.column for r in relations if r.name == "year"}
    for line, row in rows:
        for column, cell in row.items():
            if column in years and not (cell.isascii() and cell.isdecimal()):
                raise TableError(f"{path}, line {line}: {column} {cell!r} is not a whole number")
            if mark := FORBIDDEN.search(cell):
                raise TableError(f"{path}, line {line}: {column} {cell!r} holds {mark.group()!r}, which cuts a sentence")


# ------------------------------------------------------------------------------------------------------------------ splits

def share(*parts_of_key: object) -> float:
    """A number in 0…1 that hangs on the key alone: the same in every process, on every machine, in every version."""
    key = "\0".join(map(str, parts_of_key)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64


def split_of(fact: Fact) -> str:
    """"train" if fine-tuning may ask for this fact, "test" if no demonstration ever does."""
    return TEST if share("fact", fact.relation, fact.subject) < TEST_SHARE else TRAIN


def is_held_out(a: int, b: int) -> bool:
    """True if a + b, in this order, is asked in tests only and stands in no document.

    Two single digits are never held out: they stand in the working of other sums.
    """
    return max(a, b) >= 10 and share("sum", a, b) < HELD_OUT_SUMS


@functools.cache
def sum_pairs(split: str) -> tuple[tuple[int, int], ...]:
    """The ordered pairs of operands of "train" or "test"."""
    require(split in (TRAIN, TEST), f"split is 'train' or 'test', got {split!r}")
    return tuple((a, b) for a in range(OPERANDS) for b in range(OPERANDS) if is_held_out(a, b) == (split == TEST))


def worked_sum(a: int, b: int, total: int | None = None) -> str:
    """The sum as a pupil works it out: ones, tens with what is carried, then the answer (or a wrong `total`).

    A model of the toy's size learns it from thousands of sums; the bare "37 + 25 = 62." would take it many times more.
    """
    ones = a % 10 + b % 10
    tens = a // 10 + b // 10 + ones // 10
    total = a + b if total is None else total
    return f"{a % 10} + {b % 10} = {ones}, {a // 10} + {b // 10} + {ones // 10} = {tens}, so {a} + {b} = {total}."


# ----------------------------------------------------------------------------------------------------------------- growing

ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gr", "tr")
SYLLABLES = tuple(onset + vowel for onset in ONSETS for vowel in "aeiou")
COUNTRY_ENDINGS = ("lia", "mar", "nor", "stan", "land", "via", "dor", "rin")
CITY_ENDINGS = ("n", "s", "l", "k", "m", "r", "x", "p")


def invented_places(seed: int) -> Iterator[tuple[str, str]]:
    """64,800 pronounceable (country, capital) names, no name twice, in an order that hangs on the seed; streams."""
    size = len(SYLLABLES) ** 2 * len(COUNTRY_ENDINGS)
    rng = Random(seed)
    step = next(s for s in iter(lambda: rng.randrange(1, size), None) if gcd(s, size) == 1)   # visits each number once
    start, shift = rng.randrange(size), rng.randrange(size)
    for i in range(size):
        number = start + i * step
        yield _name(number % size, COUNTRY_ENDINGS), _name((number + shift) % size, CITY_ENDINGS)


def _name(number: int, endings: tuple[str, ...]) -> str:
    """The name with this number among two syllables and an ending."""
    number, ending = divmod(number, len(endings))
    first, second = divmod(number, len(SYLLABLES))
    return (SYLLABLES[first] + SYLLABLES[second] + endings[ending]).title()


def grown(world: World, n: int, seed: int = 0) -> World:
    """`world` with invented countries until it holds at least `n` facts: for presets that need a larger world.

    Capitals are invented, one for each country; languages and continents are those of the tables.
    Raises ValueError if `n` is more than the names there are can give.
    """
    relations = [r for r in world.relations.values() if r.table == "countries"]
    require(any(r.name == "capital" for r in relations),
            f"{world.folder / 'relations.csv'}: there is no relation 'capital' of countries to grow by")
    taken = {w.casefold() for f in world.facts for w in (f.subject, f.value)}
    rng = Random(f"grown {seed}")
    missing = max(0, -(-(n - len(world.facts)) // len(relations)))
    places = [p for p in islice(invented_places(seed), missing + len(taken)) if taken.isdisjoint(w.casefold() for w in p)]
    require(len(places) >= missing, f"a world of {n} facts needs {missing} invented countries; {len(places)} have names")
    more = [Fact(r.name, country, capital if r.name == "capital" else rng.choice(world.values(r.name)))
            for country, capital in places[:missing] for r in relations]
    return replace(world, facts=world.facts + tuple(more))


def world_for(config: WorldConfig) -> World:
    """The world a recipe asks for: the tables as they are, or grown to `config.facts` facts, alike for every seed."""
    return grown(load(), config.facts) if config.facts else load()
