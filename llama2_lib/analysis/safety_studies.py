"""Safety, measured: what RLHF, context distillation and safety data do to replies, and what it costs (section 4.2).

Every study takes models and returns plain numbers; the claims ledger runs it over seeds. "Held out" topics stand in no page,
demonstration, preference or prompt of RLHF. Gold and violations are the oracle's, scores the safety reward's after the
sigmoid. A false refusal is a harmless prompt declined; the paper counts them with a trained classifier, here the
oracle reads the reply. Left out: ratings on five points (section 4.4), prompts of several turns but for the red team's.
"""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama2_lib.analysis.chat import Judged, judged, mean_gold
from llama2_lib.analysis.redteam import Attempt, Rate, rate
from llama2_lib.analysis.rlhf_studies import LOW, UNSAFE
from llama2_lib.config import Recipe, require
from llama2_lib.model.replies import Scorer, as_dialog
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import distillation, reward, sft
from llama2_lib.stages.distillation import Distilled
from llama2_lib.stages.reward import RewardModel
from llama2_lib.stages.rlhf import Version
from llama2_lib.text.batching import packed
from llama2_lib.text.chat import Dialog, Message, dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.world import dialogs
from llama2_lib.world.annotators import HELPFULNESS, SAFE_FROM, SAFETY
from llama2_lib.world.dialogs import HELPFUL, Prompt, prompts
from llama2_lib.world.facts import TEST, World
from llama2_lib.world.prompts import BORDERLINE, HELD_OUT

SHARES = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)      # of the safety demonstrations: the six mixes of Figure 15
POOL = 1 / 9                                   # safety demonstrations there are, for each helpful one: 0.1M to 0.9M


def unsafe_prompts(world: World, count: int, seed: int, split: str = HELD_OUT) -> list[Prompt]:
    """Unsafe prompts of a split, held out by default."""
    return list(prompts(world, count, seed, UNSAFE, split))


@dataclass(frozen=True)
class Answers:
    """Judged replies of one model to unsafe, to helpful and to borderline prompts: the three sides of its safety."""
    unsafe: list[Judged]
    helpful: list[Judged]
    borderline: list[Judged]

    @property
    def gold(self) -> float:
        return mean_gold(self.unsafe)

    @property
    def helpful_gold(self) -> float:
        return mean_gold(self.helpful)

    @property
    def violations(self) -> Rate:
        """How many replies to unsafe prompts the oracle calls unsafe."""
        return rate(violates(j) for j in self.unsafe)

    @property
    def refused(self) -> Rate:
        """False refusals on helpful prompts."""
        return rate(j.gold.declined for j in self.helpful)

    @property
    def borderline_refused(self) -> Rate:
        """False refusals on borderline prompts."""
        return rate(j.gold.declined for j in self.borderline)


def violates(j: Judged) -> bool:
    """True if the oracle calls the reply unsafe."""
    return j.gold.safety < SAFE_FROM


def ask(model: Transformer, tokenizer: Tokenizer, world: World, seed: int, count: int = 400,
        split: str = HELD_OUT) -> Answers:
    """One reply at temperature 1 to each of `count` unsafe prompts of a split, and to half as many test prompts of each
    other side."""
    asked = (unsafe_prompts(world, count, seed, split),
             *(list(prompts(world, count // 2, seed, mix, TEST)) for mix in (HELPFUL, {BORDERLINE: 1.0})))
    return Answers(*(judged(model, tokenizer, world, a, 1.0, seed) for a in asked))


def scored(model: RewardModel, tokenizer: Tokenizer, found: Sequence[Judged]) -> np.ndarray:
    """The reward's score of each reply, 0…1."""
    return dialogue_scores(model, tokenizer, [as_dialog(j.prompt) for j in found], [j.reply.text for j in found])


def dialogue_scores(model: RewardModel, tokenizer: Tokenizer, asked: Sequence[Dialog], said: Sequence[str]) -> np.ndarray:
    """The reward's score, 0…1, of a reply to each dialogue; 0 for an empty one, which the chat format has no room for."""
    scores_N, whole = np.zeros(len(said)), [i for i, text in enumerate(said) if text]
    dialogues = [(*asked[i], Message("assistant", said[i])) for i in whole]
    scores_N[whole] = torch.tensor(reward.dialogue_scores(model, tokenizer, dialogues)).sigmoid().numpy()
    return scores_N


# ------------------------------------------------------------------------------------------------------------ safety RLHF

def safety_rlhf_study(versions: Sequence[Version], world: World, seed: int, count: int = 600) -> Mapping[str, float]:
    """Violations on held-out and on test topics, and gold on helpful prompts, for each version."""
    found = {}
    for v in versions:
        held_out, test = (ask(v.policy, v.tokenizer, world, seed, count, split) for split in (HELD_OUT, TEST))
        found |= {f"violations_{v.name}": held_out.violations.share, f"violations_test_{v.name}": test.violations.share,
                  f"helpful_{v.name}": held_out.helpful_gold}
    first, last = versions[0].name, versions[-1].name
    require(found[f"violations_{first}"] > 0, f"{first} violates nowhere: there is nothing to halve")
    return found | {"ratio": found[f"violations_{last}"] / found[f"violations_{first}"],
                    "helpful_loss": found[f"helpful_{first}"] - found[f"helpful_{last}"]}


# ----------------------------------------------------------------------------------------------------------- data scaling

def demonstrations(recipe: Recipe, world: World, share: float) -> list[Dialog]:
    """All helpful demonstrations of recipe.sft and `share` of the safety ones, which are a tenth of all there are."""
    config = replace(recipe.sft, safety=0.0)
    helpful = list(sft.demonstrations(world, config, recipe.seed))
    rng, count = Random(f"safety pool {recipe.seed}"), round(share * POOL * len(helpful))
    asked = prompts(world, count, recipe.seed + 81, UNSAFE)
    return [*helpful, *(dialog(p.text, dialogs.demonstration(world, p, rng)) for p in asked)]


def mixed(recipe: Recipe, folder: Path, world: World, share: float, helpful: int = 900) -> Transformer:
    """The base model fine-tuned on one mix with so many helpful demonstrations, in folder/mixes: trained the first time."""
    require(0 <= share <= 1, f"the share of the safety data lies in 0…1, got {share}")
    recipe, base = replace(recipe, sft=replace(recipe.sft, demonstrations=helpful)), folder / "pretrain"

    def train() -> Transformer:
        model, data = checkpoint.load_model(base), demonstrations(recipe, world, share)
        tokenizer = Tokenizer.load(base / "tokenizer.model")
        sft.tune(model, tokenizer, iter(data), recipe.sft, recipe, title=f"{share:.0%} safety data")
        return model
    key = checkpoint.fingerprint("mix", share, POOL, recipe.sft, recipe.seed, checkpoint.artifact_key(base))
    return checkpoint.trained_once(folder / "mixes" / f"{helpful}-{share:g}", key, train)


@dataclass(frozen=True)
class Mix:
    """What a model tuned on a mix answers, and its scores: for safety on unsafe prompts, for helpfulness on helpful ones."""
    answers: Answers
    safety_N: np.ndarray
    helpfulness_N: np.ndarray

    @property
    def tail(self) -> float:
        """Share of the replies to unsafe prompts that score below LOW."""
        return float((self.safety_N < LOW).mean())


def measure_mix(model: Transformer, rewards: Mapping[str, RewardModel], tokenizer: Tokenizer, world: World, seed: int,
                count: int = 400) -> Mix:
    """Figures 15 and 33 for one model, on test topics."""
    found = ask(model, tokenizer, world, seed, count, TEST)
    return Mix(found, scored(rewards[SAFETY], tokenizer, found.unsafe),
               scored(rewards[HELPFULNESS], tokenizer, found.helpful))


def data_scaling_study(recipe: Recipe, folder: Path, rewards: Mapping[str, RewardModel], tokenizer: Tokenizer,
                       world: World, helpful: int = 1_800) -> Mapping[str, float]:
    """Figures 15 and 33: six mixes, each from the base model; the tail, helpfulness and false refusals of each."""
    models = {s: mixed(recipe, folder, world, s, helpful) for s in SHARES}
    found = {s: measure_mix(model, rewards, tokenizer, world, recipe.seed) for s, model in models.items()}
    numbers = {}
    for s, m in found.items():
        a = m.answers
        numbers |= {f"safety_{s:g}": float(m.safety_N.mean()), f"tail_{s:g}": m.tail, f"helpful_{s:g}": a.helpful_gold,
                    f"violations_{s:g}": a.violations.share, f"refused_{s:g}": a.refused.share,
                    f"refused_borderline_{s:g}": a.borderline_refused.share}
    first, last = found[SHARES[0]], found[SHARES[-1]]
    return numbers | {"tail": last.tail, "tail_change": last.tail - first.tail,
                      "helpful_loss": first.answers.helpful_gold - last.answers.helpful_gold,
                      "borderline_rise": last.answers.borderline_refused.share - first.answers.borderline_refused.share}


# ---------------------------------------------------------------------------------------------------- context distillation

ARMS = ("no preprompt", "generic", "targeted", "targeted, gated")


def arms(d: Distilled, scorer: Scorer, world: World, recipe: Recipe) -> dict[str, Transformer]:
    """The taught model as it is ("before"), and distilled in each of the ways of ARMS.

    "no preprompt" is the control: the same training on replies to bare prompts, which teaches what the model does already.
    "targeted, gated" is what `distillation.run` left.
    """
    config, asked = recipe.distillation, list(prompts(world, recipe.distillation.prompts, recipe.seed, UNSAFE))
    found = {"before": d.taught}
    for name in ARMS[:-1]:
        pairs = distillation.collect(d.taught, d.tokenizer, asked, distillation.PREPROMPTS.get(name), scorer,
                                     config.temperature, recipe.seed)
        found[name] = copy.deepcopy(d.taught)
        data = distillation.learned(pairs, gate=False)
        distillation.tune(found[name], d.tokenizer, data, config, recipe.seed, recipe.runtime)
    return {**found, ARMS[-1]: d.policy}


def already_safe(taught: Transformer, tokenizer: Tokenizer, judge: RewardModel, world: World, asked: Sequence[Prompt],
                 seed: int, copies: int = 4) -> np.ndarray:
    """True for the half of the prompts to which the model's own replies, none of them used later, score best on average."""
    means_N = np.mean([scored(judge, tokenizer, judged(taught, tokenizer, world, asked, 1.0, seed + 90 + i))
                       for i in range(copies)], axis=0)
    return means_N >= np.median(means_N)


def distillation_study(d: Distilled, judge: RewardModel, scorer: Scorer, world: World, recipe: Recipe,
                       count: int = 400) -> Mapping[str, float]:
    """Figure 16: gold and safety score on held-out unsafe prompts for each arm, and what it costs on other prompts."""
    asked, found = unsafe_prompts(world, count, recipe.seed), {}
    safe_N = already_safe(d.taught, d.tokenizer, judge, world, asked, recipe.seed)
    for name, model in arms(d, scorer, world, recipe).items():
        a, key = ask(model, d.tokenizer, world, recipe.seed, count), name.replace(", ", "_").replace(" ", "_")
        found |= {f"gold_{key}": a.gold, f"violations_{key}": a.violations.share, f"helpful_{key}": a.helpful_gold,
                  f"score_{key}": float(scored(judge, d.tokenizer, a.unsafe).mean()),
                  f"already_safe_{key}": mean_gold([j for j, safe in zip(a.unsafe, safe_N, strict=True) if safe]),
                  f"refused_borderline_{key}": a.borderline_refused.share}
    return found | {"gain": found["gold_targeted_gated"] - found["gold_before"],
                    "over_control": found["gold_targeted"] - found["gold_no_preprompt"],
                    "gate_on_safe": found["already_safe_targeted_gated"] - found["already_safe_targeted"]}


# ----------------------------------------------------------------------------------------------------------------- guards

@dataclass(frozen=True)
class Caught:
    """What a guard stopped: of what it stopped, and of what it should have."""
    precision: Rate
    recall: Rate


def caught(stopped: Sequence[bool], bad: Sequence[bool]) -> Caught:
    """Precision and recall of a guard. ValueError if it stopped nothing, or there was nothing to stop."""
    return Caught(rate(b for s, b in zip(stopped, bad, strict=True) if s),
                  rate(s for s, b in zip(stopped, bad, strict=True) if b))


class PromptGuard(nn.Module):
    """A guard at the input: a logistic regression on what the safety reward's blocks make of a prompt's last token."""

    def __init__(self, judge: RewardModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.judge, self.tokenizer, self.line = judge.eval(), tokenizer, nn.Linear(judge.body.config.dim, 1)

    @torch.no_grad()
    def features(self, asked: Sequence[Dialog]) -> Tensor:
        """The hidden state at the last token of each dialogue that waits for a reply, (N, D)."""
        rows = packed([render(d, self.tokenizer)[0] for d in asked], self.judge.body.config.max_seq_len)
        h_RTD, surprise_RT = self.judge.read(rows)
        if self.judge.judge is not None:
            h_RTD = self.judge.judge(h_RTD, surprise_RT, rows, self.judge.body.rope(rows.positions_RT))
        return h_RTD.flatten(0, 1)[rows.last_N].float()

    def learn(self, asked: Sequence[Prompt], decay: float = 1e-2, steps: int = 60) -> PromptGuard:
        """Fit the line to tell unsafe prompts from others, each kind weighed as heavily; returns itself."""
        x_ND, y_N = self.features(list(map(as_dialog, asked))), torch.tensor([float(p.unsafe) for p in asked])
        require(0 < float(y_N.mean()) < 1, "a guard learns from unsafe and from harmless prompts: one kind is missing")
        weight_N = torch.where(y_N > 0, 0.5 / y_N.mean(), 0.5 / (1 - y_N.mean()))
        self.line.weight.data.zero_()
        self.line.bias.data.zero_()
        optimizer = torch.optim.LBFGS(self.line.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(self.line(x_ND)[:, 0], y_N, weight_N)
            loss = loss + decay * self.line.weight.square().sum()
            loss.backward()
            return loss
        optimizer.step(closure)
        return self

    @torch.no_grad()
    def scores(self, asked: Sequence[Dialog]) -> list[float]:
        """log odds that each dialogue asks for something unsafe."""
        return self.line(self.features(asked))[:, 0].tolist()


def layers(found: Sequence[Attempt], guard: PromptGuard, judge: RewardModel, threshold: float = 0.5) -> dict[str, Rate]:
    """Violations of the red team that get past the model alone, past each guard and past both.

    "both, if independent" is what both would let through if their misses on violations had nothing to do with each other.
    """
    hit_N = np.array([a.violates for a in found])
    passed_N = np.array(guard.scores([a.asked for a in found])) <= 0
    shown_N = dialogue_scores(judge, guard.tokenizer, [a.asked for a in found], [a.reply for a in found]) >= threshold
    apart = hit_N.sum() * passed_N[hit_N].mean() * shown_N[hit_N].mean() if hit_N.any() else 0
    return {"the model alone": rate(hit_N), "with the input guard": rate(hit_N & passed_N),
            "with the output guard": rate(hit_N & shown_N), "with both": rate(hit_N & passed_N & shown_N),
            "both, if independent": Rate(round(apart), len(found))}
