"""What notebook 05 leans on: its pictures, and the reader as an annotator.

Paper: section 3.2, Figures 6 and 29, Tables 7 and 8. Drawing and asking only; what is shown is computed elsewhere.
"""
from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import ipywidgets as w
import numpy as np
from matplotlib.figure import Figure

from llama2_lib.analysis.calibration import Bin
from llama2_lib.analysis.rewards import FreshPair
from llama2_lib.course import plots

ANSWERS = ("the first is much better", "the first", "the second", "the second is much better")


def choice_curve(gap_N: Sequence[float], chances: Mapping[str, Sequence[float]],
                 counted: Mapping[str, Sequence[float]]) -> Figure:
    """How often the worthier reply is chosen, over the difference in worth: the formula as lines, counted votes as marks."""
    fig, ax = plots.figure(height=2.7)
    for i, name in enumerate(chances):
        ax.plot(gap_N, chances[name], color=plots.COLOURS[i], linestyle=plots.LINES[i], label=name)
        ax.plot(gap_N, counted[name], color=plots.COLOURS[i], linestyle="none", marker=plots.MARKERS[i])
    ax.set(xlabel="difference in worth (oracle, 0 to 1)", ylabel="right choices", ylim=(0.45, 1.02))
    ax.legend(title="annotator")
    return fig


def losses(gap_N: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Figure:
    """The ranking loss of a "significantly better" pair over the difference of its scores, one line a set of margins."""
    fig, ax = plots.figure(height=2.5)
    for name, values in curves.items():
        ax.plot(gap_N, values, label=name)
    ax.set(xlabel="score of the chosen reply minus score of the rejected one", ylabel="loss, nats")
    ax.legend(title="margins")
    return fig


def by_grade(found: Mapping[str, float], ceiling: float, paper: Mapping[str, float]) -> Figure:
    """Accuracy by grade, ours beside the paper's; the dashed line is the noise ceiling of our average."""
    fig, ax = plots.figure(height=2.8)
    place = np.arange(len(found))
    ax.bar(place - 0.2, list(found.values()), 0.4, color=plots.NAVY, label="here")
    ax.bar(place + 0.2, [paper[name] for name in found], 0.4, color=plots.SKY, edgecolor=plots.NAVY, label="Table 8, 70B")
    ax.axhline(ceiling, color=plots.VERMILION, linestyle="--", label="ceiling of our average")
    ax.axhline(0.5, color=plots.GREY, linewidth=1)
    ax.set_xticks(place, list(found))
    ax.set(ylim=(0.4, 1.0), ylabel="accuracy")
    ax.legend(ncols=3, loc="upper right")
    return fig


def reliability(bins: Sequence[Bin]) -> Figure:
    """Predicted against observed share; a mark's size is the number of pairs behind it."""
    fig, ax = plots.figure(height=3.0, width=4.2)
    ax.plot([0, 1], [0, 1], color=plots.GREY, linewidth=1)
    most = max(b.count for b in bins)
    ax.scatter([b.predicted for b in bins], [b.observed for b in bins], s=[12 + 120 * b.count / most for b in bins],
               color=plots.NAVY)
    ax.set(xlabel="predicted: σ(difference of scores)", ylabel="preferred by the annotator", xlim=(0, 1), ylim=(0, 1))
    return fig


def learning(shares: Sequence[float], curves: Mapping[str, Sequence[float]], ceiling: float) -> Figure:
    """Accuracy over the share of the preference data, one line a model (Figure 6)."""
    fig, ax = plots.figure(height=2.7)
    for i, (name, values) in enumerate(curves.items()):
        ax.plot(shares, values, marker=plots.MARKERS[i], label=name)
    ax.axhline(ceiling, color=plots.GREY, linewidth=1)
    ax.text(shares[0], ceiling, "noise ceiling", va="bottom", color=plots.GREY)
    ax.set(xscale="log", xlabel="share of the preference pairs", ylabel="accuracy", ylim=(0.5, ceiling + 0.05))
    ax.set_xticks(shares, [f"{share:.0%}" for share in shares])
    ax.set_xticks([], minor=True)
    ax.legend()
    return fig


def likert(rated: Mapping[str, Sequence[tuple[float, int]]]) -> Figure:
    """Mean score ± standard deviation at each rating (Figure 29)."""
    fig, ax = plots.figure(height=2.7)
    for i, (name, pairs) in enumerate(rated.items()):
        levels = sorted({r for _, r in pairs})
        scores = [np.array([1 / (1 + np.exp(-s)) for s, r in pairs if r == level]) for level in levels]
        ax.errorbar([x + 0.08 * i for x in levels], [s.mean() for s in scores], [s.std() for s in scores], capsize=3,
                    marker=plots.MARKERS[i], label=name)
    ax.set(xlabel="median rating of three annotators", ylabel="score after the sigmoid", ylim=(0, 1))
    ax.legend()
    return fig


class Annotate(w.VBox):
    """The reader as an annotator: pairs of replies, four buttons, how often the oracle agrees. `answer(k)` is a click."""

    def __init__(self, pairs: Sequence[FreshPair]) -> None:
        if not pairs:
            raise ValueError("there are no pairs to annotate")
        self.pairs, self.at, self.right = list(pairs), 0, []
        self.page, self.verdict = w.HTML(), w.HTML()
        self.buttons = [w.Button(description=text, layout=w.Layout(width="210px")) for text in ANSWERS]
        for k, button in enumerate(self.buttons):
            button.on_click(lambda _, k=k: self.answer(k))
        self._show()
        super().__init__([self.page, w.HBox(self.buttons), self.verdict])

    def answer(self, k: int) -> None:
        """Choose ANSWERS[k] for the pair on show; the next one follows. After the last pair nothing happens."""
        if self.at == len(self.pairs):
            return
        pair = self.pairs[self.at]
        self.right.append((k >= 2) == (pair.worths[1] > pair.worths[0]))
        self.verdict.value = (f"The oracle gives the first {pair.worths[0]:.2f} and the second {pair.worths[1]:.2f}. "
                              f"You agree in {sum(self.right)} of {len(self.right)}.")
        self.at += 1
        self._show()

    def _show(self) -> None:
        if self.at == len(self.pairs):
            self.page.value = "That was the last pair."
            return
        pair = self.pairs[self.at]
        rows = [("prompt", pair.prompt.text), ("first", pair.replies[0]), ("second", pair.replies[1])]
        self.page.value = "<br>".join(f"<b>{name}</b>: {html.escape(text)}" for name, text in rows)

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        bundle = super()._repr_mimebundle_(**kwargs)
        first = self.pairs[0]
        text = f"{first.prompt.text}\n  first:  {first.replies[0]}\n  second: {first.replies[1]}\nWhich is better?"
        return bundle | {"text/plain": text}, {}
