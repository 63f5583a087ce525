"""What RLHF does to diversity at each temperature (section 5.1, Figure 21): Self-BLEU of factual and of creative prompts.

    rise  = Self-BLEU after RLHF − before, at one temperature
    slope = least-squares slope of Self-BLEU over the temperature, prompt by prompt

A hotter model repeats itself less, so slopes are negative. The paper's observation: on factual prompts RLHF flattens the
slope, since one answer is right at any temperature; on creative ones the slope stays. The paper takes ten prompts a group,
25 samples each, T = 0.1 … 1.5, and prints neither n nor what its band is: here n = 3, the default of the authors of
Self-BLEU, and intervals by bootstrap over prompts. The temperature half of Figure 8 is `rlhf_studies.temperature_study`.
Left out: diversity of meaning, which words do not show.

Shape suffixes: P prompts, T temperatures.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama2_lib.analysis.bootstrap import interval, resampled
from llama2_lib.analysis.chat import judged, published
from llama2_lib.analysis.diversity import distinct, self_bleu, word_entropy
from llama2_lib.model.replies import REPLY_TOKENS, replies
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import Dialog, dialog
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import prompts
from llama2_lib.world.facts import TEST, World

FACTUAL, CREATIVE = GROUPS = ("factual", "creative")
KINDS = {FACTUAL: {"fact": 0.7, "sum": 0.3}, CREATIVE: {"story": 0.5, "poem": 0.5}}
N_GRAM = 3
SAMPLES = 25                                     # of a prompt, as in the paper
TEMPERATURES = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)    # those of the paper's plot
REAL = {FACTUAL: ("What is the capital of France?", "When did the Titanic sink?", "How much is 37 + 25?"),
        CREATIVE: ("Write a poem about the sea.", "Write a story about a fox.", "Write a poem about winter.")}

Talker = tuple[Transformer, Tokenizer]           # a chat model and its tokenizer


@dataclass(frozen=True)
class Spread:
    """How much the samples of each prompt differ, at each temperature: three arrays (prompts, temperatures)."""
    self_bleu_PT: np.ndarray
    distinct_PT: np.ndarray
    entropy_PT: np.ndarray

    def slope_P(self, temperatures: Sequence[float]) -> np.ndarray:
        """Least-squares slope of each prompt's Self-BLEU over the temperature."""
        return np.polyfit(temperatures, self.self_bleu_PT.T, 1)[0]


def instructions(world: World, count: int, seed: int) -> dict[str, list[Dialog]]:
    """`count` test prompts of each group: facts and sums have one right answer, stories and poems very many."""
    return {group: [dialog(p.text) for p in prompts(world, count, seed, KINDS[group], TEST)] for group in GROUPS}


# -------------------------------------------------------------------------------------------------------------- measuring

def said(talker: Talker, asked: Sequence[Dialog], temperature: float, samples: int = SAMPLES, seed: int = 0,
         max_new_tokens: int = REPLY_TOKENS) -> list[list[str]]:
    """`samples` replies to each dialogue."""
    texts = replies(*talker, asked, temperature, seed, max_new_tokens, copies=samples)
    return [texts[i:i + samples] for i in range(0, len(texts), samples)]


def spread(said_TP: Sequence[Sequence[Sequence[str]]], n: int = N_GRAM) -> Spread:
    """The measures of replies said_TP[temperature][prompt][sample]."""
    measures = (lambda texts: self_bleu(texts, n), lambda texts: distinct(texts, 2), word_entropy)
    return Spread(*(np.array([[measure(texts) for texts in row] for row in said_TP]).T for measure in measures))


def spreads(talkers: Mapping[str, Talker], asked: Mapping[str, Sequence[Dialog]],
            temperatures: Sequence[float] = TEMPERATURES, samples: int = SAMPLES, seed: int = 0, n: int = N_GRAM,
            max_new_tokens: int = REPLY_TOKENS) -> dict[str, dict[str, Spread]]:
    """found[model][group]: the measures of each model on each group of dialogues, over the temperatures."""
    return {name: {group: spread([said(talker, dialogues, t, samples, seed, max_new_tokens) for t in temperatures], n)
                   for group, dialogues in asked.items()}
            for name, talker in talkers.items()}


def gold_of(talker: Talker, world: World, group: str, count: int, seed: int = 0, temperature: float = 1.0) -> np.ndarray:
    """The oracle's score of one reply to each of `count` test prompts of a group: how much there is to choose among."""
    asked = list(prompts(world, count, seed + 83, KINDS[group], TEST))
    return np.array([j.gold.total for j in judged(*talker, world, asked, temperature, seed)])


def real(folder: str | Path, samples: int = SAMPLES, seed: int = 0, temperatures: Sequence[float] = (0.6, 1.0, 1.4),
         ) -> dict[str, list[float]]:
    """Mean Self-BLEU of a published chat model on the prompts REAL, by group, over the temperatures."""
    asked = {group: [dialog(text) for text in texts] for group, texts in REAL.items()}
    found = spreads({"published": published(folder)}, asked, temperatures, samples, seed)["published"]
    return {group: s.self_bleu_PT.mean(0).tolist() for group, s in found.items()}


# --------------------------------------------------------------------------------------------------------------- intervals

def changes(before: Mapping[str, Spread], after: Mapping[str, Spread], temperatures: Sequence[float],
            seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """(mean, low, high) of what RLHF changed, by group and as "difference", factual minus creative.

    Keys "rise GROUP" (at the hottest temperature), "mean rise GROUP" (over all) and "slope GROUP"; the same prompts before
    and after, so changes are taken prompt by prompt before they are resampled.
    """
    hottest = int(np.argmax(temperatures))
    measures = {"rise": lambda s: s.self_bleu_PT[:, hottest], "mean rise": lambda s: s.self_bleu_PT.mean(1),
                "slope": lambda s: s.slope_P(temperatures)}
    found = {}
    for name, of in measures.items():
        change = {g: of(after[g]) - of(before[g]) for g in GROUPS}
        boot = {g: resampled(c, seed=seed + i) for i, (g, c) in enumerate(change.items())}
        for g in GROUPS:
            found[f"{name} {g}"] = (float(change[g].mean()), *interval(boot[g]))
        found[f"{name} difference"] = (float(change[FACTUAL].mean() - change[CREATIVE].mean()),
                                       *interval(boot[FACTUAL] - boot[CREATIVE]))
    return found


def diversity_study(talkers: Mapping[str, Talker], world: World, seed: int, asked: int = 30,
                    samples: int = SAMPLES) -> Mapping[str, float]:
    """Figure 21: Self-BLEU at each temperature, and what changed from the first of `talkers` to each of the others."""
    found = spreads(talkers, instructions(world, asked, seed + 81), TEMPERATURES, samples, seed)
    numbers = {f"{g}_{name}_{t}": float(m) for name, groups in found.items() for g in GROUPS
               for t, m in zip(TEMPERATURES, groups[g].self_bleu_PT.mean(0), strict=True)}
    first, *later = found
    for name in later:
        for what, (mean, low, high) in changes(found[first], found[name], TEMPERATURES, seed).items():
            key = f"{what.replace(' ', '_')}_{name}"
            numbers |= {key: mean, f"{key}_low": low, f"{key}_high": high}
    return numbers
