"""Threads that wait do not spin for long: set before torch loads, and never over a user's own setting."""
import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "found"), [(None, "10000"), ("7", "7")])
def test_the_spin_is_short_unless_the_user_says_otherwise(given, found):
    env = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | ({"GOMP_SPINCOUNT": given} if given else {})
    code = "import sys, llama2_lib, os; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found, "False"]
