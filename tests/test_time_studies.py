"""Dated questions: which pairs are asked, what counts as right, and that arms differ in their dated examples alone."""
from random import Random

import numpy as np
import pytest

from llama2_lib.analysis import time_studies as studies
from llama2_lib.config import ModelConfig
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import demonstration, prompts, recognise
from llama2_lib.world.facts import TEST, TRAIN, load, split_of


def dated(dialogues):
    found = [recognise(load(), d[-2].content) for d in dialogues]
    return [p is not None and p.kind == "dated" for p in found]


def test_an_arm_has_n_dated_examples_and_as_many_in_all_as_any_other():
    world = load()
    arms = {n: list(studies.examples(world, n, 0, total=60)) for n in (0, 10, 60)}
    assert all(len(a) == 60 for a in arms.values())
    assert {n: sum(dated(a)) for n, a in arms.items()} == {0: 0, 10: 10, 60: 60}
    assert [d[-2] for d in arms[60][:10]] == [d[-2] for d in arms[10][:10]]
    with pytest.raises(ValueError, match="61 of 60"):
        list(studies.examples(world, 61, 0, total=60))


def test_questions_hold_no_pair_that_was_seen_and_no_event_of_the_other_split():
    world = load()
    seen = studies.dated_prompts(world, 500, 0)
    fresh = studies.questions(world, 200, 0, TRAIN, seen)
    assert len(fresh) == 200
    assert not {(p.fact, p.number) for p in fresh} & {(p.fact, p.number) for p in seen}
    assert {(p.fact, p.number) for p in studies.questions(world, 200, 0, TRAIN)} & {(p.fact, p.number) for p in seen}
    assert all(split_of(p.fact) == TEST for p in studies.questions(world, 50, 0, TEST, seen))
    assert {f.subject for f in studies.events_of(world, TEST)}.isdisjoint(p.fact.subject for p in seen)


def test_good_replies_are_right_and_a_model_that_always_says_yes_or_no_is_right_half_the_time():
    world = load()
    asked = studies.questions(world, 100, 0, TEST)
    good = [demonstration(world, p, Random(0)) for p in asked]
    assert studies.sense_of_time(world, asked, good) == (1, 1)
    assert studies.sense_of_time(world, asked, ["No, not yet."] * 100) == (0, 1)
    yes = [f"Yes. {p.fact.subject} was in {p.fact.value}." for p in asked]
    assert studies.sense_of_time(world, asked, yes) == (1, 0)
    wrong_year = [f"Yes. {p.fact.subject} was in {int(p.fact.value) + 1}." for p in asked]
    assert studies.sense_of_time(world, asked, wrong_year)[0] == 0
    assert studies.sense_of_time(world, asked, ["Moo."] * 100) == (0, 0)


def test_says_yes_asks_each_event_so_many_years_later(monkeypatch):
    world, heard = load(), []

    def replies(model, tokenizer, dialogues, **how):
        heard.extend(d[0].content for d in dialogues)
        years = [recognise(world, d[0].content) for d in dialogues]
        return ["Yes. It was." if studies.is_past(p) else "No, not yet." for p in years]
    monkeypatch.setattr(studies, "replies", replies)
    events = studies.events_of(world, TEST)
    assert np.array_equal(studies.says_yes(None, None, events, (-50, -1, 0, 1, 50)), [0, 0, 0, 1, 1])
    assert len(heard) == 5 * len(events)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train([p.text for p in prompts(load(), 200, 0)], 400, tmp_path_factory.mktemp("t") / "t.model")


def test_what_a_reward_prefers_is_counted_by_half(tokenizer):
    world = load()
    asked = studies.questions(world, 40, 0, TEST)

    def knows(prompts, dialogues):
        texts = [tokenizer.decode(ids).rsplit("[/INST]", 1)[1].strip() for ids in dialogues]
        return [float(t.startswith("Yes") == studies.is_past(p)) for p, t in zip(prompts, texts, strict=True)]

    def likes_length(prompts, dialogues):
        return [len(ids) for ids in dialogues]
    assert studies.prefers_yes(knows, tokenizer, world, asked) == (1, 0)
    assert studies.prefers_yes(likes_length, tokenizer, world, asked) == (1, 1)


def test_equal_models_gain_nothing(tokenizer):
    world = load()
    model = Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=400, multiple_of=16,
                                    max_seq_len=256))
    found = studies.time_study({0: model, 10: model}, tokenizer, world, 0, count=20)
    assert found["gain_asked"] == found["gain_unasked"] == 0
    assert found["asked_0"] == (found["asked_0_past"] + found["asked_0_future"]) / 2
