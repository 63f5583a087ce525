"""A reward that is followed far: what it learned from, what a study changes, and what its numbers are differences of."""
import dataclasses

import pytest
import torch
from test_rlhf import RECIPE

from llama2_lib.analysis import hacking
from llama2_lib.config import override
from llama2_lib.stages import rlhf
from llama2_lib.world.dialogs import HELPFUL

SHORT = {"iterations": 2, "batch": 8, "minibatch": 4}
FIRST = dataclasses.replace(hacking.FIRST, helpfulness=60, test_share=0.4)


@pytest.fixture(scope="module")
def t(tmp_path_factory):
    return hacking.taught(RECIPE, tmp_path_factory.mktemp("hacking"), FIRST)


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


def test_no_prompt_of_the_test_pairs_was_learned_from(t):
    asked = [{c.prompt for c in pairs} for pairs in (t.train, t.test)]
    assert all(asked) and not asked[0] & asked[1]


def test_the_policy_that_follows_leaves_what_it_began_as_in_place(t):
    before, scores = weights(t.policy).clone(), weights(t.model).clone()
    policy, history = hacking.followed(t, 0.0, **SHORT)
    assert len(history) == 2 and all("gold" in r for r in history)
    assert torch.equal(weights(t.policy), before) and torch.equal(weights(t.model), scores)
    assert not torch.equal(weights(policy), before)


def test_nothing_unsafe_is_asked(t, monkeypatch):
    mixes = []
    real = rlhf.asked
    monkeypatch.setattr(rlhf, "asked", lambda world, seed, mix=rlhf.ASKED: mixes.append(mix) or real(world, seed, mix))
    hacking.followed(t, 0.5, **SHORT)
    assert mixes == [HELPFUL] and "unsafe" not in HELPFUL


def test_the_price_of_kl_is_what_differs_between_the_arms(t):
    """Nothing of the reward is left at an enormous price: the policy stays where the reference is, the free one moves."""
    free, held = (hacking.followed(t, beta, **SHORT | {"iterations": 6})[1][-1]["kl"] for beta in (0.0, 1000.0))
    assert abs(held) < abs(free)


def test_gains_are_the_ends_of_the_rollouts_and_gold_before_and_after(t, monkeypatch):
    records = [{"score": s, "kl": k} for s, k in zip(range(16), range(0, 160, 10), strict=True)]
    monkeypatch.setattr(hacking, "followed", lambda t, beta, **_: (beta, records))
    monkeypatch.setattr(hacking, "gold", lambda t, model: {0.0: 0.4, 0.5: 0.75}.get(model if model != t.policy else -1, 0.6))
    found = hacking.beta_study(t, (0.0, 0.5))
    assert found["score_gain_0.0"] == found["score_gain_0.5"] == 14.5 - 0.5
    assert (found["kl_0.5"], found["gold_before"]) == (145, 0.6)
    assert (found["gold_gain_0.0"], found["gold_gain_0.5"]) == (pytest.approx(-0.2), pytest.approx(0.15))


def test_a_reward_is_asked_of_new_pairs_before_and_after_it_saw_some(t, monkeypatch):
    trained = []
    monkeypatch.setattr(hacking.reward, "train", lambda model, tokenizer, pairs, config, seed, runtime: trained.append(
        (model, pairs, config)))
    shares = iter((0.75, 0.5, 0.625, 0.7))
    monkeypatch.setattr(hacking.Taught, "accuracy", lambda self, model, pairs: next(shares))
    found = hacking.staleness_study(t, t.policy, dataclasses.replace(FIRST, helpfulness=50))
    (model, pairs, config), = trained
    assert model is not t.model and config.optim.peak_lr == pytest.approx(rlhf.RETRAIN * RECIPE.reward.optim.peak_lr)
    old = [c for c in pairs if c in t.train]
    assert 0 < len(old) <= len(pairs) / 2 + 1 and not [c for c in pairs if c in t.test]
    assert (found["drop"], found["restored"]) == (0.25, 0.125)
    assert (found["own_test_after"], found["new_pairs_after"]) == (0.7, 0.625)


def test_another_seed_is_another_batch(t, tmp_path):
    other = hacking.taught(override(RECIPE, seed=1), tmp_path, FIRST)
    assert {c.chosen for c in other.train} != {c.chosen for c in t.train}


def test_one_run_serves_both_studies_and_another_price_is_another_run(t, monkeypatch):
    policy, history = hacking.followed(t, 0.0, **SHORT)
    monkeypatch.setattr(hacking, "optimise", lambda *_: pytest.fail("trained again"))
    again, same = hacking.followed(t, 0.0, **SHORT)
    assert torch.equal(weights(policy), weights(again)) and history == same
    with pytest.raises(pytest.fail.Exception, match="again"):
        hacking.followed(t, 0.125, **SHORT)


def test_what_was_taught_is_read_again(t, monkeypatch):
    monkeypatch.setattr(hacking.reward, "train", lambda *_, **__: pytest.fail("trained again"))
    again = hacking.taught(RECIPE, t.folder.parent, FIRST)
    assert torch.equal(weights(again.model), weights(t.model)) and (again.train, again.test) == (t.train, t.test)
