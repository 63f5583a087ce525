"""Exact and near duplicates, found while pages stream past (section 2.1; the paper says only that data were cleaned).

Exact: a hash of the text without case, spaces and punctuation. Near: MinHash signatures in locality-sensitive hash tables
(`datasketch`) propose earlier pages that may share many runs of three words with this one, and the exact Jaccard similarity
of the two sets of runs decides. The tables of the pages kept so far are the only thing held in memory: about 2 kB a page.
Left out: duplicated paragraphs inside otherwise different pages, and finding duplicates across machines.
"""
from __future__ import annotations

import functools
import hashlib
import re
import zlib

import numpy as np
from datasketch import MinHash, MinHashLSH

WORD = re.compile(r"\w+")


@functools.lru_cache(maxsize=2)
def words(text: str) -> tuple[str, ...]:
    """The words of `text` in small letters; remembered for a moment, since each filter asks for the same page's."""
    return tuple(WORD.findall(text.lower()))


def fingerprint(text: str) -> bytes:
    """16 bytes that two texts share if they differ only in case, spaces and punctuation."""
    normal = " ".join(words(text)) or text
    return hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class ExactDuplicates:
    """Remembers the fingerprint of every text shown to it."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def seen(self, text: str) -> bool:
        """Whether a text equal to this one up to case, spaces and punctuation was shown before; remembers this one."""
        key = fingerprint(text)
        if key in self._seen:
            return True
        self._seen.add(key)
        return False


@functools.lru_cache(maxsize=200_000)
def _word_hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "replace"))


def shingles(text: str, length: int) -> np.ndarray:
    """Sorted distinct 32-bit hashes of the runs of `length` words of `text`; a shorter text is one run of what it has."""
    h = np.array([_word_hash(word) for word in words(text) or (text,)], dtype=np.uint64)
    length = min(length, len(h))
    runs = h[: len(h) - length + 1].copy()
    for i in range(1, length):
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + h[i: len(h) - length + 1 + i]     # wraps modulo 2^64 by design
    runs *= np.uint64(0xD1342543DE82EF95)
    return np.unique((runs >> np.uint64(32)).astype(np.uint32))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|a ∩ b| / |a ∪ b| of two sorted arrays of distinct numbers."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return shared / (a.size + b.size - shared)


class NearDuplicates:
    """Remembers the pages kept so far and says whether a new one is at least `threshold` similar to one of them.

    With b bands of r rows, LSH proposes a pair of similarity s with probability 1 − (1 − s^r)^b: at the default 20 × 3 and
    s = .6 that is .99, at s = .1 it is .02. Of the proposed pairs, those whose signatures agree well enough (the share of
    equal rows estimates s with a standard error of .06) are compared exactly.
    """

    def __init__(self, threshold: float = 0.5, bands: int = 20, rows: int = 3, length: int = 3, seed: int = 1) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"near-duplicate threshold must lie in 0…1, got {threshold}")
        self.threshold = threshold
        self._length = length
        self._blank = MinHash(num_perm=bands * rows, seed=seed, hashfunc=int)
        self._tables = MinHashLSH(num_perm=bands * rows, params=(bands, rows))
        self._kept: list[np.ndarray] = []
        self._signatures = np.empty((1024, bands * rows), dtype=np.uint64)

    def seen(self, text: str) -> bool:
        """Whether `text` nearly repeats a text kept before; if not, it is kept."""
        return self.match(text) is not None

    def match(self, text: str) -> int | None:
        """The number (from 0, in order of keeping) of a kept text that `text` nearly repeats; None if it is kept itself."""
        runs = shingles(text, self._length)
        signature = self._blank.copy()
        signature.update_batch(runs.tolist())
        proposed = np.array(sorted(self._tables.query(signature)), dtype=np.int64)
        estimate = (self._signatures[proposed] == signature.hashvalues).mean(axis=1)
        for number in proposed[estimate > self.threshold - 0.2].tolist():      # three standard errors below
            if jaccard(runs, self._kept[number]) >= self.threshold:
                return number
        self._keep(runs, signature)
        return None

    def _keep(self, runs: np.ndarray, signature: MinHash) -> None:
        number = len(self._kept)
        if number == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[number] = signature.hashvalues
        self._tables.insert(number, signature, check_duplication=False)
        self._kept.append(runs)
