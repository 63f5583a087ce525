"""The paper's ablations of reward models, each on one seed's preference data (Tables 7, 8, 28 and 29, Figures 6 and 29).

Every study takes the artifacts of a run and returns plain numbers; the claims ledger runs it over seeds. What differs
between the arms of a study is named in it; data order, initial head and schedule are the same. Left out: GPT-4 and open
reward models as baselines.
"""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean

import numpy as np
import torch

from llama2_lib.analysis import rewards
from llama2_lib.analysis.agreement import gwet_ac2
from llama2_lib.analysis.calibration import by_level
from llama2_lib.analysis.rewards import AVERAGE, FreshPair
from llama2_lib.analysis.scaling import resized
from llama2_lib.config import Recipe
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import preferences, pretrain, reward, road, sft
from llama2_lib.stages.reward import RewardModel
from llama2_lib.text.comparisons import Comparison
from llama2_lib.text.mixture import documents
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import trainer
from llama2_lib.world.annotators import GRADES, HELPFULNESS, LIKERT, SAFETY, SIDES, VENDORS, panel
from llama2_lib.world.dialogs import prompts
from llama2_lib.world.facts import World, world_for

SHORT = {GRADES[0]: "significantly", GRADES[1]: "better", GRADES[2]: "slightly", GRADES[3]: "negligibly"}
ROLLOUT_TEMPERATURE = 1.0        # at which reinforcement learning will sample, so at which the reward must be right
FRESH_PROMPTS = 3_000


@dataclass(frozen=True)
class Bench:
    """What the studies of one run share: chat model, tokenizer, pairs by side, world, recipe."""
    recipe: Recipe
    world: World
    chat: Transformer
    tokenizer: Tokenizer
    data: preferences.Preferences

    def trained(self, pairs: Sequence[Comparison], *, body: Transformer | None = None, safety_weight: float = 0.0,
                surprise: bool = True, **changes: object) -> RewardModel:
        """A reward model on `pairs`, from the chat model or another body; `changes` are fields of RewardConfig.

        surprise False leaves the judge, where there is one, without the surprise of the tokens.
        """
        config = replace(self.recipe.reward, **changes)
        model = reward.fresh(copy.deepcopy(body or self.chat), self.recipe.seed, config.judge_layers)
        if model.judge is not None:
            model.judge.surprise.requires_grad_(surprise)
        reward.train(model, self.tokenizer, pairs, config, self.recipe.seed, runtime=self.recipe.runtime,
                     safety_weight=safety_weight)
        return model.eval()

    def accuracy(self, model: RewardModel, side: str = HELPFULNESS) -> float:
        """Accuracy on the held-out pairs of a side."""
        return rewards.accuracy(model, self.tokenizer, self.data.test[side])

    def tested_on(self, count: int) -> Bench:
        """The same with the first `count` held-out pairs of each side: what a short training needs."""
        test = {side: pairs[:count] for side, pairs in self.data.test.items()}
        return replace(self, data=replace(self.data, test=test))

    def fresh(self, seed: int = 1, count: int = FRESH_PROMPTS, split: str = "train") -> list[FreshPair]:
        """New pairs of the chat model's own replies, at the temperature of rollouts."""
        return rewards.fresh_pairs(self.chat, self.tokenizer, self.world, count, ROLLOUT_TEMPERATURE,
                                   self.recipe.seed + 1000 * seed, split=split)


def bench(recipe: Recipe, workdir: str | Path = "") -> Bench:
    """The shared things of a run, its preference data built where it is missing."""
    data, chat = road.build("preferences", recipe, workdir), road.build("sft", recipe, workdir)
    return Bench(recipe, world_for(recipe.world), chat.model.eval(), chat.tokenizer, data)


# ----------------------------------------------------------------------------------------------------------- Tables 7 and 8

def grades_study(b: Bench, model: RewardModel) -> Mapping[str, float]:
    """Table 8: accuracy by grade, and the noise ceiling."""
    found = rewards.accuracy_by_grade(model, b.tokenizer, b.data.test[HELPFULNESS])
    by_grade = {SHORT[g]: found[g] for g in GRADES}
    ceiling = rewards.noise_ceiling(b.world, b.data.test[HELPFULNESS])
    steps = [a - c for a, c in pairwise(by_grade.values())]
    return {**by_grade, AVERAGE: found[AVERAGE], "ceiling": ceiling, "over_ceiling": found[AVERAGE] - ceiling,
            "smallest_step": min(steps)}


def fresh_study(b: Bench, model: RewardModel) -> Mapping[str, float]:
    """How often fresh replies are ordered right: to prompts as reinforcement learning will have them, and to others."""
    return {name: rewards.gold_order_accuracy(model, b.tokenizer, b.fresh(split=split))[AVERAGE]
            for name, split in (("fresh", "train"), ("fresh_other_prompts", "test"))}


def domains_study(b: Bench, models: Mapping[str, RewardModel]) -> Mapping[str, float]:
    """Table 7: each reward model on each side's test pairs, beside one model of the same size on all the data."""
    joint = b.trained([*b.data.train[HELPFULNESS], *b.data.train[SAFETY]])
    found = {f"{name}_on_{side}": b.accuracy(model, side)
             for name, model in {**models, "joint": joint}.items() for side in SIDES}
    for side, other in (SIDES, SIDES[::-1]):
        found[f"{side}_over_other"] = found[f"{side}_on_{side}"] - found[f"{other}_on_{side}"]
        found[f"{side}_over_joint"] = found[f"{side}_on_{side}"] - found[f"joint_on_{side}"]
    return found


# -------------------------------------------------------------------------------------------------------- the course's own

def readings_study(b: Bench, share: float = 0.5, fresh: Sequence[FreshPair] = ()) -> Mapping[str, float]:
    """Three ways for a reward to read: a whole body that is trained, as in the paper; a frozen body under a judge; and a
    judge that also sees each token's surprise. The trained body at 5e-4 (a higher rate spoils it), the others as set."""
    some, fresh, found = part(b.data.train[HELPFULNESS], share), fresh or b.fresh(), {}
    slow = replace(b.recipe.reward.optim, peak_lr=5e-4)
    arms = {"trained_body": {"judge_layers": 0, "optim": slow}, "judge": {"surprise": False}, "judge_and_surprise": {}}
    for name, changes in arms.items():
        model = b.trained(some, **changes)
        found[f"{name}_accuracy"] = b.accuracy(model)
        found[f"{name}_fresh"] = rewards.gold_order_accuracy(model, b.tokenizer, fresh)[AVERAGE]
    return found | {"gain_of_the_judge": found["judge_fresh"] - found["trained_body_fresh"],
                    "gain_of_surprise": found["judge_and_surprise_fresh"] - found["judge_fresh"]}


# ---------------------------------------------------------------------------------------------------------- Tables 28 and 29

def margins_study(b: Bench, share: float = 1.0, fresh: Sequence[FreshPair] = ()) -> Mapping[str, float]:
    """Table 28: no, small and large margins on a share of the pairs; the spread of scores shows what Figure 27 does."""
    some, found = part(b.data.train[HELPFULNESS], share), {}
    for margins in reward.MARGINS:
        model = b.trained(some, margins=margins)
        gaps = rewards.gaps(model, b.tokenizer, b.data.test[HELPFULNESS])
        by_grade = rewards.graded(gaps, b.data.test[HELPFULNESS])
        found |= {f"{margins}_{SHORT.get(g, g)}": value for g, value in by_grade.items()}
        found[f"{margins}_gap"] = float(np.mean(gaps))
        if fresh:
            found[f"{margins}_fresh"] = rewards.gold_order_accuracy(model, b.tokenizer, fresh)[AVERAGE]
    return found | {"gain_small": found[f"small_{AVERAGE}"] - found[f"none_{AVERAGE}"]}


def auxiliary_study(b: Bench) -> Mapping[str, float]:
    """Table 29: the safety model with and without the auxiliary loss.

    A ranking loss leaves the zero of the scores to chance. So the model without the other loss is measured twice: as it is,
    and with its zero at the mean score of training replies, as Ouyang et al. (2022) set it before reinforcement learning.
    """
    config = b.recipe.reward
    mix = reward.mix(b.data.train[SAFETY], b.data.train[HELPFULNESS], config.helpful_share, b.recipe.seed)
    found, test = {}, b.data.test[SAFETY]
    for name, weight in (("without", 0.0), ("with", config.safety_weight)):
        model = b.trained(mix, safety_weight=weight)
        zeros = {name: 0.0}
        if not weight:
            zeros["without_centred"] = rewards.mean_score(model, b.tokenizer, mix[:1_000])
        for arm, zero in zeros.items():
            recall, alarms = rewards.below_zero(model, b.tokenizer, test, zero)
            found |= {f"recall_{arm}": recall, f"false_alarms_{arm}": alarms, f"balanced_{arm}": (recall + 1 - alarms) / 2}
        found[f"accuracy_{name}"] = b.accuracy(model, SAFETY)
    return found | {"recall_gain": found["recall_with"] - found["recall_without"],
                    "recall_gain_centred": found["recall_with"] - found["recall_without_centred"],
                    "balanced_gain": found["balanced_with"] - found["balanced_without_centred"]}


# ------------------------------------------------------------------------------------------------------------------ Figure 6

def part(pairs: Sequence[Comparison], share: float) -> Sequence[Comparison]:
    """The first `share` of the pairs, in the order in which they were collected."""
    return pairs[:max(1, round(share * len(pairs)))]


def small_chat(recipe: Recipe, workdir: str | Path, fraction: float) -> Transformer:
    """A chat model of a fraction of the recipe's width, pretrained and fine-tuned as the recipe says."""
    arm = replace(recipe, model=resized(recipe.model, fraction), pretrain=replace(recipe.pretrain, snapshots=0))
    place = road.build("corpus", arm, workdir)
    tokenizer = Tokenizer.load(place / "tokenizer.model")
    train_N, _ = pretrain.split(pretrain.token_stream(documents(place, arm.mixture, arm.seed), tokenizer), arm.pretrain)
    torch.manual_seed(arm.seed)
    model = Transformer(arm.model)
    trainer.fit(model, pretrain.loader(train_N, arm.pretrain, arm.seed), pretrain.pretrain_loss, arm.pretrain.optim,
                arm.pretrain.steps, runtime=arm.runtime, seed=arm.seed)
    sft.tune(model, tokenizer, sft.demonstrations(world_for(arm.world), arm.sft, arm.seed), arm.sft, arm)
    return model


def data_study(b: Bench, bodies: Mapping[str, Transformer], shares: Sequence[float]) -> Mapping[str, list[float]]:
    """Figure 6: test accuracy of each body after each share of the helpfulness pairs."""
    return {name: [b.accuracy(b.trained(part(b.data.train[HELPFULNESS], share), body=body)) for share in shares]
            for name, body in bodies.items()}


# ------------------------------------------------------------------------------------------------- Figure 29 and agreement

def rated_replies(b: Bench, model: RewardModel, count: int = 3_000) -> list[tuple[float, int]]:
    """(score, median rating of three annotators) of replies of mixed quality: the chat model at three temperatures."""
    asked = list(prompts(b.world, count, b.recipe.seed + 29))
    said = []
    for i, temperature in enumerate((0.5, 0.9, 1.3)):
        write = preferences.writer(b.chat, b.tokenizer, temperature, b.recipe.seed)
        said += zip(asked[i::3], write(asked[i::3]), strict=True)
    kept = [(prompt, reply) for prompt, reply in said if reply.strip()]
    return rewards.likert(model, b.tokenizer, b.world, *zip(*kept, strict=True), b.recipe.seed)


def likert_study(rated: Sequence[tuple[float, int]]) -> Mapping[str, float]:
    """Figure 29 in numbers: the mean score at each rating, the least rise from one to the next, and the rank correlation."""
    means = by_level(*zip(*rated, strict=True))
    levels = list(means.values())
    return {**{f"rating_{rating}": mean for rating, mean in means.items()}, "levels": len(levels),
            "correlation": rank_correlation(*zip(*rated, strict=True)), "top_minus_bottom": levels[-1] - levels[0],
            "smallest_step": min(high - low for low, high in pairwise(levels))}


def rank_correlation(a_N: Sequence[float], b_N: Sequence[float]) -> float:
    """Spearman's: the correlation of the ranks, ties sharing the mean of theirs."""
    ranks = [_ranks(np.asarray(x, dtype=float)) for x in (a_N, b_N)]
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(x_N: np.ndarray) -> np.ndarray:
    _, index_N, counts = np.unique(x_N, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index_N]


def agreement_study(world: World, pairs: Sequence[FreshPair], seed: int, clear: float = 0.4, close: float = 0.15,
                    raters: int = 3) -> Mapping[str, float]:
    """C34: Gwet's AC2 of `raters` annotators on the seven-point scale, on close pairs and on clear ones."""
    rng, found = Random(f"agreement {seed}"), {}
    groups = {"close": [p for p in pairs if p.gap <= close], "clear": [p for p in pairs if p.gap >= clear]}
    for name, group in groups.items():
        counts_NK = []
        for p in group:
            votes = panel(VENDORS[1:2] * raters, world, p.prompt, p.replies, rng)
            counts_NK.append([votes.count(k) for k in range(LIKERT)])
        found[f"ac2_{name}"] = gwet_ac2(counts_NK)
        found[f"pairs_{name}"] = len(group)
        found[f"gap_{name}"] = fmean(p.gap for p in group)
    return found | {"clear_minus_close": found["ac2_clear"] - found["ac2_close"]}
