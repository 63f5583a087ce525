"""Read real data: one JSON object a line (JSONL), strictly; and write such files.

A cut download, a wrong encoding or a missing field must stop the run before the first step, with the file and the line;
a reader that skips what it cannot read trains on less than its user believes.
"""
from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


def read_jsonl(path: str | os.PathLike, keys: Iterable[str] | Mapping[str, type]) -> Iterator[dict]:
    """The objects of a JSONL file, one at a time; blank lines are skipped.

    `keys` must be in every object; a mapping also gives each value's type, as in {"text": str}. Raises ValueError with
    path and line for: text that is not UTF-8 or starts with a byte-order mark, a line that is no JSON object (a cut one,
    say), NaN or infinity, half of a surrogate pair, a missing key, null or another type; and for a file without objects.
    """
    return (record for _, record in read_places(path, keys))


def read_places(path: str | os.PathLike, keys: Iterable[str] | Mapping[str, type]) -> Iterator[tuple[str, dict]]:
    """As `read_jsonl`, each object with its place, "pairs.jsonl, line 7", for errors that only its reader can find."""
    path = Path(path)
    wanted = keys if isinstance(keys, Mapping) else dict.fromkeys(keys, object)
    empty = True
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                empty = False
                place = f"{path}, line {number}"
                yield place, _record(raw, wanted, place)
    if empty:
        raise ValueError(f"{path} holds no records")


def write_jsonl(path: str | os.PathLike, records: Iterable[Mapping]) -> None:
    """Write one JSON object a line, text as it stands."""
    Path(path).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


def _record(raw: bytes, wanted: Mapping[str, type], place: str) -> dict:
    if raw.startswith(codecs.BOM_UTF8):
        raise ValueError(f"{place}: starts with a byte-order mark; save the file as UTF-8 without one")
    try:
        record = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not UTF-8 at byte {error.start} ({raw[error.start]:#04x}): {error.reason}") from error
    except RecursionError as error:
        raise ValueError(f"{place}: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{place}: not a JSON object, perhaps cut: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{place}: expected a JSON object, got {type(record).__name__}")
    for key, kind in wanted.items():
        if record.get(key) is None:
            raise ValueError(f"{place}: key {key!r} is missing or null; there are {', '.join(map(repr, record)) or 'none'}")
        if not isinstance(record[key], kind):
            raise ValueError(f"{place}: {key!r} should be {kind.__name__}, got {type(record[key]).__name__}")
    if b"\\u" in raw:
        _refuse_surrogates(record, place)
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refuse_surrogates(record: dict, place: str) -> None:
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"{place}: {half!r} is half of a surrogate pair and no character") from error
