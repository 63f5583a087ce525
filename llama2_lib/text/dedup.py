"""Exact and near duplicates, found while pages stream past (section 2.1; the paper says only that data were cleaned).

Exact: a hash of the text without case, spaces and punctuation. Near: MinHash signatures in locality-sensitive hash tables
(`datasketch`) propose earlier pages that may share many word pairs with this one, and the exact Jaccard similarity of the
two sets of pairs decides. The tables of the pages kept so far are the only thing held in memory: about 2 kB a page.
Left out: duplicated paragraphs inside otherwise different pages, and finding duplicates across machines.
"""
from __future__ import annotations

import hashlib
import re
import zlib

import numpy as np
from datasketch import MinHash, MinHashLSH

WORD = re.compile(r"\w+")


def fingerprint(text: str) -> bytes:
    """16 bytes that two texts share if they differ only in case, spaces and punctuation."""
    words = " ".join(WORD.findall(text.lower())) or text
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest()


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


class Shingles:
    """Turns a text into its set of word n-grams, each a 32-bit number; the hash of a word is computed once."""

    def __init__(self, words: int) -> None:
        self.words = words
        self._hashes: dict[str, int] = {}

    def __call__(self, text: str) -> np.ndarray:
        """Sorted distinct hashes (uint32) of the runs of `words` words; a shorter text is one run of what it has."""
        hashes = [self._hash(word) for word in WORD.findall(text.lower())] or [zlib.crc32(text.encode("utf-8", "replace"))]
        width = min(self.words, len(hashes))
        h = np.array(hashes, dtype=np.uint64)
        runs = h[: len(h) - width + 1].copy()
        for i in range(1, width):
            runs = runs * np.uint64(0x9E3779B97F4A7C15) + h[i: len(h) - width + 1 + i]     # wraps modulo 2^64 by design
        runs *= np.uint64(0xD1342543DE82EF95)
        return np.unique((runs >> np.uint64(32)).astype(np.uint32))

    def _hash(self, word: str) -> int:
        value = self._hashes.get(word)
        if value is None:
            if len(self._hashes) > 1_000_000:       # keeps memory bounded on the open web
                self._hashes.clear()
            value = self._hashes[word] = zlib.crc32(word.encode("utf-8", "replace"))
        return value


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|a ∩ b| / |a ∪ b| of two sorted arrays of distinct numbers."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return shared / (a.size + b.size - shared)


class NearDuplicates:
    """Remembers the pages kept so far and says whether a new one is at least `threshold` similar to one of them.

    With b bands of r rows, LSH proposes a pair of similarity s with probability 1 − (1 − s^r)^b: at the default 20 × 3 and
    s = .6 that is .99, at s = .1 it is .02. Proposed pairs are verified exactly.
    """

    def __init__(self, threshold: float = 0.5, bands: int = 20, rows: int = 3, words: int = 2, seed: int = 1) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"near-duplicate threshold must lie in 0…1, got {threshold}")
        self.threshold = threshold
        self._shingles = Shingles(words)
        self._blank = MinHash(num_perm=bands * rows, seed=seed, hashfunc=int)
        self._tables = MinHashLSH(num_perm=bands * rows, params=(bands, rows))
        self._kept: list[np.ndarray] = []

    def seen(self, text: str) -> bool:
        """Whether `text` nearly repeats a text kept before; if not, it is kept."""
        return self.match(text) is not None

    def match(self, text: str) -> int | None:
        """The number (from 0, in order of keeping) of a kept text that `text` nearly repeats; None if it is kept itself."""
        shingles = self._shingles(text)
        signature = self._blank.copy()
        signature.update_batch(shingles.tolist())
        for number in sorted(self._tables.query(signature)):
            if jaccard(shingles, self._kept[number]) >= self.threshold:
                return number
        self._tables.insert(len(self._kept), signature, check_duplication=False)
        self._kept.append(shingles)
        return None
