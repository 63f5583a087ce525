"""What studies of one seed start from: its recipe, and artifacts that are built where they are missing."""
from __future__ import annotations

from llama2_lib.config import Recipe, override
from llama2_lib.config import preset as recipe_of


def seeded(seed: int, preset: str) -> Recipe:
    """The recipe of one seed: another web, another start, another order of the data."""
    return override(recipe_of(preset), seed=seed)


def reward_bench(seed: int, preset: str):
    """The shared things of one seed's reward studies, and its two reward models by side."""
    from llama2_lib.analysis.reward_studies import bench
    from llama2_lib.stages import road
    recipe = seeded(seed, preset)
    built = road.build("reward", recipe)
    return bench(recipe), {"helpfulness": built.helpfulness, "safety": built.safety}


def rlhf_bench(seed: int, preset: str) -> tuple:
    """(recipe, world, versions) of one seed, all built where they are missing."""
    from llama2_lib.stages import road
    from llama2_lib.world.facts import world_for
    recipe = seeded(seed, preset)
    return recipe, world_for(recipe.world), road.build("rlhf", recipe)


def gatt_bench(seed: int, preset: str) -> tuple:
    """(recipe, folder, world, ghost) of one seed, all built where they are missing."""
    from llama2_lib.stages import road
    from llama2_lib.world.facts import world_for
    recipe = seeded(seed, preset)
    ghost = road.build("gatt", recipe)
    return recipe, road.workdir(recipe), world_for(recipe.world), ghost
