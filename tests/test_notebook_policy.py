"""Every committed notebook keeps the policy; every rule of the policy can fail."""
import copy
import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from llama2_lib.course import ROOT, policy
from llama2_lib.course.notebook_files import KERNEL, find, without_solutions

NOTEBOOKS = find()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_keeps_the_policy(path):
    assert policy.problems(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_file_is_in_its_normal_form(path):
    text = path.read_text(encoding="utf-8")
    assert text == nbformat.writes(nbformat.read(path, as_version=4)) + "\n"
    assert list(json.loads(text)["metadata"]["kernelspec"].items()) == list(KERNEL.items())


def test_the_numbers_of_the_notebooks_are_their_titles():
    for path in NOTEBOOKS:
        first = nbformat.read(path, as_version=4).cells[0].source
        assert re.match(rf"# {int(path.stem[:2])} · ", first), f"{path.stem} begins with {first.splitlines()[0]!r}"


# ------------------------------------------------------------------------------------------- every rule must be able to fail

def good_notebook():
    """The smallest notebook that keeps every rule."""
    def cell(name, source, text="", tags=(), data=None):
        outputs = [new_output("stream", name="stdout", text=text)] if text else []
        if data:
            outputs.append(new_output("display_data", data=data, metadata={"image/png": {"alt": "a rising line"}}))
        return new_code_cell(source, id=name, outputs=outputs, metadata={"tags": list(tags)} if tags else {})

    parameters = 'preset: str = "toy"  # which recipe\nseed: int = 0  # random seed\nworkdir: str = ""  # where runs lie'
    cells = [new_markdown_cell("# 3 · T\n\n§2.1, needs ← 02, gives → a model, 1 min at toy", id="title"),
             cell("parameters", parameters, tags=["parameters"])]
    for i in range(1, 11):
        cells += [new_markdown_cell("word " * 8, id=f"idea-{i}"),
                  cell(f"check-{i}", "a = 1\nb = 2\ncheck(a, b)", f"✓ statement {i}\n", data={"image/png": "AAAA"})]
    cells += [new_markdown_cell("## Exercises\n\n★ 5 min: do it", id="exercise-text", metadata={"tags": ["exercise"]}),
              cell("exercise-stub", "a = 1\nb = 2\nc = 3", tags=["exercise"]),
              cell("exercise-solution", "a = 1\nb = 2\nc = 3", tags=["solution"]),
              new_markdown_cell("## Recap", id="recap")]
    nb = new_notebook(cells=cells, metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for i, c in enumerate(policy.code(nb)):
        c.execution_count = i + 1
    return nb


def by_id(nb, name):
    return next(c for c in nb.cells if c.id == name)


def set_source(name, old, new):
    def change(nb):
        assert old in by_id(nb, name).source
        by_id(nb, name).source = by_id(nb, name).source.replace(old, new)
    return change


def drop_checks(nb):
    for c in policy.code(nb):
        c.outputs = [o for o in c.outputs if o.output_type != "stream"]


def ignore_most(nb):
    for i in range(1, 7):
        by_id(nb, f"check-{i}").metadata = nbformat.from_dict({"tags": [policy.IGNORED]})


def set_output(cell, **fields):
    return lambda nb: by_id(nb, cell).outputs[0].update(fields)


BREAKS = {
    "a random id": (lambda nb: by_id(nb, "recap").update(id="deadbeef"), "says nothing"),
    "an id twice": (lambda nb: by_id(nb, "recap").update(id="title"), "used twice"),
    "no parameters": (lambda nb: by_id(nb, "parameters").metadata.update(tags=[]), "tagged parameters"),
    "no help": (set_source("parameters", "  # random seed", ""), "is not `name: type"),
    "a computed parameter": (set_source("parameters", "= 0", "= max(0, 1)"), "is not a literal"),
    "a wrong type": (set_source("parameters", "= 0", "= 0.0"), "is declared int"),
    "seed renamed": (set_source("parameters", "seed:", "random_seed:"), "seed is missing"),
    "not run in order": (lambda nb: by_id(nb, "check-2").update(execution_count=99), "not run in one go"),
    "a stripped notebook": (lambda nb: [c.update(outputs=[]) for c in policy.code(nb)], "outputs are compared"),
    "mostly ignored": (ignore_most, "outputs are compared"),
    "no checks": (drop_checks, "checks are needed"),
    "a check nobody compares": (lambda nb: by_id(nb, "check-1").metadata.update(tags=[policy.IGNORED]), "nobody compares"),
    "an error": (lambda nb: by_id(nb, "check-1").outputs.append(
        new_output("error", ename="E", evalue="e", traceback=[])), "ended in an error"),
    "a warning": (set_output("check-1", name="stderr"), "writes to stderr"),
    "no alt text": (lambda nb: by_id(nb, "check-1").outputs[1].update(metadata={}), "without alt text"),
    "no alt text in prose": (set_source("recap", "Recap", "Recap ![](x.png)"), "without alt text"),
    "an unknown tag": (lambda nb: by_id(nb, "recap").metadata.update(tags=["nbval-ignore-outputs"]), "unknown tag"),
    "a shell line": (set_source("check-1", "a = 1", "!ls"), "shell or magic"),
    "sys.path": (set_source("check-1", "a = 1", "sys.path.append('..')"), "sys.path"),
    "an installation": (set_source("check-1", "a = 1", "run('pip install x')"), "installation"),
    "interact": (set_source("check-1", "a = 1", "interact(f, x=1)"), "interact"),
    "a semicolon": (set_source("check-1", "check(a, b)", "check(a, b);"), "semicolon"),
    "a long cell": (set_source("check-1", "a = 1", "a = 1\n" * 51), "at most 50"),
    "widget state": (lambda nb: nb.metadata.update(widgets={}), "front end"),
    "a widget view": (lambda nb: by_id(nb, "check-1").outputs[1].data.update({policy.WIDGET_VIEW: {}}), "widget view"),
    "execution times": (lambda nb: by_id(nb, "check-1").metadata.update(execution={}), "front end"),
    "a path": (set_output("check-1", text="/home/me/x\n"), "path of this machine"),
    "another kernel": (lambda nb: nb.metadata.update(kernelspec={"name": "ir", "display_name": "R"}), "not python3"),
    "no solution": (lambda nb: by_id(nb, "exercise-solution").metadata.update(tags=[]), "no cell tagged solution"),
    "no minutes": (set_source("exercise-text", "5 min", "soon"), "how many minutes"),
    "no exercise": (lambda nb: [c.metadata.pop("tags", 0) for c in nb.cells if "exercise" in c.id], "no cell is tagged"),
    "no section": (set_source("title", "§2.1", "here"), "paper's section"),
    "no recap": (set_source("recap", "Recap", "End"), "recap"),
    "little prose": (lambda nb: [c.update(source="word") for c in policy.prose(nb)], "prose to code"),
    "much prose": (set_source("idea-1", "word", "word " * 20), "prose to code"),
    "short cells": (lambda nb: [c.update(source="a == 1 and b == 2 and c") for c in policy.code(nb)], "median code cell"),
    "few cells": (lambda nb: nb.update(cells=nb.cells[:8]), "25 to 80"),
    "too large": (lambda nb: by_id(nb, "check-1").outputs[1].data.update({"image/png": "A" * 400_000}), "KiB"),
}


def test_the_good_notebook_is_good():
    assert policy.problems(good_notebook()) == []


@pytest.mark.parametrize("name", BREAKS)
def test_each_rule_can_fail(name):
    breaks, message = BREAKS[name]
    nb = copy.deepcopy(good_notebook())
    breaks(nb)
    found = [p for rule in policy.RULES for p in rule(nb)] if name == "an id twice" else policy.problems(nb)
    assert any(message in p for p in found), f"{name} went unnoticed; found {found}"


def test_the_students_copy_has_no_solutions_and_keeps_the_exercises():
    nb = without_solutions(good_notebook())
    ids = [c.id for c in nb.cells]
    assert "exercise-solution" not in ids and "exercise-stub" in ids
    assert not any(c.outputs or c.execution_count for c in policy.code(nb))


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks yet")
def test_every_notebook_of_the_design_has_a_solution_to_hide():
    for path in NOTEBOOKS:
        nb = nbformat.read(path, as_version=4)
        assert len(without_solutions(nb).cells) < len(nb.cells), path.stem


def test_figures_that_notebooks_name_are_committed():
    for path in NOTEBOOKS:
        for name in re.findall(r"""show\([^)]*?["'](fig\w+)["']""", path.read_text(encoding="utf-8").replace('\\"', '"')):
            assert (ROOT / "figures" / f"{name}.png").exists(), f"{path.stem} draws {name}, figures/{name}.png is missing"
