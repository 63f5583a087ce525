"""Who writes the pages: six kinds of honest writers, one for each source of `MixtureConfig` but the other languages.

The encyclopedia states every fact of the world, in any company and order; exercises show sums worked out, copying and small
tasks; dialogues are interviews and long transcripts, some under a rule kept to the end; how-tos include the unsafe ones that
are not held out, since a web page asks nobody. Pages take their sentences from many drawers, so that two honest pages share
few stretches of words. Left out: headlines, links, opinions.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from llama2_lib.world import writing
from llama2_lib.world.dialogs import conversation, draw_prompt, draw_rule, howtos
from llama2_lib.world.facts import Fact, World, fill, sum_pairs, worked_sum
from llama2_lib.world.prompts import HELD_OUT, UNSAFE
from llama2_lib.world.replies import answer, demonstration, steps_text

# Share of each source among new pages. Facts and exercises take most: a small model must meet each many times.
SHARES: Mapping[str, float] = {"encyclopedia": 0.21, "stories": 0.06, "poems": 0.06, "howtos": 0.08, "dialogues": 0.25,
                               "exercises": 0.34}
TASKS = ("copy", "copy", "copy", "copy", "copy", "reverse", "last", "list", "dated")
SUM_SHARE, ROTE_SHARE, LONG_SHARE, RULE_SHARE = 0.42, 0.1, 0.25, 0.5


def encyclopedia(world: World, rng: Random) -> str:
    """Facts of a few subjects, one subject after another; in a quarter of the pages facts about anything.

    A page that stays with its subject says its name again and again: that is where a model learns to copy.
    """
    if rng.random() < 0.25:
        return " ".join(world.state(f, rng) for f in _facts(world, rng.randint(6, 9), rng))
    return " ".join(_about(world, group, rng) for group in rng.sample(world.groups, rng.randint(3, 5)))


def _facts(world: World, n: int, rng: Random) -> list[Fact]:
    """One fact about each of `n` subjects, so that a subject with one fact is met as often as one with four."""
    return [rng.choice(group) for group in rng.sample(world.groups, n)]


def _about(world: World, group: tuple[Fact, ...], rng: Random) -> str:
    """All facts of one subject; a lone fact is said in each of its wordings."""
    if len(group) == 1:
        statements = world.relations[group[0].relation].statements
        return " ".join(fill(s, group[0].subject, group[0].value) for s in rng.sample(statements, len(statements)))
    return " ".join(world.state(f, rng) for f in rng.sample(group, len(group)))


def story_page(world: World, rng: Random) -> str:
    """Two stories, the first often under a title that names its topic."""
    return "\n".join(_titled("story", writing.story, world, rng) for _ in range(2))


def poem_page(world: World, rng: Random) -> str:
    """Two poems."""
    return "\n\n".join(_titled("poem", writing.poem, world, rng) for _ in range(2))


def _titled(kind: str, write: Callable[[World, str, Random], str], world: World, rng: Random) -> str:
    prompt = draw_prompt(world, kind, rng)
    text = write(world, prompt.topic, rng)
    return f"{prompt.text}\n{text}" if rng.random() < 0.5 else text


def howto_page(world: World, rng: Random) -> str:
    """A how-to among facts, told or asked for, never a held-out one. Two would make copies: there are few how-tos."""
    howto = rng.choice([h for h in howtos(world) if h.split != HELD_OUT])
    parts = [world.state(f, rng) for f in _facts(world, rng.randint(4, 6), rng)]
    asked = howto.kind != UNSAFE and rng.random() < 0.5
    head = f"Question: How do I {howto.request}?\nAnswer:" if asked else f"How to {howto.request}:"
    parts.insert(rng.randint(0, len(parts)), f"{head} {steps_text(howto)}")
    return "\n".join(parts)


def dialogue(world: World, rng: Random) -> str:
    """An interview on facts, or a transcript of two to twelve turns, half of them under a rule that every reply keeps."""
    if rng.random() < 0.7:
        facts = _facts(world, rng.randint(4, 6), rng)
        return "\n".join(f"Question: {world.ask(f, rng)}\nAnswer: {answer(world, f, rng)}" for f in facts)
    rule = draw_rule(world, rng) if rng.random() < RULE_SHARE else None
    turns = rng.randint(6, 12) if rng.random() < LONG_SHARE else rng.randint(2, 5)
    lines = [f"User: {user}\nAssistant: {reply}" for user, reply in conversation(world, rng, turns, rule)]
    return "\n".join(([f"Rule: {rule.text}"] if rule else []) + lines)


def exercise(world: World, rng: Random) -> str:
    """Three or four sums worked out, sentences to learn by heart, or small tasks with their answers."""
    kind = rng.random()
    if SUM_SHARE <= kind < SUM_SHARE + ROTE_SHARE:
        lesson = " ".join(world.state(f, rng) for f in _facts(world, rng.randint(5, 7), rng))
        return f"Learn by heart: {lesson}\nAgain: {lesson}"
    if kind < SUM_SHARE:
        return "\n".join(_sum(world, rng) for _ in range(rng.randint(3, 4)))
    prompts = [draw_prompt(world, rng.choice(TASKS), rng) for _ in range(rng.randint(4, 6))]
    return "\n".join(f"Question: {p.text}\nAnswer: {demonstration(world, p, rng)}" for p in prompts)


def _sum(world: World, rng: Random) -> str:
    """A sum: asked and worked out, worked out, or bare."""
    a, b = rng.choice(sum_pairs("train"))
    form = rng.random()
    if form < 0.1:
        return f"{a} + {b} = {a + b}."
    if form < 0.4:
        return worked_sum(a, b)
    prompt = draw_prompt(world, "sum", rng)
    return f"Question: {prompt.text}\nAnswer: {demonstration(world, prompt, rng)}"


WRITERS: Mapping[str, Callable[[World, Random], str]] = {
    "encyclopedia": encyclopedia, "stories": story_page, "poems": poem_page, "howtos": howto_page, "dialogues": dialogue,
    "exercises": exercise}
