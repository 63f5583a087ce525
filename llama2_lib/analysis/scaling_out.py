"""One run on one, two and four processes (section 3.2.3): the same losses, who holds what, and what sampling costs.

Each study starts processes of this machine, which speak through gloo, and asks them; each function here that takes a layout
is what one of them does. A layout is written as ParallelConfig's fields. The paper tells of its own that sampling under FSDP
was about 20 times slower, and what cured it: the weights gathered once before it. Left out: time saved by more machines,
which processes that share two cores cannot show.
"""
from __future__ import annotations

import hashlib
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
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import sft
from llama2_lib.text.chat import render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint, distributed
from llama2_lib.training.launch import together
from llama2_lib.training.pieces import region
from llama2_lib.world import dialogs
from llama2_lib.world.facts import world_for

ROWS = 4                       # of a batch: each of four processes has one
PACKED = 12                    # demonstrations for each row: more than fit
STEPS = 50
NEW_TOKENS = 24
NEVER = -1                     # an end token that no model writes: every reply has the same length
REPEATS = 5                    # the shortest time counts: other programs only ever add to it
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

def train(preset: str, seed: int, folder: str, parallels: list[dict], steps: int, parts: int = 1) -> list[dict]:
    """For each layout: the "losses" of `steps` steps of fine-tuning the base model in folder/pretrain, a "digest" of the
    weights they led to, and what this process "held": where its part of each matrix begins and ends along each axis."""
    distributed.start(parts)
    recipes = [seeded(preset, seed, parallel) for parallel in parallels]
    return [{**_tuned(recipe, Path(folder), steps), "held": _held(recipe)} for recipe in recipes]


def _tuned(recipe: Recipe, folder: Path, steps: int) -> dict:
    base = folder / "pretrain"
    model, tokenizer = checkpoint.load_model(base), Tokenizer.load(base / "tokenizer.model")
    config = replace(recipe.sft, demonstrations=PACKED * ROWS * steps, batch_size=ROWS, epochs=1)
    shown = sft.demonstrations(world_for(recipe.world), config, recipe.seed)
    losses = [record["loss"] for record in sft.tune(model, tokenizer, shown, config, recipe, steps=steps)]
    bits = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return {"losses": losses, "digest": hashlib.sha256(bits).hexdigest()}


def _held(recipe: Recipe) -> dict[str, list[list[int]]]:
    with distributed.worker(Transformer(recipe.model), recipe.runtime, torch.float32) as (worker, _):
        return {name: [[s.start, s.stop] for s in region(p)] for name, p in worker.named_parameters()}


def runs(recipe: Recipe, folder: Path, layouts: dict[str, tuple[int, dict]], steps: int = STEPS) -> dict[str, list[dict]]:
    """What `train` gave on each process, in order of rank, for one process, "1", and for each layout."""
    layouts = {"1": (1, {}), **layouts}
    found = {}
    for processes in sorted({n for n, _ in layouts.values()}):
        names = [name for name, (n, _) in layouts.items() if n == processes]
        by_rank = together(processes, train, recipe.name, recipe.seed, str(folder), [layouts[n][1] for n in names], steps)
        found |= {name: [of_rank[i] for of_rank in by_rank] for i, name in enumerate(names)}
    return {name: found[name] for name in layouts}


def in_parts(recipe: Recipe, folder: Path, parts: int, steps: int = STEPS) -> dict:
    """What `train` gives on one process that works in `parts` parts, and so sums in the order of that many processes."""
    (alone,) = together(1, train, recipe.name, recipe.seed, str(folder), [{}], steps, parts)
    return alone[0]


def gaps(found: dict[str, list[dict]]) -> dict[str, list[float]]:
    """How far the loss of each layout is from that of one process, step by step; of its processes the furthest."""
    (alone,) = found["1"]
    return {name: [max(abs(loss - want) for loss in step)
                   for *step, want in zip(*(of_rank["losses"] for of_rank in by_rank), alone["losses"], strict=True)]
            for name, by_rank in found.items() if name != "1"}


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
    found = gaps(runs(recipe, folder, LAYOUTS))
    return {"first_step": max(gap[0] for gap in found.values()), "any_step": max(map(max, found.values())),
            **{f"any_step_{name}": max(gap) for name, gap in found.items()}}


def sampling_study(recipe: Recipe, folder: Path) -> dict[str, float]:
    """Messages a token before and after gathering, how many times faster it is then, and whether the tokens are the same."""
    found = {n: sampling(recipe, folder, n) for n in (2, 4)}
    runs = list(found.values())
    return {"messages_a_token": min(sum(r["sharded"]["messages"].values()) for r in runs) / NEW_TOKENS,
            "messages_gathered": max(sum(r["gathered"]["messages"].values()) for r in runs),
            "same_tokens": sum(r[n]["tokens"] == r["whole"]["tokens"] for r in runs for n in ("sharded", "gathered")),
            "times_faster": min(r["sharded"]["ms"] / r["gathered"]["ms"] for r in runs),
            **{f"ms_{name}_{n}": r[name]["ms"] for n, r in found.items() for name in r}}
