"""RLHF-V1 … V5 (section 3.2.3): the loop that makes a chat model better than its demonstrations.

    version n:   winners_n  = best of K replies of version n − 1, by its reward models            (rejection sampling)
                 policy_n   = base model, fine-tuned on demonstrations and winners; from the last version on, PPO on top
                 batch_n    = preferences over replies of policies n and n − 1                     (section 3.2.1)
                 rewards_n  = rewards_{n−1}, trained further on batch_n and as many earlier pairs

Every version starts from the base model again, as in the paper, and asks prompts of its own. From `bag_from` on it learns
from the winners of every round; earlier versions learn from their own alone, which cost the paper abilities like rhyming.
The reward decides as in PPO: `ppo.piecewise` over both models, where a safety prompt is one written to be unsafe. Safety
demonstrations (section 4.2.2) join from V1 on: no amount of sampling finds a refusal that the model never gives.

The paper is silent on the number of prompts and on whether demonstrations are mixed in; it trains each reward model anew on
all the data so far, for which a laptop has no time. Left out: weekly batches within a version, sampling temperatures
tuned version by version.

`run` leaves runs/<preset>/rlhf/V1 … V5: policy, reward/, winners.jsonl, the batch as preferences/ and, where PPO ran,
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

from llama2_lib.config import Recipe, require
from llama2_lib.model.replies import Scorer
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import ppo, preferences, rejection, reward, sft
from llama2_lib.stages.rejection import Winner
from llama2_lib.stages.reward import RewardModel
from llama2_lib.text import comparisons as files
from llama2_lib.text.comparisons import Comparison
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.world import dialogs
from llama2_lib.world.annotators import SIDES
from llama2_lib.world.dialogs import Prompt
from llama2_lib.world.facts import World, world_for

VERSIONS = ("V1", "V2", "V3", "V4", "V5")
ASKED = {**dialogs.HELPFUL, "unsafe": 0.2}      # of rejection sampling and PPO: a sixth of the prompts is adversarial
SEEDS = 7_919                                   # between the seeds of one version and of the next
HELD_OUT_PROMPTS = 200                          # on which PPO stops early


@dataclass(frozen=True)
class Version:
    """A policy with the reward models that judged nothing but it and its forerunners; before_ppo where PPO came on top."""
    name: str
    folder: Path
    policy: Transformer
    rewards: dict[str, RewardModel]
    tokenizer: Tokenizer
    before_ppo: Transformer | None = None

    def scorer(self) -> Scorer:
        """What this version's reward models think of dialogues."""
        return scorer(self.rewards)


def scorer(rewards: dict[str, RewardModel]) -> Scorer:
    """logit(R_c) of the paper: both models' scores, and `ppo.piecewise` to choose between them."""
    def score(prompts: Sequence[Prompt], dialogues: Sequence[list[int]]) -> list[float]:
        helpful_B, safety_B = (torch.tensor(reward.scores(rewards[side], dialogues)) for side in SIDES)
        return ppo.piecewise(helpful_B, safety_B, torch.tensor([p.unsafe for p in prompts])).tolist()
    return score


def asked(world: World, seed: int) -> Iterator[Prompt]:
    """Prompts without end, of the kinds of ASKED."""
    for part in count():
        yield from dialogs.prompts(world, 1_000, 1_000 * seed + part, ASKED)


# --------------------------------------------------------------------------------------------------------------- the loop

def run(recipe: Recipe, workdir: Path, last: str = VERSIONS[-1]) -> list[Version]:
    """The versions up to `last`, each built from the one before it unless workdir/rlhf already holds it.

    ValueError for a version that is none of VERSIONS.
    """
    require(last in VERSIONS, f"there is no version {last!r}; there are {', '.join(VERSIONS)}")
    versions = [start(workdir)]
    for name in VERSIONS[:VERSIONS.index(last) + 1]:
        sources = [workdir / "pretrain", workdir / "preferences", *(v.folder for v in versions)]
        key = checkpoint.fingerprint("rlhf", name, recipe.rlhf, recipe.rejection, recipe.sft, recipe.reward,
                                     recipe.ppo if name == VERSIONS[-1] else None, recipe.seed, ASKED,
                                     *map(checkpoint.artifact_key, sources))
        folder = checkpoint.artifact(workdir / "rlhf" / name, key, partial(_build, recipe, workdir, name, versions))
        versions.append(load(folder))
    return versions[1:]


def start(workdir: Path) -> Version:
    """What the loop starts from: the chat model of fine-tuning, and the reward models of the first preferences."""
    return Version("SFT", workdir / "reward", checkpoint.load_model(workdir / "sft").eval(),
                   reward.load_both(workdir / "reward"), Tokenizer.load(workdir / "reward" / "tokenizer.model"))


def load(folder: Path) -> Version:
    """The version that `run` left in `folder`."""
    before = folder / "before_ppo"
    return Version(folder.name, folder, checkpoint.load_model(folder).eval(), reward.load_both(folder / "reward"),
                   Tokenizer.load(folder / "tokenizer.model"),
                   checkpoint.load_model(before).eval() if before.exists() else None)


def _build(recipe: Recipe, workdir: Path, name: str, versions: Sequence[Version], folder: Path) -> None:
    """One version, written to `folder`: winners, policy, batch, rewards and, in the last version, PPO."""
    newest, world, seed = versions[-1], world_for(recipe.world), recipe.seed + SEEDS * (VERSIONS.index(name) + 1)
    winners = rejection.select(newest.policy, newest.tokenizer, list(islice(asked(world, seed), recipe.rlhf.prompts)),
                               newest.scorer(), recipe.rejection, seed)
    rejection.write(folder / "winners.jsonl", winners)
    earlier = [rejection.read(v.folder / "winners.jsonl") for v in versions[1:]] if bag_is_open(recipe, name) else []
    policy = fine_tune(recipe, workdir, [*chain(*earlier), *winners], f"{name}: fine-tuning").eval()

    batch = {side: preferences.split(preferences.batch(world, [policy, newest.policy], newest.tokenizer, recipe.rlhf.batch,
                                                       side, seed), recipe.rlhf.batch.test_share) for side in SIDES}
    for side, (train, test) in batch.items():
        files.write(folder / f"{side}.jsonl", train)
        files.write(folder / f"{side}_test.jsonl", test)
    rewards = retrain(recipe, newest, {side: train for side, (train, _) in batch.items()},
                      [workdir / "preferences", *(v.folder for v in versions[1:])])
    for side, model in rewards.items():
        reward.save(folder / "reward" / side, model)

    if name == VERSIONS[-1]:
        checkpoint.save_model(folder / "before_ppo", policy)
        held_out = list(dialogs.prompts(world, HELD_OUT_PROMPTS, seed, ASKED, split="test"))
        history = ppo.train(policy, newest.tokenizer, asked(world, seed + 1), held_out, scorer(rewards), recipe.ppo,
                            seed=seed, runtime=recipe.runtime, title=f"{name}: PPO")
        checkpoint.write_metrics(folder, history)
    checkpoint.save_model(folder, policy)
    shutil.copy(newest.folder / "tokenizer.model", folder / "tokenizer.model")


def bag_is_open(recipe: Recipe, name: str) -> bool:
    """True if version `name` learns from the winners of all rounds, as the paper's later ones do."""
    return VERSIONS.index(name) + 1 >= recipe.rlhf.bag_from


def fine_tune(recipe: Recipe, workdir: Path, winners: Sequence[Winner], title: str = "") -> Transformer:
    """The base model, fine-tuned on the demonstrations, a share of them about safety, and on the winners."""
    model, tokenizer = checkpoint.load_model(workdir / "pretrain"), Tokenizer.load(workdir / "pretrain" / "tokenizer.model")
    config = replace(recipe.sft, safety=recipe.rlhf.safety)
    shown = sft.demonstrations(world_for(recipe.world), config, recipe.seed)
    sft.tune(model, tokenizer, chain(shown, (w.dialogue for w in winners)), config, recipe, title=title)
    return model


def retrain(recipe: Recipe, newest: Version, batch: Mapping[str, Sequence[Comparison]],
            sources: Sequence[Path]) -> dict[str, RewardModel]:
    """Copies of the newest rewards, trained further on a batch and on as many earlier pairs, drawn from `sources`."""
    pairs = {side: reward.mix(batch[side], [c for folder in sources for c in files.read(folder / f"{side}.jsonl")], 0.5,
                              recipe.seed) for side in SIDES}
    models = copy.deepcopy(newest.rewards)
    reward.train_both(models, newest.tokenizer, pairs, recipe.reward, recipe.seed, recipe.runtime)
    return models
