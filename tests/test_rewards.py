"""Measures of a reward model, on scores that are known: the oracle's own, its opposite, and a constant."""
from random import Random

import pytest

from llama2_lib.analysis import reward_studies, rewards
from llama2_lib.course.rewarding import ANSWERS, Annotate
from llama2_lib.text.chat import dialog
from llama2_lib.text.comparisons import Comparison
from llama2_lib.world.annotators import BOTH_SAFE, BOTH_UNSAFE, CHOSEN_SAFE, GRADES, VENDORS, Annotator, worth
from llama2_lib.world.dialogs import HELPFUL, damaged, demonstration, prompts
from llama2_lib.world.facts import load
from llama2_lib.world.oracle import score

WORLD = load()
ASKED = list(prompts(WORLD, 150, 3, {k: v for k, v in HELPFUL.items() if k != "rule"}))


def pair(prompt):
    return demonstration(WORLD, prompt, Random(1)), damaged(WORLD, prompt, Random(2))


PAIRS = [rewards.FreshPair(p, two, tuple(worth(score(WORLD, p, r)) for r in two))
         for p in ASKED if len({*(two := pair(p))}) == 2]
COMPARISONS = [Comparison(dialog(p.prompt.text), *p.replies, GRADES[0]) for p in PAIRS]


def gold(dialogue):
    return worth(score(WORLD, rewards.prompt_of(WORLD, dialogue[:-1]), dialogue[-1].content))


@pytest.fixture
def scored_by(monkeypatch):
    """Replaces the reward model by a function of the dialogue."""
    def use(function):
        monkeypatch.setattr(rewards, "dialogue_scores", lambda model, tokenizer, talks: [function(t) for t in talks])
    return use


def test_the_oracle_orders_every_pair_and_its_opposite_none(scored_by):
    unequal = [p for p in PAIRS if p.gap > rewards.EQUAL]
    for function, expected in ((gold, 1.0), (lambda t: -gold(t), 0.0)):
        scored_by(function)
        found = rewards.gold_order_accuracy(None, None, unequal)
        assert found[rewards.AVERAGE] == expected
        assert set(found) - {rewards.AVERAGE} == {p.prompt.kind for p in unequal}


def test_accuracy_by_grade_is_counted_within_each_grade(scored_by):
    scored_by(lambda talk: float(len(talk[-1].content)))
    pairs = [Comparison(dialog("Hi."), "long reply", "short", GRADES[0]),
             Comparison(dialog("Hi."), "no", "long one", GRADES[0]),
             Comparison(dialog("Hi."), "longer", "no", GRADES[3])]
    found = rewards.accuracy_by_grade(None, None, pairs)
    assert found == {GRADES[0]: 0.5, GRADES[3]: 1.0, rewards.AVERAGE: pytest.approx(2 / 3)}
    assert rewards.accuracy(None, None, pairs) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no comparisons"):
        rewards.gaps(None, None, [])


def test_the_ceiling_is_one_without_noise_and_falls_with_it():
    differ = [c for c, p in zip(COMPARISONS, PAIRS, strict=True) if p.gap > 0.05]
    ceilings = [rewards.noise_ceiling(WORLD, differ, [Annotator(noise=n)]) for n in (0.0, 0.1, 0.5)]
    assert ceilings[0] == 1.0 > ceilings[1] > ceilings[2] > 0.5
    with pytest.raises(ValueError, match="knows none"):
        rewards.noise_ceiling(WORLD, [Comparison(dialog("qwerty?"), "a", "b", GRADES[0])])


def test_the_ceiling_is_what_labels_by_the_oracle_would_reach():
    """Counted: annotators label the pairs anew, and the oracle's order is compared with their labels."""
    annotator = Annotator(noise=0.3)
    hits = []
    for seed in range(20):
        for c in rewards.relabelled(WORLD, COMPARISONS, annotator, seed):
            a, b = (gold(side) for side in c.sides())
            hits.append(0.5 if a == b else float(a > b))
    assert sum(hits) / len(hits) == pytest.approx(rewards.noise_ceiling(WORLD, COMPARISONS, [annotator]), abs=0.02)


def test_replies_below_zero_are_counted_among_the_unsafe_and_among_the_safe(scored_by):
    scored_by(lambda talk: {"steps": -1.0, "more steps": 1.0, "I cannot.": 2.0, "No.": -3.0}[talk[-1].content])
    pairs = [Comparison(dialog("x"), "I cannot.", "steps", GRADES[0], CHOSEN_SAFE),
             Comparison(dialog("y"), "more steps", "steps", GRADES[0], BOTH_UNSAFE),
             Comparison(dialog("z"), "No.", "I cannot.", GRADES[0], BOTH_SAFE)]
    assert rewards.below_zero(None, None, pairs) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    for part, missing in ((pairs[2:], "unsafe"), (pairs[1:2], "safe")):
        with pytest.raises(ValueError, match=f"labelled {missing}"):
            rewards.below_zero(None, None, part)


def test_a_prompt_is_found_again_with_its_rule():
    for p in prompts(WORLD, 60, 5, {"rule": 1.0}):
        found = rewards.prompt_of(WORLD, dialog(p.text, system=p.system))
        assert (found.kind, found.rule) == (p.kind, p.rule)
    assert rewards.prompt_of(WORLD, dialog("qwerty?")) is None


def test_length_bias_turns_choices_towards_longer_replies():
    uneven = [c for c in COMPARISONS if len(c.chosen.split()) != len(c.rejected.split())]

    def longer(annotator):
        found = rewards.relabelled(WORLD, uneven, annotator, 0)
        return sum(len(c.chosen.split()) > len(c.rejected.split()) for c in found)
    assert longer(Annotator(length_bias=5.0)) > longer(Annotator())


def test_scores_that_are_ratings_rise_with_them(scored_by):
    scored_by(gold)
    replies = [(p.prompt, reply) for p in PAIRS for reply in p.replies]
    rated = rewards.likert(None, None, WORLD, *zip(*replies, strict=True), seed=0)
    assert all(1 <= r <= 7 for _, r in rated)
    found = reward_studies.likert_study(rated)
    assert found["top_minus_bottom"] > 0 and found["correlation"] > 0.5
    assert found["rating_7"] - found["rating_1"] == pytest.approx(found["top_minus_bottom"])


def test_rank_correlation_is_spearmans():
    assert reward_studies.rank_correlation([1, 2, 3, 4], [10, 20, 30, 400]) == pytest.approx(1)
    assert reward_studies.rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert reward_studies.rank_correlation([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486833, abs=1e-6)


def test_raters_agree_more_on_clear_pairs():
    alike = [rewards.FreshPair(p, two, (0.5, 0.5)) for p in ASKED[:60]
             if len({*(two := tuple(demonstration(WORLD, p, Random(i)) for i in (1, 2)))}) == 2]
    found = reward_studies.agreement_study(WORLD, alike + PAIRS, seed=0)
    assert found["gap_close"] < found["gap_clear"] and found["clear_minus_close"] > 0


def test_the_first_share_of_the_pairs_is_taken_and_never_none():
    assert reward_studies.part(list(range(10)), 0.3) == [0, 1, 2]
    assert reward_studies.part([5, 6], 0.01) == [5]


def test_the_reader_as_an_annotator():
    three = [p for p in PAIRS if p.gap > rewards.EQUAL][:3]
    widget = Annotate(three)
    for p in three:
        assert p.prompt.text.split()[0] in widget.page.value
        widget.answer(0 if p.worths[0] > p.worths[1] else len(ANSWERS) - 1)
    assert widget.right == [True] * 3 and "3 of 3" in widget.verdict.value
    widget.buttons[0].click()
    assert len(widget.right) == 3, "after the last pair nothing is counted"
    assert "Which is better?" in widget._repr_mimebundle_()[0]["text/plain"]
    with pytest.raises(ValueError, match="no pairs"):
        Annotate([])


def test_vendors_differ_in_noise():
    noises = [v.noise for v in VENDORS]
    assert noises == sorted(set(noises)), "each noisier than the one before"
