"""A wrong stored number must turn nbval red, or the comparison of the notebooks proves nothing."""
import re
import subprocess
import sys

import nbformat
import pytest

from llama2_lib.course import ROOT
from llama2_lib.course.notebook_files import find, tags
from llama2_lib.course.policy import IGNORED

NUMBER = re.compile(r"\d\.\d{2,}")


def first_number(nb):
    """Index of the first compared cell that shows a decimal number."""
    for i, c in enumerate(nb.cells):
        if c.cell_type == "code" and IGNORED not in tags(c):
            for o in c.outputs:
                text = o.get("text", "") or o.get("data", {}).get("text/plain", "")
                if NUMBER.search(text):
                    return i
    return None


def nbval(folder, name):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env",
               f"--nbval-sanitize-with={ROOT}/tests/nbval_sanitize.cfg", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=300)
    return done.returncode, done.stdout + done.stderr


def corrupt(cell):
    """Change the last digit of the cell's first decimal number."""
    def wrong(match):
        return match.group()[:-1] + str((int(match.group()[-1]) + 1) % 10)
    for o in cell.outputs:
        if "text" in o and NUMBER.search(o.text):
            o.text = NUMBER.sub(wrong, o.text, count=1)
            return
        if NUMBER.search(o.get("data", {}).get("text/plain", "")):
            o.data["text/plain"] = NUMBER.sub(wrong, o.data["text/plain"], count=1)
            return


@pytest.mark.skipif(not find("") or not find("01") if find("") else True, reason="no notebook 01 yet")
def test_a_wrong_stored_number_is_caught_and_a_right_one_passes(tmp_path):
    nb = nbformat.read(find("01")[0], as_version=4)
    last = first_number(nb)
    assert last is not None, "notebook 01 compares no decimal number"
    nb.cells = nb.cells[:last + 1]                     # the cells before it are needed, those after it only take time
    nbformat.write(nb, tmp_path / "good.ipynb")
    corrupt(nb.cells[last])
    nbformat.write(nb, tmp_path / "bad.ipynb")
    status, said = nbval(tmp_path, "good.ipynb")
    assert status == 0, said
    status, said = nbval(tmp_path, "bad.ipynb")
    assert status == 1 and "1 failed" in said, said


def test_the_sanitizer_hides_times_and_addresses_and_nothing_else():
    text = (ROOT / "tests" / "nbval_sanitize.cfg").read_text(encoding="utf-8")
    rules = list(zip(re.findall(r"regex: (.+)", text), re.findall(r"replace: (.+)", text), strict=True))

    def clean(line):
        for pattern, replacement in rules:
            line = re.sub(pattern, replacement, line)
        return line

    assert clean("took 1.25 s at 12,345 tokens/s") == "took TIME at TIME"
    assert clean("<f at 0x7f00dead>") == "<f at 0xADDR>"
    for kept in ("loss 1.2345", "12 steps", "3 samples", "5 million", "accuracy 93.1%", "4 million", "2 models", "1 state"):
        assert clean(kept) == kept
