"""The commands of the course, from a bare Python: `python make.py help` lists them; the Makefile calls this file.

It uses the standard library alone, makes the environment in .venv when it is missing or older than pyproject.toml and
constraints.txt, and runs everything else with that environment's Python. Old Pythons must be able to read this file far
enough to be told which one is needed.
"""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
NEWEST, OLDEST = 14, 11       # Python 3.x
HELP = """\
python make.py COMMAND [NAME=value …]        or: make COMMAND [NAME=value …]

  course      make the environment, run every notebook, write pages and an index to build/course/
              PRESET=toy SEED=0 NOTEBOOKS="03 04"
  test        ruff, import-linter, pytest, then every notebook again with its stored outputs compared (nbval)
              NOTEBOOKS="03" TESTS=tests/test_config.py
  lab         open the notebooks in JupyterLab
  notebooks   execute the notebooks and store their outputs (for authors); CHECK=1 only names stale ones; NOTEBOOKS="03"
  claims      run the studies over seeds and record them in data/claims.json: hours; stops and resumes at any point
              CLAIMS="C05 C06" SEEDS=0-4
  bench       the speed tables of benchmarks/; on a GPU: python benchmarks/gpu.py
  student     copies of the notebooks without the solutions, in build/student/
  browser     run a notebook in a real JupyterLab in Chromium (needs node and chromium); NOTEBOOKS=01
  env         only make the environment
  clean       delete build/; ALL=1 also deletes .venv/ and runs/ (the trained models)

ENV=here uses the Python that runs this file as it is (a conda environment made from environment.yml) and installs nothing.
"""
OPTIONS = ("PRESET", "SEED", "NOTEBOOKS", "CLAIMS", "SEEDS", "TESTS", "CHECK", "ENV", "ALL")


def stop(message):
    sys.exit("make.py: " + message)


def find_python():
    """This Python if it is new enough, else run this file again with a newer one on the PATH."""
    if sys.version_info[:2] >= (3, OLDEST):
        return
    for minor in range(NEWEST, OLDEST - 1, -1):
        other = shutil.which(f"python3.{minor}")
        if other:
            sys.exit(subprocess.call([other, str(Path(__file__).resolve())] + sys.argv[1:]))
    stop(f"Python 3.{OLDEST} or newer is needed, this is {sys.version.split()[0]}; "
         "install one from your system or conda and try again")


# ------------------------------------------------------------------------------------------------------- the environment

def venv_python():
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def wanted():
    """What the environment was made for: the two files it is made from, and this Python."""
    text = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(text).hexdigest() + f" {sys.version_info[0]}.{sys.version_info[1]}"


def step(title, command, must=True):
    """Run `command` quietly with a running clock; show the end of what it said only when it fails and `must`."""
    log = ROOT / "build" / "environment.log"
    log.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    with open(str(log), "ab") as out:
        start = out.tell()
        process = subprocess.Popen([str(c) for c in command], cwd=str(ROOT), stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(0.2)
            if sys.stdout.isatty():
                print(f"\r  {title:52s} {time.monotonic() - began:4.0f} s", end="", flush=True)
    ok = process.returncode == 0
    verdict = "" if ok else "  failed" if must else "  not there"
    print(("\r" if sys.stdout.isatty() else "") + f"  {title:52s} {time.monotonic() - began:4.0f} s{verdict}", flush=True)
    if not ok and must:
        said = log.read_bytes()[start:].decode("utf-8", "replace").splitlines()
        print("\n".join(said[-30:]))
        stop(f"{title} failed: {' '.join(map(str, command))} (the whole log is {log})")
    return ok


def install_torch(python):
    """torch first: the wheel pip is configured with, if any; else the build that fits this machine (CPU, CUDA or Metal).

    A plain `pip install torch` on Linux brings gigabytes of CUDA to machines without a GPU, so it comes last.
    """
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq", "-c", "constraints.txt"]
    if step("torch, from the wheels pip knows", pip + ["--no-index", "--no-deps", "torch"], must=False):
        return
    uv = [python, "-m", "uv", "pip", "install", "-q", "--python", python, "-c", "constraints.txt"]
    if (step("uv, which picks torch's build for this machine", pip + ["uv"], must=False)
            and step("torch, the build for this machine", uv + ["--torch-backend=auto", "torch"], must=False)):
        return
    step("torch, from pip's index", pip + ["torch"])


def environment(options):
    """The Python of the course's environment, made or brought up to date first. Returns its path."""
    if options.get("ENV") == "here":
        return Path(sys.executable)
    stamp, python = VENV / ".ready", venv_python()
    if stamp.exists() and stamp.read_text() == wanted() and python.exists():
        return python
    print(f"Making the environment in {VENV.name} (once; a few minutes)", flush=True)
    if not python.exists():
        step("a virtual environment", [sys.executable, "-m", "venv", VENV])
    install_torch(python)
    step("the course and its tools", [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq",
                                      "-c", "constraints.txt", "-e", ".[dev]"])
    stamp.write_text(wanted())
    return python


# ---------------------------------------------------------------------------------------------------------- the commands

def call(python, *arguments, env=None):
    """Run the environment's Python in the checkout, its output passed through. Returns the exit status.

    GOMP_SPINCOUNT: see llama2_lib/__init__.py; kernels may import torch before they import the library.
    """
    settings = dict({"GOMP_SPINCOUNT": "10000"}, **os.environ)
    return subprocess.call([str(python)] + [str(a) for a in arguments], cwd=str(ROOT),
                           env=dict(settings, PYTHONUTF8="1", **(env or {})))


def chosen(options):
    """The notebooks that NOTEBOOKS="03 04" names, in order; all of them when it names none."""
    words = options.get("NOTEBOOKS", "").replace(",", " ").split()
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for word in words:
        if not any(p.stem.startswith(word) for p in paths):
            stop(f"no notebook begins with {word!r}; there are {', '.join(p.stem for p in paths)}")
    return [p for p in paths if not words or any(p.stem.startswith(w) for w in words)]


def runner_options(options):
    pairs = (("--preset", "PRESET"), ("--seed", "SEED"), ("--notebooks", "NOTEBOOKS"))
    return [part for flag, name in pairs if options.get(name) for part in (flag, options[name])]


def course(python, options):
    return call(python, "-m", "llama2_lib.course.runner", *runner_options(options))


def test(python, options):
    """Every check in turn, the failed ones named at the end. One thread a process: two run side by side."""
    one = {"OMP_NUM_THREADS": "1", "LLAMA2_FIGURES": str(ROOT / "build" / "test" / "figures")}
    pytest = ("-m", "pytest", "-q", "-n", "2", "--dist", "loadscope")
    nbval = ("--no-loadscope-reorder", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=1200",
             "--nbval-sanitize-with=tests/nbval_sanitize.cfg")
    # the longest first, so that none is left over at the end
    seconds = json.loads((ROOT / "data" / "course_seconds.json").read_text())["toy"]
    notebooks = sorted((p.relative_to(ROOT) for p in chosen(options)), key=lambda p: -seconds.get(p.stem, 0))
    lint = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    steps = [
        ("environment", lambda: call(python, "-m", "llama2_lib.course.environment")),
        ("ruff", lambda: call(python, "-m", "ruff", "check", ".")),
        ("import-linter", lambda: call(python, "-c", lint)),
        ("models", lambda: call(python, "-m", "llama2_lib.course.models")),
        ("pytest", lambda: call(python, *pytest, *options.get("TESTS", "tests").split(), env=one)),
        ("nbval", lambda: call(python, *pytest, *nbval, *notebooks, env=one)),
    ]
    results = []
    for name, run in steps:
        print(f"\n── {name}", flush=True)
        began = time.monotonic()
        results.append((name, run() == 0, time.monotonic() - began))
    print()
    for name, ok, seconds in results:
        print(f"{'✓' if ok else '✗'} {name:14s} {seconds:6.1f} s")
    print(f"  {'in all':14s} {sum(r[2] for r in results):6.1f} s", flush=True)
    return 0 if all(ok for _, ok, _ in results) else 1


def lab(python, options):
    settings = Path(sys.prefix if options.get("ENV") == "here" else VENV) / "share" / "jupyter" / "lab" / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    shutil.copy(str(ROOT / "lab_settings" / "overrides.json"), str(settings))
    return call(python, "-m", "jupyterlab", "notebooks")


def notebooks(python, options):
    flags = ["--check"] if options.get("CHECK") else []
    return call(python, "scripts/refresh_notebooks.py", *flags, *chosen(options), env={"OMP_NUM_THREADS": "1"})


def claims(python, options):
    pairs = (("--claims", "CLAIMS"), ("--seeds", "SEEDS"), ("--preset", "PRESET"))
    flags = [part for flag, name in pairs if options.get(name) for part in (flag, options[name])]
    return call(python, "-m", "llama2_lib.course.run_claims", *flags) or call(python, "scripts/render_claims.py")


def bench(python, options):
    paths = sorted(p for p in (ROOT / "benchmarks").glob("[a-z]*.py") if p.stem != "gpu")      # that one needs a GPU
    return max([0] + [call(python, path) for path in paths])


def student(python, options):
    return call(python, "scripts/student_copies.py", *chosen(options))


def browser(python, options):
    return call(python, "scripts/browser_check.py", *chosen(options))


def clean(python, options):
    doomed = ["build", ".hypothesis", ".ruff_cache", ".import_linter_cache"] + [".venv", "runs"] * bool(options.get("ALL"))
    for name in doomed:
        shutil.rmtree(str(ROOT / name), ignore_errors=True)
    print("deleted " + ", ".join(name + "/" for name in doomed))
    return 0


COMMANDS = {f.__name__: f for f in (course, test, lab, notebooks, claims, bench, student, browser)}


def main(arguments):
    find_python()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")      # a Windows console may know no ✓
    command = arguments[0] if arguments else "help"
    options = dict(a.split("=", 1) for a in arguments[1:] if "=" in a)
    wrong = [a for a in arguments[1:] if "=" not in a] + [name for name in options if name not in OPTIONS]
    if wrong:
        stop(f"{wrong[0]!r} is no option; there are {' '.join(OPTIONS)}, each as NAME=value")
    if command in ("help", "-h", "--help"):
        print(HELP, end="")
        return 0
    if command == "clean":
        return clean(None, options)
    if command not in COMMANDS and command != "env":
        stop(f"{command!r} is no command; there are {' '.join(COMMANDS)} env clean help")
    python = environment(options)
    return COMMANDS[command](python, options) if command != "env" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
