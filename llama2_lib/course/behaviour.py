"""What notebooks 10 and 12 lean on: pictures of diversity over the temperature, of a sense of time, and of tools.

Paper: section 5.1, Figures 21 and 22, Table 15. Drawing only; what is shown is computed elsewhere.
"""
from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from llama2_lib.course import plots
from llama2_lib.text.chat import Message
from llama2_lib.text.tools import ERROR, RESULT, read_call

LINE = 100       # characters of a line of samples


def over_temperature(temperatures: Sequence[float], groups: Mapping[str, Mapping[str, np.ndarray]], what: str) -> Figure:
    """Figure 21: a panel a group, a line a model with the standard error over prompts; groups[group][model] is (P, T)."""
    fig, panels = plots.figure(1, len(groups), height=2.9, sharey=True)
    for ax, (group, models) in zip(np.atleast_1d(panels), groups.items(), strict=True):
        for i, (name, values_PT) in enumerate(models.items()):
            mean_T, error_T = values_PT.mean(0), values_PT.std(0) / np.sqrt(len(values_PT))
            (line,) = ax.plot(temperatures, mean_T, marker=plots.MARKERS[i], label=name)
            ax.fill_between(temperatures, mean_T - error_T, mean_T + error_T, color=line.get_color(), alpha=0.15, lw=0)
        ax.set(xlabel="temperature", title=f"{group} prompts")
    np.atleast_1d(panels)[0].set(ylabel=what)
    np.atleast_1d(panels)[0].legend()
    return fig


def samples(columns: Mapping[str, Sequence[str]], notes: Mapping[str, str]) -> Figure:
    """Replies as text, one block a name with its note beside it."""
    lines = []
    for name, texts in columns.items():
        lines.append((f"{name}   {notes[name]}", True))
        for text in texts:
            wrapped = textwrap.wrap(text.replace("\n", " / "), LINE) or ["(nothing)"]
            lines += [(("· " if i == 0 else "  ") + part, False) for i, part in enumerate(wrapped[:2])]
    fig, ax = plots.figure(height=0.19 * len(lines) + 0.2)
    ax.axis("off")
    ax.set(ylim=(len(lines), 0), xlim=(0, 1))
    for i, (text, title) in enumerate(lines):
        ax.text(0, i + 0.5, text.replace("$", r"\$"), va="center", fontsize=8, weight="bold" if title else "normal")
    return fig


def yes_over_years(elapsed: Sequence[int], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Figure 22: how often a model says that an event has happened, over the years from the event to the question."""
    fig, ax = plots.figure(height=2.8)
    for i, (name, shares) in enumerate(curves.items()):
        ax.plot(elapsed, shares, marker=plots.MARKERS[i], label=name)
    ax.plot([min(elapsed), 0, 0, max(elapsed)], [0, 0, 1, 1], color=plots.GREY, linewidth=1, linestyle=":", label="truth")
    ax.set_xscale("symlog", linthresh=5)
    ticks = [y for y in elapsed if abs(y) in (5, 20, 100, 400)]
    ax.set_xticks(ticks, [f"{y:+d}" for y in ticks])
    ax.set(xlabel="year of the question minus year of the event", ylabel="said to be past", ylim=(-0.05, 1.05))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def by_size(sizes: Sequence[int], curves: Mapping[str, Sequence[float]], shown: int) -> Figure:
    """Share right over the digits of both operands; beyond the line are sizes longer than any in a demonstration."""
    fig, ax = plots.figure(height=2.6)
    for i, (name, shares) in enumerate(curves.items()):
        ax.plot(sizes, shares, marker=plots.MARKERS[i], label=name)
    ax.axvline(shown + 0.5, color=plots.GREY, linewidth=1, linestyle="--")
    ax.set(xlabel="digits of each operand", ylabel="share right", ylim=(-0.05, 1.05))
    ax.legend()
    return fig


def transcript(dialogues: Sequence[Sequence[Message]]) -> Figure:
    """Dialogues as text: who says what, calls and results in a fixed-width face."""
    lines = [line for d in dialogues for line in (*[(m.role, m.content) for m in d], ("", ""))]
    fig, ax = plots.figure(height=0.21 * len(lines) + 0.1)
    ax.axis("off")
    ax.set(ylim=(len(lines), 0), xlim=(0, 1))
    for i, (role, text) in enumerate(lines):
        pasted = role == "user" and text.startswith((RESULT, ERROR))
        called = role == "assistant" and read_call(text) is not None
        who = "tool" if pasted else {"assistant": "model"}.get(role, role)
        ax.text(0, i + 0.5, who, va="center", fontsize=8, weight="bold")
        ax.text(0.1, i + 0.5, text.replace("$", r"\$"), va="center", fontsize=8,
                family="monospace" if pasted or called else None, color=plots.NAVY if pasted or called else "black")
    return fig
