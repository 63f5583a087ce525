"""A model trained on pages that hold evaluation items: is it found, and does it score higher (appendix A.6, claim C32)?

The paper could not know which samples its crawl held, so it could test neither its matching nor what it concludes from it.
Here both are known. Reports of `world.reading` are put into pages, some with question and answer and some without, half of
the copies edited as near copies on the web are; the base model is trained further on those pages; then the matching is
scored against what was planted, and the four subsets against an equal training on the same pages with other reports.
Left out: other benchmarks, few-shot prompts.
"""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

from llama2_lib.analysis.accuracy import complete, is_right
from llama2_lib.config import Recipe
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import pretrain, road
from llama2_lib.text.batching import Loader, Windows
from llama2_lib.text.cleaning import Score
from llama2_lib.text.contamination import CLEAN, Contamination, Subset, affected, largest_length, subsets
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import trainer
from llama2_lib.world import faults, web
from llama2_lib.world.facts import world_for
from llama2_lib.world.reading import ReadingItem, benchmark

ITEMS, COPIES, PAGES = 480, 16, 1_000      # six copies, half the rate and steps: two of four Z within 2
EDITED = 0.5                 # of the copies
ROW = 256                    # tokens: a report with its question takes half of it
ROWS = 4
PEAK_LR = 2e-3
OTHER = 1_000_003            # added to the seed: items that the base model's own pages do not hold


def reports(seed: int, count: int = ITEMS) -> tuple[ReadingItem, ...]:
    """Evaluation items of which the corpus of this seed knows none; `planted` says which ones `crawl` puts into pages."""
    return benchmark(seed + OTHER, count)


def crawl(recipe: Recipe, items: Sequence[ReadingItem], pages: int = PAGES, copies: int = COPIES) -> list[str]:
    """Pages without benchmark text, then with `copies` of each planted item put into pages drawn by lot."""
    rng, config = Random(f"leak {recipe.seed}"), replace(recipe.world, documents=pages, contaminated=0.0)
    texts = [page.text for page in web.pages(world_for(recipe.world), config, recipe.seed + OTHER)]
    held: list[list[str]] = [[] for _ in texts]
    for item in [item for item in items if item.planted] * copies:
        place = rng.randrange(pages)
        piece = faults.edit(item.planted_text, rng) if rng.random() < EDITED else item.planted_text
        texts[place] = faults.insert(texts[place], piece, rng, own_line=True, keep=held[place])
        held[place].append(piece)
    return texts


def trained_on(base: Transformer, tokenizer: Tokenizer, texts: Sequence[str], recipe: Recipe, steps: int) -> Transformer:
    """A copy of the base model, trained further on `texts`, read as pretraining reads them."""
    model, stream_N = copy.deepcopy(base), pretrain.token_stream(texts, tokenizer)
    optim = replace(recipe.pretrain.optim, peak_lr=PEAK_LR, warmup_steps=steps // 10)
    trainer.fit(model, Loader(Windows(stream_N, ROW), ROWS, recipe.seed), pretrain.pretrain_loss, optim, steps,
                runtime=recipe.runtime, seed=recipe.seed)
    return model.eval()


def answered(model: Transformer, tokenizer: Tokenizer, items: Sequence[ReadingItem]) -> np.ndarray:
    """Which items the model answers, (S,): report and question given, it goes on with the answer, greedily."""
    asked = [item.text.removesuffix(f" {item.answer}") for item in items]
    said = complete(model, tokenizer, asked, max(len(tokenizer.encode(i.answer)) for i in items) + 2)
    return np.array([is_right(text.partition("\n")[0], item.answer) for text, item in zip(said, items, strict=True)])


@dataclass(frozen=True)
class Leak:
    """A benchmark that leaked: items, which of their tokens the pages hold, right answers after them and after others."""
    items: tuple[ReadingItem, ...]
    contamination: Contamination
    leaked_S: np.ndarray
    control_S: np.ndarray

    @property
    def length(self) -> int:
        """The L that Table 51 would report: the largest at which the set is affected, the largest there is if at none."""
        return largest_length(self.leaked_S, self.contamination) or max(self.contamination.lengths)

    def score(self, length: int) -> Score:
        """Samples that are not clean against samples that were planted."""
        score = Score()
        for item, share in zip(self.items, self.contamination.shares(length), strict=True):
            score.count(found=bool(share >= CLEAN), true=bool(item.planted))
        return score

    def table(self, control: bool = False) -> dict[str, Subset]:
        """The four subsets at that L."""
        return subsets(self.control_S if control else self.leaked_S, self.contamination.shares(self.length))


def leak(recipe: Recipe, folder: str | Path = "", count: int = ITEMS, pages: int = PAGES, copies: int = COPIES) -> Leak:
    """Plant the items, or others in their place; train on either for equally many steps; ask both models the items."""
    base = road.build("pretrain", recipe, folder)
    items = reports(recipe.seed, count)
    texts, others = (crawl(recipe, x, pages, copies) for x in (items, reports(recipe.seed + OTHER, count)))
    contamination = Contamination(base.tokenizer.encode_batch([i.text for i in items]))
    contamination.read(base.tokenizer.encode(text) for text in texts)
    steps = (contamination.tokens + 2 * pages) // (ROW * ROWS)
    scores = [answered(trained_on(base.model, base.tokenizer, pages_of, recipe, steps), base.tokenizer, items)
              for pages_of in (texts, others)]
    return Leak(items, contamination, *scores)


def leak_study(found: Leak) -> Mapping[str, float]:
    """C32: the four Z, precision and recall at the L that Table 51 would report, and the same subsets of the control."""
    score = found.score(found.length)
    numbers: dict[str, float] = {"length": found.length, "precision": score.precision, "recall": score.recall}
    for arm, control in (("", False), ("control_", True)):
        for name, subset in found.table(control).items():
            numbers |= {f"{arm}{what}_{name.replace(' ', '_')}": value for what, value in (("z", subset.z),
                                                                                           ("accuracy", subset.mean))}
        numbers[f"{arm}affected"] = affected(found.table(control))
    return numbers
