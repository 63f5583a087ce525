"""Supervised fine-tuning (section 3.1): from a base model to one that answers.

    L = −mean log p(answer token | all before it)     over answer tokens only; the prompt's tokens have no loss

Prompts and answers are packed to fill the window, for two epochs, as in the paper. The paper separates them by "a special
token" it does not name: here BOS and EOS of Llama 2's chat format do it, and packed dialogues do not see each other
(`isolate`), since an answer must not depend on its neighbours in a batch. Left out: sequence-level losses.

`run` leaves runs/<preset>/sft: weights, tokenizer, metrics.jsonl.
"""
from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama2_lib.config import Recipe, SFTConfig
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.batching import Loader
from llama2_lib.text.chat import Dialog, Supervise, dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint, supervised
from llama2_lib.training.distributed import for_training
from llama2_lib.training.supervised import answer_loss as sft_loss
from llama2_lib.world import dialogs
from llama2_lib.world.facts import World, world_for

__all__ = ["Tuned", "demonstrations", "loader", "run", "sft_loss", "tune"]

CONVERSATION_SHARE = 0.1     # of the demonstrations; the others are one question and one answer
RULE_SHARE = 0.3             # of the conversations: held under a system rule
VARIANT_SEED = 1_000_003     # added to the seed of the variant's demonstrations


@dataclass(frozen=True)
class Tuned:
    """A chat model and how it came about."""
    folder: Path
    model: Transformer
    tokenizer: Tokenizer
    history: list[dict]


def demonstrations(world: World, config: SFTConfig, seed: int) -> Iterator[Dialog]:
    """`config.demonstrations` dialogues; a share `config.noise` of the answers has a fault of one kind or another.

    A share `config.safety` of them declines an unsafe request instead (section 4.2.2); the others are the same without it.
    """
    lot = random.Random(f"sft safety {seed}")
    for helpful in _helpful_demonstrations(world, config, seed):
        if lot.random() < config.safety:
            asked = dialogs.draw_prompt(world, "unsafe", lot)
            yield dialog(asked.text, dialogs.demonstration(world, asked, lot))
        else:
            yield helpful


def _helpful_demonstrations(world: World, config: SFTConfig, seed: int) -> Iterator[Dialog]:
    rng = random.Random(f"sft {seed}")
    for prompt in dialogs.prompts(world, config.demonstrations, seed, split="train"):
        if rng.random() < CONVERSATION_SHARE:
            rule = dialogs.draw_rule(world, rng) if rng.random() < RULE_SHARE else None
            turns = dialogs.conversation(world, rng, rng.randint(2, 3), rule)
            yield dialog(*(text for turn in turns for text in turn), system=rule.text if rule else None)
        elif rng.random() < config.noise:
            fault = rng.choice(dialogs.damages(world, prompt))
            yield dialog(prompt.text, dialogs.damaged(world, prompt, rng, fault), system=prompt.system)
        else:
            yield dialog(prompt.text, dialogs.demonstration(world, prompt, rng), system=prompt.system)


def loader(dialogues: Iterator[Dialog], tokenizer: Tokenizer, config: SFTConfig, seed: int, *,
           supervise: Supervise = "answers", pack: bool = True, isolate: bool = True) -> Loader:
    """Batches of packed dialogues; an epoch's last batch may be smaller."""
    examples = [render(d, tokenizer, supervise) for d in dialogues]
    return supervised.loader(examples, config.seq_len, config.batch_size, config.epochs, seed, pack=pack, isolate=isolate)


def tune(model: Transformer, tokenizer: Tokenizer, dialogues: Iterator[Dialog], config: SFTConfig, recipe: Recipe,
         title: str = "", steps: int | None = None, **how: object) -> list[dict]:
    """Fine-tune `model` in place on `dialogues` for `config.epochs` epochs; the records of the steps come back.

    steps: fewer than the epochs have, with a schedule of that length. how: `supervise`, `pack` and `isolate`, as `loader`
    takes them.
    """
    batches = loader(dialogues, tokenizer, config, recipe.seed, **how)
    return supervised.fit(model, batches, config.optim, steps=steps, runtime=recipe.runtime, title=title)


def run(recipe: Recipe, workdir: Path, name: str = "sft") -> Tuned:
    """The chat model of `recipe`, tuned from workdir/pretrain unless workdir/sft already holds it.

    name "variant": the other chat model, of recipe.variant and with demonstrations of its own.
    """
    base, config = workdir / "pretrain", getattr(recipe, name)
    key = checkpoint.fingerprint(name, config, recipe.world, recipe.seed, checkpoint.artifact_key(base))
    seed = recipe.seed if name == "sft" else recipe.seed + VARIANT_SEED
    folder = checkpoint.artifact(workdir / name, key, lambda tmp: _tune(recipe, config, seed, base, tmp))
    history = checkpoint.read_metrics(folder)
    return Tuned(folder, checkpoint.load_model(folder), Tokenizer.load(folder / "tokenizer.model"), history)


def _tune(recipe: Recipe, config: SFTConfig, seed: int, base: Path, folder: Path) -> None:
    model, tokenizer = for_training(checkpoint.load_model(base)), Tokenizer.load(base / "tokenizer.model")
    dialogues = demonstrations(world_for(recipe.world), config, seed)
    history = tune(model, tokenizer, dialogues, config, recipe, title="fine-tuning")
    checkpoint.save_model(folder, model)
    shutil.copy(base / "tokenizer.model", folder / "tokenizer.model")
    checkpoint.write_metrics(folder, history)
