"""Every model of the course, built before the notebooks need them: python -m llama2_lib.course.models --preset toy --seed 0

The stages of `stages.road` in as many processes as pay here: one for each GPU, else two on a processor with two cores. There
two processes of a thread each sample faster than one process of two, and one process of two threads trains faster than two
processes. What is there already is left alone. The notebooks build what they miss themselves, each in its one process: by
the same recipe, with other rounding.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys

import torch

from llama2_lib.config import PRESETS
from llama2_lib.course import ROOT


def processes() -> int:
    """How many train together: as many as there are GPUs, else two where there are cores for them (gloo needs POSIX)."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return 2 if os.name == "posix" and (os.cpu_count() or 1) >= 2 else 1


def command(preset: str, seed: int, count: int) -> list[str]:
    """The command that builds all stages in `count` processes; on a processor all sample, and the first trains."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"] if count > 1 else []
    apart = [] if count == 1 or torch.cuda.is_available() else ["runtime.parallel.together=false"]
    return [sys.executable, "-m", *torchrun, "llama2_lib", "all", preset, f"seed={seed}", *apart]


def build(preset: str, seed: int) -> int:
    """Build what is missing; the exit status."""
    count = processes()
    env = {**os.environ, "OMP_NUM_THREADS": "1"} if count > 1 else None
    return subprocess.call(command(preset, seed, count), cwd=ROOT, env=env)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="toy", choices=list(PRESETS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    return build(args.preset, args.seed)


if __name__ == "__main__":
    sys.exit(main())
