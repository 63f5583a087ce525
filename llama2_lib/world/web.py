"""The web of the small world: an endless stream of pages with known faults (sections 2.1 and 4.1).

A page is written by a writer of `world.sources`, one of six kinds in English or a page in French or German that the
crawler took for English; then faults are planted by `world.faults`, and the page carries the truth about each. Copies
repeat earlier pages, which a reservoir of fixed size remembers, so a million pages need no more memory than a thousand.
Left out: links, markup, pages that are wrong about the facts.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from llama2_lib.config import WorldConfig
from llama2_lib.world import faults, languages
from llama2_lib.world.facts import World
from llama2_lib.world.reading import ReadingItem, benchmark
from llama2_lib.world.sources import SHARES, WRITERS

RESERVOIR = 1024            # pages that copies are drawn from
DECOYS = 0.02               # share of new pages in English with an honest sentence that looks like a fault
REMEMBERED = 0.25           # chance of a page to enter the reservoir, in the place of another: copies reach far back


@dataclass(frozen=True)
class Page:
    """A crawled page: `text` and `source` are what a crawler sees, the rest is the truth about it.

    source: what the crawler takes the page for, a field of MixtureConfig except "languages"
    language: "en", "fr" or "de"
    pii, boilerplate, toxic: the pieces of text, lines and words planted, as they stand in the text
    duplicate_of, near_duplicate_of: number of the page it copies, the same up to spaces and case or with small changes
    contaminated: numbers of the benchmark items that stand in it
    """
    number: int
    text: str
    source: str
    language: str = "en"
    pii: tuple[str, ...] = ()
    boilerplate: tuple[str, ...] = ()
    toxic: tuple[str, ...] = ()
    gibberish: bool = False
    duplicate_of: int | None = None
    near_duplicate_of: int | None = None
    contaminated: tuple[int, ...] = ()

    @property
    def marked(self) -> bool:
        """Whether pieces of text were planted, which an edit could tear."""
        return bool(self.pii or self.boilerplate or self.toxic or self.contaminated)


def pages(world: World, config: WorldConfig, seed: int) -> Iterator[Page]:
    """`config.documents` pages, one at a time, the same for the same arguments; a longer stream starts as a shorter one."""
    rng = Random(f"web {seed}")
    items = planted_items(seed)
    reservoir: list[Page] = []
    for number in range(config.documents):
        page = _page(number, world, config, items, reservoir, rng)
        yield page
        if not page.gibberish and page.duplicate_of is None and page.near_duplicate_of is None:
            _remember(page, reservoir, rng)


def planted_items(seed: int) -> list[ReadingItem]:
    """The items of the benchmark that may stand in pages, whole or in part; the others stand in none."""
    return [item for item in benchmark(seed) if item.planted]


def _remember(page: Page, reservoir: list[Page], rng: Random) -> None:
    if len(reservoir) < RESERVOIR:
        reservoir.append(page)
    elif rng.random() < REMEMBERED:
        reservoir[rng.randrange(RESERVOIR)] = page


def _page(number: int, world: World, config: WorldConfig, items: list[ReadingItem], reservoir: list[Page],
          rng: Random) -> Page:
    """One page: a copy of an earlier one, or new; noise, or with faults planted."""
    kind = rng.random() - config.exact_duplicates
    if kind < 0 and reservoir:
        return _exact_copy(number, rng.choice(reservoir), config, rng)
    kind -= config.near_duplicates
    original = rng.choice(reservoir) if kind < 0 and reservoir else None
    if original is not None and not original.marked:
        copy = replace(original, number=number, text=faults.edit(original.text, rng), near_duplicate_of=original.number)
        return _with_faults(copy, config, items, rng)
    page = _new_page(number, world, config, rng)
    if rng.random() * (1 - config.exact_duplicates - config.near_duplicates) < config.gibberish:
        return replace(page, text=faults.gibberish(page.text, rng), gibberish=True)
    return _with_faults(page, config, items, rng)


def _new_page(number: int, world: World, config: WorldConfig, rng: Random) -> Page:
    (source,) = rng.choices(list(SHARES), SHARES.values())
    if rng.random() < config.other_languages:
        language = rng.choice(("fr", "de"))
        return Page(number, languages.page(rng, language), source, language)
    text = WRITERS[source](world, rng)
    return Page(number, faults.plant_decoy(text, rng) if rng.random() < DECOYS else text, source)


def _exact_copy(number: int, original: Page, config: WorldConfig, rng: Random) -> Page:
    """The same text again, perhaps with other spaces or in other furniture: what copying a page does to it."""
    copy = replace(original, number=number, duplicate_of=original.number)
    if not original.marked:
        way = rng.random()
        if way < 0.2:
            copy = replace(copy, text="\n".join(f"  {line} " for line in original.text.split("\n")))
        elif way < 0.3:
            copy = replace(copy, text=original.text.lower())
        if rng.random() < config.boilerplate:
            text, lines = faults.plant_boilerplate(copy.text, rng)
            copy = replace(copy, text=text, boilerplate=lines)
    return copy


def _with_faults(page: Page, config: WorldConfig, items: list[ReadingItem], rng: Random) -> Page:
    """The page with personal data, insults, benchmark text and furniture, each with its own chance."""
    text, pii, toxic, contaminated, lines = page.text, (), (), (), ()
    if rng.random() * (1 - config.gibberish) < config.pii:
        text, pii = faults.plant_pii(text, rng)
    if rng.random() < config.toxic:
        text, toxic = faults.plant_insults(text, rng, keep=pii)
    keep = (*pii, *toxic)
    if rng.random() < config.contaminated:
        item = rng.choice(items)
        text = faults.insert(text, item.planted_text, rng, own_line=True, keep=keep)
        contaminated, keep = (item.number,), (*keep, item.planted_text)
    if rng.random() < config.boilerplate:
        text, lines = faults.plant_boilerplate(text, rng, keep=keep)
    return replace(page, text=text, pii=pii, toxic=toxic, contaminated=contaminated, boilerplate=lines)
