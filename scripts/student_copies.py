"""Write copies of the notebooks without the solutions and the outputs to build/student/: `make student`."""
from __future__ import annotations

import sys
from pathlib import Path

import nbformat

from llama2_lib.course import ROOT
from llama2_lib.course.notebook_files import find, without_solutions


def main(paths: list[Path]) -> int:
    folder = ROOT / "build" / "student"
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths or find():
        copy = without_solutions(nbformat.read(path, as_version=4))
        (folder / path.name).write_text(nbformat.writes(copy) + "\n", encoding="utf-8")
        print(folder / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main([Path(p) for p in sys.argv[1:]]))
