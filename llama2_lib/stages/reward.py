"""Reward models (section 3.2.2): a chat model whose head says one number for a whole dialogue.

    L = −log σ(r(x, y_c) − r(x, y_r) − m(grade))  +  λ · BCE(σ(r(x, y)), y is safe)

The first term makes the chosen reply's score larger, by the margin m of its grade: none, small or large (Table 27). The
second is the safety auxiliary loss of Table 29, on pairs with safety labels. The paper prints no formula for it: we take
the binary cross-entropy of both replies of a pair, with a λ of our own. The score is read at the last token, EOS, where the
whole reply has been seen. One forward pass scores chosen and rejected together, as rows of one batch.

The body starts from a chat model, so that "the reward model knows what the chat model knows". Left out: collection of the
pairs (stage preferences), mixing of public data.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama2_lib.config import require
from llama2_lib.model.transformer import ScalarHead, Transformer
from llama2_lib.world.annotators import GRADES

# Table 27: the margin of each grade, from "significantly better" down.
MARGINS: dict[str, tuple[float, ...]] = {"none": (0, 0, 0, 0), "small": (1, 2 / 3, 1 / 3, 0), "large": (3, 2, 1, 0)}
NO_LABEL = -1.0       # of a reply without a safety label


def margin_of(grade: str, margins: str = "small") -> float:
    """m(grade). ValueError for an unknown grade or set of margins."""
    require(margins in MARGINS, f"margins are one of {', '.join(MARGINS)}, got {margins!r}")
    require(grade in GRADES, f"there is no grade {grade!r}; there are {', '.join(GRADES)}")
    return MARGINS[margins][GRADES.index(grade)]


def ranking_loss(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | float = 0.0) -> Tensor:
    """−log σ(r_c − r_r − m), in nats, mean over the pairs; stable for any scores. ValueError for unequal shapes."""
    require(chosen_B.shape == rejected_B.shape,
            f"each chosen score needs a rejected one, got shapes {tuple(chosen_B.shape)} and {tuple(rejected_B.shape)}")
    return -F.logsigmoid(chosen_B.float() - rejected_B.float() - margin_B).mean()


def safety_loss(scores_N: Tensor, safe_N: Tensor) -> Tensor:
    """Binary cross-entropy of σ(score) with safe (1) or unsafe (0), mean over the labelled replies; 0 if none is labelled.

    safe_N: NO_LABEL (−1) for a reply without a label.
    """
    labelled_N = safe_N != NO_LABEL
    losses_N = F.binary_cross_entropy_with_logits(scores_N.float(), safe_N.clamp(min=0).float(), reduction="none")
    return torch.where(labelled_N, losses_N, 0.0).sum() / labelled_N.sum().clamp(min=1)


class RewardModel(nn.Module):
    """A Transformer's body with a ScalarHead. The body's output matrix stays unused, so that it loads as a chat model."""

    def __init__(self, body: Transformer) -> None:
        super().__init__()
        self.body, self.head = body, ScalarHead(body.config.dim)
        self.body.output.requires_grad_(False)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The score of each row, (B,), read at its last token. Rows are padded on the right; padding is not looked at."""
        h_BTD = self.body.hidden(tokens_BT)      # causal: what stands behind a row's last token cannot change it
        return self.head(h_BTD[torch.arange(len(tokens_BT), device=tokens_BT.device), lengths_B - 1])


@dataclass(frozen=True)
class PairBatch:
    """B pairs as 2B rows, the chosen replies first. tokens int64, right-padded; safe_2B 1, 0 or NO_LABEL."""
    tokens_2BT: Tensor
    lengths_2B: Tensor
    margin_B: Tensor
    safe_2B: Tensor

    @property
    def count(self) -> int:
        """Pairs: what the loss is a mean over."""
        return len(self.margin_B)

    def to(self, device: torch.device | str) -> PairBatch:
        return PairBatch(*(t.to(device, non_blocking=True) for t in vars(self).values()))


class Pairs:
    """Rows for `text.batching.Loader`: (chosen ids, rejected ids, margin, chosen safe, other safe).

    The ids are `chat.render`'s; safety is 1, 0 or NO_LABEL. ValueError names a pair too long for the model, or with two
    equal sides.
    """

    def __init__(self, pairs: Sequence[tuple[list[int], list[int], float, float, float]], seq_len: int) -> None:
        require(len(pairs) > 0, "there are no pairs")
        for i, (chosen, rejected, *_) in enumerate(pairs):
            require(chosen != rejected, f"pair {i}: both sides are the same {len(chosen)} tokens")
            longest = max(len(chosen), len(rejected))
            require(longest <= seq_len, f"pair {i} is {longest} tokens long; the model reads {seq_len}")
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, rows: np.ndarray) -> PairBatch:
        chosen, rejected, margin, safe, other_safe = zip(*(self.pairs[r] for r in rows), strict=True)
        sides = [*chosen, *rejected]
        tokens = torch.zeros(len(sides), max(map(len, sides)), dtype=torch.long)
        for row, ids in zip(tokens, sides, strict=True):
            row[:len(ids)] = torch.tensor(ids)
        return PairBatch(tokens, torch.tensor([len(ids) for ids in sides]), torch.tensor(margin, dtype=torch.float32),
                         torch.tensor([*safe, *other_safe], dtype=torch.float32))


def reward_loss(model: RewardModel, batch: PairBatch, safety_weight: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, health): the ranking loss, plus `safety_weight` times the safety loss; health has the accuracy and the gap."""
    chosen_B, rejected_B = model(batch.tokens_2BT, batch.lengths_2B).float().chunk(2)
    loss = ranking_loss(chosen_B, rejected_B, batch.margin_B)
    if safety_weight:
        loss = loss + safety_weight * safety_loss(torch.cat([chosen_B, rejected_B]), batch.safe_2B)
    gap_B = (chosen_B - rejected_B).detach()
    return loss, {"accuracy": (gap_B > 0).float().mean(), "gap": gap_B.mean()}


@torch.no_grad()
def scores(model: RewardModel, rows: Sequence[list[int]], batch_size: int = 64) -> list[float]:
    """The score of each row of ids, longest rows together. ValueError for an empty row."""
    for i, ids in enumerate(rows):
        require(len(ids) > 0, f"row {i} is empty: it has no last token to score")
    was_training = model.training
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = [0.0] * len(rows)
    for start in range(0, len(order), batch_size):
        chosen = order[start:start + batch_size]
        tokens = torch.zeros(len(chosen), max(len(rows[i]) for i in chosen), dtype=torch.long)
        for row, i in zip(tokens, chosen, strict=True):
            row[:len(rows[i])] = torch.tensor(rows[i])
        lengths = torch.tensor([len(rows[i]) for i in chosen])
        for i, value in zip(chosen, model(tokens, lengths).tolist(), strict=True):
            found[i] = value
    model.train(was_training)
    return found
