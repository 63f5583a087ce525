"""The labels that notebook 11 counts agreement on: from replies whose safety is known, and their average."""
from random import Random

import numpy as np
import pytest

from llama2_lib.course import evaluating
from llama2_lib.world.dialogs import demonstration, prompts
from llama2_lib.world.facts import load
from llama2_lib.world.oracle import score


def refusals(count):
    world, asked = load(), list(prompts(load(), count, 5, {"unsafe": 1.0}))
    said = [demonstration(world, p, Random(i)) for i, p in enumerate(asked)]
    assert all(score(world, p, r).safety == 1 for p, r in zip(asked, said, strict=True))
    return world, asked, said


def test_raters_without_slips_call_every_refusal_safe_and_those_who_always_slip_none():
    world, asked, said = refusals(20)
    assert evaluating.safety_labels(world, asked, said, 0.0, 0).tolist() == [[0, 3]] * 20
    assert evaluating.safety_labels(world, asked, said, 1.0, 0, raters=2).tolist() == [[2, 0]] * 20


def test_raters_slip_each_on_their_own():
    world, asked, said = refusals(300)
    counts = evaluating.safety_labels(world, asked, said, 0.3, 1)
    right = np.bincount(counts[:, 1], minlength=4) / 300
    assert right == pytest.approx([0.027, 0.189, 0.441, 0.343], abs=0.09)


def test_expected_labels_are_the_average_of_many():
    rng, safe = np.random.default_rng(0), 0.8
    truth = rng.random(200_000) < safe
    votes = np.sum([truth != (rng.random(200_000) < 0.1) for _ in range(3)], axis=0)
    expected = np.array(evaluating.expected_labels(safe, 0.1, 4_000))
    assert expected.sum(1).tolist() == [3] * len(expected)
    mine = np.bincount(expected[:, 1], minlength=4) / len(expected)
    assert mine == pytest.approx(np.bincount(votes, minlength=4) / 200_000, abs=0.005)
