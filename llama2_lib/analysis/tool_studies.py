"""Whether tools help a small chat model, and what they need of it (section 5.1, Figure 23, Table 15).

The paper's chat model uses tools "zero-shot", from a description in the prompt. A model of a million parameters does not:
here it learns calls by ordinary fine-tuning, under a system message that names the tools, among demonstrations without
them. What stands in a call must be copied from the question, digit by digit, and that is what most demonstrations are for.
Invented countries keep the model from answering out of its memory, in demonstrations as in tests. Tests ask sums of sizes
that no demonstration has, countries that no page or demonstration names, and events that no dated demonstration asks.

Table 15 compares models on three sets of word problems; here one model answers before it learned calls, after it without
tools, and with them. Left out: learning when a tool is not needed, mending a call after an error.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from random import Random
from statistics import fmean

import numpy as np

from llama2_lib.analysis.time_studies import ELAPSED, over_years, share_of_yes
from llama2_lib.config import Recipe, require
from llama2_lib.model.replies import as_dialog
from llama2_lib.model.tool_loop import converse, final
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import sft
from llama2_lib.text.chat import Dialog, Message, dialog
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.text.tools import RESULT, answer_call, course_tools, read_call
from llama2_lib.training import checkpoint
from llama2_lib.world.dialogs import Prompt, demonstration, draw_prompt
from llama2_lib.world.facts import TEST, TRAIN, Fact, World, grown, share, world_for
from llama2_lib.world.oracle import fact_correct
from llama2_lib.world.prompts import wordings

SYSTEM = "Use CALC and SEARCH."
DIGITS = 5                                       # of the longest operand
UNSEEN = ((3, 3), (2, 4), (4, 2))                # digits of the two operands that no demonstration has together
TAUGHT = tuple((a, b) for a in range(1, DIGITS + 1) for b in range(1, DIGITS + 1) if (a, b) not in UNSEEN)
INVENTED, INVENTED_TEST = 9_000, 0.2             # facts on countries that stand in no page; the share kept for tests
READ_SHARE = 0.35                                # of the searches: for facts that the model has read
FOUNDED = (1_000, 2_000)                         # years of the invented events, from and to
DEMONSTRATIONS = {"sum": 6_400, "search": 4_400, "dated": 1_600, "without": 1_600}     # each seen once
RATE, ROWS = 2.0, 2                              # of fine-tuning's rate, and rows a step: to copy digits takes many steps


# ---------------------------------------------------------------------------------------------------------- what is asked

@lru_cache(maxsize=2)
def wider(world: World) -> World:
    """The world with invented countries and the year of each one's founding: only a search can know them."""
    more = grown(world, len(world.facts) + INVENTED)
    countries = dict.fromkeys(f.subject for f in more.facts[len(world.facts):])
    founded = tuple(Fact("year", f"the founding of {c}", str(Random(f"founded {c}").randrange(*FOUNDED))) for c in countries)
    return replace(more, facts=more.facts + founded)


@lru_cache(maxsize=4)
def places(world: World, split: str) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    """(facts on invented countries, years of their founding) of a split, parted by country."""
    facts = [f for f in wider(world).facts[len(world.facts):]
             if (share("invented", f.subject.removeprefix("the founding of ")) < INVENTED_TEST) == (split == TEST)]
    return tuple(f for f in facts if f.relation != "year"), tuple(f for f in facts if f.relation == "year")


def sum_of(world: World, rng: Random, sizes: Sequence[tuple[int, int]]) -> Prompt:
    """A sum whose operands have so many digits."""
    a, b = (rng.randrange(10**(d - 1) if d > 1 else 0, 10**d) for d in rng.choice(sizes))
    return Prompt("sum", rng.choice(wordings(world)["sum"]).replace("{sum}", f"{a} + {b}"), operands=(a, b))


def place(world: World, rng: Random, split: str) -> Prompt:
    """A question on an invented country."""
    fact = rng.choice(places(world, split)[0])
    return Prompt("fact", wider(world).ask(fact, rng), fact=fact)


def searched(world: World, rng: Random) -> Prompt:
    """A training question to search for: on an invented country, or on something that the model has read."""
    return draw_prompt(world, "fact", rng, TRAIN) if rng.random() < READ_SHARE else place(world, rng, TRAIN)


def dated(world: World, rng: Random) -> Prompt:
    """A dated training question, half of them on the founding of an invented country."""
    known = draw_prompt(world, "dated", rng, TRAIN)
    if rng.random() < 0.5:
        return known
    fact = rng.choice(places(world, TRAIN)[1])
    year = int(fact.value) + known.number - int(known.fact.value)
    text = known.text.replace(str(known.number), str(year)).replace(known.fact.subject, fact.subject)
    return replace(known, text=text, fact=fact, number=year)


TASKS: dict[str, Callable[[World, Random], Prompt]] = {
    "sums up to 49 + 49": lambda w, rng: draw_prompt(w, "sum", rng, TEST),
    "sums of sizes shown in calls": lambda w, rng: sum_of(w, rng, TAUGHT),
    "sums of sizes never shown": lambda w, rng: sum_of(w, rng, UNSEEN),
    "facts it has read": lambda w, rng: draw_prompt(w, "fact", rng, TEST),
    "places in no page": lambda w, rng: place(w, rng, TEST),
    "past or future": lambda w, rng: draw_prompt(w, "dated", rng, TEST)}
UNSEEN_SUMS = "sums of sizes never shown"


def asked(world: World, task: str, count: int, seed: int) -> list[Prompt]:
    """`count` test prompts of a task. ValueError for a task there is not."""
    require(task in TASKS, f"no task is called {task!r}; there are {', '.join(TASKS)}")
    rng = Random(f"{task} {seed}")
    return [TASKS[task](world, rng) for _ in range(count)]


# ---------------------------------------------------------------------------------------------------------- demonstrations

def calls(prompt: Prompt) -> list[str]:
    """The calls by which a good reply finds the answer."""
    if prompt.kind == "sum":
        return ["CALC({} + {})".format(*prompt.operands)]
    if prompt.kind == "dated":
        return [f"SEARCH(When was {prompt.fact.subject}?)", f"CALC({prompt.number} - {prompt.fact.value})"]
    return [f"SEARCH({prompt.text})"]


def with_calls(world: World, prompt: Prompt, rng: Random) -> tuple[Message, ...]:
    """A demonstration: the prompt under SYSTEM, each call with its result as the loop gives it, and the answer."""
    tools, turns = course_tools(wider(world)), [prompt.text]
    for call in calls(prompt):
        turns += [call, answer_call(read_call(call), tools)]
    return dialog(*turns, _answer(world, prompt, turns[-1], rng), system=SYSTEM)


def _answer(world: World, prompt: Prompt, result: str, rng: Random) -> str:
    if prompt.kind == "sum":
        return f"It is {sum(prompt.operands)}."
    return demonstration(world, prompt, rng) if prompt.kind == "dated" else result.removeprefix(RESULT)


def demonstrations(world: World, recipe: Recipe, counts: Mapping[str, int] = DEMONSTRATIONS) -> Iterator[Dialog]:
    """So many demonstrations with calls of each kind, and ordinary ones without tools."""
    rng = Random(f"tools {recipe.seed}")
    draw = {"sum": lambda: sum_of(world, rng, TAUGHT), "search": lambda: searched(world, rng),
            "dated": lambda: dated(world, rng)}
    for kind, prompt in draw.items():
        for _ in range(counts[kind]):
            yield with_calls(world, prompt(), rng)
    yield from islice(sft.demonstrations(world, recipe.sft, recipe.seed + 95), counts["without"])


def taught(recipe: Recipe, folder: Path) -> Transformer:
    """The chat model of folder/sft after the demonstrations with calls; trained the first time, kept in folder/tools."""
    config = replace(recipe.sft, epochs=1, batch_size=ROWS,
                     optim=replace(recipe.sft.optim, peak_lr=RATE * recipe.sft.optim.peak_lr))

    def train() -> Transformer:
        model, tokenizer = checkpoint.load_model(folder / "sft"), Tokenizer.load(folder / "sft" / "tokenizer.model")
        dialogues = demonstrations(world_for(recipe.world), recipe)
        sft.tune(model, tokenizer, dialogues, config, recipe, title="learning to call")
        return model
    key = checkpoint.fingerprint("tools", SYSTEM, DIGITS, UNSEEN, INVENTED, READ_SHARE, FOUNDED, DEMONSTRATIONS, config,
                                 recipe.seed, checkpoint.artifact_key(folder / "sft"))
    return checkpoint.trained_once(folder / "tools", key, train)


# -------------------------------------------------------------------------------------------------------------------- tests

def answered(model: Transformer, tokenizer: Tokenizer, world: World, prompts: Sequence[Prompt], tools: bool,
             max_calls: int = 3) -> list[tuple[Message, ...]]:
    """The dialogue that each prompt leads to, greedily: under SYSTEM and with the loop, or as an ordinary question."""
    if not tools:
        return converse(model, tokenizer, [as_dialog(p) for p in prompts], {}, max_calls=0)
    asked_with = [dialog(p.text, system=SYSTEM) for p in prompts]
    return converse(model, tokenizer, asked_with, course_tools(wider(world)), max_calls)


def right(world: World, prompts: Sequence[Prompt], dialogues: Sequence[Dialog]) -> float:
    """Share of dialogues whose last reply is strictly right."""
    return fmean(fact_correct(wider(world), p, final(d)) for p, d in zip(prompts, dialogues, strict=True))


def calls_right(prompts: Sequence[Prompt], dialogues: Sequence[Dialog]) -> float:
    """Share of dialogues with every call that a good reply makes, letter by letter: what was copied without a fault."""
    said = [[m.content for m in d if m.role == "assistant"] for d in dialogues]
    return fmean(set(calls(p)) <= set(replies) for p, replies in zip(prompts, said, strict=True))


def table_15(chat: Transformer, caller: Transformer, tokenizer: Tokenizer, world: World, seed: int,
             count: int = 100) -> dict[str, dict[str, float]]:
    """found[task]: the share right "before" the model learned calls, after it "without" tools and "with" them; and that of
    dialogues with the right "calls"."""
    found = {}
    for task in TASKS:
        prompts = asked(world, task, count, seed)
        loop = answered(caller, tokenizer, world, prompts, tools=True)
        found[task] = {"before": right(world, prompts, answered(chat, tokenizer, world, prompts, tools=False)),
                       "without": right(world, prompts, answered(caller, tokenizer, world, prompts, tools=False)),
                       "with": right(world, prompts, loop), "calls": calls_right(prompts, loop)}
    return found


def by_digits(chat: Transformer, caller: Transformer, tokenizer: Tokenizer, world: World, digits: Sequence[int], count: int,
              seed: int) -> dict[str, list[float]]:
    """Share of sums right over the digits of both operands: of the answer with tools, of its call, and of the chat model."""
    found: dict[str, list[float]] = {"answer with tools": [], "its call": [], "chat model": []}
    for d in digits:
        rng = Random(f"digits {d} {seed}")
        sums = [sum_of(world, rng, [(d, d)]) for _ in range(count)]
        loop = answered(caller, tokenizer, world, sums, tools=True)
        bare = answered(chat, tokenizer, world, sums, tools=False)
        values = right(world, sums, loop), calls_right(sums, loop), right(world, sums, bare)
        for curve, value in zip(found.values(), values, strict=True):
            curve.append(value)
    return found


def says_yes(caller: Transformer, tokenizer: Tokenizer, world: World, events: Sequence[Fact],
             elapsed: Sequence[int] = ELAPSED) -> np.ndarray:
    """`time_studies.says_yes` with tools: share of the events that the model says have happened, over the years since."""
    asked_with = [dialog(text, system=SYSTEM) for text in over_years(events, elapsed)]
    found = converse(caller, tokenizer, asked_with, course_tools(wider(world)))
    return share_of_yes([final(d) for d in found], elapsed)


def tools_study(chat: Transformer, caller: Transformer, tokenizer: Tokenizer, world: World, seed: int,
                count: int = 200) -> Mapping[str, float]:
    """Table 15 in small; "lift" is what the tools add to the chat model on sums of sizes never shown."""
    found = table_15(chat, caller, tokenizer, world, seed, count)
    numbers = {f"{task.replace(' ', '_')}_{arm}": value for task, arms in found.items() for arm, value in arms.items()}
    return numbers | {"lift": found[UNSEEN_SUMS]["with"] - found[UNSEEN_SUMS]["before"]}
