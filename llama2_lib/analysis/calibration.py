"""Does a score mean what it says? Reliability of probabilities, and scores against ratings (Figure 29, section 3.4.2).

A reward model's margin σ(r_chosen − r_rejected) is a probability: of the pairs scored 0.8, four in five should be preferred
that way. Left out: recalibration (temperature scaling, isotonic regression).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llama2_lib.config import require


@dataclass(frozen=True)
class Bin:
    """Probabilities of one interval: their mean, the share that came true, and how many there are."""
    predicted: float
    observed: float
    count: int


def reliability(probabilities_N: Sequence[float], outcomes_N: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Bins of equal width over 0…1, without the empty ones.

    ValueError for unequal lengths, no item, or a number that is no probability.
    """
    p_N, y_N = np.asarray(probabilities_N, dtype=float), np.asarray(outcomes_N, dtype=float)
    require(len(p_N) == len(y_N) > 0, f"one outcome a probability is needed, got {len(p_N)} and {len(y_N)}")
    outside = np.flatnonzero(~((p_N >= 0) & (p_N <= 1)))
    require(len(outside) == 0, f"item {outside[0] if len(outside) else 0} is no probability")
    index_N = np.minimum((p_N * bins).astype(int), bins - 1)
    return [Bin(float(p_N[m].mean()), float(y_N[m].mean()), int(m.sum()))
            for m in (index_N == b for b in range(bins)) if m.any()]


def expected_calibration_error(probabilities_N: Sequence[float], outcomes_N: Sequence[bool], bins: int = 10) -> float:
    """Mean distance of predicted and observed share over the bins, weighted by their counts."""
    found = reliability(probabilities_N, outcomes_N, bins)
    total = sum(b.count for b in found)
    return sum(b.count * abs(b.predicted - b.observed) for b in found) / total


def by_level(scores_N: Sequence[float], levels_N: Sequence[int]) -> dict[int, float]:
    """Mean score at each level of a rating, in order: Figure 29's curve in numbers. ValueError for unequal lengths."""
    require(len(scores_N) == len(levels_N) > 0, f"one level a score is needed, got {len(scores_N)} and {len(levels_N)}")
    scores, levels = np.asarray(scores_N, dtype=float), np.asarray(levels_N)
    return {int(level): float(scores[levels == level].mean()) for level in np.unique(levels)}
