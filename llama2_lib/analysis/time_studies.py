"""Whether a few dated examples give a chat model a sense of time (section 5.1, Figure 22).

The paper fine-tuned on 1,000 examples about dates, each with the date of the question and the date of the event, and found
that the model then orders what it knows in time. Here a dated question names the year it is: "It is 1850. Has the first
flight happened yet?" Each arm sees n dated demonstrations among others, as many in all, for as many steps, so that arms
differ in nothing but n. It is then asked about pairs of event and year it never saw: of events that dated demonstrations
ask (in other years), and of events that no demonstration asks, whose years it knows from pretraining alone.

The paper prints no accuracy. A model that always says yes, or always no, is right half the time: hence the mean over past
and future. Left out: dates in a header, knowledge that changes with the date.
"""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from statistics import fmean

import numpy as np

from llama2_lib.config import Recipe, require
from llama2_lib.model.replies import Scorer, answered, as_dialog, replies
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import sft
from llama2_lib.text.chat import Dialog, dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.world.dialogs import HELPFUL, Prompt, demonstration, prompts
from llama2_lib.world.facts import TEST, TRAIN, Fact, World, split_of, world_for
from llama2_lib.world.oracle import fact_correct
from llama2_lib.world.replies import answer

COUNTS = (0, 10, 100, 1_000)       # dated examples of an arm
TOTAL = 1_000                      # demonstrations of every arm
DATED = {"dated": 1.0}
OTHERS = {kind: share for kind, share in HELPFUL.items() if kind != "dated"}
ELAPSED = (-400, -200, -100, -50, -20, -10, -5, 5, 10, 20, 50, 100, 200, 400)     # years from the event to the question


def dated_prompts(world: World, n: int, seed: int) -> list[Prompt]:
    """The dated questions that the arms learn from: those of a smaller n are the first of a larger one's."""
    return list(prompts(world, n, seed + 91, DATED, TRAIN))


def examples(world: World, n: int, seed: int, total: int = TOTAL) -> Iterator[Dialog]:
    """`n` dated demonstrations and total − n of other kinds. ValueError for an n outside 0 … total."""
    require(0 <= n <= total, f"{n} of {total} demonstrations cannot be dated")
    rng = Random(f"dated {seed}")
    for p in (*dated_prompts(world, n, seed), *prompts(world, total - n, seed + 92, OTHERS, TRAIN)):
        yield dialog(p.text, demonstration(world, p, rng), system=p.system)


def arms(recipe: Recipe, folder: Path, counts: Sequence[int] = COUNTS) -> dict[int, Transformer]:
    """The chat model of folder/sft after each number of dated examples; trained the first time, kept in folder/dated."""
    found = {}
    for n in counts:
        def train(n: int = n) -> Transformer:
            model, tokenizer = checkpoint.load_model(folder / "sft"), Tokenizer.load(folder / "sft" / "tokenizer.model")
            sft.tune(model, tokenizer, examples(world_for(recipe.world), n, recipe.seed), recipe.sft, recipe,
                     title=f"{n:,} dated examples")
            return model
        key = checkpoint.fingerprint("dated", n, TOTAL, recipe.sft, recipe.seed, checkpoint.artifact_key(folder / "sft"))
        found[n] = checkpoint.trained_once(folder / "dated" / str(n), key, train)
    return found


def questions(world: World, count: int, seed: int, split: str, seen: Collection[Prompt] = ()) -> list[Prompt]:
    """`count` dated questions of a split, none with the event and year of one that was `seen`."""
    pairs = {(p.fact, p.number) for p in seen}
    return list(islice((p for p in prompts(world, 100 * count, seed + 93, DATED, split) if (p.fact, p.number) not in pairs),
                       count))


def is_past(prompt: Prompt) -> bool:
    """True if the event of a dated question lies before the year it is."""
    return prompt.number > int(prompt.fact.value)


def sense_of_time(world: World, asked: Sequence[Prompt], said: Sequence[str]) -> tuple[float, float]:
    """(past, future): share of strictly right replies to questions whose event lies before, and after, the year it is."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    for p, reply in zip(asked, said, strict=True):
        right[is_past(p)].append(fact_correct(world, p, reply))
    return fmean(right[True]), fmean(right[False])


def answers(model: Transformer, tokenizer: Tokenizer, asked: Sequence[Prompt]) -> list[str]:
    """The model's greedy replies."""
    return replies(model, tokenizer, [as_dialog(p) for p in asked])


def over_years(events: Sequence[Fact], elapsed: Sequence[int] = ELAPSED) -> list[str]:
    """Whether each event has happened yet, asked so many years after it (before, if negative)."""
    return [f"It is {int(e.value) + years}. Has {e.subject} happened yet?" for years in elapsed for e in events]


def share_of_yes(said: Sequence[str], elapsed: Sequence[int] = ELAPSED) -> np.ndarray:
    """Share of the replies to `over_years` that begin with yes, for each number of years."""
    return np.array([reply.startswith("Yes") for reply in said]).reshape(len(elapsed), -1).mean(1)


def says_yes(model: Transformer, tokenizer: Tokenizer, events: Sequence[Fact],
             elapsed: Sequence[int] = ELAPSED) -> np.ndarray:
    """Share of the events that the model says have happened, asked so many years after them."""
    said = replies(model, tokenizer, [dialog(text) for text in over_years(events, elapsed)], max_new_tokens=8)
    return share_of_yes(said, elapsed)


def prefers_yes(scorer: Scorer, tokenizer: Tokenizer, world: World, asked: Sequence[Prompt],
                seed: int = 0) -> tuple[float, float]:
    """(past, future): how often a reward puts "Yes" with the true year above "No, not yet." on dated questions."""
    rng, found = Random(f"prefers {seed}"), {True: [], False: []}
    said = [(f"Yes. {answer(world, p.fact, rng)}", "No, not yet.") for p in asked]
    yes, no = (scorer(asked, [render(answered(p, pair[i]), tokenizer)[0] for p, pair in zip(asked, said, strict=True)])
               for i in (0, 1))
    for p, a, b in zip(asked, yes, no, strict=True):
        found[is_past(p)].append(a > b)
    return fmean(found[True]), fmean(found[False])


def events_of(world: World, split: str) -> list[Fact]:
    """The events of a split."""
    return [f for f in world.of("year") if split_of(f) == split]


def time_study(models: Mapping[int, Transformer], tokenizer: Tokenizer, world: World, seed: int,
               count: int = 300) -> Mapping[str, float]:
    """Figure 22: accuracy after each number of dated examples, on new years of asked events and on events never asked."""
    seen = dated_prompts(world, max(models), seed)
    asked = {"asked": questions(world, count, seed, TRAIN, seen), "unasked": questions(world, count, seed, TEST)}
    numbers = {}
    for n, model in models.items():
        for name, prompts_of in asked.items():
            past, future = sense_of_time(world, prompts_of, answers(model, tokenizer, prompts_of))
            numbers |= {f"{name}_{n}": (past + future) / 2, f"{name}_{n}_past": past, f"{name}_{n}_future": future}
    first, last = min(models), max(models)
    return numbers | {f"gain_{name}": numbers[f"{name}_{last}"] - numbers[f"{name}_{first}"] for name in asked}
