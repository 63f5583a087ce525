"""Two studies of pretraining at equal budgets: model size (Figure 5, claim C05) and up-sampling (section 2.1, claim C06).

Figure 5 shows four models that read the same tokens: the larger, the lower its loss, and none has stopped falling. The
paper up-sampled "the most factual sources" and gives neither factor nor effect. Both studies here hold everything equal but
one thing, and measure on text or facts that do not hang on it. Left out: fitting a scaling law, compute-optimal sizes.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from llama2_lib.analysis.accuracy import Accuracy, fact_accuracy
from llama2_lib.config import ModelConfig, Recipe, require
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import pretrain, road
from llama2_lib.text.mixture import documents
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import trainer
from llama2_lib.training.accounting import parameter_count
from llama2_lib.world.facts import World

FRACTIONS = (0.25, 0.5, 0.75, 1.0)                  # of the recipe's width: the four sizes of Figure 5
LATE = 0.8                                         # of the steps: where a last stretch of training begins
SMOOTH = 8                                         # steps that a point of a drawn curve is the mean of


@dataclass(frozen=True)
class Trained:
    """One arm of a study. validation_loss: nats per token on text no arm was trained on; late_loss: the same, after a share
    LATE of the steps."""
    name: str
    model: Transformer
    parameters: int
    history: list[dict]
    validation_loss: float
    late_loss: float

    def curve(self, width: int = SMOOTH) -> tuple[list[int], list[float]]:
        """(tokens seen, mean loss of the last `width` steps), one point for every `width` steps."""
        ends = range(width, len(self.history) + 1, width)
        return ([self.history[e - 1]["tokens"] for e in ends],
                [float(np.mean([r["loss"] for r in self.history[e - width:e]])) for e in ends])


def resized(model: ModelConfig, fraction: float) -> ModelConfig:
    """`model` with a fraction of its heads (so of its width), and of its layers, though never less than half of those.

    Key-value heads stay in proportion where that divides. ValueError unless 0 < fraction <= 1.
    """
    require(0 < fraction <= 1, f"the fraction of a model's size lies in 0…1, got {fraction}")
    heads = max(1, round(model.n_heads * fraction))
    groups = model.n_heads // model.n_kv_heads
    return replace(model, n_heads=heads, n_kv_heads=heads // groups if heads % groups == 0 else heads,
                   dim=heads * model.head_dim, n_layers=max(1, round(model.n_layers * max(fraction, 0.5))))


def stream(recipe: Recipe, folder: str | Path = "") -> tuple[np.ndarray, np.ndarray, Tokenizer]:
    """(training ids, validation ids, tokenizer) of a recipe's corpus, which is built if it is missing."""
    place = road.build("corpus", recipe, folder)
    tokenizer = Tokenizer.load(place / "tokenizer.model")
    ids_N = pretrain.token_stream(documents(place, recipe.mixture, recipe.seed), tokenizer)
    return *pretrain.split(ids_N, recipe.pretrain), tokenizer


def train_arm(name: str, recipe: Recipe, train_N: np.ndarray, validation_N: np.ndarray, *, progress: bool = True) -> Trained:
    """A model of recipe.model, trained on train_N by recipe.pretrain; weights and data order hang on recipe.seed alone."""
    config = recipe.pretrain
    torch.manual_seed(recipe.seed)
    model = Transformer(recipe.model)

    def held_out_loss(step: int, record: dict) -> None:
        if step in (max(1, round(LATE * config.steps)), config.steps):
            record["held_out"] = pretrain.validation_loss(model.eval(), validation_N, config.seq_len)
            model.train()

    history = trainer.fit(model, pretrain.loader(train_N, config, recipe.seed), pretrain.pretrain_loss, config.optim,
                          config.steps, runtime=recipe.runtime, seed=recipe.seed, on_step=held_out_loss,
                          title=name if progress else "")
    late, last = [r["held_out"] for r in history if "held_out" in r][0], history[-1]["held_out"]
    return Trained(name, model.eval(), parameter_count(recipe.model), history, last, late)


def with_budget(recipe: Recipe, tokens: int) -> Recipe:
    """The recipe with another number of tokens, short rows only, and a warm-up of at most a tenth of the steps."""
    config = replace(recipe.pretrain, tokens=tokens, long_seq_len=None, long_share=0.0, snapshots=0)
    optim = replace(config.optim, warmup_steps=min(config.optim.warmup_steps, max(1, config.steps // 10)))
    return replace(recipe, pretrain=replace(config, optim=optim))


def scaling_study(recipe: Recipe, folder: str | Path = "", *, tokens: int = 400_000,
                  fractions: Sequence[float] = FRACTIONS, progress: bool = True) -> list[Trained]:
    """One model a size, all trained on the same tokens in the same order (Figure 5); in the order of `fractions`."""
    train_N, validation_N, _ = stream(recipe, folder)
    arms = [replace(with_budget(recipe, tokens), model=resized(recipe.model, f)) for f in fractions]
    return [train_arm(f"{parameter_count(arm.model) / 1e6:.2f}M", arm, train_N, validation_N, progress=progress)
            for arm in arms]


def upsampling_study(recipe: Recipe, world: World, folder: str | Path = "", *, tokens: int = 900_000,
                     weights: Sequence[float] = (1.0, 2.0), progress: bool = True) -> list[tuple[Trained, Accuracy]]:
    """The same model and budget with the encyclopedia seen `weight` times: what it knows after each (claim C06).

    Validation losses are all taken on the first arm's held-out text. With more of one source comes less of the others.
    """
    results = []
    validation_N = None
    for weight in weights:
        arm = with_budget(replace(recipe, mixture=replace(recipe.mixture, encyclopedia=weight)), tokens)
        train_N, own_N, tokenizer = stream(arm, folder)
        validation_N = own_N if validation_N is None else validation_N
        trained = train_arm(f"encyclopedia × {weight:g}", arm, train_N, validation_N, progress=progress)
        results.append((trained, fact_accuracy(trained.model, tokenizer, world)))
    return results
