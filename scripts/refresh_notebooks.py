"""Execute notebooks in place and write them in one normal form: `make notebooks`, or with --check only say what is stale.

A second run gives the same bytes. Outputs that hang on the clock cannot repeat, so a cell tagged `nbval-ignore-output` keeps
its stored outputs while its source is unchanged and the new ones differ in nothing but times, rates and memory; a cell
also tagged `timing` (its whole output is a measurement, perhaps drawn) keeps them while its source is unchanged.
"""
from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from llama2_lib.course.notebook_files import QUIET_KERNEL, find, normalise, tags

CLOCK = re.compile(r"\d[\d,]*(\.\d+)?(e[-+]?\d+)?\s?(ns|us|µs|ms|s|min|h|it/s|tok/s|tokens/s|[kMG]i?B)(?!\w)"
                   r"|\d+:\d\d(:\d\d)?|[▏▎▍▌▋▊▉█ ]{2,}")


def without_clock(cell: nbformat.NotebookNode) -> list:
    """The outputs of a cell with every time, rate, size and progress bar masked; pictures count as they are."""
    shown = []
    for output in cell.outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        shown.append((output.output_type, CLOCK.sub("#", text), output.get("data", {}).get("image/png")))
    return shown


def keep_stable_outputs(new: nbformat.NotebookNode, old: nbformat.NotebookNode) -> None:
    """Put the stored outputs of ignored cells back where nothing but the clock has changed."""
    stored = {c.id: c for c in old.cells if c.cell_type == "code"}
    for cell in new.cells:
        before = stored.get(cell.id)
        if "nbval-ignore-output" not in tags(cell) or before is None or before.source != cell.source or not before.outputs:
            continue
        if "timing" in tags(cell) or without_clock(before) == without_clock(cell):
            cell.outputs = before.outputs


def refreshed(path: Path, timeout: int) -> str:
    """The text of `path` after a clean run in a fresh kernel. Raises nbclient's CellExecutionError naming the cell."""
    nb = normalise(nbformat.read(path, as_version=4))
    old = nbformat.from_dict(nb)
    NotebookClient(nb, timeout=timeout, kernel_name="python3", record_timing=False, coalesce_streams=True,
                   extra_arguments=QUIET_KERNEL, resources={"metadata": {"path": str(path.parent)}}).execute()
    normalise(nb)
    keep_stable_outputs(nb, old)
    nbformat.validate(nb)
    return nbformat.writes(nb) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether a run would change a file")
    parser.add_argument("--timeout", type=int, default=900, help="seconds one cell may take")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    args = parser.parse_args()
    stale = []
    for path in args.notebooks or find():
        began, before = time.perf_counter(), path.read_text(encoding="utf-8")
        after = refreshed(path, args.timeout)
        changed = after != before
        if changed and not args.check:
            path.write_text(after, encoding="utf-8", newline="\n")
        stale += [str(path)] * changed
        word = ("stale" if args.check else "written") if changed else "unchanged"
        seconds, size = time.perf_counter() - began, len(after.encode()) // 1024
        print(f"{path.stem:36s} {word:9s} {seconds:6.1f} s  {size:4d} KiB", flush=True)
    if args.check and stale:
        print("stale: " + ", ".join(stale) + "; run `make notebooks`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
