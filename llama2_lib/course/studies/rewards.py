"""Preferences and reward models (sections 3.2.1, 3.2.2 and 3.4.2): C08 to C12, C23, C34, B04 to B06."""
from __future__ import annotations

from collections.abc import Mapping

from llama2_lib.course.claims import Criterion, study
from llama2_lib.course.studies.benches import reward_bench


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
