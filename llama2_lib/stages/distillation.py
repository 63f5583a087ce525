"""Safety context distillation (section 4.2.4): what a preprompt does to a model, moved into its weights.

    y  ~ π(· | preprompt, x)  for adversarial prompts x;       L = −mean log π_θ(y | x)      learned without the preprompt
    y₀ ~ π(· | x),     gated: (x, y) is kept only where R_s(x, y) > R_s(x, y₀)

Generic preprompts praise virtues ("You are a safe and wise helper."); targeted ones name the prompt's risk category and give
an answer template. On prompts whose reply was good already a preprompt does harm, and more so where it is learned from: the
gate is the paper's remedy.

A model of 70 billion parameters heeds a preprompt since its pretraining was full of the like. The small world has none, and
its chat model ignores them, so it is taught first (`lessons`): demonstrations under preprompts, and beside them its own
replies without one, which keep its behaviour there as it is. recipe.distillation.lessons 0 leaves this out, as in the paper.

The paper is silent on prompts, temperature and training. Left out: preprompts of several paragraphs (Table 39). This stage
knows no reward model: it takes a function that scores dialogues.

`run` leaves runs/<preset>/distillation: the policy, taught/ (the model before), pairs.jsonl, tokenizer, metrics.jsonl.
"""
from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from random import Random

from llama2_lib.config import DistillationConfig, Recipe, RuntimeConfig, require
from llama2_lib.model.replies import Scorer, answered
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import Dialog, dialog, render
from llama2_lib.text.reading import read_jsonl, write_jsonl
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint, supervised
from llama2_lib.training.distributed import for_sampling
from llama2_lib.training.sampling import replies
from llama2_lib.world import dialogs
from llama2_lib.world.dialogs import Prompt
from llama2_lib.world.facts import World, world_for
from llama2_lib.world.tables import TABLES, TableError, read_rows

RISKS = TABLES.parent / "risks.csv"
PAIRS = "pairs.jsonl"
UNSAFE = {"unsafe": 1.0}
VIRTUES = ("safe", "kind", "wise", "good", "careful")
TEMPLATES = {"illicit": "I will not help with that. It is not kind.",         # one for each category of section 4.2.1
             "harmful": "I cannot help with that. It could hurt someone.",
             "advice": "I cannot help with that. It is not safe."}
PLAIN = 3       # own replies without a preprompt to each lesson of another kind: more than the others together forget


@dataclass(frozen=True)
class Pair:
    """An adversarial prompt, the replies with and without a preprompt, and what the safety reward gave each."""
    prompt: str
    reply: str
    score: float
    plain: str
    plain_score: float

    @property
    def better(self) -> bool:
        """The gate: True if the preprompt made the reply better."""
        return self.score > self.plain_score


@dataclass(frozen=True)
class Distilled:
    """The chat model before and after, and what it learned from."""
    folder: Path
    taught: Transformer
    policy: Transformer
    tokenizer: Tokenizer
    pairs: list[Pair]


# ------------------------------------------------------------------------------------------------------------- preprompts

def risks(path: Path = RISKS) -> dict[str, str]:
    """The risk category of each unsafe request. TableError names file, line and value of a fault."""
    found = {}
    for line, row in read_rows(path, ("request", "category")):
        if row["category"] not in TEMPLATES:
            raise TableError(f"{path}, line {line}: category {row['category']!r} is none of {', '.join(TEMPLATES)}")
        found[row["request"]] = row["category"]
    return found


def risk_of(prompt: Prompt) -> str:
    """The category of an unsafe prompt; ValueError for one that is not unsafe, or not in data/risks.csv."""
    require(prompt.unsafe, f"{prompt.text!r} is no unsafe prompt: it has no risk category")
    found = risks()
    require(prompt.howto.request in found, f"{RISKS} has no line for {prompt.howto.request!r}")
    return found[prompt.howto.request]


def generic(prompt: Prompt, rng: Random) -> str:
    """A preprompt that praises two virtues, whatever the prompt is."""
    return "You are a {} and {} helper.".format(*rng.sample(VIRTUES, 2))


def targeted(prompt: Prompt, rng: Random) -> str:
    """A preprompt that names the risk category of an unsafe prompt and gives its answer template."""
    category = risk_of(prompt)
    return f"This may be {category}. Say: {TEMPLATES[category]}"


Preprompt = Callable[[Prompt, Random], str]
PREPROMPTS: Mapping[str, Preprompt] = {"generic": generic, "targeted": targeted}


# ------------------------------------------------------------------------------------------------------------------- data

def lessons(model: Transformer, tokenizer: Tokenizer, world: World, config: DistillationConfig,
            seed: int) -> Iterator[Dialog]:
    """Dialogues that teach what a preprompt is: config.lessons of each kind.

    Unsafe prompts under a generic preprompt declined, and under a targeted one answered by its template; harmless prompts
    under a generic one answered well; and, PLAIN times as many, unsafe prompts without one with the model's own replies.
    """
    n, rng = config.lessons, Random(f"lessons {seed}")
    for p in dialogs.prompts(world, n, seed + 1, UNSAFE):
        yield dialog(p.text, dialogs.demonstration(world, p, rng), system=generic(p, rng))
    for p in dialogs.prompts(world, n, seed + 2, UNSAFE):
        yield dialog(p.text, TEMPLATES[risk_of(p)], system=targeted(p, rng))
    for p in dialogs.prompts(world, n, seed + 3):
        yield dialog(p.text, dialogs.demonstration(world, p, rng), system=p.system or generic(p, rng))
    plain = list(dialogs.prompts(world, PLAIN * n, seed + 4, UNSAFE))
    own = replies(model, tokenizer, [dialog(p.text) for p in plain], 1.0, seed)
    yield from (answered(p, said) for p, said in zip(plain, own, strict=True) if said)


def collect(model: Transformer, tokenizer: Tokenizer, asked: Sequence[Prompt], preprompt: Preprompt | None, scorer: Scorer,
            temperature: float, seed: int) -> list[Pair]:
    """Two replies to each prompt, one under the preprompt (None: without one, a control), scored as if both had none.

    Prompts with an empty reply are left out. ValueError for a prompt under a rule of its own: it has room for one system
    message alone.
    """
    rng = Random(f"preprompts {seed}")
    for p in asked:
        require(p.rule is None, f"{p.text!r} stands under the rule {p.system!r} already")
    before = [dialog(p.text, system=preprompt(p, rng) if preprompt else None) for p in asked]
    said = replies(model, tokenizer, before, temperature, seed + 1)
    plain = replies(model, tokenizer, [dialog(p.text) for p in asked], temperature, seed)
    whole = [(p, a, b) for p, a, b in zip(asked, said, plain, strict=True) if a and b]
    ids = [render(answered(p, text), tokenizer)[0] for p, *both in whole for text in both]
    scores = list(scorer([p for p, *_ in whole for _ in range(2)], ids))
    return [Pair(p.text, a, s, b, t) for (p, a, b), s, t in zip(whole, scores[::2], scores[1::2], strict=True)]


def learned(pairs: Iterable[Pair], gate: bool = True) -> list[Dialog]:
    """The dialogues to learn from: the prompt without its preprompt, with the reply that was given under it.

    gate False keeps those too that the preprompt made no better.
    """
    return [dialog(p.prompt, p.reply) for p in pairs if p.better or not gate]


# --------------------------------------------------------------------------------------------------------------- training

def tune(model: Transformer, tokenizer: Tokenizer, dialogues: Iterable[Dialog], config: DistillationConfig, seed: int,
         runtime: RuntimeConfig | None = None, title: str = "") -> list[dict]:
    """Fine-tune `model` in place on dialogues; the records of the steps come back. ValueError if there are none."""
    examples = [render(d, tokenizer) for d in dialogues]
    batches = supervised.loader(examples, config.seq_len, config.batch_size, config.epochs, seed)
    history = supervised.fit(model, batches, config.optim, runtime=runtime, title=title)
    model.eval()
    return history


def run(recipe: Recipe, workdir: Path, start: Path, scorer: Scorer) -> Distilled:
    """The chat model in `start`, taught what preprompts are, and distilled from targeted ones behind the gate.

    scorer: the safety reward that belongs to `start`. Built unless workdir/distillation holds it.
    """
    key = checkpoint.fingerprint("distillation", recipe.distillation, recipe.seed, VIRTUES, TEMPLATES, PLAIN, risks(),
                                 checkpoint.artifact_key(start))
    folder = checkpoint.artifact(workdir / "distillation", key, lambda tmp: _distil(recipe, start, scorer, tmp))
    pairs = [Pair(**record) for record in read_jsonl(folder / PAIRS, [f.name for f in fields(Pair)])]
    return Distilled(folder, checkpoint.load_model(folder / "taught").eval(), checkpoint.load_model(folder).eval(),
                     Tokenizer.load(folder / "tokenizer.model"), pairs)


def _distil(recipe: Recipe, start: Path, scorer: Scorer, folder: Path) -> None:
    config, world, seed = recipe.distillation, world_for(recipe.world), recipe.seed
    model, tokenizer = for_sampling(checkpoint.load_model(start)), Tokenizer.load(start / "tokenizer.model")
    if config.lessons:
        tune(model, tokenizer, list(lessons(model, tokenizer, world, config, seed)), config, seed, recipe.runtime,
             "what a preprompt is")
    checkpoint.save_model(folder / "taught", model)
    asked = list(dialogs.prompts(world, config.prompts, seed, UNSAFE))
    pairs = collect(model, tokenizer, asked, targeted, scorer, config.temperature, seed)
    history = tune(model, tokenizer, learned(pairs), config, seed, recipe.runtime, "context distillation")
    checkpoint.save_model(folder, model)
    checkpoint.write_metrics(folder, history)
    shutil.copy(start / "tokenizer.model", folder / "tokenizer.model")
    write_jsonl(folder / PAIRS, map(asdict, pairs))
