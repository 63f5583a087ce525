"""What a chat model does with questions: its replies, how often they are right, and what the oracle thinks of them.

The paper judges its chat models by people and by reward models (section 3.4); the small world has an oracle instead. All
questions here are of the test split: facts, sums, topics and how-tos that no demonstration asked. Pretraining saw the facts,
as the web states them; the operand pairs of sums stand nowhere. Left out: dialogues of several turns, top-p.
"""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean

import torch

from llama2_lib.analysis.accuracy import Accuracy
from llama2_lib.config import require
from llama2_lib.model.logprobs import token_logprobs
from llama2_lib.model.replies import REPLY_TOKENS, Reply, as_dialog, continued, replies, sample
from llama2_lib.model.transformer import Transformer
from llama2_lib.model.weights import load_hf, load_meta
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import HELPFUL, Prompt, draw_prompt, prompts
from llama2_lib.world.facts import TEST, World, split_of
from llama2_lib.world.oracle import Gold, fact_correct, score

__all__ = [
    "REPLY_TOKENS", "Judged", "Reply", "accuracy", "as_dialog", "chat_fact_accuracy", "chat_sum_accuracy", "continued",
    "fact_prompts", "gold", "gold_by_kind", "judged", "losses", "mean_gold", "published", "replies", "sample",
    "sum_prompts"]
FACT_TEMPERATURE = 0.3


@dataclass(frozen=True)
class Judged:
    """A prompt, the model's reply and the oracle's judgement."""
    prompt: Prompt
    reply: Reply
    gold: Gold

    @property
    def kind(self) -> str:
        """The prompt's kind; "rule" for any prompt under a system rule."""
        return "rule" if self.prompt.rule else self.prompt.kind


def published(folder: str | Path) -> tuple[Transformer, Tokenizer]:
    """A chat model of other hands from `folder`: Hugging Face's files or Meta's, with tokenizer.model beside them."""
    folder = Path(folder)
    load = load_hf if (folder / "config.json").exists() else load_meta
    return load(folder).eval(), Tokenizer.load(folder / "tokenizer.model")


def fact_prompts(world: World, split: str = TEST, seed: int = 0) -> list[Prompt]:
    """Each fact of a split as a question, in a wording drawn by the seed."""
    rng = Random(f"fact questions {seed}")
    return [Prompt("fact", world.ask(fact, rng), fact=fact) for fact in world.facts if split_of(fact) == split]


def sum_prompts(world: World, count: int = 200, split: str = TEST, seed: int = 0) -> list[Prompt]:
    """`count` sums of a split as questions; a pair may come twice."""
    require(count >= 1, f"count must be at least 1, got {count}")
    rng = Random(f"sum questions {seed}")
    return [draw_prompt(world, "sum", rng, split) for _ in range(count)]


def accuracy(model: Transformer, tokenizer: Tokenizer, world: World, asked: Sequence[Prompt], temperature: float = 0.0,
             seed: int = 0) -> Accuracy:
    """Strictly right replies to `asked`; a fact's kind is its relation, a sum's "carry" or "no carry".

    ValueError if nothing is asked.
    """
    require(len(asked) > 0, "accuracy: there is no question")
    texts = replies(model, tokenizer, [as_dialog(p) for p in asked], temperature, seed)
    right = Counter(_kind(p) for p, text in zip(asked, texts, strict=True) if fact_correct(world, p, text))
    return Accuracy(right, Counter(map(_kind, asked)))


def _kind(prompt: Prompt) -> str:
    if prompt.operands:
        a, b = prompt.operands
        return "carry" if a % 10 + b % 10 > 9 else "no carry"
    return prompt.fact.relation if prompt.kind == "fact" else prompt.kind


def chat_fact_accuracy(model: Transformer, tokenizer: Tokenizer, world: World, split: str = TEST, seed: int = 0,
                       temperature: float = FACT_TEMPERATURE) -> Accuracy:
    """Accuracy on all facts of a split, one sampled reply each; those of "test" no demonstration asks or tells."""
    return accuracy(model, tokenizer, world, fact_prompts(world, split, seed), temperature, seed)


def chat_sum_accuracy(model: Transformer, tokenizer: Tokenizer, world: World, count: int = 200, split: str = TEST,
                      seed: int = 0) -> Accuracy:
    """Accuracy on `count` sums of a split, greedily."""
    return accuracy(model, tokenizer, world, sum_prompts(world, count, split, seed), 0.0, seed)


@torch.no_grad()
def losses(model: Transformer, examples: Sequence[tuple[list[int], list[bool]]]) -> tuple[float, float]:
    """(answer, prompt): mean loss in nats over the learned tokens of `examples`, and over the others but each first one."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for ids, mask in examples:
        logprobs_T = token_logprobs(model(torch.tensor([ids[:-1]])), torch.tensor([ids[1:]]))[0]
        for learned, logprob in zip(mask[1:], logprobs_T.tolist(), strict=True):
            found[learned].append(-logprob)
    return fmean(found[True]), fmean(found[False])


def judged(model: Transformer, tokenizer: Tokenizer, world: World, asked: Sequence[Prompt], temperature: float = 0.0,
           seed: int = 0) -> list[Judged]:
    """One reply to each prompt, with the oracle's judgement."""
    said = sample(model, tokenizer, [as_dialog(p) for p in asked], temperature, seed)
    return [Judged(p, r, score(world, p, r.text)) for p, r in zip(asked, said, strict=True)]


def gold_by_kind(found: Sequence[Judged]) -> dict[str, float]:
    """Mean total gold score of each kind of prompt, best first."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for j in found:
        scores[j.kind].append(j.gold.total)
    return dict(sorted(((kind, fmean(values)) for kind, values in scores.items()), key=lambda item: -item[1]))


def gold(model: Transformer, tokenizer: Tokenizer, world: World, count: int = 300, temperature: float = 0.7, seed: int = 0,
         mix: Mapping[str, float] = HELPFUL) -> list[Judged]:
    """Replies to `count` test prompts of a mix, judged. The prompts depend on the seed alone."""
    return judged(model, tokenizer, world, list(prompts(world, count, seed, mix, TEST)), temperature, seed)


def mean_gold(found: Sequence[Judged]) -> float:
    """Mean total gold score, in 0…1."""
    return fmean(j.gold.total for j in found)
