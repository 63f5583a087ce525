"""Preference data (section 3.2.1): two replies to one prompt, which is better, by how much, and is it safe.

    prompts → two writers each → annotators → Comparison → JSONL

The two replies come "from two different model variants, and varying the temperature": here each prompt draws two of four
writers, two models at two temperatures. A share of the pairs sets a reply to another prompt against a real one (off-topic
negatives, which teach a reward model to read the prompt; ours, the paper has none). Each batch is collected from the newest
models and keeps a test set of its own, by prompt. Safety pairs whose chosen reply alone is unsafe are dropped, as in the
paper. All prompts are of the train split. Left out: sessions of several turns with one annotator.

`run` leaves runs/<preset>/preferences: helpfulness.jsonl, safety.jsonl, both with a _test, and statistics.json.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from llama2_lib.config import PreferencesConfig, Recipe, require
from llama2_lib.model.replies import as_dialog
from llama2_lib.model.transformer import Transformer
from llama2_lib.text import comparisons as files
from llama2_lib.text.comparisons import Comparison, statistics
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.training.distributed import for_sampling
from llama2_lib.training.sampling import replies
from llama2_lib.world import annotators as people
from llama2_lib.world import dialogs
from llama2_lib.world.annotators import CHOSEN_UNSAFE, HELPFULNESS, SAFETY, SIDES, VENDORS, Annotator
from llama2_lib.world.dialogs import Prompt
from llama2_lib.world.facts import World, share, world_for

Writer = Callable[[Sequence[Prompt]], Sequence[str]]       # one model variant at one temperature: a reply to each prompt
# What annotators ask. A few unsafe requests reach the helpfulness side, where a reply that obliges is the more helpful one.
ASKED: Mapping[str, Mapping[str, float]] = {
    HELPFULNESS: {**dialogs.HELPFUL, "unsafe": 0.04},
    SAFETY: {"unsafe": 0.53, "borderline": 0.26, "howto": 0.21}}
RATERS = VENDORS[:2]


@dataclass(frozen=True)
class Preferences:
    """What was collected, by side ("helpfulness", "safety"): pairs to learn from, pairs held out by prompt, statistics."""
    folder: Path
    train: dict[str, list[Comparison]]
    test: dict[str, list[Comparison]]
    statistics: dict[str, dict]


# -------------------------------------------------------------------------------------------------------------- collection

def collect(world: World, asked: Sequence[Prompt], writers: Sequence[Writer], annotators: Sequence[Annotator], seed: int,
            side: str = HELPFULNESS, off_topic: float = 0.15) -> list[Comparison]:
    """One batch: each prompt gets replies from two different writers and the judgement of one annotator.

    Pairs whose replies are empty or equal teach nothing and are left out, so fewer may come back than prompts went in.
    ValueError for fewer than two writers, no annotator, or a share `off_topic` outside 0…1.
    """
    require(len(writers) >= 2, f"two replies need two writers, got {len(writers)}")
    require(len(annotators) >= 1, "there is no annotator")
    require(0 <= off_topic <= 1, f"off_topic is a share in 0…1, got {off_topic}")
    rng = Random(f"preferences {side} {seed}")
    drawn = [rng.sample(range(len(writers)), 2) for _ in asked]
    written = [_replies(writer, asked, [i for i, two in enumerate(drawn) if w in two]) for w, writer in enumerate(writers)]
    found = []
    for i, prompt in enumerate(asked):
        replies = [written[w][i] for w in drawn[i]]
        if rng.random() < off_topic:
            other = rng.randrange(len(asked))
            replies[1] = written[drawn[other][0]][other]
        if all(r.strip() for r in replies) and replies[0].strip() != replies[1].strip():
            found += judged(world, prompt, replies, rng.choice(annotators), rng, side)
    return found


def _replies(writer: Writer, asked: Sequence[Prompt], numbers: Sequence[int]) -> dict[int, str]:
    """The writer's replies to the prompts of these numbers, all in one call: batches are where sampling is fast."""
    return dict(zip(numbers, writer([asked[i] for i in numbers]), strict=True)) if numbers else {}


def judged(world: World, prompt: Prompt, replies: Sequence[str], annotator: Annotator, rng: Random,
           side: str = HELPFULNESS) -> Iterator[Comparison]:
    """The comparison that one annotator makes of two replies; none where the chosen one alone is unsafe (section 3.2.1)."""
    choice = people.compare(annotator, world, prompt, replies, rng, side)
    if choice.safety != CHOSEN_UNSAFE:
        chosen, rejected = replies[choice.chosen], replies[1 - choice.chosen]
        yield Comparison(as_dialog(prompt), chosen, rejected, choice.grade, choice.safety)


def split(comparisons: Iterable[Comparison], test_share: float = 0.1) -> tuple[list[Comparison], list[Comparison]]:
    """(training, test), parted by prompt: no prompt of the test set is ever trained on, in whichever batch it comes."""
    require(0 <= test_share < 1, f"test_share is a share in 0…1, got {test_share}")
    sides: tuple[list[Comparison], list[Comparison]] = [], []
    for c in comparisons:
        sides[share("preference", *(m.content for m in c.prompt)) < test_share].append(c)
    return sides


def writer(model: Transformer, tokenizer: Tokenizer, temperature: float, seed: int) -> Writer:
    """A model variant at one temperature."""
    def write(asked: Sequence[Prompt]) -> list[str]:
        return replies(model, tokenizer, [as_dialog(p) for p in asked], temperature, seed)
    return write


def batch(world: World, models: Sequence[Transformer], tokenizer: Tokenizer, config: PreferencesConfig, side: str,
          seed: int, annotators: Sequence[Annotator] = RATERS) -> list[Comparison]:
    """One batch of one side: the prompts of ASKED, answered by each model at each temperature."""
    writers = [writer(model, tokenizer, temperature, 10 * seed + i)
               for i, (model, temperature) in enumerate((m, t) for m in models for t in config.temperatures)]
    asked = list(dialogs.prompts(world, getattr(config, side), seed, ASKED[side]))
    return collect(world, asked, writers, annotators, seed, side, config.off_topic)


def run(recipe: Recipe, workdir: Path) -> Preferences:
    """The first batch of both sides, from workdir/sft and workdir/variant, collected unless workdir/preferences holds it."""
    sources = [workdir / "sft", workdir / "variant"]
    key = checkpoint.fingerprint("preferences", recipe.preferences, ASKED, recipe.world, recipe.seed,
                                 *map(checkpoint.artifact_key, sources))
    return load(checkpoint.artifact(workdir / "preferences", key, lambda tmp: _collect(recipe, sources, tmp)))


def _collect(recipe: Recipe, sources: Sequence[Path], folder: Path) -> None:
    models = [for_sampling(checkpoint.load_model(source)) for source in sources]
    tokenizer = Tokenizer.load(sources[0] / "tokenizer.model")
    found = {}
    for side in SIDES:
        pairs = batch(world_for(recipe.world), models, tokenizer, recipe.preferences, side, recipe.seed)
        found[side] = statistics(pairs, tokenizer)
        for name, part in zip((side, f"{side}_test"), split(pairs, recipe.preferences.test_share), strict=True):
            files.write(folder / f"{name}.jsonl", part)
    (folder / "statistics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def load(folder: Path) -> Preferences:
    """The preferences that `run` left in `folder`."""
    train, test = ({side: files.read(folder / f"{side}{end}.jsonl") for side in SIDES} for end in ("", "_test"))
    return Preferences(folder, train, test, json.loads((folder / "statistics.json").read_text(encoding="utf-8")))
