"""What notebooks 06 and 07 lean on: pictures of best-of-K sampling, of PPO and of the versions.

Paper: section 3.2.3, Figures 7, 8, 11 and 20. Drawing only; what is shown is computed elsewhere.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from llama2_lib.course import plots

VERSIONS = ("SFT", "V1", "V2", "V3", "V4", "V5_no_ppo", "V5")        # the steps of Figure 11


def best_of(sizes: Sequence[int], reward: Sequence[float], median: Sequence[float], gold: Sequence[float]) -> Figure:
    """Figure 7: the best and the median reward of K replies, and beside it the gold of the best one."""
    fig, (left, right) = plots.figure(1, 2, height=2.7)
    left.plot(sizes, reward, marker="o", label="best of K")
    left.plot(sizes, median, marker="s", label="median of K")
    left.set(ylabel="reward after the sigmoid", title="what the reward sees")
    left.legend()
    right.plot(sizes, gold, marker="o", color=plots.TEAL)
    right.set(ylabel="gold of the best of K", title="what the oracle sees")
    _powers(sizes, left, right)
    return fig


def gold_over_k(sizes: Sequence[int], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Gold of the best of K, one line a reward that chooses."""
    fig, ax = plots.figure(height=2.8)
    for i, (name, values) in enumerate(curves.items()):
        ax.plot(sizes, values, marker=plots.MARKERS[i], label=name)
    ax.set(ylabel="gold of the best of K")
    ax.legend(title="who chooses")
    _powers(sizes, ax)
    return fig


def _powers(sizes: Sequence[int], *panels) -> None:
    for ax in panels:
        ax.set(xscale="log", xlabel="K, replies a prompt")
        ax.set_xticks(sizes, [str(k) for k in sizes])
        ax.set_xticks([], minor=True)


def lines(x: Sequence[float], curves: Mapping[str, Sequence[float]], xlabel: str, ylabel: str = "") -> Figure:
    """One line a name: Figure 8, whose lines are models over the temperature of their samples."""
    fig, ax = plots.figure(height=2.7)
    for i, (name, curve) in enumerate(curves.items()):
        ax.plot(x, curve, marker=plots.MARKERS[i], markevery=max(1, len(x) // 12), label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return fig


def pairs_of_bars(groups: Mapping[str, Mapping[str, float]], ylabel: str) -> Figure:
    """One group of bars a key of `groups`, one bar a name."""
    fig, ax = plots.figure(height=2.7)
    names = list(next(iter(groups.values())))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        place = np.arange(len(groups)) + (i - (len(names) - 1) / 2) * width
        ax.bar(place, [g[name] for g in groups.values()], width, color=(plots.NAVY, plots.SKY, plots.AMBER)[i],
               edgecolor=plots.NAVY, label=name)
    ax.set_xticks(np.arange(len(groups)), list(groups))
    ax.set(ylabel=ylabel, ylim=(0, 1))
    ax.legend(ncols=len(names), loc="upper left", bbox_to_anchor=(0, 1.18))
    return fig


def clipped(ratio_N: Sequence[float], losses: Mapping[str, Sequence[float]], clip: float) -> Figure:
    """The clipped policy loss over the ratio, a line for each sign of the advantage."""
    fig, ax = plots.figure(height=2.6)
    for name, values in losses.items():
        ax.plot(ratio_N, values, label=name)
    ax.axvspan(1 - clip, 1 + clip, color=plots.PALE, zorder=0)
    ax.set(xlabel="ratio π / π_old of a token's probabilities", ylabel="loss of the token")
    ax.legend()
    return fig


def runs(histories: Mapping[str, Sequence[dict]], keys: Mapping[str, str]) -> Figure:
    """Training records side by side: one panel a key of `keys` (its value is the label), one line a run."""
    fig, panels = plots.figure(1, len(keys), height=2.6)
    for (key, label), ax in zip(keys.items(), np.atleast_1d(panels), strict=True):
        for name, history in histories.items():
            ax.plot([r["iteration"] for r in history], smooth([r[key] for r in history]), label=name)
        ax.set(xlabel="iteration", ylabel=label)
    np.atleast_1d(panels)[0].legend()
    return fig


def smooth(values: Sequence[float], width: int = 3) -> list[float]:
    """Means over a window of up to `width` values around each one."""
    return [float(np.mean(values[max(0, i - width // 2):i + width // 2 + 1])) for i in range(len(values))]


def roads(found: Mapping[str, Mapping[str, float]]) -> Figure:
    """Figure 11: the road of the versions in the plane of the two axes, one panel a judge.

    found[judge] holds helpful_NAME and safe_NAME for each of VERSIONS.
    """
    fig, panels = plots.figure(1, len(found), height=3.3)
    for ax, (judge, numbers) in zip(np.atleast_1d(panels), found.items(), strict=True):
        x, y = ([numbers[f"{axis}_{name}"] for name in VERSIONS] for axis in ("helpful", "safe"))
        ax.plot(x, y, color=plots.NAVY, marker="o")
        ax.margins(0.25)
        ax.locator_params(nbins=5)
        ax.set(xlabel="helpfulness", ylabel="safety", title=judge)
    for ax in np.atleast_1d(panels):
        plots.label_marks(ax, *ax.lines[0].get_data(), [name.replace("_no_ppo", ", no PPO") for name in VERSIONS])
    return fig


def ridges(scores: Mapping[str, Sequence[float]], low: float) -> Figure:
    """Figure 20: the distribution of scores, one row a version; the shaded part is the low tail, with its share."""
    fig, axes = plots.figure(len(scores), 1, height=0.62, sharex=True)
    bins = np.linspace(0, 1, 41)
    for ax, (name, values) in zip(np.atleast_1d(axes), scores.items(), strict=True):
        ax.hist(values, bins=bins, color=plots.NAVY)
        ax.axvspan(0, low, color=plots.AMBER, alpha=0.35)
        ax.text(low / 2, ax.get_ylim()[1] / 2, f"{np.mean(np.asarray(values) < low):.0%}", ha="center", va="center")
        ax.set(yticks=[], xlim=(0, 1))
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
        ax.grid(visible=False)
    np.atleast_1d(axes)[-1].set(xlabel="score after the sigmoid")
    return fig
