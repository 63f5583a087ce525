"""What notebook 09 leans on: pictures of safety before and after, of mixes of data, of preprompts and of the red team.

Paper: sections 4.2 and 4.3, Figures 14, 15, 16 and 33. Drawing only; what is shown is computed elsewhere.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from llama2_lib.analysis.redteam import Rate
from llama2_lib.analysis.rlhf_studies import LOW
from llama2_lib.analysis.safety_studies import Answers, Mix
from llama2_lib.course import plots


def before_after(panels: Mapping[str, tuple[np.ndarray, np.ndarray]], box: tuple[float, float] = (0.4, 0.6)) -> Figure:
    """Figure 14: score before (x) and after (y) of each prompt, a panel a kind; the box holds the replies that were bad
    (below box[0]) and became good (above box[1]), with their share."""
    fig, axes = plots.figure(1, len(panels), height=3.3, sharex=True, sharey=True)
    for ax, (name, (x_N, y_N)) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        ax.plot([0, 1], [0, 1], color=plots.GREY, lw=1, ls=":")
        apart_2N = np.random.default_rng(0).uniform(-0.02, 0.02, (2, len(x_N)))      # many scores are 0 or 1
        ax.scatter(x_N + apart_2N[0], y_N + apart_2N[1], s=9, color=plots.NAVY, alpha=0.35, lw=0)
        better, worse = ((a < box[0]) & (b > box[1]) for a, b in ((x_N, y_N), (y_N, x_N)))
        for (left, bottom), inside in (((0, box[1]), better), ((box[1], 0), worse)):
            ax.add_patch(plots.plt.Rectangle((left, bottom), box[0], box[0], fill=False, color=plots.VERMILION, lw=1.4))
            ax.text(left + box[0] / 2, bottom + box[0] / 2, f"{np.mean(inside):.0%}", ha="center", va="center",
                    color=plots.VERMILION, fontsize=12, fontweight="bold")
        ax.set(xlabel="score before", title=name, xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    np.atleast_1d(axes)[0].set(ylabel="score after")
    return fig


def mixes(found: Mapping[float, Mix]) -> Figure:
    """Figure 15: mean scores of both rewards over the share of the safety data, and the spread of the safety scores."""
    fig, (left, right) = plots.figure(1, 2, height=2.9)
    place = np.arange(len(found))
    for i, (name, attribute) in enumerate((("safety", "safety_N"), ("helpfulness", "helpfulness_N"))):
        left.plot(place, [getattr(m, attribute).mean() for m in found.values()], marker=plots.MARKERS[i], label=name)
    left.set(ylabel="mean score", ylim=(0, 1))
    left.legend()
    _bands(right, [m.safety_N for m in found.values()])
    _shares(place, list(found), left, right)
    return fig


def _bands(ax, scores: Sequence[np.ndarray]) -> None:
    """Stacked bars: how many of the scores, 0…1, lie in each of four bands; scores crowd at both ends."""
    edges, bottom = (0, LOW, 0.5, 0.8, 1.0 + 1e-9), np.zeros(len(scores))
    for a, b, colour in zip(edges, edges[1:], (plots.VERMILION, plots.AMBER, plots.SKY, plots.NAVY), strict=False):
        share = np.array([((s >= a) & (s < b)).mean() for s in scores])
        ax.bar(range(len(scores)), share, bottom=bottom, color=colour, edgecolor="white", label=f"{a:g} to {b:.1f}")
        bottom += share
    ax.set(ylabel="share of replies", ylim=(0, 1))
    ax.legend(title="safety score", loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)


def refused(found: Mapping[float, Mix]) -> Figure:
    """Figure 33: prompts refused over the share of the safety data, on helpful and on borderline ones, with intervals."""
    fig, ax = plots.figure(height=2.7)
    place = np.arange(len(found))
    for i, (name, attribute) in enumerate((("borderline", "borderline_refused"), ("helpful", "refused"))):
        errorbars(ax, place + 0.06 * i, [getattr(m.answers, attribute) for m in found.values()], i, name)
    ax.set(ylabel="refused", ylim=(0, None))
    ax.legend(title="prompts", loc="upper left")
    _shares(place, list(found), ax)
    return fig


def _shares(place: np.ndarray, shares: Sequence[float], *panels) -> None:
    for ax in panels:
        ax.set_xticks(place, [f"{s:.0%}" for s in shares], fontsize=8)
        ax.set(xlabel="share of the safety data used")


def errorbars(ax, place: Sequence[float], rates: Sequence[Rate], style: int, name: str, joined: bool = True) -> None:
    """Shares with their 95% intervals."""
    shares = np.array([r.share for r in rates])
    low, high = np.array([r.interval for r in rates]).T
    ax.errorbar(place, shares, yerr=(shares - low, high - shares), marker=plots.MARKERS[style], color=plots.COLOURS[style],
                ls=plots.LINES[style] if joined else "", capsize=3, label=name, clip_on=False)


def rates(groups: Mapping[str, Mapping[str, Rate]], ylabel: str) -> Figure:
    """Rates with intervals: one line of marks a key of `groups`, one place a name."""
    fig, ax = plots.figure(height=2.9)
    names = list(next(iter(groups.values())))
    for i, (group, found) in enumerate(groups.items()):
        place = np.arange(len(names)) + 0.12 * (i - (len(groups) - 1) / 2)
        errorbars(ax, place, [found[n] for n in names], i, group, joined=False)
    few = len(names) < 5
    ax.set_xticks(np.arange(len(names)), names, rotation=0 if few else 20, ha="center" if few else "right")
    ax.set(ylabel=ylabel, ylim=(0, None))
    ax.legend(ncols=len(groups), loc="lower left", bbox_to_anchor=(0, 1))
    return fig


def preprompts(scores: Mapping[str, np.ndarray], before_N: np.ndarray, after: Mapping[str, np.ndarray]) -> Figure:
    """Figure 16: the distribution of scores of each way, and the change of each prompt's score over what it was before."""
    fig, (left, right) = plots.figure(1, 2, height=3.0)
    _bands(left, list(scores.values()))
    left.set_xticks(range(len(scores)), list(scores), rotation=30, ha="right", fontsize=8)
    edges = np.quantile(before_N, np.linspace(0, 1, 6))
    group_N = np.clip(np.searchsorted(edges, before_N, side="right") - 1, 0, 4)
    for i, (name, after_N) in enumerate(after.items()):
        right.plot(range(1, 6), [np.mean((after_N - before_N)[group_N == g]) for g in range(5)], marker=plots.MARKERS[i],
                   label=name)
    right.axhline(0, color=plots.GREY, lw=1, ls=":")
    right.set(xlabel="fifth of the prompts, by score before", ylabel="change of the score")
    right.legend()
    return fig


def gammas(names: Sequence[str], lines: Mapping[str, Sequence[float]]) -> Figure:
    """γ over the versions, one line a set of topics."""
    fig, ax = plots.figure(height=2.6)
    for i, (name, values) in enumerate(lines.items()):
        ax.plot(names, values, marker=plots.MARKERS[i], label=name)
    ax.set(ylabel="γ, per 100 attempts", ylim=(0, None))
    ax.legend()
    return fig


def at_threshold(scores_N: np.ndarray, bad_N: np.ndarray, threshold: float) -> Figure:
    """What an output guard stops over its threshold: of the violations, and of the safe replies."""
    fig, ax = plots.figure(height=2.7)
    places = np.linspace(0, 1, 101)
    for name, part in (("violations", bad_N), ("safe replies", ~bad_N)):
        stopped = (scores_N[part] < threshold).mean()
        ax.plot(places, [(scores_N[part] < t).mean() for t in places], label=f"{name}: {stopped:.0%}")
    ax.axvline(threshold, color=plots.GREY, lw=1, ls="-")
    ax.set(xlabel="threshold on the safety score", ylabel="stopped", ylim=(0, 1.02))
    ax.legend(title=f"stopped at {threshold:.2f}")
    return fig


def show_answers(found: Mapping[str, Answers]) -> None:
    """A table of the three sides of safety, one row a model."""
    plots.table([[name, f"{a.gold:.3f}", str(a.violations), f"{a.helpful_gold:.3f}", f"{a.refused.share:.3f}",
                  str(a.borderline_refused)] for name, a in found.items()],
                ["", "gold, unsafe", "violations", "gold, helpful", "refused", "refused, borderline"])
