"""Stories and rhyming poems: prompts with very many equally good answers, and the check whether a text is one.

A grammar of frames ("One day it found {a adj} {thing}.") and word lists, all in data/world, writes more different texts than
any model will see. The check asks for the form alone: a story is four to six sentences, from an opening to an end; a poem is
two rhyming couplets. Every text that has the form scores 1, so a reward built on it is indifferent among all of them.

Left out: plot, metre, and rhyme by ear (two words rhyme if rhymes.csv puts them in one family).
"""
from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from random import Random

from llama2_lib.world.facts import World, capitalised, with_article
from llama2_lib.world.tables import TableError, parts, read_rows

STORY_PARTS = ("opening", "find", "trouble", "turn", "end")
STORY_PLANS = (("opening", "find", "turn", "end"), ("opening", "find", "trouble", "end"),
               ("opening", "find", "trouble", "turn", "end"), ("opening", "find", "turn", "turn", "end"),
               ("opening", "find", "trouble", "turn", "turn", "end"))
PLAN_WEIGHTS = (6, 6, 3, 1, 1)
SENTENCES = range(4, 7)
POEM_LINES = 4
SLOT = re.compile(r"\{(a )?(\w+)\}")
RHYMING = ("noun", "verb", "quality")
SENTENCE = re.compile(r"[^.!?]+[.!?]*")


@dataclass(frozen=True, eq=False)
class Grammar:
    """Frames and words of one world. `rhyming` lists (word, family) by class; `family` gives each rhyming word's family."""
    words: dict[str, tuple[str, ...]]
    story: dict[str, tuple[str, ...]]
    poem: dict[str, tuple[str, ...]]
    family: dict[str, str]
    rhyming: dict[str, tuple[str, ...]]
    mates: dict[str, tuple[tuple[str, str], ...]]     # family -> (class, word)

    @functools.cached_property
    def topics(self) -> tuple[str, ...]:
        """What a story or poem may be about: animals, things, places."""
        return tuple(dict.fromkeys(w for kind in ("animal", "thing", "place") for w in self.words[kind]))

    def kind_of(self, topic: str) -> str:
        """"animal", "thing" or "place". ValueError for a word that is none of these."""
        for kind in ("animal", "thing", "place"):
            if topic in self.words[kind]:
                return kind
        raise ValueError(f"{topic!r} is no topic: not an animal of animals.csv, nor a thing or place of words.csv")


@functools.lru_cache(maxsize=4)
def grammar(world: World) -> Grammar:
    """The grammar of a world's folder of tables, checked. TableError names file, line and value of a fault."""
    folder = world.folder
    words = {row["class"]: parts(row["words"]) for _, row in read_rows(folder / "words.csv", ("class", "words"))}
    animals = world.subjects("animals")
    words |= {"animal": animals, "friend": animals}
    words["topic"] = tuple(dict.fromkeys((*animals, *words.get("thing", ()), *words.get("place", ()))))
    rhymes = [(n, row["word"], row["family"], row["class"])
              for n, row in read_rows(folder / "rhymes.csv", ("word", "family", "class"))]
    for line, word, _, kind in rhymes:
        if kind not in RHYMING:
            raise TableError(f"{folder / 'rhymes.csv'}, line {line}: {word!r} is a {kind!r}; use {', '.join(RHYMING)}")
    rhyming = {kind: tuple(w for _, w, _, k in rhymes if k == kind) for kind in RHYMING}
    mates: dict[str, list[tuple[str, str]]] = {}
    for _, word, family, kind in rhymes:
        mates.setdefault(family, []).append((kind, word))
    for line, word, family, _ in rhymes:
        if len(mates[family]) < 2:
            raise TableError(f"{folder / 'rhymes.csv'}, line {line}: {word!r} is alone in family {family!r}")
    story, poem = (_frames(folder / f"{name}.csv", column, kinds, {*words, *(RHYMING if name == "poem" else ())})
                   for name, column, kinds in (("story", "part", STORY_PARTS), ("poem", "place", ("first", "any"))))
    return Grammar(words, story, poem, {w: f for _, w, f, _ in rhymes}, rhyming,
                   {family: tuple(members) for family, members in mates.items()})


def _frames(path, column: str, kinds: tuple[str, ...], slots: set[str]) -> dict[str, tuple[str, ...]]:
    """Frames by part of the story or place in the poem."""
    frames: dict[str, tuple[str, ...]] = dict.fromkeys(kinds, ())
    for line, row in read_rows(path, ("frame", column)):
        for slot in SLOT.finditer(row["frame"]):
            if slot[2] not in slots:
                raise TableError(f"{path}, line {line}: there are no words for {slot.group()} in words.csv")
        if row[column] not in frames:
            raise TableError(f"{path}, line {line}: {column} {row[column]!r} is none of {', '.join(kinds)}")
        frames[row[column]] += (row["frame"],)
    for kind, found in frames.items():
        if len(found) < 2:
            raise TableError(f"{path}: at least two frames must have {column} {kind!r}, there are {len(found)}")
    return frames


# ----------------------------------------------------------------------------------------------------------------- writing

def _write(frame: str, fixed: dict[str, str], words: dict[str, tuple[str, ...]], rng: Random) -> str:
    """A frame with its slots filled: from `fixed` if it names the slot, else by a word drawn for it."""
    def word(slot: re.Match) -> str:
        filler = fixed[slot[2]] if slot[2] in fixed else rng.choice(words[slot[2]])
        return with_article(filler) if slot[1] else filler
    return capitalised(SLOT.sub(word, frame))


def story(world: World, topic: str, rng: Random) -> str:
    """A story of four to six sentences on a topic of `grammar(world).topics`."""
    g = grammar(world)
    fixed = {kind: rng.choice(g.words[kind]) for kind in ("animal", "thing", "place", "name", "friend")}
    fixed[g.kind_of(topic)] = topic
    (plan,) = rng.choices(STORY_PLANS, PLAN_WEIGHTS)
    frames: list[str] = []
    for part in plan:
        frames.append(rng.choice([f for f in _on_topic(g, part, topic) if f not in frames]))
    return " ".join(_write(frame, fixed, g.words, rng) for frame in frames)


def _on_topic(g: Grammar, part: str, topic: str) -> tuple[str, ...]:
    """The frames of one part of a story; in a story about a thing, those of the find that name it."""
    if part == "find" and g.kind_of(topic) == "thing":
        return tuple(f for f in g.story[part] if "thing}" in f)
    return g.story[part]


def poem(world: World, topic: str, rng: Random) -> str:
    """A poem of two rhyming couplets; the first line names the topic."""
    g = grammar(world)
    g.kind_of(topic)
    families = rng.sample([f for f, mates in g.mates.items() if sum(word != topic for _, word in mates) > 1], 2)
    used: set[str] = set()
    lines = []
    for number in range(POEM_LINES):
        frames = g.poem["first" if number == 0 else "any"]
        mates = [m for m in g.mates[families[number // 2]] if m[1] not in {*used, topic}]
        frame, (kind, word) = _fit(frames, mates, used, rng)
        used |= {frame, word}
        end = "." if number % 2 else ","
        lines.append(_write(frame, {"topic": topic, kind: word}, g.words, rng) + end)
    return "\n".join(lines)


def _fit(frames: tuple[str, ...], mates, used: set[str], rng: Random) -> tuple[str, tuple[str, str]]:
    """A frame not used yet, and a rhyming word of the class that it ends in."""
    while True:
        frame, mate = rng.choice(frames), rng.choice(mates)
        if frame not in used and SLOT.findall(frame)[-1][1] == mate[0]:
            return frame, mate


# ---------------------------------------------------------------------------------------------------------------- checking

def rhymes(world: World, one: str, other: str) -> bool:
    """True if the two words are different words of one family of rhymes.csv."""
    family = grammar(world).family
    one, other = one.casefold(), other.casefold()
    return one != other and one in family and family[one] == family.get(other)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each with its marks; a last one without a mark counts too."""
    return [s for s in (m.group().strip() for m in SENTENCE.finditer(text)) if s]


@functools.lru_cache(maxsize=4)
def _patterns(world: World) -> dict[str, re.Pattern]:
    """One pattern for each part of a story, and one for a line of a poem ("line")."""
    g = grammar(world)
    words = {**g.words, **{kind: g.rhyming[kind] for kind in RHYMING}}
    classes = {kind: "(?:" + "|".join(map(re.escape, sorted(listed, key=len, reverse=True))) + ")"
               for kind, listed in words.items()}

    def pattern(frames: tuple[str, ...]) -> re.Pattern:
        sources = []
        for frame in frames:
            plain = re.split(r"(\{[^}]*\})", frame.rstrip("."))
            sources.append("".join(_slot_pattern(p, classes) if p.startswith("{") else re.escape(p) for p in plain))
        return re.compile("|".join(sources), re.IGNORECASE)

    return {**{part: pattern(frames) for part, frames in g.story.items()}, "line": pattern(g.poem["first"] + g.poem["any"])}


def _slot_pattern(slot: str, classes: dict[str, str]) -> str:
    (article, kind), = SLOT.findall(slot)
    return ("(?:an? )" if article else "") + classes[kind]


@functools.lru_cache(maxsize=20_000)
def part_of(world: World, sentence: str) -> str:
    """The part of a story that a sentence can be ("opening" … "end"), or "" for none."""
    bare = sentence.rstrip(".")
    return next((part for part in STORY_PARTS if _patterns(world)[part].fullmatch(bare)), "")


@functools.lru_cache(maxsize=20_000)
def is_line(world: World, line: str) -> bool:
    """True if this can be a line of a poem; its last mark does not matter."""
    return _patterns(world)["line"].fullmatch(line.rstrip(",. ")) is not None


def mentions(text: str, topic: str) -> bool:
    """True if the topic stands in the text as a word, in the singular or with an s."""
    return re.search(rf"(?<!\w){re.escape(topic)}s?(?!\w)", text, re.IGNORECASE) is not None


def story_form(world: World, text: str) -> float:
    """How much of a story's form the text has, 0…1: well-formed sentences, opening, end, length, nothing said twice."""
    sentences = sentences_of(text)
    if not sentences or "\n" in text.strip():
        return 0.0
    found = [part_of(world, s) for s in sentences]
    wellformed = sum(map(bool, found)) / len(found)
    fresh = len(set(sentences)) / len(sentences)
    short = max(0, SENTENCES.start - len(sentences)) + max(0, len(sentences) - SENTENCES.stop + 1)
    frame = (found[0] == "opening", found[-1] == "end" and sentences[-1].endswith("."), short == 0)
    return wellformed * fresh * (0.25 + 0.25 * sum(frame)) * max(0.0, 1 - 0.1 * short)


def poem_form(world: World, text: str) -> float:
    """How much of a poem's form the text has, 0…1: four lines, well-formed, no line twice, both couplets rhyming."""
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    if not lines:
        return 0.0
    wellformed = sum(is_line(world, line) for line in lines) / len(lines)
    fresh = len(set(lines)) / len(lines)
    ends = [line.rstrip(",.!?; ").rpartition(" ")[2] for line in lines]
    couplets = sum(rhymes(world, *ends[i:i + 2]) for i in range(0, min(len(ends), POEM_LINES) - 1, 2))
    frame = (couplets >= 1, couplets >= 2, len(lines) == POEM_LINES and lines[-1].endswith("."))
    return wellformed * fresh * (0.25 + 0.25 * sum(frame))
