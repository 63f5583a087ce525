"""What a committed notebook must be: rules a reader profits from, each a function that returns what is wrong.

`problems(nb)` lists them for one notebook; `python -m llama2_lib.course.policy FILE …` prints them with the measures, for
authors. tests/test_notebook_policy.py demands an empty list of every notebook, and that each rule can fail.
"""
from __future__ import annotations

import ast
import json
import re
import statistics
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from llama2_lib.course.checks import PASSED
from llama2_lib.course.notebook_files import COMMON_PARAMETERS, WIDGET_VIEW, printed, tags

IGNORED = "nbval-ignore-output"
KNOWN_TAGS = {"parameters", "exercise", "solution", IGNORED, "timing"}
MAX_BYTES = 300 * 1024
PATHS = re.compile(r"(?<![\w.~:/])(/(home|root|tmp|work|mnt|opt|private|Users)/|[A-Z]:\\\\+Users)")
FORBIDDEN = {
    r"^[!%]": "a shell or magic line", r"\bpip install|\bwget\b|\bcurl\b": "an installation or a download",
    r"\bsys\.path\b": "sys.path", r"\binteract\(|\bOutput\(\)": "interact or Output (strict nbval breaks)"}
FIELDS = {
    r"\A# \d+ · \S": "a heading `# N · title`", r"§|[Ss]ection|Fig": "the paper's section",
    r"[Nn]eeds.*←|←.*[Nn]eeds": "needs ←", r"[Gg]ives.*→|→.*[Gg]ives": "gives →", r"toy": "the time at preset toy"}


def code(nb: NotebookNode) -> list[NotebookNode]:
    return [c for c in nb.cells if c.cell_type == "code"]


def prose(nb: NotebookNode) -> list[NotebookNode]:
    return [c for c in nb.cells if c.cell_type == "markdown"]


def characters(cells: list[NotebookNode]) -> int:
    return sum(len(c.source) for c in cells)


def measures(nb: NotebookNode) -> dict[str, float]:
    """Cells, prose to code in characters, lines of code cells (median, longest), outputs compared and ignored, checks."""
    lines = [len(c.source.splitlines()) for c in code(nb)] or [0]
    shown = [c for c in code(nb) if c.outputs]
    return {"cells": len(nb.cells), "ratio": round(characters(prose(nb)) / max(1, characters(code(nb))), 2),
            "median": statistics.median(lines), "longest": max(lines),
            "compared": sum(IGNORED not in tags(c) for c in shown), "ignored": sum(IGNORED in tags(c) for c in shown),
            "checks": sum(line.startswith(PASSED) for c in shown for line in printed(c).splitlines())}


def identity(nb: NotebookNode) -> list[str]:
    """Every cell has an id of its own that says what it is."""
    ids = [c.id for c in nb.cells]
    bad = [i for i in ids if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", i) or re.fullmatch(r"[0-9a-f]{6,}", i)]
    return [f"the id {i!r} says nothing: use words and dashes" for i in bad] + \
           [f"the id {i!r} is used twice" for i in sorted({i for i in ids if ids.count(i) > 1})]


def parameters(nb: NotebookNode) -> list[str]:
    """One cell of typed literals with a help comment each; preset, seed and workdir among them."""
    cells = [c for c in code(nb) if "parameters" in tags(c)]
    if len(cells) != 1:
        return [f"{len(cells)} cells are tagged parameters: one is needed"]
    wrong, names = [], []
    for line in cells[0].source.splitlines():
        if not (match := re.fullmatch(r"(\w+): (int|float|str|bool) = (.+?)  # \S.*", line)):
            wrong.append(f"parameters: {line!r} is not `name: type = literal  # help`")
            continue
        name, kind, value = match.groups()
        names.append(name)
        try:
            literal = ast.literal_eval(value)
        except ValueError:
            wrong.append(f"parameters: {name} is not a literal")
            continue
        if type(literal).__name__ != kind:
            wrong.append(f"parameters: {name} is declared {kind} and holds {literal!r}")
    return wrong + [f"parameters: {name} is missing" for name in COMMON_PARAMETERS if name not in names]


def outputs(nb: NotebookNode) -> list[str]:
    """Run in order to the end, with enough compared outputs; checks stand where nbval compares them."""
    wrong = []
    if [c.execution_count for c in code(nb)] != list(range(1, len(code(nb)) + 1)):
        wrong.append("not run in one go from the first cell to the last: `make notebooks`")
    m = measures(nb)
    if m["compared"] < max(5, m["ignored"]):
        wrong.append(f"{m['compared']} outputs are compared, {m['ignored']} ignored: compare at least 5 and the larger part")
    if m["checks"] < 3:
        wrong.append(f"{m['checks']} lines begin with {PASSED}: at least 3 checks are needed")
    for c in code(nb):
        kinds = {o.output_type for o in c.outputs}
        if "error" in kinds:
            wrong.append(f"cell {c.id} ended in an error")
        if IGNORED in tags(c) and PASSED + " " in printed(c):
            wrong.append(f"cell {c.id} prints a check but is tagged {IGNORED}: nobody compares it")
        if IGNORED not in tags(c) and any(o.output_type == "stream" and o.name == "stderr" for o in c.outputs):
            wrong.append(f"cell {c.id} writes to stderr: bars and warnings belong in cells tagged {IGNORED}")
    return wrong


def pictures(nb: NotebookNode) -> list[str]:
    """Every picture says what it shows, for readers who cannot see it."""
    wrong = []
    for c in code(nb):
        for o in c.outputs:
            if "image/png" in o.get("data", {}) and not o.metadata.get("image/png", {}).get("alt", "").strip():
                wrong.append(f"cell {c.id}: a picture without alt text (course.plots.show writes it)")
    for c in prose(nb):
        if "![](" in c.source or any("alt=" not in tag for tag in re.findall(r"<img[^>]*>", c.source)):
            wrong.append(f"cell {c.id}: a picture without alt text")
    return wrong


def sources(nb: NotebookNode) -> list[str]:
    """Nothing that installs, breaks nbval or papermill, or is longer than a screen; known tags only."""
    wrong = [f"cell {c.id} has the unknown tag {t!r}" for c in nb.cells for t in tags(c) if t not in KNOWN_TAGS]
    for c in code(nb):
        wrong += [f"cell {c.id} holds {name}" for pattern, name in FORBIDDEN.items() if re.search(pattern, c.source, re.M)]
        if c.source.rstrip().endswith(";"):
            wrong.append(f"cell {c.id} ends in a semicolon: nbval ignores it; write `_ = x`")
        if len(c.source.splitlines()) > 50:
            wrong.append(f"cell {c.id} has {len(c.source.splitlines())} lines: at most 50")
    return wrong


def traces(nb: NotebookNode) -> list[str]:
    """Nothing of the machine or the front end that wrote the file."""
    wrong = [] if nb.metadata.get("kernelspec", {}).get("name") == "python3" else ["the kernel is not python3"]
    if set(nb.metadata) - {"kernelspec", "language_info"}:
        wrong.append(f"metadata of a front end: {', '.join(set(nb.metadata) - {'kernelspec', 'language_info'})}")
    for c in nb.cells:
        if set(c.metadata) - {"tags", "jupyter"}:
            wrong.append(f"cell {c.id}: metadata of a front end")
        text = json.dumps(c.get("outputs", []), ensure_ascii=False)
        if WIDGET_VIEW in text:
            wrong.append(f"cell {c.id} stores a widget view: it means nothing in another session")
        shown = [{k: v for k, v in o.get("data", o).items() if k != "image/png"} for o in c.get("outputs", [])]
        if found := PATHS.search(json.dumps(shown)):
            wrong.append(f"cell {c.id} prints a path of this machine: {found.group()}")
    return wrong


def exercises(nb: NotebookNode) -> list[str]:
    """Each exercise is followed by its solution before the next one begins, and says how hard and how long it is."""
    wrong, kinds = [], [("exercise" in tags(c), "solution" in tags(c)) for c in nb.cells]
    starts = [i for i, (e, _) in enumerate(kinds) if e and not (i and kinds[i - 1][0])]
    if not starts:
        return ["no cell is tagged exercise"]
    for i, start in enumerate(starts):
        end = starts[i + 1] if i + 1 < len(starts) else len(kinds)
        if not any(solution for _, solution in kinds[start:end]):
            wrong.append(f"the exercise at cell {nb.cells[start].id} has no cell tagged solution after it")
        near = " ".join(c.source for c in nb.cells[max(0, start - 1):end])
        if not re.search(r"\d\s*min", near):
            wrong.append(f"the exercise at cell {nb.cells[start].id} does not say how many minutes it takes")
    return wrong


def anatomy(nb: NotebookNode) -> list[str]:
    """The title's fixed fields, the closing parts, and the measures of size."""
    first, m, wrong = nb.cells[0], measures(nb), []
    wrong += [f"the title cell lacks {what}" for pattern, what in FIELDS.items() if not re.search(pattern, first.source)]
    headings = "\n".join(line for c in prose(nb) for line in c.source.splitlines() if line.startswith("#")).lower()
    wrong += [f"no heading has the word {word!r}" for word in ("exercise", "recap") if word not in headings]
    if not 25 <= m["cells"] <= 80:
        wrong.append(f"{m['cells']} cells: 25 to 80")
    if not 1.2 <= m["ratio"] <= 1.8:
        wrong.append(f"prose to code is {m['ratio']} in characters: 1.2 to 1.8")
    if not 3 <= m["median"] <= 10:
        wrong.append(f"the median code cell has {m['median']:g} lines: 3 to 10")
    return wrong


RULES = (identity, parameters, outputs, pictures, sources, traces, exercises, anatomy)


def problems(nb: NotebookNode) -> list[str]:
    """Everything that is wrong with one notebook; an empty list when all is well."""
    nbformat.validate(nb)
    size = len(nbformat.writes(nb).encode())
    wrong = [problem for rule in RULES for problem in rule(nb)]
    return wrong + ([f"{size // 1024} KiB: at most {MAX_BYTES // 1024}"] if size > MAX_BYTES else [])


def main(paths: list[str]) -> int:
    found = 0
    for path in paths or sorted(map(str, Path("notebooks").glob("*.ipynb"))):
        nb = nbformat.read(path, as_version=4)
        print(path, *(f"{k} {v:g}" for k, v in measures(nb).items()), f"{Path(path).stat().st_size // 1024} KiB", sep="  ")
        for problem in problems(nb):
            print("  ✗", problem)
            found += 1
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
