"""Demonstrations with calls are what the loop would give; tests hold what no demonstration shows; measures by hand."""
import re
from random import Random

import pytest

from llama2_lib.analysis import tool_studies as studies
from llama2_lib.config import ModelConfig, preset
from llama2_lib.model import tool_loop
from llama2_lib.model.replies import Reply
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import Message, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import Prompt, prompts, recognise
from llama2_lib.world.facts import TEST, TRAIN, load, split_of
from llama2_lib.world.oracle import fact_correct

COUNTS = {"sum": 60, "search": 60, "dated": 60, "without": 20}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train([p.text for p in prompts(load(), 200, 0)], 400, tmp_path_factory.mktemp("t") / "t.model")


@pytest.fixture(scope="module")
def shown():
    return list(studies.demonstrations(load(), preset("toy"), COUNTS))


def digits(prompt):
    return tuple(len(str(n)) for n in prompt.operands)


def test_no_demonstration_has_a_size_or_a_country_of_the_tests():
    world, rng = load(), Random(0)
    assert {digits(studies.sum_of(world, rng, studies.TAUGHT)) for _ in range(600)} == set(studies.TAUGHT)
    assert {digits(p) for p in studies.asked(world, studies.UNSEEN_SUMS, 100, 0)} == set(studies.UNSEEN)
    countries = {split: {f.subject for f in studies.places(world, split)[0]} for split in (TRAIN, TEST)}
    foundings = {f.subject for f in studies.places(world, TRAIN)[1]}
    assert foundings == {f"the founding of {c}" for c in countries[TRAIN]}
    assert countries[TRAIN].isdisjoint(countries[TEST]) and min(map(len, countries.values())) > 100
    assert not set.union(*countries.values()) & set(world.subjects("countries"))


def test_demonstrations_are_what_the_loop_makes_of_their_calls(shown, monkeypatch, tokenizer):
    """Play each demonstration's own replies through the loop: the same dialogue must come out."""
    world = load()
    for d in shown[:sum(COUNTS.values()) - COUNTS["without"]]:
        said = iter([m.content for m in d if m.role == "assistant"])
        monkeypatch.setattr(tool_loop, "sample", lambda *_, said=said: [Reply(next(said), True)])
        (found,) = tool_loop.converse(None, tokenizer, [d[:2]], studies.course_tools(studies.wider(world)))
        assert found == tuple(d)
    assert len(shown) == sum(COUNTS.values())
    assert all(m.content != studies.SYSTEM for d in shown[-COUNTS["without"]:] for m in d)


def test_the_last_reply_of_a_demonstration_is_right_and_results_are_not_learned(tokenizer):
    world, rng = load(), Random(1)
    for prompt in (studies.sum_of(world, rng, studies.TAUGHT), studies.place(world, rng, TRAIN),
                   studies.searched(world, rng), *(studies.dated(world, rng) for _ in range(6))):
        d = studies.with_calls(world, prompt, rng)
        assert fact_correct(studies.wider(world), prompt, d[-1].content)
        ids, learned = render(d, tokenizer)
        text = tokenizer.decode([i for i, m in zip(ids, learned, strict=True) if m])
        assert "Result" not in text and all(call in text for call in studies.calls(prompt))


def test_the_calls_of_a_dated_question_search_and_then_subtract():
    world = load()
    fact = next(f for f in world.of("year") if f.subject == "the first flight")
    prompt = Prompt("dated", "It is 1850. Has the first flight happened yet?", fact=fact, number=1850)
    d = studies.with_calls(world, prompt, Random(0))
    assert [m.content for m in d[2:]] == ["SEARCH(When was the first flight?)", "Result: The first flight was in 1903.",
                                          "CALC(1850 - 1903)", "Result: -53", "No, not yet."]


def test_dated_questions_are_on_real_events_and_on_invented_ones_and_none_is_of_the_tests():
    world, rng = load(), Random(2)
    drawn = [studies.dated(world, rng) for _ in range(200)]
    invented = [p for p in drawn if p.fact.subject.startswith("the founding of ")]
    assert 60 < len(invented) < 140
    assert all(split_of(p.fact) == TRAIN for p in drawn if p not in invented)
    assert all(p.fact.subject in p.text and str(p.number) in p.text for p in drawn)
    assert 0.3 < sum(p.number > int(p.fact.value) for p in invented) / len(invented) < 0.7


def test_measures_by_hand():
    world = load()
    asked = [Prompt("sum", f"What is {a} + {b}?", operands=(a, b)) for a, b in ((100, 200), (300, 400))]
    good = (Message("user", "?"), Message("assistant", "CALC(100 + 200)"), Message("user", "Result: 300"),
            Message("assistant", "It is 300."))
    slip = (Message("user", "?"), Message("assistant", "CALC(30 + 400)"), Message("user", "Result: 430"),
            Message("assistant", "It is 430."))
    assert studies.right(world, asked, [good, slip]) == 0.5
    assert studies.calls_right(asked, [good, slip]) == 0.5
    assert studies.right(world, asked[:1], [good[:2]]) == 0         # a call is no answer


def test_an_unknown_task_is_named():
    with pytest.raises(ValueError, match="no task is called 'products'; there are sums up to"):
        studies.asked(load(), "products", 1, 0)


def test_the_table_has_every_task_and_a_model_compared_with_itself_gains_nothing_without_tools(tokenizer):
    model = Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=400, multiple_of=16,
                                    max_seq_len=256))
    found = studies.table_15(model, model, tokenizer, load(), 0, count=4)
    assert list(found) == list(studies.TASKS)
    assert all(arms["before"] == arms["without"] for arms in found.values())
    assert studies.tools_study(model, model, tokenizer, load(), 0, count=4)["lift"] == 0


def test_a_model_that_calls_without_fault_is_right_at_every_size_and_in_every_year(monkeypatch, tokenizer):
    world = load()

    def perfect(model, tok, dialogues, *_, **__):
        return [Reply(next_reply(world, d, tools=d[0].role == "system"), True) for d in dialogues]
    monkeypatch.setattr(tool_loop, "sample", perfect)
    found = studies.by_digits(None, None, tokenizer, world, (1, 3), 5, 0)
    assert found == {"answer with tools": [1, 1], "its call": [1, 1], "chat model": [0, 0]}
    events = world.of("year")[:6]
    assert studies.says_yes(None, tokenizer, world, events, (-50, -5, 5, 50)).tolist() == [0, 0, 1, 1]


def next_reply(world, dialogue, tools):
    """The next reply of a model that does everything right with tools, and says moo without them."""
    prompt = recognise(world, dialogue[0].content if not tools else dialogue[1].content) or sum_in(dialogue)
    if not tools:
        return "Moo."
    calls, turns = studies.calls(prompt), sum(m.role == "assistant" for m in dialogue)
    return calls[turns] if turns < len(calls) else studies._answer(world, prompt, dialogue[-1].content, Random(0))


def sum_in(dialogue):
    a, b = map(int, re.findall(r"\d+", dialogue[-1].content if len(dialogue) == 1 else dialogue[1].content)[:2])
    return Prompt("sum", "", operands=(a, b))
