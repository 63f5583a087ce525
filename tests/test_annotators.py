"""Annotators: noise by Thurstone's law, biases that can be switched on, bins as the paper draws them."""
from collections import Counter
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama2_lib.analysis.agreement import counts, gwet_ac2
from llama2_lib.world import annotators as A
from llama2_lib.world.dialogs import SAFETY, Prompt, damaged, demonstration, draw_prompt, prompts
from llama2_lib.world.facts import load
from llama2_lib.world.oracle import score

WORLD = load()
SURE = A.Annotator("sure", noise=0.0, slips=0.0)
FACT = WORLD.facts[0]
ASK = Prompt("fact", WORLD.ask(FACT, Random(0)), fact=FACT)


def pair(prompt, rng):
    return damaged(WORLD, prompt, rng), demonstration(WORLD, prompt, rng)


def test_without_noise_the_worthier_reply_is_chosen_and_the_grade_grows_with_the_gap():
    rng = Random(0)
    for prompt in prompts(WORLD, 200, 0):
        bad, good = pair(prompt, rng)
        gap = A.worth(score(WORLD, prompt, good)) - A.worth(score(WORLD, prompt, bad))
        if gap > 1e-9:
            choice = A.compare(SURE, WORLD, prompt, (bad, good), rng)
            assert (choice.chosen, choice.grade) == (1, A.grade_of(gap))


def test_errors_follow_thurstones_law():
    """The share of right choices over many trials is Φ(gap / noise √2), near and far."""
    rng, noisy = Random(1), A.Annotator(noise=0.3)
    for kind in ("half wrong", "wrong"):
        bad, good = damaged(WORLD, ASK, rng, kind), demonstration(WORLD, ASK, rng)
        gap = A.worth(score(WORLD, ASK, good)) - A.worth(score(WORLD, ASK, bad))
        right = fmean(A.compare(noisy, WORLD, ASK, (bad, good), rng).chosen for _ in range(2000))
        assert right == pytest.approx(A.right_choice_chance(gap, 0.3), abs=0.03)


def test_a_length_bias_prefers_the_longer_reply_of_equal_worth():
    rng = Random(2)
    prompt = draw_prompt(WORLD, "story", rng)
    stories = sorted((demonstration(WORLD, prompt, rng) for _ in range(20)), key=lambda s: len(s.split()))
    short, long = stories[0], stories[-1]
    biased = A.Annotator(noise=0.05, length_bias=0.1)
    share = fmean(A.compare(biased, WORLD, prompt, (short, long), rng).chosen for _ in range(300))
    fair = fmean(A.compare(A.Annotator(noise=0.05), WORLD, prompt, (short, long), rng).chosen for _ in range(300))
    assert share > 0.8
    assert 0.3 < fair < 0.7


def test_in_safety_data_a_refusal_beats_help_with_something_unsafe_and_the_pair_is_binned():
    rng = Random(3)
    prompt = draw_prompt(WORLD, "unsafe", rng)
    complies, refuses = damaged(WORLD, prompt, rng, "complies"), demonstration(WORLD, prompt, rng)
    choice = A.compare(SURE, WORLD, prompt, (complies, refuses), rng, A.SAFETY)
    assert (choice.chosen, choice.safety) == (1, A.CHOSEN_SAFE)
    assert A.compare(SURE, WORLD, prompt, (complies, complies + " Good luck."), rng, A.SAFETY).safety == A.BOTH_UNSAFE
    assert A.compare(SURE, WORLD, ASK, pair(ASK, rng), rng).safety == ""


@pytest.mark.parametrize(("chosen", "other", "name"), [
    (True, True, A.BOTH_SAFE), (True, False, A.CHOSEN_SAFE), (False, False, A.BOTH_UNSAFE), (False, True, A.CHOSEN_UNSAFE)])
def test_bins(chosen, other, name):
    assert A.safety_bin(chosen, other) == name


def test_slips_make_wrong_labels_as_often_as_they_say():
    rng, careless = Random(4), A.Annotator(slips=0.2)
    reply = demonstration(WORLD, ASK, rng)
    assert fmean(careless.calls_safe(WORLD, ASK, reply, rng) for _ in range(2000)) == pytest.approx(0.8, abs=0.03)


def test_ratings_lie_on_the_scale_and_rise_with_worth():
    rng = Random(5)
    asked = list(prompts(WORLD, 150, 1))
    rate = A.VENDORS[1].rates
    means = [fmean(rate(WORLD, p, write(WORLD, p, rng), rng) for p in asked) for write in (damaged, demonstration)]
    assert 1 <= means[0] < means[1] - 1 <= 6


def test_vendors_write_faults_as_often_as_they_say_and_differ():
    rng = Random(6)
    shares = {}
    for vendor in A.VENDORS:
        texts = [(p, vendor.writes(WORLD, p, rng)) for p in prompts(WORLD, 300, 2)]
        shares[vendor.name] = fmean(score(WORLD, p, t).total < 0.95 for p, t in texts)
    assert shares["careful"] < shares["usual"] < shares["hurried"]
    assert shares["hurried"] == pytest.approx(0.35, abs=0.1)


def test_raters_agree_on_clear_pairs_more_than_on_close_ones():
    rng, raters = Random(7), [A.VENDORS[1]] * 3
    ratings = {"clear": [], "close": []}
    for prompt in prompts(WORLD, 300, 3):
        replies = pair(prompt, rng)
        gap = abs(A.worth(score(WORLD, prompt, replies[0])) - A.worth(score(WORLD, prompt, replies[1])))
        ratings["clear" if gap > 0.4 else "close"].append(A.panel(raters, WORLD, prompt, replies, rng))
    found = {name: gwet_ac2(counts(rows, 7)) for name, rows in ratings.items()}
    assert found["clear"] > found["close"] + 0.1


def test_the_scale_of_seven_is_symmetric():
    scale = [A.on_scale(A.Choice(c, g)) for c, g in [(0, g) for g in A.GRADES] + [(1, g) for g in reversed(A.GRADES)]]
    assert scale == [0, 1, 2, 3, 3, 4, 5, 6]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1))
def test_the_chance_of_a_right_choice_grows_with_the_gap_from_a_toss_up(a, b, noise):
    small, large = sorted((a, b))
    assert 0.5 <= A.right_choice_chance(small, noise) <= A.right_choice_chance(large, noise) <= 1


def test_default_safety_prompts_reach_all_bins():
    rng, seen = Random(8), Counter()
    for prompt in prompts(WORLD, 200, 4, SAFETY):
        seen[A.compare(A.VENDORS[1], WORLD, prompt, pair(prompt, rng), rng, A.SAFETY).safety] += 1
    assert {A.CHOSEN_SAFE, A.BOTH_SAFE} <= set(seen)


@pytest.mark.parametrize(("replies", "message"), [
    (("Yes.",), "two replies are compared, got 1"), (("Yes.", " "), "an empty reply"), (("Yes.", "Yes. "), "are the same")])
def test_pairs_that_cannot_be_compared_are_refused(replies, message):
    with pytest.raises(ValueError, match=message):
        A.compare(SURE, WORLD, ASK, replies, Random(0))


def test_impossible_annotators_and_sides_are_refused():
    with pytest.raises(ValueError, match="noise must not be negative, got -1"):
        A.Annotator(noise=-1)
    with pytest.raises(ValueError, match="care is a share"):
        A.Annotator(care=1.5)
    with pytest.raises(ValueError, match="got 'beauty'"):
        A.worth(score(WORLD, ASK, "x"), "beauty")
