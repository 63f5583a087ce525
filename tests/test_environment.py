"""pyproject.toml, constraints.txt and environment.yml stay in step, and the environment check sees what is wrong."""
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from llama2_lib.course import ROOT, environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(r) for r in PROJECT["dependencies"]]
DEV = [Requirement(r) for r in PROJECT["optional-dependencies"]["dev"]]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PINS = [Requirement(line) for line in CONSTRAINTS.splitlines() if line and line[0] != "#"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PIP_LINES = next(d["pip"] for d in CONDA["dependencies"] if isinstance(d, dict))


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_environment_yml_names_every_package_of_pyproject_with_its_range():
    named = {normal(r.name): str(r.specifier) for r in map(Requirement, PIP_LINES[1:-1])}
    wanted = {normal(r.name): str(r.specifier) for r in CORE + DEV}
    assert named == wanted


def test_environment_yml_uses_the_constraints_and_installs_the_course():
    assert PIP_LINES[0] == "-c constraints.txt" and PIP_LINES[-1] == "-e .[dev]"
    assert "python=" + PROJECT["requires-python"].removeprefix(">=") in CONDA["dependencies"]


@pytest.mark.parametrize("want", CORE + DEV, ids=lambda r: r.name)
def test_every_dependency_is_pinned_within_its_range(want):
    pins = [p for p in PINS if normal(p.name) == normal(want.name)]
    assert pins, f"{want.name} is not in constraints.txt: generate it again (CONTRIBUTING.md)"
    for pin in pins:
        (version,) = pin.specifier
        assert version.operator == "==" and "+" not in version.version and want.specifier.contains(version.version)


def test_constraints_hold_pins_alone_and_name_no_registry():
    assert not re.search(r"https?://|--index|--find-links|@ ", CONSTRAINTS)
    assert all(len(p.specifier) == 1 for p in PINS)


def test_the_supported_pythons_begin_where_requires_python_does():
    listed = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert listed == sorted(listed, key=Version) and f">={listed[0]}" == PROJECT["requires-python"]
    assert tuple(map(int, listed[0].split("."))) == environment.MIN_PYTHON


def test_no_file_that_installs_names_a_registry():
    for name in ("make.py", "Makefile", "environment.yml", "pyproject.toml", ".ci/run", ".github/workflows/ci.yml"):
        assert not re.search(r"pypi|pythonhosted|download\.pytorch|anaconda\.(org|com)",
                             (ROOT / name).read_text(encoding="utf-8")), f"{name} names a registry host"


# ---------------------------------------------------------------------------------------------------- check_environment

REQUIRED = [Requirement("torch>=2.6"), Requirement("import_linter>=2")]


@pytest.mark.parametrize("installed, count, message", [
    ({"torch": "2.13.0+cpu", "import-linter": "2.1"}, 0, ""),
    ({"torch": "2.5.1", "import-linter": "2.1"}, 1, "torch 2.5.1 does not fit >=2.6"),
    ({"import-linter": "2.1"}, 1, "torch is missing"),
    ({}, 2, "import_linter is missing")])
def test_missing_and_old_packages_are_problems_with_a_cure(installed, count, message):
    problems = environment.package_problems(installed, REQUIRED)
    assert len(problems) == count and message in " ".join(problems)
    assert all("make env" in p for p in problems)


def test_another_version_than_the_tested_one_is_a_note():
    tested = {"torch": ["2.13.0"], "import-linter": ["2.1"]}
    assert environment.untested({"torch": "2.13.0+cpu", "import-linter": "2.1"}, REQUIRED, tested) == []
    assert environment.untested({"torch": "2.11.0", "import-linter": "2.1"}, REQUIRED, tested) == [
        "torch 2.11.0 (tested with 2.13.0)"]


def test_too_little_memory_or_disk_is_a_problem_with_a_cure():
    assert environment.machine_problems(4.0, 4.0, "toy") == []
    (memory,) = environment.machine_problems(1.0, 4.0, "toy")
    assert "1.0 GiB of memory, preset toy needs 2" in memory and "close" in memory
    (disk,) = environment.machine_problems(4.0, 0.2, "toy")
    assert "0.2 GiB free" in disk and "workdir" in disk
    assert len(environment.machine_problems(4.0, 4.0, "small")) == 2


def test_every_preset_says_what_it_needs():
    from llama2_lib.config import PRESETS
    assert list(environment.NEEDS) == list(PRESETS)


def test_this_environment_is_ready(capsys):
    assert environment.check_environment() == []
    assert "torch" in capsys.readouterr().out


def test_the_packages_of_this_environment_are_consistent():
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
