"""The failure lab of notebook 07: six short PPO runs, each broken in one way, for the reader and the doctor to diagnose.

What is wrong with a run is kept beside its records, to be looked at last. The faults are ordinary ones: a setting off by a
power of ten, a reward that measures the wrong thing. Left out: faults that crash; those name themselves.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llama2_lib.analysis.rlhf_studies import gold_scorer, optimise, reply_of, weak_scorer
from llama2_lib.config import PPOConfig, Recipe
from llama2_lib.model.replies import Scorer
from llama2_lib.stages.rlhf import Version
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import Prompt
from llama2_lib.world.facts import World
from llama2_lib.world.oracle import is_refusal


@dataclass(frozen=True)
class Fault:
    """What is broken, in words; the reward (a name that `run` knows, or a function); settings of PPO."""
    words: str
    disease: str
    scorer: str | Scorer = "gold"
    settings: dict = field(default_factory=dict)
    lr: float = 1e-4


def longer(asked: Sequence[Prompt], dialogues: Sequence[list[int]]) -> list[float]:
    """A reward that counts tokens: what a length bias comes to in the end."""
    return [float(len(ids)) for ids in dialogues]


def declines(tokenizer: Tokenizer) -> Scorer:
    """A reward for declining, whatever was asked: a safety model that nobody asked about helpfulness."""
    return lambda asked, dialogues: [float(is_refusal(reply_of(tokenizer, ids))) for ids in dialogues]


FAULTS: dict[str, Fault] = {
    "A": Fault("the value head gets no loss: value_weight = 0", "dead value head", settings={"value_weight": 0.0}),
    "B": Fault("the reward counts tokens", "length exploit", longer, {"beta": 0.0}, lr=6e-4),
    "C": Fault("the reward is weak and β = 0", "reward hacking", "weak", {"beta": 0.0}, lr=5e-4),
    "D": Fault("the learning rate is twenty times too high and β = 0", "KL runaway", "weak", {"beta": 0.0}, lr=2e-3),
    "E": Fault("eight passes over each batch at ten times the rate", "clip saturation", settings={"epochs": 8}, lr=1e-3),
    "F": Fault("the reward pays for declining", "entropy collapse", "declines", {"beta": 0.0}, lr=5e-4),
}


def shortened(config: PPOConfig, iterations: int, batch: int, lr: float, **changes: object) -> PPOConfig:
    """The settings of a run short enough to watch, at one rate: what is seen early is what a longer run would show."""
    changes = {"minibatch": min(64, batch)} | changes
    return replace(config, iterations=iterations, batch=batch,
                   optim=replace(config.optim, peak_lr=lr, final_lr_fraction=1.0), **changes)


def run(fault: Fault, v: Version, world: World, recipe: Recipe, folder: str | Path = "", iterations: int = 9,
        batch: int = 64) -> list[dict]:
    """The records of one broken run from version `v`."""
    named: dict[str, Callable[[], Scorer]] = {"gold": lambda: gold_scorer(world, v.tokenizer),
                                              "weak": lambda: weak_scorer(recipe, folder),
                                              "declines": lambda: declines(v.tokenizer)}
    scorer = named[fault.scorer]() if isinstance(fault.scorer, str) else fault.scorer
    config = shortened(recipe.ppo, iterations, batch, fault.lr, **{"minibatch": min(32, batch)} | fault.settings)
    return optimise(v.policy, v.tokenizer, world, scorer, config, recipe)[1]
