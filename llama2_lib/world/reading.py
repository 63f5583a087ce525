"""A small reading benchmark, part of which stands in the web pages: contamination with known truth (A.6).

An item is a made-up report of more than 40 tokens with a question about one detail and its answer. A quarter of the items
are planted into pages whole, with the answer; an eighth as the report alone; the rest stand in no page.
"""
from __future__ import annotations

import functools
from dataclasses import dataclass
from random import Random

from llama2_lib.world.languages import word_lists
from llama2_lib.world.tables import TABLES

ITEMS = 160
WHOLE, PASSAGE, NONE = "whole", "passage", ""
SECTIONS = ("names", "things", "looks", "places", "days", "prices", "feelings", "verbs", "afterwards", "losers",
            "offers", "ends", "moods")


@dataclass(frozen=True)
class ReadingItem:
    """A report, a question about it and the answer. `planted`: "whole", "passage" (the report alone) or "" (nowhere)."""
    number: int
    passage: str
    question: str
    answer: str
    planted: str

    @property
    def text(self) -> str:
        """The item as a model is asked it, with the answer: the fully verbalised sample of A.6."""
        return f"{self.passage}\nQuestion: {self.question}\nAnswer: {self.answer}"

    @property
    def planted_text(self) -> str:
        """What of the item stands in pages."""
        return {WHOLE: self.text, PASSAGE: self.passage, NONE: ""}[self.planted]


@functools.cache
def benchmark(seed: int, items: int = ITEMS) -> tuple[ReadingItem, ...]:
    """The benchmark of a seed; `item.planted` says which items the pages of that seed may hold."""
    rng = Random(f"benchmark {seed}")
    planted = [WHOLE] * (items // 4) + [PASSAGE] * (items // 8)
    planted += [NONE] * (items - len(planted))
    rng.shuffle(planted)
    return tuple(_item(number, p, rng) for number, p in enumerate(planted))


def _item(number: int, planted: str, rng: Random) -> ReadingItem:
    """An item of phrases drawn one by one, so that two items share a few words in a row but no long stretch."""
    words = word_lists(TABLES / "reading.txt", SECTIONS)
    (one, two), (thing, other), (look, look2), (place, place2) = (
        rng.sample(words[k], 2) for k in ("names", "things", "looks", "places"))
    day, price, feeling, afterwards, loser, offer, end, mood = (rng.choice(words[k]) for k in (
        "days", "prices", "feelings", "afterwards", "losers", "offers", "ends", "moods"))
    did, do = rng.choice(words["verbs"]).split()
    parts = [f"{one} {did} a {look} {thing} {place} {day} {afterwards}.".replace(" ,", ","),
             f"{two}, {loser} {look2} {other} {place2}, {offer} {price}, {end}.", f"{one} {mood} {feeling}."]
    if rng.random() < 0.5:
        parts[0] = f"{_upper(day)} {one} {did} a {look} {thing} {place} {afterwards}.".replace(" ,", ",")
    question, answer = rng.choice((
        (f"What did {one} {do}?", f"a {look} {thing}"), (f"Where did {one} {do} the {thing}?", place),
        (f"When did {one} {do} the {thing}?", day), (f"Who was interested in the {thing}?", two),
        (f"What was {two}'s price?", price), (f"How was {one} in the end?", feeling),
        (f"Which {other} did {two} miss?", f"the {look2} one")))
    return ReadingItem(number, " ".join(parts), question, answer, planted)


def _upper(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
