"""The world's tables and facts: what a teacher may change, what is refused and how, splits, sums, invented places."""
from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import islice
from random import Random

import pytest

from llama2_lib.config import WorldConfig
from llama2_lib.world import facts
from llama2_lib.world.tables import TABLES, TableError, digest, read_rows

WORLD = facts.load()


@pytest.fixture
def tables(tmp_path):
    """A copy of data/world to edit."""
    return shutil.copytree(TABLES, tmp_path / "world")


def append(path, line):
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")


def test_the_tables_are_read_cell_by_cell():
    """Against the csv module alone: every cell of every fact table is a fact, and nothing else is."""
    expected = set()
    for row in csv.DictReader((TABLES / "relations.csv").open(encoding="utf-8")):
        for line in csv.DictReader((TABLES / f"{row['table']}.csv").open(encoding="utf-8")):
            expected.add((row["relation"], next(iter(line.values())), line[row["column"]]))
    assert {(f.relation, f.subject, f.value) for f in WORLD.facts} == expected
    assert 400 <= len(expected) == len(WORLD.facts) <= 550


def test_lookups_agree_with_a_scan():
    fact = facts.Fact("capital", "France", "Paris")
    assert fact in WORLD.facts and WORLD.value("capital", "France") == "Paris"
    assert WORLD.value("capital", "Atlantis") is None and WORLD.of("no such relation") == ()
    assert {f.relation for f in WORLD.about(fact)} == {"capital", "language", "continent"}
    assert set(WORLD.values("continent")) == {f.value for f in WORLD.facts if f.relation == "continent"}
    assert "cow" in WORLD.subjects("animals") and WORLD.subjects("nothing") == ()


def test_sentences_read_as_english():
    cow, owl = (facts.Fact("young", who, WORLD.value("young", who)) for who in ("cow", "owl"))
    said = {facts.fill(t, f.subject, f.value) for f in (cow, owl) for t in WORLD.relations["young"].statements}
    assert "A young cow is a calf." in said and "The young of an owl is an owlet." in said
    for fact in WORLD.facts:
        for text in (WORLD.state(fact, Random(1)), WORLD.ask(fact, Random(1))):
            assert text[0].isupper() and "{" not in text and not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeiou]", text), text


def test_a_new_country_and_a_new_kind_of_fact(tables):
    append(tables / "countries.csv", "Malta,Valletta,Maltese,Europe")
    rows = [line.split(",") for line in (tables / "animals.csv").read_text(encoding="utf-8").splitlines()]
    (tables / "animals.csv").write_text("\n".join(",".join([*r, "legs" if i == 0 else "four"])
                                                  for i, r in enumerate(rows)), encoding="utf-8")
    append(tables / "relations.csv", "legs,animals,legs,{a subject} has {value} legs.,How many legs has {a subject}?")
    world = facts.load(tables)
    assert len(world.facts) == len(WORLD.facts) + 3 + len(rows) - 1
    assert world.state(facts.Fact("legs", "owl", "four"), Random(0)) == "An owl has four legs."
    append(tables / "countries.csv", "Andorra,Andorra la Vella,Catalan,Europe")
    assert facts.load(tables).value("language", "Andorra") == "Catalan", "an edited table must be read again"


@pytest.mark.parametrize(("table", "line", "complaint"), [
    ("countries.csv", "Malta,Valletta,,Europe", r"countries\.csv, line 50: the cell of column 'language' is empty.*Malta"),
    ("countries.csv", "Malta,Valletta,Maltese", r"countries\.csv, line 50: 3 cells, but 4 columns.*Malta"),
    ("countries.csv", "france,Nice,French,Europe", r"line 50: country 'france' stands already in line 2"),
    ("countries.csv", "Malta,Valletta.,Maltese,Europe", r"line 50: capital 'Valletta\.' holds '\.'"),
    ("countries.csv", "Mal\tta,Valletta,Maltese,Europe", r"line 50: column 'country' holds a control character"),
    ("countries.csv", '"Malta,Valletta', r"countries\.csv, line 50: "),
    ("events.csv", "the fall of Troy,long ago", r"events\.csv, line 42: year 'long ago' is not a whole number"),
    ("relations.csv", "x,animals,legs,{a subject} has {value} legs.,How many legs has {a subject}?",
     r"animals\.csv, line 1: column 'legs' is missing; relation 'x'"),
    ("relations.csv", "x,animals,food,{subject} eats.,What does {subject} eat?", r"line 15: template '{subject} eats\.'"),
    ("relations.csv", "x,animals,food,{subject} eats {value},What does {subject} eat?", r"must be one sentence"),
    ("relations.csv", "x,dragons,food,{subject} eats {value}.,What does {subject} eat?", r"dragons\.csv: there is no"),
])
def test_a_bad_line_is_named(tables, table, line, complaint):
    append(tables / table, line)
    with pytest.raises(TableError, match=complaint):
        facts.load(tables)


@pytest.mark.parametrize(("data", "complaint"), [
    (b"\xef\xbb\xbfthing,colour\nsnow,white\n", r"things\.csv, line 1: .*byte-order mark"),
    ("thing,colour\nsnow,white\ncafé,brown\n".encode("latin-1"), r"things\.csv, line 3: byte b'\\xe9' is not UTF-8"),
    (b"thing;colour\nsnow;white\n", r"things\.csv, line 1: .*parted by ';'"),
    (b"thing,colour\n", r"things\.csv: the table has a header but no rows"),
    (b"", r"things\.csv: the table is empty"),
    (b"thing,colour,colour\nsnow,white,white\n", r"line 1: column 'colour' stands twice"),
    (b"thing,\nsnow,white\n", r"line 1: a column has no name"),
    (b"thing,hue\nsnow,white\n", r"line 1: column 'colour' is missing"),
    (b"thing,colour,weight\nsnow,white,light\n", r"line 1: column 'weight' has no row in relations\.csv"),
])
def test_a_bad_file_is_named(tables, data, complaint):
    (tables / "things.csv").write_bytes(data)
    with pytest.raises(TableError, match=complaint):
        facts.load(tables)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(TableError, match="nowhere"):
        facts.load(tmp_path / "nowhere")
    with pytest.raises(TableError, match="column 'missing' is missing; there are thing, colour"):
        read_rows(TABLES / "things.csv", ("missing",))


def test_the_digest_follows_the_tables(tables):
    before = digest(tables)
    append(tables / "things.csv", "jade,green")
    assert before == digest(TABLES) != digest(tables)


def test_facts_are_parted_in_half_by_subject_and_relation():
    splits = Counter(facts.split_of(f) for f in WORLD.facts)
    assert set(splits) == {"train", "test"} and min(splits.values()) > 0.4 * len(WORLD.facts)
    for name in WORLD.relations:
        assert {facts.split_of(f) for f in WORLD.of(name)} == {"train", "test"}, f"relation {name} is all in one split"
    for f in WORLD.facts:
        assert facts.split_of(f) == facts.split_of(facts.Fact(f.relation, f.subject, "anything")), \
            "the split must not hang on the value"


def test_sums_held_out():
    train, test = map(set, map(facts.sum_pairs, ("train", "test")))
    assert not train & test and train | test == {(a, b) for a in range(50) for b in range(50)}
    assert 0.17 < len(test) / 2400 < 0.23
    assert all(facts.is_held_out(*pair) == (pair in test) for pair in train | test)
    assert not any(max(pair) < 10 for pair in test), "single digits stand in the working of other sums"
    with pytest.raises(ValueError, match="'dev'"):
        facts.sum_pairs("dev")


def test_working_is_right_and_shows_no_held_out_pair():
    for a, b in facts.sum_pairs("train")[::7]:
        text = facts.worked_sum(a, b)
        for left, total in re.findall(r"([\d +]+) = (\d+)", text):
            assert sum(map(int, left.split("+"))) == int(total), text
        assert text.endswith(f"so {a} + {b} = {a + b}.")
        pairs = {tuple(map(int, p)) for p in re.findall(r"(?=\b(\d+) \+ (\d+)\b)", text)}
        assert not pairs & set(facts.sum_pairs("test")), text
    assert facts.worked_sum(1, 2, 9).endswith("1 + 2 = 9.")


def test_an_invented_world_grows_to_any_size():
    world = facts.grown(WORLD, 20_000, seed=3)
    assert 20_000 <= len(world.facts) < 20_003 and world.facts[:len(WORLD.facts)] == WORLD.facts
    capitals = [f.value for f in world.of("capital")]
    assert len(set(capitals)) == len(capitals) and len({(f.relation, f.subject) for f in world.facts}) == len(world.facts)
    assert facts.grown(WORLD, 20_000, seed=3).facts == world.facts != facts.grown(WORLD, 20_000, seed=4).facts
    smaller = facts.grown(WORLD, 5_000, seed=3).facts
    assert smaller == world.facts[:len(smaller)], "a larger world must hold the smaller one"
    assert facts.grown(WORLD, 10).facts == WORLD.facts
    with pytest.raises(ValueError, match="1000000 facts"):
        facts.grown(WORLD, 1_000_000)
    assert facts.world_for(WorldConfig(facts=1_000)).value("capital", "France") == "Paris"


def test_invented_names_are_unique_and_readable():
    places = list(islice(facts.invented_places(1), 30_000))
    assert len({c for c, _ in places}) == len({c for _, c in places}) == len(places)
    assert all(re.fullmatch(r"[A-Z][a-z]{4,10}", name) for place in places for name in place)


def test_the_same_in_another_process():
    """Nothing may hang on Python's own hash, which differs from process to process."""
    code = ("from llama2_lib.world import facts; from random import Random; w = facts.grown(facts.load(), 900, 5);"
            "print([(w.ask(f, Random(1)), facts.split_of(f)) for f in w.facts[::50]], facts.sum_pairs('test')[:40])")
    outputs = {subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
                              capture_output=True, text=True, check=True).stdout for seed in ("1", "2")}
    assert len(outputs) == 1 and "train" in outputs.pop()
