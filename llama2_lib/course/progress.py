"""How long `make course` will take: expected seconds of each notebook, and a bar that counts them down.

The estimate is the last run on this machine (build/course/seconds.json), else data/course_seconds.json, which the course's
authors recorded on two cores, else a guess; the pace of the notebooks already done corrects it.
"""
from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from tqdm import tqdm

from llama2_lib.course import ROOT

GUESS = 30.0          # seconds of a notebook that nobody has timed
MODELS = "models"     # what the record calls the building of all models, from nothing
RECORD = ROOT / "data" / "course_seconds.json"


def _read(path: Path) -> dict[str, dict[str, float]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def expected_seconds(names: list[str], here: Path, preset: str) -> dict[str, float]:
    """Seconds each notebook is expected to take at `preset`; `here` is the record of this machine's last run."""
    known = _read(RECORD).get(preset, {}) | _read(here).get(preset, {})
    return {name: float(known.get(name, GUESS)) for name in names}


def models_take(preset: str) -> str:
    """What building the models of `preset` from nothing is expected to take, in words; "" where nobody has timed it."""
    seconds = _read(RECORD).get(preset, {}).get(MODELS)
    return f"; from nothing they take about {seconds / 60:.0f} minutes on two cores" if seconds else ""


def record_seconds(seconds: dict[str, float], here: Path, preset: str) -> None:
    """Add the seconds of notebooks that ran through to this machine's record, for the next estimate."""
    known = _read(here)
    known.setdefault(preset, {}).update({name: round(s, 1) for name, s in seconds.items()})
    here.parent.mkdir(parents=True, exist_ok=True)
    here.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


class Countdown:
    """A bar over the expected seconds of all notebooks; without a terminal, one line a notebook.

    `with Countdown(expected) as c: c.start(name); …; c.finish(name, seconds)`, of at most `at_once` notebooks at a time. A
    thread moves the bar during long cells.
    """

    def __init__(self, expected: dict[str, float], terminal: bool, at_once: int = 1) -> None:
        self.left, self.pace, self.at_once = dict(expected), 1.0, at_once
        self.began: dict[str, float] = {}           # of the notebooks that run now
        self.total = sum(expected.values())
        self.bar = tqdm(total=self.total, disable=not terminal, bar_format="{desc:32} {percentage:3.0f}%|{bar}|{postfix}")
        self.lock, self.over = threading.RLock(), threading.Event()

    def __enter__(self) -> Countdown:
        threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.bar.close()

    def start(self, name: str) -> None:
        with self.lock:
            self.began[name] = time.monotonic()
        self.say(f"{name:32s} {self.words()}") if self.bar.disable else self._draw()

    def finish(self, name: str, seconds: float) -> None:
        """`name` took `seconds`; the rest is expected to be as much faster or slower."""
        with self.lock:
            self.pace = 0.5 * (self.pace + seconds / max(self.left.pop(name), 1.0))
            del self.began[name]
        self._draw()

    def seconds_left(self) -> float:
        """Expected seconds from now, at the pace seen so far; a notebook that overruns counts as nearly done."""
        with self.lock:
            left = {name: seconds * self.pace for name, seconds in self.left.items()}
            for name, began in self.began.items():
                left[name] = max(left[name] - (time.monotonic() - began), 0.03 * left[name])
        return max([0.0, sum(left.values()) / self.at_once, *left.values()])

    def words(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left()), 60)
        return f"about {minutes} min {seconds:02d} s left" if minutes else f"about {seconds} s left"

    def say(self, line: str) -> None:
        """A line above the bar."""
        self.bar.write(line) if not self.bar.disable else print(line, flush=True)

    def _draw(self) -> None:
        with self.lock:
            self.bar.n = max(self.bar.n, min(self.total, self.total - self.at_once * self.seconds_left() / self.pace))
            self.bar.set_description_str(", ".join(self.began), refresh=False)
            self.bar.set_postfix_str(self.words(), refresh=True)

    def _tick(self) -> None:
        while not self.over.wait(1.0):
            self._draw()
