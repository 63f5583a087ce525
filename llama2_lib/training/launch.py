"""Many processes from within one: a function run on each of a group of this machine's processes, as torchrun would start it.

For lessons, tests and studies; a real run is started by torchrun, on one node or on many. The processes are new ones, each
with one thread, so that a notebook's own process stays alone. Left out: several machines, GPUs, restarts.
"""
from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama2_lib.config import require

LIBRARY = Path(__file__).parents[2]


def together(processes: int, function: Callable[..., Any], *arguments: object) -> list[Any]:
    """What `function(*arguments)` gave on each of `processes` new processes that form one group, in order of rank.

    The function stands in a module, arguments and results are plain JSON types. One process forms no group. RuntimeError
    with the end of what a process said if it failed; then the others are stopped.
    """
    require(processes >= 1, f"at least one process is needed, got {processes}")
    job = [sys.executable, "-m", __name__, function.__module__, function.__name__, json.dumps(arguments)]
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(rank) for rank in range(processes)]
        port = free_port()
        started = []
        for rank, place in enumerate(places):
            with place.with_suffix(".log").open("w") as log:
                started.append(subprocess.Popen([*job, str(place)], env=_environment(rank, processes, port), stdout=log,
                                                stderr=log))
        _wait(started, [place.with_suffix(".log") for place in places])
        return [json.loads(place.read_text()) for place in places]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells a process, and where the library and this program's own modules lie."""
    paths = os.pathsep.join([str(LIBRARY), *filter(None, sys.path)])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    if processes > 1:
        env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port)}
    return env


def _wait(started: list[subprocess.Popen], logs: list[Path]) -> None:
    """Return when all have ended well; stop the others as soon as one has not, since they would wait for it."""
    try:
        while None in (codes := [process.poll() for process in started]):
            if any(codes):
                break
            time.sleep(0.02)
        for rank, (code, log) in enumerate(zip(codes, logs, strict=True)):
            if code:
                raise RuntimeError(f"process {rank} of {len(started)} ended with {code}:\n{log.read_text()[-2000:]}")
    finally:
        for process in started:
            process.kill()
            process.wait()


def main(module: str, name: str, arguments: str, place: str) -> None:
    """One process of `together`: run the function and leave its result in a file."""
    from llama2_lib.training import distributed
    distributed.start()
    result = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    Path(place).write_text(json.dumps(result))
    distributed.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
