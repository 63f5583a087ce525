"""One run on one, two and four processes (section 3.2.3): the same losses, who holds what, and what sampling costs.

Each study starts processes of this machine, which speak through gloo, and asks them; each function here that takes a layout
is what one of them does. A layout is written as ParallelConfig's fields. The paper tells of its own that sampling under FSDP
was about 20 times slower, and what cured it: the weights gathered once before it. Left out: time saved by more machines,
which processes that share two cores cannot show.
"""
from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llama2_lib.config import ParallelConfig, Recipe, override
from llama2_lib.config import preset as recipe_of
from llama2_lib.model.generation import generate
from llama2_lib.model.replies import as_dialog
from llama2_lib.stages import sft
from llama2_lib.text.chat import render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint, distributed
from llama2_lib.training.launch import together
from llama2_lib.world import dialogs
from llama2_lib.world.facts import world_for

ROWS = 4                       # of a batch: each of four processes has one
STEPS = 50
NEW_TOKENS = 24
NEVER = -1                     # an end token that no model writes: every reply has the same length
REPEATS = 3                    # the shortest time counts: other programs only ever add to it
LAYOUTS: dict[str, tuple[int, dict]] = {       # name: (processes, layout)
    "2 copies": (2, {"shard": False}),
    "2 sharded": (2, {}),
    "2 tensor": (2, {"tensor": 2}),
    "4 copies": (4, {"shard": False}),
    "4 sharded": (4, {}),
    "2 × 2": (4, {"tensor": 2}),
    "2 copies × 2": (4, {"tensor": 2, "shard": False}),
}


class Messages(TorchDispatchMode):
    """Counts, by name, what this process says to others and hears from them; each is a meeting of all in a group."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace in ("c10d", "_c10d_functional"):
            self.counts[op.name().partition("::")[2].split(".")[0].strip("_")] += 1
        return op(*args, **(kwargs or {}))


def seeded(preset: str, seed: int, parallel: dict) -> Recipe:
    """The recipe of a preset for one process of a group: in float32, whose rounding is all that may differ."""
    recipe = override(recipe_of(preset), seed=seed)
    return replace(recipe, runtime=replace(recipe.runtime, precision="float32", parallel=ParallelConfig(**parallel)))


# ---------------------------------------------------------------------------------------------------------------- training

def train(preset: str, seed: int, folder: str, parallel: dict, steps: int) -> list[float]:
    """The losses of `steps` steps of fine-tuning the base model in folder/pretrain, spread as `parallel` says."""
    recipe = seeded(preset, seed, parallel)
    base = Path(folder) / "pretrain"
    model, tokenizer = checkpoint.load_model(base), Tokenizer.load(base / "tokenizer.model")
    config = replace(recipe.sft, demonstrations=12 * ROWS * steps, batch_size=ROWS, epochs=1)
    shown = sft.demonstrations(world_for(recipe.world), config, seed)
    history = sft.tune(model, tokenizer, shown, config, recipe, steps=steps)
    return [record["loss"] for record in history]


def losses(recipe: Recipe, folder: Path, layouts: dict[str, tuple[int, dict]], steps: int = STEPS) -> dict[str, list[float]]:
    """The losses of one process, "1", and of each layout, of the same run."""
    found = {}
    for name, (processes, parallel) in {"1": (1, {}), **layouts}.items():
        found[name], *others = together(processes, train, recipe.name, recipe.seed, str(folder), parallel, steps)
        if any(other != found[name] for other in others):
            raise RuntimeError(f"{name}: the processes report different losses")
    return found


def apart(found: dict[str, list[float]]) -> tuple[float, float]:
    """(at the first step, at any step): the largest difference of a layout's loss from that of one process."""
    gaps = [[abs(a - b) for a, b in zip(run, found["1"], strict=True)] for run in found.values()]
    return max(gap[0] for gap in gaps), max(map(max, gaps))


# ------------------------------------------------------------------------------------------------------------ who has what

def held(preset: str, seed: int, parallel: dict) -> dict[str, list[list[int]]]:
    """For each matrix of the preset's model, where the part that this process holds begins and ends along each axis."""
    from llama2_lib.model.transformer import Transformer
    from llama2_lib.training.pieces import region
    recipe = seeded(preset, seed, parallel)
    with distributed.worker(Transformer(recipe.model), recipe.runtime, torch.float32) as (worker, _):
        return {name: [[s.start, s.stop] for s in region(p)] for name, p in worker.named_parameters()}


# --------------------------------------------------------------------------------------------------------------- sampling

def sample(preset: str, seed: int, folder: str, parallel: dict, count: int) -> dict[str, dict]:
    """Greedy replies of NEW_TOKENS tokens to `count` prompts: from sharded weights as they are ("sharded"), from the same
    gathered once before ("gathered"), from a whole model ("whole"). Of each the tokens, milliseconds a token (the gathering
    is not in them: it is done once for all), and messages, by name, in all."""
    from llama2_lib.training import sharding
    recipe = seeded(preset, seed, parallel)
    chat = Path(folder) / "sft"
    model, tokenizer = checkpoint.load_model(chat).eval(), Tokenizer.load(chat / "tokenizer.model")
    asked = dialogs.prompts(world_for(recipe.world), count, seed, split="test")
    ids = [render(as_dialog(p), tokenizer)[0] for p in asked]
    with distributed.worker(model, recipe.runtime, torch.float32) as (worker, _):
        found = {"sharded": _timed(worker, ids)}
        with sharding.gathered(worker):
            found["gathered"] = _timed(worker, ids)
        return found | {"whole": _timed(model, ids)}


def _timed(model: torch.nn.Module, ids: list[list[int]]) -> dict:
    seconds = []
    for _ in range(REPEATS):
        distributed.wait()
        began = time.perf_counter()
        with Messages() as messages:
            samples = generate(model, ids, max_new_tokens=NEW_TOKENS, temperature=0.0, eos_id=NEVER)
        seconds.append(time.perf_counter() - began)
    return {"tokens": samples.lists(), "ms": 1000 * min(seconds) / NEW_TOKENS, "messages": dict(messages.counts)}


def sampling(recipe: Recipe, folder: Path, processes: int = 2, count: int = 4) -> dict[str, dict]:
    """What `sample` found on the first of so many processes that share every weight. RuntimeError if they disagree."""
    first, *others = together(processes, sample, recipe.name, recipe.seed, str(folder), {}, count)
    for name, of_one in first.items():
        if any(other[name]["tokens"] != of_one["tokens"] for other in others):
            raise RuntimeError(f"{name}: the processes wrote different tokens")
    return first


# ---------------------------------------------------------------------------------------------------------------- studies

def equality_study(recipe: Recipe, folder: Path) -> dict[str, float]:
    """How far the losses of each layout are from those of one process, at the first step and at any."""
    found = losses(recipe, folder, LAYOUTS)
    first, any_step = apart(found)
    return {"first_step": first, "any_step": any_step,
            **{f"any_step_{name}": apart({"1": found["1"], name: found[name]})[1] for name in LAYOUTS}}


def sampling_study(recipe: Recipe, folder: Path) -> dict[str, float]:
    """Messages a token before and after gathering, how many times faster it is then, and whether the tokens are the same."""
    found = {n: sampling(recipe, folder, n) for n in (2, 4)}
    runs = list(found.values())
    return {"messages_a_token": min(sum(r["sharded"]["messages"].values()) for r in runs) / NEW_TOKENS,
            "messages_gathered": max(sum(r["gathered"]["messages"].values()) for r in runs),
            "same_tokens": sum(r[n]["tokens"] == r["whole"]["tokens"] for r in runs for n in ("sharded", "gathered")),
            "times_faster": min(r["sharded"]["ms"] / r["gathered"]["ms"] for r in runs),
            **{f"ms_{name}_{n}": r[name]["ms"] for n, r in found.items() for name in r}}
