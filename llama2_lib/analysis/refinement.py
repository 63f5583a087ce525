"""What a red team is for: its findings go into the next version's training (section 4.3).

    round n: attack version n − 1 on the topics of the round → all findings so far → version n, tuned on them

In the paper each round of red teaming is followed by new training data, and most of what was found is fixed in the next
candidate. Here the findings come from topics that training may see, a few in each round, and the template of its category
answers each; γ is measured on held-out topics, which nothing trains. The paper is silent on the number of findings and on
how they are learned. Left out: findings that enter preferences and rewards.
"""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from random import Random
from typing import Literal

from llama2_lib.analysis.redteam import Attempt, Rate, fixed, gamma, raid
from llama2_lib.analysis.safety_studies import ask
from llama2_lib.config import Recipe
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import distillation
from llama2_lib.stages.gatt import reminders
from llama2_lib.stages.rlhf import Version
from llama2_lib.text.chat import Message
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import HELPFUL, prompts
from llama2_lib.world.facts import TEST, TRAIN, World
from llama2_lib.world.prompts import BORDERLINE, UNSAFE, howtos_of

REMINDERS = {**HELPFUL, BORDERLINE: 0.2}      # harmless prompts, some of which only sound dangerous


@dataclass(frozen=True)
class Round:
    """One round: attempts on the version before; the same ones on the next version, untuned, and tuned on all findings so
    far, which is `policy`."""
    name: str
    before: list[Attempt]
    untuned: list[Attempt]
    after: list[Attempt]
    policy: Transformer


def refined(versions: Sequence[Version], world: World, recipe: Recipe, copies: int = 2) -> list[Round]:
    """The versions after the first again, each tuned on what the red team found on those before.

    The topics are those of the splits "train" and "test", in an order drawn by lot, about as many for each round.
    """
    topics = [h for split in (TRAIN, TEST) for h in howtos_of(world, UNSAFE, split)]
    Random(f"red team {recipe.seed}").shuffle(topics)
    policy, found, rounds = versions[0].policy, [], []
    for i, v in enumerate(versions[1:]):
        own, seed = topics[i::len(versions) - 1], recipe.seed + 200 + 2 * i
        before = raid(policy, v.tokenizer, world, own, copies, seed)
        found += before
        untuned = raid(v.policy, v.tokenizer, world, own, copies, recipe.seed + 300 + i)
        policy = patched(v.policy, v.tokenizer, found, world, recipe)
        rounds.append(Round(v.name, before, untuned, raid(policy, v.tokenizer, world, own, copies, seed + 1), policy))
    return rounds


def patched(policy: Transformer, tokenizer: Tokenizer, found: Sequence[Attempt], world: World,
            recipe: Recipe) -> Transformer:
    """A copy of the model, tuned on findings: each violating attempt, answered by the template of its category.

    Beside them it learns as many of its own replies to REMINDERS: refusals alone would teach it to refuse. Without a
    violating attempt it is the copy as it is.
    """
    model, bad = copy.deepcopy(policy), [a for a in found if a.violates]
    if bad:
        asked = list(prompts(world, len(bad), recipe.seed, REMINDERS))
        data = [(*a.asked, Message("assistant", distillation.TEMPLATES[a.category])) for a in bad]
        data += reminders(policy, tokenizer, asked, 1.0, recipe.seed)
        distillation.tune(model, tokenizer, data, recipe.distillation, recipe.seed, recipe.runtime)
    return model


def withstood(rounds: Sequence[Round], by: Literal["untuned", "after"]) -> Rate:
    """How many of the findings of all rounds the next version withstands, untuned or after it has learned from them.

    ValueError if nothing was found.
    """
    return fixed(list(chain(*(r.before for r in rounds))), list(chain(*(getattr(r, by) for r in rounds))))


def refinement_study(versions: Sequence[Version], world: World, recipe: Recipe, copies: int = 24,
                     asked: int = 600) -> Mapping[str, float]:
    """γ on held-out topics of the first version and of each refined one; the share of all findings that the version which
    learned from them withstands, and that it withstands untuned; what was paid in helpful gold and in false refusals."""
    rounds, tokenizer, seed = refined(versions, world, recipe), versions[0].tokenizer, recipe.seed
    policies = {versions[0].name: versions[0].policy, **{r.name: r.policy for r in rounds}}
    found = {f"gamma_{name}": gamma(raid(policy, tokenizer, world, copies=copies, seed=seed + i))
             for i, (name, policy) in enumerate(policies.items())}
    steps = [b - a for a, b in pairwise(found.values())]
    plain, tuned = (ask(policy, tokenizer, world, seed + 1, asked) for policy in (versions[-1].policy, rounds[-1].policy))
    return {**found, "largest_step": max(steps), "change": sum(steps),
            **{f"findings_{r.name}": sum(a.violates for a in r.before) for r in rounds},
            "fixed": withstood(rounds, "after").share, "fixed_untuned": withstood(rounds, "untuned").share,
            "helpful_cost": plain.helpful_gold - tuned.helpful_gold,
            "borderline_untuned": plain.borderline_refused.share, "borderline_tuned": tuned.borderline_refused.share}
