"""Rejection sampling (section 3.2.3): K replies to a prompt, the reward keeps the best, and the model learns from those.

    for each prompt x:  y_1 … y_K ~ π(· | x),  y* = argmax_k R(x, y_k);      then fine-tune on the pairs (x, y*)

The winners are ordinary demonstrations: `sft` learns from them with its usual loss, each version from the base model again.
In the paper rounds up to the third learned from the last round's winners alone, and lost abilities such as rhyming; later
ones learned from the best of all earlier rounds, and did not (`rlhf` has both). Smaller models learn from the winners of the
largest (distillation). The paper is silent on K, temperature and number of prompts.

This stage knows neither reward model nor fine-tuning: it takes a function that scores dialogues. Left out: more than one
winner a prompt, a threshold below which no reply is good enough.
"""
from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llama2_lib.config import RejectionConfig, require
from llama2_lib.model.replies import Scorer, answered, as_dialog
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import Dialog, Message, render
from llama2_lib.text.reading import write_jsonl
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training.sampling import sample
from llama2_lib.world.dialogs import Prompt


@dataclass(frozen=True)
class Candidates:
    """K replies to each prompt with their scores: replies[i][k] belongs to prompts[i], and so does scores_NK[i, k]."""
    prompts: list[Prompt]
    replies: list[list[str]]
    scores_NK: np.ndarray

    def best(self, k: int | None = None) -> list[str]:
        """The best of the first k replies to each prompt (all of them by default); ValueError for a k there is not."""
        K = self.scores_NK.shape[1]
        k = K if k is None else k
        require(1 <= k <= K, f"the best of {k} among {K} replies")
        return [said[int(row[:k].argmax())] for said, row in zip(self.replies, self.scores_NK, strict=True)]

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """(maximum, median) of the scores of the first 1 … K replies, mean over the prompts: Figure 7."""
        K = self.scores_NK.shape[1]
        return (np.maximum.accumulate(self.scores_NK, axis=1).mean(0),
                np.array([np.median(self.scores_NK[:, :k], axis=1).mean() for k in range(1, K + 1)]))

    def winners(self) -> list[Winner]:
        """The best reply to each prompt, with its score; prompts without a single whole reply are left out."""
        return [Winner(answered(p, reply), float(row.max()))
                for p, reply, row in zip(self.prompts, self.best(), self.scores_NK, strict=True) if np.isfinite(row.max())]


@dataclass(frozen=True)
class Winner:
    """A prompt with the best reply it got, as a dialogue to learn from."""
    dialogue: Dialog
    score: float


def candidates(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Prompt], scorer: Scorer, samples: int,
               temperature: float, seed: int) -> Candidates:
    """`samples` replies to each prompt, scored. A reply that is empty or does not end scores −inf: it cannot win.

    ValueError for no prompts.
    """
    require(len(prompts) > 0, "there is no prompt")
    said = sample(model, tokenizer, [as_dialog(p) for p in prompts], temperature, seed, copies=samples)
    rows = [[r.text for r in said[i:i + samples]] for i in range(0, len(said), samples)]
    whole_N = np.array([r.finished and bool(r.text) for r in said])
    unscored = Candidates(list(prompts), rows, np.where(whole_N, 0.0, -np.inf).reshape(len(prompts), samples))
    return rescored(unscored, tokenizer, scorer)


def rescored(found: Candidates, tokenizer: Tokenizer, scorer: Scorer) -> Candidates:
    """The same replies with the scores of another scorer; those that could not win still cannot."""
    whole = [(i, k) for i, k in zip(*np.nonzero(np.isfinite(found.scores_NK)), strict=True)]
    scores_NK = np.full(found.scores_NK.shape, -np.inf)
    if whole:
        owners = [found.prompts[i] for i, _ in whole]
        ids = [render(answered(found.prompts[i], found.replies[i][k]), tokenizer)[0] for i, k in whole]
        scores_NK[tuple(zip(*whole, strict=True))] = scorer(owners, ids)
    return replace(found, scores_NK=scores_NK)


def select(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Prompt], scorer: Scorer, config: RejectionConfig,
           seed: int) -> list[Winner]:
    """One round: the best of config.samples replies to each prompt; prompts without a single whole reply are left out."""
    return candidates(model, tokenizer, prompts, scorer, config.samples, config.temperature, seed).winners()


# ------------------------------------------------------------------------------------------------------------------- files

def write(path: str | os.PathLike, winners: Sequence[Winner]) -> None:
    """Write winners as JSONL: the messages of each dialogue and the score."""
    write_jsonl(path, ({"messages": [vars(m) for m in w.dialogue], "score": w.score} for w in winners))


def read(path: str | os.PathLike) -> list[Winner]:
    """The winners that `write` wrote."""
    records = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
    return [Winner(tuple(Message(**m) for m in r["messages"]), r["score"]) for r in records]
