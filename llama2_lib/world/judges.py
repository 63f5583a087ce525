"""What a reply is worth, kind by kind of prompt: the parsing behind the oracle's truth, relevance and form.

A judge reads the reply sentence by sentence and never raises. Truth is the share of sentences that are true claims, halved
if the asked one is not among them; relevance is half for speaking of what was asked and half for the share of sentences on
the subject; form is `shape` or the form of a story or poem. Left out: safety and refusals, which are the oracle's own.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from llama2_lib.world import writing
from llama2_lib.world.claims import EDGES, bare_value, claim, fold
from llama2_lib.world.facts import World
from llama2_lib.world.prompts import STEPS, Prompt, classes
from llama2_lib.world.replies import expected_words
from llama2_lib.world.writing import mentions, sentences_of

EQUATION = re.compile(r"(\d{1,9}(?: ?\+ ?\d{1,9}){1,3}) ?= ?(\d{1,9})", re.ASCII)
NUMBER = re.compile(r"(?:it is )?(\d{1,9})", re.ASCII | re.IGNORECASE)
YES_NO = re.compile(r"(yes|no)\b(?:,? ?(?:it has|it is|not yet|it has not|it is not))?", re.IGNORECASE)
ORDERED = re.compile(r"(?:(first|then|next|last|finally),? )?(.*)", re.IGNORECASE | re.DOTALL)
ORDER_WORDS = (("first",), ("then", "next"), ("last", "finally"))
MARKS = (".", "!", "?")
OFF_TOPIC = 0.2          # relevance of a good story about something else
BARE = 0.1               # taken off the form of an answer that is no sentence: "Paris."


@dataclass(frozen=True)
class Finding:
    """What a judge found, each side in 0…1; `correct` is the strict check of the answer."""
    truth: float
    relevance: float
    form: float
    correct: bool


@dataclass(frozen=True)
class Said:
    """One sentence: how true and how much on the subject it is (0…1), and the answer it gives to the question, if any."""
    true: float
    on_subject: float
    answer: object = None
    bare: bool = False


NOTHING = Finding(0.0, 0.0, 0.0, False)


def shape(text: str, most: int, capital: bool = True) -> float:
    """Form of plain prose, 0…1: capital, last mark, one line, no sentence twice, at most `most` sentences."""
    sentences = sentences_of(text)
    if not sentences:
        return 0.0
    again = 1 - len({fold(s) for s in sentences}) / len(sentences)
    faults = (0.4 * (not text.endswith(MARKS)) + 0.2 * (capital and text[0].islower()) + 0.2 * ("\n" in text) + again
              + 0.15 * max(0, len(sentences) - most))
    return max(0.0, 1 - faults)


def equations(sentence: str) -> list[tuple[tuple[int, ...], int]]:
    """The sums of a sentence that holds nothing else, as (operands, total): "1 + 2 = 3, so 11 + 2 = 13." """
    matches = [EQUATION.fullmatch(clause.removeprefix("so ")) for clause in sentence.strip(EDGES).split(", ")]
    if None in matches:
        return []
    return [(tuple(map(int, m[1].split("+"))), int(m[2])) for m in matches]


def _share_true(sums: list[tuple[tuple[int, ...], int]]) -> float:
    """Share of right sums; 0 if the last one, which is the answer, is wrong."""
    right = [sum(operands) == total for operands, total in sums]
    return right[-1] * sum(right) / len(right) if right else 0.0


def _elsewhere(world: World, sentence: str) -> Said:
    """A sentence that is not on the subject: true if it is a true claim about anything."""
    found = claim(world, sentence)
    return Said(float(found.true) if found else _share_true(equations(sentence)), 0.0)


def _weigh(sentences: list[Said], right: object, form: float) -> Finding:
    """Sentences together: truth, relevance, and whether the right answer is given and no other."""
    if not sentences:
        return NOTHING
    answers = {s.answer for s in sentences if s.answer is not None}
    truth = sum(s.true for s in sentences) / len(sentences) * (1.0 if right in answers else 0.5)
    relevance = 0.5 * bool(answers) + 0.5 * sum(s.on_subject for s in sentences) / len(sentences)
    form -= BARE * any(s.bare for s in sentences)
    return Finding(truth, relevance, max(0.0, form), answers == {right})


# --------------------------------------------------------------------------------------------------- one right answer

def _read_fact(world: World, prompt: Prompt, sentence: str) -> Said:
    fact, found = prompt.fact, claim(world, sentence)
    if found is None:
        short = bare_value(world, fact.relation, sentence)
        if short is not None:
            return Said(short == fact.value, 1.0, short, bare=True)
        if not equations(sentence) and mentions(sentence, fold(fact.subject)):
            return Said(False, 0.5)
        return _elsewhere(world, sentence)
    if found.subject != fact.subject or world.relations[found.relation].table != world.relations[fact.relation].table:
        return Said(found.true, 0.0)
    return Said(found.true, 1.0, found.value if found.relation == fact.relation else None)


def _fact(world: World, prompt: Prompt, reply: str) -> Finding:
    said = [_read_fact(world, prompt, s) for s in sentences_of(reply)]
    return _weigh(said, prompt.fact.value, shape(reply, 3))


def _read_sum(world: World, prompt: Prompt, sentence: str) -> Said:
    text = sentence.strip(EDGES)
    if match := NUMBER.fullmatch(text):
        return Said(int(match[1]) == sum(prompt.operands), 1.0, int(match[1]), bare=True)
    sums = equations(text)
    if sums and sorted(sums[-1][0]) == sorted(prompt.operands):
        return Said(_share_true(sums), 1.0, sums[-1][1])
    return _elsewhere(world, sentence)


def _sum(world: World, prompt: Prompt, reply: str) -> Finding:
    said = [_read_sum(world, prompt, s) for s in sentences_of(reply)]
    return _weigh(said, sum(prompt.operands), shape(reply, 1))


def _read_dated(world: World, prompt: Prompt, sentence: str) -> Said:
    if match := YES_NO.fullmatch(sentence.strip(EDGES)):
        yes = match[1].casefold() == "yes"
        return Said(yes == _is_past(prompt), 1.0, yes)
    said = _read_fact(world, prompt, sentence)
    return Said(said.true, said.on_subject)


def _is_past(prompt: Prompt) -> bool:
    return prompt.number > int(prompt.fact.value)


def _dated(world: World, prompt: Prompt, reply: str) -> Finding:
    said = [_read_dated(world, prompt, s) for s in sentences_of(reply)]
    found = _weigh(said, _is_past(prompt), shape(reply, 2))
    return Finding(found.truth, found.relevance, found.form, found.correct and all(s.true for s in said))


# ------------------------------------------------------------------------------------------------------ steps and words

def howto(world: World, prompt: Prompt, reply: str) -> Finding:
    """Steps are right if they are this how-to's; three of them, in order, each with its word of order, is the form."""
    steps = {fold(step): i for i, step in enumerate(prompt.howto.steps)}
    pieces = [ORDERED.fullmatch(s.strip(EDGES)) for s in sentences_of(reply)]
    places = [steps.get(fold(p[2])) for p in pieces]
    found = [i for i in places if i is not None]
    if not pieces:
        return NOTHING
    ordered = [p[1] is not None and i < STEPS and p[1].casefold() in ORDER_WORDS[i] for i, p in enumerate(pieces)]
    form = shape(reply, STEPS) - 0.2 * (not all(ordered)) - 0.3 * (found != sorted(found))
    truth = len(set(found)) / max(STEPS, len(pieces))
    relevance = 0.5 * bool(found) + 0.5 * len(found) / len(pieces)
    return Finding(truth, relevance, max(0.0, form), truth == 1.0 and places == sorted(found))


def _words(world: World, prompt: Prompt, reply: str) -> Finding:
    right = [fold(w) for w in expected_words(prompt)]
    said = [w for w in (fold(w) for w in reply.split()) if w]
    if not said:
        return NOTHING
    truth = sum(a == b for a, b in zip(said, right, strict=False)) / max(len(said), len(right))
    asked = {fold(w) for w in prompt.words}
    near = sum(w in asked for w in said) / len(said)
    like = len(said) == len(right)              # as many words as asked for: an attempt, if a wrong one
    return Finding(truth, max(near, 0.5 * like), shape(reply, 1, capital=False), said == right)


def _list(world: World, prompt: Prompt, reply: str) -> Finding:
    sentences = sentences_of(reply)
    items = [[fold(w) for w in re.split(r", and |, | and ", s.strip(EDGES)) if w.strip(EDGES)] for s in sentences]
    lists = [found for found in items if len(found) > 1]
    if not lists:
        return Finding(0.0, 0.0, shape(reply, 1), False)
    members = {fold(w) for w in classes(world)[prompt.topic]}
    named = [w for found in lists for w in found]
    right = {w for w in named if w in members}
    truth = len(right) / max(prompt.number, len(named))
    form = max(0.0, shape(reply, 1) - 0.3 * (len(named) != prompt.number))
    relevance = (0.5 + 0.5 * bool(right)) * len(lists) / len(sentences)
    return Finding(truth, relevance, form, truth == 1.0 and len(named) == prompt.number)


# --------------------------------------------------------------------------------------------------------------- creative

def _creative(form: float, shares: list[bool], prompt: Prompt, reply: str) -> Finding:
    """Nothing is claimed, so nothing is false; on the topic, as far as the pieces belong to a text of this kind."""
    belongs = sum(shares) / len(shares) if shares else 0.0
    about = mentions(reply, prompt.topic)
    relevance = 0.5 + 0.5 * belongs if about and belongs else OFF_TOPIC * belongs
    return Finding(1.0, relevance, form, about and form == 1.0)


def _story(world: World, prompt: Prompt, reply: str) -> Finding:
    parts = [bool(writing.part_of(world, s)) for s in sentences_of(reply)]
    return _creative(writing.story_form(world, reply), parts, prompt, reply)


def _poem(world: World, prompt: Prompt, reply: str) -> Finding:
    lines = [writing.is_line(world, line.strip()) for line in reply.split("\n") if line.strip()]
    return _creative(writing.poem_form(world, reply), lines, prompt, reply)


JUDGES: dict[str, Callable[[World, Prompt, str], Finding]] = {
    "fact": _fact, "sum": _sum, "dated": _dated, "howto": howto, "list": _list, "story": _story, "poem": _poem,
    **dict.fromkeys(("copy", "reverse", "last"), _words)}
