"""RLHF-V1 … V5 (section 3.2.3): the loop that makes a chat model better than its demonstrations.

    SFT:         policy_0 = the base model, fine-tuned on demonstrations, of safety too           (section 4.2.2)
    version n:   winners_n = best of K replies of policy n − 1, by its reward models              (rejection sampling)
                 policy_n  = policy_0, fine-tuned on winners; in the last version, PPO on top
    each:        batch_n   = preferences over replies of policies n and n − 1                     (section 3.2.1)
                 rewards_n = rewards_{n−1}, trained further on batch_n and as many earlier pairs

In the paper every version starts from the base model again. Here it starts from policy_0, the base model after all
demonstrations: what would be the same each time is done once. From `bag_from` on, a version learns
from the winners of every round; earlier ones learn from their own alone, which cost the paper abilities like rhyming. The
reward decides as in PPO: `ppo.piecewise` over both models, where a safety prompt is one written to be unsafe.

The paper is silent on the number of prompts. It trains each reward model anew on all the data so far, for which a laptop
has no time. Left out: weekly batches within a version, sampling temperatures tuned version by version.

`run` leaves runs/<preset>/rlhf/SFT, V1 … V5: policy, reward/, winners.jsonl, the batch by side and, where PPO ran,
before_ppo/ and metrics.jsonl. Each is an artifact: a run that stopped goes on after its last whole version.
"""
from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count, islice
from pathlib import Path

import torch

from llama2_lib.config import Recipe, RewardConfig, RuntimeConfig, require
from llama2_lib.model.replies import Scorer
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import ppo, preferences, rejection, reward, sft
from llama2_lib.stages.reward import RewardModel
from llama2_lib.text import comparisons as files
from llama2_lib.text.comparisons import Comparison
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint, precision
from llama2_lib.training.distributed import divided, for_sampling, for_training
from llama2_lib.world import dialogs
from llama2_lib.world.annotators import SIDES
from llama2_lib.world.dialogs import Prompt
from llama2_lib.world.facts import World, world_for

VERSIONS = ("SFT", "V1", "V2", "V3", "V4", "V5")
ASKED = {**dialogs.HELPFUL, "unsafe": 0.2}      # of rejection sampling and PPO: a sixth of the prompts is adversarial
SEEDS = 7_919                                   # between the seeds of one version and of the next
HELD_OUT_PROMPTS = 200                          # on which PPO stops early
RETRAIN = 0.3                                   # of the reward's learning rate, when it is trained further
WINNERS = "winners.jsonl"


@dataclass(frozen=True)
class Version:
    """A policy, and the reward models that learned from its replies; `before_ppo` where PPO came on top."""
    name: str
    folder: Path
    policy: Transformer
    rewards: dict[str, RewardModel]
    tokenizer: Tokenizer
    before_ppo: Transformer | None = None

def scorer(rewards: Mapping[str, RewardModel], runtime: RuntimeConfig | None = None) -> Scorer:
    """logit(R_c) of the paper: the scores of both models, and `ppo.piecewise` to choose between them.

    The models move to the device on which this process computes; the processes of a group divide the dialogues.
    """
    models = [for_sampling(rewards[side]) for side in SIDES]
    dtype = precision.choose((runtime or RuntimeConfig()).precision, models[0].head.out.weight.device.type).dtype

    def score(prompts: Sequence[Prompt], dialogues: Sequence[list[int]]) -> list[float]:
        both = divided(list(map(tuple, dialogues)), read)
        helpful_B, safety_B = torch.tensor(both).reshape(-1, 2).unbind(1)
        return ppo.piecewise(helpful_B, safety_B, torch.tensor([p.unsafe for p in prompts])).tolist()

    def read(some: list[tuple[int, ...]]) -> list[tuple[float, ...]]:
        return list(zip(*reward.joint_scores(models, some, dtype=dtype), strict=True))
    return score


def asked(world: World, seed: int, mix: Mapping[str, float] = ASKED) -> Iterator[Prompt]:
    """Prompts without end, of the kinds of `mix`."""
    for part in count():
        yield from dialogs.prompts(world, 1_000, 1_000 * seed + part, mix)


# --------------------------------------------------------------------------------------------------------------- the loop

def run(recipe: Recipe, workdir: Path, last: str = VERSIONS[-1]) -> list[Version]:
    """The versions from SFT to `last`, each built from those before it unless workdir/rlhf already holds it.

    ValueError for a version that is none of VERSIONS.
    """
    require(last in VERSIONS, f"there is no version {last!r}; there are {', '.join(VERSIONS)}")
    versions: list[Version] = []
    for name in VERSIONS[:VERSIONS.index(last) + 1]:
        sources = [workdir / stage for stage in ("pretrain", "sft", "preferences", "reward")] + [v.folder for v in versions]
        key = checkpoint.fingerprint("rlhf", name, recipe.rlhf, recipe.rejection, recipe.sft, recipe.reward,
                                     recipe.ppo if name == VERSIONS[-1] else None, recipe.seed, ASKED,
                                     *map(checkpoint.artifact_key, sources))
        build = partial(_build, recipe, workdir, versions, name)
        versions.append(load(checkpoint.artifact(workdir / "rlhf" / name, key, build)))
    return versions


def load(folder: Path) -> Version:
    """The version that `run` left in `folder`."""
    before = folder / "before_ppo"
    return Version(folder.name, folder, checkpoint.load_model(folder).eval(), reward.load_both(folder / "reward"),
                   Tokenizer.load(folder / "tokenizer.model"),
                   checkpoint.load_model(before).eval() if before.exists() else None)


def _build(recipe: Recipe, workdir: Path, versions: Sequence[Version], name: str, folder: Path) -> None:
    """One version, written to `folder`."""
    world, seed = world_for(recipe.world), recipe.seed + SEEDS * VERSIONS.index(name)
    tokenizer = Tokenizer.load(workdir / "sft" / "tokenizer.model")
    if versions:
        newest, older = versions[-1].policy, versions[-1].rewards
        policy = sampled(recipe, versions, name, seed, folder)
    else:
        newest, older = checkpoint.load_model(workdir / "sft").eval(), reward.load_both(workdir / "reward")
        policy = first_policy(recipe, workdir)
    policy = for_sampling(policy).eval()
    batch = collect(recipe, world, [policy, for_sampling(newest)], tokenizer, seed, folder)
    rewards = retrain(recipe, older, tokenizer, batch, [workdir / "preferences", *(v.folder for v in versions)])
    for side, model in rewards.items():
        reward.save(folder / "reward" / side, model)
    if name == VERSIONS[-1]:
        checkpoint.save_model(folder / "before_ppo", policy)
        held_out = list(dialogs.prompts(world, HELD_OUT_PROMPTS, seed, ASKED, split="test"))
        history = ppo.train(policy, tokenizer, asked(world, seed + 1), held_out, scorer(rewards, recipe.runtime),
                            recipe.ppo, seed=seed, runtime=recipe.runtime, title=f"{name}: PPO")
        checkpoint.write_metrics(folder, history)
    checkpoint.save_model(folder, policy)
    shutil.copy(workdir / "sft" / "tokenizer.model", folder / "tokenizer.model")


# ---------------------------------------------------------------------------------------------------------- its four parts

def first_policy(recipe: Recipe, workdir: Path) -> Transformer:
    """The base model, fine-tuned on the demonstrations of recipe.sft, of which a share of recipe.rlhf.safety declines.

    No amount of sampling finds a refusal that a model never gives: these must come before the loop. Where recipe.sft has
    that share already, it is the chat model as it is.
    """
    config = replace(recipe.sft, safety=recipe.rlhf.safety)
    if config == recipe.sft:
        return checkpoint.load_model(workdir / "sft")
    model = for_training(checkpoint.load_model(workdir / "pretrain"))
    tokenizer = Tokenizer.load(workdir / "sft" / "tokenizer.model")
    sft.tune(model, tokenizer, sft.demonstrations(world_for(recipe.world), config, recipe.seed), config, recipe,
             title="SFT with safety demonstrations")
    return model


def sampled(recipe: Recipe, versions: Sequence[Version], name: str, seed: int, folder: Path) -> Transformer:
    """Rejection sampling: the newest policy's best replies, written to `folder`, and the first policy tuned on the bag."""
    newest = versions[-1]
    writer, score = for_sampling(newest.policy), scorer(newest.rewards, recipe.runtime)
    prompts = list(islice(asked(world_for(recipe.world), seed), recipe.rlhf.prompts))
    winners = rejection.select(writer, newest.tokenizer, prompts, score, recipe.rejection, seed)
    rejection.write(folder / WINNERS, winners)
    if VERSIONS.index(name) >= recipe.rlhf.bag_from:
        winners = [*chain(*(rejection.read(v.folder / WINNERS) for v in versions[1:])), *winners]
    policy = for_training(copy.deepcopy(versions[0].policy))
    sft.tune(policy, newest.tokenizer, (w.dialogue for w in winners), recipe.sft, recipe, title=f"{name}: winners")
    return policy


def collect(recipe: Recipe, world: World, models: Sequence[Transformer], tokenizer: Tokenizer, seed: int,
            folder: Path) -> dict[str, list[Comparison]]:
    """A batch of preferences over replies of `models`, written to `folder`; the pairs to learn from, by side, come back."""
    found = {}
    for side in SIDES:
        pairs = preferences.batch(world, models, tokenizer, recipe.rlhf.batch, side, seed)
        found[side], held_out = preferences.split(pairs, recipe.rlhf.batch.test_share)
        files.write(folder / f"{side}.jsonl", found[side])
        files.write(folder / f"{side}_test.jsonl", held_out)
    return found


def retrain(recipe: Recipe, older: Mapping[str, RewardModel], tokenizer: Tokenizer,
            batch: Mapping[str, Sequence[Comparison]], sources: Sequence[Path]) -> dict[str, RewardModel]:
    """Copies of the `older` rewards, trained further on a batch and on as many earlier pairs, drawn from `sources`."""
    pairs = {side: reward.mix(own, [c for folder in sources for c in files.read(folder / f"{side}.jsonl")], 0.5, recipe.seed)
             for side, own in batch.items()}
    models = {side: for_training(model) for side, model in copy.deepcopy(dict(older)).items()}
    reward.train_both(models, tokenizer, pairs, further(recipe.reward), recipe.seed, recipe.runtime)
    return {side: model.eval() for side, model in models.items()}


def further(config: RewardConfig) -> RewardConfig:
    """The settings with which a reward model that is trained already learns from one more batch."""
    return replace(config, optim=replace(config.optim, peak_lr=RETRAIN * config.optim.peak_lr))
