"""Is this computer ready for the course? `check_environment` says so at the top of notebook 00 and of `make test`.

It prints what it found: Python, packages against the tested versions, processor and the arithmetic it is fastest with,
memory, disk. A problem comes with its cure. A version that is allowed but not the tested one is a note, not a problem.
"""
from __future__ import annotations

import os
import shutil
import sys
import tomllib
from importlib import metadata

from packaging.requirements import Requirement

from llama2_lib.course import ROOT

MIN_PYTHON = (3, 11)
GIB = 2**30
NEEDS = {                     # preset: (memory in GiB, disk in GiB) of the machine, free before the first notebook
    "toy": (2.0, 1.0), "small": (16.0, 20.0), "llama2_7b": (64.0, 200.0),
    "llama2_13b": (64.0, 400.0), "llama2_34b": (128.0, 1000.0), "llama2_70b": (256.0, 2000.0)}


def installed_packages() -> dict[str, str]:
    """Version of every installed distribution by its normal name (lower case, dashes)."""
    return {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions() if d.metadata["Name"]}


def required_packages() -> list[Requirement]:
    """What pyproject.toml asks for at run time (the core, without the developers' tools)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(text) for text in project["dependencies"]]


def tested_versions() -> dict[str, list[str]]:
    """The versions in constraints.txt that hold on this machine, by package."""
    pins: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                pins.setdefault(pin.name.lower().replace("_", "-"), []).extend(s.version for s in pin.specifier)
    return pins


def package_problems(installed: dict[str, str], required: list[Requirement]) -> list[str]:
    """Packages that are missing or outside the range the course works with, each with its cure."""
    problems = []
    for want in required:
        have = installed.get(want.name.lower().replace("_", "-"))
        if have is None:
            problems.append(f"the package {want.name} is missing: run `make env`, or update your conda environment")
        elif not want.specifier.contains(have, prereleases=True):
            problems.append(f"{want.name} {have} does not fit {want.specifier}: run `make env`")
    return problems


def untested(installed: dict[str, str], required: list[Requirement], tested: dict[str, list[str]]) -> list[str]:
    """Required packages whose installed version is not the tested one, as "name have (tested with pin)"."""
    notes = []
    for want in required:
        name = want.name.lower().replace("_", "-")
        have, pins = installed.get(name, ""), tested.get(name, [])
        if have and pins and have.split("+")[0] not in pins:
            notes.append(f"{name} {have} (tested with {', '.join(pins)})")
    return notes


def machine_problems(memory_gib: float, free_gib: float, preset: str) -> list[str]:
    """What this machine lacks for `preset`, each with its cure."""
    need_memory, need_disk = NEEDS[preset]
    problems = []
    if memory_gib < need_memory:
        problems.append(f"{memory_gib:.1f} GiB of memory, preset {preset} needs {need_memory:g}: use preset toy, or close "
                        "other programs")
    if free_gib < need_disk:
        problems.append(f"{free_gib:.1f} GiB free in {ROOT.name}/, preset {preset} needs {need_disk:g}: free some, or give "
                        "the parameter workdir a folder on another disk")
    return problems


def check_environment(preset: str = "toy") -> list[str]:
    """Print what this computer offers and what it lacks for `preset`; return the problems, none when all is well."""
    import psutil
    import torch

    from llama2_lib.training import precision
    installed, required = installed_packages(), required_packages()
    memory, free = psutil.virtual_memory().total / GIB, shutil.disk_usage(ROOT).free / GIB
    problems = package_problems(installed, required) + machine_problems(memory, free, preset)
    if sys.version_info < MIN_PYTHON:
        problems.append(f"Python {sys.version.split()[0]} is too old: install Python 3.11 or newer and run `make env`")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (none is needed for preset toy)"
    for name, value in (
            ("Python", sys.version.split()[0]),
            ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
            ("processor", f"{cores} cores, {torch.backends.cpu.get_cpu_capability()} instructions"),
            ("arithmetic", precision.choose().reason),
            ("GPU", gpu),
            ("memory", f"{memory:.0f} GiB"),
            ("free disk", f"{free:.0f} GiB")):
        print(f"{name:12s} {value}")
    notes = untested(installed, required, tested_versions())
    print(f"{'packages':12s} " + (f"untested versions: {'; '.join(notes)}" if notes else
                                  f"{len(required)} required, all of the tested versions"))
    for problem in problems:
        print(f"✗ {problem}")
    return problems


if __name__ == "__main__":
    sys.exit(1 if check_environment() else 0)
