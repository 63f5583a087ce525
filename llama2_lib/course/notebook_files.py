"""Notebooks as files: which there are, their one normal form, their facts, the copy without solutions.

Shared by `make course` (runner.py), `make notebooks` and `make student` (scripts/). Nothing here executes a cell.
"""
from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from llama2_lib.course import ROOT
from llama2_lib.course.checks import PASSED

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KEPT_METADATA = ("tags", "jupyter")
QUIET_KERNEL = ["--IPKernelApp.log_level=40"]        # or every kernel warns that its local sockets are not encrypted
COMMON_PARAMETERS = ("preset", "seed", "workdir")


def find(words: str = "", folder: Path = ROOT / "notebooks") -> list[Path]:
    """The notebooks that `words` ("03 04", or beginnings of names) asks for, in order; all of them when it is empty.

    Raises ValueError naming a word that fits none.
    """
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    wanted = words.replace(",", " ").split()
    for word in wanted:
        if not any(p.stem.startswith(word) for p in paths):
            raise ValueError(f"no notebook begins with {word!r}; there are {', '.join(p.stem for p in paths)}")
    return [p for p in paths if not wanted or any(p.stem.startswith(word) for word in wanted)]


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", ()))


def normalise(nb: NotebookNode) -> NotebookNode:
    """Drop what a machine or a front end left behind: widget state and views, kernel details, execution times.

    A cell's id may come from its metadata (`# %% id="rope-table"` in py:percent text); code solutions are folded.
    """
    nb.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    nb.nbformat_minor = 5
    for cell in nb.cells:
        cell.id = cell.metadata.get("id", cell.id)
        cell.metadata = nbformat.from_dict({k: cell.metadata[k] for k in KEPT_METADATA if cell.metadata.get(k)})
        if cell.cell_type == "code" and "solution" in tags(cell):
            cell.metadata["jupyter"] = {"source_hidden": True}
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(WIDGET_VIEW, None)
    return nb


def printed(cell: NotebookNode) -> str:
    """Everything a code cell wrote to its standard output."""
    return "".join(o.text for o in cell.get("outputs", ()) if o.output_type == "stream" and o.name == "stdout")


def count_checks(nb: NotebookNode) -> int:
    """How many lines that begin with ✓ the notebook printed."""
    return sum(line.startswith(PASSED + " ") for cell in nb.cells for line in printed(cell).splitlines())


def title_and_claim(nb: NotebookNode) -> tuple[str, str]:
    """The first heading, and the first paragraph below it as plain text."""
    text = next((c.source for c in nb.cells if c.cell_type == "markdown"), "")
    title = next((line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("# ")), "")
    paragraphs = [p for p in re.split(r"\n\s*\n", text) if p.strip() and not p.startswith("#")]
    claim = re.sub(r"[*_`]|\]\([^)]*\)|\[", "", paragraphs[0]) if paragraphs else ""
    return title, " ".join(claim.split())


def without_solutions(nb: NotebookNode) -> NotebookNode:
    """The student's copy: cells tagged `solution` removed, outputs and execution counts cleared."""
    from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor
    nb, _ = TagRemovePreprocessor(remove_cell_tags=["solution"], enabled=True).preprocess(nbformat.from_dict(nb), {})
    nb, _ = ClearOutputPreprocessor(enabled=True).preprocess(nb, {})
    return nb
