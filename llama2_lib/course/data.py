"""The pictures of notebook 02: the way of a page, MinHash and its S-curve, the mixture, vocabularies, Table 10.

Drawing only; what is drawn is computed by the notebook or the library. Paper: sections 2.1, 2.2 and 4.1, Table 10.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from llama2_lib.course import plots

STATIONS = (("pages", ""), ("language", "sort"), ("personal\ndata", "cut out"), ("furniture", "cut out"),
            ("noise", "drop"), ("copies", "drop"), ("insults,\nbenchmark", "report"), ("mixture", "repeat"))
PAPER_LANGUAGES = {"en": 89.70, "unknown": 8.38, "de": 0.17, "fr": 0.16}      # Table 10, percent of documents


def draw_pipeline() -> Figure:
    """The stations of the pipeline from left to right, and what each does to a page."""
    fig, ax = plots.figure(height=1.5)
    ax.axis("off")
    ax.set(xlim=(-0.6, len(STATIONS) - 0.4), ylim=(0, 2))
    for i, (name, does) in enumerate(STATIONS):
        box = {"boxstyle": "round", "fc": plots.PALE, "ec": plots.NAVY if does != "report" else plots.VERMILION}
        ax.text(i, 1.35, name, ha="center", va="center", fontsize=8.5, bbox=box)
        ax.text(i, 0.4, does or "as crawled", ha="center", va="center", fontsize=8.5, color=plots.GREY)
        if i:
            ax.annotate("", (i - 0.42, 1.35), (i - 0.58, 1.35), arrowprops={"arrowstyle": "->", "color": plots.GREY})
    return fig


def draw_minhash(honest: Sequence[tuple[float, float]], copies: Sequence[tuple[float, float]]) -> Figure:
    """(true, estimated) Jaccard similarity of pairs of pages, honest ones and copies, around the diagonal."""
    fig, ax = plots.figure(height=2.9, width=4.2)
    ax.plot([0, 1], [0, 1], color=plots.GREY, lw=1, ls="-")
    kinds = ((honest, "honest pairs", "o", plots.SKY), (copies, "near copies", "s", plots.VERMILION))
    for pairs, name, marker, colour in kinds:
        ax.plot(*np.array(pairs).T, marker=marker, ls="", ms=3.5, color=colour, label=name)
    ax.set(xlabel="Jaccard similarity", ylabel="share of equal minima", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.legend(loc="upper left")
    return fig


def draw_lsh(bands: int, rows: int, honest: Sequence[float], copies: Sequence[float]) -> Figure:
    """Chance that LSH proposes a pair, by its similarity, above the similarities that honest pairs and copies have."""
    fig, ax = plots.figure(height=2.8)
    s = np.linspace(0, 1, 200)
    ax.plot(s, 1 - (1 - s**rows) ** bands, label=f"proposed: 1 − (1 − s^{rows})^{bands}")
    edges = np.linspace(0, 1, 41)
    for values, name, colour in ((honest, "honest pairs", plots.SKY), (copies, "near copies", plots.VERMILION)):
        heights, _ = np.histogram(values, edges)
        ax.bar(edges[:-1], heights / heights.max() * 0.5, width=0.025, align="edge", color=colour, alpha=0.7, label=name)
    ax.axvline(0.5, color=plots.GREY, ls=":")
    ax.set(title=f"{bands} bands of {rows} rows: {bands * rows} hashes a page", xlabel="similarity s", ylim=(0, 1.05))
    ax.legend(loc="center right")
    return fig


def draw_losses(stages: Mapping[str, int]) -> Figure:
    """Pages left after each step, as bars from top to bottom."""
    fig, ax = plots.figure(height=1.9)
    names, left = list(stages), list(stages.values())
    ax.barh(names[::-1], left[::-1], color=plots.NAVY)
    for i, value in enumerate(left[::-1]):
        ax.text(value, i, f" {value:,}", va="center", fontsize=9)
    ax.set(xlabel="pages left", xlim=(0, max(left) * 1.12))
    ax.grid(False)
    return fig


def draw_mixture(before: Mapping[str, float], after: Mapping[str, float]) -> Figure:
    """Share of the tokens that each source has in the clean corpus and in what is trained on."""
    fig, ax = plots.figure(height=2.5)
    x = np.arange(len(before))
    ax.bar(x - 0.2, list(before.values()), 0.38, label="clean corpus", color=plots.SKY)
    ax.bar(x + 0.2, [after[s] for s in before], 0.38, label="mixture", color=plots.NAVY)
    ax.set_xticks(x, list(before))
    ax.set(ylabel="share of tokens")
    ax.legend()
    return fig


def draw_vocabulary(size: int, sizes: Sequence[int], characters: Sequence[float], shares: Sequence[float],
                    pieces: Mapping[int, Sequence[str]]) -> Figure:
    """Left: characters a token by vocabulary. Right: share of the parameters in embeddings. Below: one sentence."""
    fig, (left, right) = plots.figure(1, 2, height=2.9)
    panels = (left, characters, "characters a token"), (right, shares, "share of parameters in embeddings")
    for ax, values, title in panels:
        ax.plot(sizes, values, marker="o")
        ax.plot([size], [values[list(sizes).index(size)]], marker="o", ms=11, mfc="none", color=plots.VERMILION, ls="")
        ax.set(title=title, xlabel="pieces in the vocabulary", xscale="log")
        ax.set_xticks(sizes, [str(s) for s in sizes], fontsize=8)
        ax.minorticks_off()
    text = " ".join(p.replace("▁", "·") for p in pieces[size])
    fig.supxlabel(f"{len(pieces[size])} pieces:  {text}", fontsize=9, family="monospace")
    return fig


def draw_languages(ours: Mapping[str, float]) -> Figure:
    """Percent of documents by identified language, ours and the paper's Table 10, on a logarithmic axis."""
    fig, ax = plots.figure(height=2.6)
    x = np.arange(len(PAPER_LANGUAGES))
    both = ((-0.2, PAPER_LANGUAGES, "Llama 2, Table 10", plots.SKY), (0.2, ours, "ours", plots.NAVY))
    for shift, values, name, colour in both:
        heights = [values.get(language, 0.0) for language in PAPER_LANGUAGES]
        for bar in ax.bar(x + shift, heights, 0.38, label=name, color=colour):
            ax.text(bar.get_x() + 0.19, bar.get_height() * 1.1, f"{bar.get_height():.2f}", ha="center", fontsize=8)
    ax.set_xticks(x, list(PAPER_LANGUAGES))
    ax.set(yscale="log", ylabel="percent of documents", ylim=(0.05, 300))
    ax.legend()
    return fig
