"""The corpus: pages of the small world, cleaned, and the tokenizer learned from them (sections 2.1, 2.2.2 and 4.1).

    world.web.pages → text.cleaning.Cleaner → corpus.jsonl, statistics.json, tokenizer.model

The artifact does not hang on the mixture: `text.mixture.documents` applies the weights when the corpus is read, so that
up-sampling can be changed without cleaning again. Benchmark text and insults are reported and kept, as in the paper.
"""
from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from itertools import chain, islice
from pathlib import Path

from llama2_lib.config import Recipe
from llama2_lib.text import cleaning
from llama2_lib.text.chat import B_INST, B_SYS, E_INST, E_SYS
from llama2_lib.text.mixture import CORPUS
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training.checkpoint import artifact, fingerprint
from llama2_lib.world import faults, reading, web
from llama2_lib.world.facts import world_for
from llama2_lib.world.tables import digest

STATISTICS, TOKENIZER = "statistics.json", "tokenizer.model"
TOKENIZER_DOCUMENTS = 200_000          # the tokenizer is learned from this many documents at most
CHAT_MARKS = [f"{B_SYS} {E_SYS} {B_INST} {E_INST}"] * 1000    # so that the marks of the chat format cost few tokens
WRITING = "world/*.py"                 # the code that decides what the corpus holds: all of the world but what judges it
LATER = ("oracle.py", "judges.py", "annotators.py", "ghost_rules.py")           # or is asked later,
CLEANING = ("cleaning", "dedup", "language", "pii", "quality", "tokenizer")     # and of text, what cleans


def run(recipe: Recipe, workdir: str | os.PathLike) -> Path:
    """The folder workdir/"corpus", built if it is not there for this recipe's world, vocabulary and seed."""
    key = fingerprint("corpus", recipe.world, recipe.model.vocab_size, recipe.seed, _code())
    return artifact(Path(workdir) / "corpus", key, lambda folder: build(recipe, folder), alone=True)


def build(recipe: Recipe, folder: Path) -> None:
    """Generate, clean, write, and learn the tokenizer; ValueError if nothing is left after cleaning."""
    started = time.perf_counter()
    cleaner = new_cleaner(recipe.seed)
    sources, characters = Counter(), Counter()
    with (folder / CORPUS).open("w", encoding="utf-8", newline="\n") as file:
        for document in cleaner.clean(web.pages(world_for(recipe.world), recipe.world, recipe.seed)):
            file.write(json.dumps({"text": document.text, "source": document.source, "language": document.language,
                                   "toxic": document.toxic, "contaminated": document.contaminated},
                                  ensure_ascii=False) + "\n")
            sources[document.source] += 1
            characters[document.source] += len(document.text)
    cleaned = time.perf_counter()
    texts = islice((record["text"] for record in cleaning.read_jsonl(folder / CORPUS, {"text": str})), TOKENIZER_DOCUMENTS)
    tokenizer = Tokenizer.train(chain(CHAT_MARKS, texts), recipe.model.vocab_size, folder / TOKENIZER)
    statistics = {
        "counts": dict(cleaner.counts), "languages": dict(cleaner.languages),
        "filters": {name: score.as_dict() for name, score in cleaner.scores.items()},
        "sources": {s: {"documents": sources[s], "characters": characters[s]} for s in sorted(sources)},
        "characters_per_token": characters_per_token(folder / CORPUS, tokenizer),
        "seconds": {"clean": round(cleaned - started, 2), "tokenizer": round(time.perf_counter() - cleaned, 2)},
    }
    (folder / STATISTICS).write_text(json.dumps(statistics, indent=1), encoding="utf-8")


def new_cleaner(seed: int, without: tuple[str, ...] = ()) -> cleaning.Cleaner:
    """The filters as the corpus uses them: the world's insults and the benchmark of this seed are known."""
    return cleaning.Cleaner(faults.insults(), (item.text for item in reading.benchmark(seed)), without)


def characters_per_token(path: Path, tokenizer: Tokenizer, sample: int = 2000) -> float:
    """Mean characters a token over the first `sample` documents."""
    texts = [record["text"] for record in islice(cleaning.read_jsonl(path, {"text": str}), sample)]
    return sum(map(len, texts)) / sum(map(len, tokenizer.encode_batch(texts)))


def statistics(folder: str | os.PathLike) -> dict:
    """The counts, precision and recall a filter, documents and characters a source of a built corpus."""
    return json.loads((Path(folder) / STATISTICS).read_text(encoding="utf-8"))


def _code() -> str:
    """A hash of the code and the tables that decide what the corpus holds: an edited table makes another corpus."""
    package = Path(__file__).resolve().parents[1]
    files = [f for f in package.glob(WRITING) if f.name not in LATER] + [package / f"text/{n}.py" for n in CLEANING]
    total = hashlib.sha256(digest().encode())
    for file in sorted(files):
        total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()
