"""The measures of best-of-K, temperatures, versions and broken runs, on numbers small enough to check by hand."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_rlhf import RECIPE

from llama2_lib.analysis import rlhf_studies as studies
from llama2_lib.analysis.reward_studies import Bench
from llama2_lib.config import preset
from llama2_lib.course import doctor, lab
from llama2_lib.stages import reward, road
from llama2_lib.stages.rejection import Candidates
from llama2_lib.text.chat import dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import prompts
from llama2_lib.world.facts import load
from llama2_lib.world.oracle import score


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train([p.text for p in prompts(load(), 200, 0)], 400, tmp_path_factory.mktemp("t") / "t.model")


def test_gold_of_the_best_is_the_gold_of_the_reply_that_the_reward_picks():
    world, (p,) = load(), prompts(load(), 1, 3, {"copy": 1})
    good, bad = " ".join(p.words) + ".", "Moo."
    found = Candidates([p], [[bad, good, bad]], np.array([[0.0, 1.0, 2.0]]))
    gold = {k: studies.gold_of_the_best(world, found, [k])[k] for k in (1, 2, 3)}
    assert gold[2] == score(world, p, good).total > gold[1] == gold[3] == score(world, p, bad).total


def test_a_reply_without_an_end_counts_nothing_in_the_means_of_figure_7(monkeypatch):
    world, (p,) = load(), prompts(load(), 1, 3, {"copy": 1})
    found = Candidates([p], [["Moo."] * 16], np.array([[-np.inf, *[0.5] * 15]]))
    monkeypatch.setattr(studies.rejection, "candidates", lambda *_: found)
    monkeypatch.setattr(studies.rlhf, "scorer", lambda *_: None)
    stub = SimpleNamespace(policy=None, tokenizer=None, rewards=None)
    numbers = studies.best_of_study(stub, world, preset("toy"), asked=1, samples=16)
    assert (numbers["reward_1"], numbers["reward_2"], numbers["median_drift"]) == (0, 0.5, 0)


@given(st.integers(1, 400))
def test_the_kl_of_best_of_n_grows_from_nothing_and_stays_below_log_n(n):
    assert studies.best_of_n_kl(1) == 0
    assert studies.best_of_n_kl(n) <= studies.best_of_n_kl(n + 1) <= math.log(n + 1)


def test_the_weak_reward_learns_once_from_a_small_part_of_the_pairs(tmp_path, monkeypatch):
    taught = []
    monkeypatch.setattr(Bench, "trained", lambda b, pairs, surprise: taught.append((len(pairs), surprise)) or reward.fresh(
        b.chat, 0, b.recipe.reward.judge_layers))
    one, other = (studies.weak_reward(RECIPE, tmp_path, 0.25) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    whole = len(road.build("preferences", RECIPE, tmp_path).train["helpfulness"])
    assert taught == [(round(0.25 * whole), False)]
    studies.weak_reward(RECIPE, tmp_path, 0.5)
    assert len(taught) == 2


@pytest.mark.parametrize(("y", "peak"), [([0, 1, 0], 1.0), ([1, 0.5, 0], 0.6), ([0, 0.5, 1], 1.4), ([0, 1, 1], 1.2)])
def test_the_peak_of_a_curve_is_the_top_of_the_parabola_or_its_end(y, peak):
    assert studies._peak([0.6, 1.0, 1.4], y) == pytest.approx(peak)


def test_the_oracle_reads_the_reply_alone(tokenizer):
    world, (p,) = load(), prompts(load(), 1, 3, {"copy": 1})
    said = " ".join(p.words) + "."
    ids = render(dialog(p.text, said), tokenizer)[0]
    assert studies.reply_of(tokenizer, ids) == said
    assert studies.gold_scorer(world, tokenizer)([p], [ids]) == [score(world, p, said).total]


def test_scores_become_probabilities(tokenizer):
    assert studies.whole(lambda asked, ids: [0.0, math.log(3)])([], []) == pytest.approx([0.5, 0.75])


def test_each_fault_of_the_lab_has_a_disease_of_its_own_that_the_doctor_knows():
    wanted = [fault.disease for fault in lab.FAULTS.values()]
    assert sorted(wanted) == sorted(name for name, *_ in doctor.DISEASES)


def test_the_lab_s_rewards_like_what_they_say():
    short, long = [1, 5, 6, 2], [1, 5, 6, 7, 8, 9, 2]
    assert lab.longer([None] * 2, [short, long]) == [4.0, 7.0]
