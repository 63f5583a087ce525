"""Who is spoken of: the share of documents that hold a pronoun of each kind (Table 9a, word lists of A.4.3).

As in the paper, she, he and they are counted within the documents that hold any gender pronoun, and the three persons within
those that hold any person; so the lines below a heading do not add up to it. Left out: descriptors of groups (Table 9b).
"""
from __future__ import annotations

import re
from collections.abc import Iterable

PRONOUNS = {
    "she": frozenset(["she", "her", "hers", "herself"]), "he": frozenset(["he", "him", "his", "himself"]),
    "they": frozenset(["they", "them", "their", "theirs", "theirself", "theirselves", "themself", "themselves"]),
    "1st": frozenset(["i", "me", "my", "mine", "myself", "we", "us", "our", "ours", "ourselves"]),
    "2nd": frozenset(["you", "your", "yours", "yourself", "yourselves"])}
GENDER = ("she", "he", "they")
PRONOUNS["3rd"] = frozenset.union(*(PRONOUNS[name] for name in GENDER), {"it", "its", "itself"})
PERSON = ("1st", "2nd", "3rd")
PAPER = {"any gender": 75.23, "she": 28.45, "he": 50.73, "they": 86.38,
         "any person": 94.47, "1st": 70.71, "2nd": 61.80, "3rd": 93.07}       # percent of documents


def pronoun_shares(texts: Iterable[str]) -> dict[str, float]:
    """Percent of documents, under the names of `PAPER`; 0 within a heading that no document falls under.

    Raises ValueError if there is no document.
    """
    documents = [frozenset(re.findall(r"[a-z]+", text.lower())) for text in texts]
    if not documents:
        raise ValueError("pronoun shares need at least one document")
    shares: dict[str, float] = {}
    for heading, names in (("any gender", GENDER), ("any person", PERSON)):
        group = [words for words in documents if any(words & PRONOUNS[name] for name in names)]
        shares[heading] = 100 * len(group) / len(documents)
        for name in names:
            shares[name] = 100 * sum(bool(words & PRONOUNS[name]) for words in group) / max(1, len(group))
    return shares
