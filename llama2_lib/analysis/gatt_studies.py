"""Ghost Attention, measured: how long an instruction is kept, at what cost, and where the model looks (Table 30, Figure 10).

In the paper people judged whether an answer still kept the instruction; here the rule's own checker does, on questions of
the test split. Answers are judged by the oracle for what they say apart from the rule. The arms that Ghost Attention is
compared with learn from the same dialogues for as many epochs. Left out: instructions that cannot be checked by code.

Shape suffixes: N dialogues, T turns.
"""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import torch

from llama2_lib.analysis.attention import binned, mass, weights
from llama2_lib.config import Recipe, require
from llama2_lib.model.replies import replies
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import gatt
from llama2_lib.stages.gatt import Ghost, Instruction
from llama2_lib.text.chat import B_INST, B_SYS, E_SYS, Dialog, dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.world.dialogs import Prompt, Rule, all_rules
from llama2_lib.world.facts import TEST, TRAIN, World, world_for
from llama2_lib.world.oracle import score

MOST_TURNS = 20          # of Table 30
TEMPERATURE = 0.7
LEAST = 10               # dialogues that a turn must have reached for its mean to be shown
LATE = 8                 # the first late turn of Figure 10, counted from 1
PARTS = NO_MASK, FULL_WORDS = "no masks", "full words"                # of the method
DATA = FOUR_KINDS, NO_SINGLE = "four kinds", "no single turns"         # of what it learns from
# Words that no rule of the world holds: kinds that were trained, in words that never were
NEW_WORDS = {"start": ("Wow", "Right", "Look"), "end": ("amen", "ciao", "salute"), "call": ("Doctor", "Madam", "Master")}


# ------------------------------------------------------------------------------------------------------------------ recall

@dataclass(frozen=True)
class Recall:
    """Dialogues under an instruction: was it kept, and the gold of what was said apart from it; NaN after the end."""
    given: list[Instruction]
    asked: list[list[Prompt]]
    said: list[list[str]]
    kept_NT: np.ndarray
    gold_NT: np.ndarray

    def by_turn(self) -> list[float]:
        """The share that keeps the instruction at each turn, as far as LEAST dialogues go (or all, if they are fewer)."""
        reached_T = np.isfinite(self.kept_NT).sum(0)
        last = int((reached_T >= min(LEAST, len(self.kept_NT))).sum())
        return [float(x) for x in np.nanmean(self.kept_NT[:, :last], axis=0)]

    def at(self, turn: int) -> float:
        """The share that keeps it at a turn, counted from 1. ValueError if too few dialogues go so far."""
        shares = self.by_turn()
        require(turn <= len(shares), f"turn {turn} was reached by fewer than {LEAST} dialogues; turn {len(shares)} by more")
        return shares[turn - 1]

    @property
    def longest(self) -> int:
        """The number of the dialogue with the most turns."""
        return int(np.isfinite(self.kept_NT).sum(1).argmax())

    def gold(self, turns: int) -> float:
        """Mean gold over the first `turns` turns."""
        return float(np.nanmean(self.gold_NT[:, :turns]))


def instructions(rules: Sequence[Rule], count: int, seed: int) -> list[Instruction]:
    """`count` instructions of one of `rules` each, kinds equally likely."""
    return list(islice(gatt.instructions(rules, 0.0, Random(f"asked to hold {seed}")), count))


def trained_rules(ghost: Ghost, world: World) -> list[Rule]:
    """The rules that stand in some dialogue Ghost Attention learned from."""
    return [r for r in gatt.rules_to_hold(world) if any(r.text in h.text for h in ghost.held)]


def trained_of_the_world(ghost: Ghost, world: World) -> list[Rule]:
    """Those of data/world among them, which are of four kinds."""
    return [r for r in trained_rules(ghost, world) if r in all_rules(world)[TRAIN]]


def untrained_figures(ghost: Ghost, world: World) -> list[Rule]:
    """The rules to act as an animal that the model never named when it was asked for animals."""
    return [r for r in all_rules(world)[TRAIN] if r.kind == "act" and r not in trained_rules(ghost, world)]


def new_words(count: int, seed: int) -> list[Instruction]:
    """Instructions of trained kinds with NEW_WORDS."""
    texts = {"start": "Always start with {}.", "end": "Always end with {}.", "call": "Always call me {}."}
    rules = [Rule(kind, word, word, texts[kind].format(word)) for kind, words in NEW_WORDS.items() for word in words]
    return list(islice(gatt.instructions(rules, 0.0, Random(f"new words {seed}")), count))


def recall(model: Transformer, tokenizer: Tokenizer, world: World, given: Sequence[Instruction], turns: int, seed: int,
           brief: bool = False, every_turn: bool = False) -> Recall:
    """Dialogues of `turns` test questions under each instruction, which stands on the first turn (or on every one)."""
    asked = gatt.questions(world, len(given), turns, seed + 81, TEST)
    systems = [c.brief if brief else c.text for c in given]
    said = [[r.text for r in answers]
            for answers in gatt.converse(model, tokenizer, systems, asked, TEMPERATURE, seed, every_turn)]
    kept_NT, gold_NT = (np.full((len(given), turns), np.nan) for _ in range(2))
    for i, (c, prompts, answers) in enumerate(zip(given, asked, said, strict=True)):
        kept_NT[i, :len(answers)] = [c.kept(a) for a in answers]
        gold_NT[i, :len(answers)] = [score(world, p, c.strip(a)).total for p, a in zip(prompts, answers, strict=False)]
    return Recall(list(given), asked, said, kept_NT, gold_NT)


# -------------------------------------------------------------------------------------------------------------------- arms

def arm(recipe: Recipe, workdir: Path, ghost: Ghost, name: str) -> Transformer:
    """The model before Ghost Attention after equal training on the same dialogues without a part of it; kept in
    workdir/gatt_arms.

    "no masks": all answers have a loss. "full words": no instruction is shortened. "four kinds": dialogues of its own, under
    rules of data/world alone. "no single turns": no reminder of rules that it will not see held. ValueError for another.
    """
    require(name in PARTS + DATA, f"there is no arm {name!r}; there are {', '.join(PARTS + DATA)}")
    key = checkpoint.fingerprint("gatt arm", name, checkpoint.artifact_key(ghost.folder))
    return checkpoint.trained_once(workdir / "gatt_arms" / name.replace(" ", "_"), key,
                                   lambda: trained_arm(recipe, ghost, name))


def every_arm(recipe: Recipe, workdir: Path, ghost: Ghost, names: Sequence[str]) -> dict[str, Transformer]:
    """Several arms by name."""
    return {name: arm(recipe, workdir, ghost, name) for name in names}


def trained_arm(recipe: Recipe, ghost: Ghost, name: str) -> Transformer:
    """The model of `arm`, trained now."""
    model, tokenizer, held, own = copy.deepcopy(ghost.before), ghost.tokenizer, ghost.held, ghost.reminders
    if name == FULL_WORDS:
        recipe = replace(recipe, gatt=replace(recipe.gatt, shortened=0.0))
    if name == FOUR_KINDS:
        world = world_for(recipe.world)
        held = gatt.collect(model, tokenizer, world, trained_of_the_world(ghost, world), recipe.gatt, recipe.seed + 3)
    if name == NO_SINGLE:
        own = [d for d in own if d[0].role != "system"]
    gatt.ghost_tune(model, tokenizer, held, own, recipe, name != NO_MASK, title=name)
    return model


# ----------------------------------------------------------------------------------------------------------------- studies

def recall_study(ghost: Ghost, control: Transformer, world: World, seed: int, count: int = 100,
                 turns: int = MOST_TURNS) -> Mapping[str, float]:
    """Table 30: instructions that the training held, kept turn by turn by the model before, the control and Ghost Attention;
    and the gold of their answers over ten turns. `beyond_10` is the mean share after turn 10, to the end of the context."""
    given = instructions(trained_rules(ghost, world), count, seed)
    found: dict[str, float] = {}
    for name, model in (("before", ghost.before), ("control", control), ("gatt", ghost.model)):
        r = recall(model, ghost.tokenizer, world, given, turns, seed)
        shares = r.by_turn()
        found |= {f"{name}_{t}": shares[t - 1] for t in range(1, 11)}
        found |= {f"{name}_beyond_10": float(np.mean(shares[10:] or shares[-1:])), f"turns_{name}": len(shares),
                  f"gold_{name}": r.gold(10)}
    return found | {"least_to_10": min(found[f"gatt_{t}"] for t in range(1, 11)),
                    "gold_over_control": found["gold_gatt"] - found["gold_control"]}


def ablation_study(ghost: Ghost, arms: Mapping[str, Transformer], world: World, seed: int, count: int = 50,
                   turns: int = 10) -> Mapping[str, float]:
    """The parts of Ghost Attention one by one: each arm's mean recall over the turns when the instruction is given in full
    and when it is given in few words, its gold, and what the whole keeps more than the arm ("…_gain")."""
    given, found = instructions(trained_rules(ghost, world), count, seed), {}
    for name, model in {"gatt": ghost.model, **arms}.items():
        for words in ("full", "brief"):
            r = recall(model, ghost.tokenizer, world, given, turns, seed, brief=words == "brief")
            found |= {f"{name}_{words}": float(np.nanmean(r.kept_NT)), f"{name}_{words}_gold": r.gold(turns)}
    return found | {f"{name}_{words}_gain": found[f"gatt_{words}"] - found[f"{name}_{words}"]
                    for name in arms for words in ("full", "brief")}


def unseen_study(ghost: Ghost, world: World, seed: int, count: int = 100, turns: int = 6) -> Mapping[str, float]:
    """Figure 28: kinds of rules that Ghost Attention never saw (split "test"), figures that it never saw, if there are such,
    and words that no training ever held; each against the model before, and beside what that model does when the instruction
    stands on every turn."""
    found, figures = {}, untrained_figures(ghost, world)
    groups = {"kinds": instructions(all_rules(world)[TEST], count, seed), "words": new_words(count // 2, seed),
              "figures": instructions(figures, count // 2, seed) if figures else []}
    for what, given in ((name, group) for name, group in groups.items() if group):
        arms = {"before": recall(ghost.before, ghost.tokenizer, world, given, turns, seed),
                "gatt": recall(ghost.model, ghost.tokenizer, world, given, turns, seed),
                "reminded": recall(ghost.before, ghost.tokenizer, world, given, turns, seed, every_turn=True)}
        found |= {f"{what}_{name}_{t}": r.at(t) for name, r in arms.items() for t in (1, turns)}
        found[f"{what}_gain"] = arms["gatt"].at(turns) - arms["before"].at(turns)
    return found


def carry_over_study(ghost: Ghost, arms: Mapping[str, Transformer], world: World, seed: int, count: int = 100,
                     turns: int = 6) -> Mapping[str, float]:
    """What persistence takes to carry over: kinds of split "test" kept at a turn by Ghost Attention and by each arm, and
    what the whole keeps more ("…_gain"); beside it, what each keeps at turn 10 of the four kinds that all of them held."""
    unseen = instructions(all_rules(world)[TEST], count, seed)
    four = instructions(trained_of_the_world(ghost, world), count, seed)
    found = {}
    for name, model in {"gatt": ghost.model, **arms}.items():
        found[name] = recall(model, ghost.tokenizer, world, unseen, turns, seed).at(turns)
        found[f"{name}_held_10"] = recall(model, ghost.tokenizer, world, four, 10, seed).at(10)
    return found | {f"{name}_gain": found["gatt"] - found[name] for name in arms}


def by_example(model: Transformer, tokenizer: Tokenizer, r: Recall, exchanges: int, seed: int) -> tuple[float, float]:
    """How much of the obedience comes from the model's own earlier answers: the share of replies that keep the instruction
    after so many exchanges of `r`, the earlier answers as they were, and with the rule taken off them.

    ValueError if no dialogue is long enough.
    """
    long = [i for i, said in enumerate(r.said) if len(said) > exchanges and all(said[:exchanges])]
    require(len(long) > 0, f"no dialogue goes on after {exchanges} exchanges")
    shares = []
    for bare in (False, True):
        talks = [dialog(*(text for p, a in zip(r.asked[i][:exchanges], r.said[i], strict=False)
                          for text in (p.text, (r.given[i].strip(a) or "Yes.") if bare else a)),
                        r.asked[i][exchanges].text, system=r.given[i].text) for i in long]
        answers = replies(model, tokenizer, talks, TEMPERATURE, seed)
        shares.append(float(np.mean([r.given[i].kept(a) for i, a in zip(long, answers, strict=True)])))
    return shares[0], shares[1]


def system_span(system: str, tokenizer: Tokenizer, ids: Sequence[int]) -> slice:
    """Where the system message with its marks stands in the ids of a dialogue. ValueError if it does not begin there."""
    whole = tokenizer.encode(f"{B_INST} {B_SYS}\n{system}\n{E_SYS}", bos=True)
    require(list(ids[:len(whole)]) == whole, f"the dialogue does not begin with the system message {system!r}")
    return slice(len(tokenizer.encode(B_INST, bos=True)), len(whole))


def attention_by_turn(model: Transformer, tokenizer: Tokenizer, messages: Dialog) -> tuple[list[float], list[float]]:
    """(largest, mean) over layers and heads: the share of attention that lies on the system message, while the answers of
    each turn are written. A token is written where the one before it looks."""
    ids, mask = render(messages, tokenizer)
    share_LNT = mass(weights(model, ids), system_span(messages[0].content, tokenizer, ids))
    turn_T = (torch.tensor(ids) == tokenizer.bos_id).cumsum(0) - 1
    writing_T = torch.tensor([*mask[1:], False])
    per_turn = [share_LNT[..., writing_T & (turn_T == t)] for t in range(int(turn_T[-1]) + 1)]
    return [float(s.amax((0, 1)).mean()) for s in per_turn], [float(s.mean()) for s in per_turn]


def dialogue_of(r: Recall, i: int) -> Dialog:
    """The i-th dialogue as messages, its instruction in front."""
    texts = (text for p, a in zip(r.asked[i], r.said[i], strict=False) for text in (p.text, a))
    return dialog(*texts, system=r.given[i].text)


def maps(models: Mapping[str, Transformer], tokenizer: Tokenizer, messages: Dialog,
         bins: int = 40) -> tuple[dict[str, np.ndarray], tuple[float, float]]:
    """Figure 10: each model's binned attention over one dialogue, and between which bins the system message stands."""
    ids = render(messages, tokenizer)[0]
    span = system_span(messages[0].content, tokenizer, ids)
    return ({name: binned(weights(m, ids), bins) for name, m in models.items()},
            (span.start * bins / len(ids), span.stop * bins / len(ids)))


def attention_study(ghost: Ghost, world: World, seed: int, count: int = 30, turns: int = 12) -> Mapping[str, float]:
    """Figure 10 as numbers: attention on the system message by turn, both models reading the same dialogues, which the model
    with Ghost Attention wrote. Only dialogues that went through all turns count."""
    given = instructions(trained_rules(ghost, world), count, seed)
    r = recall(ghost.model, ghost.tokenizer, world, given, turns, seed)
    whole = [dialogue_of(r, i) for i, answers in enumerate(r.said) if len(answers) == turns and all(answers)]
    require(len(whole) > 0, f"no dialogue of {count} reached {turns} turns")
    found, late = {}, {}
    for name, model in (("before", ghost.before), ("gatt", ghost.model)):
        largest, mean = np.mean([attention_by_turn(model, ghost.tokenizer, d) for d in whole], axis=0)
        found |= {f"{name}_{t}": float(x) for t, x in enumerate(largest, 1)}
        found |= {f"mean_{name}_{t}": float(x) for t, x in enumerate(mean, 1)}
        late[name] = largest[LATE - 1:].mean(), mean[LATE - 1:].mean()
    return found | {"late_gain": float(late["gatt"][0] - late["before"][0]),
                    "late_gain_of_mean": float(late["gatt"][1] - late["before"][1]), "dialogues": len(whole)}
