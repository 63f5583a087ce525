"""Two tools that a chat model may call, and how a call is written and read (section 5.1, Figure 23, Table 15).

    assistant: CALC(123 + 456)          a reply that is a call, and nothing else
    user:      Result: 579              what the tool says, as text
    assistant: It is 579.

The paper describes its tools in the prompt and lets the model find their use; it prints a transcript and no program. Here a
call ends the reply, so that a tool's result comes back as the next user message: chat format and loss masks need nothing
new, results are never learned, and `text.chat` refuses a result that holds a control tag, as it does for any message.

A calculator without `eval`: a parser by recursive descent over numbers, + − * / and brackets, exact (fractions), bounded in
length and depth. A search over the facts of the world: the statement that shares the rarest words with the query. Neither
tool ever raises to the caller of `answer_call`; what is wrong goes back to the model as "Error: …".

Left out: powers and functions; inflected words, several results, ranking by anything but words.
"""
from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from llama2_lib.config import require
from llama2_lib.text.chat import TAGS
from llama2_lib.world.facts import World, fill

Tools = Mapping[str, Callable[[str], str]]      # name → argument as text → result as text; ValueError says what is wrong
CALL = re.compile(r"([A-Z]{2,12})\((.*)")
LONGEST_EXPRESSION, DEEPEST, LONGEST_QUERY, LONGEST_RESULT = 100, 20, 200, 200
RESULT, ERROR = "Result: ", "Error: "
TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?)|(.))", re.ASCII)
DECIMALS = 6
WORD = re.compile(r"\w+")


# ------------------------------------------------------------------------------------------------------------------- calls

@dataclass(frozen=True)
class Call:
    """What a reply asks a tool: `CALC(1 + 1)`. `closed` is False where the bracket is missing or text follows it."""
    name: str
    argument: str
    closed: bool


def read_call(reply: str) -> Call | None:
    """The call that a reply is, or None for an ordinary reply. A reply with a control tag is never a call."""
    match = CALL.fullmatch(reply.strip())
    if match is None or any(tag in reply for tag in TAGS):
        return None
    return Call(match[1], match[2].removesuffix(")").strip(), closed=match[2].endswith(")"))


def answer_call(call: Call, tools: Tools) -> str:
    """The message that goes back to the model: "Result: 579", or "Error: …" for a call that cannot be met. Never raises.

    What a tool returns is data: one line, cut to LONGEST_RESULT characters, and withheld if it holds a control tag.
    """
    try:
        require(call.closed, f"write {call.name}(...) and nothing else")
        require(call.name in tools, f"no tool is called {call.name}; there are {', '.join(tools)}")
        found = " ".join(tools[call.name](call.argument).split())[:LONGEST_RESULT]
        tag = next((t for t in TAGS if t in found), None)
        require(tag is None, "the result holds a control tag and is withheld")
        return RESULT + (found or "nothing")
    except (ValueError, ArithmeticError) as error:
        return ERROR + _harmless(str(error))


def _harmless(text: str) -> str:
    """An error's message without control tags, as one short line."""
    for tag in TAGS:
        text = text.replace(tag, "tag")
    return " ".join(text.split())[:LONGEST_RESULT]


# -------------------------------------------------------------------------------------------------------------- calculator

def calculate(expression: str) -> str:
    """The exact value of an expression of numbers, + - * / and brackets: "12 + 34" gives "46", "1 / 3" gives "0.333333".

    ValueError names the place of what cannot be read, an expression longer than LONGEST_EXPRESSION, brackets deeper than
    DEEPEST, a division by zero.
    """
    require(len(expression) <= LONGEST_EXPRESSION,
            f"the expression has {len(expression)} characters, {LONGEST_EXPRESSION} are allowed")
    tokens = [(m[1] or m[2], m.start(1 if m[1] else 2)) for m in TOKEN.finditer(expression.rstrip())]
    value, at = _sum(tokens, 0, 0)
    require(at == len(tokens), f"{_place(tokens, at)} is not expected")
    return _written(value)


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    digits = str(round(abs(value) * 10**DECIMALS)).zfill(DECIMALS + 1)
    number = f"{digits[:-DECIMALS]}.{digits[-DECIMALS:]}".rstrip("0").rstrip(".")
    return "-" * (value < 0 and number != "0") + number


Tokens = list[tuple[str, int]]


def _place(tokens: Tokens, at: int) -> str:
    return f"{tokens[at][0]!r} at character {tokens[at][1] + 1}" if at < len(tokens) else "the end of the expression"


def _sum(tokens: Tokens, at: int, depth: int) -> tuple[Fraction, int]:
    """sum = product { ("+" | "-") product };  (value, index of the token behind it)."""
    value, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at][0] in "+-":
        sign = 1 if tokens[at][0] == "+" else -1
        other, at = _product(tokens, at + 1, depth)
        value += sign * other
    return value, at


def _product(tokens: Tokens, at: int, depth: int) -> tuple[Fraction, int]:
    """product = factor { ("*" | "/") factor }"""
    value, at = _factor(tokens, at, depth)
    while at < len(tokens) and tokens[at][0] in "*/":
        divides, place = tokens[at][0] == "/", _place(tokens, at)
        other, at = _factor(tokens, at + 1, depth)
        require(not divides or other != 0, f"{place} divides by zero")
        value = value / other if divides else value * other
    return value, at


def _factor(tokens: Tokens, at: int, depth: int) -> tuple[Fraction, int]:
    """factor = number | "-" factor | "(" sum ")" """
    require(depth <= DEEPEST, f"brackets or signs are nested deeper than {DEEPEST}")
    require(at < len(tokens), "a number is missing at the end of the expression")
    token = tokens[at][0]
    if token == "-":
        value, at = _factor(tokens, at + 1, depth + 1)
        return -value, at
    if token == "(":
        value, at = _sum(tokens, at + 1, depth + 1)
        require(at < len(tokens) and tokens[at][0] == ")", f"a bracket is not closed at {_place(tokens, at)}")
        return value, at + 1
    require(token[0] in "0123456789", f"{_place(tokens, at)} is no number")
    return Fraction(token), at + 1


# ------------------------------------------------------------------------------------------------------------------ search

@dataclass(frozen=True, eq=False)
class Index:
    """The statements of a world, the words by which each is found, and for each word the statements it finds."""
    statements: tuple[str, ...]
    words: tuple[frozenset[str], ...]
    places: Mapping[str, tuple[int, ...]]


@functools.lru_cache(maxsize=4)
def index(world: World) -> Index:
    """One entry a fact: found by the words of all its statements and questions, answered by the first statement."""
    statements, found_by, places = [], [], defaultdict(list)
    for i, fact in enumerate(world.facts):
        relation = world.relations[fact.relation]
        said = [fill(t, fact.subject, fact.value) for t in relation.statements]
        statements.append(said[0])
        found_by.append(_words(" ".join([*said, *(fill(q, fact.subject) for q in relation.questions)])))
        for word in found_by[-1]:
            places[word].append(i)
    return Index(tuple(statements), tuple(found_by), {word: tuple(found) for word, found in places.items()})


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.casefold()))


def search(world: World, query: str) -> str:
    """Of the statements with the query's rarest word, the one whose shared words weigh most, the first of equals.

    A word weighs −log of its share of the statements. ValueError if no word of the query is known.
    """
    require(len(query) <= LONGEST_QUERY, f"the query has {len(query)} characters, {LONGEST_QUERY} are allowed")
    found = index(world)
    weight = {w: math.log(1 + len(found.words) / len(found.places[w])) for w in sorted(_words(query)) if w in found.places}
    require(bool(weight), "nothing found")
    candidates = found.places[max(weight, key=weight.get)]
    return found.statements[max(candidates, key=lambda i: math.fsum(weight[w] for w in weight if w in found.words[i]))]


def course_tools(world: World) -> Tools:
    """CALC, the calculator, and SEARCH, over the facts of `world`."""
    return {"CALC": calculate, "SEARCH": functools.partial(search, world)}
