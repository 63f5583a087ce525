"""The claims ledger: what the paper claims, what five seeds of the small world say, and a verdict from the interval.

A study is a function of one seed that returns numbers; the package `studies` binds one to each claim with `@study`.
`make claims` runs them: hours in all, so each seed's raw result is stored at once under runs/claims/ and never run again,
and a claim is written to data/claims.json only when all its seeds are there. `show_claim` puts the record into a notebook.

Intervals are Student's t at 95% over seeds. A criterion is settled by its interval alone: "reproduced" when the whole
interval lies on the claimed side of the bound, "reversed" when it lies on the other side, "not reproduced" between.
"""
from __future__ import annotations

import datetime
import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama2_lib.config import PRESETS, require
from llama2_lib.course import ROOT
from llama2_lib.training.checkpoint import fingerprint

LEDGER = ROOT / "data" / "claims.json"
RAW = ROOT / "runs" / "claims"
SEEDS = (0, 1, 2, 3, 4)
SIDES = ("above", "below", "exactly", "mean at least")
# Student's t, 97.5%, for 1 … 30 degrees of freedom
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


@dataclass(frozen=True)
class Criterion:
    """What must hold of one number for the claim to hold: `metric` above, below or exactly at `bound`.

    `exactly` is for arithmetic (parameter counts), which has no spread. `mean at least` is for the course's own bars
    (B01 …), which ask for a mean over seeds and not for an interval.
    """
    metric: str
    side: str
    bound: float = 0.0
    words: str = ""

    def __post_init__(self) -> None:
        require(self.side in SIDES, f"a criterion is {', '.join(SIDES)}, got {self.side!r}")


@dataclass(frozen=True)
class Study:
    """One claim of the paper and how it is tested."""
    id: str
    place: str
    sentence: str
    criteria: tuple[Criterion, ...]
    notebook: str
    symbol: str
    run: Callable[[int, str], Mapping[str, float]]
    seeds: tuple[int, ...] = SEEDS
    version: int = 1              # count up when the study changes its meaning: old raw results are then run again, as
                                  # they are when the preset gets other values


STUDIES: dict[str, Study] = {}


def study(claim: str, **fields) -> Callable:
    """Register a function (seed, preset) -> numbers as the study of `claim`; fields are those of Study."""
    def register(run: Callable[[int, str], Mapping[str, float]]) -> Callable:
        require(claim not in STUDIES, f"the claim {claim} has two studies")
        STUDIES[claim] = Study(id=claim, run=run, **fields)
        return run
    return register


# --------------------------------------------------------------------------------------------------------------- verdicts

def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's t interval at 95% for the mean; (−inf, inf) for a single value, which says nothing about spread."""
    n = len(values)
    require(n >= 1, "an interval needs at least one value")
    if n == 1:
        return -math.inf, math.inf
    t = T975[n - 2] if n - 1 <= len(T975) else 1.96 + 2.4 / (n - 1)
    half = t * statistics.stdev(values) / math.sqrt(n)
    mean = statistics.fmean(values)
    return mean - half, mean + half


def judge(criterion: Criterion, values: Sequence[float]) -> str:
    """The verdict of one criterion from its values over seeds."""
    if criterion.side == "exactly":
        return "reproduced" if all(v == criterion.bound for v in values) else "not reproduced"
    if criterion.side == "mean at least":
        return "reproduced" if statistics.fmean(values) >= criterion.bound else "not reproduced"
    low, high = interval(values)
    sign = 1 if criterion.side == "above" else -1
    low, high = sorted((sign * (low - criterion.bound), sign * (high - criterion.bound)))
    return "reproduced" if low > 0 else "reversed" if high < 0 else "not reproduced"


def overall(verdicts: Sequence[str]) -> str:
    """A claim is reproduced when every criterion is, reversed when one is, else not reproduced."""
    if "reversed" in verdicts:
        return "reversed"
    return "reproduced" if all(v == "reproduced" for v in verdicts) else "not reproduced"


# ----------------------------------------------------------------------------------------------------------------- ledger

def code_version() -> str:
    """The commit of the checkout, with + when files of the library differ from it; "unknown" without git."""
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""
    try:
        commit = git("rev-parse", "--short=10", "HEAD")
        return commit + "+" * bool(git("status", "--porcelain", "--", "llama2_lib", "data/world")) if commit else "unknown"
    except FileNotFoundError:
        return "unknown"


def raw_path(claim: str, seed: int, preset: str, folder: Path = RAW) -> Path:
    return folder / preset / f"{claim}-seed{seed}.json"


def read_raw(s: Study, seed: int, preset: str, folder: Path = RAW) -> dict | None:
    """The stored result of one seed; None when it was never run, or by another version of the study, or when the preset had
    other values."""
    path = raw_path(s.id, seed, preset, folder)
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return record if (record["version"], record.get("recipe")) == (s.version, _recipe_key(preset)) else None


def _recipe_key(preset: str) -> str:
    return fingerprint(PRESETS[preset]())


def run_seed(s: Study, seed: int, preset: str, folder: Path = RAW) -> dict:
    """Run one seed of a study and store its raw result. Raises ValueError when a number is missing or not finite."""
    began = time.monotonic()
    values = {name: float(v) for name, v in s.run(seed, preset).items()}
    for criterion in s.criteria:
        require(criterion.metric in values, f"{s.id}: the study returns no {criterion.metric!r}, only {', '.join(values)}")
    for name, v in values.items():
        require(math.isfinite(v), f"{s.id}, seed {seed}: {name} is {v}")
    record = {"claim": s.id, "version": s.version, "recipe": _recipe_key(preset), "seed": seed, "preset": preset,
              "values": values, "seconds": round(time.monotonic() - began, 1), "code": code_version(),
              "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    path = raw_path(s.id, seed, preset, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return record


def _round(x: float) -> float | None:
    return None if not math.isfinite(x) else float(f"{x:.6g}") if abs(x) < 1e6 else x


def row(s: Study, records: Sequence[dict]) -> dict:
    """The ledger's row of a whole study: everything is computed from the records of its seeds."""
    names = list(records[0]["values"])
    values = {name: [_round(r["values"][name]) for r in records] for name in names}
    criteria = []
    for c in s.criteria:
        exact = [r["values"][c.metric] for r in records]
        criteria.append({"metric": c.metric, "side": c.side, "bound": c.bound, "words": c.words,
                         "mean": _round(statistics.fmean(exact)), "interval": [_round(x) for x in interval(exact)],
                         "verdict": judge(c, exact)})
    seeds = [r["seed"] for r in records]
    return {"id": s.id, "place": s.place, "sentence": s.sentence, "verdict": overall([c["verdict"] for c in criteria]),
            "criteria": criteria, "seeds": seeds, "values": values, "interval_kind": "Student's t, 95%, over seeds",
            "notebook": s.notebook, "symbol": s.symbol, "preset": records[0]["preset"], "version": s.version,
            "command": f"make claims CLAIMS={s.id} SEEDS={','.join(map(str, seeds))} PRESET={records[0]['preset']}",
            "date": max(r["date"] for r in records), "code": sorted({r["code"] for r in records}),
            "seconds": round(sum(r["seconds"] for r in records), 1)}


def read_ledger(path: Path = LEDGER) -> dict[str, dict]:
    """Rows by claim; empty when nothing was recorded yet."""
    if not path.exists():
        return {}
    return {r["id"]: r for r in json.loads(path.read_text(encoding="utf-8"))["claims"]}


def write_ledger(new: dict, path: Path = LEDGER) -> None:
    """Put one row into the ledger, in the order of ids; the file is replaced whole."""
    rows = read_ledger(path) | {new["id"]: new}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"claims": [rows[k] for k in sorted(rows)]}, indent=1, ensure_ascii=False) + "\n"
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


# ---------------------------------------------------------------------------------------------------------------- display

def number(x: float | None) -> str:
    """Four digits that count, whole numbers whole."""
    if x is None:
        return "–"
    return f"{x:,.0f}" if float(x).is_integer() and abs(x) >= 1000 else f"{x:.4g}"


def measured(c: Mapping) -> str:
    """One criterion's mean and interval in words: "0.0310 (0.0215 … 0.0405)", to two digits of the half-width, or
    "2.7e-07 (1.1e-07 … 4.3e-07)"; to three where an end would be rounded to 0, since its sign decides."""
    low, high = c["interval"]
    if low is None or low == high:
        return number(c["mean"])
    decimals = max(0, 1 - math.floor(math.log10((high - low) / 2)))
    decimals += any(end and not round(end, decimals) for end in (low, high))
    form = f".{decimals}f" if decimals <= 6 else ".1e"
    return f"{c['mean']:{form}} ({low:{form}} … {high:{form}})"


def show_claim(claim: str, path: Path = LEDGER) -> None:
    """Print what data/claims.json holds on `claim`, seed by seed; say so plainly when there is no record yet."""
    from llama2_lib.course import studies  # noqa: F401  (fills STUDIES)
    from llama2_lib.course.plots import table
    require(claim in STUDIES, f"there is no study of {claim}; there are {', '.join(sorted(STUDIES))}")
    s, r = STUDIES[claim], read_ledger(path).get(claim)
    print(f"{claim} ({s.place}): {s.sentence}")
    if r is None:
        print(f"No record yet: `make claims CLAIMS={claim}` runs the study over seeds {s.seeds[0]} to {s.seeds[-1]}.")
        return
    seeds = f"{len(r['seeds'])} seeds" if len(r["seeds"]) > 1 else "arithmetic, no seeds"
    print(f"{r['verdict'].upper()}   preset {r['preset']}, {seeds}, recorded {r['date']}\n")
    for c in r["criteria"]:
        print(f"{c['words'] or c['metric']} {c['side']} {number(c['bound'])}: {measured(c)}: {c['verdict']}")
    print()
    if len(r["seeds"]) == 1:
        table([[name, number(*values)] for name, values in r["values"].items()], ["number", "value"])
    else:
        table([[name, *map(number, values), number(statistics.fmean(values))] for name, values in r["values"].items()],
              ["number", *(f"seed {n}" for n in r["seeds"]), "mean"])
