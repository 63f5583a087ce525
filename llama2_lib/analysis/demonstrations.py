"""Few clean demonstrations against many noisy ones (section 3.1, "Quality Is All You Need").

The paper set aside millions of third-party examples for 27,540 careful ones and saw results improve; it prints no numbers.
Here both sets come from one source, so that one thing differs: `few` are all written well; of ten times as many a share
has a fault, one to an example, of the kinds annotators make. The arms start from one base model and take the *same number of
optimiser steps*, so that the few are read ten times as often, and neither side wins by training longer. Replies are sampled
on test prompts and judged by the oracle. Left out: mixtures of both, other shares of noise.
"""
from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llama2_lib.analysis import chat
from llama2_lib.config import Recipe, SFTConfig, require
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import sft
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.world.facts import World, world_for

NOISE, RATIO = 0.35, 10
TEMPERATURE, PROMPTS = 0.7, 300


def arms(config: SFTConfig, few: int, noise: float = NOISE, ratio: int = RATIO) -> dict[str, SFTConfig]:
    """The two sides: `few` clean demonstrations, `ratio` times as often read, and `ratio · few` with a share of noise.

    ValueError for fewer than one demonstration or a ratio below 1.
    """
    require(few >= 1 and ratio >= 1, f"few and ratio must be at least 1, got {few} and {ratio}")
    return {"clean_few": replace(config, demonstrations=few, epochs=config.epochs * ratio, noise=0.0),
            "noisy_many": replace(config, demonstrations=few * ratio, noise=noise)}


def equal_steps(sides: Mapping[str, SFTConfig], tokenizer: Tokenizer, world: World, seed: int) -> int:
    """The optimiser steps that every side has data for: the last, smaller batch of each epoch makes their numbers differ."""
    return min(config.epochs * len(sft.loader(sft.demonstrations(world, config, seed), tokenizer, config, seed))
               for config in sides.values())


def tuned(base: Transformer, tokenizer: Tokenizer, world: World, config: SFTConfig, recipe: Recipe, seed: int,
          title: str = "", **how: object) -> tuple[Transformer, list[dict]]:
    """A copy of `base`, fine-tuned on the demonstrations of `config`; the base model stays as it is."""
    model = copy.deepcopy(base)
    told = sft.demonstrations(world, config, seed)
    history = sft.tune(model, tokenizer, told, config, replace(recipe, seed=seed), title=title, **how)
    return model, history


def quality_study(recipe: Recipe, workdir: Path, seed: int, few: int | None = None, noise: float = NOISE,
                  count: int = PROMPTS) -> Mapping[str, float]:
    """Gold score, share of test facts right and steps of both arms, and the gain of the clean few over the noisy many.

    workdir holds `pretrain/`, the base model. few: a tenth of the recipe's demonstrations unless given.
    """
    base, tokenizer = checkpoint.load_model(workdir / "pretrain"), Tokenizer.load(workdir / "pretrain" / "tokenizer.model")
    world = world_for(recipe.world)
    found: dict[str, float] = {}
    sides = arms(recipe.sft, few or recipe.sft.demonstrations // RATIO, noise)
    steps = equal_steps(sides, tokenizer, world, seed)
    for name, config in sides.items():
        model, history = tuned(base, tokenizer, world, config, recipe, seed, steps=steps)
        judged = chat.gold(model, tokenizer, world, count, TEMPERATURE, seed)
        found[f"gold_{name}"] = chat.mean_gold(judged)
        found[f"helpful_{name}"] = sum(j.gold.helpful for j in judged) / count
        found[f"facts_{name}"] = chat.chat_fact_accuracy(model, tokenizer, world, seed=seed).mean
        found[f"steps_{name}"] = len(history)
    return found | {"gain": found["gold_clean_few"] - found["gold_noisy_many"]}
