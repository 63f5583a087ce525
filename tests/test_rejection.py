"""Rejection sampling by a reward that is known: who wins, what cannot win, and what the bag remembers."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama2_lib.config import RejectionConfig
from llama2_lib.model.replies import Reply, answered
from llama2_lib.stages import rejection
from llama2_lib.text.chat import dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import prompts
from llama2_lib.world.facts import load

PROMPTS = list(prompts(load(), 6, 0))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train([f"[INST] {p.text} [/INST] reply" for p in prompts(load(), 300, 0)], 500,
                           tmp_path_factory.mktemp("rs") / "t.model")


@pytest.fixture
def says(monkeypatch):
    """Replaces sampling: the k-th reply to a prompt is `reply k`, unless `broken` says otherwise."""
    def use(broken=lambda i, k: None):
        def fake(model, tok, dialogs, temperature, seed, copies):
            return [broken(i, k) or Reply(f"reply {k}", True) for i in range(len(dialogs)) for k in range(copies)]
        monkeypatch.setattr(rejection, "sample", fake)
    return use


def by_number(tokenizer):
    """A scorer that likes reply 3 best, and reads it from the dialogue's ids as a reward model does."""
    def scorer(asked, dialogues):
        for p, ids in zip(asked, dialogues, strict=True):
            assert ids[:3] == render(dialog(p.text, "x", system=p.system), tokenizer)[0][:3]
        return [-abs(int(tokenizer.decode(ids).split("reply")[-1]) - 3) for ids in dialogues]
    return scorer


def test_the_best_scored_reply_wins(tokenizer, says):
    says()
    winners = rejection.select(None, tokenizer, PROMPTS, by_number(tokenizer), RejectionConfig(samples=5), seed=0)
    assert [w.dialogue for w in winners] == [answered(p, "reply 3") for p in PROMPTS]
    assert {w.score for w in winners} == {0}


def test_replies_without_an_end_or_a_word_cannot_win(tokenizer, says):
    says(lambda i, k: Reply("reply 3", False) if k == 3 else Reply("", True) if k == 4 or i == 0 else None)
    winners = rejection.select(None, tokenizer, PROMPTS, by_number(tokenizer), RejectionConfig(samples=5), seed=0)
    assert [w.dialogue for w in winners] == [answered(p, "reply 2") for p in PROMPTS[1:]], "a prompt without a whole reply"


def test_best_of_fewer_uses_the_first_ones(tokenizer, says):
    says()
    found = rejection.candidates(None, tokenizer, PROMPTS, by_number(tokenizer), 5, 1.0, 0)
    assert found.best(2) == ["reply 1"] * 6 and found.best() == ["reply 3"] * 6
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"best of {k} among 5"):
            found.best(k)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_maximum_never_falls_with_k_and_starts_at_the_median(rows):
    found = rejection.Candidates([None] * len(rows), [["a"] * 4] * len(rows), np.array(rows))
    best, middle = found.curve()
    assert (np.diff(best) >= -1e-12).all() and best[0] == pytest.approx(middle[0])
    assert best[-1] == pytest.approx(np.mean([max(r) for r in rows]))
    assert middle[-1] == pytest.approx(np.mean([np.median(r) for r in rows]))


def test_winners_come_back_from_their_file(tmp_path):
    rule = next(p for p in prompts(load(), 400, 1) if p.rule)
    winners = [rejection.Winner(answered(p, "Réponse\n — yes."), 0.5) for p in (*PROMPTS, rule)]
    rejection.write(tmp_path / "w.jsonl", winners)
    assert rejection.read(tmp_path / "w.jsonl") == winners
    assert winners[-1].dialogue[0].role == "system"


def test_no_prompts_are_an_error(tokenizer):
    with pytest.raises(ValueError, match="no prompt"):
        rejection.candidates(None, tokenizer, [], lambda a, d: [], 2, 1.0, 0)
