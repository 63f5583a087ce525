"""What notebook 04 leans on: three pictures, and the demonstrations its measurements need.

Paper: section 3.1. Drawing and drawing of lots only; what is shown is computed by the notebook or the library.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from matplotlib.figure import Figure

from llama2_lib.course import plots
from llama2_lib.world import dialogs
from llama2_lib.world.facts import TEST, World


def probabilities(pieces: Sequence[str], p: Sequence[float], mask: Sequence[bool]) -> Figure:
    """A bar a token: the probability it was given; dark where the token is learned from."""
    fig, ax = plots.figure(height=2.6)
    ax.bar(range(len(p)), p, color=[plots.NAVY if m else plots.SKY for m in mask], edgecolor=plots.NAVY, linewidth=0.5)
    ax.set_xticks(range(len(pieces)), [x.replace("▁", "·").replace("\n", "↵") for x in pieces], rotation=90, fontsize=7)
    ax.set(ylim=(0, 1.02), ylabel="probability", title="pale: prompt    dark: answer")
    ax.grid(False, axis="x")
    return fig


def learning(runs: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Training loss over the steps of each run; the steps on a logarithmic axis, where the first ones have room."""
    fig, ax = plots.figure(height=2.6)
    for name, history in runs.items():
        ax.plot(range(1, len(history) + 1), [r["loss"] for r in history], label=name)
    ax.set(xscale="log", ylim=(0, None), xlabel="step", ylabel="nats an answer token")
    ax.legend()
    return fig


def gold_bars(models: Mapping[str, Mapping[str, float]]) -> Figure:
    """Mean gold score by kind of prompt, one bar a model; kinds in the order of the last model's scores."""
    fig, ax = plots.figure(height=2.8)
    kinds = list(models[list(models)[-1]])
    width = 0.8 / len(models)
    for i, (name, scores) in enumerate(models.items()):
        ax.bar([k + i * width for k in range(len(kinds))], [scores.get(kind, 0.0) for kind in kinds], width, label=name,
               color=(plots.SKY, plots.NAVY, plots.VERMILION)[i])
    ax.set_xticks([k + width * (len(models) - 1) / 2 for k in range(len(kinds))], kinds)
    ax.set(ylim=(0, 1.02), ylabel="gold score")
    ax.legend()
    return fig


def test_demonstrations(world: World, count: int, seed: int) -> Iterator[tuple[dialogs.Prompt, str]]:
    """`count` prompts of the test split without a system rule, each with a good answer."""
    rng = Random(f"test demonstrations {seed}")
    mix = {kind: weight for kind, weight in dialogs.HELPFUL.items() if kind != "rule"}
    for prompt in dialogs.prompts(world, count, seed, mix, TEST):
        yield prompt, dialogs.demonstration(world, prompt, rng)
