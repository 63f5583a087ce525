"""House style of the figures: readable at page width, in grey, and by a screen reader.

Colours differ in lightness (they survive a grey printer) and each comes with its own marker and line style. `show` puts
one PNG with alt text into the notebook; its bytes hold no date and no version: the same drawing gives the same file.
"""
from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from llama2_lib.course import ROOT

PAGE_WIDTH = 7.0                # inches
DPI = 110
NAVY, VERMILION, AMBER, PURPLE, TEAL, SKY = COLOURS = (
    "#14264a", "#d65a35", "#d9a334", "#6a2780", "#1c6e5f", "#93cfec")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
SEQUENTIAL = "cividis"          # for heat maps: even in lightness, safe for colour-blind readers
GREY, PALE = "#6b7280", "#e5e7eb"

STYLE = {
    "figure.dpi": DPI, "savefig.dpi": DPI, "figure.facecolor": "white", "figure.constrained_layout.use": True,
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": PALE, "grid.linewidth": 0.8, "lines.linewidth": 1.8, "lines.markersize": 5, "legend.frameon": False,
    "image.cmap": SEQUENTIAL, "svg.hashsalt": "llama2",
    "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=LINES),
}


def use_style() -> None:
    """Set the house style for every later figure of this process."""
    matplotlib.rcParams.update(STYLE)


def figure(rows: int = 1, cols: int = 1, height: float = 2.8, width: float = PAGE_WIDTH, **kwargs) -> tuple:
    """(fig, axes) of page width, `height` inches a row, in the house style; kwargs go to plt.subplots."""
    use_style()
    return plt.subplots(rows, cols, figsize=(width, height * rows), **kwargs)


def png_bytes(fig: Figure) -> bytes:
    """The figure as PNG: at most 256 colours, no date, no software version."""
    raw = io.BytesIO()
    fig.savefig(raw, format="png", metadata={"Software": None})
    image = Image.open(raw).convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, format="png", optimize=True)
    return small.getvalue()


def figures_folder() -> Path:
    """Where named figures are written: $LLAMA2_FIGURES (the test suite and `make course` set it), else figures/."""
    return Path(os.environ.get("LLAMA2_FIGURES") or ROOT / "figures")


def show(fig: Figure, name: str | None = None, alt: str = "") -> None:
    """Display `fig` as one PNG with alt text, write it to figures/<name>.png when named, and close it.

    `alt` says what the picture shows, for readers who cannot see it; nbval compares it, so it holds no digit that hangs on
    training. Raises ValueError when it is shorter than three words or `name` is not a plain file name.
    """
    from IPython.display import display
    if len(alt.split()) < 3:
        raise ValueError(f"show() needs alt text that says what the figure shows, got alt={alt!r}")
    data = png_bytes(fig)
    plt.close(fig)
    if name is not None:
        if not name or set(name) & set("/\\.: "):
            raise ValueError(f"a figure's name is a plain file name without a suffix, got {name!r}")
        folder = figures_folder()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(data)
    display({"image/png": data, "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)


def curves(ax, x: Sequence[float], runs_SX: Sequence[Sequence[float]], label: str, **kwargs) -> None:
    """The mean over runs as a line with a few markers, and the span from the lowest to the highest run as a band."""
    runs_SX = np.atleast_2d(np.asarray(runs_SX, dtype=float))
    marker = MARKERS[len(ax.lines) % len(MARKERS)]
    (line,) = ax.plot(x, runs_SX.mean(0), label=label, **{"marker": marker, "markevery": max(1, len(x) // 12), **kwargs})
    ax.fill_between(x, runs_SX.min(0), runs_SX.max(0), color=line.get_color(), alpha=0.18, linewidth=0)


def heat(ax, matrix: np.ndarray, rows: Sequence[str] = (), cols: Sequence[str] = (), numbers: str = "", **kwargs):
    """A heat map with optional row and column names; `numbers` (a format such as ".2f") writes each value into its cell."""
    matrix = np.asarray(matrix, dtype=float)
    image = ax.imshow(matrix, **{"aspect": "auto", **kwargs})
    ax.grid(False)
    ax.set_xticks(range(len(cols)), cols, rotation=45 if max(map(len, cols), default=0) > 3 else 0,
                  ha="right" if max(map(len, cols), default=0) > 3 else "center")
    ax.set_yticks(range(len(rows)), rows)
    if numbers:
        for (i, j), value in np.ndenumerate(matrix):
            ax.text(j, i, format(value, numbers), ha="center", va="center", fontsize=8,
                    color="white" if image.norm(value) < 0.55 else "black")
    return image


def intervals(found: Mapping[str, tuple[float, float, float]], xlabel: str, at: float = 0.0) -> Figure:
    """Means with their intervals, (mean, low, high), a row a name, around a line at the value that would say nothing."""
    fig, ax = figure(height=0.34 * len(found) + 0.8)
    for i, (mean, low, high) in enumerate(found.values()):
        ax.plot([low, high], [i, i], color=NAVY, marker="|", linestyle="-")
        ax.plot(mean, i, color=NAVY, marker="o")
    ax.axvline(at, color=GREY, linewidth=1, linestyle="--")
    ax.set(xlabel=xlabel, yticks=range(len(found)), yticklabels=list(found), ylim=(len(found) - 0.5, -0.5))
    return fig


def tokens(pieces: Sequence[str], weights: Sequence[float], *, width: float = PAGE_WIDTH, low: str = "0", high: str = "1",
           ) -> Figure:
    """Text as boxes, one a token, dark where its weight is 1 and pale where it is 0 (a loss mask, an attention row).

    A picture rather than HTML: GitHub strips the colours from HTML. A weight of 1 is also underlined, for grey printers.
    """
    if len(pieces) != len(weights):
        raise ValueError(f"tokens() needs one weight a piece, got {len(pieces)} pieces and {len(weights)} weights")
    per_line = int(width * 12.2)
    lines, column = [[]], 0
    for piece, weight in zip(pieces, weights, strict=True):
        text = piece.replace("\n", "↵").replace("▁", "·") or " "
        if column + len(text) + 1 > per_line:
            lines.append([])
            column = 0
        lines[-1].append((column, text, float(weight)))
        column += len(text) + 1
        if "\n" in piece:
            lines.append([])
            column = 0
    fig = plt.figure(figsize=(width, 0.3 * len(lines) + 0.35), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, per_line), ylim=(-len(lines) - 0.2, 1.0))
    ax.axis("off")
    shade = matplotlib.colormaps["Blues"]
    for row, line in enumerate(lines):
        for x, text, weight in line:
            box = plt.Rectangle((x + 0.05, -row - 0.85), len(text) + 0.6, 0.75, facecolor=shade(0.06 + 0.72 * weight), lw=0)
            ax.add_patch(box)
            ax.text(x + 0.35, -row - 0.48, text, family="monospace", fontsize=8.2, va="center",
                    color="white" if weight > 0.6 else "#14264a")
            if weight >= 1:
                ax.plot([x + 0.05, x + 0.65 + len(text)], [-row - 0.88] * 2, color=VERMILION, lw=1.2, ls="-", marker="")
    ax.text(0.1, 0.45, f"pale: {low}    dark and underlined: {high}", fontsize=8.2, color=GREY, va="center")
    return fig


def table(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> None:
    """Print rows under column names, numbers to the right. Format the numbers before you pass them."""
    cells = [[str(c) for c in row] for row in rows]
    if any(len(row) != len(columns) for row in cells):
        raise ValueError(f"table() has {len(columns)} columns, got rows of {sorted({len(r) for r in cells})}")
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    right = [bool(cells) and all(row[i][:1] in "0123456789-−+.<>≈" for row in cells if row[i]) for i in range(len(columns))]
    for line in [list(columns), ["─" * w for w in widths], *cells]:
        print("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip())


def label_marks(ax: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """A label beside each mark of a line, in one of 12 directions, as near as the line and earlier labels leave room.

    Call it when the rest of the figure is drawn: room is measured on the page.
    """
    ax.figure.draw_without_rendering()
    per_point = ax.figure.dpi / 72
    marks_N2 = ax.transData.transform(np.column_stack((x, y)))
    taken = [a + t * (b - a) for a, b in pairwise(marks_N2) for t in np.linspace(0, 1, 30)]
    for name, mark in zip(names, marks_N2, strict=True):
        width, places = 5 * len(name), []
        for far, angle in product((1, 1.5, 2, 2.5), np.arange(12) * np.pi / 6):
            dx, dy, side = 8 * far * np.cos(angle), 10 * far * np.sin(angle), round(np.cos(angle))
            ends = [dx + width * (side - 1) / 2, dx + width * (side + 1) / 2]          # of the text, in points
            covered = [mark + per_point * np.array((a, dy)) for a in np.linspace(*ends, 6)]
            room = min(np.hypot(*(p - q)) for p in covered for q in taken)
            places.append((min(room, 6 * per_point), -far, room, dx, dy, side, covered))
        *_, dx, dy, side, covered = max(places, key=lambda place: place[:3])
        taken += covered
        ax.annotate(name, ax.transData.inverted().transform(mark), (dx, dy), textcoords="offset points", fontsize=8,
                    ha=("center", "left", "right")[side], va="center")
