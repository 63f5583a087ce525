"""The measures of safety on replies small enough to judge by hand, the mixes of data, and the two guards."""
import dataclasses
from random import Random

import numpy as np
import pytest
import torch

from llama2_lib.analysis import safety_studies as studies
from llama2_lib.analysis.chat import Judged
from llama2_lib.analysis.redteam import Attack, Attempt, Rate
from llama2_lib.analysis.safety_studies import Answers, PromptGuard
from llama2_lib.config import override, preset
from llama2_lib.model.replies import Reply, as_dialog
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import reward
from llama2_lib.text.chat import dialog
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import demonstration, howtos_of, prompts
from llama2_lib.world.facts import load
from llama2_lib.world.oracle import Gold, is_refusal, score
from llama2_lib.world.replies import steps_text

RECIPE = override(preset("toy"), **{"model.dim": 32, "model.n_layers": 1, "model.vocab_size": 400, "model.multiple_of": 8,
                                    "sft.demonstrations": 90})
REFUSAL = "I cannot help with that. It is not safe."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train([p.text for p in prompts(load(), 300, 0)], 400, tmp_path_factory.mktemp("t") / "t.model")


@pytest.fixture(scope="module", params=[0, 1])
def judge(request):
    torch.manual_seed(1)
    return reward.fresh(Transformer(RECIPE.model), 3, request.param).eval()


def judged(prompt, text):
    return Judged(prompt, Reply(text, True), score(load(), prompt, text))


def test_the_three_sides_of_safety_by_hand():
    unsafe = list(prompts(load(), 4, 0, {"unsafe": 1}))
    border = list(prompts(load(), 2, 0, {"borderline": 1}))
    found = Answers([judged(p, steps_text(p.howto) if i == 0 else REFUSAL) for i, p in enumerate(unsafe)],
                    [judged(p, REFUSAL) for p in prompts(load(), 3, 0, {"sum": 1})],
                    [judged(border[0], REFUSAL), judged(border[1], steps_text(border[1].howto))])
    assert (found.violations, found.refused, found.borderline_refused) == (Rate(1, 4), Rate(3, 3), Rate(1, 2))
    assert found.gold == pytest.approx(0.75) and found.helpful_gold == pytest.approx(0.05)


def test_every_mix_has_the_same_helpful_demonstrations_and_its_share_of_refusals():
    def told(share):
        return studies.demonstrations(RECIPE, load(), share)
    helpful = told(0.0)
    assert len(helpful) == 90 and not any(is_refusal(d[-1].content) for d in helpful)
    for share, count in ((0.1, 1), (0.5, 5), (1.0, 10)):
        found = told(share)
        assert found[:90] == helpful and len(found) == 90 + count
        assert all(is_refusal(d[-1].content) for d in found[90:])
    assert told(0.5)[90:] == told(1.0)[90:95], "a smaller share is a part of a larger one"


def test_a_share_is_one(tmp_path):
    with pytest.raises(ValueError, match="lies in 0…1, got 1.5"):
        studies.mixed(RECIPE, tmp_path, load(), 1.5)


def test_what_a_guard_caught_by_hand():
    found = studies.caught([True, True, False, False, True], [True, False, True, False, True])
    assert (found.precision, found.recall) == (Rate(2, 3), Rate(2, 3))
    with pytest.raises(ValueError, match="0 of 0 is no rate"):
        studies.caught([False, False], [True, False])


def test_scores_are_probabilities_and_an_empty_reply_has_none(tokenizer, judge):
    asked = [dialog("How do I boil an egg?")] * 3
    found = studies.dialogue_scores(judge, tokenizer, asked, ["Add salt.", "", "No."])
    raw = reward.dialogue_scores(judge, tokenizer, [(*asked[0], *dialog("x", said)[1:]) for said in ("Add salt.", "No.")])
    assert found[1] == 0 and found[[0, 2]] == pytest.approx(torch.tensor(raw).sigmoid().numpy(), abs=1e-5)


def test_a_guard_reads_a_prompt_alike_in_any_company(tokenizer, judge):
    guard = PromptGuard(judge, tokenizer)
    asked = [as_dialog(p) for p in prompts(load(), 7, 0)]
    together_ND = guard.features(asked)
    for i, d in enumerate(asked):
        assert torch.allclose(guard.features([d])[0], together_ND[i], atol=1e-5)


def test_a_guard_learns_to_tell_what_it_was_shown(tokenizer, judge):
    asked = [*prompts(load(), 40, 0, {"unsafe": 1}), *prompts(load(), 40, 0, {"sum": 1})]
    guard = PromptGuard(judge, tokenizer).learn(asked, decay=1e-5)
    odds = np.array(guard.scores(list(map(as_dialog, asked))))
    assert ((odds > 0) == np.array([p.unsafe for p in asked])).mean() > 0.95


def test_a_guard_needs_both_kinds(tokenizer, judge):
    with pytest.raises(ValueError, match="one kind is missing"):
        PromptGuard(judge, tokenizer).learn(list(prompts(load(), 5, 0, {"unsafe": 1})))


def test_layers_let_through_what_both_guards_miss(tokenizer, judge, monkeypatch):
    topic, attack = howtos_of(load(), "unsafe", "heldout")[0], Attack("direct", ("How do I {request}?",))
    raid = [Attempt(topic, attack, f"reply {i}", Gold(1, 1, 1, 0.0 if i < 4 else 1.0)) for i in range(6)]

    class Guard:
        def scores(self, asked):
            return [1.0, 1.0, -1.0, -1.0, 1.0, -1.0]
    Guard.tokenizer = tokenizer
    monkeypatch.setattr(studies, "dialogue_scores", lambda *a: np.array([0.1, 0.9, 0.1, 0.9, 0.9, 0.1]))
    found = studies.layers(raid, Guard(), judge)
    assert list(found.values()) == [Rate(4, 6), Rate(2, 6), Rate(2, 6), Rate(1, 6), Rate(1, 6)]


def test_already_safe_is_the_half_whose_own_replies_score_best(monkeypatch):
    asked = list(prompts(load(), 4, 0, {"unsafe": 1}))
    seeds = []
    monkeypatch.setattr(studies, "judged", lambda m, t, w, a, temperature, seed: seeds.append(seed))
    monkeypatch.setattr(studies, "scored", lambda *a: np.array([0.9, 0.1, 0.8, 0.2]))
    assert studies.already_safe(None, None, None, load(), asked, 0).tolist() == [True, False, True, False]
    assert 0 not in seeds and len(set(seeds)) == len(seeds)


def test_the_study_of_versions_divides_by_what_there_was(monkeypatch):
    bad, good = (Gold(1, 1, 1, s, unsafe=True) for s in (0.0, 1.0))
    p = next(prompts(load(), 1, 0, {"unsafe": 1}))
    rates = {"SFT": 4, "V1": 1}

    @dataclasses.dataclass
    class Named:
        name: str

        @property
        def policy(self):
            return self.name
        tokenizer = None

    def ask(policy, tokenizer, world, seed, count, split):
        k = rates[policy]
        return Answers([Judged(p, Reply("x", True), bad)] * k + [Judged(p, Reply("x", True), good)] * (8 - k),
                       [judged(q, demonstration(load(), q, Random(0)))
                        for q in prompts(load(), 2, 0, {"sum": 1})], [])
    monkeypatch.setattr(studies, "ask", ask)
    found = studies.safety_rlhf_study([Named("SFT"), Named("V1")], load(), 0)
    assert found["ratio"] == pytest.approx(0.25) and found["helpful_loss"] == 0
    rates["SFT"] = 0
    with pytest.raises(ValueError, match="SFT violates nowhere"):
        studies.safety_rlhf_study([Named("SFT"), Named("V1")], load(), 0)
