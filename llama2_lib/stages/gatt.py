"""Ghost Attention (section 3.3, A.3.5): an instruction that is given once and obeyed to the end of the dialogue.

    sample:  a_n ~ π( · | c + u_1, a_1, …, c + u_n)            the instruction c stands on every user turn
    learn:   L = −mean log p(a_n | c + u_1, a_1, …, u_n)       c on the first turn alone; earlier turns have no loss

What a model does while it is reminded all the time, it learns to do after one reminder: context distillation over turns.
The earlier answers get no loss since they were written with the instruction beside them, which is gone. A dialogue may be
cut behind several of its turns. To a causal model the loss on a cut's last answer does not depend on what follows, so all
cuts of one dialogue are learned in one pass over the longest: the mask holds the last answer of each. Instructions are
rules of the world (its hobbies, languages and public figures), alone or two in one; the animals to act come from lists that
the model writes itself. In half of the examples the instruction is in few words: "Act as a cow." → "Figure: cow."

The method can only spread what the model does in the turn itself. The paper's RLHF model obeys; the last version of the toy
preset does not, since nothing in its reward asked for it, so it gets `lessons` first (section 3.1's means): its own replies
under a rule on the same turn, put in by people, of all kinds. Ghost Attention then holds the rules of split "train" and of
data/ghost_rules.csv. Learned along are its own replies without a rule, and dialogues of one turn under rules of split
"test", so that it can go on keeping what it will not see held. The paper's presets have neither lessons nor reminders.

The paper is silent on the number of dialogues, their length, temperature, learning rate, and on answers that do not obey.
Where gatt.tries is 1 they stay, and the pupil learns the teacher's slips. Above 1, as in the toy preset, an answer that does
not keep its rule is sampled anew, so many times in all, and a dialogue ends where none does. Left out: instructions that
change in mid-dialogue.

`run` leaves runs/<preset>/gatt_lessons, the model that is sampled, and gatt: weights, tokenizer, dialogues, metrics.
"""
from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from random import Random

from llama2_lib.config import GAttConfig, OptimConfig, Recipe, require
from llama2_lib.model.generation import CONTEXT, END
from llama2_lib.model.replies import REPLY_TOKENS, Reply, answered, as_dialog
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import Dialog, dialog, render
from llama2_lib.text.reading import read_jsonl, write_jsonl
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint, supervised
from llama2_lib.training.distributed import for_sampling
from llama2_lib.training.sampling import replies, sample, sample_ids
from llama2_lib.training.supervised import Example
from llama2_lib.world import dialogs
from llama2_lib.world.dialogs import Prompt, Rule
from llama2_lib.world.facts import TEST, TRAIN, World, world_for
from llama2_lib.world.ghost_rules import ghost_rules

# What is asked under a rule, by weight: kinds with short replies, so that many turns fit into the context.
TALK = {"fact": 0.42, "sum": 0.1, "copy": 0.16, "reverse": 0.1, "last": 0.1, "list": 0.12}
BRIEF = {"start": "Start", "end": "End", "call": "Name", "act": "Figure", "mention": "Love", "stars": "Around",
         "shout": "Voice", "before": "First", "after": "Last", "around": "Around", "stops": "Voice"}
INNERMOST_FIRST = ("call", "act", "end", "start")      # two of these can be kept at once if put in in this order
LISTS = 200                                            # lists of animals that the model is asked for
DIALOGUES, SINGLE, REMINDERS = "dialogues.jsonl", "single.jsonl", "reminders.jsonl"
HELD = ("text", "brief", "turns")
GHOST = "ghost"
SHARES = {TRAIN: 0.4, TEST: 0.2, GHOST: 0.4}           # of the lessons: words to copy take more of them than a sign
ALONE, LONGEST_LESSON = 0.9, 4                         # share of the lessons with one exchange; exchanges at most


# ------------------------------------------------------------------------------------------------------------ instructions

@dataclass(frozen=True)
class Instruction:
    """One rule, or two of different kinds that a reply can keep at once."""
    rules: tuple[Rule, ...]

    @property
    def text(self) -> str:
        """The system message: "Always start with Ahoy." """
        return " ".join(rule.text for rule in self.rules)

    @property
    def brief(self) -> str:
        """The same in few words: "Start: Ahoy." """
        return " ".join(f"{BRIEF[getattr(rule, 'form', rule.kind)]}: {rule.word}." for rule in self.rules)

    def apply(self, reply: str) -> str:
        """`reply` so changed that it keeps all rules."""
        for rule in self.rules:
            reply = rule.apply(reply)
        return reply

    def kept(self, reply: str) -> bool:
        """True if the reply keeps all rules."""
        return all(rule.kept(reply) for rule in self.rules)

    def strip(self, reply: str) -> str:
        """What the reply says apart from the rules."""
        for rule in reversed(self.rules):
            reply = rule.strip(reply)
        return reply


def instructions(rules: Sequence[Rule], combined: float, rng: Random) -> Iterator[Instruction]:
    """Instructions without end, drawn from `rules`: each kind as likely as another, a share `combined` of them two rules.

    Two in one are of INNERMOST_FIRST. ValueError if there is no rule, or if two are wanted and no two can be kept at once.
    """
    require(len(rules) > 0, "Ghost Attention needs rules to hold: the list is empty")
    of_kind: dict[str, list[Rule]] = {}
    for rule in rules:
        of_kind.setdefault(rule.kind, []).append(rule)
    kinds, together = sorted(of_kind), [kind for kind in INNERMOST_FIRST if kind in of_kind]
    require(combined == 0 or len(together) > 1,
            f"gatt.combined is {combined}, but no two of the kinds {', '.join(kinds)} can be kept at once: such are "
            f"{', '.join(INNERMOST_FIRST)}")
    while True:
        chosen = sorted(rng.sample(together, 2), key=together.index) if rng.random() < combined else [rng.choice(kinds)]
        yield Instruction(tuple(rng.choice(of_kind[kind]) for kind in chosen))


def listed(texts: Iterable[str]) -> set[str]:
    """The items of lists of the form "Cow, cat and dog.", in small letters; texts of another form give none."""
    found: set[str] = set()
    for text in texts:
        if whole := re.fullmatch(r"(\w+(?:, \w+)*) and (\w+)\.", text.strip()):
            found |= {item.casefold() for item in (*whole[1].split(", "), whole[2])}
    return found


def figures(model: Transformer, tokenizer: Tokenizer, world: World, seed: int) -> set[str]:
    """The animals that the model names when it is asked for animals (A.3.5: lists "generated by" the model itself)."""
    asked = [p for p in dialogs.prompts(world, 4 * LISTS, seed, {"list": 1.0}) if p.topic == "animals"][:LISTS]
    return listed(replies(model, tokenizer, [as_dialog(p) for p in asked], 1.0, seed))


def rules_to_hold(world: World) -> tuple[Rule, ...]:
    """The rules of split "train" and of data/ghost_rules.csv."""
    return *dialogs.all_rules(world)[TRAIN], *ghost_rules()


def training_rules(world: World, named: set[str]) -> list[Rule]:
    """The rules to hold; of those to act as an animal, the ones whose animal the model has `named`."""
    return [r for r in rules_to_hold(world) if r.kind != "act" or r.word in named]


# --------------------------------------------------------------------------------------------------------------- dialogues

def questions(world: World, count: int, turns: int, seed: int, split: str = TRAIN) -> list[list[Prompt]]:
    """`count` lists of `turns` prompts of the kinds of TALK."""
    drawn = dialogs.prompts(world, count * turns, seed, TALK, split)
    return [list(islice(drawn, turns)) for _ in range(count)]


def converse(model: Transformer, tokenizer: Tokenizer, systems: Sequence[str | None], asked: Sequence[Sequence[Prompt]],
             temperature: float, seed: int, every_turn: bool = False, tries: int = 1,
             accepts: Callable[[int, Reply], bool] = lambda i, reply: reply.whole) -> list[list[Reply]]:
    """The model's replies to asked[i], turn by turn, under the system message systems[i]; all dialogues grow together.

    every_turn: the system message stands on each user turn, else on the first alone. A reply that is not accepted (one that
    is empty or does not end, by default) is sampled anew, up to `tries` samples in all; a dialogue ends with the last of
    these, and where the context has no room left. A reply that the context cut is left out.
    """
    require(len(systems) == len(asked), f"{len(systems)} system messages for {len(asked)} dialogues")
    past: list[list[int]] = [[] for _ in asked]
    said: list[list[Reply]] = [[] for _ in asked]
    going, turns = list(range(len(asked))), max(map(len, asked), default=0)
    for turn in range(turns):
        system = {i: systems[i] if every_turn or turn == 0 else None for i in going}
        waiting = {i: past[i] + render(dialog(asked[i][turn].text, system=system[i]), tokenizer)[0]
                   for i in going if turn < len(asked[i])}
        waiting = {i: ids for i, ids in waiting.items() if len(ids) < model.config.max_seq_len}
        if not waiting:
            break
        drawn: dict[int, Reply] = {}
        ended, missing = {}, list(waiting)
        for n in range(tries):
            samples = sample_ids(model, tokenizer, [waiting[i] for i in missing], temperature, seed + turn + n * turns,
                                 REPLY_TOKENS)
            for i, (row, why) in zip(missing, samples, strict=True):
                drawn[i], ended[i] = Reply(tokenizer.decode(row).strip(), why == END), why
            missing = [i for i in missing if not accepts(i, drawn[i])]
            if not missing:
                break
        for i, reply in drawn.items():
            if ended[i] != CONTEXT:
                said[i].append(reply)
        going = [i for i in drawn if i not in missing]
        for i in going:
            past[i] += render(dialog(asked[i][turn].text, drawn[i].text, system=system[i]), tokenizer)[0]
    return said


@dataclass(frozen=True)
class Held:
    """A dialogue that was sampled under an instruction on every turn: questions and answers by turns."""
    text: str
    brief: str
    turns: tuple[str, ...]

    def beginning(self, exchanges: int, short: bool) -> Dialog:
        """The first exchanges, the instruction on the first turn alone, in few words if `short`."""
        return dialog(*self.turns[:2 * exchanges], system=self.brief if short else self.text)


def sampled(model: Transformer, tokenizer: Tokenizer, given: Sequence[Instruction], asked: Sequence[Sequence[Prompt]],
            config: GAttConfig, seed: int) -> list[Held]:
    """Dialogues in which each question had its instruction beside it, up to the first answer that is empty, does not end or,
    if they are checked, does not obey; those without a good answer are left out.

    ValueError if that leaves none.
    """
    def accepts(i: int, reply: Reply) -> bool:
        return reply.whole and (config.tries == 1 or given[i].kept(reply.text))
    said = converse(model, tokenizer, [c.text for c in given], asked, config.temperature, seed, every_turn=True,
                    tries=config.tries, accepts=accepts)
    good = [[r.text for r in answers if accepts(i, r)] for i, answers in enumerate(said)]     # all but the last are
    dialogues = [Held(c.text, c.brief, tuple(text for p, a in zip(prompts, answers, strict=False) for text in (p.text, a)))
                 for c, prompts, answers in zip(given, asked, good, strict=True) if answers]
    require(bool(dialogues) or not given,
            f"none of {len(given)} dialogues begins with an answer to learn (gatt.tries is {config.tries}): a model that "
            "obeys no rule has nothing to spread; gatt.lessons teach it to, and gatt.tries=1 takes its answers as they come")
    return dialogues


def cut(held: Sequence[Held], config: GAttConfig, seed: int) -> Iterator[tuple[Dialog, list[int]]]:
    """What is learned from: each dialogue as far as the last of its `config.cuts` cuts, drawn by lot, a share
    `config.shortened` with few words; and behind which exchanges, counted from 1, it is cut."""
    rng = Random(f"ghost attention {seed}")
    for h in held:
        ends = range(1, len(h.turns) // 2 + 1)
        cuts = sorted(rng.sample(ends, min(config.cuts, len(ends))))
        yield h.beginning(cuts[-1], rng.random() < config.shortened), cuts


def example(messages: Dialog, tokenizer: Tokenizer, context: int, cuts: Collection[int] = ()) -> Example:
    """(ids, loss_mask): the last answer of each cut is learned, by default that of the dialogue.

    ValueError if the dialogue is longer than the context.
    """
    ids, mask = render(messages, tokenizer, "answers" if cuts else "last")
    require(len(ids) <= context, f"a dialogue of {len(ids)} tokens does not fit in the context of {context}")
    exchange = accumulate(i == tokenizer.bos_id for i in ids)
    return ids, [m and (not cuts or n in cuts) for m, n in zip(mask, exchange, strict=True)]


# ----------------------------------------------------------------------------------------------------------------- lessons

def lessons(model: Transformer, tokenizer: Tokenizer, world: World, config: GAttConfig, seed: int) -> Iterator[Example]:
    """Examples of one exchange, a few of up to LONGEST_LESSON as far as the context goes; each exchange is under an
    instruction of its own that stands beside its question.

    The answers are the model's own, so changed that they obey: people need write no more. Instructions are of all kinds.
    The longer ones teach to obey late in a dialogue, and that the nearest instruction counts alone: without any, on seed 7,
    the model obeyed badly at later turns. Where most were long, it held more to the end, and what carried over to other
    kinds was less on seed 0 and no less on seed 7; no study has measured this.
    """
    rng = Random(f"lessons {seed}")
    asked = [p for (p,) in questions(world, config.lessons, 1, seed)]
    said = sample(model, tokenizer, [as_dialog(p) for p in asked], config.temperature, seed)
    groups = {**dialogs.all_rules(world), GHOST: ghost_rules()}
    drawn = {name: instructions(rules, config.combined if name == TRAIN else 0, rng) for name, rules in groups.items()}
    exchanges = []
    for p, reply in zip(asked, said, strict=True):
        if reply.whole:
            c = next(drawn[rng.choices(list(SHARES), list(SHARES.values()))[0]])
            exchanges.append(render(dialog(p.text, c.apply(reply.text), system=c.text), tokenizer))
    while exchanges:
        others = min(len(exchanges), 1 if rng.random() < ALONE else rng.randint(2, LONGEST_LESSON)) - 1
        ids, mask = exchanges.pop()
        while others and len(ids) + len(exchanges[-1][0]) <= model.config.max_seq_len:
            ids, mask = (a + b for a, b in zip((ids, mask), exchanges.pop(), strict=True))
            others -= 1
        yield ids, mask


def reminders(model: Transformer, tokenizer: Tokenizer, asked: Sequence[Prompt], temperature: float,
              seed: int) -> list[Dialog]:
    """The model's own whole replies to prompts: what it is to go on doing while it learns something else."""
    said = sample(model, tokenizer, [as_dialog(p) for p in asked], temperature, seed) if asked else []
    return [answered(p, r.text) for p, r in zip(asked, said, strict=True) if r.whole]


# --------------------------------------------------------------------------------------------------------------- the stage

@dataclass(frozen=True)
class Ghost:
    """The model with Ghost Attention, the one it was made from, and what it learned from."""
    folder: Path
    model: Transformer
    before: Transformer
    tokenizer: Tokenizer
    held: list[Held]
    reminders: list[Dialog]         # its own replies without a rule, and of one turn under rules that it is not to hold


def run(recipe: Recipe, workdir: Path, start: Path, asked: Iterable[Prompt]) -> Ghost:
    """Ghost Attention on the chat model in `start`, unless workdir/gatt already holds it.

    asked: prompts without a rule, to remind the model of what it does with them.
    """
    before, own = taught(recipe, workdir, start, asked)
    key = checkpoint.fingerprint("gatt", recipe.gatt, recipe.seed, TALK, ghost_rules(), checkpoint.artifact_key(before))
    folder = checkpoint.artifact(workdir / "gatt", key, lambda place: _build(recipe, before, own, place))
    held, single = ([Held(h["text"], h["brief"], tuple(h["turns"])) for h in read_jsonl(folder / name, HELD)]
                    for name in (DIALOGUES, SINGLE))
    return Ghost(folder, checkpoint.load_model(folder).eval(), checkpoint.load_model(before).eval(),
                 Tokenizer.load(folder / "tokenizer.model"), held, along(own, single))


def taught(recipe: Recipe, workdir: Path, start: Path, asked: Iterable[Prompt]) -> tuple[Path, list[Dialog]]:
    """The folder of the model that obeys within a turn, workdir/gatt_lessons, and its reminders; built where it is missing.

    Without lessons it is the model in `start` as it is.
    """
    c = recipe.gatt
    key = checkpoint.fingerprint("gatt lessons", c.lessons, c.lessons_lr, c.lessons_epochs, c.reminders, c.temperature,
                                 c.combined, c.batch_size, c.optim, recipe.seed, TALK, SHARES, ALONE, LONGEST_LESSON,
                                 ghost_rules(), checkpoint.artifact_key(start))
    folder = checkpoint.artifact(workdir / "gatt_lessons", key, lambda place: _teach(recipe, start, asked, place))
    own = read_jsonl(folder / REMINDERS, ["turns"]) if c.reminders else []
    return folder, [dialog(*record["turns"]) for record in own]


def _teach(recipe: Recipe, start: Path, asked: Iterable[Prompt], folder: Path) -> None:
    config, world, seed = recipe.gatt, world_for(recipe.world), recipe.seed
    model, tokenizer = for_sampling(checkpoint.load_model(start)).eval(), Tokenizer.load(start / "tokenizer.model")
    own = reminders(model, tokenizer, list(islice(asked, config.reminders)), config.temperature, seed + 1)
    if config.lessons:
        shown = [*lessons(model, tokenizer, world, config, seed + 2), *(render(d, tokenizer) for d in own)]
        optim = replace(config.optim, peak_lr=config.lessons_lr)
        history = tune(model, shown, config.batch_size, config.lessons_epochs, recipe, optim, "lessons of one turn")
        checkpoint.write_metrics(folder, history)
    checkpoint.save_model(folder, model)
    write_jsonl(folder / REMINDERS, ({"turns": [m.content for m in d]} for d in own))
    shutil.copy(start / "tokenizer.model", folder / "tokenizer.model")


def _build(recipe: Recipe, before: Path, own: Sequence[Dialog], folder: Path) -> None:
    model, tokenizer = for_sampling(checkpoint.load_model(before)).eval(), Tokenizer.load(before / "tokenizer.model")
    world = world_for(recipe.world)
    rules = training_rules(world, figures(model, tokenizer, world, recipe.seed + 3))
    held = collect(model, tokenizer, world, rules, recipe.gatt, recipe.seed + 3)
    single = single_turns(model, tokenizer, world, recipe.gatt, recipe.seed + 4)
    history = ghost_tune(model, tokenizer, held, along(own, single), recipe, title="Ghost Attention")
    for name, dialogues in ((DIALOGUES, held), (SINGLE, single)):
        write_jsonl(folder / name, map(vars, dialogues))
    checkpoint.save_model(folder, model)
    checkpoint.write_metrics(folder, history)
    shutil.copy(before / "tokenizer.model", folder / "tokenizer.model")


def collect(model: Transformer, tokenizer: Tokenizer, world: World, rules: Sequence[Rule], config: GAttConfig,
            seed: int) -> list[Held]:
    """`config.dialogues` dialogues under instructions drawn from `rules`, sampled from `model`."""
    given = list(islice(instructions(rules, config.combined, Random(f"instructions {seed}")), config.dialogues))
    asked = questions(world, config.dialogues, config.turns, seed)
    return sampled(model, tokenizer, given, asked, config, seed)


def single_turns(model: Transformer, tokenizer: Tokenizer, world: World, config: GAttConfig, seed: int) -> list[Held]:
    """`config.single` dialogues of one turn under rules of split "test": what it is to go on obeying and never sees held."""
    given = list(islice(instructions(dialogs.all_rules(world)[TEST], 0.0, Random(f"single turns {seed}")), config.single))
    return sampled(model, tokenizer, given, questions(world, config.single, 1, seed), config, seed)


def along(own: Sequence[Dialog], single: Sequence[Held]) -> list[Dialog]:
    """All that is learned along with the dialogues: replies without a rule, and the single turns, in full words."""
    return [*own, *(h.beginning(1, False) for h in single)]


def ghost_tune(model: Transformer, tokenizer: Tokenizer, held: Sequence[Held], own: Sequence[Dialog], recipe: Recipe,
               masks: bool = True, title: str = "") -> list[dict]:
    """Fine-tune `model` in place on cuts of `held` and on its reminders; the records of the steps come back.

    masks False gives all answers a loss, which Ghost Attention does not.
    """
    config, context = recipe.gatt, model.config.max_seq_len
    shown = [example(d, tokenizer, context, cuts if masks else range(1, cuts[-1] + 1))
             for d, cuts in cut(held, config, recipe.seed)]
    shown += [render(d, tokenizer) for d in own]
    return tune(model, shown, config.batch_size, config.epochs, recipe, config.optim, title)


def tune(model: Transformer, examples: Sequence[Example], batch_size: int, epochs: int, recipe: Recipe, optim: OptimConfig,
         title: str = "") -> list[dict]:
    """Fine-tune `model` in place on `examples`, packed in rows of the whole context."""
    batches = supervised.loader(examples, model.config.max_seq_len, batch_size, epochs, recipe.seed)
    return supervised.fit(model, batches, optim, runtime=recipe.runtime, title=title)
