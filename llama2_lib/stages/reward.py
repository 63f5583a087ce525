"""Reward models (section 3.2.2): a chat model whose head says one number for a whole dialogue.

    L = −log σ(r(x, y_c) − r(x, y_r) − m(grade))  +  λ · BCE(σ(r(x, y)), y is safe)

The first term makes the chosen reply's score larger, by the margin m of its grade: none, small or large (Table 27). The
second is the safety auxiliary loss of Table 29, on pairs with safety labels. The paper prints no formula for it: we take
the binary cross-entropy of both replies of a pair, with a λ of our own. The score is read at the last token, EOS, where the
whole reply has been seen. One forward pass scores chosen and rejected together, packed side by side in the rows of a batch.

The body starts from a chat model, so that "the reward model knows what the chat model knows". There are two, since one
score cannot say "helpful, but not safe". In the paper the helpfulness model learns from all helpfulness pairs and as many
others, the safety model from all safety pairs and a tenth of helpfulness ones.

The preset toy differs in four ways, for want of size. It takes a tenth of others both times, having no public pairs. It
leaves out pairs graded "negligibly better or unsure", whose labels are near coin tosses. Its body is frozen: four layers
trained on comparisons learn these by heart and forget what they knew. And since four layers that foresee the next token
leave none to notice that another one came, a `Judge` of a few blocks on top sees the surprise of each token under the
body. Left out: public data sets in the mixes (`text.comparisons.read` reads them), several turns.

`run` leaves runs/<preset>/reward: helpfulness/ and safety/, each with a body, a head and metrics.jsonl.
"""
from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llama2_lib.config import ModelConfig, Recipe, RewardConfig, RuntimeConfig, require
from llama2_lib.model.logprobs import token_logprobs
from llama2_lib.model.transformer import RMSNorm, Rope, ScalarHead, Transformer, attention_bias
from llama2_lib.text import comparisons as files
from llama2_lib.text.batching import Loader, Movable, Packed, packed
from llama2_lib.text.chat import Dialog, render
from llama2_lib.text.comparisons import Comparison
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint, precision, trainer
from llama2_lib.training.distributed import for_training
from llama2_lib.world.annotators import BOTH_SAFE, BOTH_UNSAFE, CHOSEN_SAFE, GRADES, SIDES

# Table 27: the margin of each grade, from "significantly better" down.
MARGINS: dict[str, tuple[float, ...]] = {"none": (0, 0, 0, 0), "small": (1, 2 / 3, 1 / 3, 0), "large": (3, 2, 1, 0)}
NO_LABEL = -1.0       # of a reply without a safety label
LABELS = {CHOSEN_SAFE: (1.0, 0.0), BOTH_SAFE: (1.0, 1.0), BOTH_UNSAFE: (0.0, 0.0), "": (NO_LABEL, NO_LABEL)}
HEAD = "head.safetensors"
MOST_SURPRISE = 8.0   # nats: a typing error is as bad as nonsense


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


def safety_loss(scores_N: Tensor, safe_N: Tensor, labelled: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of σ(score) with safe (1) or unsafe (0), mean over the labelled replies; 0 if none is labelled.

    safe_N: NO_LABEL (−1) for a reply without a label. labelled: how many there are, where these replies are part of a batch.
    """
    labelled_N = safe_N != NO_LABEL
    losses_N = F.binary_cross_entropy_with_logits(scores_N.float(), safe_N.clamp(min=0).float(), reduction="none")
    return torch.where(labelled_N, losses_N, 0.0).sum() / (labelled_N.sum().clamp(min=1) if labelled is None else labelled)


class RewardModel(nn.Module):
    """A Transformer's body with a ScalarHead. The body's output matrix stays as it is, so that it loads as a chat model.

    judge_layers: 0 trains the whole body, as in the paper. More freeze it, and put a `Judge` of so many blocks on top.
    """

    def __init__(self, body: Transformer, judge_layers: int = 0) -> None:
        super().__init__()
        self.body, self.head = body, ScalarHead(body.config.dim)
        self.judge = Judge(body.config, judge_layers) if judge_layers else None
        self.body.output.requires_grad_(False)
        if self.judge is not None:
            self.body.requires_grad_(False)

    def forward(self, rows: Packed) -> Tensor:
        """The score of each packed sequence, (N,), read at its last token; sequences do not see each other."""
        return self.decide(rows, *self.read(rows))

    def read(self, rows: Packed) -> tuple[Tensor, Tensor | None]:
        """(hidden states of the body, surprise of each token where there is a judge)."""
        h_RTD = self.body.hidden(rows.tokens_RT, rows.positions_RT, rows.segments_RT)
        return h_RTD, None if self.judge is None else surprise(self.body, h_RTD, rows)

    def decide(self, rows: Packed, h_RTD: Tensor, surprise_RT: Tensor | None) -> Tensor:
        """The scores, from what `read` gave: of this model, or of another one with the same body."""
        if self.judge is not None:
            h_RTD = self.judge(h_RTD, surprise_RT, rows, self.body.rope(rows.positions_RT))
        return self.head(h_RTD.flatten(0, 1)[rows.last_N])


def surprise(body: Transformer, h_RTD: Tensor, rows: Packed) -> Tensor:
    """−log p of each token under `body`, whose hidden states are h_RTD, in nats, (R, T); 0 for a sequence's first."""
    logprobs_RT = token_logprobs(body.output(h_RTD[:, :-1]).float(), rows.tokens_RT[:, 1:])
    return F.pad(-logprobs_RT, (1, 0)).masked_fill(rows.positions_RT == 0, 0.0).clamp(max=MOST_SURPRISE)


class Judge(nn.Module):
    """Blocks that weigh what a frozen model read: its hidden states, and how much each token surprised it."""

    def __init__(self, config: ModelConfig, layers: int) -> None:
        super().__init__()
        self.blocks = Transformer(replace(config, n_layers=layers)).layers
        self.surprise = nn.Parameter(torch.zeros(config.dim))
        self.norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, h_RTD: Tensor, surprise_RT: Tensor, rows: Packed, rope: Rope) -> Tensor:
        bias_RTT = attention_bias(0, h_RTD.shape[1], rows.segments_RT, h_RTD.device)
        h_RTD = h_RTD + surprise_RT[..., None] * self.surprise
        for block in self.blocks:
            h_RTD = block(h_RTD, rope, bias_RTT)
        return self.norm(h_RTD)


@dataclass(frozen=True)
class PairBatch(Movable):
    """B pairs as 2B packed sequences, the chosen ones first. safe_2B: 1, 0 or NO_LABEL.

    labelled: this part's share, by pairs, of the labelled replies in the batch that the processes read together.
    """
    rows: Packed
    margin_B: Tensor
    safe_2B: Tensor
    labelled: Tensor

    @property
    def count(self) -> int:
        """Pairs: what the loss is a mean over."""
        return len(self.margin_B)


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
        self.pairs, self.seq_len = list(pairs), seq_len

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, rows: np.ndarray, whole: np.ndarray | None = None) -> PairBatch:
        chosen, rejected, margin, safe, other_safe = zip(*(self.pairs[r] for r in rows), strict=True)
        whole = rows if whole is None else whole
        labelled = max(1, sum(label != NO_LABEL for r in whole for label in self.pairs[r][3:])) * len(rows) / len(whole)
        return PairBatch(packed([*chosen, *rejected], self.seq_len), torch.tensor(margin, dtype=torch.float32),
                         torch.tensor([*safe, *other_safe], dtype=torch.float32), torch.tensor(labelled))


def pairs(comparisons: Sequence[Comparison], tokenizer: Tokenizer, seq_len: int, margins: str = "small") -> Pairs:
    """Comparisons as rows for a Loader, with the margin of each grade and the safety label of each reply."""
    rows = []
    for c in comparisons:
        chosen, rejected = (render(side, tokenizer)[0] for side in c.sides())
        rows.append((chosen, rejected, margin_of(c.grade, margins), *LABELS[c.safety]))
    return Pairs(rows, seq_len)


def reward_loss(model: RewardModel, batch: PairBatch, safety_weight: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, health): the ranking loss, plus `safety_weight` times the safety loss; health has the accuracy and the gap."""
    chosen_B, rejected_B = model(batch.rows).float().chunk(2)
    loss = ranking_loss(chosen_B, rejected_B, batch.margin_B)
    if safety_weight:
        loss = loss + safety_weight * safety_loss(torch.cat([chosen_B, rejected_B]), batch.safe_2B, batch.labelled)
    gap_B = (chosen_B - rejected_B).detach()
    return loss, {"accuracy": (gap_B > 0).float().mean(), "gap": gap_B.mean()}


def scores(model: RewardModel, rows: Sequence[list[int]], batch_size: int = 64) -> list[float]:
    """The score of each row of ids, before any sigmoid. ValueError for an empty row: it has no last token to score."""
    return joint_scores([model], rows, batch_size)[0]


@torch.no_grad()
def joint_scores(models: Sequence[RewardModel], rows: Sequence[list[int]], batch_size: int = 64,
                 dtype: torch.dtype = torch.float32) -> list[list[float]]:
    """The scores of several models. Equal rows are scored once, and models that share a frozen body read together.

    dtype bfloat16 computes matrix products in it. ValueError for an empty row.
    """
    for i, ids in enumerate(rows):
        require(len(ids) > 0, f"row {i} is empty: it has no last token to score")
    modes = [model.training for model in models]
    device, context = models[0].head.out.weight.device, models[0].body.config.max_seq_len
    found: dict[tuple[int, ...], list[float]] = {}
    order = sorted({tuple(ids) for ids in rows}, key=len)
    for model in models:
        model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start:start + batch_size]
        batch, reader, scores_KN = packed(chosen, context).to(device), None, []
        with precision.autocast(device.type, dtype):
            for model in models:
                if model.body is not reader:
                    reader, read = model.body, model.read(batch)
                scores_KN.append(model.decide(batch, *read).tolist())
        found.update(zip(chosen, zip(*scores_KN, strict=True), strict=True))
    for model, mode in zip(models, modes, strict=True):
        model.train(mode)
    return [[found[tuple(ids)][k] for ids in rows] for k in range(len(models))]


def dialogue_scores(model: RewardModel, tokenizer: Tokenizer, dialogues: Sequence[Dialog]) -> list[float]:
    """The score of each dialogue that ends on a reply."""
    return scores(model, [render(d, tokenizer)[0] for d in dialogues])


# -------------------------------------------------------------------------------------------------------------- training

def mix(own: Sequence[Comparison], others: Sequence[Comparison], other_share: float, seed: int) -> list[Comparison]:
    """All of a side's own pairs, and of the others as many as make a share of the whole, or all where there are fewer."""
    count = round(len(own) * other_share / (1 - other_share))
    return [*own, *Random(seed).sample(others, min(count, len(others)))]


def train(model: RewardModel, tokenizer: Tokenizer, comparisons: Sequence[Comparison], config: RewardConfig, seed: int, *,
          runtime: RuntimeConfig | None = None, safety_weight: float = 0.0, title: str = "") -> list[dict]:
    """Train `model` in place on `comparisons` for config.epochs; one record a step comes back."""
    kept = comparisons if config.unsure else [c for c in comparisons if c.grade != GRADES[-1]]
    rows = pairs(kept, tokenizer, model.body.config.max_seq_len, config.margins)
    batches = Loader(rows, config.batch_pairs, seed, epochs=config.epochs, drop_last=False)
    steps = config.epochs * len(batches)
    return trainer.fit(model, batches, partial(reward_loss, safety_weight=safety_weight), config.schedule(steps), steps,
                       runtime=runtime, seed=seed, title=title)


@dataclass(frozen=True)
class Rewards:
    """The two reward models and how they came about."""
    folder: Path
    helpfulness: RewardModel
    safety: RewardModel
    tokenizer: Tokenizer
    history: dict[str, list[dict]]


def run(recipe: Recipe, workdir: Path) -> Rewards:
    """Both reward models, from workdir/sft and workdir/preferences, trained unless workdir/reward holds them."""
    sources = [workdir / "sft", workdir / "preferences"]
    key = checkpoint.fingerprint("reward", recipe.reward, recipe.seed, *map(checkpoint.artifact_key, sources))
    folder = checkpoint.artifact(workdir / "reward", key, lambda tmp: _train_both(recipe, *sources, tmp))
    history = {side: checkpoint.read_metrics(folder / side) for side in SIDES}
    return Rewards(folder, **load_both(folder), tokenizer=Tokenizer.load(folder / "tokenizer.model"), history=history)


def _train_both(recipe: Recipe, chat: Path, preferences: Path, folder: Path) -> None:
    tokenizer, config = Tokenizer.load(chat / "tokenizer.model"), recipe.reward
    models = {side: for_training(fresh(checkpoint.load_model(chat), recipe.seed, config.judge_layers)) for side in SIDES}
    collected = {side: files.read(preferences / f"{side}.jsonl") for side in SIDES}
    for side, history in train_both(models, tokenizer, collected, config, recipe.seed, recipe.runtime).items():
        save(folder / side, models[side])
        checkpoint.write_metrics(folder / side, history)
    shutil.copy(chat / "tokenizer.model", folder / "tokenizer.model")


def train_both(models: Mapping[str, RewardModel], tokenizer: Tokenizer, collected: Mapping[str, Sequence[Comparison]],
               config: RewardConfig, seed: int, runtime: RuntimeConfig | None = None) -> dict[str, list[dict]]:
    """Train both models in place, each on its own pairs and its share of the other's; the records of the steps come back."""
    shares, weights = (config.other_share, config.helpful_share), (0.0, config.safety_weight)
    return {side: train(models[side], tokenizer, mix(collected[side], collected[other], share, seed), config, seed,
                        runtime=runtime, safety_weight=weight, title=f"{side} reward")
            for side, other, share, weight in zip(SIDES, SIDES[::-1], shares, weights, strict=True)}


def fresh(body: Transformer, seed: int, judge_layers: int = 0) -> RewardModel:
    """An untrained reward model on `body`; all that is new in it is drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RewardModel(body, judge_layers)


def save(folder: Path, model: RewardModel) -> None:
    """Write the body as a chat model is written, and what sits on it beside it."""
    checkpoint.save_model(folder, model.body)
    new = {name: t.detach().contiguous().clone() for name, t in model.state_dict().items() if not name.startswith("body.")}
    save_file(new, folder / HEAD, {"judge_layers": str(len(model.judge.blocks) if model.judge is not None else 0)})


def load(folder: Path) -> RewardModel:
    """The reward model that `save` wrote."""
    body = checkpoint.load_model(folder)
    with safe_open(folder / HEAD, "pt") as file:
        model = RewardModel(body, int(file.metadata()["judge_layers"]))
    model.load_state_dict({**{f"body.{name}": t for name, t in body.state_dict().items()}, **load_file(folder / HEAD)})
    return model.eval()


def load_both(folder: Path) -> dict[str, RewardModel]:
    """The reward models of both sides that lie in `folder`; with equal bodies they share one."""
    models = {side: load(folder / side) for side in SIDES}
    one, other = models.values()
    if all(torch.equal(a, b) for a, b in zip(one.body.parameters(), other.body.parameters(), strict=True)):
        other.body = one.body
    return models
