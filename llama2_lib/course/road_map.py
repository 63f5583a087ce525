"""Our drawing of the paper's Figure 4: the road from web pages to a chat model, with the notebook that builds each part.

Solid boxes are built by the notebooks of this course; dashed ones are the paper's loop of human feedback.
"""
from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from llama2_lib.course import plots

WIDTH, HEIGHT = 2.05, 0.95
ALT = ("The road of Llama 2 as boxes and arrows: web pages are cleaned and cut into tokens, a base model is pretrained, "
       "supervised fine-tuning makes a chat model; then a loop of preferences, two reward models, rejection sampling and "
       "PPO improves the chat model again and again.")


@dataclass(frozen=True)
class Stop:
    """One box: its name, what is in it, its notebook ("" when the course does not build it yet), and its place."""
    name: str
    what: str
    notebook: str
    x: float
    y: float


STOPS = (
    Stop("Web pages", "a small world,\ntruth known", "02", 0.0, 2.2),
    Stop("Clean, tokenize", "PII, duplicates,\nlanguages, BPE", "02", 2.6, 2.2),
    Stop("Pretraining", "the transformer\nreads it all", "01, 03", 5.2, 2.2),
    Stop("Fine-tuning", "answers to copy:\nSFT", "04", 7.8, 2.2),
    Stop("Preferences", "people choose\nbetween two replies", "", 7.8, 0.0),
    Stop("Reward models", "one for helpful,\none for safe", "", 5.2, 0.0),
    Stop("Rejection sampling", "keep the best\nof K replies", "", 2.6, 0.0),
    Stop("PPO", "push the policy,\nhold the KL", "", 0.0, 0.0),
)


def _box(ax: Axes, stop: Stop) -> None:
    built = bool(stop.notebook)
    ax.add_patch(FancyBboxPatch((stop.x, stop.y), WIDTH, HEIGHT, boxstyle="round,pad=0.06", linewidth=1.4,
                                linestyle="-" if built else "--", edgecolor=plots.NAVY if built else plots.GREY,
                                facecolor="#dbe7f5" if built else "white"))
    middle = stop.x + WIDTH / 2
    ax.text(middle, stop.y + 0.77, stop.name, ha="center", va="center", fontsize=9, weight="bold", color=plots.NAVY)
    ax.text(middle, stop.y + 0.31, stop.what, ha="center", va="center", fontsize=7.5, color="#333333")
    if built:
        ax.text(middle, stop.y + HEIGHT + 0.22, f"notebook {stop.notebook}", ha="center", fontsize=7.5,
                color=plots.VERMILION)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": plots.NAVY, "lw": 1.5, "shrinkA": 0, "shrinkB": 0})


def pipeline() -> Figure:
    """The map as a figure of page width."""
    fig, ax = plots.figure(height=2.9)
    for stop in STOPS:
        _box(ax, stop)
    gap = 0.1
    for left, right in zip(STOPS[:3], STOPS[1:4], strict=True):
        _arrow(ax, (left.x + WIDTH + gap, left.y + HEIGHT / 2), (right.x - gap, right.y + HEIGHT / 2))
    for right, left in zip(STOPS[4:7], STOPS[5:], strict=True):
        _arrow(ax, (right.x - gap, right.y + HEIGHT / 2), (left.x + WIDTH + gap, left.y + HEIGHT / 2))
    _arrow(ax, (9.3, 2.1), (9.3, 1.1))
    ax.plot([1.0, 1.0, 8.3, 8.3], [1.08, 1.6, 1.6, 1.3], color=plots.NAVY, lw=1.5, linestyle="-")
    _arrow(ax, (8.3, 1.4), (8.3, 1.1))
    ax.text(4.65, 1.6, "the better model answers the next round of prompts", ha="center", va="center", fontsize=7.5,
            color=plots.GREY, bbox={"facecolor": "white", "edgecolor": "none", "pad": 2})
    ax.set(xlim=(-0.15, 10.0), ylim=(-0.15, 3.6))
    ax.axis("off")
    return fig
