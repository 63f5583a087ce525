"""Reading the tables of data/world: CSV files that anybody can edit in a text editor or a spreadsheet.

A table has a header, one row per subject, no empty cell, and no subject twice. Every complaint names the file, the line and
the value, because the person who reads it has just edited that line. Left out: types, quoting other than CSV's own.
"""
from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

TABLES = Path(__file__).resolve().parents[2] / "data" / "world"
BOM = b"\xef\xbb\xbf"
Row = dict[str, str]


class TableError(ValueError):
    """A table of the world that cannot be used as it stands; the message names file, line and value."""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without a byte-order mark; TableError names the line of the first foreign byte."""
    if not path.is_file():
        raise TableError(f"{path}: there is no such table")
    data = path.read_bytes()
    if data.startswith(BOM):
        raise TableError(f"{path}, line 1: the file starts with a byte-order mark (BOM); save it as plain UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TableError(f"{path}, line {line}: byte {data[error.start:error.start + 1]!r} is not UTF-8 "
                         "(Latin-1?); save the file as UTF-8") from error


def read_rows(path: Path, needed: Sequence[str] = ()) -> list[tuple[int, Row]]:
    """(line number, {column: cell}) for each row of a CSV file.

    Raises TableError for an unreadable file, a column of `needed` that is missing, a doubled column, an empty cell, a row
    of another length than the header, a doubled first cell, and a table without rows.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(c.strip() for c in cells)]
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: {error}") from error
    if not lines:
        raise TableError(f"{path}: the table is empty; its first line names the columns")
    (_, header), *body = lines
    _check_header(path, header, needed)
    if not body:
        raise TableError(f"{path}: the table has a header but no rows")
    seen: dict[str, int] = {}
    for number, cells in body:
        _check_row(path, number, header, cells)
        if cells[0].casefold() in seen:
            raise TableError(f"{path}, line {number}: {header[0]} {cells[0]!r} stands already in line "
                             f"{seen[cells[0].casefold()]}")
        seen[cells[0].casefold()] = number
    return [(number, dict(zip(header, cells, strict=True))) for number, cells in body]


def _check_header(path: Path, header: list[str], needed: Sequence[str]) -> None:
    if len(header) == 1 and ";" in header[0]:
        raise TableError(f"{path}, line 1: the columns in {header[0]!r} are parted by ';', they must be parted by ','")
    for column in header:
        if not column:
            raise TableError(f"{path}, line 1: a column has no name in {','.join(header)!r}")
        if header.count(column) > 1:
            raise TableError(f"{path}, line 1: column {column!r} stands twice")
    for column in needed:
        if column not in header:
            raise TableError(f"{path}, line 1: column {column!r} is missing; there are {', '.join(header)}")


def _check_row(path: Path, number: int, header: list[str], cells: list[str]) -> None:
    if len(cells) != len(header):
        raise TableError(f"{path}, line {number}: {len(cells)} cells, but {len(header)} columns: {','.join(cells)!r}")
    for column, cell in zip(header, cells, strict=True):
        if not cell:
            raise TableError(f"{path}, line {number}: the cell of column {column!r} is empty in {','.join(cells)!r}")
        if not cell.isprintable():
            raise TableError(f"{path}, line {number}: column {column!r} holds a control character in {cell!r}")


def parts(cell: str) -> tuple[str, ...]:
    """The pieces of a cell that lists several things: "a | b" is ("a", "b")."""
    return tuple(piece.strip() for piece in cell.split("|") if piece.strip())


def digest(folder: Path = TABLES) -> str:
    """A hash of every file in the folder of tables: what is made from the tables is stale once this changes."""
    if not folder.is_dir():
        raise TableError(f"{folder}: there is no such folder of tables")
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".csv", ".txt")):
        total.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()
