"""How much of an evaluation set stands in the training data, and whether that moved its score (appendix A.6).

    span:       aligned stretches of sample and document, longer than L tokens, that differ in at most four places, in none
                of the first ten, and not at their end
    token:      contaminated if it lies in a span that its sample shares with any document
    sample:     its contamination is the share of its contaminated tokens
    Z_n         = (X̄ − μ_n) / σ_n,    μ_n = μ,  σ_n = σ / √n:   how far a subset of n samples is from n samples at random

The paper built suffix arrays of its training data: seven hours on about 1,500 cores. Here the small side is indexed instead.
All runs of ten tokens of the samples lie in one sorted array of hashes; documents stream past it once, a hash is taken at
every token of theirs, and what it proposes is compared token by token, so a collision of hashes costs time and nothing else.
Memory is the index, one buffer and the longest document, however many documents there are.

The paper says "longer than 10 tokens" and speaks of a minimum length L from 10 to 50; longer than L is meant here. It is
silent on whether the places that differ count as contaminated: they do, since they lie in the span. Table 51's digits tell
that subsets are compared with draws from all samples with replacement. `cleaning.Benchmark` answers another question, which
pages of a crawl hold benchmark text, by runs of words. Left out: many processes.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llama2_lib.config import require

SEED = 10                               # tokens at the front of a span that must not differ
BUDGET = 4                              # places of a span that may differ
LENGTHS = (10, 20, 30, 40, 50)          # the L of A.6
CLEAN, DIRTY = 0.2, 0.8                 # below the one a sample is clean, from the other on it is dirty
EVIDENCE = 2.0                          # |Z| of all four subsets
SUBSETS = ("clean", "not clean", "not dirty", "dirty")

BUFFER = 1 << 19                        # tokens read at once
PROPOSALS = 1 << 18                     # pairs of places compared at once
FILTER_BITS = 20                        # of the table that most hashes fail at
BASE = np.uint64(0x9E3779B97F4A7C15)    # odd, so that multiplying by it loses nothing
MIX = np.uint64(0xD1342543DE82EF95)
BETWEEN = -1                            # what stands between documents: no token


class Contamination:
    """Evaluation samples, and which of their tokens stand in the documents read so far, for each L of `lengths`.

    samples: token ids, the whole sample as a model is asked it. ValueError for no sample, an empty one, or an L below 10:
    the first ten tokens of a span may not differ, so no shorter span is defined.
    """

    def __init__(self, samples: Sequence[Sequence[int]], lengths: Sequence[int] = LENGTHS, budget: int = BUDGET) -> None:
        require(len(samples) > 0, "there is no evaluation sample")
        for i, sample in enumerate(samples):
            require(len(sample) > 0, f"evaluation sample {i} has no token")
        require(len(lengths) > 0 and min(lengths) >= SEED, f"lengths must be {SEED} or more, got {tuple(lengths)}")
        require(budget >= 0, f"the skip-gram budget must not be negative, got {budget}")
        self.lengths, self.budget = tuple(lengths), budget
        self._ids_N = np.concatenate([_ids(s, f"evaluation sample {i}") for i, s in enumerate(samples)])
        self._ends_S = np.cumsum([len(s) for s in samples])
        self._starts_S = self._ends_S - [len(s) for s in samples]
        self._marks = {length: np.zeros(len(self._ids_N), dtype=bool) for length in self.lengths}
        self.documents = self.tokens = 0
        self._index()

    def _index(self) -> None:
        """Places of the samples where ten tokens of one sample begin, sorted by the hash of the ten."""
        inside_N = np.zeros(len(self._ids_N), dtype=bool)
        for start, end in zip(self._starts_S, self._ends_S, strict=True):
            inside_N[start:max(start, end - SEED + 1)] = True
        places_K = np.flatnonzero(inside_N)
        hashes_K = _hashes(self._ids_N)[places_K]
        order_K = np.argsort(hashes_K, kind="stable")
        self._places_K, self._hashes_K = places_K[order_K], hashes_K[order_K]
        self._table = np.zeros(1 << FILTER_BITS, dtype=bool)
        self._table[_short(self._hashes_K)] = True

    def read(self, documents: Iterable[Sequence[int]]) -> Contamination:
        """Mark what the samples share with `documents` (token ids), each read once. Returns itself; may be called again.

        ValueError names the document that holds something other than token ids.
        """
        for text_T in self._buffers(documents):
            hashes_T = _hashes(text_T)
            found_T = np.flatnonzero(self._table[_short(hashes_T)])
            self._compare(text_T, found_T, hashes_T[found_T])
        return self

    def _buffers(self, documents: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
        """Whole documents in a row until the buffer is full, with more between them than a span may skip."""
        parts, size, gap = [], 0, np.full(self.budget + 1, BETWEEN)
        for document in documents:
            parts += [_ids(document, f"document {self.documents}"), gap]
            self.documents, self.tokens, size = self.documents + 1, self.tokens + len(document), size + len(document)
            if size >= BUFFER:
                yield np.concatenate(parts)
                parts, size = [], 0
        if parts:
            yield np.concatenate(parts)

    def _compare(self, text_T: np.ndarray, found_F: np.ndarray, hashes_F: np.ndarray) -> None:
        """Mark the spans behind the places of the text whose hashes the index may know, so many pairs at a time."""
        first_F, last_F = (np.searchsorted(self._hashes_K, hashes_F, side) for side in ("left", "right"))
        known_F = last_F > first_F
        found_F, first_F, counts_F = found_F[known_F], first_F[known_F], (last_F - first_F)[known_F]
        at = 0
        while at < len(found_F):
            size = max(1, int(np.searchsorted(np.cumsum(counts_F[at:]), PROPOSALS, "right")))
            part, at = slice(at, at + size), at + size
            pair_P = np.arange(counts_F[part].sum()) - np.repeat(np.cumsum(counts_F[part]) - counts_F[part], counts_F[part])
            sample_P = self._places_K[np.repeat(first_F[part], counts_F[part]) + pair_P]
            shifts_P = np.repeat(found_F[part], counts_F[part]) - sample_P
            owner_P = np.searchsorted(self._ends_S, sample_P, "right")
            for owner, shift in np.unique(np.stack([owner_P, shifts_P]), axis=1).T:
                self._mark(text_T, owner, shift)

    def _mark(self, text_T: np.ndarray, owner: int, shift: int) -> None:
        """Mark the spans of one sample at one shift against the text."""
        start, end = int(self._starts_S[owner]), int(self._ends_S[owner])
        low, high = max(start, -shift), min(end, len(text_T) - shift)
        equal_M = self._ids_N[low:high] == text_T[low + shift:high + shift]
        for first, last in spans(equal_M, self.budget):
            for length, marks_N in self._marks.items():
                if last - first > length:
                    marks_N[low + first:low + last] = True

    def marks(self, length: int = LENGTHS[0]) -> list[np.ndarray]:
        """For each sample, which of its tokens are contaminated. ValueError for an L that was not asked for."""
        require(length in self._marks, f"L is one of {', '.join(map(str, self.lengths))}, got {length}")
        return np.split(self._marks[length], self._ends_S[:-1])

    def shares(self, length: int = LENGTHS[0]) -> np.ndarray:
        """For each sample, the share of its tokens that are contaminated."""
        return np.array([marks.mean() for marks in self.marks(length)])


def spans(equal_M: np.ndarray, budget: int = BUDGET) -> list[tuple[int, int]]:
    """The spans of two aligned stretches, given where their tokens are equal, as (start, end) that do not lie in others.

    A span begins with ten equal tokens, holds at most `budget` that differ, and ends on an equal one; of each start the
    longest is taken.
    """
    differ_M1 = np.concatenate([[0], np.cumsum(~equal_M)])
    starts_P = np.flatnonzero(differ_M1[SEED:] == differ_M1[:-SEED])
    if not len(starts_P):
        return []
    last_equal_M1 = np.concatenate([[0], np.maximum.accumulate(np.where(equal_M, np.arange(1, len(equal_M) + 1), 0))])
    ends_P = last_equal_M1[np.searchsorted(differ_M1, differ_M1[starts_P] + budget, "right") - 1]
    fresh_P = np.concatenate([[True], ends_P[1:] > ends_P[:-1]])          # a later start with the same end lies inside
    return list(zip(starts_P[fresh_P].tolist(), ends_P[fresh_P].tolist(), strict=True))


def _ids(tokens: Sequence[int], where: str) -> np.ndarray:
    """Token ids as int64. ValueError names what holds something else."""
    ids_T = np.asarray(tokens)
    require(ids_T.ndim == 1 and (len(ids_T) == 0 or ids_T.dtype.kind in "iu" and int(ids_T.min()) >= 0),
            f"{where} is no row of token ids")
    return ids_T.astype(np.int64)


def _hashes(ids_T: np.ndarray) -> np.ndarray:
    """A 64-bit hash of the ten tokens from each place on: Σ_i id_i · BASE^(9 − i) modulo 2^64, then mixed."""
    count = max(0, len(ids_T) - SEED + 1)
    ids_T = (ids_T.astype(np.uint64) + np.uint64(1)) * MIX
    hashes_P = np.zeros(count, dtype=np.uint64)
    for i in range(SEED):
        hashes_P = hashes_P * BASE + ids_T[i:i + count]
    return hashes_P ^ (hashes_P >> np.uint64(29))


def _short(hashes_P: np.ndarray) -> np.ndarray:
    """Places of hashes in the table."""
    return (hashes_P * MIX) >> np.uint64(64 - FILTER_BITS)


# ----------------------------------------------------------------------------------------------------- did it move the score

@dataclass(frozen=True)
class Subset:
    """One of the four subsets of A.6, a row of Table 51: Z is NaN where nothing can be said, as of no sample."""
    contamination: float
    n: int
    mean: float
    expected: float
    z: float


def members(shares_S: Sequence[float]) -> dict[str, np.ndarray]:
    """Which samples belong to each of SUBSETS, by their contamination."""
    shares_S = np.asarray(shares_S, dtype=float)
    return dict(zip(SUBSETS, (shares_S < CLEAN, shares_S >= CLEAN, shares_S < DIRTY, shares_S >= DIRTY), strict=True))


def subsets(scores_S: Sequence[float], shares_S: Sequence[float]) -> dict[str, Subset]:
    """Table 51: each subset's contamination, size, mean score, expected mean score and Z. ValueError for unequal lengths."""
    scores_S, shares_S = np.asarray(scores_S, dtype=float), np.asarray(shares_S, dtype=float)
    require(len(scores_S) == len(shares_S) > 0, f"one score a sample is needed, got {len(scores_S)} and {len(shares_S)}")
    expected, deviation, found = float(scores_S.mean()), float(scores_S.std()), {}
    for name, chosen_S in members(shares_S).items():
        n = int(chosen_S.sum())
        mean, share = (float(x[chosen_S].mean()) if n else float("nan") for x in (scores_S, shares_S))
        found[name] = Subset(share, n, mean, expected, z(mean, n, expected, deviation))
    return found


def z(mean: float, n: int, expected: float, deviation: float) -> float:
    """Z_n = (X̄ − μ) / (σ / √n); NaN where all scores are the same or there is no sample."""
    return (mean - expected) / (deviation / np.sqrt(n)) if n and deviation > 0 else float("nan")


def affected(found: Mapping[str, Subset]) -> bool:
    """A.6's rule: evidence needs all four, the cleaner subsets worse and the dirtier ones better by |Z| above 2."""
    return (max(found["clean"].z, found["not dirty"].z) < -EVIDENCE
            and min(found["not clean"].z, found["dirty"].z) > EVIDENCE)


def largest_length(scores_S: Sequence[float], contamination: Contamination) -> int | None:
    """The largest L at which the set is affected, the one that Table 51 reports; None where it is at none."""
    return max((length for length in contamination.lengths if affected(subsets(scores_S, contamination.shares(length)))),
               default=None)
