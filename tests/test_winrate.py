"""Win rates against scipy's bootstrap and binomial test, a lean that swapping cures, and power against simulation."""
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llama2_lib.analysis import winrate
from llama2_lib.text.chat import dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.annotators import Annotator, right_choice_chance
from llama2_lib.world.dialogs import prompts
from llama2_lib.world.facts import load
from llama2_lib.world.oracle import score

RNG = np.random.default_rng(0)
OUTCOMES = RNG.choice([1, 0, -1], 400, p=[0.45, 0.2, 0.35])
outcome_lists = st.lists(st.sampled_from([1, 0, -1]), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def asked():
    """Copying prompts with a right answer and a wrong one."""
    world, some = load(), list(prompts(load(), 200, 3, {"copy": 1}))
    right = [" ".join(p.words) + "." for p in some]
    assert all(score(world, p, r).total > score(world, p, "Moo.").total for p, r in zip(some, right, strict=True))
    return world, some, right, ["Moo."] * len(some)


def test_wins_ties_and_losses_by_hand():
    found = winrate.outcomes([0.3, -0.3, 0.1, -0.1, 0.0], tie=0.1)
    assert found.tolist() == [1, -1, 0, 0, 0]
    assert winrate.rates([1, 1, 0, -1]) == winrate.Rates(0.5, 0.25, 0.25)
    assert winrate.score([1, 1, 0, -1]) == pytest.approx(0.625)


@given(outcome_lists)
def test_rates_add_up_and_turn_round_with_the_models(outcomes):
    a, b = winrate.rates(outcomes), winrate.rates([-o for o in outcomes])
    assert a.win + a.tie + a.loss == pytest.approx(1)
    assert (a.win, a.tie, a.loss) == (b.loss, b.tie, b.win)
    assert winrate.score(outcomes) == pytest.approx(a.win + a.tie / 2)
    assert winrate.score([-o for o in outcomes]) == pytest.approx(1 - winrate.score(outcomes))


@given(outcome_lists)
def test_the_sign_test_is_scipy_s(outcomes):
    wins, losses = outcomes.count(1), outcomes.count(-1)
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert winrate.sign_test(outcomes) == pytest.approx(expected, abs=1e-12)


def test_the_bootstrap_is_scipy_s_and_near_the_normal_interval():
    theirs = stats.bootstrap((OUTCOMES,), np.mean, method="percentile", n_resamples=4_000, rng=1).confidence_interval
    assert winrate.bootstrap(OUTCOMES) == pytest.approx(tuple(theirs), abs=0.012)
    normal = stats.norm.interval(0.9, OUTCOMES.mean(), OUTCOMES.std(ddof=1) / 20)
    assert winrate.normal_interval(OUTCOMES, 0.9) == pytest.approx(normal, abs=1e-9)
    assert winrate.bootstrap(OUTCOMES, level=0.9) == pytest.approx(normal, abs=0.012)


def test_the_interval_covers_what_it_should():
    rng, inside = np.random.default_rng(3), 0
    for i in range(200):
        low, high = winrate.bootstrap(rng.random(120) < 0.6, resamples=400, seed=i)
        inside += low <= 0.6 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_opinions_on_one_prompt_stay_together():
    """Three copies of each opinion say no more than one: the interval over prompts stays, that over opinions shrinks."""
    copies = np.repeat(OUTCOMES[:, None], 3, axis=1)
    width = {name: np.ptp(winrate.bootstrap(values)) for name, values in
             (("one", OUTCOMES), ("rows", copies), ("flat", copies.ravel()))}
    assert width["rows"] == pytest.approx(width["one"], rel=0.05)
    assert width["flat"] < 0.65 * width["one"]


def test_another_statistic_and_another_seed():
    wins = winrate.bootstrap(OUTCOMES, lambda o: float((o == 1).mean()))
    assert wins[0] < 0.45 < wins[1] and winrate.bootstrap(OUTCOMES) == winrate.bootstrap(OUTCOMES)
    assert winrate.bootstrap(OUTCOMES, seed=1) != winrate.bootstrap(OUTCOMES)


# ------------------------------------------------------------------------------------------------------------------ judges

def test_the_oracle_prefers_the_right_reply(asked):
    world, some, right, wrong = asked
    assert winrate.rates(winrate.outcomes(winrate.oracle(world)(some, right, wrong))).win == 1
    assert not winrate.oracle(world)(some, right, right).any()


def test_a_person_errs_as_often_as_their_noise_says(asked):
    world, some, right, wrong = asked
    gap = winrate.oracle(world)(some, right, wrong)
    people = [winrate.person(Annotator("a", noise=1.0), world, seed) for seed in range(20)]
    votes = np.concatenate([judge(some, right, wrong) for judge in people])
    expected = np.mean([right_choice_chance(float(g), 1.0) for g in gap])
    assert (votes > 0).mean() == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / len(votes)))


def test_two_equal_replies_are_a_tie_to_anybody(asked):
    world, some, right, _ = asked
    assert not winrate.person(Annotator("a", noise=1.0), world, 0)(some, right, [f" {r}" for r in right]).any()


def test_a_lean_shows_and_swapping_cures_it(asked):
    world, some, right, wrong = asked
    judge = winrate.leaning(winrate.oracle(world), 5.0)
    assert winrate.first_place_share(judge, some, right, wrong) == 1
    assert winrate.rates(winrate.outcomes(judge(some, wrong, right))).win == 1
    fair = winrate.both_orders(judge)
    assert fair(some, wrong, right) == pytest.approx(winrate.oracle(world)(some, wrong, right))
    assert winrate.first_place_share(fair, some, right, wrong) == 0.5


def test_the_reward_judge_scores_whole_dialogues(asked, tmp_path):
    _, some, right, wrong = asked
    tokenizer = Tokenizer.train([p.text for p in some] + right, 300, tmp_path / "t.model")

    def scorer(asked, dialogues):
        whole = [render(dialog(p.text, r), tokenizer)[0] for said in (right, wrong) for p, r in zip(some, said, strict=True)]
        assert dialogues == whole and asked == [*some, *some]
        return [float(len(ids)) for ids in dialogues]
    margins = winrate.reward_model(scorer, tokenizer)(some, right, wrong)
    assert margins[0] == len(render(dialog(some[0].text, right[0]), tokenizer)[0]) - len(
        render(dialog(some[0].text, wrong[0]), tokenizer)[0])


# ------------------------------------------------------------------------------------------------------------------- power

@pytest.mark.parametrize(("win", "n"), [(0.5, 200), (0.55, 200), (0.6, 100), (0.65, 150)])
def test_power_is_how_often_an_interval_leaves_out_a_half(win, n):
    rng = np.random.default_rng(1)
    draws = (rng.random((4_000, n)) < win).astype(float)
    half = 1.959964 * draws.std(1, ddof=1) / math.sqrt(n)
    found = (abs(draws.mean(1) - 0.5) > half).mean()
    assert winrate.power(win, math.sqrt(win * (1 - win)), n) == pytest.approx(found, abs=0.03)


def test_power_counted_on_values_that_are_there():
    values = np.repeat([1.0, 0.5, 0.0], (50, 20, 30))
    assert winrate.counted_power(values, 80) == pytest.approx(winrate.power(values.mean(), values.std(), 80), abs=0.05)
    assert winrate.counted_power([1.0, 0.0] * 50, 80) == pytest.approx(0.05, abs=0.03)


def test_several_judges_are_one_with_their_mean_margin():
    first, second = (lambda p, a, b, m=m: np.array([m, -m]) for m in (0.2, 0.6))
    assert winrate.together([first, second])([], [], []) == pytest.approx([0.4, -0.4])


def test_the_least_number_of_prompts_is_the_least():
    for win, wanted in itertools.product((0.3, 0.52, 0.7), (0.5, 0.8, 0.95)):
        n = winrate.prompts_needed(win, 0.5, wanted)
        assert winrate.power(win, 0.5, n) >= wanted and (n == 1 or winrate.power(win, 0.5, n - 1) < wanted)
    assert winrate.prompts_needed(0.55, 0.5) == pytest.approx(((1.959964 + 0.841621) * 0.5 / 0.05) ** 2, abs=1)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: winrate.rates([]), r"shape \(0,\)"), (lambda: winrate.rates([1, 2]), "outcome 1 is none"),
    (lambda: winrate.sign_test([0.5]), "outcome 0 is none"), (lambda: winrate.outcomes([0.0, float("nan")]), "pair 1"),
    (lambda: winrate.outcomes([1.0], tie=-1), "got -1"), (lambda: winrate.bootstrap([1]), "got 1"),
    (lambda: winrate.normal_interval([1]), "got 1"), (lambda: winrate.prompts_needed(0.5, 0.5), "equal models"),
    (lambda: winrate.prompts_needed(0.6, 0.5, 1.0), "got 1.0"), (lambda: winrate.power(0.6, 0.0, 5), "got 0.0 and 5")])
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
