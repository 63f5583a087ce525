"""Which study tests which claim, and by which criterion. The criteria were written before the studies were run.

Each function takes a seed and a preset and returns numbers; the work is done in llama2_lib.analysis. The ids are those of
the list of claims (C01 …); B01 … are the course's own bars, which the paper does not state.
"""
from __future__ import annotations

from collections.abc import Mapping

from llama2_lib.config import Recipe, override
from llama2_lib.config import preset as recipe_of
from llama2_lib.course.claims import Criterion, study
from llama2_lib.training import accounting

PRINTED = {"llama2_7b": 6_738_415_616, "llama2_13b": 13_015_864_320, "llama2_34b": 33_743_970_304,
           "llama2_70b": 68_976_648_192}


@study("C01", place="Table 1, A.2.1",
       sentence="The four models have exactly the parameter counts of the published checkpoints.",
       criteria=tuple(Criterion(name, "exactly", count) for name, count in PRINTED.items()), seeds=(0,),
       notebook="01_architecture", symbol="llama2_lib.training.accounting.parameter_count")
def parameter_counts(seed: int, preset: str) -> Mapping[str, float]:
    return {name: accounting.parameter_count(recipe_of(name).model) for name in PRINTED}


@study("C02", place="Table 2",
       sentence="GPU-hours times watts times one carbon intensity give the printed tonnes of CO2, row by row and in all "
                "(cut, not rounded, to two digits).",
       criteria=(Criterion("rows_as_printed", "exactly", 4, "rows equal to the printed digits"),
                 Criterion("total_as_printed", "exactly", 1, "totals equal to the printed digits")), seeds=(0,),
       notebook="03_pretraining", symbol="llama2_lib.training.accounting.carbon")
def carbon_of_table_2(seed: int, preset: str) -> Mapping[str, float]:
    tonnes = {name: accounting.as_printed(accounting.carbon(hours, watts))
              for name, (hours, watts, _) in accounting.TABLE_2.items()}
    right = sum(tonnes[name] == printed for name, (_, _, printed) in accounting.TABLE_2.items())
    total = sum(accounting.carbon(hours, watts) for hours, watts, _ in accounting.TABLE_2.values())
    return {"rows_as_printed": right, "total_as_printed": accounting.as_printed(total) == accounting.TABLE_2_TOTAL[1],
            **{f"tonnes_{name}": t for name, t in tonnes.items()}, "tonnes_total": total}


def seeded(seed: int, preset: str) -> Recipe:
    """The recipe of one seed: another web, another start, another order of the data."""
    return override(recipe_of(preset), seed=seed)


@study("C03", place="Table 18, Figure 24",
       sentence="Grouped queries keep the loss of full attention, are no worse than a single key-value head, and need a "
                "smaller cache.",
       criteria=(Criterion("gqa_minus_mha", "below", 0.02, "loss of GQA minus MHA, nats"),
                 Criterion("gqa_minus_mqa", "below", 0.01, "loss of GQA minus MQA, nats"),
                 Criterion("cache_mha_over_gqa", "above", 1.0, "cache of MHA over GQA")),
       notebook="01_architecture", symbol="llama2_lib.analysis.architecture.gqa_study")
def grouped_queries(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.architecture import gqa_study
    from llama2_lib.stages.road import workdir
    recipe = recipe_of(preset)
    return gqa_study(recipe, seed, workdir(recipe))


@study("C05", place="Figure 5",
       sentence="On the same tokens a larger model reaches a lower loss, at each of four sizes, and the largest has not "
                "stopped falling.",
       criteria=(*(Criterion(f"gap_{i}", "above", 0.0, f"loss of size {i} minus size {i + 1}, nats") for i in (1, 2, 3)),
                 Criterion("still_falling", "above", 0.0, "fall of the largest in its last fifth, nats")),
       version=2,      # 1 took the fall from training batches, whose difficulty hid it; 2 takes it from held-out text
       notebook="03_pretraining", symbol="llama2_lib.analysis.scaling.scaling_study")
def larger_is_better(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.scaling import scaling_study
    arms = scaling_study(seeded(seed, preset), progress=False)
    losses = [arm.validation_loss for arm in arms]
    return {**{f"loss_{arm.name}": arm.validation_loss for arm in arms},
            "still_falling": arms[-1].late_loss - arms[-1].validation_loss,
            **{f"gap_{i + 1}": losses[i] - losses[i + 1] for i in range(3)}}


@study("C06", place="§2.1",
       sentence="Showing the factual sources more often, at the same token budget, raises what the model knows.",
       criteria=(Criterion("gain", "above", 0.0, "gain in fact accuracy"),),
       notebook="03_pretraining", symbol="llama2_lib.analysis.scaling.upsampling_study")
def up_sampling(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.accuracy import answer_loss
    from llama2_lib.analysis.scaling import stream, upsampling_study
    from llama2_lib.world.facts import load
    recipe, world = seeded(seed, preset), load()
    arms = upsampling_study(recipe, world, progress=False)
    (_, once), (_, twice) = arms
    tokenizer = stream(recipe)[-1]
    losses = [answer_loss(arm.model, tokenizer, world) for arm, _ in arms]
    return {"accuracy_once": once.mean, "accuracy_twice": twice.mean, "gain": twice.mean - once.mean,
            "answer_loss_once": losses[0], "answer_loss_twice": losses[1]}


@study("B01", place="the course",
       sentence="After pretraining the base model completes the world's facts.",
       criteria=(Criterion("accuracy", "mean at least", 0.92, "facts completed"),),
       notebook="03_pretraining", symbol="llama2_lib.analysis.accuracy.fact_accuracy")
def facts_by_completion(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.accuracy import fact_accuracy, sum_accuracy
    from llama2_lib.stages import road
    from llama2_lib.world.facts import load
    base = road.build("pretrain", seeded(seed, preset))
    return {"accuracy": fact_accuracy(base.model, base.tokenizer, load()).mean,
            "sums": sum_accuracy(base.model, base.tokenizer, seed=seed).mean}


@study("B02", place="the course",
       sentence="After fine-tuning the chat model answers questions on facts that no demonstration asked, at T = 0.3.",
       criteria=(Criterion("accuracy", "mean at least", 0.90, "facts answered"),),
       notebook="04_supervised_fine_tuning", symbol="llama2_lib.analysis.chat.chat_fact_accuracy")
def facts_in_chat(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.chat import chat_fact_accuracy
    from llama2_lib.stages import road
    from llama2_lib.world.facts import load
    chat, world = road.build("sft", seeded(seed, preset)), load()
    return {"accuracy": chat_fact_accuracy(chat.model, chat.tokenizer, world, seed=seed).mean,
            "asked_in_fine_tuning": chat_fact_accuracy(chat.model, chat.tokenizer, world, "train", seed=seed).mean}


@study("B03", place="the course",
       sentence="After fine-tuning the chat model adds numbers whose sum stands in no page and no demonstration, greedily.",
       criteria=(Criterion("accuracy", "mean at least", 0.80, "sums right"),),
       notebook="04_supervised_fine_tuning", symbol="llama2_lib.analysis.chat.chat_sum_accuracy")
def sums_in_chat(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.chat import chat_sum_accuracy
    from llama2_lib.stages import road
    from llama2_lib.world.facts import load
    chat = road.build("sft", seeded(seed, preset))
    return {"accuracy": chat_sum_accuracy(chat.model, chat.tokenizer, load(), count=400, seed=seed).mean}


@study("C07", place="§3.1", version=2,
       sentence="Few clean demonstrations beat ten times as many noisy ones, at the same number of optimiser steps.",
       criteria=(Criterion("gain", "above", 0.0, "gold score of the clean few minus the noisy many"),),
       notebook="04_supervised_fine_tuning", symbol="llama2_lib.analysis.demonstrations.quality_study")
def quality_over_quantity(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.demonstrations import quality_study
    from llama2_lib.stages import road
    recipe = seeded(seed, preset)
    road.build("pretrain", recipe)
    return quality_study(recipe, road.workdir(recipe), seed)


def reward_bench(seed: int, preset: str):
    """The shared things of one seed's reward studies, and its two reward models by side."""
    from llama2_lib.analysis.reward_studies import bench
    from llama2_lib.stages import road
    recipe = seeded(seed, preset)
    built = road.build("reward", recipe)
    return bench(recipe), {"helpfulness": built.helpfulness, "safety": built.safety}


@study("C08", place="Table 8", version=2,        # 1 held the two bars that are B05 now: the paper does not state them
       sentence="A reward model's accuracy grows with the grade of the preference, from near chance where people were "
                "unsure.",
       criteria=(Criterion("smallest_step", "above", 0.0, "least gain from one grade to the next"),
                 Criterion("negligibly", "below", 0.58, "accuracy, negligibly better")),
       notebook="05_reward_modeling", symbol="llama2_lib.analysis.reward_studies.grades_study")
def accuracy_by_grade(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.reward_studies import grades_study
    b, models = reward_bench(seed, preset)
    return grades_study(b, models["helpfulness"])


@study("B05", place="the course",
       sentence="The helpfulness reward is as accurate as its annotators' noise allows, and mostly right on clear "
                "pairs.",
       criteria=(Criterion("significantly", "mean at least", 0.85, "accuracy, significantly better"),
                 Criterion("over_ceiling", "mean at least", -0.05, "average accuracy minus its noise ceiling")),
       notebook="05_reward_modeling", symbol="llama2_lib.analysis.rewards.noise_ceiling")
def accuracy_under_the_ceiling(seed: int, preset: str) -> Mapping[str, float]:
    return accuracy_by_grade(seed, preset)


@study("B04", place="the course",
       sentence="Before any reinforcement learning the helpfulness reward orders two fresh replies of the chat model to "
                "training prompts, at the temperature of rollouts, as the oracle does.",
       criteria=(Criterion("fresh", "mean at least", 0.75, "fresh pairs ordered right"),),
       notebook="05_reward_modeling", symbol="llama2_lib.analysis.rewards.gold_order_accuracy")
def fresh_pairs_in_order(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.reward_studies import fresh_study
    b, models = reward_bench(seed, preset)
    return fresh_study(b, models["helpfulness"])


@study("B06", place="the course",
       sentence="A reward model of this size orders fresh replies better if it sees how much each token surprised the chat "
                "model.",
       criteria=(Criterion("gain_of_surprise", "above", 0.0, "fresh pairs ordered right, with the surprise minus without"),),
       notebook="05_reward_modeling", symbol="llama2_lib.analysis.reward_studies.readings_study")
def ways_of_reading(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.reward_studies import readings_study
    return readings_study(reward_bench(seed, preset)[0])


@study("C09", place="Table 28", version=2,      # 1 measured a reward whose whole body was trained
       sentence="A margin that grows with the grade makes a reward model more accurate (on half of the pairs).",
       criteria=(Criterion("gain_small", "above", 0.0, "accuracy with small margins minus without"),),
       notebook="05_reward_modeling", symbol="llama2_lib.analysis.reward_studies.margins_study")
def margins(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.reward_studies import margins_study
    b, _ = reward_bench(seed, preset)
    return margins_study(b, share=0.5, fresh=b.fresh())


@study("C10", place="Table 7",
       sentence="Each reward model is best on its own domain: against the other, and against one model for both.",
       criteria=tuple(Criterion(f"{side}_over_{other}", "above", 0.0, f"{side} model on its own pairs minus the {other}")
                      for side in ("helpfulness", "safety") for other in ("other", "joint")),
       notebook="05_reward_modeling", symbol="llama2_lib.analysis.reward_studies.domains_study")
def own_domain(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.reward_studies import domains_study
    return domains_study(*reward_bench(seed, preset))


SHARES_OF_PAIRS = (1 / 16, 1 / 4, 1.0)


@study("C11", place="Figure 6", version=2,      # 1 measured a reward whose whole body was trained
       sentence="More preference data and larger models make better reward models.",
       criteria=(*(Criterion(f"gain_{i}", "above", 0.0, f"accuracy of size {i + 1} minus size {i}") for i in (1, 2)),
                 *(Criterion(f"more_data_{i}", "above", 0.0, f"accuracy with {words}")
                   for i, words in ((1, "a quarter of the pairs minus a sixteenth"), (2, "all pairs minus a quarter")))),
       notebook="05_reward_modeling", symbol="llama2_lib.analysis.reward_studies.data_study")
def data_and_size(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.reward_studies import data_study, small_chat
    from llama2_lib.stages.road import workdir
    b, _ = reward_bench(seed, preset)
    bodies = {f"{f:g}": small_chat(b.recipe, workdir(b.recipe), f) for f in (0.25, 0.5)} | {"1": b.chat}
    found = data_study(b, bodies, SHARES_OF_PAIRS)
    at_end = [values[-1] for values in found.values()]
    by_share = [sum(column) / len(column) for column in zip(*found.values(), strict=True)]
    return {**{f"width_{name}_share_{share:g}": value for name, values in found.items()
               for share, value in zip(SHARES_OF_PAIRS, values, strict=True)},
            **{f"gain_{i}": at_end[i] - at_end[i - 1] for i in (1, 2)},
            **{f"more_data_{i}": by_share[i] - by_share[i - 1] for i in (1, 2)}}


@study("C12", place="Table 29", version=3,      # 2 also counts false alarms; 3 gives the model without the loss a zero
       sentence="The safety auxiliary loss raises the recall of unsafe replies at a threshold of 0.5, the scores of a model "
                "without it being centred first.",
       criteria=(Criterion("recall_gain_centred", "above", 0.0, "recall with the loss minus without it, centred"),),
       notebook="05_reward_modeling", symbol="llama2_lib.analysis.reward_studies.auxiliary_study")
def safety_auxiliary_loss(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.reward_studies import auxiliary_study
    return auxiliary_study(reward_bench(seed, preset)[0])


@study("C23", place="Figure 29", version=2,     # 1 took 900 replies, too few for the rarer ratings
       sentence="Although trained on pairs alone, the reward's score rises with people's ratings, over all seven points.",
       criteria=(Criterion("smallest_step", "above", 0.0, "least rise of the mean score from one rating to the next"),
                 Criterion("correlation", "above", 0.0, "rank correlation of score and rating")),
       notebook="05_reward_modeling", symbol="llama2_lib.analysis.reward_studies.likert_study")
def score_against_ratings(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.reward_studies import likert_study, rated_replies
    b, models = reward_bench(seed, preset)
    return likert_study(rated_replies(b, models["helpfulness"]))


@study("C34", place="§3.4.2",
       sentence="Annotators agree less on close pairs than on clear ones.",
       criteria=(Criterion("clear_minus_close", "above", 0.0, "AC2 on clear pairs minus close ones"),),
       notebook="05_reward_modeling", symbol="llama2_lib.analysis.reward_studies.agreement_study")
def agreement_by_gap(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.reward_studies import agreement_study
    b, _ = reward_bench(seed, preset)
    return agreement_study(b.world, b.fresh(), seed)


# -------------------------------------------------------------------------------------------- section 3.2.3: the versions

def rlhf_bench(seed: int, preset: str) -> tuple:
    """(recipe, world, versions) of one seed, all built where they are missing."""
    from llama2_lib.stages import road
    from llama2_lib.world.facts import world_for
    recipe = seeded(seed, preset)
    return recipe, world_for(recipe.world), road.build("rlhf", recipe)


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


@study("C15", place="Figure 8",
       sentence="The best temperature for best-of-K sampling is higher after RLHF than before.",
       criteria=(Criterion("shift", "above", 0.0, "best temperature of V5 minus that of SFT, best of 16"),),
       notebook="06_rejection_sampling", symbol="llama2_lib.analysis.rlhf_studies.temperature_study")
def best_temperature(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import temperature_study
    from llama2_lib.stages.rlhf import scorer
    recipe, world, versions = rlhf_bench(seed, preset)
    ends = {v.name: v for v in (versions[0], versions[-1])}
    return temperature_study(ends, scorer(versions[-1].rewards, recipe.runtime), world, seed)


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


@study("C13", place="section 3.2.1",
       sentence="A reward model goes stale as the policy moves; batches from the newer policies restore it.",
       criteria=(Criterion("drop", "above", 0.0, "accuracy of the first reward, first policy's pairs minus the last's"),
                 Criterion("restored", "above", 0.0, "accuracy on the last policy's pairs, last reward minus first")),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.staleness_study")
def staleness(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import staleness_study
    from llama2_lib.stages.reward import load_both
    from llama2_lib.stages.road import workdir
    recipe, world, versions = rlhf_bench(seed, preset)
    return staleness_study(versions, world, recipe, load_both(workdir(recipe) / "reward"))


RISES = ("V1", "V2", "V3", "V4", "V5_no_ppo", "V5")


@study("C18", place="Figure 11",
       sentence="Every version is better than the one before it on both axes, and PPO on top of rejection sampling adds "
                "to the last.",
       criteria=tuple(Criterion(f"{axis}_step_{name}", "above", 0.0, f"gold on {axis} prompts, {name} minus the one before")
                      for axis in ("helpful", "safe") for name in RISES),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.versions_study")
def every_version(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import versions_study
    _, world, versions = rlhf_bench(seed, preset)
    return versions_study(versions, world, seed)


@study("B07", place="the course",
       sentence="PPO on the oracle itself, from the first policy of the loop, gains much at a small KL: what a reward "
                "without fault would bring.",
       criteria=(Criterion("gold_gain", "above", 0.2, "gold after minus before"),
                 Criterion("kl", "below", 3.0, "KL to the first policy, nats a reply")),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.ppo_study")
def ppo_on_gold(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import gold_scorer, ppo_study
    recipe, world, versions = rlhf_bench(seed, preset)
    v = versions[0]
    return ppo_study(v.policy, v.tokenizer, world, gold_scorer(world, v.tokenizer), recipe, iterations=40)


@study("B08", place="the course",
       sentence="PPO on the learned rewards, from the last checkpoint of rejection sampling, raises gold, and neither axis "
                "falls by more than .02.",
       criteria=(Criterion("gold_gain", "above", 0.06, "gold after minus before"),
                 Criterion("helpful_gain", "above", -0.02, "gold on harmless prompts, after minus before"),
                 Criterion("safe_gain", "above", -0.02, "gold on unsafe prompts, after minus before"),
                 Criterion("kl", "below", 3.0, "KL to that checkpoint, nats a reply")),
       notebook="07_ppo", symbol="llama2_lib.stages.rlhf.run")
def ppo_on_the_learned_reward(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import gains
    from llama2_lib.training.checkpoint import read_metrics
    _, world, versions = rlhf_bench(seed, preset)
    last = versions[-1]
    kept = max((r for r in read_metrics(last.folder) if "held_out" in r), key=lambda r: r["held_out"])
    return {**gains(last.before_ppo, last.policy, last.tokenizer, world, seed + 1), "kl": kept["kl"]}


@study("B09", place="the course",
       sentence="The same from the first checkpoint of rejection sampling, V1, on the rewards of that moment.",
       criteria=(Criterion("gold_gain", "above", 0.06, "gold after minus before"),
                 Criterion("helpful_gain", "above", -0.02, "gold on harmless prompts, after minus before"),
                 Criterion("safe_gain", "above", -0.02, "gold on unsafe prompts, after minus before"),
                 Criterion("kl", "below", 3.0, "KL to that checkpoint, nats a reply")),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.ppo_study")
def ppo_from_the_first_checkpoint(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import ppo_study
    from llama2_lib.stages.rlhf import scorer
    recipe, world, versions = rlhf_bench(seed, preset)
    v = versions[1]
    return ppo_study(v.policy, v.tokenizer, world, scorer(v.rewards, recipe.runtime), recipe)


@study("C19", place="section 3.2.3",
       sentence="The KL penalty keeps reward hacking in check: without it the score of a weak reward rises while gold "
                "falls, with it gold does not fall.",
       criteria=(Criterion("score_gain_beta_0.0", "above", 0.0, "score, last iterations minus first, β = 0"),
                 Criterion("gold_gain_beta_0.0", "below", 0.0, "gold, last iterations minus first, β = 0"),
                 Criterion("gold_gain_beta_0.05", "above", 0.0, "gold, last iterations minus first, β = 0.05")),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.beta_study")
def kl_penalty(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import beta_study, weak_scorer
    from llama2_lib.config import OptimConfig
    recipe, world, versions = rlhf_bench(seed, preset)
    v = versions[0]
    return beta_study(v.policy, v.tokenizer, world, weak_scorer(recipe), recipe, (0.0, 0.05, 0.3), iterations=24, batch=256,
                      optim=OptimConfig(peak_lr=3e-4, final_lr_fraction=1.0))


@study("C28", place="Figure 20",
       sentence="The low tail of the scores shrinks with every version.",
       criteria=(Criterion("largest_step", "below", 0.0, "largest change of the share below 0.2, version to version"),
                 Criterion("change", "below", 0.0, "share below 0.2, V5 minus SFT")),
       notebook="07_ppo", symbol="llama2_lib.analysis.rlhf_studies.scores_study")
def low_tail(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.rlhf_studies import scores_study
    recipe, world, versions = rlhf_bench(seed, preset)
    return scores_study(versions, world, recipe)


# ------------------------------------------------------------------------------------------ appendix A.6: contamination

@study("C32", place="A.6, Table 51",
       sentence="Contaminated samples score higher and clean ones lower, all four Z beyond 2; what is found is what was "
                "planted.",
       criteria=(Criterion("z_clean", "below", -2.0, "Z of the clean subset"),
                 Criterion("z_not_clean", "above", 2.0, "Z of the subset that is not clean"),
                 Criterion("z_not_dirty", "below", -2.0, "Z of the subset that is not dirty"),
                 Criterion("z_dirty", "above", 2.0, "Z of the dirty subset"),
                 Criterion("precision", "above", 0.95, "share of the samples found that were planted"),
                 Criterion("recall", "above", 0.95, "share of the samples planted that were found")),
       notebook="11_evaluation", symbol="llama2_lib.analysis.contamination.leak_study")
def leaked_benchmark(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.contamination import leak, leak_study
    return leak_study(leak(seeded(seed, preset)))
# --------------------------------------------------------------------------------------------------- section 4: safety

@study("C24", place="Figure 14",
       sentence="From the first version to the last, violations on topics that no training asked about are at least halved, "
                "and helpfulness falls by no more than .02.",
       criteria=(Criterion("ratio", "below", 0.5, "violations on held-out topics, last version over first"),
                 Criterion("helpful_loss", "below", 0.02, "gold on harmless prompts, first version minus last")),
       notebook="09_safety", symbol="llama2_lib.analysis.safety_studies.safety_rlhf_study")
def safety_rlhf(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.safety_studies import safety_rlhf_study
    _, world, versions = rlhf_bench(seed, preset)
    return safety_rlhf_study(versions, world, seed)


@study("C25", place="Figures 15, 33",
       sentence="With more safety data the low tail of the safety scores goes (below 2% of the replies), helpfulness falls "
                "by no more than .05, and more borderline prompts are refused.",
       criteria=(Criterion("tail", "below", 0.02, "replies to unsafe test prompts below 0.2, all safety data"),
                 Criterion("tail_change", "below", 0.0, "the same, all safety data minus none"),
                 Criterion("helpful_loss", "below", 0.05, "gold on harmless prompts, no safety data minus all"),
                 Criterion("borderline_rise", "above", 0.0, "borderline prompts refused, all safety data minus none")),
       notebook="09_safety", symbol="llama2_lib.analysis.safety_studies.data_scaling_study")
def safety_data_scaling(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.safety_studies import data_scaling_study
    from llama2_lib.stages.road import workdir
    recipe, world, versions = rlhf_bench(seed, preset)
    return data_scaling_study(recipe, workdir(recipe), versions[-1].rewards, versions[-1].tokenizer, world)


@study("C26", place="Figure 16",
       sentence="Context distillation with targeted preprompts makes replies to held-out unsafe prompts safer, more than "
                "the same training without a preprompt; gated by the safety reward it is no worse than ungated where "
                "replies were safe already.",
       criteria=(Criterion("gain", "above", 0.0, "gold on held-out unsafe prompts, gated minus before"),
                 Criterion("over_control", "above", 0.0, "the same, ungated minus trained without a preprompt"),
                 Criterion("gate_on_safe", "above", -0.02, "gold where replies were safe, gated minus ungated")),
       notebook="09_safety", symbol="llama2_lib.analysis.safety_studies.distillation_study")
def context_distillation(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.safety_studies import distillation_study
    from llama2_lib.stages import rlhf, road
    from llama2_lib.world.annotators import SAFETY
    recipe, world, versions = rlhf_bench(seed, preset)
    scorer = rlhf.scorer(versions[0].rewards, recipe.runtime)
    return distillation_study(road.build("distillation", recipe), versions[-1].rewards[SAFETY], scorer, world, recipe)


@study("C27", place="section 4.3",
       sentence="Attacks on held-out topics succeed less from version to version, and each version withstands at least 80% "
                "of the attacks that the one before it fell for.",
       criteria=(Criterion("largest_step", "below", 0.0, "largest change of γ, version to version"),
                 Criterion("fixed", "above", 0.8, "findings that the next version withstands, mean over versions")),
       notebook="09_safety", symbol="llama2_lib.analysis.redteam.red_team_study")
def red_team(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.redteam import red_team_study
    recipe, world, versions = rlhf_bench(seed, preset)
    return red_team_study(versions, world, recipe)
@study("C29", place="Figure 21",
       sentence="RLHF raises Self-BLEU more on factual than on creative prompts: at the hottest temperature, and by "
                "flattening its slope over the temperature.",
       criteria=(Criterion("rise_difference_V5", "above", 0.0, "rise of Self-BLEU from SFT to V5 at T = 1.4, factual "
                                                               "minus creative"),
                 Criterion("slope_factual_V5", "above", 0.0, "change of the slope on factual prompts, SFT to V5"),
                 Criterion("slope_difference_V5", "above", 0.0, "change of the slope, factual minus creative")),
       notebook="10_temperature_and_self_bleu", symbol="llama2_lib.analysis.diversity_studies.diversity_study")
def diversity_by_kind(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.diversity_studies import diversity_study
    _, world, versions = rlhf_bench(seed, preset)
    return diversity_study({v.name: (v.policy, v.tokenizer) for v in (versions[0], versions[3], versions[-1])}, world, seed)


@study("C30", place="Figure 22",
       sentence="Dated examples, up to a thousand, give the chat model a sense of time: it tells past from future for pairs "
                "of event and year that it never saw.",
       criteria=(Criterion("gain_unasked", "above", 0.0, "events never asked: accuracy after 1,000 examples minus none"),
                 Criterion("gain_asked", "above", 0.0, "new years of asked events: accuracy after 1,000 minus none")),
       notebook="12_time_and_tools", symbol="llama2_lib.analysis.time_studies.time_study")
def dated_examples(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.time_studies import arms, time_study
    from llama2_lib.stages import road
    from llama2_lib.world.facts import world_for
    recipe = seeded(seed, preset)
    chat = road.build("sft", recipe)
    return time_study(arms(recipe, road.workdir(recipe)), chat.tokenizer, world_for(recipe.world), seed)


@study("C31", place="Table 15",
       sentence="A calculator lifts arithmetic far above the bare model, on sums of sizes that no demonstration shows.",
       criteria=(Criterion("lift", "above", 0.5, "sums right with the tool loop minus the chat model without"),),
       notebook="12_time_and_tools", symbol="llama2_lib.analysis.tool_studies.tools_study")
def calculator(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.tool_studies import taught, tools_study
    from llama2_lib.stages import road
    from llama2_lib.world.facts import world_for
    recipe = seeded(seed, preset)
    chat = road.build("sft", recipe)
    return tools_study(chat.model, taught(recipe, road.workdir(recipe)), chat.tokenizer, world_for(recipe.world), seed)
# ------------------------------------------------------------------------------------------ section 3.3: Ghost Attention

def gatt_bench(seed: int, preset: str) -> tuple:
    """(recipe, folder, world, ghost) of one seed, all built where they are missing."""
    from llama2_lib.stages import road
    from llama2_lib.world.facts import world_for
    recipe = seeded(seed, preset)
    ghost = road.build("gatt", recipe)
    return recipe, road.workdir(recipe), world_for(recipe.world), ghost


@study("C20", place="Table 30",
       sentence="Without Ghost Attention an instruction is forgotten within a few turns; with it, it is kept for ten turns, "
                "and the answers are no worse than after equal training without its masks.",
       criteria=(Criterion("least_to_10", "above", 0.95, "share that keeps the rule, the least of turns 1 to 10"),
                 Criterion("before_6", "below", 0.30, "the same before Ghost Attention, turn 6"),
                 Criterion("gold_over_control", "mean at least", 0.0, "gold apart from the rule, minus the control's")),
       notebook="08_ghost_attention", symbol="llama2_lib.analysis.gatt_studies.recall_study")
def instruction_kept(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.gatt_studies import NO_MASK, arm, recall_study
    recipe, folder, world, ghost = gatt_bench(seed, preset)
    return recall_study(ghost, arm(recipe, folder, ghost, NO_MASK), world, seed)


@study("C21", place="Figure 28",
       sentence="Ghost Attention carries over to kinds of rules that its training did not hold and the model knows from "
                "dialogues of one turn.",
       criteria=(Criterion("kinds_gain", "above", 0.3, "share that keeps the rule at turn 6, with minus before"),),
       notebook="08_ghost_attention", symbol="llama2_lib.analysis.gatt_studies.unseen_study")
def unseen_rules(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.gatt_studies import unseen_study
    _, _, world, ghost = gatt_bench(seed, preset)
    found = unseen_study(ghost, world, seed)
    return {name: value for name, value in found.items() if not name.startswith("figures")}     # some seeds have none


@study("C22", place="Figure 10",
       sentence="With Ghost Attention a larger share of the attention lies on the system message late in a dialogue.",
       criteria=(Criterion("late_gain", "above", 0.0, "share of the most attentive head, late turns, with minus before"),),
       notebook="08_ghost_attention", symbol="llama2_lib.analysis.gatt_studies.attention_study")
def attention_on_the_system_message(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.gatt_studies import attention_study
    _, _, world, ghost = gatt_bench(seed, preset)
    return attention_study(ghost, world, seed)
