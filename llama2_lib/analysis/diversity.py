"""How much samples repeat each other: Self-BLEU from scratch, distinct-n and the entropy of words (section 5.1, Figure 21).

    Self-BLEU(texts) = mean over texts of BLEU(text, all the other texts as references)
    BLEU = brevity penalty · (Π_n p_n)^(1/N),     p_n: clipped share of the text's n-grams that stand in a reference

A text's n-gram counts as often as it stands in the one reference that has it most. A p_n of 0 becomes 0.1 / (number of
n-grams): smoothing method 1 of Chen and Cherry (2014). 1 means that all samples are the same text. The paper prints neither
n, nor tokens, nor smoothing; here words are what white space parts. With 25 samples each text has 24 references, so counts
are kept per n-gram as the largest and second largest among all texts: the largest among the *others* is then a look-up, and
the work grows with the words and not with the square of the texts.

Left out: other smoothings, weights that differ between n.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from llama2_lib.config import require

EPSILON = 0.1
NGrams = Counter[tuple[str, ...]]


def self_bleu(texts: Sequence[str], n: int = 4) -> float:
    """Mean BLEU of each text against all others, in 0…1. ValueError for fewer than two texts or n below 1."""
    require(len(texts) >= 2, f"self_bleu compares texts with each other, got {len(texts)}")
    require(n >= 1, f"n must be at least 1, got {n}")
    words = [text.split() for text in texts]
    lengths = Counter(map(len, words))
    by_order = [[ngrams(w, k) for w in words] for k in range(1, n + 1)]
    largest = [_two_largest(grams) for grams in by_order]
    scores = []
    for i, w in enumerate(words):
        precisions = [_precision(grams[i], most) for grams, most in zip(by_order, largest, strict=True)]
        scores.append(_bleu(precisions, len(w), _closest_length(len(w), lengths)))
    return math.fsum(scores) / len(scores)


def ngrams(words: Sequence[str], k: int) -> NGrams:
    """The runs of k words, counted."""
    return Counter(zip(*(words[i:] for i in range(k)), strict=False))


def _two_largest(counts: Sequence[NGrams]) -> dict[tuple[str, ...], tuple[int, int]]:
    """For each n-gram the largest and second largest count that any text has."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for counted in counts:
        for gram, c in counted.items():
            first, second = found.get(gram, (0, 0))
            found[gram] = (c, first) if c >= first else (first, max(second, c))
    return found


def _precision(own: NGrams, most: dict[tuple[str, ...], tuple[int, int]]) -> tuple[int, int]:
    """(n-grams matched in the best of the other texts, n-grams), the second at least 1."""
    matched = 0
    for gram, c in own.items():
        first, second = most[gram]
        matched += min(c, second if c == first else first)     # if this text has the most, the others' most is the second
    return matched, max(1, own.total())


def _closest_length(length: int, lengths: Counter[int]) -> int:
    """The other texts' length closest to this one's; the shorter of two that are equally close."""
    return min((m for m, texts in lengths.items() if texts - (m == length) > 0), key=lambda m: (abs(m - length), m))


def _bleu(precisions: Sequence[tuple[int, int]], length: int, reference: int) -> float:
    if precisions[0][0] == 0:      # not one word in common
        return 0.0
    penalty = 1.0 if length > reference else math.exp(1 - reference / length)
    logs = [math.log((matched if matched else EPSILON) / total) for matched, total in precisions]
    return penalty * math.exp(math.fsum(logs) / len(logs))


def distinct(texts: Sequence[str], n: int) -> float:
    """Different runs of n words over all runs of n words, in 0…1; 0 if no text has n words (Li et al., 2016)."""
    counted = sum((ngrams(text.split(), n) for text in texts), Counter())
    return len(counted) / counted.total() if counted else 0.0


def word_entropy(texts: Sequence[str]) -> float:
    """Entropy of the words of all texts together, in nats; 0 without words."""
    counted = Counter(word for text in texts for word in text.split())
    total = counted.total()
    return -math.fsum(c / total * math.log(c / total) for c in counted.values()) if total else 0.0
