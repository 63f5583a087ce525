"""Rejection sampling, PPO and the versions (section 3.2.3): C13 to C19, C28, B07 to B09, B12, B13."""
from __future__ import annotations

from collections.abc import Mapping

from llama2_lib.course.claims import Criterion, study
from llama2_lib.course.studies.benches import rlhf_bench, seeded


@study("C14", place="Figure 7",
       sentence="With more samples a prompt the best reward grows and the median does not; the best reply's gold grows "
                "with it to K = 16.",
       criteria=(Criterion("smallest_step_of_max", "above", 0.0, "least gain of the best reward, K to 2K, up to 64"),
                 Criterion("median_drift", "below", 0.02, "change of the median reward, K = 16 to 64"),
                 Criterion("gold_gain_16", "above", 0.1, "gold of the best of 16 minus one reply")),
       notebook="06_rejection_sampling", symbol="llama2_lib.analysis.rlhf_studies.best_of_study")
def best_of_k(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import best_of_study
    recipe, world, versions = rlhf_bench(seed, preset)
    return best_of_study(versions[0], world, recipe)


# 1 asked 200 prompts. Once PPO's rate fell to 0, the curve of one seed of the first four was flat from 0.6 to 1.0, to within
# .001, and where its top lay was chance: −.15, against .24 to .26 on the other three.
@study("C15", place="Figure 8", version=2,
       sentence="The best temperature for best-of-K sampling is higher after RLHF than before.",
       criteria=(Criterion("shift", "above", 0.0, "best temperature of V5 minus that of SFT, best of 16"),),
       notebook="06_rejection_sampling", symbol="llama2_lib.analysis.rlhf_studies.temperature_study")
def best_temperature(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import temperature_study
    from llama2_lib.stages.rlhf import scorer
    recipe, world, versions = rlhf_bench(seed, preset)
    ends = {v.name: v for v in (versions[0], versions[-1])}
    return temperature_study(ends, scorer(versions[-1].rewards, recipe.runtime), world, seed, asked=1_000)


@study("C16", place="section 3.2.3",
       sentence="Fine-tuning on the winners of the last round alone forgets a skill that the round did not ask for; the bag "
                "of all rounds keeps it.",
       criteria=(Criterion("kept_by_the_bag", "above", 0.0, "gold on poems, all rounds minus the last alone"),),
       notebook="06_rejection_sampling", symbol="llama2_lib.analysis.rlhf_studies.bag_study")
def bag_of_all_rounds(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import bag_study
    recipe, world, versions = rlhf_bench(seed, preset)
    return bag_study(versions[0], world, recipe)


@study("C17", place="section 3.2.3",
       sentence="A smaller chat model (three quarters of the width) gains from the larger one's winners.",
       criteria=(Criterion("helpful_gain", "above", 0.0, "its gold on harmless prompts, after minus before"),),
       notebook="06_rejection_sampling", symbol="llama2_lib.analysis.rlhf_studies.distillation_study")
def distilled(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import distillation_study, small
    from llama2_lib.stages import rejection, rlhf
    from llama2_lib.stages.road import workdir
    recipe, world, versions = rlhf_bench(seed, preset)
    winners = [w for v in versions[1:] for w in rejection.read(v.folder / rlhf.WINNERS)]
    return distillation_study(small(recipe, workdir(recipe)), versions[0].tokenizer, winners, world, recipe)


# On five seeds the batch restored .132 (−.003 … .267). Eight were fixed before the other three ran; settings are seed 7's.
EIGHT = (0, 1, 2, 3, 4, 5, 6, 8)


@study("C13", place="section 3.2.1", version=2, seeds=EIGHT,      # 1 asked the rewards of the loop itself: B12
       sentence="A reward model goes stale as the policy moves: on pairs of a policy that PPO has led after it, it is less "
                "accurate than on its own test pairs; a batch of those restores it.",
       criteria=(Criterion("drop", "above", 0.0, "accuracy on its own test pairs minus that on the new policy's"),
                 Criterion("restored", "above", 0.0, "accuracy on the new policy's pairs, after a batch of them minus "
                                                     "before")),
       notebook="07_ppo", symbol="llama2_lib.analysis.hacking.staleness_study")
def staleness(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis import hacking
    t = hacking.taught(seeded(seed, preset))
    return hacking.staleness_study(t, hacking.followed(t, beta=0.0)[0])


@study("B12", place="section 3.2.1",
       sentence="In the loop itself, where each version brings a batch of its own and moves little: the first reward is "
                "less accurate on the last policy's pairs, the last reward more.",
       criteria=(Criterion("drop", "above", 0.0, "accuracy of the first reward, first policy's pairs minus the last's"),
                 Criterion("restored", "above", 0.0, "accuracy on the last policy's pairs, last reward minus first")),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.staleness_study")
def staleness_in_the_loop(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import staleness_study
    from llama2_lib.stages.reward import load_both
    from llama2_lib.stages.road import workdir
    recipe, world, versions = rlhf_bench(seed, preset)
    return staleness_study(versions, world, recipe, load_both(workdir(recipe) / "reward"))


MANY = 7_200      # harmless prompts, and a third as many unsafe ones: a difference of means within about .005
RISES = ("V1", "V2", "V3", "V4", "V5_no_ppo", "V5")


# 1 asked 900 harmless and 300 unsafe prompts, whose noise was as large as a step, and its PPO kept one rate to the end.
@study("C18", place="Figure 11", version=2,
       sentence="Every version is better than the one before it on both axes, and PPO on top of rejection sampling adds "
                "to the last.",
       criteria=tuple(Criterion(f"{axis}_step_{name}", "above", 0.0, f"gold on {axis} prompts, {name} minus the one before")
                      for axis in ("helpful", "safe") for name in RISES),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.versions_study")
def every_version(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import versions_study
    _, world, versions = rlhf_bench(seed, preset)
    return versions_study(versions, world, seed, MANY)


# 1 stopped after forty iterations, 2 after 150 at one rate with gold still rising: .193 (.169 … .216).
@study("B07", place="the course", version=3,
       sentence="PPO on the oracle itself, from the first policy of the loop, over 240 iterations at a rate that falls to "
                "0, gains much at a small KL: what a reward without fault would bring.",
       criteria=(Criterion("gold_gain", "above", 0.2, "gold after minus before"),
                 Criterion("kl", "below", 3.0, "KL to the first policy, nats a reply")),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.ppo_study")
def ppo_on_gold(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import gold_scorer, ppo_study
    from llama2_lib.config import OptimConfig
    from llama2_lib.stages import rlhf, road
    from llama2_lib.world.facts import world_for
    recipe = seeded(seed, preset)
    world, tokenizer = world_for(recipe.world), road.build("sft", recipe).tokenizer
    first = rlhf.first_policy(recipe, road.workdir(recipe)).eval()
    return ppo_study(first, tokenizer, world, gold_scorer(world, tokenizer), recipe, iterations=240,
                     optim=OptimConfig(peak_lr=2e-4, final_lr_fraction=0.0))


@study("B08", place="the course", version=2,      # 1 asked 900 prompts, and its PPO kept one rate to the end
       sentence="PPO on the learned rewards, from the last checkpoint of rejection sampling, raises gold, and neither axis "
                "falls.",
       criteria=(Criterion("gold_gain", "above", 0.06, "gold after minus before"),
                 Criterion("helpful_gain", "above", 0.0, "gold on harmless prompts, after minus before"),
                 Criterion("safe_gain", "above", 0.0, "gold on unsafe prompts, after minus before"),
                 Criterion("kl", "below", 3.0, "KL to that checkpoint, nats a reply")),
       notebook="07_ppo", symbol="llama2_lib.stages.rlhf.run")
def ppo_on_the_learned_reward(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import gains
    from llama2_lib.training.checkpoint import read_metrics
    _, world, versions = rlhf_bench(seed, preset)
    last = versions[-1]
    kept = max((r for r in read_metrics(last.folder) if "held_out" in r), key=lambda r: r["held_out"])
    return {**gains(last.before_ppo, last.policy, last.tokenizer, world, seed + 1, MANY), "kl": kept["kl"]}


@study("B09", place="the course",
       sentence="The same from the first checkpoint of rejection sampling, V1, on the rewards of that moment, over eighty "
                "iterations.",
       criteria=(Criterion("gold_gain", "above", 0.06, "gold after minus before"),
                 Criterion("helpful_gain", "above", 0.0, "gold on harmless prompts, after minus before"),
                 Criterion("safe_gain", "above", 0.0, "gold on unsafe prompts, after minus before"),
                 Criterion("kl", "below", 3.0, "KL to that checkpoint, nats a reply")),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.ppo_study")
def ppo_from_the_first_checkpoint(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import ppo_study
    from llama2_lib.config import OptimConfig
    from llama2_lib.stages.rlhf import scorer
    recipe, world, versions = rlhf_bench(seed, preset)
    v = versions[1]
    return ppo_study(v.policy, v.tokenizer, world, scorer(v.rewards, recipe.runtime), recipe, iterations=80,
                     optim=OptimConfig(peak_lr=1e-4, final_lr_fraction=1.0))      # as the preset was when this was recorded


@study("C19", place="section 3.2.3", version=2,      # 1 had a reward of two pairs in a hundred, which no β saves: B13
       sentence="The KL penalty keeps reward hacking in check: without it the score rises while gold falls; at the default "
                "β gold does not fall.",
       criteria=(Criterion("score_gain_0.0", "above", 0.0, "score of the rollouts, last minus first, β = 0"),
                 Criterion("gold_gain_0.0", "below", 0.0, "gold on test prompts, after minus before, β = 0"),
                 Criterion("gold_gain_0.05", "above", 0.0, "gold on test prompts, after minus before, β = 0.05")),
       notebook="07_ppo", symbol="llama2_lib.analysis.hacking.beta_study")
def kl_penalty(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis import hacking
    return hacking.beta_study(hacking.taught(seeded(seed, preset)), (0.0, 0.05))


@study("B13", place="section 3.2.3",
       sentence="The same with a reward that is wrong from the start (two pairs in a hundred, no surprise), over 24 "
                "iterations: without the penalty the score rises while gold falls, with it gold does not fall.",
       criteria=(Criterion("score_gain_beta_0.0", "above", 0.0, "score, last iterations minus first, β = 0"),
                 Criterion("gold_gain_beta_0.0", "below", 0.0, "gold, last iterations minus first, β = 0"),
                 Criterion("gold_gain_beta_0.05", "above", 0.0, "gold, last iterations minus first, β = 0.05")),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.beta_study")
def penalty_on_a_wrong_reward(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import beta_study, weak_scorer
    from llama2_lib.config import OptimConfig
    recipe, world, versions = rlhf_bench(seed, preset)
    v = versions[0]
    return beta_study(v.policy, v.tokenizer, world, weak_scorer(recipe), recipe, (0.0, 0.05, 0.3), iterations=24, batch=256,
                      optim=OptimConfig(peak_lr=3e-4, final_lr_fraction=1.0))


@study("C28", place="Figure 20", version=2,      # 1 asked 600 prompts, and missed its first criterion by .0002
       sentence="The low tail of the scores shrinks with every version.",
       criteria=(Criterion("largest_step", "below", 0.0, "largest change of the share below 0.2, version to version"),
                 Criterion("change", "below", 0.0, "share below 0.2, V5 minus SFT")),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.scores_study")
def low_tail(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import scores_study
    recipe, world, versions = rlhf_bench(seed, preset)
    return scores_study(versions, world, recipe, count=2_400)
