"""What a model knows: facts by completion and sums it never saw (section 2.3 in small).

The paper measures knowledge by few-shot questions with exact match on TriviaQA and NaturalQuestions. A base model of the
small world continues the opening of a statement instead ("The capital of France is"), greedily, in every wording, and is
right if it goes on with the answer and then ends it. Left out: few-shot prompting, partial credit, synonyms.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import torch

from llama2_lib.config import require
from llama2_lib.model.generation import generate
from llama2_lib.model.logprobs import token_logprobs
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.facts import Fact, World, fill, sum_pairs, with_article

ANSWER_TOKENS = 4                       # room beyond the longest answer
SUM_TOKENS = 48                         # room for a sum with its working
ROWS = 128                              # of a forward pass
VALUE = re.compile(r"\{(a )?value\}")    # where a statement holds its answer


@dataclass(frozen=True)
class Accuracy:
    """Right answers and questions asked, by kind."""
    right: Counter[str]
    asked: Counter[str]

    @property
    def mean(self) -> float:
        """Share of all questions answered right."""
        return self.right.total() / self.asked.total()

    @property
    def by_kind(self) -> dict[str, float]:
        """Share answered right of each kind, best first."""
        return dict(sorted(((k, self.right[k] / n) for k, n in self.asked.items()), key=lambda item: -item[1]))


def complete(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], max_new_tokens: int = 24, *,
             temperature: float = 0.0, seed: int = 0) -> list[str]:
    """How the model goes on from each text, as the start of a document; greedy unless a temperature is given."""
    was_training = model.training
    model.eval()
    prompts = [tokenizer.encode(text, bos=True) for text in texts]
    samples = generate(model, prompts, max_new_tokens=max_new_tokens, temperature=temperature, eos_id=tokenizer.eos_id,
                       seed=seed)
    model.train(was_training)
    return [tokenizer.decode(prompt + reply)[len(tokenizer.decode(prompt)):]
            for prompt, reply in zip(prompts, samples.lists(), strict=True)]


def is_right(continuation: str, answer: str) -> bool:
    """Whether the text begins with the answer and ends it there: "9" does not answer "96", nor "New York" "New"."""
    text = continuation.lstrip()
    return text.startswith(answer) and not text[len(answer):len(answer) + 1].strip(".,!?\n")


def openings(world: World, fact: Fact) -> list[tuple[str, str]]:
    """(opening, answer) of every wording of the fact that can be left open: ("A young dog is", "a puppy")."""
    pairs = []
    for template in world.relations[fact.relation].statements:
        slot = VALUE.search(template)
        head = fill(template[:slot.start()], fact.subject).rstrip()
        if head and slot.end() == len(template) - 1:
            pairs.append((head, with_article(fact.value) if slot[1] else fact.value))
    return pairs


def fact_accuracy(model: Transformer, tokenizer: Tokenizer, world: World, facts: Iterable[Fact] | None = None) -> Accuracy:
    """Accuracy by relation over `facts` (all of the world's), each in every wording that ends with the answer.

    ValueError if there is nothing to ask.
    """
    asked = [(fact.relation, *pair) for fact in (world.facts if facts is None else facts) for pair in openings(world, fact)]
    require(bool(asked), "there is no fact whose statement ends with its answer")
    room = max(len(tokenizer.encode(answer)) for _, _, answer in asked) + ANSWER_TOKENS
    texts = complete(model, tokenizer, [head for _, head, _ in asked], room)
    right = Counter(kind for (kind, _, answer), text in zip(asked, texts, strict=True) if is_right(text, answer))
    return Accuracy(right, Counter(kind for kind, _, _ in asked))


@torch.no_grad()
def answer_loss(model: Transformer, tokenizer: Tokenizer, world: World, facts: Iterable[Fact] | None = None) -> float:
    """Mean −log p, in nats, of a whole answer after its opening, over the openings that fact_accuracy asks.

    It moves long before the likeliest answer is the right one, so it tells models apart that know next to nothing.
    """
    pairs = [pair for fact in (world.facts if facts is None else facts) for pair in openings(world, fact)]
    require(bool(pairs), "there is no fact whose statement ends with its answer")
    heads = [tokenizer.encode(head, bos=True) for head, _ in pairs]
    rows = [head + tokenizer.encode(answer) for head, (_, answer) in zip(heads, pairs, strict=True)]
    total = 0.0
    for start in range(0, len(rows), ROWS):
        chosen = range(start, min(start + ROWS, len(rows)))
        width = max(len(rows[i]) for i in chosen)
        ids_BT = torch.tensor([rows[i] + [tokenizer.pad_id] * (width - len(rows[i])) for i in chosen])
        counts_BT = torch.tensor([[len(heads[i]) <= t < len(rows[i]) for t in range(width)] for i in chosen])
        logprobs_BT = token_logprobs(model(ids_BT[:, :-1]), ids_BT[:, 1:])
        total -= float((logprobs_BT * counts_BT[:, 1:]).sum())
    return total / len(rows)


def sum_accuracy(model: Transformer, tokenizer: Tokenizer, count: int = 200, split: str = "test", seed: int = 0) -> Accuracy:
    """Accuracy over `count` sums of a split, asked as exercise pages ask; the operand pairs of "test" stand in no page.

    The answer may show its working; its first line must state the sum. The kinds are "no carry" and "carry".
    ValueError unless 1 <= count <= the number of pairs.
    """
    pairs = sum_pairs(split)
    require(1 <= count <= len(pairs), f"count must lie in 1…{len(pairs)}, got {count}")
    chosen = Random(f"sums {seed}").sample(pairs, count)
    texts = complete(model, tokenizer, [f"Question: What is {a} + {b}?\nAnswer:" for a, b in chosen], SUM_TOKENS)
    kinds = ["carry" if a % 10 + b % 10 > 9 else "no carry" for a, b in chosen]
    right = Counter(k for k, pair, text in zip(kinds, chosen, texts, strict=True) if states_sum(text.lstrip(" "), *pair))
    return Accuracy(right, Counter(kinds))


def states_sum(text: str, a: int, b: int) -> bool:
    """Whether the first line of a text says that a + b is what it is: as an equation, or as a bare number."""
    line = text.partition("\n")[0].strip()
    stated = re.findall(rf"(?<![\d+] )(?<!\d){a} \+ {b} = (\d+)", line) or re.findall(r"\A(\d+)\.?\Z", line)
    return bool(stated) and int(stated[-1]) == a + b
