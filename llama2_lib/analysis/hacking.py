"""A reward that one batch of preferences taught, and PPO that follows it far (sections 3.2.1, 3.2.3 and 3.4.1).

    first batch → reward → PPO on it, with and without the price of KL → pairs of the policy that came out → reward again

Two questions of the paper. Does the KL term keep a policy where its reward is right (C19)? And is that reward still right
about the replies of a policy that it has led away, or does it take a batch of those (C13)? In the loop of `rlhf` neither
shows: there every version brings a batch of its own, and PPO ends before it has gone far. The prompts are harmless and the
reward is the helpfulness model's. Left out: the safety reward, batches of other sizes.
"""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama2_lib.analysis import chat, rewards
from llama2_lib.analysis.rlhf_studies import ends, optimise
from llama2_lib.config import OptimConfig, PreferencesConfig, Recipe
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import preferences, reward, rlhf, road
from llama2_lib.stages.reward import RewardModel
from llama2_lib.text import comparisons as files
from llama2_lib.text.comparisons import Comparison
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.world.annotators import HELPFULNESS
from llama2_lib.world.dialogs import HELPFUL
from llama2_lib.world.facts import World, world_for

# Set on seed 7, which no record uses. From 6,000 prompts gold falls with and without the price; from 16,000 it stays without
# and rises with it. More iterations tell the two apart, a higher rate spoils both. One rate to the end is part of it: gold
# on seed 0 ends by −.274 and +.047; by +.079 and +.116 if the rate falls to 0, so without a price it rises as well.
FIRST = PreferencesConfig(helpfulness=11_000, safety=1, temperatures=(0.8, 1.1), test_share=0.2)
FRESH = replace(FIRST, helpfulness=1_600)
FAR = {"iterations": 160, "batch": 256, "optim": OptimConfig(peak_lr=3e-4, final_lr_fraction=1.0)}
SEED = 77                # between the first batch and the fresh one
PAIRS = ("train.jsonl", "test.jsonl")


@dataclass(frozen=True)
class Taught:
    """A chat model, pairs of its own replies to learn from and to test on, and the helpfulness reward that they taught."""
    recipe: Recipe
    world: World
    policy: Transformer
    tokenizer: Tokenizer
    train: list[Comparison]
    test: list[Comparison]
    model: RewardModel
    folder: Path

    def accuracy(self, model: RewardModel, pairs: Sequence[Comparison]) -> float:
        """Share of the pairs whose chosen reply scores higher."""
        return rewards.accuracy(model, self.tokenizer, pairs)


def taught(recipe: Recipe, workdir: str | Path = "", first: PreferencesConfig = FIRST) -> Taught:
    """The chat model of a run and the reward of its first batch of pairs, trained as the recipe says: in workdir/taught,
    where they are built the first time."""
    tuned, world = road.build("sft", recipe, workdir), world_for(recipe.world)
    policy, tokenizer = tuned.model.eval(), tuned.tokenizer
    key = checkpoint.fingerprint("taught", first, recipe.reward, recipe.seed, checkpoint.artifact_key(tuned.folder))
    folder = checkpoint.artifact(road.workdir(recipe, workdir) / "taught", key,
                                 lambda place: _teach(recipe, policy, tokenizer, world, first, place))
    train, test = (files.read(folder / name) for name in PAIRS)
    return Taught(recipe, world, policy, tokenizer, train, test, reward.load(folder), folder)


def _teach(recipe: Recipe, policy: Transformer, tokenizer: Tokenizer, world: World, first: PreferencesConfig,
           folder: Path) -> None:
    batch = preferences.batch(world, [policy], tokenizer, first, HELPFULNESS, recipe.seed)
    train, test = preferences.split(batch, first.test_share)
    for name, pairs in zip(PAIRS, (train, test), strict=True):
        files.write(folder / name, pairs)
    model = reward.fresh(copy.deepcopy(policy), recipe.seed, recipe.reward.judge_layers)
    reward.train(model, tokenizer, train, recipe.reward, recipe.seed, runtime=recipe.runtime)
    reward.save(folder, model)


def followed(t: Taught, beta: float, **changes: object) -> tuple[Transformer, list[dict]]:
    """The policy after PPO on the reward at this price of KL, and the records; `changes` are fields of PPOConfig.

    The run is kept beside what was taught, since both questions need the one without a price.
    """
    config = replace(t.recipe.ppo, beta=beta, **FAR | changes)

    def build(folder: Path) -> None:
        policy, history = optimise(t.policy, t.tokenizer, t.world, lambda _, ids: reward.scores(t.model, ids), config,
                                   t.recipe, HELPFUL)
        checkpoint.save_model(folder, policy)
        checkpoint.write_metrics(folder, history)

    folder = checkpoint.artifact(t.folder.with_name(f"followed_{beta:g}"),
                                 checkpoint.fingerprint("followed", config, checkpoint.artifact_key(t.folder)), build)
    return checkpoint.load_model(folder).eval(), checkpoint.read_metrics(folder)


def gold(t: Taught, model: Transformer, count: int = 900) -> float:
    """Mean gold of one reply to each of `count` harmless test prompts, at the temperature of rollouts."""
    return chat.mean_gold(chat.gold(model, t.tokenizer, t.world, count, 1.0, t.recipe.seed))


def beta_study(t: Taught, betas: Sequence[float], **changes: object) -> Mapping[str, float]:
    """C19: the score over the rollouts, first eighth to last, and gold on test prompts, before and after, for each β."""
    found = {"gold_before": gold(t, t.policy)}
    for beta in betas:
        policy, history = followed(t, beta, **changes)
        (first, last), (_, kl), after = ends(history, "score"), ends(history, "kl"), gold(t, policy)
        found |= {f"score_gain_{beta}": last - first, f"kl_{beta}": kl, f"gold_{beta}": after,
                  f"gold_gain_{beta}": after - found["gold_before"]}
    return found


def staleness_study(t: Taught, policy: Transformer, fresh: PreferencesConfig = FRESH) -> Mapping[str, float]:
    """C13: the reward on its own test pairs, and on pairs of a policy that followed it (beside the one it began as), before
    and after it is trained further on a batch of those, as `rlhf` does it."""
    seed = t.recipe.seed + SEED
    new, new_test = preferences.split(preferences.batch(t.world, [policy, t.policy], t.tokenizer, fresh, HELPFULNESS, seed),
                                      fresh.test_share)
    again = copy.deepcopy(t.model)
    reward.train(again, t.tokenizer, reward.mix(new, t.train, 0.5, seed), rlhf.further(t.recipe.reward), seed,
                 runtime=t.recipe.runtime)
    found = {"own_test": t.accuracy(t.model, t.test), "new_pairs": t.accuracy(t.model, new_test),
             "new_pairs_after": t.accuracy(again.eval(), new_test), "own_test_after": t.accuracy(again, t.test),
             "new_pairs_ceiling": rewards.noise_ceiling(t.world, new_test)}
    return found | {"drop": found["own_test"] - found["new_pairs"],
                    "restored": found["new_pairs_after"] - found["new_pairs"]}
