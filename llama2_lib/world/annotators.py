"""People who compare replies: they choose, say how sure they are, label safety, rate, and write (sections 3.2.1 and 3.4.2).

An annotator sees each reply's worth (the oracle's, of notebook 04) through noise of their own:

    perceived(reply) = worth(reply) + length_bias · words / 10 + ε,      ε ~ N(0, noise²)

chooses the reply perceived as better, and grades the choice by the perceived difference (Thurstone 1927, case V). So nobody
errs at random: replies of equal worth are a toss-up, and clear cases hardly ever go wrong. Worth is helpfulness, or in the
collection of safety data the safety first. The paper gives the four grades and the three safety bins; noise, thresholds and
biases are ours. Left out: annotators who tire, who talk to each other, or who hold other values.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from llama2_lib.config import require
from llama2_lib.world import dialogs
from llama2_lib.world.dialogs import Prompt
from llama2_lib.world.facts import World
from llama2_lib.world.oracle import Gold, score

GRADES = ("significantly better", "better", "slightly better", "negligibly better or unsure")
LEAST_GAP = (0.5, 0.3, 0.15, 0.0)      # perceived difference from which each grade is given
CHOSEN_SAFE, BOTH_SAFE, BOTH_UNSAFE, CHOSEN_UNSAFE = (
    "chosen safe, other unsafe", "both safe", "both unsafe", "chosen unsafe, other safe")
HELPFULNESS, SAFETY = SIDES = ("helpfulness", "safety")
SAFE_FROM = 0.5                        # of the oracle's safety: below, a reply is unsafe
LIKERT = 7


@dataclass(frozen=True)
class Annotator:
    """One rater. noise: standard deviation of the perceived worth, on the oracle's scale 0…1. length_bias: worth seen in
    every ten words. slips: share of safety labels that are wrong. care: share of demonstrations written without a fault."""
    name: str = "annotator"
    noise: float = 0.15
    length_bias: float = 0.0
    slips: float = 0.02
    care: float = 1.0

    def __post_init__(self) -> None:
        require(self.noise >= 0, f"{self.name}: noise must not be negative, got {self.noise}")
        for field in ("slips", "care"):
            require(0 <= getattr(self, field) <= 1, f"{self.name}: {field} is a share in 0…1, got {getattr(self, field)}")

    def perceives(self, world: World, prompt: Prompt, reply: str, rng: Random, side: str = HELPFULNESS) -> float:
        """The worth of a reply as this annotator sees it, once; asked again they see it with new noise."""
        seen = worth(score(world, prompt, reply), side) + self.length_bias * len(reply.split()) / 10
        return seen + rng.gauss(0, self.noise)

    def rates(self, world: World, prompt: Prompt, reply: str, rng: Random) -> int:
        """A rating from 1 (worst) to 7 (best), as in the human evaluation of section 3.4.2."""
        return min(LIKERT, max(1, 1 + math.floor(self.perceives(world, prompt, reply, rng) * LIKERT)))

    def calls_safe(self, world: World, prompt: Prompt, reply: str, rng: Random) -> bool:
        """The safety label of one reply, wrong in a share `slips` of the cases."""
        return (score(world, prompt, reply).safety >= SAFE_FROM) != (rng.random() < self.slips)

    def writes(self, world: World, prompt: Prompt, rng: Random) -> str:
        """A demonstration: good, or with one fault in a share 1 − care of them."""
        return dialogs.demonstration(world, prompt, rng) if rng.random() < self.care else dialogs.damaged(world, prompt, rng)


# Three vendors of annotations: "different annotation platforms and vendors can result in markedly different" models (3.1).
VENDORS = (Annotator("careful", noise=0.10, slips=0.01, care=0.97), Annotator("usual", noise=0.15, slips=0.02, care=0.90),
           Annotator("hurried", noise=0.30, slips=0.08, care=0.65))


@dataclass(frozen=True)
class Choice:
    """What an annotator said of two replies: which is better (0 or 1), its grade, and in safety data the pair's bin."""
    chosen: int
    grade: str
    safety: str = ""


def worth(gold: Gold, side: str = HELPFULNESS) -> float:
    """What annotators of one side are told to look for, 0…1. ValueError for another side.

    Safety comes first there: an unsafe reply is worth at most a third, however helpful it is.
    """
    require(side in SIDES, f"the side is one of {', '.join(SIDES)}, got {side!r}")
    if side == HELPFULNESS:
        return gold.helpful
    return gold.total / 3 if gold.safety < SAFE_FROM else 1 / 3 + 2 / 3 * gold.total


def compare(annotator: Annotator, world: World, prompt: Prompt, replies: Sequence[str], rng: Random,
            side: str = HELPFULNESS) -> Choice:
    """One annotator's choice between two replies. ValueError unless there are two, both with text, and different."""
    require(len(replies) == 2, f"two replies are compared, got {len(replies)}")
    for reply in replies:
        require(bool(reply.strip()), f"an empty reply to {prompt.text!r} cannot be compared")
    require(replies[0].strip() != replies[1].strip(), f"the two replies to {prompt.text!r} are the same: {replies[0]!r}")
    first, second = (annotator.perceives(world, prompt, reply, rng, side) for reply in replies)
    chosen = int(second > first)
    if side == HELPFULNESS:
        return Choice(chosen, grade_of(abs(first - second)))
    safe = [annotator.calls_safe(world, prompt, reply, rng) for reply in (replies[chosen], replies[1 - chosen])]
    return Choice(chosen, grade_of(abs(first - second)), safety_bin(*safe))


def grade_of(gap: float) -> str:
    """The grade for a perceived difference. ValueError for a negative one."""
    require(gap >= 0, f"a perceived difference must not be negative, got {gap}")
    return next(grade for grade, least in zip(GRADES, LEAST_GAP, strict=True) if gap >= least)


def safety_bin(chosen_safe: bool, other_safe: bool) -> str:
    """Table 29's bins; pairs whose chosen reply alone is unsafe form a fourth, which section 3.2.1 leaves out."""
    if chosen_safe:
        return BOTH_SAFE if other_safe else CHOSEN_SAFE
    return CHOSEN_UNSAFE if other_safe else BOTH_UNSAFE


def right_choice_chance(gap: float, noise: float) -> float:
    """The chance that a reply whose worth is higher by `gap` ≥ 0 is chosen: Φ(gap / (noise · √2)).

    Its mean over the pairs of a test set is the noise ceiling of every reward model's accuracy there.
    """
    require(gap >= 0 and noise >= 0, f"gap and noise must not be negative, got {gap} and {noise}")
    if noise == 0:
        return 1.0 if gap > 0 else 0.5
    return 0.5 * (1 + math.erf(gap / (2 * noise)))


def panel(annotators: Iterable[Annotator], world: World, prompt: Prompt, replies: Sequence[str], rng: Random,
          side: str = HELPFULNESS) -> list[int]:
    """Several raters on one pair, on one scale of seven: 0 the first is much better … 3 equal … 6 the second is."""
    return [on_scale(compare(a, world, prompt, replies, rng, side)) for a in annotators]


def on_scale(choice: Choice) -> int:
    """A graded choice as one of seven categories in order, as agreement coefficients need them."""
    distance = len(GRADES) - 1 - GRADES.index(choice.grade)
    return 3 + distance if choice.chosen else 3 - distance
