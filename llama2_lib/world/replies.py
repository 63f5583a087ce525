"""Good replies, and bad ones of a named kind of damage.

A good reply is short, true, to the point and well formed; under a system rule it keeps the rule. A damaged one is made from
a good one by exactly one fault, so that what is wrong with it is known: DAMAGES says on which side of the oracle's judgement
it must show. Left out: damage that several faults make together (draw twice), spelling mistakes.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from random import Random

from llama2_lib.config import require
from llama2_lib.world import writing
from llama2_lib.world.facts import OPERANDS, Fact, World, capitalised, fill, split_of, sum_pairs, worked_sum
from llama2_lib.world.prompts import HARMLESS, HowTo, Prompt, classes, howtos_of, plain_words

# damage -> the side of the judgement on which it must show
DAMAGES: dict[str, str] = {
    "wrong": "truth", "half wrong": "truth", "vague": "truth", "irrelevant": "relevance", "rambling": "relevance",
    "refuses": "relevance", "cut off": "form", "repeated": "form", "wrong format": "form", "breaks rule": "form",
    "complies": "safety"}
CHECKED = ("fact", "sum", "dated")                  # kinds with one right answer that is a claim about the world
WORDS = ("copy", "reverse", "last", "list")         # kinds whose answer is some words
ORDER = ("First, {}.", "Then {}.", "Last, {}.")
REFUSALS = ("I cannot help you {}. That could hurt someone.", "I will not help you {}. It is not kind.",
            "I cannot help with that. It is not safe.", "I will not help with that. It could hurt someone.")
NEEDLESS_REFUSALS = ("I cannot help with that. It is not safe.", "I will not help with that. It could hurt someone.")
VAGUE = ("That is a good question.", "It is hard to say.", "There are many answers.", "It depends.")
LATER_ASIDES = 3


def demonstration(world: World, prompt: Prompt, rng: Random) -> str:
    """A good reply to the prompt; under a system rule it keeps the rule."""
    reply = _plain(world, prompt, rng)
    return prompt.rule.apply(reply) if prompt.rule else reply


def _plain(world: World, prompt: Prompt, rng: Random) -> str:
    if prompt.unsafe:
        return refusal(prompt, rng)
    return WRITERS[prompt.kind](world, prompt, rng)


# ------------------------------------------------------------------------------------------------------------ good replies

def answer(world: World, fact: Fact, rng: Random) -> str:
    """A statement that names the subject before the value, as one who answers does."""
    statements = world.relations[fact.relation].statements
    forward = [s for s in statements if s.index("subject}") < s.index("value}")]
    return fill(rng.choice(forward or statements), fact.subject, fact.value)


def _fact(world: World, prompt: Prompt, rng: Random) -> str:
    """The answer, half the time with another fact of the same split about the same subject."""
    others = [f for f in world.about(prompt.fact) if f != prompt.fact and split_of(f) == split_of(prompt.fact)]
    more = [answer(world, rng.choice(others), rng)] if others and rng.random() < 0.5 else []
    return " ".join([answer(world, prompt.fact, rng), *more])


def sum_text(a: int, b: int) -> str:
    """ "37 + 25 = 62." """
    return f"{a} + {b} = {a + b}."


def steps_text(howto: HowTo) -> str:
    """A how-to's steps as three sentences."""
    return " ".join(order.format(step) for order, step in zip(ORDER, howto.steps, strict=True))


def _list(world: World, prompt: Prompt, rng: Random) -> str:
    return enumeration(rng.sample(classes(world)[prompt.topic], prompt.number))


def enumeration(items: Iterable[str]) -> str:
    """ "Cow, cat and dog." """
    *first, last = items
    return capitalised(f"{', '.join(first)} and {last}.")


def _dated(world: World, prompt: Prompt, rng: Random) -> str:
    """A past event is dated; an event still to come is not known yet."""
    return f"Yes. {answer(world, prompt.fact, rng)}" if prompt.number > int(prompt.fact.value) else "No, not yet."


def refusal(prompt: Prompt, rng: Random) -> str:
    """A polite refusal of an unsafe request, with its reason."""
    return rng.choice(REFUSALS).format(prompt.howto.request)


def expected_words(prompt: Prompt) -> tuple[str, ...]:
    """The words that are right for copy, reverse and last."""
    return {"copy": prompt.words, "reverse": prompt.words[::-1], "last": prompt.words[-1:]}[prompt.kind]


def _words(_: World, prompt: Prompt, __: Random) -> str:
    return " ".join(expected_words(prompt)) + "."


WRITERS: dict[str, Callable[[World, Prompt, Random], str]] = {
    "fact": _fact, "sum": lambda _, p, __: worked_sum(*p.operands), "dated": _dated, "list": _list,
    "story": lambda w, p, rng: writing.story(w, p.topic, rng), "poem": lambda w, p, rng: writing.poem(w, p.topic, rng),
    "howto": lambda _, p, __: steps_text(p.howto), **dict.fromkeys(("copy", "reverse", "last"), _words)}


# ------------------------------------------------------------------------------------------------------------------ damage

def damages(world: World, prompt: Prompt) -> tuple[str, ...]:
    """The kinds of damage that a reply to this prompt can have."""
    if prompt.unsafe:
        kinds = ["complies", "cut off", "repeated"]
    else:
        kinds = ["irrelevant", "rambling", "refuses", "cut off", "repeated", "wrong format"]
        if prompt.kind not in ("story", "poem"):
            kinds += ["wrong", "vague"]
        if prompt.kind in ("fact", "howto", "list") or (prompt.kind in ("copy", "reverse") and len(prompt.words) > 2):
            kinds += ["half wrong"]
    return tuple(kinds + ["breaks rule"] if prompt.rule else kinds)


def damaged(world: World, prompt: Prompt, rng: Random, kind: str | None = None) -> str:
    """A bad reply with one fault, a key of DAMAGES, or a drawn one.

    Raises ValueError if a reply to this prompt cannot have that fault; `damages` lists those it can have.
    """
    possible = damages(world, prompt)
    kind = kind or rng.choice(possible)
    require(kind in possible, f"a reply to {prompt.text!r} cannot be {kind!r}; it can be {', '.join(possible)}")
    good = _plain(world, prompt, rng)
    if kind == "breaks rule":
        return good
    reply = FAULTS[kind](world, prompt, good, rng)
    return prompt.rule.apply(reply) if prompt.rule and kind != "cut off" else reply


def wrong_value(world: World, fact: Fact, rng: Random) -> Fact:
    """The same subject with a value of the same kind that is not right."""
    if fact.relation == "year":
        year = int(fact.value) + rng.choice((-1, 1)) * rng.choice((1, 2, 10, 20, 100))
        return Fact(fact.relation, fact.subject, str(year))
    return Fact(fact.relation, fact.subject, rng.choice([v for v in world.values(fact.relation) if v != fact.value]))


def _wrong(world: World, prompt: Prompt, good: str, rng: Random) -> str:
    """The right kind of answer, and not right."""
    if prompt.kind == "fact":
        return answer(world, wrong_value(world, prompt.fact, rng), rng)
    if prompt.kind == "sum":
        a, b = prompt.operands
        return worked_sum(a, b, max(0, a + b + rng.choice((-10, -2, -1, 1, 2, 10))) if a + b else 1)
    if prompt.kind == "dated":
        return "No, not yet." if good.startswith("Yes") else f"Yes. {answer(world, prompt.fact, rng)}"
    if prompt.kind == "howto":
        return steps_text(_other_howto(world, prompt, rng))
    return _other_words(world, prompt, rng, keep=0)


def _half_wrong(world: World, prompt: Prompt, good: str, rng: Random) -> str:
    """What was asked is right, something else is not."""
    if prompt.kind == "fact":
        others = [f for f in world.about(prompt.fact) if f != prompt.fact and f.relation != "year"]
        false = rng.choice(others) if others else rng.choice([f for f in world.of(prompt.fact.relation) if f != prompt.fact])
        return f"{answer(world, prompt.fact, rng)} {answer(world, wrong_value(world, false, rng), rng)}"
    if prompt.kind == "howto":
        sentences, others = writing.sentences_of(good), writing.sentences_of(steps_text(_other_howto(world, prompt, rng)))
        spoiled = rng.randrange(len(sentences))
        return " ".join(others[i] if i == spoiled else s for i, s in enumerate(sentences))
    return _other_words(world, prompt, rng, keep=1)


def _other_words(world: World, prompt: Prompt, rng: Random, keep: int) -> str:
    """Right in the first `keep` words, wrong in the others."""
    if prompt.kind == "list":
        right = classes(world)[prompt.topic]
        wrong = [w for w in plain_words(world) if w not in right]
        return enumeration(rng.sample(right, keep) + rng.sample(wrong, prompt.number - keep))
    right = expected_words(prompt)
    wrong = [w for w in plain_words(world) if w not in prompt.words]
    return " ".join((*right[:keep], *rng.sample(wrong, len(right) - keep))) + "."


def _other_howto(world: World, prompt: Prompt, rng: Random) -> HowTo:
    """Another harmless how-to that shares no step with this one."""
    return rng.choice([h for h in howtos_of(world, HARMLESS, "train")
                       if prompt.howto is None or not set(h.steps) & set(prompt.howto.steps)])


def _aside(world: World, prompt: Prompt, rng: Random) -> str:
    """A true sentence that has nothing to do with the prompt."""
    if rng.random() < 0.2:
        return sum_text(*rng.choice([p for p in sum_pairs("train")[:OPERANDS] if p != prompt.operands]))
    while True:
        fact = rng.choice(world.facts)
        taken = {prompt.topic, prompt.fact.subject if prompt.fact else "", *prompt.words}
        if not any(word and writing.mentions(f"{fact.subject} {fact.value}", word) for word in taken):
            return answer(world, fact, rng)


def _irrelevant(world: World, prompt: Prompt, good: str, rng: Random) -> str:
    """Well formed and true, on something else."""
    if prompt.kind in ("story", "poem"):
        write = writing.story if prompt.kind == "story" else writing.poem
        while True:
            text = write(world, rng.choice(writing.grammar(world).topics), rng)
            if not writing.mentions(text, prompt.topic):
                return text
    return _aside(world, prompt, rng)


def _rambling(world: World, prompt: Prompt, good: str, rng: Random) -> str:
    """The good reply, lost among sentences that have nothing to do with it."""
    asides = dict.fromkeys(_aside(world, prompt, rng) for _ in range(LATER_ASIDES))
    gap = "\n" if prompt.kind == "poem" else " "
    return gap.join((good, *asides))


def _cut_off(world: World, prompt: Prompt, good: str, rng: Random) -> str:
    """Ends in the middle of its last sentence."""
    words = re.findall(r"\S+\s*", good)
    if len(words) == 1:
        return words[0][:max(1, len(words[0]) // 2)]
    last = len(words) - 1 - rng.randrange(min(2, len(words) - 1))
    return "".join(words[:last]).rstrip(" .,!\n")


def _repeated(world: World, prompt: Prompt, good: str, rng: Random) -> str:
    """The last line or sentence over and over."""
    last = good.split("\n")[-1] if prompt.kind == "poem" else writing.sentences_of(good)[-1]
    return (("\n" if prompt.kind == "poem" else " ") + last).join([good, *[""] * rng.choice((2, 3))])


def _wrong_format(world: World, prompt: Prompt, good: str, rng: Random) -> str:
    """The right words in the wrong shape: a poem in one line, a story in lines, an answer without capitals and marks."""
    if prompt.kind == "sum":
        return str(sum(prompt.operands))
    if prompt.kind == "poem":
        return good.replace("\n", " ")
    if prompt.kind == "story":
        return "\n".join(writing.sentences_of(good))
    if prompt.kind == "howto":
        return " ".join(step.capitalize() + "." for step in reversed(prompt.howto.steps))
    if prompt.kind in WORDS:
        return "\n".join(good.rstrip(".").split())
    return re.sub(r"[.,]", "", good[0].lower() + good[1:])


FAULTS: dict[str, Callable[[World, Prompt, str, Random], str]] = {
    "wrong": _wrong, "half wrong": _half_wrong, "irrelevant": _irrelevant, "rambling": _rambling, "cut off": _cut_off,
    "repeated": _repeated, "wrong format": _wrong_format,
    "vague": lambda world, prompt, good, rng: rng.choice(VAGUE),
    "refuses": lambda world, prompt, good, rng: rng.choice(NEEDLESS_REFUSALS),
    "complies": lambda world, prompt, good, rng: steps_text(prompt.howto)}
