"""The road from a web page to a chat model: which stage needs which, and where its files lie.

A stage imports no other, but for `rlhf`, which is a loop over stages. This file knows their order: `build` runs what a stage
needs, then the stage. Each leaves at once if its artifact is already there, made from the same settings and inputs.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from llama2_lib.config import Recipe, require
from llama2_lib.stages import corpus, distillation, gatt, preferences, pretrain, reward, rlhf, sft
from llama2_lib.world.facts import world_for

PROJECT = Path(__file__).resolve().parents[2]


def distil(recipe: Recipe, folder: Path) -> distillation.Distilled:
    """Context distillation of the first version, before any RLHF, gated by that version's safety reward."""
    first = rlhf.run(recipe, folder, rlhf.VERSIONS[0])[0]
    return distillation.run(recipe, folder, first.folder, rlhf.scorer(first.rewards, recipe.runtime))


def ghost(recipe: Recipe, folder: Path) -> gatt.Ghost:
    """Ghost Attention on the last version, reminded of prompts as RLHF asks them."""
    asked = rlhf.asked(world_for(recipe.world), recipe.seed + 1)
    return gatt.run(recipe, folder, folder / "rlhf" / rlhf.VERSIONS[-1], asked)


STAGES: dict[str, tuple[Callable[[Recipe, Path], Any], tuple[str, ...]]] = {
    "corpus": (corpus.run, ()),
    "pretrain": (pretrain.run, ("corpus",)),
    "sft": (sft.run, ("pretrain",)),
    "variant": (partial(sft.run, name="variant"), ("pretrain",)),
    "preferences": (preferences.run, ("sft", "variant")),
    "reward": (reward.run, ("preferences",)),
    "rlhf": (rlhf.run, ("reward",)),
    "distillation": (distil, ("reward",)),
    "gatt": (ghost, ("rlhf",)),
    "all": (lambda recipe, folder: folder, ("distillation", "gatt")),
}


def workdir(recipe: Recipe, folder: str | Path = "") -> Path:
    """Where a run lives: `folder` if one is given, else runs/<preset> (and -seedN for another seed) in the project."""
    if folder:
        return Path(folder).expanduser().resolve()
    return PROJECT / "runs" / (recipe.name + (f"-seed{recipe.seed}" if recipe.seed else ""))


def build(stage: str, recipe: Recipe, folder: str | Path = "") -> Any:
    """What `stage` returns, with every stage before it built first where it is missing or was made otherwise."""
    require(stage in STAGES, f"no stage is called {stage!r}; there are {', '.join(STAGES)}")
    run, needs = STAGES[stage]
    for need in needs:
        build(need, recipe, folder)
    return run(recipe, workdir(recipe, folder))
