"""`make claims`: run the studies that are missing, seed by seed, and write whole ones to data/claims.json.

It can be stopped at any point and started again; finished seeds are read from runs/claims/. Several may run side by side
(`make claims SEEDS=0-1` and `make claims SEEDS=2-4`): a seed that another process is running is passed over.
"""
from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence

from filelock import FileLock, Timeout
from tqdm import tqdm

from llama2_lib.config import PRESETS, require
from llama2_lib.course import claims, studies  # noqa: F401  (studies fills claims.STUDIES)
from llama2_lib.course.claims import RAW, STUDIES, Study


def chosen_claims(words: str) -> list[Study]:
    """The studies that "C05 C06" or "C05,C06" names, in order; all when it is empty. ValueError for an unknown one."""
    names = words.replace(",", " ").split() or sorted(STUDIES)
    for name in names:
        require(name in STUDIES, f"there is no study of {name!r}; there are {', '.join(sorted(STUDIES))}")
    return [STUDIES[name] for name in names]


def chosen_seeds(words: str) -> tuple[int, ...] | None:
    """The seeds that "0-4", "0,2" or "3" names; None (every seed of each study) when it is empty."""
    seeds: list[int] = []
    for part in words.replace(",", " ").split():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        require(match is not None, f"seeds are written 0-4 or 0,2,3, got {part!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        require(first <= last, f"the seeds {part!r} run backwards")
        seeds += range(first, last + 1)
    return tuple(dict.fromkeys(seeds)) or None


def expected_seconds(s: Study, preset: str) -> float:
    """Seconds a seed of `s` took before on this machine; a minute when none ran yet."""
    done = [r["seconds"] for seed in s.seeds if (r := claims.read_raw(s, seed, preset))]
    return sum(done) / len(done) if done else 60.0


def run_one(s: Study, seed: int, preset: str) -> str:
    """Run one seed unless its result is there or another process is at it; returns what happened in a word."""
    path = claims.raw_path(s.id, seed, preset)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")
    try:
        with lock.acquire(timeout=0):
            if claims.read_raw(s, seed, preset):
                return "there"
            claims.run_seed(s, seed, preset)
            return "done"
    except Timeout:
        return "running elsewhere"


def record_if_whole(s: Study, preset: str) -> str:
    """Write the ledger's row when every seed of the study is there; returns the verdict or what is missing."""
    records = [claims.read_raw(s, seed, preset) for seed in s.seeds]
    missing = [str(seed) for seed, r in zip(s.seeds, records, strict=True) if r is None]
    if missing:
        return f"seeds {', '.join(missing)} are missing"
    new = claims.row(s, records)
    claims.write_ledger(new)
    return new["verdict"]


def run(todo: Sequence[Study], seeds: Sequence[int] | None, preset: str) -> dict[str, str]:
    """Run what is missing of `todo` and record whole studies. Returns what failed: "C05, seed 3" -> the error."""
    jobs = [(s, seed) for s in todo for seed in s.seeds if seeds is None or seed in seeds]
    open_jobs = [(s, seed) for s, seed in jobs if not claims.read_raw(s, seed, preset)]
    left = sum(expected_seconds(s, preset) for s, _ in open_jobs)
    failed: dict[str, str] = {}
    print(f"{len(todo)} studies, {len(open_jobs)} of {len(jobs)} seeds to run, about {left / 60:.0f} min", flush=True)
    bar = tqdm(open_jobs, unit="seed", disable=not sys.stderr.isatty())
    for s, seed in bar:
        bar.set_description(f"{s.id} seed {seed}")
        began = time.monotonic()
        try:
            word = run_one(s, seed, preset)
        except Exception as error:             # one study that fails must not cost the night of the others
            word = failed[f"{s.id}, seed {seed}"] = f"{type(error).__name__}: {error}"
        bar.write(f"{s.id} seed {seed}: {word} ({time.monotonic() - began:.0f} s)", file=sys.stdout)
        sys.stdout.flush()
    print()
    for s in todo:
        print(f"{s.id}  {record_if_whole(s, preset):24s}  {s.sentence}", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make claims", description=__doc__.splitlines()[0])
    parser.add_argument("--claims", default="", help='such as "C05 C06"; default: all')
    parser.add_argument("--seeds", default="", help="such as 0-4; default: every seed of each study")
    parser.add_argument("--preset", default="toy", choices=list(PRESETS))
    args = parser.parse_args(arguments)
    try:
        todo, seeds = chosen_claims(args.claims), chosen_seeds(args.seeds)
    except ValueError as problem:
        parser.error(str(problem))
    try:
        failed = run(todo, seeds, args.preset)
    except KeyboardInterrupt:
        print(f"\nstopped; finished seeds are kept in {RAW}, the same command goes on from there")
        return 130
    for job, error in failed.items():
        print(f"✗ {job}: {error}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
