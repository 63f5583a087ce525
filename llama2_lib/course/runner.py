"""`make course`: run the notebooks in order, show how long it will take, and write pages, an index and a table.

The models come first, where all notebooks are asked for. Each notebook is executed by papermill in a fresh kernel, two at a
time where there are two cores, and written to build/course/ as a notebook and as a page. A failed notebook does not stop the
others; the table and the exit status say which one failed and at which cell.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat

from llama2_lib.config import PRESETS, require
from llama2_lib.course import ROOT, models
from llama2_lib.course.notebook_files import QUIET_KERNEL, count_checks, find, normalise, title_and_claim
from llama2_lib.course.pages import write_index, write_page
from llama2_lib.course.progress import Countdown, expected_seconds, models_take, record_seconds

AT_ONCE = 2        # notebooks: small operators gain little from a second thread, and a second notebook needs a whole core


@dataclass(frozen=True)
class Result:
    """What became of one notebook; `failed_cell` is the id of the cell that raised, `error` the error's first line."""
    name: str
    seconds: float
    cells: int
    checks: int
    title: str = ""
    claim: str = ""
    failed_cell: str = ""
    error: str = ""


def failed_cell(nb: nbformat.NotebookNode) -> tuple[str, str]:
    """(cell id, "Error: message") of the first cell whose output is an error; two empty strings if there is none."""
    for cell in nb.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                return cell.id, f"{output.ename}: {output.evalue}".splitlines()[0]
    return "", ""


def execute(path: Path, out: Path, parameters: dict[str, object], timeout: int = 3600) -> Result:
    """Run one notebook in the working directory; write out/<name>.ipynb and .html, also when a cell fails.

    `timeout` is the seconds a single cell may take. Raises ValueError when the notebook has no parameter of a name given
    (papermill itself would only warn).
    """
    import papermill
    unknown = sorted(set(parameters) - set(papermill.inspect_notebook(str(path))))
    require(not unknown, f"{path.name} has no parameter called {', '.join(unknown)}")
    out.mkdir(parents=True, exist_ok=True)
    target, began, stopped = out / path.name, time.monotonic(), ""
    try:
        papermill.execute_notebook(str(path), str(target), parameters, kernel_name="python3",
                                   progress_bar=False, execution_timeout=timeout, extra_arguments=QUIET_KERNEL)
    except papermill.PapermillExecutionError:
        pass                                    # the written notebook holds the error, its cell and the traceback
    except Exception as problem:                # a kernel that died or a cell that ran out of time: papermill's many kinds
        stopped = f"{type(problem).__name__}: {problem}".splitlines()[0]
    seconds = time.monotonic() - began
    nb = nbformat.read(target, as_version=4)
    started = [c.id for c in nb.cells if c.cell_type == "code" and c.metadata.get("papermill", {}).get("start_time")]
    cell, error = failed_cell(nb)
    if stopped and not error:
        cell, error = started[-1] if started else "none: the kernel did not start", stopped
    normalise(nb)
    nbformat.write(nb, target)
    write_page(nb, target.with_suffix(".html"))
    code = sum(c.cell_type == "code" for c in nb.cells)
    return Result(path.stem, seconds, code, count_checks(nb), *title_and_claim(nb), cell, error)


def print_table(results: list[Result]) -> None:
    """Notebooks, seconds, cells and checks; then what failed, where, and why."""
    print(f"\n{'notebook':34s} {'seconds':>8s} {'cells':>6s} {'checks':>7s}")
    for r in results:
        print(f"{r.name:34s} {r.seconds:8.1f} {r.cells:6d} {r.checks:5d} ✓" + ("  failed" if r.error else ""))
    print(f"{'in all':34s} {sum(r.seconds for r in results):8.1f} {sum(r.cells for r in results):6d} "
          f"{sum(r.checks for r in results):5d} ✓")
    for r in results:
        if r.error:
            print(f"\n✗ {r.name}, cell {r.failed_cell}: {r.error}")


def run(paths: list[Path], out: Path, preset: str, seed: int, terminal: bool, at_once: int = 1) -> list[Result]:
    """Execute `paths`, of one folder, at `preset` and `seed`, and write the index; the results are in order of names.

    at_once: how many at a time; they share the cores evenly, and the longest begin, so that no core waits long at the end.
    """
    paths, out = [path.resolve() for path in paths], out.resolve()
    record = out / "seconds.json"
    os.environ["LLAMA2_FIGURES"] = str(out / "figures")
    if at_once > 1:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // at_once))
    expected = expected_seconds([p.stem for p in paths], record, preset)
    # kernels start in the folder of the notebooks; threads share their working directory, so it changes here, once
    with (contextlib.chdir(paths[0].parent), Countdown(expected, terminal, at_once) as countdown,
          ThreadPoolExecutor(at_once) as pool):
        def one(path: Path) -> Result:
            countdown.start(path.stem)
            result = execute(path, out, {"preset": preset, "seed": seed})
            countdown.finish(path.stem, result.seconds)
            if result.error:
                countdown.say(f"✗ {path.stem}, cell {result.failed_cell}: {result.error}")
            return result
        first = sorted(paths, key=lambda path: -expected[path.stem]) if at_once > 1 else paths
        results = sorted(pool.map(one, first), key=lambda result: result.name)
    record_seconds({r.name: r.seconds for r in results if not r.error}, record, preset)
    write_index(results, out, preset, seed)
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make course", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="toy", choices=list(PRESETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--notebooks", default="", help='such as "03 04"; default: all')
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "course")
    args = parser.parse_args(arguments)
    try:
        paths = find(args.notebooks)
        require(bool(paths), f"there are no notebooks in {ROOT / 'notebooks'}")
    except ValueError as problem:
        parser.error(str(problem))
    began, at_once = time.monotonic(), min(AT_ONCE, os.cpu_count() or 1, len(paths))
    if not args.notebooks:
        print(f"the models first{models_take(args.preset)}", flush=True)
        if models.build(args.preset, args.seed):
            print("✗ the models were not built; the notebooks will try it themselves", file=sys.stderr)
        print(f"models: {time.monotonic() - began:.0f} s\n", flush=True)
    results = run(paths, args.out, args.preset, args.seed, sys.stderr.isatty(), at_once)
    print_table(results)
    print(f"\nfrom start to end: {(time.monotonic() - began) / 60:.1f} minutes")
    print(f"\npages: {args.out / 'index.html'}")
    return int(any(r.error for r in results))


if __name__ == "__main__":
    sys.exit(main())
