"""The corpus stage: its files, its figures, that it is built once and again when its recipe or a table changes."""
import json

import pytest

from llama2_lib.config import MixtureConfig, override, preset
from llama2_lib.stages import corpus
from llama2_lib.text.mixture import documents
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world import faults

RECIPE = override(preset("toy"), **{"world.documents": 500, "model.vocab_size": 512})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return corpus.run(RECIPE, tmp_path_factory.mktemp("run"))


def rows(folder):
    return [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]


def test_files_and_figures(folder):
    figures, lines = corpus.statistics(folder), rows(folder)
    assert figures["counts"]["documents"] == len(lines) < figures["counts"]["pages"] == 500
    assert figures["counts"]["characters kept"] == sum(len(r["text"]) for r in lines)
    for source, count in figures["sources"].items():
        assert count["documents"] == sum(r["source"] == source for r in lines) > 0
        assert count["characters"] == sum(len(r["text"]) for r in lines if r["source"] == source)
    assert set(figures["filters"]) == {"language", "pii", "boilerplate", "gibberish", "exact_duplicates", "near_duplicates",
                                       "toxic", "contamination"}
    assert sum(figures["languages"].values()) == len(lines)
    assert figures["seconds"]["clean"] > 0


def test_the_tokenizer_reads_the_corpus(folder):
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    texts = [r["text"] for r in rows(folder)]
    assert tokenizer.vocab_size == 512
    assert all(tokenizer.decode(tokenizer.encode(t)) == t for t in texts)
    tokens = sum(len(tokenizer.encode(t)) for t in texts)
    assert corpus.statistics(folder)["characters_per_token"] == pytest.approx(sum(map(len, texts)) / tokens)


def test_documents_of_the_default_mixture(folder):
    texts = list(documents(folder, MixtureConfig(), 0))
    count = sum(1 for r in rows(folder) if r["source"] == "encyclopedia")
    assert len(texts) >= len(rows(folder)) + (MixtureConfig().encyclopedia - 1) * count
    assert set(texts) == {r["text"] for r in rows(folder)}


def test_two_builds_give_the_same_bytes(folder, tmp_path):
    again = corpus.run(RECIPE, tmp_path)
    for name in ("corpus.jsonl", "tokenizer.model"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


def test_built_once_and_again_for_another_recipe(folder):
    written = (folder / "manifest.json").stat().st_mtime_ns
    assert corpus.run(RECIPE, folder.parent) == folder and (folder / "manifest.json").stat().st_mtime_ns == written
    before = rows(folder)
    corpus.run(override(RECIPE, seed=1), folder.parent)
    assert rows(folder) != before
    corpus.run(RECIPE, folder.parent)
    assert rows(folder) == before


def test_the_key_hangs_on_the_code_and_the_tables(monkeypatch):
    key = corpus._code()
    assert key == corpus._code()
    monkeypatch.setattr(corpus, "digest", lambda: "an edited table")
    assert corpus._code() != key
    monkeypatch.setattr(corpus, "LATER", (*corpus.LATER, "web.py"))
    assert corpus._code() != key


def test_what_the_hash_leaves_out_takes_no_part_in_writing():
    import subprocess
    import sys
    loaded = subprocess.run([sys.executable, "-c", "import sys, llama2_lib.world.web; print(*sys.modules)"], check=True,
                            capture_output=True, text=True).stdout.split()
    assert not [name for name in corpus.LATER if f"llama2_lib.world.{name.removesuffix('.py')}" in loaded]
    assert "torch" not in loaded, "the world knows no torch"


def test_nothing_left_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus.web, "pages", lambda *a: iter(()))
    with pytest.raises(ValueError, match="kept none of 0 pages"):
        corpus.build(RECIPE, tmp_path)


def test_insults_are_kept(folder):
    toxic = [r["text"].lower() for r in rows(folder) if r["toxic"]]
    assert toxic and any(word in text for word in faults.insults() for text in toxic)
