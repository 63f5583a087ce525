"""Breaking a training run on purpose: what a missing warm-up and a missing clip look like (section 2.2).

A tiny model, few steps, the same data every time: only what is broken differs. Left out: loss spikes of large models, whose
causes the paper does not discuss (Figure 5 shows one, at 0.7T tokens of the 70B).
"""
from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from llama2_lib.analysis.scaling import resized
from llama2_lib.config import OptimConfig, Recipe
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import pretrain
from llama2_lib.text.batching import Batch, Loader, Windows
from llama2_lib.training import trainer

SPOILED_TOKEN = 35     # a byte: any token will do


def short_run(recipe: Recipe, train_N: np.ndarray, *, steps: int = 80, spoil_at: int | None = None, batch_size: int = 8,
              **settings: object) -> list[dict]:
    """History of `steps` steps of a model of half the recipe's width; `settings` are fields of OptimConfig.

    With `spoil_at` that step's batch is a page on which one token repeats. Weights and data hang on recipe.seed alone.
    """
    batches: Iterator[Batch] = Loader(Windows(train_N, recipe.pretrain.seq_len), batch_size, recipe.seed)
    if spoil_at is not None:
        batches = (spoiled(batch) if step == spoil_at else batch for step, batch in enumerate(batches))
    torch.manual_seed(recipe.seed)
    return trainer.fit(Transformer(resized(recipe.model, 0.5)), itertools.islice(batches, steps), pretrain.pretrain_loss,
                       OptimConfig(**settings), steps, runtime=recipe.runtime, seed=recipe.seed)


def spoiled(batch: Batch) -> Batch:
    """The batch with every token, and so every label, the same."""
    same_BT = torch.full_like(batch.tokens_BT, SPOILED_TOKEN)
    return replace(batch, tokens_BT=same_BT, labels_BT=same_BT)
