"""From token ids to batches: windows over a long stream, packed examples, and loaders that can say where they are.

Packing (section 3.1: "we concatenate all the prompts and answers") fills every row, so that no arithmetic is spent on
padding. The paper does not say whether packed examples see each other; both ways are here. `isolate=True` numbers the
documents of a row (`segments_BT`) and restarts their positions, and the model lets a token see its own document only.

A loader visits rows in an order that depends on (seed, epoch) alone: its position is two numbers, so a run resumes
exactly. B batch, T time, N rows.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch

PADDING_SEGMENT = -1
PACKED_ROW = 128          # tokens of a row in which short dialogues are packed


class Movable:
    """A frozen dataclass of tensors, of None, and of others of its kind: `to` moves them all."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        return type(self)(*(None if x is None else x.to(device, non_blocking=non_blocking) for x in vars(self).values()))


@dataclass(frozen=True)
class Batch(Movable):
    """One micro-batch: predict labels_BT from tokens_BT where mask_BT holds."""
    tokens_BT: torch.Tensor                   # int64, what the model reads
    labels_BT: torch.Tensor                   # int64, the token that follows each
    mask_BT: torch.Tensor                     # bool, labels that count in the loss
    positions_BT: torch.Tensor | None = None  # int64, None: 0 … T−1
    segments_BT: torch.Tensor | None = None   # int64, None: one document a row; −1 is padding

    @property
    def count(self) -> int:
        """How many labels the loss is a mean over."""
        return int(self.mask_BT.sum())


@dataclass(frozen=True)
class Idle:
    """A batch of which nothing counts, for a process whose part of a short one is empty: it must compute with the others."""
    batch: Batch
    count: int = 0

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        return self.batch.to(device, non_blocking)


class Rows(Protocol):
    """Anything with a length that turns row numbers into a Batch.

    whole: all rows of the batch of which `rows` are one process's part, for a loss that needs to know what the others read.
    """

    def __len__(self) -> int: ...

    def batch(self, rows: np.ndarray, whole: np.ndarray | None = None) -> Batch: ...


class Windows:
    """Rows cut from one long stream of ids, as pretraining reads it: every label counts.

    stream_N: one-dimensional integer array; may be a memory map. Neighbouring windows share one token, so that each token
    but the first is predicted once. With `isolate_at` (the BOS id) documents do not see each other.
    """

    def __init__(self, stream_N: np.ndarray, seq_len: int, isolate_at: int | None = None) -> None:
        if len(stream_N) < seq_len + 1:
            raise ValueError(f"a stream of {len(stream_N)} tokens holds no window of {seq_len} and its next token")
        self.stream_N, self.seq_len, self.isolate_at = stream_N, seq_len, isolate_at

    def __len__(self) -> int:
        return (len(self.stream_N) - 1) // self.seq_len

    def batch(self, rows: np.ndarray, whole: np.ndarray | None = None) -> Batch:
        T = self.seq_len
        ids = torch.from_numpy(np.stack([self.stream_N[r * T:r * T + T + 1] for r in rows]).astype(np.int64))
        tokens, labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        if self.isolate_at is None:
            return Batch(tokens, labels, torch.ones_like(labels, dtype=torch.bool))
        starts = tokens == self.isolate_at
        return Batch(tokens, labels, labels != self.isolate_at, _positions(starts), starts.long().cumsum(1))


def _positions(starts_BT: torch.Tensor) -> torch.Tensor:
    """Distance of each token from the document start at or before it (from the row's start where there is none)."""
    index = torch.arange(starts_BT.shape[1]).expand_as(starts_BT)
    return index - torch.where(starts_BT, index, 0).cummax(1).values


class Examples:
    """Examples with masks, packed several to a row; the rest of a row is padding.

    examples: (ids, loss_mask) pairs, as `chat.render` writes them. Examples are never cut: one longer than a row raises
    ValueError, and so does an example without a single label, since its loss would be 0/0.

    short: a batch is laid out anew, in rows of PACKED_ROW tokens or of its longest example. It holds the same examples and
    has the same loss, up to rounding; a CPU, whose attention reads a whole row for each token, is done a third sooner.
    ValueError where examples see their neighbours, which would be others.
    """

    def __init__(self, examples: Sequence[tuple[list[int], list[bool]]], seq_len: int, *, pack: bool = True,
                 isolate: bool = True, short: bool = False) -> None:
        if not examples:
            raise ValueError("there are no examples")
        if short and not isolate:
            raise ValueError("examples that see their neighbours cannot be laid out anew: short needs isolate")
        self.seq_len, self.isolate, self.short = seq_len, isolate, short
        checked = list(_checked(examples, seq_len))
        fit = _first_fit([len(ids) for ids, _ in checked], seq_len + 1) if pack else [[i] for i in range(len(checked))]
        self.rows = [[checked[i] for i in row] for row in fit]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: np.ndarray, whole: np.ndarray | None = None) -> Batch:
        chosen = [self.rows[r] for r in rows]
        if self.short:
            held = [example for row in chosen for example in row]
            chosen = [[held[i] for i in row] for row in _short_rows([len(ids) for ids, _ in held], self.seq_len + 1)]
        laid = _laid_out([[ids for ids, _ in row] for row in chosen])
        # an example's first token has nothing before it
        mask = _laid_out([[[False, *mask[1:]] for _, mask in row] for row in chosen]).tokens_RT.bool()
        ids, positions, segments = laid.tokens_RT, laid.positions_RT, laid.segments_RT
        if not self.isolate:
            segments = segments.clamp(max=0)
            positions = torch.where(segments == 0, torch.arange(ids.shape[1]), 0)
        return Batch(ids[:, :-1], ids[:, 1:], mask[:, 1:], positions[:, :-1], segments[:, :-1])

    @property
    def fill(self) -> float:
        """Share of the rows' room that holds tokens."""
        return sum(len(ids) for row in self.rows for ids, _ in row) / (len(self.rows) * (self.seq_len + 1))


@dataclass(frozen=True)
class Packed(Movable):
    """Sequences laid side by side in rows, each to itself: what a model reads, and where each sequence ends.

    tokens_RT, positions_RT and segments_RT are int64, as Batch has them; last_N is the place of each sequence's last token
    in the rows laid end to end.
    """
    tokens_RT: torch.Tensor
    positions_RT: torch.Tensor
    segments_RT: torch.Tensor
    last_N: torch.Tensor


def packed(sequences: Sequence[Sequence[int]], context: int) -> Packed:
    """All `sequences` in rows of PACKED_ROW tokens, fewer in a shorter context, or, where one is longer, of its length.

    The longest go first, each into the first row with room. ValueError for no sequence or an empty one.
    """
    if len(sequences) == 0 or min(map(len, sequences)) == 0:
        raise ValueError(f"sequence {next((i for i, s in enumerate(sequences) if not s), 0)} is empty or missing")
    rows = _short_rows(list(map(len, sequences)), context)
    laid = _laid_out([[sequences[i] for i in row] for row in rows])
    last_N = torch.empty_like(laid.last_N)
    last_N[[i for row in rows for i in row]] = laid.last_N
    return replace(laid, last_N=last_N)


def _laid_out(rows: Sequence[Sequence[Sequence[int]]]) -> Packed:
    """Sequences side by side, row by row as given; last_N is in the same order."""
    width = max(sum(map(len, row)) for row in rows)
    tokens, positions = (np.zeros((len(rows), width), dtype=np.int64) for _ in range(2))
    segments = np.full((len(rows), width), PADDING_SEGMENT, dtype=np.int64)
    last = []
    for r, row in enumerate(rows):
        at = 0
        for number, sequence in enumerate(row):
            end = at + len(sequence)
            tokens[r, at:end], positions[r, at:end], segments[r, at:end] = sequence, np.arange(end - at), number
            last.append(r * width + end - 1)
            at = end
    return Packed(*map(torch.from_numpy, (tokens, positions, segments, np.array(last))))


def _checked(examples: Sequence[tuple[list[int], list[bool]]], seq_len: int) -> Iterator[tuple[list[int], list[bool]]]:
    for i, (ids, mask) in enumerate(examples):
        if len(ids) != len(mask):
            raise ValueError(f"example {i} has {len(ids)} ids and {len(mask)} mask entries")
        if len(ids) > seq_len + 1:
            raise ValueError(f"example {i} is {len(ids)} tokens long and does not fit a row of {seq_len + 1}")
        if not any(mask[1:]):
            raise ValueError(f"example {i} has no token to learn from: its loss mask is empty")
        yield ids, mask


def _first_fit(lengths: Sequence[int], room: int, open_rows: int = 16) -> list[list[int]]:
    """What goes into each row, by number: each into the first of the last rows it fits, near full rows without a sort."""
    rows: list[list[int]] = []
    left: list[int] = []
    for i, length in enumerate(lengths):
        start = max(0, len(rows) - open_rows)
        place = next((r for r in range(start, len(rows)) if left[r] >= length), None)
        if place is None:
            rows.append([])
            left.append(room)
            place = len(rows) - 1
        rows[place].append(i)
        left[place] -= length
    return rows


def _short_rows(lengths: Sequence[int], context: int) -> list[list[int]]:
    """What goes into each row, by number: rows of PACKED_ROW tokens, or of the longest, which go first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    room = max(min(PACKED_ROW, context), lengths[order[0]])
    return [[order[k] for k in row] for row in _first_fit([lengths[i] for i in order], room, len(order))]


class Loader:
    """An endless (or `epochs` long) iterator of batches, every row once an epoch, in an order drawn from (seed, epoch).

    The last rows of an epoch that do not fill a batch are left for no one if `drop_last` (pretraining, where every batch
    must be the same size), else they make a smaller batch. Raises ValueError if the rows do not fill one batch.

    After `take` each batch comes in parts, those of one process. The position is that of the whole batches: a run may go on
    with another number of processes.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int, *, epochs: int | None = None, drop_last: bool = True) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if drop_last and len(rows) < batch_size:
            raise ValueError(f"{len(rows)} rows do not fill one batch of {batch_size}: no step would run")
        self.rows, self.batch_size, self.seed, self.epochs, self.drop_last = rows, batch_size, seed, epochs, drop_last
        self.epoch, self.index = 0, 0
        self.take([0], 1)
        self._shuffled, self._order_R = -1, np.empty(0, dtype=np.int64)      # the epoch whose order is drawn, and the order

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.rows), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Loader:
        return self

    def take(self, own: Sequence[int], parts: int) -> None:
        """From now on, of each batch, its parts `own` (of 0 … parts − 1), one after another.

        ValueError if a batch has no such equal parts.
        """
        if self.batch_size % parts:
            raise ValueError(f"a batch of {self.batch_size} rows cannot be cut into {parts} equal parts, one a process")
        self.own, self.parts = own, parts
        self._waiting: list[Batch | Idle] = []

    def __next__(self) -> Batch | Idle:
        if not self._waiting:
            whole_B = self._rows_of_next_batch()
            cut = np.array_split(whole_B, self.parts)       # an epoch's last batch may not divide
            self._waiting = [self.rows.batch(cut[part], whole_B) if len(cut[part]) else Idle(self.rows.batch(whole_B[:1]))
                             for part in reversed(self.own)]
        return self._waiting.pop()

    @property
    def waiting(self) -> int:
        """Parts of the last batch that were not asked for yet."""
        return len(self._waiting)

    def _rows_of_next_batch(self) -> np.ndarray:
        if self.index == len(self):
            self.epoch, self.index = self.epoch + 1, 0
        if self.epoch == self.epochs:
            raise StopIteration
        if self._shuffled != self.epoch:
            self._order_R = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.rows))
            self._shuffled = self.epoch
        start = self.index * self.batch_size
        self.index += 1
        return self._order_R[start:start + self.batch_size]

    def state(self) -> dict[str, int]:
        """Where the loader stands, as plain JSON types."""
        return {"epoch": self.epoch, "index": self.index, "seed": self.seed, "rows": len(self.rows),
                "batch_size": self.batch_size}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from `state`. ValueError if it comes from other rows, another batch size or another seed."""
        here = self.state()
        wrong = [f"{k} was {state.get(k)}, is {here[k]}" for k in ("seed", "rows", "batch_size") if state.get(k) != here[k]]
        if wrong:
            raise ValueError("the loader cannot resume: " + "; ".join(wrong))
        self.epoch, self.index, self._waiting = state["epoch"], state["index"], []


class Interleaved:
    """Two loaders in turn: a share of the batches comes from `rare`, spread evenly over the others."""

    def __init__(self, common: Loader, rare: Loader, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"the share of the rare loader lies in 0…1, got {share}")
        self.common, self.rare, self.share, self.taken = common, rare, share, 0

    def __iter__(self) -> Interleaved:
        return self

    def take(self, own: Sequence[int], parts: int) -> None:
        """From now on only one process's parts of each batch, as `Loader.take` says."""
        self.common.take(own, parts)
        self.rare.take(own, parts)

    def __next__(self) -> Batch | Idle:
        begun = next((loader for loader in (self.common, self.rare) if loader.waiting), None)
        if begun is not None:
            return next(begun)
        due = int((self.taken + 1) * self.share) > int(self.taken * self.share)
        self.taken += 1
        return next(self.rare if due else self.common)

    def state(self) -> dict:
        """Where each loader stands, as plain JSON types."""
        return {"taken": self.taken, "common": self.common.state(), "rare": self.rare.state()}

    def restore(self, state: dict) -> None:
        """Go on from `state`. ValueError if it comes from other loaders."""
        self.taken = state["taken"]
        self.common.restore(state["common"])
        self.rare.restore(state["rare"])
