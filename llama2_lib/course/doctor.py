"""The RLHF doctor: reads the records of a PPO run and names what is wrong, with the paper's section and the cure.

Each disease is a function of the whole history; it fires on a pattern over iterations, never on one number. `gold`, where a
record has it, is the oracle's mean; without it (as in life) reward hacking is found by its shadows alone: KL, length,
entropy. Thresholds are ours, set before the sick runs of `course/lab.py` tried them. `checkpoint.read_metrics` reads the
records of a run. Left out: diseases of the data and of the reward.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from llama2_lib.config import require

NEEDED = ("iteration", "kl", "length", "entropy", "clipfrac", "explained_variance")
LEAST = 6                 # iterations: fewer say nothing about a trend
MOST_KL = 10.0            # nats a reply: far beyond what any preference data of the first policy covers
SATURATED = 0.3           # clipfrac
DEAD = 0.05               # explained variance at the end
COLLAPSED = 0.4           # of the entropy at the start
GROWN = 1.5               # of the length at the start


@dataclass(frozen=True)
class Finding:
    """One diagnosis: what it is called, what in the records says so, where the paper speaks of it, and what to do."""
    name: str
    evidence: str
    place: str
    cure: str


def _ends(history: Sequence[dict], key: str) -> tuple[float, float]:
    """Mean of a number over the first and over the last fifth of the records."""
    n = max(1, len(history) // 5)
    return fmean(r[key] for r in history[:n]), fmean(r[key] for r in history[-n:])


def _hacking(h: Sequence[dict]) -> str | None:
    if not all("gold" in r and "score" in r for r in h):
        return None
    (s0, s1), (g0, g1) = _ends(h, "score"), _ends(h, "gold")
    return f"score {s0:.2f} → {s1:.2f}, gold {g0:.2f} → {g1:.2f}" if s1 > s0 and g1 < g0 - 0.02 else None


def _runaway(h: Sequence[dict]) -> str | None:
    _, kl = _ends(h, "kl")
    return f"KL {kl:.1f} nats a reply at the end" if kl > MOST_KL else None


def _length(h: Sequence[dict]) -> str | None:
    first, last = _ends(h, "length")
    return f"replies grew from {first:.0f} to {last:.0f} tokens" if last > GROWN * first else None


def _dead_critic(h: Sequence[dict]) -> str | None:
    _, last = _ends(h, "explained_variance")
    return f"explained variance {last:.2f} at the end" if not last > DEAD else None      # NaN is dead, too


def _clipping(h: Sequence[dict]) -> str | None:
    share = fmean(r["clipfrac"] for r in h)
    return f"{share:.0%} of the tokens are clipped" if share > SATURATED else None


def _collapse(h: Sequence[dict]) -> str | None:
    first, last = _ends(h, "entropy")
    return f"entropy {first:.2f} → {last:.2f} nats a token" if last < COLLAPSED * first else None


DISEASES: tuple[tuple[str, Callable[[Sequence[dict]], str | None], str, str], ...] = (
    ("reward hacking", _hacking, "§3.2.2, §3.4.1",
     "collect preferences from the current policy and retrain the reward; until then stop early and raise β"),
    ("KL runaway", _runaway, "§3.2.3",
     "raise β or lower the learning rate; check that the reference is frozen, and the sign of KL"),
    ("length exploit", _length, "§3.4.1",
     "compare the reward of long and short replies; train it on annotators without that bias"),
    ("dead value head", _dead_critic, "§3.2.3 (the paper is silent on the critic)",
     "raise the critic's weight or rate, check the mask of the returns; without a critic every advantage is a reward"),
    ("clip saturation", _clipping, "§3.2.3", "lower the learning rate or take fewer steps on the same rollouts"),
    ("entropy collapse", _collapse, "§5.1, Figure 21",
     "raise β, lower the learning rate, widen the prompts; the policy has stopped exploring"),
)


def diagnose(history: Sequence[dict]) -> list[Finding]:
    """What is wrong with a run, worst first; an empty list for a healthy one.

    ValueError for fewer than LEAST records, or where a record lacks one of NEEDED, naming iteration and key.
    """
    require(len(history) >= LEAST, f"{len(history)} iterations are too few for a diagnosis: at least {LEAST}")
    for i, record in enumerate(history):
        missing = [key for key in NEEDED if key not in record]
        require(not missing, f"record {i} lacks {', '.join(missing)}")
    return [Finding(name, evidence, place, cure) for name, test, place, cure in DISEASES if (evidence := test(history))]
