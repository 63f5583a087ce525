"""What notebook 11 leans on: its pictures, and labels of raters to count agreement on.

Paper: sections 3.4 and A.6, Figures 1 and 12, Table 51.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from random import Random

import numpy as np
from matplotlib.figure import Figure

from llama2_lib.analysis.agreement import counts
from llama2_lib.analysis.contamination import Leak
from llama2_lib.analysis.winrate import Rates
from llama2_lib.course import plots
from llama2_lib.text.contamination import EVIDENCE, LENGTHS, SUBSETS, subsets
from llama2_lib.world.annotators import Annotator
from llama2_lib.world.dialogs import Prompt
from llama2_lib.world.facts import World


def safety_labels(world: World, prompts: Sequence[Prompt], said: Sequence[str], slips: float, seed: int,
                  raters: int = 3) -> np.ndarray:
    """(replies, 2): how many of the raters call each reply unsafe and safe; each slips in a share of the cases."""
    who, lots = Annotator("rater", slips=slips), [Random(f"labels {seed} {k}") for k in range(raters)]
    return counts([[int(who.calls_safe(world, p, reply, lot)) for lot in lots]
                   for p, reply in zip(prompts, said, strict=True)], 2)


def expected_labels(safe: float, slips: float, replies: int = 2_000, raters: int = 3) -> list[list[int]]:
    """What `safety_labels` would count on average where a share `safe` of the replies is safe, rounded to whole replies."""
    right = [comb(raters, k) * (1 - slips) ** k * slips ** (raters - k) for k in range(raters + 1)]
    votes = [safe * right[k] + (1 - safe) * right[raters - k] for k in range(raters + 1)]
    return [[raters - k, k] for k in range(raters + 1) for _ in range(round(replies * votes[k]))]


def bars(rates: Mapping[str, Rates], names: tuple[str, str] = ("V5", "SFT")) -> Figure:
    """Figure 1: a bar a judge, wins of the first model, ties, wins of the second."""
    fig, ax = plots.figure(height=0.7 + 0.42 * len(rates))
    place, left = np.arange(len(rates))[::-1], np.zeros(len(rates))
    colours = ((plots.NAVY, "white"), (plots.PALE, "black"), (plots.AMBER, "black"))
    for key, (colour, ink), label in zip(("win", "tie", "loss"), colours, (f"{names[0]} wins", "tie", f"{names[1]} wins"),
                                         strict=True):
        values = np.array([getattr(r, key) for r in rates.values()])
        ax.barh(place, values, left=left, color=colour, edgecolor="white", label=label)
        for y, x, value in zip(place, left, values, strict=True):
            if value > 0.05:
                ax.text(x + value / 2, y, f"{value:.0%}", ha="center", va="center", color=ink, fontsize=9)
        left += values
    ax.set_yticks(place, list(rates))
    ax.set(xlim=(0, 1), xticks=[])
    ax.grid(False)
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return fig


def powers(sizes: Sequence[int], curves: Mapping[str, Sequence[float]], counted: Mapping[str, Sequence[float]]) -> Figure:
    """Power over the number of prompts: the formula as lines, what subsamples did as marks."""
    fig, ax = plots.figure(height=2.7)
    for i, (name, values) in enumerate(curves.items()):
        ax.plot(sizes, values, color=plots.COLOURS[i], linestyle=plots.LINES[i], label=name)
        ax.plot(sizes, counted[name], color=plots.COLOURS[i], linestyle="none", marker=plots.MARKERS[i])
    ax.axhline(0.8, color=plots.GREY, linewidth=1, linestyle="-")
    ax.set(xscale="log", xlabel="prompts", ylabel="interval leaves out ½", ylim=(0, 1.03))
    ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
    ax.set_xticks([], minor=True)
    ax.legend()
    return fig


def coefficients(shares: Sequence[float], curves: Mapping[str, Sequence[float]], marked: float) -> Figure:
    """Agreement coefficients over the share of items in one category."""
    fig, ax = plots.figure(height=2.7)
    for name, values in curves.items():
        ax.plot(shares, values, label=name)
    ax.axvline(marked, color=plots.GREY, linewidth=1, linestyle="-")
    ax.set(xlabel="share of replies that are safe", ylabel="agreement", ylim=(0, 1.03))
    ax.legend(loc="lower left")
    return fig


def lengths(leak: Leak) -> Figure:
    """Over the length L of A.6: precision and recall against what was planted, and Z of the four subsets."""
    fig, (left, right) = plots.figure(1, 2, height=2.8)
    scores = [leak.score(n) for n in LENGTHS]
    for i, key in enumerate(("precision", "recall")):
        left.plot(LENGTHS, [getattr(s, key) for s in scores], marker=plots.MARKERS[i], label=key)
    left.set(xlabel="L, tokens", ylim=(0, 1.05), title="against the truth")
    left.legend(loc="lower right")
    tables = [subsets(leak.leaked_S, leak.contamination.shares(n)) for n in LENGTHS]
    for i, name in enumerate(SUBSETS):
        right.plot(LENGTHS, [t[name].z for t in tables], marker=plots.MARKERS[i], label=name)
    right.axhspan(-EVIDENCE, EVIDENCE, color=plots.PALE, zorder=0)
    right.set(xlabel="L, tokens", title="Z of the subsets")
    right.legend(ncols=2, fontsize=8)
    return fig


def table_51(leak: Leak) -> None:
    """Table 51: a row a subset, for the model that learned from the leak and for the control; then the answers by what was
    planted of an item."""
    tables = {"the leak": leak.table(), "other reports": leak.table(control=True)}
    rows = [[model, name, f"{100 * s.contamination:.1f}", f"{s.n:,}", f"{100 * s.mean:.1f}", f"{100 * s.expected:.1f}",
             f"{s.z:+.2f}"] for model, table in tables.items() for name, s in table.items()]
    plots.table(rows, ["model trained on", "subset", "contaminated, %", "n", "X̄", "μ", "Z"])
    print()
    planted = np.array([item.planted or "nothing" for item in leak.items])
    answers = [[kind, f"{leak.leaked_S[planted == kind].mean():.2f}", f"{leak.control_S[planted == kind].mean():.2f}"]
               for kind in sorted(set(planted), reverse=True)]
    plots.table(answers, ["planted of the item", "right after the leak", "right after other reports"])
