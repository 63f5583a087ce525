"""One run on many processes (section 3.2.3): C33 and B10."""
from __future__ import annotations

from collections.abc import Mapping

from llama2_lib.course.claims import Criterion, study
from llama2_lib.course.studies.benches import seeded


@study("C33", place="§3.2.3",
       sentence="Sampling from sharded weights is far slower than from whole ones, with keys and values cached too; weights "
                "gathered once before it cure that, token for token.",
       criteria=(Criterion("times_faster", "above", 3.0, "times faster once gathered, two and four processes"),
                 Criterion("messages_a_token", "above", 1.0, "messages a token before"),
                 Criterion("messages_gathered", "exactly", 0, "messages in all when gathered"),
                 Criterion("same_tokens", "exactly", 4, "of four runs with the tokens of a whole model")),
       notebook="13_scaling_out", symbol="llama2_lib.training.sharding.gathered")
def sharded_sampling(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.scaling_out import sampling_study
    from llama2_lib.stages import road
    recipe = seeded(seed, preset)
    return sampling_study(recipe, road.build("sft", recipe).folder.parent)


@study("B10", place="the course",
       sentence="Two and four processes, with copies, FSDP2, tensor parallelism and both, have the losses of one process "
                "over fifty steps.",
       criteria=(Criterion("first_step", "below", 1e-6, "largest difference at the first step, nats"),
                 Criterion("any_step", "below", 5e-6, "largest difference at any step, nats")),
       notebook="13_scaling_out", symbol="llama2_lib.training.distributed.worker")
def one_run_on_many(seed: int, preset: str) -> Mapping[str, float]:
    from llama2_lib.analysis.scaling_out import equality_study
    from llama2_lib.stages import road
    recipe = seeded(seed, preset)
    return equality_study(recipe, road.build("sft", recipe).folder.parent)
