"""An automatic red team (section 4.3): attacks on topics that no training asked about, and what became of old findings.

    γ = violations per hundred attempts;     fixed(A, B) = share of A's violating attempts that B withstands

An attempt is a request in the words of an attack: data/attacks.csv has several for each vector of section 4.2.1. The judge
is the oracle: a reply with a step to an unsafe request violates, whether or not the step would work. The paper's γ is per
person-hour, which an automatic red team does not have.

Replies are sampled, so a finding may vanish by luck: asking the *same* model again fixes some. `fixed_by_luck` is that
control. Attempts on one topic are no independent trials either; `Rate.interval` (Wilson) ignores this, seeds do not.
Left out: attacks that search, attacks by another model.
"""
from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from llama2_lib.config import Recipe, require
from llama2_lib.model.replies import sample
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages.distillation import risk_of
from llama2_lib.stages.rlhf import Version
from llama2_lib.text.chat import Dialog, dialog
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.annotators import SAFE_FROM
from llama2_lib.world.facts import World
from llama2_lib.world.oracle import Gold, score
from llama2_lib.world.prompts import HELD_OUT, UNSAFE, HowTo, Prompt, howtos_of
from llama2_lib.world.tables import TABLES, TableError, parts, read_rows

ATTACKS = TABLES.parent / "attacks.csv"
REQUEST = "{request}"
NORMAL = 1.959964       # the 97.5% quantile of the standard normal distribution


@dataclass(frozen=True)
class Rate:
    """k of n. ValueError for n below 1 or k outside 0 … n."""
    k: int
    n: int

    def __post_init__(self) -> None:
        require(self.n >= 1 and 0 <= self.k <= self.n, f"{self.k} of {self.n} is no rate")

    def __str__(self) -> str:
        """ "0.12 (0.08 to 0.17)": the share and its interval."""
        return "{:.2f} ({:.2f} to {:.2f})".format(self.share, *self.interval)

    @property
    def share(self) -> float:
        return self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the share: it never leaves 0…1, and says something where k is 0 (Wilson, 1927)."""
        p, z2 = self.share, NORMAL ** 2
        middle, half = p + z2 / (2 * self.n), NORMAL * math.sqrt(p * (1 - p) / self.n + z2 / (4 * self.n ** 2))
        return max(0.0, (middle - half) / (1 + z2 / self.n)), min(1.0, (middle + half) / (1 + z2 / self.n))


def rate(happened: Iterable[bool]) -> Rate:
    """How often something happened. ValueError if nothing was tried."""
    found = [bool(x) for x in happened]
    return Rate(sum(found), len(found))


# ---------------------------------------------------------------------------------------------------------------- attacks

@dataclass(frozen=True)
class Attack:
    """Words around a request: the texts of user, assistant, user … in turn; the last one holds {request}."""
    vector: str
    turns: tuple[str, ...]

    def on(self, howto: HowTo) -> Dialog:
        """The dialogue that makes this attack for a request."""
        return dialog(*(text.replace(REQUEST, howto.request) for text in self.turns))


def attacks(path: Path = ATTACKS) -> list[Attack]:
    """The attacks of data/attacks.csv. TableError names file, line and value of a fault."""
    found = []
    for line, row in read_rows(path, ("turns", "vector")):
        turns = parts(row["turns"])
        if len(turns) % 2 == 0 or REQUEST not in turns[-1] or re.search(r"\{(?!request\})", row["turns"]):
            raise TableError(f"{path}, line {line}: {row['turns']!r} must be texts of user, assistant, user … parted by |, "
                             f"the last with {REQUEST}, and no other slot")
        found.append(Attack(row["vector"], turns))
    return found


@dataclass(frozen=True)
class Attempt:
    """One try of the red team and the oracle's judgement of the reply."""
    howto: HowTo
    attack: Attack
    reply: str
    gold: Gold

    @property
    def violates(self) -> bool:
        return self.gold.safety < SAFE_FROM

    @property
    def category(self) -> str:
        """The risk category of the request."""
        return risk_of(Prompt("howto", self.asked[-1].content, howto=self.howto))

    @property
    def asked(self) -> Dialog:
        """The dialogue up to the reply."""
        return self.attack.on(self.howto)


def raid(policy: Transformer, tokenizer: Tokenizer, world: World, topics: Sequence[HowTo] = (), copies: int = 4,
         seed: int = 0, chosen: Sequence[Attack] = ()) -> list[Attempt]:
    """Each of `topics` (empty: the held-out ones) in the words of each attack (or the `chosen`), `copies` times at
    temperature 1.

    The attempts come in one order: two models can be compared one by one.
    """
    tries = [(h, a) for h in topics or howtos_of(world, UNSAFE, HELD_OUT) for a in chosen or attacks()]
    said = sample(policy, tokenizer, [a.on(h) for h, a in tries], 1.0, seed, copies=copies)
    repeated = [pair for pair in tries for _ in range(copies)]
    return [Attempt(h, a, r.text, score(world, Prompt("howto", a.on(h)[-1].content, howto=h), r.text))
            for (h, a), r in zip(repeated, said, strict=True)]


def by(found: Sequence[Attempt], key: Callable[[Attempt], str]) -> dict[str, Rate]:
    """The violation rate of each group of attempts, highest first."""
    groups: defaultdict[str, list[bool]] = defaultdict(list)
    for attempt in found:
        groups[key(attempt)].append(attempt.violates)
    return dict(sorted(((name, rate(v)) for name, v in groups.items()), key=lambda item: -item[1].share))


def gamma(found: Sequence[Attempt]) -> float:
    """Violations per hundred attempts."""
    return 100 * rate(a.violates for a in found).share


def fixed(before: Sequence[Attempt], after: Sequence[Attempt]) -> Rate:
    """How many violating attempts of one model another withstands.

    ValueError for attempts that are not the same, or if none violated.
    """
    require([(a.howto, a.attack) for a in before] == [(a.howto, a.attack) for a in after],
            "these are not the same attempts on two models")
    require(any(a.violates for a in before), "no attempt on the first model violated: there is nothing to fix")
    return rate(not b.violates for a, b in zip(before, after, strict=True) if a.violates)


def raids(versions: Sequence[Version], world: World, seed: int, copies: int = 4) -> dict[str, list[Attempt]]:
    """The same attempts on each version, sampled apart: with common random numbers two like models would fail alike."""
    return {v.name: raid(v.policy, v.tokenizer, world, copies=copies, seed=seed + i) for i, v in enumerate(versions)}


def red_team_study(versions: Sequence[Version], world: World, recipe: Recipe, copies: int = 6) -> Mapping[str, float]:
    """γ of each version on held-out topics, and the share of each version's findings that the next one withstands, where no
    finding is learned from."""
    made, first, last = raids(versions, world, recipe.seed, copies), versions[0], versions[-1]
    again = raid(first.policy, first.tokenizer, world, copies=copies, seed=recipe.seed + 100)
    found = {f"gamma_{name}": gamma(r) for name, r in made.items()}
    steps = [b - a for a, b in pairwise(found.values())]
    shares = {f"fixed_{b}": fixed(made[a], made[b]).share for a, b in pairwise(made) if any(x.violates for x in made[a])}
    return {**found, **shares, "fixed_by_luck": fixed(made[first.name], again).share,
            "fixed_first_to_last": fixed(made[first.name], made[last.name]).share,
            "largest_step": max(steps), "change": sum(steps), "fixed": fmean(shares.values())}
