"""Checks a reader can see: a line that begins with ✓, or one that begins with ✗ and an AssertionError.

A check states something that must hold on any machine; nbval compares that sentence on every run, so it never holds a digit
that hangs on training or on the processor. `make course` counts the ✓ lines.
"""
from __future__ import annotations

import math

from llama2_lib.course.doctor import diagnose
from llama2_lib.course.environment import check_environment

__all__ = ["FAILED", "PASSED", "check", "check_close", "check_environment", "diagnose"]
PASSED, FAILED = "✓", "✗"


def check(statement: str, condition: object) -> None:
    """Print "✓ statement" when `condition` is true; else print "✗ statement" and raise AssertionError(statement).

    `condition` is a bool, or a tensor or array of one element. Raises TypeError for anything else: a list or a function
    would always count as true, and a check that cannot fail checks nothing.
    """
    if not isinstance(condition, bool):
        if not hasattr(condition, "dtype") or getattr(condition, "shape", ()) not in ((), (1,)):
            raise TypeError(f"check({statement!r}) needs one truth value, got {type(condition).__name__}")
        condition = bool(condition)
    if not condition:
        print(f"{FAILED} {statement}")
        raise AssertionError(statement)
    print(f"{PASSED} {statement}")


def check_close(name: str, mine: object, reference: object, tol: float = 1e-6) -> None:
    """Check that two numbers or tensors of one shape differ nowhere by more than `tol` (absolute).

    Prints "✓ name: equal within tol". On failure the message holds both shapes, or the largest difference, its place and
    both values there. A NaN on either side fails.
    """
    import torch
    a, b = (torch.as_tensor(x, dtype=torch.float64, device="cpu").detach() for x in (mine, reference))
    problem = ""
    if a.shape != b.shape:
        problem = f"shapes differ: yours {tuple(a.shape)}, reference {tuple(b.shape)}"
    elif a.numel():
        gap = (a - b).abs()
        gap[a == b] = 0.0                       # two equal infinities: inf − inf is NaN
        gap = gap.nan_to_num(nan=math.inf, posinf=math.inf)
        worst = int(gap.argmax())
        if not gap.flatten()[worst] <= tol:
            place = [int(i) for i in torch.unravel_index(torch.tensor(worst), a.shape)]
            problem = (f"largest difference {float(gap.flatten()[worst]):.3g} at {place}: "
                       f"yours {float(a.flatten()[worst]):.9g}, reference {float(b.flatten()[worst]):.9g}")
    check(f"{name}: equal within {tol:g}" + (f" ({problem})" if problem else ""), not problem)
