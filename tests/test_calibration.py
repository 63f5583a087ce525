"""Calibration of probabilities that are known to be right, and of some that are not."""
import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from llama2_lib.analysis import calibration

P = np.random.default_rng(0).random(20_000)
TRUE = np.random.default_rng(1).random(20_000) < P


def test_bins_equal_scikit_learns():
    share, mean = calibration_curve(TRUE, P, n_bins=10)
    found = calibration.reliability(P, TRUE)
    assert [b.observed for b in found] == pytest.approx(share.tolist())
    assert [b.predicted for b in found] == pytest.approx(mean.tolist())
    assert sum(b.count for b in found) == len(P)


def test_true_probabilities_are_calibrated_and_overconfident_ones_are_not():
    assert calibration.expected_calibration_error(P, TRUE) < 0.02
    assert calibration.expected_calibration_error((P > 0.5).astype(float), TRUE) == pytest.approx(0.25, abs=0.02)


def test_the_ends_of_the_scale_have_a_bin():
    assert [b.count for b in calibration.reliability([0.0, 1.0], [False, True])] == [1, 1]


def test_levels_in_order():
    assert calibration.by_level([0.5, 0.1, 0.3], [7, 1, 1]) == {1: pytest.approx(0.2), 7: 0.5}


@pytest.mark.parametrize(("p", "y", "message"), [
    ([0.5], [True, False], "got 1 and 2"), ([], [], "got 0 and 0"), ([0.2, 1.2], [True, True], "item 1 is no probability"),
    ([float("nan")], [True], "item 0 is no probability")])
def test_bad_input_is_named(p, y, message):
    with pytest.raises(ValueError, match=message):
        calibration.reliability(p, y)
