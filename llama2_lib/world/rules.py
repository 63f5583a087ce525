"""System rules whose keeping can be checked by code: "Always start with Ahoy." (section 3.3, Ghost Attention).

A rule knows how to make a reply keep it, whether a reply keeps it, and what the reply says apart from it. The kinds of split
"test" are never trained on: they show whether Ghost Attention carries over (Fig 28). Words and wordings stand in
data/world/rules.csv; what a kind means stands here. Left out: rules about content, rules that hang on the question.
"""
from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from llama2_lib.config import require
from llama2_lib.world.facts import World, capitalised, with_article
from llama2_lib.world.tables import TableError, parts, read_rows

LAST_MARK = re.compile(r"[.!?]?\s*$")


@dataclass(frozen=True)
class Rule:
    """A system rule. `sign` is what must be heard: the word itself, or the sound of the animal that is acted."""
    kind: str
    word: str
    sign: str
    text: str

    def apply(self, reply: str) -> str:
        """`reply` so changed that it keeps the rule."""
        return KINDS[self.kind].apply(reply, self.sign)

    def kept(self, reply: str) -> bool:
        """True if the reply keeps the rule."""
        return KINDS[self.kind].pattern(self.sign).search(reply.strip()) is not None

    def strip(self, reply: str) -> str:
        """What the reply says apart from the rule: `strip(apply(reply)) == reply` for a reply of good form."""
        return KINDS[self.kind].strip(reply.strip(), self.sign).strip()


@dataclass(frozen=True)
class Kind:
    """What a kind of rule does to a reply, by three functions of (reply or sign)."""
    apply: Callable[[str, str], str]
    pattern: Callable[[str], re.Pattern]
    strip: Callable[[str, str], str]


@functools.cache
def _pattern(source: str, sign: str) -> re.Pattern:
    return re.compile(source.replace("SIGN", re.escape(sign)), re.IGNORECASE)


def _kind(apply: Callable[[str, str], str], pattern: str, strip: Callable[[str, str], str] | None = None) -> Kind:
    """A kind whose sign is found by `pattern`; without `strip`, what the pattern finds is cut out."""
    found = functools.partial(_pattern, pattern)
    return Kind(apply, found, strip or (lambda reply, sign: found(sign).sub("", reply, count=1)))


def _call(reply: str, sign: str) -> str:
    """The name goes before the last mark."""
    mark = LAST_MARK.search(reply)
    return f"{reply[:mark.start()]}, {sign}{mark.group().strip() or '.'}"


def _shout(reply: str, sign: str) -> str:
    """Every full stop becomes an exclamation mark; a reply without a last mark gets one."""
    return re.sub(r"\.", "!", LAST_MARK.sub(lambda m: m.group().strip() or "!", reply, count=1))


KINDS: dict[str, Kind] = {
    "start": _kind(lambda reply, sign: f"{sign}! {reply}", r"^SIGN\b[!.,]?\s*"),
    "end": _kind(lambda reply, sign: f"{reply} {capitalised(sign)}!", r"(?:^|(?<=[.!?]\s))SIGN[!.]?$|(?<=\s)SIGN!$"),
    "call": _kind(_call, r",? ?\bSIGN\b"),
    "act": _kind(lambda reply, sign: f"{capitalised(sign)}! {reply}", r"(?<!\w)SIGN!\s*"),
    "mention": _kind(lambda reply, sign: f"{reply} I love the {sign}.", r"\blove the SIGN\b",
                     lambda reply, sign: reply.replace(f"I love the {sign}.", "", 1)),
    "stars": _kind(lambda reply, sign: f"* {reply} *", r"\A\*[^*]*\w[^*]*\*\Z", lambda reply, sign: reply.strip("* ")),
    "shout": _kind(_shout, r"^[^.?]*!$", lambda reply, sign: reply.replace("!", ".")),
}


@functools.lru_cache(maxsize=4)
def all_rules(world: World) -> dict[str, tuple[Rule, ...]]:
    """The rules of data/world/rules.csv, each word with each wording, by split. TableError names file, line and value."""
    path = world.folder / "rules.csv"
    found: dict[str, tuple[Rule, ...]] = {"train": (), "test": ()}
    for line, row in read_rows(path, ("kind", "split", "words", "texts")):
        kind, split = row["kind"], row["split"]
        if kind not in KINDS:
            raise TableError(f"{path}, line {line}: no code checks the kind {kind!r}; there are {', '.join(KINDS)}")
        if split not in found:
            raise TableError(f"{path}, line {line}: split {split!r} is neither train nor test")
        for word in parts(row["words"]):
            sign = world.value("sound", word) if kind == "act" else word
            if sign is None:
                raise TableError(f"{path}, line {line}: {word!r} has no sound in animals.csv, so nobody can act it")
            found[split] += tuple(
                Rule(kind, word, sign, text.replace("{word}", word).replace("{a word}", with_article(word)))
                for text in parts(row["texts"]))
    return found


def draw_rule(world: World, rng: Random, split: str = "train") -> Rule:
    """A rule of this split, each kind as likely as another."""
    rules = all_rules(world).get(split, ())
    require(bool(rules), f"{world.folder / 'rules.csv'} has no rule of split {split!r}")
    kind = rng.choice(sorted({r.kind for r in rules}))
    return rng.choice([r for r in rules if r.kind == kind])
