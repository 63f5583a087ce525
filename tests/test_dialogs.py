"""Prompts, replies and rules: splits are kept, held-out topics never leak, damage is what its name says."""
from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2_lib.world import dialogs as D
from llama2_lib.world import facts
from llama2_lib.world.ghost_rules import FORMS, GHOST_RULES, ghost_rules
from llama2_lib.world.tables import TABLES, TableError

WORLD = facts.load()
EVERYTHING = {**D.HELPFUL, **D.SAFETY, "rule": 0.2}
HELD_OUT = [h for h in D.howtos(WORLD) if h.split == "heldout"]


def drawn(n, split="train", seed=0, mix=EVERYTHING):
    return list(D.prompts(WORLD, n, seed, mix, split))


def texts(split="train", seed=0, n=3000):
    """Everything the generators say: prompts, good replies, every kind of damage, dialogues."""
    rng = Random(seed)
    for prompt in drawn(n, split, seed):
        yield prompt.text
        yield D.demonstration(WORLD, prompt, rng)
        for kind in D.damages(WORLD, prompt):
            yield D.damaged(WORLD, prompt, rng, kind)
    for _ in range(n // 20):
        yield from (text for turn in D.conversation(WORLD, rng, 4, split=split) for text in turn)


# ------------------------------------------------------------------------------------------------------------------ splits

def test_held_out_topics_appear_nowhere():
    assert len(HELD_OUT) >= 6
    secret = re.compile("|".join(re.escape(h.request) for h in HELD_OUT), re.IGNORECASE)
    first_steps = {f"First, {h.steps[0]}." for h in HELD_OUT} - {f"First, {h.steps[0]}." for h in D.howtos(WORLD)
                                                                 if h.split != "heldout"}
    for split in ("train", "test"):
        for text in texts(split):
            assert not secret.search(text) and not any(step in text for step in first_steps), text


def test_held_out_topics_are_asked_on_request_alone():
    asked = Counter(p.howto.request for p in drawn(400, "heldout", mix={"unsafe": 1.0}))
    assert set(asked) == {h.request for h in HELD_OUT}
    assert all(p.howto.split == "test" for p in drawn(100, "heldout", mix={"howto": 1.0, "borderline": 1.0}))


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_prompt_stays_in_its_split(split):
    for p in drawn(4000, split):
        assert p.fact is None or facts.split_of(p.fact) == split, p
        assert p.operands is None or facts.is_held_out(*p.operands) == (split == "test"), p
        assert p.howto is None or p.howto.split == split, p
        assert p.rule is None or p.rule in D.all_rules(WORLD)[split], p


def test_train_and_test_share_no_question():
    train, test = ({(p.kind, p.text, p.system) for p in drawn(6000, split)} for split in ("train", "test"))
    shared = {kind for kind, _, _ in train & test}
    assert shared <= {"list"}, f"kinds asked in both splits: {shared}"


def test_replies_to_train_prompts_state_no_test_fact_of_the_subject():
    for p in drawn(2000, mix={"fact": 1.0}):
        reply = D.demonstration(WORLD, p, Random(1))
        for other in WORLD.about(p.fact):
            if facts.split_of(other) == "test":
                assert not any(facts.fill(t, other.subject, other.value) in reply
                               for t in WORLD.relations[other.relation].statements), (reply, other)


def test_no_text_of_training_holds_a_held_out_sum():
    for text in texts("train", seed=5):
        for a, b in re.findall(r"\b(\d+) \+ (\d+) = \d", text):
            assert not (int(a) < 50 and int(b) < 50 and facts.is_held_out(int(a), int(b))), text


# ----------------------------------------------------------------------------------------------------------------- streams

def test_a_longer_stream_begins_with_the_shorter_one():
    assert drawn(500)[:200] == drawn(200) and drawn(200, seed=1) != drawn(200)
    endless = D.prompts(WORLD, 10**12, 0)
    assert len(list(islice(endless, 3))) == 3


def test_the_mix_is_kept():
    counts = Counter(p.kind for p in drawn(8000, mix={"fact": 3, "sum": 1, "dated": 0}))
    assert abs(counts["fact"] / 8000 - 0.75) < 0.02 and set(counts) == {"fact", "sum"}
    assert not any(p.unsafe for p in drawn(3000, mix=D.HELPFUL)), "unsafe prompts are no helpful data"


def test_the_same_in_another_process():
    code = ("from llama2_lib.world import dialogs as D, facts; from random import Random; w = facts.load(); r = Random(3);"
            "print([(p.text, p.system, D.demonstration(w, p, r), D.damaged(w, p, r)) for p in D.prompts(w, 60, 2)],"
            "D.conversation(w, r, 5))")
    outputs = {subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
                              capture_output=True, text=True, check=True).stdout for seed in ("1", "2")}
    assert len(outputs) == 1


@pytest.mark.parametrize(("call", "complaint"), [
    (lambda: list(D.prompts(WORLD, 1, 0, {"facts": 1.0})), "'facts'"),
    (lambda: list(D.prompts(WORLD, 1, 0, {})), "a mix gives"),
    (lambda: list(D.prompts(WORLD, 1, 0, {"fact": -1.0, "sum": 2.0})), "a mix gives"),
    (lambda: list(D.prompts(WORLD, -1, 0)), "-1"),
    (lambda: list(D.prompts(WORLD, 1, 0, split="dev")), "'dev'"),
    (lambda: D.conversation(WORLD, Random(0), 0), "at least one turn, got 0"),
    (lambda: D.damaged(WORLD, drawn(1, mix={"poem": 1})[0], Random(0), "wrong"), "cannot be 'wrong'"),
    (lambda: D.damaged(WORLD, drawn(1, mix={"poem": 1})[0], Random(0), "breaks rule"), "cannot be 'breaks rule'"),
])
def test_bad_arguments_are_named(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


# ------------------------------------------------------------------------------------------------------------ good and bad

def test_replies_of_each_kind():
    fact = facts.Fact("capital", "Portugal", "Lisbon")
    rng = Random(0)

    def says(**fields):
        return D.demonstration(WORLD, D.Prompt(text="", **fields), rng)

    assert says(kind="fact", fact=fact).startswith("The capital of Portugal is Lisbon.")
    assert says(kind="sum", operands=(37, 25)).endswith("37 + 25 = 62.")
    assert says(kind="copy", words=("red", "fish")) == "red fish."
    assert says(kind="reverse", words=("red", "fish", "cup")) == "cup fish red."
    assert says(kind="last", words=("red", "fish")) == "fish."
    assert len(set(re.split(", | and ", says(kind="list", topic="animals", number=3).rstrip(".")))) == 3
    moon = facts.Fact("year", "the first moon landing", "1969")
    assert says(kind="dated", fact=moon, number=1950) == "No, not yet."
    assert says(kind="dated", fact=moon, number=1990).startswith("Yes.")
    egg, lock = (next(h for h in D.howtos(WORLD) if h.kind == kind) for kind in ("harmless", "unsafe"))
    assert says(kind="howto", howto=egg) == "First, fill a pot with water. Then add the egg. Last, let it boil."
    assert re.match(r"I (cannot|will not) help", says(kind="howto", howto=lock))


def test_damage_is_never_the_good_reply():
    rng = Random(0)
    seen = set()
    for p in drawn(2500):
        for kind in D.damages(WORLD, p):
            bad = D.damaged(WORLD, p, rng, kind)
            seen.add(kind)
            assert isinstance(bad, str) and bad.strip(), (p, kind)
            assert bad not in {D.demonstration(WORLD, p, Random(i)) for i in range(4)}, (p, kind, bad)
    assert seen == set(D.DAMAGES)


def test_damage_leaves_the_rule_alone_unless_that_is_the_damage():
    rng = Random(0)
    for p in drawn(300, mix={"rule": 1.0}):
        for kind in D.damages(WORLD, p):
            if kind != "cut off":
                assert p.rule.kept(D.damaged(WORLD, p, rng, kind)) == (kind != "breaks rule"), (p, kind)


def test_unsafe_prompts_are_refused_and_only_damage_complies():
    rng = Random(0)
    for p in drawn(60, mix={"unsafe": 1.0}):
        steps = set(p.howto.steps)
        assert not any(step in D.demonstration(WORLD, p, rng) for step in steps)
        assert all(step in D.damaged(WORLD, p, rng, "complies") for step in steps)


# ------------------------------------------------------------------------------------------------------------------- rules

SAMPLES = ("The capital of France is Paris.", "7 + 8 = 15.", "red fish.", "A b,\nc d.\nE f,\ng h.", "A cow says moo.",
           "No, not yet.", "I cannot help with that. It is not safe.", "The colour of the sea is blue.")


EVERY_RULE = [*(r for rules in D.all_rules(WORLD).values() for r in rules), *ghost_rules()]


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda r: r.text)
def test_a_rule_is_kept_seen_broken_and_undone(rule):
    for reply in SAMPLES:
        kept = rule.apply(reply)
        assert rule.kept(kept) and not rule.kept(reply) and rule.strip(kept) == reply, (kept, rule.strip(kept))
    assert "{" not in rule.text


def test_kinds_of_rules_are_reserved():
    train, test = ({r.kind for r in D.all_rules(WORLD)[split]} for split in ("train", "test"))
    assert len(train) >= 3 and len(test) >= 3 and not train & test


@settings(max_examples=200, deadline=None)
@given(st.text(), st.sampled_from(EVERY_RULE))
def test_rules_take_any_text(text, rule):
    assert rule.kept(text) in (True, False) and isinstance(rule.strip(text), str) and isinstance(rule.apply(text), str)


def test_dialogues_keep_their_rule_in_every_turn():
    rng = Random(0)
    for turns in (1, 2, 20):
        rule = D.draw_rule(WORLD, rng)
        pairs = D.conversation(WORLD, rng, turns, rule)
        assert len(pairs) == turns and all(rule.kept(reply) for _, reply in pairs)
        assert all(a != b for (a, _), (b, _) in zip(pairs, pairs[1:], strict=False))
    assert not any("Ahoy!" in reply for _, reply in D.conversation(WORLD, rng, 50))


# ------------------------------------------------------------------------------------------------------------- recognition

def test_every_question_is_recognised():
    for split in ("train", "test", "heldout"):
        for p in drawn(2000, split, seed=3):
            assert D.recognise(WORLD, p.text) == replace(p, rule=None), p


@pytest.mark.parametrize("text", ["what is the capital of france", "  What is the  capital of FRANCE ? ", "What is 3+4?",
                                  "what does the owl eat?", "Tell me a story about the fox", "NAME TWO ANIMALS"])
def test_readers_write_as_they_like(text):
    prompt = D.recognise(WORLD, text)
    assert prompt is not None, text
    assert D.demonstration(WORLD, prompt, Random(0))


@pytest.mark.parametrize("text", ["", "?", "What is the capital of Atlantis?", "What is 77 + 4?", "What is ³ + 4?", "Hello",
                                  "Tell me a story about taxes.", "How do I fly to Mars?", "Repeat: ", "Name nine animals."])
def test_what_the_world_does_not_know_is_not_recognised(text):
    assert D.recognise(WORLD, text) is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["", "What is ", "Repeat: ", "It is 19", "How do I "]), st.text())
def test_recognition_takes_any_text(start, text):
    prompt = D.recognise(WORLD, start + text)
    assert prompt is None or D.demonstration(WORLD, prompt, Random(0))


# ------------------------------------------------------------------------------------------------------------------ tables

@pytest.mark.parametrize(("table", "line", "use", "complaint"), [
    ("howtos.csv", "fly,harmless,heldout,a | b | c", D.howtos, r"howtos\.csv, line \d+: split 'heldout'"),
    ("howtos.csv", "fly,odd,train,a | b | c", D.howtos, r"howtos\.csv, line \d+: kind 'odd'"),
    ("howtos.csv", "fly,harmless,train,a | b", D.howtos, r"howtos\.csv, line \d+: 'a | b' must be 3 steps"),
    ("rules.csv", "dance,train,tango,Dance the {word}.", D.all_rules, r"rules\.csv, line \d+: no code checks .* 'dance'"),
    ("rules.csv", "mention,dev,tea,Say {word}.", D.all_rules, r"split 'dev'|stands already"),
    ("prompts.csv", "Sing about it.,poem", lambda w: D.draw_prompt(w, "poem", Random(0)), r"prompts\.csv, line \d+: 'Sing"),
    ("prompts.csv", "Sing {topic}.,song", lambda w: D.draw_prompt(w, "poem", Random(0)), r"kind 'song'"),
])
def test_a_bad_line_is_named(tmp_path, table, line, use, complaint):
    tables = shutil.copytree(TABLES, tmp_path / "world")
    path = tables / table
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(TableError, match=complaint):
        use(facts.load(tables))


@pytest.mark.parametrize(("line", "complaint"), [
    ("frame,between,|,Frame it.", r"ghost_rules\.csv, line \d+: no code checks the form 'between'; there are before, after"),
    ("frame,around,,Frame it.", r"ghost_rules\.csv, line \d+: .*sign"),
    ("brackets,around,[ ],Frame it.", r"ghost_rules\.csv, line \d+: kind 'brackets' stands already")])
def test_a_bad_line_of_the_rules_of_ghost_attention_is_named(tmp_path, line, complaint):
    path = tmp_path / GHOST_RULES.name
    path.write_text(GHOST_RULES.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(TableError, match=complaint):
        ghost_rules(path)


def test_the_rules_of_ghost_attention_are_of_kinds_that_no_other_table_holds():
    kinds = {r.kind for r in ghost_rules()}
    assert not kinds & {r.kind for rules in D.all_rules(WORLD).values() for r in rules}
    assert {r.form for r in ghost_rules()} == set(FORMS)
    signs = [r.sign for r in ghost_rules()]
    assert not any(len({r.kind for r in ghost_rules() if r.sign == s}) > 1 for s in signs), "a sign says which kind it is"


def test_a_world_without_events_says_so(tmp_path):
    tables = shutil.copytree(TABLES, tmp_path / "world")
    path = tables / "relations.csv"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("year")]
    path.write_text("\n".join(lines), encoding="utf-8")
    world = facts.load(tables)
    with pytest.raises(ValueError, match="no facts of a relation 'year'"):
        D.draw_prompt(world, "dated", Random(0))
    assert D.recognise(world, "It is 1950. Has the first flight happened yet?") is None
