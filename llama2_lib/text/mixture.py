"""The mixture: how often each cleaned document is read, and in which order (section 2.1).

The paper up-samples "the most factual sources" and keeps its proportions to itself; ours are in `config.MixtureConfig`.
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from llama2_lib.config import MixtureConfig, as_dict

CORPUS = "corpus.jsonl"


def mixture_order(sources: Sequence[str], weights: Mapping[str, float], seed: int) -> list[int]:
    """Indices of documents in training order: a source of weight 2 appears twice, of .5 a random half of it once.

    The whole epochs of a source repeat all of it; the fraction is drawn without replacement. Deterministic in `seed`.
    Raises ValueError for a source without a weight, a negative weight, and a mixture without a document.
    """
    members: dict[str, list[int]] = {}
    for i, source in enumerate(sources):
        members.setdefault(source, []).append(i)
    order: list[int] = []
    for source, indices in sorted(members.items()):
        if source not in weights or not 0 <= weights[source] < float("inf"):
            raise ValueError(f"mixture weight of {source!r} should be 0 or more, got {weights.get(source)}")
        rng = Random(f"mixture {seed} {source}")
        whole, part = divmod(weights[source], 1)
        order += indices * int(whole) + rng.sample(indices, round(part * len(indices)))
    if not order:
        raise ValueError(f"the mixture holds no document: {len(sources)} documents, weights {weights}")
    Random(f"order {seed}").shuffle(order)
    return order


def documents(folder: str | os.PathLike, mixture: MixtureConfig, seed: int) -> Iterator[str]:
    """The texts of folder/corpus.jsonl in training order: sources up-sampled by the mixture, shuffled, deterministic.

    Only the place of each line is held in memory. Raises ValueError for a source without a weight and an empty mixture.
    """
    offsets, sources, at = [], [], 0
    with (Path(folder) / CORPUS).open("rb") as file:
        for line in file:
            offsets.append(at)
            sources.append(json.loads(line)["source"])
            at += len(line)
        for i in mixture_order(sources, as_dict(mixture), seed):
            file.seek(offsets[i])
            yield json.loads(file.readline())["text"]
