"""How well several raters agree beyond chance: Gwet's AC1 and AC2, and Cohen's and Fleiss's kappa (sections 3.4.2 and A.5).

    AC = (p_a − p_e) / (1 − p_e)

p_a is the weighted share of agreeing pairs of raters of one item, averaged over items. Chance differs: kappa multiplies the
shares of the categories, Gwet spreads the raters' uncertainty over all K of them,

    p_e = T_w / (K (K − 1)) · Σ_k π_k (1 − π_k),     T_w the sum of all weights

which does not collapse when nearly all items fall into one category (kappa's paradox). The paper reports 0.37 to 0.55 on the
7-point helpfulness scale and 0.92 in the mean on safety; which weights it used it does not say. Items with a single rating
count for the π_k alone. Formulas: K. L. Gwet, Handbook of Inter-Rater Reliability, 4th edition, chapters 4 and 5.

counts_NK: how many raters put item n into category k; categories in their order. Left out: intervals, missing-data models.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama2_lib.config import require

WEIGHTS = ("identity", "linear", "quadratic")


def gwet_ac1(counts_NK: Sequence[Sequence[int]]) -> float:
    """Gwet's AC1: agreement on unordered categories. ValueError as for `gwet_ac2`."""
    return gwet_ac2(counts_NK, weights="identity")


def gwet_ac2(counts_NK: Sequence[Sequence[int]], weights: str = "quadratic") -> float:
    """Gwet's AC2: agreement on ordered categories, near misses counted in part by `weights` (one of WEIGHTS).

    ValueError for counts that are no counts, for unknown weights, or where no item has two ratings.
    """
    r_NK, w_KK = _checked(counts_NK), weight_matrix(np.shape(counts_NK)[1], weights)
    K = len(w_KK)
    pi_K = _shares(r_NK)
    chance = w_KK.sum() / (K * (K - 1)) * (pi_K * (1 - pi_K)).sum()
    return float((observed(r_NK, w_KK) - chance) / (1 - chance))


def fleiss_kappa(counts_NK: Sequence[Sequence[int]], weights: str = "identity") -> float:
    """Kappa for several raters: chance is two raters drawing from the same shares. NaN if only one category is ever used."""
    r_NK, w_KK = _checked(counts_NK), weight_matrix(np.shape(counts_NK)[1], weights)
    pi_K = _shares(r_NK)
    chance = float(pi_K @ w_KK @ pi_K)
    return float((observed(r_NK, w_KK) - chance) / (1 - chance)) if chance < 1 else float("nan")


def observed(r_NK: np.ndarray, w_KK: np.ndarray) -> float:
    """p_a: over items with two ratings or more, the mean weight of a pair of raters of the same item."""
    raters_N = r_NK.sum(1)
    pairs = r_NK[raters_N >= 2]
    weighted = pairs * (pairs @ w_KK - 1)
    n = raters_N[raters_N >= 2]
    return float((weighted.sum(1) / (n * (n - 1))).mean())


def weight_matrix(categories: int, weights: str) -> np.ndarray:
    """(K, K) agreement of two categories: 1 on the diagonal, falling with their distance. ValueError for another name."""
    require(weights in WEIGHTS, f"weights are one of {', '.join(WEIGHTS)}, got {weights!r}")
    distance = np.abs(np.subtract.outer(np.arange(categories), np.arange(categories)))
    if weights == "identity":
        return (distance == 0).astype(float)
    return 1 - (distance / (categories - 1)) ** (1 if weights == "linear" else 2)


def counts(ratings_NR: Sequence[Sequence[int | None]], categories: int) -> np.ndarray:
    """counts_NK from one row an item, one rating a rater: a category 0 … K − 1, or None where a rater gave none.

    ValueError names the item whose rating is no category.
    """
    table = np.zeros((len(ratings_NR), categories), dtype=int)
    for i, row in enumerate(ratings_NR):
        for rating in row:
            require(rating is None or 0 <= rating < categories,
                    f"item {i} has the rating {rating!r}; categories are 0 … {categories - 1}")
            if rating is not None:
                table[i, rating] += 1
    return table


def _shares(r_NK: np.ndarray) -> np.ndarray:
    """π_k: mean over the rated items of the share of their raters who chose k."""
    rated = r_NK[r_NK.sum(1) > 0]
    return (rated / rated.sum(1, keepdims=True)).mean(0)


def _checked(counts_NK: Sequence[Sequence[int]]) -> np.ndarray:
    r_NK = np.asarray(counts_NK, dtype=float)
    require(r_NK.ndim == 2 and r_NK.shape[1] >= 2, f"counts have a row an item and two categories or more, got {r_NK.shape}")
    bad = np.argwhere((r_NK < 0) | (r_NK != np.floor(r_NK)))
    require(len(bad) == 0, f"counts are whole numbers from 0; item {bad[0][0] if len(bad) else 0} has another")
    require(bool((r_NK.sum(1) >= 2).any()), "no item was rated twice, so nobody can agree")
    return r_NK
