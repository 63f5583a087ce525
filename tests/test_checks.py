import math

import numpy as np
import pytest
import torch

from llama2_lib.course.checks import check, check_close


@pytest.mark.parametrize("condition", [True, torch.tensor(1) == 1, np.float64(2) > 1, torch.ones(1, dtype=torch.bool)])
def test_a_true_statement_prints_a_tick(condition, capsys):
    check("one is one", condition)
    assert capsys.readouterr().out == "✓ one is one\n"


@pytest.mark.parametrize("condition", [False, torch.tensor(1) == 2, np.float64(2) < 1])
def test_a_false_statement_prints_a_cross_and_raises(condition, capsys):
    with pytest.raises(AssertionError, match="one is two"):
        check("one is two", condition)
    assert capsys.readouterr().out == "✗ one is two\n"


@pytest.mark.parametrize("condition", [[False], lambda: False, "no", None, 0, torch.zeros(2), (False, "message")])
def test_what_is_not_one_truth_value_is_refused(condition):
    with pytest.raises(TypeError, match="needs one truth value"):
        check("a list is always true", condition)


def test_close_prints_the_tolerance_and_no_measured_digit(capsys):
    check_close("RMSNorm", torch.tensor([1.0, 2.0 + 3e-7]), torch.tensor([1.0, 2.0]), tol=1e-6)
    assert capsys.readouterr().out == "✓ RMSNorm: equal within 1e-06\n"


@pytest.mark.parametrize("mine, reference, message", [
    ([1.0, 2.0, 9.0], [1.0, 2.0, 3.0], r"largest difference 6 at \[2\]: yours 9, reference 3"),
    ([[1.0, 2.0]], [1.0, 2.0], r"shapes differ: yours \(1, 2\), reference \(2,\)"),
    ([1.0, math.nan], [1.0, 2.0], "inf at"),
    ([1.0], [math.nan], "inf at"),
    ([math.nan], [math.nan], "inf at"),
    ([math.inf], [-math.inf], "inf at"),
    (1.0 + 2e-6, 1.0, "largest difference 2e-06.*yours 1.000002")])
def test_close_says_where_it_differs(mine, reference, message):
    with pytest.raises(AssertionError, match=message):
        check_close("x", mine, reference, tol=1e-6)


def test_close_takes_numbers_arrays_equal_infinities_and_empty_tensors(capsys):
    check_close("a number", 3, np.float32(3))
    check_close("an infinity", [math.inf, 1], [math.inf, 1])
    check_close("nothing", torch.zeros(0), torch.zeros(0))
    check_close("a gradient", torch.ones(2, requires_grad=True), np.ones(2))
    assert capsys.readouterr().out.count("✓") == 4
