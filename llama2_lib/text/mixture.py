"""The clean corpus as it is trained on: sources up-sampled and shuffled (section 2.1).

The paper up-sampled "the most factual sources" and gives no proportions; the weights here are `MixtureConfig`.
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from llama2_lib.config import MixtureConfig, as_dict
from llama2_lib.text.cleaning import mixture_order

CORPUS = "corpus.jsonl"


def documents(folder: str | os.PathLike, mixture: MixtureConfig, seed: int) -> Iterator[str]:
    """The texts of a corpus in training order: sources up-sampled by the mixture, shuffled, deterministic.

    Only the place of each line is held in memory. Raises ValueError for a source without a weight and an empty mixture.
    """
    path = Path(folder) / CORPUS
    offsets, sources, at = [], [], 0
    with path.open("rb") as file:
        for line in file:
            offsets.append(at)
            sources.append(json.loads(line)["source"])
            at += len(line)
        for i in mixture_order(sources, as_dict(mixture), seed):
            file.seek(offsets[i])
            yield json.loads(file.readline())["text"]
