"""How sure a mean is: the percentile bootstrap over whatever was drawn at random, here prompts (section 3.4.2).

The paper gives intervals of one to two points and does not say how they were computed. Left out: other bootstraps (BCa).

Shape suffixes: N drawn items, R resamples.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from llama2_lib.config import require

RESAMPLES = 4_000
LEVEL = 0.95


def resampled(values_N: Sequence[float], statistic: Callable[[np.ndarray], float] = np.mean, resamples: int = RESAMPLES,
              seed: int = 0) -> np.ndarray:
    """`statistic` of each of `resamples` draws of the items with replacement, (R,). ValueError for no item.

    values_N: one row an item; several numbers on an item stay together in its row.
    """
    values_N = np.asarray(values_N, dtype=float)
    require(len(values_N) > 0, "a bootstrap needs at least one value")
    rng, N = np.random.default_rng(seed), len(values_N)
    return np.array([statistic(values_N[rng.integers(N, size=N)]) for _ in range(resamples)])


def interval(found_R: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of what `resampled` found."""
    low, high = np.quantile(found_R, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
