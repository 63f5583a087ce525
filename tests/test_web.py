"""The web of the small world: the same stream for the same seed, bounded memory, the truth about every fault."""
import re
import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2_lib.config import WorldConfig
from llama2_lib.world import faults, languages, reading, web
from llama2_lib.world.dialogs import howtos
from llama2_lib.world.facts import fill, is_held_out, load
from llama2_lib.world.sources import SHARES
from llama2_lib.world.tables import TableError

WORLD = load()
CONFIG = WorldConfig(documents=4000)
FAULTS = ("pii", "exact_duplicates", "near_duplicates", "boilerplate", "gibberish", "toxic", "other_languages",
          "contaminated")
NO_FAULTS = WorldConfig(documents=400, **dict.fromkeys(FAULTS, 0.0))


@pytest.fixture(scope="module")
def pages():
    return list(web.pages(WORLD, CONFIG, 0))


def squashed(text):
    return re.sub(r"\s+", "", text.lower())


# ------------------------------------------------------------------------------------------------------------- the stream

def test_one_seed_one_stream_and_a_longer_one_begins_as_a_shorter_one(pages):
    assert list(web.pages(WORLD, replace(CONFIG, documents=300), 0)) == pages[:300]
    assert [p.text for p in web.pages(WORLD, replace(CONFIG, documents=20), 1)] != [p.text for p in pages[:20]]
    assert [p.number for p in pages] == list(range(4000))


def test_a_million_pages_are_not_held_in_memory():
    stream = web.pages(WORLD, WorldConfig(documents=10**6), 0)
    peaks = []
    tracemalloc.start()
    for _ in range(2):
        for _ in islice(stream, 2000):
            pass
        peaks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert peaks[1] < 1.15 * peaks[0] and peaks[1] < 8e6, f"memory grows with the pages: {peaks}"


def test_every_source_is_written_in_its_share(pages):
    counts = Counter(p.source for p in pages)
    assert counts.keys() == SHARES.keys()
    for source, share in SHARES.items():
        assert counts[source] / len(pages) == pytest.approx(share / sum(SHARES.values()), abs=0.03), source


def test_every_fault_has_its_share(pages):
    has = {"pii": lambda p: p.pii, "boilerplate": lambda p: p.boilerplate, "toxic": lambda p: p.toxic,
           "gibberish": lambda p: p.gibberish, "contaminated": lambda p: p.contaminated,
           "other_languages": lambda p: p.language != "en", "exact_duplicates": lambda p: p.duplicate_of is not None,
           "near_duplicates": lambda p: p.near_duplicate_of is not None}
    assert has.keys() == set(FAULTS)
    for name, marked in has.items():
        share = sum(bool(marked(p)) for p in pages) / len(pages)
        assert share == pytest.approx(getattr(CONFIG, name), abs=0.015), name


def test_a_fault_can_be_switched_off():
    for page in web.pages(WORLD, NO_FAULTS, 3):
        assert not (page.marked or page.gibberish or page.duplicate_of or page.near_duplicate_of or page.language != "en")


# -------------------------------------------------------------------------------------------------------------- the truth

def test_what_was_planted_stands_in_the_page(pages):
    items = reading.benchmark(0)
    for page in pages:
        lines = page.text.split("\n")
        assert all(piece in page.text for piece in (*page.pii, *page.toxic)), page
        assert not Counter(page.boilerplate) - Counter(lines), page
        assert all(items[i].planted and items[i].planted_text in page.text for i in page.contaminated), page


def test_a_copy_is_a_copy(pages):
    for page in pages:
        if page.duplicate_of is not None:
            kept = "\n".join(line for line in page.text.split("\n") if line.strip() not in page.boilerplate)
            original = pages[page.duplicate_of]
            before = "\n".join(line for line in original.text.split("\n") if line not in page.boilerplate)
            assert original.number < page.number and squashed(kept) == squashed(before)


def test_a_near_copy_is_near_and_no_copy(pages):
    for page in pages:
        if page.near_duplicate_of is not None:
            original = pages[page.near_duplicate_of]
            a, b = set(original.text.split()), set(page.text.split())
            assert page.text != original.text and len(a & b) >= 0.6 * len(a), (page, original)


def test_noise_is_not_language(pages):
    english = {w for p in pages if not p.gibberish for w in p.text.split()}
    for page in (p for p in pages if p.gibberish):
        words = page.text.split()
        assert sum(w in english for w in words) < 0.6 * len(words), page.text


# ------------------------------------------------------------------------------------------------------- what must be absent

def test_no_page_holds_a_held_out_sum(pages):
    found = 0
    for page in pages:
        for a, b in re.findall(r"\b(\d{1,2})\s*(?:\+|plus|and)\s*(\d{1,2})\b", page.text):
            found += 1
            assert int(a) >= 50 or int(b) >= 50 or not is_held_out(int(a), int(b)), page.text
    assert found > 1000, "the pattern finds no sums at all: it could not find a held-out one either"


def test_no_page_holds_a_held_out_topic(pages):
    secret = [h.request for h in howtos(WORLD) if h.split == "heldout"]
    shown = [h.request for h in howtos(WORLD) if h.split != "heldout" and h.kind == "unsafe"]
    text = "\n".join(p.text.lower() for p in pages)
    assert secret and shown and all(request.lower() in text for request in shown), "unsafe stand-ins must be there"
    assert not [request for request in secret if request.lower() in text]


def test_items_that_are_not_planted_stand_nowhere(pages):
    text = "\n".join(p.text for p in pages)
    assert not [i for i in reading.benchmark(0) if not i.planted and i.passage in text]
    assert not [i for i in reading.benchmark(0) if i.planted == reading.PASSAGE and i.text in text]


def test_every_fact_is_stated_in_clean_pages():
    text = "\n".join(p.text for p in web.pages(WORLD, replace(NO_FAULTS, documents=3000), 0))
    for fact in WORLD.facts:
        templates = WORLD.relations[fact.relation].statements
        assert any(fill(template, fact.subject, fact.value) in text for template in templates), fact


# ------------------------------------------------------------------------------------------------------------ the planters

TEXTS = st.sampled_from(["The cat sat. It slept!", "One line\nTwo lines\n\nThree", "7 + 5 = 12.", "word", "Où est-il ? Là."])


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, seed=st.integers(0, 10**6))
def test_planters_report_what_they_plant_and_lose_nothing(text, seed):
    rng = Random(seed)
    for plant in (faults.plant_pii, faults.plant_insults, faults.plant_boilerplate):
        damaged, planted = plant(text, rng)
        assert planted and all(piece in damaged for piece in planted)
        assert not Counter(text.split()) - Counter(damaged.split()), (text, damaged)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_later_faults_do_not_tear_earlier_ones(seed):
    rng = Random(seed)
    text, pii = faults.plant_pii("The cat sat. It slept. Mr. Bell came.\nHe left.", rng)
    text, toxic = faults.plant_insults(text, rng, keep=pii)
    text, lines = faults.plant_boilerplate(text, rng, keep=(*pii, *toxic))
    assert all(piece in text for piece in (*pii, *toxic, *lines))


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_an_edit_leaves_sums_alone(seed):
    text = "Tom and Mia have 12 and 30 apples, and that is 12 + 30 = 42. What is 7 plus 8? The cat and the dog know it."
    edited = faults.edit(text, Random(seed))
    assert edited != text
    assert re.findall(r"12 and 30|12 \+ 30 = 42|7 plus 8", edited) == ["12 and 30", "12 + 30 = 42", "7 plus 8"]


# ------------------------------------------------------------------------------------------------- languages and benchmark

def test_articles_agree():
    rng, articles = Random(0), {"le": "m", "la": "f", "un": "m", "une": "f"}
    gender = {noun.split(" ", 1)[1]: noun[0] for noun in languages.words("french")["nouns"]}
    text = " ".join(languages.french_sentence(rng) for _ in range(2000)).lower()
    pairs = [(a, n) for a, n in re.findall(r"\b(le|la|un|une) (\w+)", text) if n in gender]
    assert len(pairs) > 1000 and all(articles[a] == gender[n] for a, n in pairs)
    text = " ".join(languages.german_sentence(rng) for _ in range(2000))
    gender = {noun.split(" ", 1)[1]: noun[0] for noun in languages.words("german")["nouns"]}
    allowed = {"der": "m", "den": "m", "die": "f", "das": "n", "Der": "m", "Die": "f", "Das": "n"}
    pairs = [(a, n) for a, n in re.findall(r"\b([Dd]er|den|[Dd]ie|[Dd]as) (\w+)", text) if n in gender]
    assert len(pairs) > 500 and all(allowed[a] == gender[n] for a, n in pairs)


def test_a_faulty_word_list_names_its_place(tmp_path):
    table = tmp_path / "words.txt"
    table.write_text("stray\n[nouns]\nm chat\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"words.txt, line 1: 'stray'"):
        languages.word_lists(table, ("nouns",))
    table.write_text("[nouns]\nm chat\n", encoding="utf-8")
    with pytest.raises(TableError, match="section verbs is missing"):
        languages.word_lists(table, ("nouns", "verbs"))


def test_the_benchmark():
    items = reading.benchmark(0)
    assert items == reading.benchmark(0) and items != reading.benchmark(1) and len(items) == reading.ITEMS
    assert Counter(i.planted for i in items) == {reading.WHOLE: 40, reading.PASSAGE: 20, reading.NONE: 100}
    assert len({i.text for i in items}) == len(items) and min(len(i.text) for i in items) > 200
    assert all(word in i.passage.lower() for i in items for word in i.answer.lower().removeprefix("the ").split()[:1])
