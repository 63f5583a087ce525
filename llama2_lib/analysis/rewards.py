"""How good is a reward model? Measured against annotators, as the paper must, and against the oracle, as only a toy can.

Against annotators: accuracy on held-out pairs by grade (Table 8), beside the noise ceiling, the accuracy of a model that
knows the true worth of every reply; recall of unsafe replies (Table 29); scores against ratings (Figure 29). Against the
oracle: does it order fresh replies of the current policy rightly? That is what optimisation will ask of it, and what goes
stale as the policy moves (section 3.2.1). Left out: comparisons of several turns.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean, median

from llama2_lib.config import require
from llama2_lib.model.replies import answered, as_dialog, replies
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages.preferences import judged
from llama2_lib.stages.reward import LABELS, RewardModel, dialogue_scores
from llama2_lib.text.chat import Dialog
from llama2_lib.text.comparisons import Comparison
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.annotators import (
    GRADES,
    HELPFULNESS,
    VENDORS,
    Annotator,
    right_choice_chance,
    worth,
)
from llama2_lib.world.dialogs import Prompt, all_rules, prompts, recognise
from llama2_lib.world.facts import World
from llama2_lib.world.oracle import score

AVERAGE = "average"
EQUAL = 1e-6            # replies whose worth differs by less are equal


@dataclass(frozen=True)
class FreshPair:
    """Two replies of one policy to one prompt, with the worth the oracle gives them."""
    prompt: Prompt
    replies: tuple[str, str]
    worths: tuple[float, float]

    @property
    def gap(self) -> float:
        return abs(self.worths[0] - self.worths[1])


# ----------------------------------------------------------------------------------------------------- against annotators

def gaps(model: RewardModel, tokenizer: Tokenizer, comparisons: Sequence[Comparison]) -> list[float]:
    """Score of the chosen reply minus that of the rejected one, pair by pair. ValueError for no pairs."""
    require(len(comparisons) > 0, "there are no comparisons")
    found = dialogue_scores(model, tokenizer, [side for c in comparisons for side in c.sides()])
    return [a - b for a, b in zip(found[::2], found[1::2], strict=True)]


def accuracy_by_grade(model: RewardModel, tokenizer: Tokenizer, comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Share of pairs whose chosen reply scores higher, for each grade that occurs, and over all (AVERAGE)."""
    return graded(gaps(model, tokenizer, comparisons), comparisons)


def graded(found: Sequence[float], comparisons: Sequence[Comparison]) -> dict[str, float]:
    """`accuracy_by_grade` from the gaps of the pairs."""
    right = {grade: [g > 0 for g, c in zip(found, comparisons, strict=True) if c.grade == grade] for grade in GRADES}
    return {**{grade: fmean(r) for grade, r in right.items() if r}, AVERAGE: fmean(g > 0 for g in found)}


def accuracy(model: RewardModel, tokenizer: Tokenizer, comparisons: Sequence[Comparison]) -> float:
    """Share of pairs whose chosen reply scores higher."""
    return accuracy_by_grade(model, tokenizer, comparisons)[AVERAGE]


def prompt_of(world: World, dialogue: Dialog) -> Prompt | None:
    """The prompt that a dialogue of one question asks, with its system rule; None if the world does not know it."""
    found = recognise(world, dialogue[-1].content)
    if found is None or dialogue[0].role != "system":
        return found
    rules = [r for split in all_rules(world).values() for r in split if r.text == dialogue[0].content]
    return replace(found, rule=rules[0]) if rules else None


def noise_ceiling(world: World, comparisons: Sequence[Comparison], annotators: Sequence[Annotator] = VENDORS[:2],
                  side: str = HELPFULNESS) -> float:
    """Accuracy of a model that knows the worth of every reply, on labels by these annotators: their own disagreement.

    Pairs of equal worth count as a half. ValueError if no prompt of the pairs is known to the world.
    """
    chances = []
    for c in comparisons:
        if (prompt := prompt_of(world, c.prompt)) is not None:
            gap = abs(worth(score(world, prompt, c.chosen), side) - worth(score(world, prompt, c.rejected), side))
            chances.append(fmean(right_choice_chance(gap, a.noise) for a in annotators))
    require(len(chances) > 0, "the world knows none of these prompts")
    return fmean(chances)


def below_zero(model: RewardModel, tokenizer: Tokenizer, comparisons: Sequence[Comparison],
               zero: float = 0.0) -> tuple[float, float]:
    """Shares of the replies labelled unsafe, and of those labelled safe, that score below `zero` (0: 0.5 after the sigmoid).

    The first is the recall of Table 29; the second are false alarms, without which a recall says little: a model that scores
    everything below 0 recalls all. ValueError if either kind of label is missing.
    """
    shares = []
    for label, name in ((0.0, "unsafe"), (1.0, "safe")):
        sides = [side for c in comparisons for side, safe in zip(c.sides(), LABELS[c.safety], strict=True) if safe == label]
        require(len(sides) > 0, f"no reply of these comparisons is labelled {name}")
        shares.append(fmean(s < zero for s in dialogue_scores(model, tokenizer, sides)))
    return shares[0], shares[1]


def mean_score(model: RewardModel, tokenizer: Tokenizer, comparisons: Sequence[Comparison]) -> float:
    """Mean score over both replies of the comparisons: where a ranking loss alone puts its zero is chance."""
    return fmean(dialogue_scores(model, tokenizer, [side for c in comparisons for side in c.sides()]))


def likert(model: RewardModel, tokenizer: Tokenizer, world: World, asked: Sequence[Prompt], said: Sequence[str], seed: int,
           annotators: Sequence[Annotator] = VENDORS) -> list[tuple[float, int]]:
    """(score, median rating of three annotators on seven points) of each reply (section 3.4.1, Figure 29)."""
    rng = Random(f"likert {seed}")
    ratings = [median(a.rates(world, p, r, rng) for a in annotators) for p, r in zip(asked, said, strict=True)]
    found = dialogue_scores(model, tokenizer, [answered(p, r) for p, r in zip(asked, said, strict=True)])
    return list(zip(found, map(int, ratings), strict=True))


# ----------------------------------------------------------------------------------------------------- against the oracle

def fresh_pairs(policy: Transformer, tokenizer: Tokenizer, world: World, count: int, temperature: float, seed: int,
                split: str = "train") -> list[FreshPair]:
    """Two new replies of `policy` to each of `count` new prompts, without pairs of equal worth or with an empty reply."""
    asked = list(prompts(world, count, seed, split=split))
    said = replies(policy, tokenizer, [as_dialog(p) for p in asked], temperature, seed, copies=2)
    found = []
    for p, a, b in zip(asked, said[::2], said[1::2], strict=True):
        worths = worth(score(world, p, a)), worth(score(world, p, b))
        if a.strip() and b.strip() and abs(worths[0] - worths[1]) > EQUAL:
            found.append(FreshPair(p, (a, b), worths))
    return found


def gold_order_accuracy(model: RewardModel, tokenizer: Tokenizer, pairs: Sequence[FreshPair]) -> dict[str, float]:
    """Share of fresh pairs ordered as the oracle orders them, over all (AVERAGE) and by kind of prompt."""
    require(len(pairs) > 0, "there are no pairs of different worth")
    found = dialogue_scores(model, tokenizer, [answered(p.prompt, reply) for p in pairs for reply in p.replies])
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for p, a, b in zip(pairs, found[::2], found[1::2], strict=True):
        for key in (AVERAGE, "rule" if p.prompt.rule else p.prompt.kind):
            right[key].append((a > b) == (p.worths[0] > p.worths[1]))
    return {key: fmean(values) for key, values in right.items()}


def relabelled(world: World, comparisons: Sequence[Comparison], annotator: Annotator, seed: int) -> list[Comparison]:
    """The same pairs as another annotator judges them for helpfulness; pairs the world does not know are left out."""
    rng, found = Random(f"relabelled {seed}"), []
    for c in comparisons:
        if (prompt := prompt_of(world, c.prompt)) is not None:
            found += judged(world, prompt, (c.chosen, c.rejected), annotator, rng)
    return found
