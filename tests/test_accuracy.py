"""Accuracy by completion, judged on models that are known to know: a table in place of a network."""
from collections import Counter

import pytest
import torch

from llama2_lib.analysis import accuracy
from llama2_lib.config import ModelConfig
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.facts import is_held_out, load, sum_pairs, worked_sum

WORLD = load()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [t for f in WORLD.facts for head, answer in accuracy.openings(WORLD, f) for t in (head, answer)]
    return Tokenizer.train(texts, 400, tmp_path_factory.mktemp("tokenizer") / "t.model")


@pytest.fixture
def said(monkeypatch):
    """Replaces the model's continuations by a function of the text."""
    def use(reply):
        monkeypatch.setattr(accuracy, "complete", lambda model, tokenizer, texts, room: [reply(t) for t in texts])
    return use


@pytest.mark.parametrize(("text", "answer", "right"), [
    (" Paris. The capital", "Paris", True), (" Paris", "Paris", True), ("Paris\nA cow", "Paris", True), (" 96.", "9", False),
    (" New York.", "New", False), (" the Paris.", "Paris", False), ("", "Paris", False), (" paris.", "Paris", False)])
def test_an_answer_counts_only_whole(text, answer, right):
    assert accuracy.is_right(text, answer) is right


def test_openings_are_statements_cut_before_the_answer():
    """Joined again with the answer, each is a sentence that the world itself could write."""
    from random import Random
    for fact in WORLD.facts[::7]:
        written = {WORLD.state(fact, Random(i)) for i in range(40)}
        pairs = accuracy.openings(WORLD, fact)
        assert pairs and {f"{head} {answer}." for head, answer in pairs} <= written
    capital = next(f for f in WORLD.of("capital") if f.subject == "France")
    assert accuracy.openings(WORLD, capital) == [("The capital of France is", "Paris")]     # not "Paris is the capital …"
    young = next(f for f in WORLD.of("young") if f.subject == "dog")
    assert ("A young dog is", "a puppy") in accuracy.openings(WORLD, young)


def test_who_knows_everything_scores_one_and_who_knows_capitals_scores_those(said, tokenizer):
    truth = {head: answer for f in WORLD.facts for head, answer in accuracy.openings(WORLD, f)}
    said(lambda text: f" {truth[text]}. And so on.")
    full = accuracy.fact_accuracy(None, tokenizer, WORLD)
    assert full.mean == 1.0 and set(full.by_kind) == set(WORLD.relations)
    assert full.asked.total() == sum(len(accuracy.openings(WORLD, f)) for f in WORLD.facts)
    said(lambda text: f" {truth[text]}." if text.startswith("The capital") else " nothing.")
    some = accuracy.fact_accuracy(None, tokenizer, WORLD)
    assert some.by_kind["capital"] == 1.0 and next(iter(some.by_kind)) == "capital"
    assert some.mean == pytest.approx(len(WORLD.of("capital")) / some.asked.total())


def test_there_is_room_for_the_longest_answer(monkeypatch, tokenizer):
    rooms = []
    monkeypatch.setattr(accuracy, "complete", lambda m, t, texts, room: rooms.append(room) or [""] * len(texts))
    accuracy.fact_accuracy(None, tokenizer, WORLD)
    longest = max(len(tokenizer.encode(a)) for f in WORLD.facts for _, a in accuracy.openings(WORLD, f))
    assert rooms[0] > longest


def test_no_facts_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="no fact whose statement ends with its answer"):
        accuracy.fact_accuracy(None, tokenizer, WORLD, [])


@pytest.mark.parametrize(("text", "right"), [
    (worked_sum(27, 15), True), ("27 + 15 = 42.\nQuestion: What is 1 + 1?", True), ("42.", True), ("42", True),
    ("27 + 15 = 43.", False), ("27 + 18 = 42.", False), ("7 + 5 = 12, so 27 + 15 = 32.", False), ("", False), ("142", False),
    ("\n27 + 15 = 42.", False), ("127 + 15 = 42", False)])
def test_a_sum_is_right_if_the_first_line_states_it(text, right):
    assert accuracy.states_sum(text, 27, 15) is right


def test_sums_are_asked_of_pairs_in_no_page_and_counted_by_kind(said, tokenizer):
    asked = []

    def reply(text):
        a, b = (int(w) for w in text.removeprefix("Question: What is ").removesuffix("?\nAnswer:").split(" + "))
        asked.append((a, b))
        return f" {worked_sum(a, b)}\nmore" if a % 10 + b % 10 <= 9 else " 0."

    said(reply)
    result = accuracy.sum_accuracy(None, tokenizer, 100)
    assert len(set(asked)) == 100 and all(is_held_out(a, b) for a, b in asked)
    assert result.by_kind == {"no carry": 1.0, "carry": 0.0} and result.asked.total() == 100
    for count in (0, len(sum_pairs("test")) + 1):
        with pytest.raises(ValueError, match=f"got {count}"):
            accuracy.sum_accuracy(None, tokenizer, count)


def test_complete_returns_what_follows_and_leaves_the_mode_alone(tokenizer):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=400, max_seq_len=64))
    model.train()
    texts = ["The capital of France is", "A cow eats"]
    first = accuracy.complete(model, tokenizer, texts, 8)
    assert model.training and first == accuracy.complete(model, tokenizer, texts, 8)
    for text, more in zip(texts, first, strict=True):
        ids = tokenizer.encode(text, bos=True)
        for _ in range(8):                                                        # greedy by hand, without a cache
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_id:
                break
        assert tokenizer.decode(ids) == text + more
    assert Counter(map(len, first)).total() == 2


def test_answer_loss_is_the_answers_own_tokens_given_the_opening(tokenizer):
    """Against one row at a time, without padding, and token by token."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=400, max_seq_len=64))
    facts = WORLD.facts[::40]
    losses = []
    for head, answer in (pair for f in facts for pair in accuracy.openings(WORLD, f)):
        ids, loss = tokenizer.encode(head, bos=True), 0.0
        for token in tokenizer.encode(answer):
            loss -= model(torch.tensor([ids]))[0, -1].log_softmax(-1)[token].item()
            ids.append(token)
        losses.append(loss)
    assert accuracy.answer_loss(model, tokenizer, WORLD, facts) == pytest.approx(sum(losses) / len(losses), abs=1e-4)
