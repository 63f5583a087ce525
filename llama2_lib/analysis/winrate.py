"""Which of two models is better, how sure is that, and who says so (sections 3.4.1 and 3.4.2, Figures 1, 2, 11 and 12)?

A judge sees a prompt and two replies and gives a margin: by how much it prefers the first. From margins come wins, ties and
losses; the win rate counts a tie as a half (`score`), or leaves ties out, as Figure 2 does. A judge that leans to the reply
it reads first is asked in both orders and the margins are averaged, so that the lean falls out. Prompts are what is drawn at
random, so intervals resample prompts, with all that was said about them; three opinions on one prompt are not three prompts.

The paper gives intervals of one to two points for about 4,000 prompts and does not say how they were computed. Left out:
ratings over many models (Elo, Bradley–Terry), tests for many comparisons at once.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

import numpy as np

from llama2_lib.analysis.bootstrap import LEVEL, RESAMPLES, interval, resampled
from llama2_lib.config import require
from llama2_lib.model.replies import Scorer, answered
from llama2_lib.text.chat import render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.annotators import HELPFULNESS, Annotator, worth
from llama2_lib.world.dialogs import Prompt
from llama2_lib.world.facts import World
from llama2_lib.world.oracle import score as gold_of

# (prompts, first replies, second replies) → margins_N: how much the first is preferred, prompt by prompt
Judge = Callable[[Sequence[Prompt], Sequence[str], Sequence[str]], np.ndarray]


# ------------------------------------------------------------------------------------------------------------------ judges

def oracle(world: World, side: str = HELPFULNESS) -> Judge:
    """The oracle: the difference in worth, as annotators of one side are told to see it."""
    def judge(prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        return np.array([worth(gold_of(world, p, a), side) - worth(gold_of(world, p, b), side)
                         for p, a, b in zip(prompts, first, second, strict=True)])
    return judge


def reward_model(scorer: Scorer, tokenizer: Tokenizer) -> Judge:
    """A reward model in the place of a person: the difference of its scores."""
    def judge(prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        ids = [render(answered(p, r), tokenizer)[0] for said in (first, second) for p, r in zip(prompts, said, strict=True)]
        a_N, b_N = np.split(np.array(scorer([*prompts, *prompts], ids), dtype=float), 2)
        return a_N - b_N
    return judge


def person(annotator: Annotator, world: World, seed: int, side: str = HELPFULNESS) -> Judge:
    """One annotator, who sees each reply's worth through noise of their own; asked again they see new noise.

    Nobody prefers one of two equal replies.
    """
    rng = Random(f"{annotator.name} {seed}")

    def margin(prompt: Prompt, a: str, b: str) -> float:
        seen = [annotator.perceives(world, prompt, reply, rng, side) for reply in (a, b)]
        return 0.0 if a.strip() == b.strip() else seen[0] - seen[1]
    return lambda prompts, first, second: np.array([margin(*pair) for pair in zip(prompts, first, second, strict=True)])


def together(judges: Sequence[Judge]) -> Judge:
    """Several judges as one: the mean of their margins."""
    return lambda prompts, first, second: np.mean([judge(prompts, first, second) for judge in judges], axis=0)


def leaning(judge: Judge, lean: float) -> Judge:
    """The judge with a position bias: `lean` more worth for whichever reply comes first."""
    return lambda prompts, first, second: judge(prompts, first, second) + lean


def both_orders(judge: Judge) -> Judge:
    """The judge asked twice, the replies swapped the second time, and its margins averaged: a lean to a place falls out."""
    return lambda prompts, first, second: (judge(prompts, first, second) - judge(prompts, second, first)) / 2


def first_place_share(judge: Judge, prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str],
                      tie: float = 0.0) -> float:
    """How often the reply in the first place wins, over both orders, ties a half: one half for a judge without a lean."""
    return score(np.concatenate([outcomes(judge(prompts, *pair), tie) for pair in ((a, b), (b, a))]))


# ------------------------------------------------------------------------------------------------------ wins, ties, losses

@dataclass(frozen=True)
class Rates:
    """Shares of wins, ties and losses of the first model, a bar of Figure 1."""
    win: float
    tie: float
    loss: float


def outcomes(margins_N: Sequence[float], tie: float = 0.0) -> np.ndarray:
    """1 for a win of the first, 0 for a tie, −1 for a loss: margins of at most `tie` are ties. ValueError for a NaN."""
    margins_N = np.asarray(margins_N, dtype=float)
    require(tie >= 0, f"the margin of a tie must not be negative, got {tie}")
    bad = np.flatnonzero(np.isnan(margins_N))
    require(len(bad) == 0, f"the margin of pair {bad[0] if len(bad) else 0} is not a number")
    return np.where(np.abs(margins_N) <= tie, 0, np.sign(margins_N)).astype(int)


def rates(outcomes_N: Sequence[int]) -> Rates:
    """Win, tie and loss rate. ValueError for no pair, or for an outcome other than 1, 0 and −1."""
    o_N = _checked(outcomes_N)
    return Rates(*(float((o_N == k).mean()) for k in (1, 0, -1)))


def score(outcomes_N: Sequence[float]) -> float:
    """The win rate with ties counted half, 0 … 1."""
    return float((np.asarray(outcomes_N, dtype=float).mean() + 1) / 2)


def _checked(outcomes_N: Sequence[int]) -> np.ndarray:
    o_N = np.asarray(outcomes_N)
    require(o_N.ndim == 1 and len(o_N) > 0, f"outcomes are a row of one or more, got the shape {o_N.shape}")
    bad = np.flatnonzero(~np.isin(o_N, (1, 0, -1)))
    require(len(bad) == 0, f"outcome {bad[0] if len(bad) else 0} is none of 1, 0 and −1")
    return o_N


# --------------------------------------------------------------------------------------------------------------- how sure

def bootstrap(values_N: Sequence[float], statistic: Callable[[np.ndarray], float] = np.mean, level: float = LEVEL,
              resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of `statistic` over prompts drawn with replacement, one row of values a prompt.

    ValueError for fewer than two prompts.
    """
    require(len(values_N) >= 2, f"an interval needs two prompts or more, got {len(values_N)}")
    return interval(resampled(values_N, statistic, resamples, seed), level)


def normal_interval(values_N: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """mean ± z · s / √N, the textbook's, to check the bootstrap by."""
    values_N = np.asarray(values_N, dtype=float)
    require(len(values_N) >= 2, f"an interval needs two prompts or more, got {len(values_N)}")
    half = NormalDist().inv_cdf((1 + level) / 2) * values_N.std(ddof=1) / math.sqrt(len(values_N))
    return float(values_N.mean() - half), float(values_N.mean() + half)


def sign_test(outcomes_N: Sequence[int]) -> float:
    """The chance of wins and losses at least so uneven between equal models, exactly: ties left out, both sides.

    P(|W − n/2| ≥ |w − n/2|) for W ~ Binomial(n, ½); 1 where everything is a tie.
    """
    o_N = _checked(outcomes_N)
    n, most = int((o_N != 0).sum()), int(max((o_N == 1).sum(), (o_N == -1).sum()))
    tail = sum(math.comb(n, k) for k in range(most, n + 1))
    return min(1.0, 2 * tail / 2**n)


# ------------------------------------------------------------------------------------------------------- how many prompts

def power(win: float, deviation: float, prompts: int, level: float = LEVEL) -> float:
    """The chance that an interval over so many prompts leaves out ½, where the win rate is `win` (normal approximation).

    deviation: of one prompt's value, half a unit for wins and losses without ties. At win = ½ it is 1 − level.
    """
    require(deviation > 0 and prompts >= 1, f"power needs a deviation above 0 and a prompt, got {deviation} and {prompts}")
    normal = NormalDist()
    shift, z = abs(win - 0.5) * math.sqrt(prompts) / deviation, normal.inv_cdf((1 + level) / 2)
    return normal.cdf(shift - z) + normal.cdf(-shift - z)


def counted_power(values_N: Sequence[float], prompts: int, draws: int = 1_000, seed: int = 0) -> float:
    """The same by counting: how often so many prompts, drawn from those there are, give a normal interval without ½."""
    some_DN = np.random.default_rng(seed).choice(np.asarray(values_N, dtype=float), (draws, prompts))
    half_D = NormalDist().inv_cdf((1 + LEVEL) / 2) * some_DN.std(1, ddof=1) / math.sqrt(prompts)
    return float((np.abs(some_DN.mean(1) - 0.5) > half_D).mean())


def prompts_needed(win: float, deviation: float, wanted: float = 0.8, level: float = LEVEL) -> int:
    """The least number of prompts with that power. ValueError for a win rate of ½, for which there is none."""
    require(win != 0.5, "equal models: no number of prompts tells them apart")
    require(1 - level < wanted < 1, f"the power wanted lies between {1 - level:.2g} and 1, got {wanted}")
    low, high = 0, 1
    while power(win, deviation, high, level) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(win, deviation, middle, level) >= wanted else (middle, high)
    return high
