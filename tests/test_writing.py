"""Stories and poems: every one that is written has the form, every way of breaking the form is seen."""
from __future__ import annotations

import shutil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2_lib.world import facts
from llama2_lib.world import writing as W
from llama2_lib.world.tables import TABLES, TableError

WORLD = facts.load()
TOPICS = W.grammar(WORLD).topics
STORY = "Once a cow lived near the lake. It had a red hat. A fox came and helped. Then they all went home."
POEM = "I saw a bee near a tree,\nAnd all of it is free.\nI give to you a red ring,\nSo come with me and sing."


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(TOPICS))
def test_what_is_written_has_the_form_and_the_topic(seed, topic):
    rng = Random(seed)
    story, poem = W.story(WORLD, topic, rng), W.poem(WORLD, topic, rng)
    assert W.story_form(WORLD, story) == 1.0 and W.mentions(story, topic), story
    assert W.poem_form(WORLD, poem) == 1.0 and W.mentions(poem, topic), poem
    assert 4 <= story.count(".") <= 6 and "\n" not in story
    assert poem.count("\n") == 3 and poem.endswith(".")


def test_there_are_very_many_of_them():
    rng = Random(0)
    for write in (W.story, W.poem):
        texts = [write(WORLD, "cow", rng) for _ in range(2_000)]
        assert len(set(texts)) > 1_990, f"{write.__name__} repeats itself"


def test_a_seed_gives_one_text():
    assert W.story(WORLD, "kite", Random(4)) == W.story(WORLD, "kite", Random(4)) != W.story(WORLD, "kite", Random(5))
    assert W.poem(WORLD, "kite", Random(4)) == W.poem(WORLD, "kite", Random(4)) != W.poem(WORLD, "kite", Random(5))


def test_hand_written_examples_have_the_form():
    assert W.story_form(WORLD, STORY) == W.poem_form(WORLD, POEM) == 1.0


@pytest.mark.parametrize("broken", [
    STORY.rsplit(". ", 1)[0] + ".",                                  # no end
    STORY.split(". ", 1)[1],                                         # a sentence too short, and no opening
    STORY.replace("Once a cow lived near the lake.", "It made a red key."),      # no opening
    STORY[:-8],                                                      # cut off
    STORY + " It had a red hat.",                                    # goes on after its end
    STORY.replace("It had a red hat.", "Hat red a had it."),         # no sentence of this world
    STORY.replace("It had a red hat.", "A fox came and helped."),    # says a sentence twice
    STORY.replace(" ", "\n"),
    STORY.replace("It had a red hat. ", "").replace("A fox came and helped. ", ""),   # two sentences
])
def test_a_broken_story_scores_less(broken):
    assert W.story_form(WORLD, broken) < 0.95


@pytest.mark.parametrize("broken", [
    POEM.replace("free", "deep"), POEM.replace("free", "tree"), POEM.replace("sing", "skip"),    # no rhyme
    POEM.rsplit("\n", 1)[0], POEM.rstrip("."), POEM.replace("\n", " "), POEM + "\nI saw a bee near a tree,",
    POEM.replace("And all of it is free", "Free is it of all and free"), "", "cow", POEM.split("\n")[0] * 4,
    "\n".join([*POEM.split("\n")[:2]] * 2),                          # the same couplet twice
])
def test_a_broken_poem_scores_less(broken):
    assert W.poem_form(WORLD, broken) < 0.95


def test_form_falls_by_degree():
    cut = [STORY.rsplit(" ", k)[0] for k in (1, 6, 12)]
    scores = [W.story_form(WORLD, text) for text in (STORY, *cut)]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[1] > scores[-1]
    one, none = POEM.replace("sing", "skip"), POEM.replace("sing", "skip").replace("free", "deep")
    assert 1 > W.poem_form(WORLD, one) > W.poem_form(WORLD, none) > 0


def test_rhymes():
    assert W.rhymes(WORLD, "cat", "Hat") and not W.rhymes(WORLD, "cat", "cat")
    assert not W.rhymes(WORLD, "cat", "dog") and not W.rhymes(WORLD, "zzz", "zzzz")


def test_mentions_whole_words_only():
    assert W.mentions("Two Cows sing.", "cow") and not W.mentions("A coward.", "cow") and not W.mentions("", "cow")


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_the_checks_take_any_text(text):
    for form in (W.story_form, W.poem_form):
        assert 0 <= form(WORLD, text) <= 1
    assert W.rhymes(WORLD, text, "cat") in (True, False) and isinstance(W.sentences_of(text), list)


def test_an_unknown_topic_is_named():
    for write in (W.story, W.poem):
        with pytest.raises(ValueError, match="'dragon' is no topic"):
            write(WORLD, "dragon", Random(0))


@pytest.mark.parametrize(("table", "line", "complaint"), [
    ("rhymes.csv", "cat,ee,noun", r"rhymes\.csv, line \d+: word 'cat' stands already"),
    ("rhymes.csv", "orange,orange,noun", r"rhymes\.csv, line \d+: 'orange' is alone in family 'orange'"),
    ("rhymes.csv", "vat,at,pronoun", r"rhymes\.csv, line \d+: 'vat' is a 'pronoun'"),
    ("story.csv", "It met {a dragon}.,find", r"story\.csv, line \d+: there are no words for {a dragon}"),
    ("story.csv", "It met {a animal}.,middle", r"story\.csv, line \d+: part 'middle' is none of opening"),
    ("poem.csv", "I saw {noun},last", r"poem\.csv, line \d+: place 'last'"),
])
def test_a_bad_line_is_named(tmp_path, table, line, complaint):
    tables = shutil.copytree(TABLES, tmp_path / "world")
    path = tables / table
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(TableError, match=complaint):
        W.grammar(facts.load(tables))


def test_a_new_animal_is_a_new_topic(tmp_path):
    tables = shutil.copytree(TABLES, tmp_path / "world")
    path = tables / "animals.csv"
    path.write_text(path.read_text(encoding="utf-8") + "yak,grass,on a mountain,calf,grunt\n", encoding="utf-8")
    world = facts.load(tables)
    assert W.story_form(world, W.story(world, "yak", Random(0))) == 1.0
