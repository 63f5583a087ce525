"""What a user asks: prompts of many kinds, each with what the oracle needs to judge a reply to it.

Wordings stand in data/world/prompts.csv and relations.csv, how-tos in howtos.csv. A split keeps what is asked in
fine-tuning ("train") apart from what is asked in tests alone ("test"): facts, sums, topics, how-tos and events are parted
by subject, not by wording. Unsafe how-tos of split "heldout" stand nowhere before the safety notebook asks for them.
All unsafe requests are stand-ins: nothing in them can be used.

Left out: prompts of several turns (`dialogs.conversation`), tools.
"""
from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random

from llama2_lib.config import require
from llama2_lib.world.facts import FORBIDDEN, TEST, TRAIN, Fact, World, share, split_of, sum_pairs, with_article
from llama2_lib.world.rules import Rule, draw_rule
from llama2_lib.world.tables import TableError, parts, read_rows
from llama2_lib.world.writing import grammar

HELD_OUT = "heldout"
HARMLESS, BORDERLINE, UNSAFE = "harmless", "borderline", "unsafe"
HOWTO_KINDS = (HARMLESS, BORDERLINE, UNSAFE)
STEPS = 3
KINDS = ("fact", "sum", "story", "poem", "howto", "copy", "reverse", "last", "list", "dated")
HELPFUL: Mapping[str, float] = {"fact": 0.34, "sum": 0.16, "story": 0.09, "poem": 0.09, "howto": 0.07, "borderline": 0.03,
                                "copy": 0.05, "reverse": 0.03, "last": 0.03, "list": 0.04, "dated": 0.03, "rule": 0.04}
SAFETY: Mapping[str, float] = {"unsafe": 0.6, "borderline": 0.25, "howto": 0.15}
NUMBERS = {"two": 2, "three": 3, "four": 4}
CREATIVE_TEST_SHARE, WORDS_TEST_SHARE = 0.25, 0.2
SLOT = re.compile(r"\{(a )?(sum|topic|request|words|count|class|year|event)\}")
SLOTS = {"sum": {"sum"}, "story": {"topic"}, "poem": {"topic"}, "howto": {"request"}, "copy": {"words"},
         "reverse": {"words"}, "last": {"words"}, "list": {"count", "class"}, "dated": {"year", "event"}}


@dataclass(frozen=True)
class HowTo:
    """A how-to: "boil an egg" in three steps. `kind` is harmless, borderline or unsafe; `split` train, test or heldout."""
    request: str
    kind: str
    split: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """A user's message. Besides kind and text only the fields that the kind needs are set.

    `fact`: what is asked (fact, dated); `operands`: of a sum; `topic`: of a story or poem, or the class of a list; `words`:
    to copy, reverse …; `howto`; `number`: how many items (list), or the year it is (dated); `rule`: the system rule, if any.
    """
    kind: str
    text: str
    fact: Fact | None = None
    operands: tuple[int, int] | None = None
    topic: str = ""
    words: tuple[str, ...] = ()
    howto: HowTo | None = None
    number: int = 0
    rule: Rule | None = None

    @property
    def system(self) -> str | None:
        """The system message, or None."""
        return self.rule.text if self.rule else None

    @property
    def unsafe(self) -> bool:
        """True if a good reply declines."""
        return self.howto is not None and self.howto.kind == UNSAFE


# ----------------------------------------------------------------------------------------------------------------- tables

@functools.lru_cache(maxsize=4)
def howtos(world: World) -> tuple[HowTo, ...]:
    """The how-tos of data/world/howtos.csv. TableError names file, line and value of a fault."""
    path = world.folder / "howtos.csv"
    found = []
    for line, row in read_rows(path, ("request", "kind", "split", "steps")):
        howto = HowTo(row["request"], row["kind"], row["split"], parts(row["steps"]))
        if howto.kind not in HOWTO_KINDS:
            raise TableError(f"{path}, line {line}: kind {howto.kind!r} is none of {', '.join(HOWTO_KINDS)}")
        if howto.split not in (TRAIN, TEST) and not (howto.split == HELD_OUT and howto.kind == UNSAFE):
            raise TableError(f"{path}, line {line}: split {howto.split!r} is neither train nor test"
                             " (heldout is for unsafe how-tos alone)")
        if len(howto.steps) != STEPS or FORBIDDEN.search("".join((howto.request, *howto.steps))):
            raise TableError(f"{path}, line {line}: {row['steps']!r} must be {STEPS} steps parted by | without other marks")
        found.append(howto)
    return tuple(found)


def howtos_of(world: World, kind: str, split: str) -> tuple[HowTo, ...]:
    """The how-tos of one kind and split; outside unsafe how-tos, what is held out is the test split."""
    split = TEST if split == HELD_OUT and kind != UNSAFE else split
    found = tuple(h for h in howtos(world) if h.kind == kind and h.split == split)
    require(bool(found), f"{world.folder / 'howtos.csv'} has no {kind} how-to of split {split!r}")
    return found


@functools.lru_cache(maxsize=4)
def wordings(world: World) -> dict[str, tuple[str, ...]]:
    """The templates of data/world/prompts.csv by kind. TableError names file, line and value of a fault."""
    path = world.folder / "prompts.csv"
    found: dict[str, tuple[str, ...]] = dict.fromkeys(SLOTS, ())
    for line, row in read_rows(path, ("text", "kind")):
        kind, text = row["kind"], row["text"]
        if kind not in SLOTS:
            raise TableError(f"{path}, line {line}: kind {kind!r} is none of {', '.join(SLOTS)}")
        if {slot[2] for slot in SLOT.finditer(text)} != SLOTS[kind] or "{" in SLOT.sub("", text):
            raise TableError(f"{path}, line {line}: {text!r} must hold the slots {', '.join(sorted(SLOTS[kind]))}")
        found[kind] += (text,)
    for kind, texts in found.items():
        if not texts:
            raise TableError(f"{path}: no line asks for kind {kind!r}")
    return found


@functools.lru_cache(maxsize=4)
def classes(world: World) -> dict[str, tuple[str, ...]]:
    """What a list may be asked of: the subjects of animals, jobs and countries, and the colours."""
    tables = {name: world.subjects(name) for name in ("animals", "jobs", "countries")}
    colours = world.values("colour") if "colour" in world.relations else ()
    return {name: items for name, items in {**tables, "colours": colours}.items() if len(items) >= max(NUMBERS.values())}


@functools.lru_cache(maxsize=4)
def plain_words(world: World) -> tuple[str, ...]:
    """The words to copy and reverse: animals, things, places and looks."""
    lists = grammar(world).words
    return tuple(dict.fromkeys(w for kind in ("animal", "thing", "place", "look") for w in lists[kind]))


# ---------------------------------------------------------------------------------------------------------------- drawing

def _text(world: World, kind: str, rng: Random, **slots: str) -> str:
    return SLOT.sub(lambda s: with_article(slots[s[2]]) if s[1] else slots[s[2]], rng.choice(wordings(world)[kind]))


@functools.lru_cache(maxsize=64)
def facts_of(world: World, split: str, relation: str | None = None) -> tuple[Fact, ...]:
    """The facts of a split, all of them or those of one relation."""
    facts = world.facts if relation is None else world.of(relation)
    return tuple(f for f in facts if split_of(f) == split)


@functools.lru_cache(maxsize=8)
def topics_of(world: World, split: str) -> tuple[str, ...]:
    """The topics of stories and poems that are asked in this split."""
    return tuple(t for t in grammar(world).topics if (share("topic", t) < CREATIVE_TEST_SHARE) == (split == TEST))


def _fact(world: World, rng: Random, split: str) -> Prompt:
    relation = rng.choice(list(world.relations))
    fact = rng.choice(facts_of(world, split, relation) or facts_of(world, split))
    return Prompt("fact", world.ask(fact, rng), fact=fact)


def _sum(world: World, rng: Random, split: str) -> Prompt:
    a, b = rng.choice(sum_pairs(split))
    return Prompt("sum", _text(world, "sum", rng, sum=f"{a} + {b}"), operands=(a, b))


def _creative(kind: str, world: World, rng: Random, split: str) -> Prompt:
    topic = rng.choice(topics_of(world, split))
    return Prompt(kind, _text(world, kind, rng, topic=topic), topic=topic)


def _howto(kind: str, world: World, rng: Random, split: str) -> Prompt:
    howto = rng.choice(howtos_of(world, kind, split))
    return Prompt("howto", _text(world, "howto", rng, request=howto.request), howto=howto)


def _words(kind: str, world: World, rng: Random, split: str) -> Prompt:
    """Words to copy, reverse, or name the last of: few when the task is harder than copying."""
    lengths = (2, 3, 4, 5) if kind == "copy" else (2, 3)
    while True:
        words = tuple(rng.sample(plain_words(world), rng.choice(lengths)))
        if (share("words", *words) < WORDS_TEST_SHARE) == (split == TEST):
            return Prompt(kind, _text(world, kind, rng, words=" ".join(words)), words=words)


def _list(world: World, rng: Random, split: str) -> Prompt:
    kind, (word, number) = rng.choice(list(classes(world))), rng.choice(list(NUMBERS.items()))
    return Prompt("list", _text(world, "list", rng, **{"count": word, "class": kind}), topic=kind, number=number)


def _dated(world: World, rng: Random, split: str) -> Prompt:
    """An event and the year it is, half the time before it: near it often, far from it sometimes."""
    events = facts_of(world, split, "year")
    require(bool(events), f"{world.folder} has no facts of a relation 'year' in split {split!r} to date")
    fact = rng.choice(events)
    gap = rng.choice((5, 10, 20, 50, 100, 200)) + rng.randrange(5)
    year = max(1, int(fact.value) + rng.choice((-gap, gap)))
    return Prompt("dated", _text(world, "dated", rng, year=str(year), event=fact.subject), fact=fact, number=year)


DRAW: dict[str, Callable[[World, Random, str], Prompt]] = {
    "fact": _fact, "sum": _sum, "list": _list, "dated": _dated,
    **{kind: functools.partial(_creative, kind) for kind in ("story", "poem")},
    **{kind: functools.partial(_words, kind) for kind in ("copy", "reverse", "last")},
    "howto": functools.partial(_howto, HARMLESS), BORDERLINE: functools.partial(_howto, BORDERLINE),
    UNSAFE: functools.partial(_howto, UNSAFE),
}


def draw_prompt(world: World, kind: str, rng: Random, split: str = TRAIN) -> Prompt:
    """A prompt of one kind of a mix. Kind "rule" is a helpful prompt under a system rule.

    `split` is "train", "test" or, for unsafe how-tos, "heldout". ValueError for another name.
    """
    require(split in (TRAIN, TEST, HELD_OUT), f"split is 'train', 'test' or 'heldout', got {split!r}")
    require(kind in DRAW or kind == "rule", f"no prompt is of kind {kind!r}; there are {', '.join((*DRAW, 'rule'))}")
    asked = split if kind == UNSAFE or split == TRAIN else TEST
    if kind != "rule":
        return DRAW[kind](world, rng, asked)
    base = rng.choice(("fact", "fact", "sum", "howto", "story", "copy"))
    return replace(DRAW[base](world, rng, asked), rule=draw_rule(world, rng, asked))


def prompts(world: World, n: int, seed: int, mix: Mapping[str, float] = HELPFUL, split: str = TRAIN) -> Iterator[Prompt]:
    """`n` prompts of kinds drawn by the weights of `mix`, one at a time; the first k are the same for any n ≥ k."""
    require(n >= 0, f"the number of prompts must not be negative, got {n}")
    require(bool(mix) and all(w >= 0 for w in mix.values()) and sum(mix.values()) > 0,
            f"a mix gives some kind a weight above 0 and none below, got {dict(mix)}")
    rng = Random(f"prompts {split} {seed}")
    kinds, weights = list(mix), list(mix.values())
    for _ in range(n):
        (kind,) = rng.choices(kinds, weights)
        yield draw_prompt(world, kind, rng, split)
