"""The files that tools read: valid against their schemas, and agreeing with each other."""
import importlib.util
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from llama2_lib.course import ROOT


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def load_make():
    spec = importlib.util.spec_from_file_location("make", ROOT / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_make()
PROJECT = tomllib.loads(read("pyproject.toml"))
PYTHONS = [c.rsplit(" ", 1)[1] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]


def check_schema(path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_workflow_keeps_githubs_schema():
    done = check_schema(ROOT / ".github" / "workflows" / "ci.yml")
    assert done.returncode == 0, done.stdout


def test_the_schema_check_can_fail(tmp_path):
    bad = tmp_path / "ci.yml"
    bad.write_text(read(".github/workflows/ci.yml").replace("runs-on:", "run-on:", 1), encoding="utf-8")
    assert check_schema(bad).returncode != 0


def test_the_workflow_runs_the_test_command_on_three_systems_and_two_pythons():
    job = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["test"]
    assert {name.split("-")[0] for name in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}
    assert job["strategy"]["matrix"]["python"] == [PYTHONS[0], PYTHONS[-1]]
    assert any(step.get("run") == "python make.py test" for step in job["steps"])


def test_pre_commit_hooks_are_whole_and_match_files_that_exist():
    hooks = [h for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for h in repo["hooks"]]
    assert {"ruff", "import-linter", "notebook-policy"} <= {h["id"] for h in hooks}
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True,
                             text=True).stdout.split()
    for hook in hooks:
        assert {"id", "name", "language", "entry"} <= set(hook)
        for path in re.findall(r"tests/\w+\.py", hook["entry"]):
            assert (ROOT / path).exists()
        if tracked and "files" in hook and "notebooks" not in hook["files"]:
            assert any(re.search(hook["files"], path) for path in tracked), f"{hook['id']} matches no file"


def test_ci_runs_the_readmes_test_command():
    script = read(".ci/run")
    assert script.startswith("#!") and re.search(r"^make test\b", script, re.M)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100 or sys.platform == "win32"
    assert "make test" in read("README.md")


@pytest.mark.parametrize("command", [*make.COMMANDS, "env", "clean"])
def test_every_command_is_in_the_makefile_and_in_the_help(command):
    targets = re.search(r"^COMMANDS := (.+)$", read("Makefile"), re.M).group(1).split()
    assert command in targets
    assert re.search(rf"^  {command}\b", make.HELP, re.M)


def test_the_makefile_passes_on_every_option_and_names_no_other_command():
    text = read("Makefile")
    assert re.search(r"^NAMES\s+:= (.+)$", text, re.M).group(1).split() == list(make.OPTIONS)
    assert set(re.search(r"^COMMANDS := (.+)$", text, re.M).group(1).split()) == {*make.COMMANDS, "env", "clean"}


@pytest.mark.parametrize("arguments, message", [
    (["cours"], "'cours' is no command; there are course test"),
    (["course", "PRESETS=toy"], "'PRESETS' is no option"),
    (["course", "toy"], "'toy' is no option"),
    (["test", "ENV=here", "NOTEBOOKS=99"], "no notebook begins with '99'")])
def test_make_py_refuses_what_it_does_not_know_before_it_works(arguments, message):
    command = [sys.executable, "make.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode != 0 and message in done.stderr


def test_make_py_needs_the_standard_library_alone():
    names = re.findall(r"^(?:import|from) (\w+)", read("make.py"), re.M)
    assert names and set(names) <= sys.stdlib_module_names


def test_the_floors_are_all_named_in_the_layers():
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    folders = {p.name for p in (ROOT / "llama2_lib").iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert folders <= {layer.removeprefix("llama2_lib.") for layer in layers}


def test_every_link_of_the_readme_leads_somewhere():
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", read(name)):
            assert "://" in target or (ROOT / target).exists(), f"{name} links to {target}"
