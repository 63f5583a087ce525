"""Rejection sampling, PPO and the versions, measured by the reward and by the oracle (section 3.2.3, Figures 7, 8, 11, 20).

Every study takes models or the versions of a run and returns plain numbers; the claims ledger runs it over seeds. Gold is
the oracle's; no training sees it, but where PPO is given the oracle in place of a reward, to tell faults of the one from
faults of the other. Left out: people.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean

import numpy as np

from llama2_lib.analysis import rewards
from llama2_lib.analysis.chat import judged
from llama2_lib.analysis.reward_studies import bench, part, small_chat
from llama2_lib.analysis.rewards import AVERAGE
from llama2_lib.config import PPOConfig, Recipe
from llama2_lib.model.replies import Scorer
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import ppo, rejection, reward, rlhf, road, sft
from llama2_lib.stages.rejection import Candidates
from llama2_lib.stages.rlhf import Version
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.world.annotators import HELPFULNESS
from llama2_lib.world.dialogs import HELPFUL, Prompt, prompts
from llama2_lib.world.facts import TEST, World
from llama2_lib.world.oracle import score

UNSAFE = {"unsafe": 1.0}
URGENT = {kind: HELPFUL[kind] for kind in ("fact", "sum")}      # what the second round of `bag_study` asks for
SMALL = 0.75         # of the width and the layers: the student of `distillation_study`
LOW = 0.2            # of a score after the sigmoid: the tail of Figure 20


# ---------------------------------------------------------------------------------------------------------- two axes of gold

@dataclass(frozen=True)
class Axes:
    """Mean gold on harmless prompts and on unsafe ones."""
    helpful: float
    safe: float


def axes(model: Transformer, tokenizer: Tokenizer, world: World, count: int = 600, temperature: float = 1.0,
         seed: int = 0) -> Axes:
    """Gold of one reply to each of `count` harmless and count // 3 unsafe test prompts."""
    sides = []
    for mix, n in ((HELPFUL, count), (UNSAFE, count // 3)):
        found = judged(model, tokenizer, world, list(prompts(world, n, seed, mix, TEST)), temperature, seed)
        sides.append(fmean(j.gold.total for j in found))
    return Axes(*sides)


def gold_scorer(world: World, tokenizer: Tokenizer) -> Scorer:
    """The oracle in the place of a reward model: for controls only."""
    def scorer(asked: Sequence[Prompt], dialogues: Sequence[list[int]]) -> list[float]:
        return [score(world, p, reply_of(tokenizer, ids)).total for p, ids in zip(asked, dialogues, strict=True)]
    return scorer


def reply_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of the last reply in a dialogue's ids."""
    return tokenizer.decode(list(ids)).rsplit("[/INST]", 1)[-1].strip()


# ----------------------------------------------------------------------------------------------------------- best of K

def gold_of(world: World, found: Candidates) -> np.ndarray:
    """The oracle's score of each candidate, (prompts, K)."""
    return np.array([[score(world, p, reply).total for reply in row]
                     for p, row in zip(found.prompts, found.replies, strict=True)])


def gold_of_the_best(world: World, found: Candidates, sizes: Sequence[int]) -> dict[int, float]:
    """Mean gold of the reply that the reward picks among the first k, for each k of `sizes`."""
    gold_NK = gold_of(world, found)
    return {k: float(np.take_along_axis(gold_NK, found.scores_NK[:, :k].argmax(1)[:, None], 1).mean()) for k in sizes}


def best_of_n_kl(n: int) -> float:
    """KL(best of n ‖ policy) in nats, at most log n − (n − 1) / n: equal where no two replies are the same."""
    return math.log(n) - (n - 1) / n


def best_of_study(v: Version, world: World, recipe: Recipe, asked: int = 200, samples: int = 64) -> Mapping[str, float]:
    """Figure 7: the reward's maximum and median over K replies, and the gold of the best.

    The median's drift is measured from samples / 4 on: of few replies with skewed scores it lies nearer to the mean.
    """
    asked_N = list(islice(rlhf.asked(world, recipe.seed + 71), asked))
    found = rejection.candidates(v.policy, v.tokenizer, asked_N, whole(rlhf.scorer(v.rewards, recipe.runtime)), samples, 1.0,
                                 recipe.seed)
    found = replace(found, scores_NK=found.scores_NK.clip(0))      # a reply without an end counts 0 in means, not −inf
    best, median = found.curve()
    sizes = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples]
    gold = gold_of_the_best(world, found, sizes)
    steps = [best[b - 1] - best[a - 1] for a, b in pairwise(sizes)]
    return {**{f"gold_{k}": g for k, g in gold.items()}, **{f"reward_{k}": float(best[k - 1]) for k in sizes},
            "smallest_step_of_max": float(min(steps)), "median_drift": float(abs(median[-1] - median[samples // 4 - 1])),
            "gold_gain_16": gold[16] - gold[1], "gold_gain_64": gold[sizes[-1]] - gold[1]}


def whole(scorer: Scorer) -> Scorer:
    """The scorer as a probability, 0 to 1: a reply that does not end counts 0 in means, not −inf."""
    def squashed(asked: Sequence[Prompt], dialogues: Sequence[list[int]]) -> list[float]:
        return [1 / (1 + math.exp(-s)) for s in scorer(asked, dialogues)]
    return squashed


def temperature_study(versions: Mapping[str, Version], judge: Scorer, world: World, seed: int, asked: int = 200,
                      samples: int = 16,
                      temperatures: Sequence[float] = (0.6, 0.8, 1.0, 1.2, 1.4)) -> Mapping[str, float]:
    """Figure 8: the mean best-of-K reward at each temperature, for each version, by one and the same judge."""
    asked_N, found = list(islice(rlhf.asked(world, seed + 72), asked)), {}
    for name, v in versions.items():
        curve = []
        for temperature in temperatures:
            c = rejection.candidates(v.policy, v.tokenizer, asked_N, whole(judge), samples, temperature, seed)
            curve.append(float(c.scores_NK.clip(0).max(1).mean()))
            found[f"{name}_{temperature}"] = curve[-1]
        found[f"best_{name}"] = _peak(temperatures, curve)
    first, last = list(versions)[0], list(versions)[-1]
    return found | {"shift": found[f"best_{last}"] - found[f"best_{first}"]}


def _peak(x: Sequence[float], y: Sequence[float]) -> float:
    """Where the parabola through the highest point and its neighbours has its top; at an end, the end."""
    i = int(np.argmax(y))
    if i in (0, len(y) - 1):
        return float(x[i])
    a, b, _ = np.polyfit(x[i - 1:i + 2], y[i - 1:i + 2], 2)
    return float(-b / (2 * a))


# -------------------------------------------------------------------------------------------- the bag, and smaller models

def bag_study(start: Version, world: World, recipe: Recipe, asked: int = 800, skill: str = "poem") -> Mapping[str, float]:
    """Forgetting (section 3.2.3): a round over all kinds of prompts, then one over URGENT kinds alone; the model learns from
    the last round or from both. Gold on a skill that was not urgent, and on the kinds that were."""
    scorer = rlhf.scorer(start.rewards, recipe.runtime)
    rounds = [rejection.select(start.policy, start.tokenizer, list(prompts(world, asked, recipe.seed + 73 + i, mix)), scorer,
                               recipe.rejection, recipe.seed + i) for i, mix in enumerate((HELPFUL, URGENT))]
    policies = {"before": start.policy}
    for name, winners in (("last", rounds[1]), ("all", [*rounds[0], *rounds[1]])):
        policies[name] = copy.deepcopy(start.policy)
        sft.tune(policies[name], start.tokenizer, (w.dialogue for w in winners), recipe.sft, recipe)
    found = {}
    for name, policy in policies.items():
        for what, mix in (("skill", {skill: 1.0}), ("urgent", URGENT)):
            replies = judged(policy.eval(), start.tokenizer, world, list(prompts(world, 400, recipe.seed, mix, TEST)), 1.0,
                             recipe.seed)
            found[f"{what}_{name}"] = fmean(j.gold.total for j in replies)
    return found | {"kept_by_the_bag": found["skill_all"] - found["skill_last"],
                    "forgotten": found["skill_before"] - found["skill_last"]}


def small(recipe: Recipe, folder: Path) -> Transformer:
    """A chat model of three quarters of the width, in folder/small: trained there the first time."""
    key = checkpoint.fingerprint("small", SMALL, recipe.model, recipe.pretrain, recipe.sft, recipe.seed,
                                 checkpoint.artifact_key(folder / "corpus"))
    return checkpoint.trained_once(folder / "small", key, lambda: small_chat(recipe, folder, SMALL))


def distillation_study(chat: Transformer, tokenizer: Tokenizer, winners: Sequence[rejection.Winner], world: World,
                       recipe: Recipe) -> Mapping[str, float]:
    """A smaller chat model before and after it learned from a larger one's winners."""
    student = copy.deepcopy(chat)
    sft.tune(student, tokenizer, (w.dialogue for w in winners), recipe.sft, recipe)
    before, after = (axes(m.eval(), tokenizer, world, seed=recipe.seed) for m in (chat, student))
    return {"helpful_before": before.helpful, "helpful_after": after.helpful, "safe_before": before.safe,
            "safe_after": after.safe, "helpful_gain": after.helpful - before.helpful}


# -------------------------------------------------------------------------------------------------------------- versions

def policies(versions: Sequence[Version]) -> dict[str, Transformer]:
    """Each version's policy, in order; the last one before PPO, too, as <name>_no_ppo."""
    found: dict[str, Transformer] = {}
    for v in versions:
        if v.before_ppo is not None:
            found[f"{v.name}_no_ppo"] = v.before_ppo
        found[v.name] = v.policy
    return found


def versions_study(versions: Sequence[Version], world: World, seed: int, count: int = 900) -> Mapping[str, float]:
    """Figure 11 by the oracle: both axes for each version, and the last one before PPO."""
    last = versions[-1]
    found = {name: axes(policy, last.tokenizer, world, count, seed=seed) for name, policy in policies(versions).items()}
    numbers = {f"{axis}_{name}": getattr(a, axis) for name, a in found.items() for axis in ("helpful", "safe")}
    for axis in ("helpful", "safe"):
        for a, b in pairwise(found):
            numbers[f"{axis}_step_{b}"] = numbers[f"{axis}_{b}"] - numbers[f"{axis}_{a}"]
        numbers[f"{axis}_gain"] = numbers[f"{axis}_{last.name}"] - numbers[f"{axis}_{versions[0].name}"]
    return numbers


def two_roads(versions: Sequence[Version], world: World, recipe: Recipe,
              count: int = 600) -> tuple[dict[str, float], dict[str, float]]:
    """Figure 11 by two judges, on the same replies: (win rate over the first version by the last version's rewards, half for
    a draw; gold by the oracle), each as <axis>_<version>, for `count` harmless and count // 3 unsafe prompts."""
    judge, first, wins, gold = rlhf.scorer(versions[-1].rewards, recipe.runtime), versions[0], {}, {}
    for axis, mix, n in (("helpful", HELPFUL, count), ("safe", UNSAFE, count // 3)):
        asked = list(prompts(world, n, recipe.seed, mix, TEST))
        found = {name: rejection.candidates(policy, first.tokenizer, asked, judge, 1, 1.0, recipe.seed)
                 for name, policy in policies(versions).items()}
        against = found[first.name].scores_NK
        for name, c in found.items():
            wins[f"{axis}_{name}"] = float(((c.scores_NK > against) + 0.5 * (c.scores_NK == against)).mean())
            gold[f"{axis}_{name}"] = float(gold_of(world, c).mean())
    return wins, gold


def score_distributions(versions: Sequence[Version], asked: Sequence[Prompt], recipe: Recipe) -> dict[str, np.ndarray]:
    """The last version's scores, 0 to 1, of one reply of each version to each prompt; 0 for one without an end."""
    scorer = whole(rlhf.scorer(versions[-1].rewards, recipe.runtime))
    return {v.name: rejection.candidates(v.policy, v.tokenizer, asked, scorer, 1, 1.0, recipe.seed).scores_NK[:, 0].clip(0)
            for v in versions}


def scores_study(versions: Sequence[Version], world: World, recipe: Recipe, count: int = 600) -> Mapping[str, float]:
    """Figure 20: how many replies of each version the last version's reward models score below LOW."""
    asked = list(islice(rlhf.asked(world, recipe.seed + 74), count))
    tail = {name: float((s < LOW).mean()) for name, s in score_distributions(versions, asked, recipe).items()}
    steps = [b - a for a, b in pairwise(tail.values())]
    return {**{f"below_{name}": share for name, share in tail.items()}, "largest_step": max(steps),
            "change": tail[versions[-1].name] - tail[versions[0].name]}


def staleness_study(versions: Sequence[Version], world: World, recipe: Recipe, first: Mapping[str, rewards.RewardModel],
                    count: int = 2_000) -> Mapping[str, float]:
    """Section 3.2.1: the first reward model on pairs of the first policy and on pairs of the last; and the reward model that
    was trained on batches up to the last version's, on the same pairs."""
    found = {}
    for name, policy in (("first_policy", versions[0].policy), ("last_policy", versions[-1].policy)):
        pairs = rewards.fresh_pairs(policy, versions[0].tokenizer, world, count, 1.0, recipe.seed + 75)
        for which, models in (("first_reward", first), ("last_reward", versions[-1].rewards)):
            model = models[HELPFULNESS]
            found[f"{which}_on_{name}"] = rewards.gold_order_accuracy(model, versions[0].tokenizer, pairs)[AVERAGE]
    return found | {"drop": found["first_reward_on_first_policy"] - found["first_reward_on_last_policy"],
                    "restored": found["last_reward_on_last_policy"] - found["first_reward_on_last_policy"]}


# ------------------------------------------------------------------------------------------------------------------- PPO

def optimise(policy: Transformer, tokenizer: Tokenizer, world: World, scorer: Scorer, config: PPOConfig, recipe: Recipe,
             mix: Mapping[str, float] = rlhf.ASKED) -> tuple[Transformer, list[dict]]:
    """PPO on a copy of `policy` over prompts of `mix`, without early stopping, so that what a bad reward does can be seen;
    each record gets the mean `gold` of its rollouts. (policy, records)"""
    trained = copy.deepcopy(policy)
    oracle = gold_scorer(world, tokenizer)

    def watch(record: dict, rollouts: ppo.Rollouts) -> None:
        record["gold"] = fmean(oracle(rollouts.prompts, rollouts.dialogues))

    history = ppo.train(trained, tokenizer, rlhf.asked(world, recipe.seed + 76, mix), [], scorer, config,
                        seed=recipe.seed, runtime=recipe.runtime, on_iteration=watch)
    return trained.eval(), history


def gains(before: Transformer, after: Transformer, tokenizer: Tokenizer, world: World, seed: int,
          count: int = 900) -> Mapping[str, float]:
    """Both axes of gold before and after, and the gain over prompts mixed as PPO has them."""
    a, b = (axes(m, tokenizer, world, count, seed=seed) for m in (before, after))
    unsafe = rlhf.ASKED["unsafe"] / sum(rlhf.ASKED.values())
    return {"helpful_before": a.helpful, "helpful_after": b.helpful, "safe_before": a.safe, "safe_after": b.safe,
            "helpful_gain": b.helpful - a.helpful, "safe_gain": b.safe - a.safe,
            "gold_gain": (1 - unsafe) * (b.helpful - a.helpful) + unsafe * (b.safe - a.safe)}


def ppo_study(policy: Transformer, tokenizer: Tokenizer, world: World, scorer: Scorer, recipe: Recipe,
              **changes: object) -> Mapping[str, float]:
    """What PPO on `scorer` gains, and the KL it took; `changes` are fields of PPOConfig."""
    after, history = optimise(policy, tokenizer, world, scorer, replace(recipe.ppo, **changes), recipe)
    return {**gains(policy, after, tokenizer, world, recipe.seed), "kl": history[-1]["kl"],
            "score_gain": history[-1]["score"] - history[0]["score"]}


def beta_study(policy: Transformer, tokenizer: Tokenizer, world: World, scorer: Scorer, recipe: Recipe,
               betas: Sequence[float], **changes: object) -> Mapping[str, float]:
    """Score and gold at the ends of PPO runs that differ in β alone."""
    found = {}
    for beta in betas:
        config = replace(recipe.ppo, beta=beta, **changes)
        _, history = optimise(policy, tokenizer, world, scorer, config, recipe)
        for what in ("score", "gold", "kl"):
            first, last = ends(history, what)
            found |= {f"{what}_beta_{beta}": last, f"{what}_gain_beta_{beta}": last - first}
    return found


def ends(history: Sequence[dict], key: str) -> tuple[float, float]:
    """Mean of a number over the first and over the last eighth of the records."""
    n = max(1, len(history) // 8)
    return fmean(r[key] for r in history[:n]), fmean(r[key] for r in history[-n:])


def weak_reward(recipe: Recipe, folder: str | Path = "", share: float = 0.02) -> reward.RewardModel:
    """A helpfulness reward that saw a small share of the pairs and not how surprising a token was, in folder/weak: trained
    there the first time."""
    b = bench(recipe, folder)
    pairs = part(b.data.train[HELPFULNESS], share)
    key = checkpoint.fingerprint("weak", share, recipe.reward, recipe.seed, checkpoint.artifact_key(b.data.folder))
    return reward.load(checkpoint.artifact(road.workdir(recipe, folder) / "weak", key,
                                           lambda place: reward.save(place, b.trained(pairs, surprise=False))))


def weak_scorer(recipe: Recipe, folder: str | Path = "") -> Scorer:
    """The scores of `weak_reward`."""
    model = weak_reward(recipe, folder)
    return lambda asked, dialogues: reward.scores(model, dialogues)
