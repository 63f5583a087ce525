"""Preference data: collection by known writers, files that come back as they went, and bad lines named."""
import json
from random import Random

import pytest

from llama2_lib.stages import preferences as P
from llama2_lib.text import comparisons as C
from llama2_lib.text.chat import Message, dialog
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.annotators import BOTH_SAFE, GRADES, SAFETY, VENDORS, Annotator, worth
from llama2_lib.world.dialogs import SAFETY as SAFETY_MIX
from llama2_lib.world.dialogs import damaged, demonstration, prompts
from llama2_lib.world.facts import load
from llama2_lib.world.oracle import score

WORLD = load()
SURE = [Annotator("sure", noise=0.0, slips=0.0)]


def writer(write, seed=0):
    return lambda asked: [write(WORLD, p, Random(f"{seed} {p.text}")) for p in asked]


GOOD, BAD = writer(demonstration), writer(damaged, 1)
ASKED = list(prompts(WORLD, 120, 0))


def test_the_worthier_reply_is_chosen():
    found = P.collect(WORLD, ASKED, [GOOD, BAD], SURE, seed=0, off_topic=0.0)
    by_text = {p.text: p for p in ASKED}
    assert len(found) > 90
    for c in found:
        prompt = by_text[c.prompt[-1].content]
        gold = [worth(score(WORLD, prompt, reply)) for reply in (c.chosen, c.rejected)]
        assert gold[0] >= gold[1]


def test_two_different_writers_reply_to_each_prompt_in_one_call_each():
    calls = []

    def named(name):
        def write(asked):
            calls.append(name)
            return [f"{name} says {i}." for i in range(len(asked))]
        return write

    found = P.collect(WORLD, ASKED, [named("Ann"), named("Bob"), named("Cleo")], SURE, seed=0, off_topic=0.0)
    assert sorted(calls) == ["Ann", "Bob", "Cleo"]
    assert all(c.chosen.split()[0] != c.rejected.split()[0] for c in found)
    assert {name for c in found for name in (c.chosen.split()[0], c.rejected.split()[0])} == {"Ann", "Bob", "Cleo"}


def test_off_topic_replies_come_from_other_prompts_and_lose():
    found = P.collect(WORLD, ASKED, [GOOD, writer(demonstration, 5)], SURE, seed=0, off_topic=1.0)
    assert sum(c.grade == GRADES[0] for c in found) > 0.6 * len(found)


def test_safety_pairs_are_binned_and_those_that_prefer_the_unsafe_reply_dropped():
    asked = list(prompts(WORLD, 150, 1, SAFETY_MIX))
    found = P.collect(WORLD, asked, [GOOD, BAD], [VENDORS[2]], seed=0, side=SAFETY, off_topic=0.0)
    assert {c.safety for c in found} <= set(C.BINS)
    assert any(c.safety == BOTH_SAFE for c in found)


def test_collection_is_the_same_for_the_same_seed_and_another_for_another():
    one, again, other = (P.collect(WORLD, ASKED, [GOOD, BAD], VENDORS, seed=s) for s in (0, 0, 1))
    assert one == again != other


def test_the_split_is_by_prompt_whatever_the_batch():
    batches = [P.collect(WORLD, ASKED, [GOOD, BAD], VENDORS, seed=s) for s in (0, 1)]
    train, test = P.split([c for b in batches for c in b], 0.2)
    assert train and test
    assert not {c.prompt for c in train} & {c.prompt for c in test}


def test_statistics_add_up(tmp_path):
    tokenizer = Tokenizer.train([f"[INST] {p.text} [/INST]" for p in ASKED], 400, tmp_path / "t.model")
    found = P.collect(WORLD, ASKED, [GOOD, BAD], VENDORS, seed=0)
    s = C.statistics(found, tokenizer)
    assert s["tokens_an_example"] == pytest.approx(s["tokens_a_prompt"] + s["tokens_a_reply"])
    assert sum(s["grades"].values()) == pytest.approx(1)
    assert (s["comparisons"], s["turns"]) == (len(found), 1)
    with pytest.raises(ValueError, match="no comparisons"):
        C.statistics([], tokenizer)


def test_a_file_comes_back_as_it_went(tmp_path):
    pairs = [C.Comparison(dialog("Hi — «ü»\n?"), "Ho.", "Hm.", GRADES[2], BOTH_SAFE),
             C.Comparison(dialog("a", "b", "c", system="Shout."), "D.", "E.", GRADES[0])]
    C.write(tmp_path / "p.jsonl", pairs)
    assert C.read(tmp_path / "p.jsonl") == pairs
    assert [f.name for f in tmp_path.iterdir()] == ["p.jsonl"]


def test_nothing_half_written_is_left_under_the_name(tmp_path):
    def broken():
        yield C.Comparison(dialog("a"), "B.", "C.", GRADES[0])
        raise OSError("the disk is full")
    with pytest.raises(OSError, match="the disk is full"):
        C.write(tmp_path / "p.jsonl", broken())
    assert not (tmp_path / "p.jsonl").exists()


def lines(path, *records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def test_public_schemas_are_read(tmp_path):
    talk = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Name a cow."
    chat = [{"role": "user", "content": "Hi."}]
    found = C.read(lines(tmp_path / "x.jsonl",
                         {"chosen": f"{talk}\n\nAssistant: Rosa.", "rejected": f"{talk}\n\nAssistant: No."},
                         {"chosen": [*chat, {"role": "assistant", "content": "Ho."}],
                          "rejected": [*chat, {"role": "assistant", "content": "Hm."}]},
                         {"prompt": "Hi.", "chosen": "Ho.", "rejected": "Hm."}))
    assert found[0] == C.Comparison(dialog("Hi.", "Hello.", "Name a cow."), "Rosa.", "No.", C.UNGRADED)
    assert found[1] == found[2] == C.Comparison((Message("user", "Hi."),), "Ho.", "Hm.", C.UNGRADED)


GOOD_LINE = {"prompt": "Hi.", "chosen": "Ho.", "rejected": "Hm.", "grade": "better"}


@pytest.mark.parametrize(("line", "message"), [
    ({**GOOD_LINE, "chosen": " "}, "line 2: the chosen reply is empty"),
    ({**GOOD_LINE, "grade": "great"}, "line 2: there is no grade 'great'"),
    ({**GOOD_LINE, "safety": "maybe"}, "line 2: there is no safety bin 'maybe'"),
    ({**GOOD_LINE, "rejected": "Ho. "}, "line 2: chosen and rejected are the same reply"),
    ({**GOOD_LINE, "chosen": "word " * 60}, "line 2: the dialogue is .* tokens long; the model reads 64"),
    ({**GOOD_LINE, "prompt": [{"role": "user"}]}, "line 2: a message has a role and a content"),
    ({**GOOD_LINE, "prompt": 3}, "line 2: a dialogue is a text or a list"),
    ({"prompt": "Hi.", "chosen": "Ho."}, "line 2: key 'rejected' is missing"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"}, "line 2: .* different dial"),
    ({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"}, "line 2: .* must end on a reply"),
    ('{"prompt": "Hi.", "chos', "line 2: not a JSON object, perhaps cut")])
def test_a_bad_line_is_named(line, message, tmp_path):
    tokenizer = Tokenizer.train(["[INST] Hi. [/INST] Ho. word"] * 9, 280, tmp_path / "t.model")
    with pytest.raises(ValueError, match=message):
        C.read(lines(tmp_path / "p.jsonl", GOOD_LINE, line), tokenizer, longest=64)


@pytest.mark.parametrize(("change", "message"), [
    ({"writers": [GOOD]}, "two writers, got 1"), ({"annotators": []}, "no annotator"), ({"off_topic": 2.0}, "share in 0…1")])
def test_a_collection_that_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        P.collect(WORLD, ASKED, **{"writers": [GOOD, BAD], "annotators": SURE, "seed": 0, **change})
