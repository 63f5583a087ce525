"""Agreement coefficients against published numbers and against scikit-learn, and kappa's paradox shown."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score

from llama2_lib.analysis import agreement

N = None
# Gwet's example of 12 units, four raters, five categories with gaps (cac.raw4raters of the R and Python package irrCAC).
RATINGS = [(1, 1, N, 1), (2, 2, 3, 2), (3, 3, 3, 3), (3, 3, 3, 3), (2, 2, 2, 2), (1, 2, 3, 4), (4, 4, 4, 4), (1, 1, 2, 1),
           (2, 2, 2, 2), (N, 5, 5, 5), (N, N, 1, 1), (N, N, 3, N)]
COUNTS = agreement.counts([[None if r is None else r - 1 for r in row] for row in RATINGS], 5)


def test_published_numbers():
    assert agreement.gwet_ac1(COUNTS) == pytest.approx(0.77544, abs=5e-6)
    assert agreement.fleiss_kappa(COUNTS) == pytest.approx(0.76117, abs=5e-6)
    assert agreement.observed(COUNTS.astype(float), np.eye(5)) == pytest.approx(0.81818, abs=5e-6)


def test_quadratic_weights_forgive_near_misses():
    far, near = [[2, 0, 0], [0, 2, 0], [1, 0, 1]], [[2, 0, 0], [0, 2, 0], [1, 1, 0]]
    assert agreement.gwet_ac2(near) > agreement.gwet_ac2(far)
    assert agreement.weight_matrix(3, "quadratic")[0].tolist() == [1, 0.75, 0]
    assert agreement.weight_matrix(3, "linear")[0].tolist() == [1, 0.5, 0]


def test_the_paradox_of_kappa():
    """Ninety-six of a hundred items agree, nearly all in one category: kappa falls to nothing, AC1 does not."""
    counts = [[2, 0]] * 96 + [[1, 1]] * 4
    assert agreement.fleiss_kappa(counts) < 0
    assert agreement.gwet_ac1(counts) > 0.95


def two_raters(draw_size=40):
    return arrays(int, (draw_size, 2), elements=st.integers(0, 2))


@given(two_raters())
def test_two_raters_with_equal_shares_give_cohens_kappa(ratings):
    """Rated twice, once with the raters exchanged, both have the same shares, and Fleiss's kappa is Cohen's."""
    both = np.concatenate([ratings, ratings[:, ::-1]])
    counts = agreement.counts(both.tolist(), 3)
    mine = agreement.fleiss_kappa(counts)
    if len(np.unique(both)) == 1:
        assert np.isnan(mine)
    else:
        assert mine == pytest.approx(cohen_kappa_score(both[:, 0], both[:, 1], labels=[0, 1, 2]), abs=1e-9)


@given(two_raters())
def test_perfect_agreement_is_one_and_no_coefficient_exceeds_it(ratings):
    assert agreement.gwet_ac1(agreement.counts([[a, a] for a, _ in ratings.tolist()], 3)) == pytest.approx(1)
    assert agreement.gwet_ac2(agreement.counts(ratings.tolist(), 3)) <= 1 + 1e-12


@pytest.mark.parametrize(("counts", "message"), [
    ([[1, 0], [0, 1]], "no item was rated twice"), ([[2, -1]], "item 0 has another"), ([[2], [2]], "two categories"),
    ([[2, 0], [1.5, 0.5]], "item 1 has another")])
def test_counts_that_are_none_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        agreement.gwet_ac1(counts)


def test_a_rating_outside_the_scale_names_its_item():
    with pytest.raises(ValueError, match="item 1 has the rating 7"):
        agreement.counts([[0, 1], [7, 1]], 7)
    with pytest.raises(ValueError, match="got 'cubic'"):
        agreement.weight_matrix(3, "cubic")
