"""Pictures and tables of notebook 03 whose code teaches nothing; the numbers all come from its caller."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llama2_lib.analysis.accuracy import Accuracy
from llama2_lib.analysis.scaling import Trained
from llama2_lib.config import OptimConfig, PretrainConfig, Recipe
from llama2_lib.course.plots import GREY, figure, table
from llama2_lib.training import accounting, trainer

WINDOW = 20            # steps of the running mean of a long run
A100_TFLOPS = 312      # bf16, dense, by NVIDIA's data sheet
TITLES = {"loss": "loss, nats a token", "lr": "learning rate", "grad_norm": "gradient norm"}


def schedules(configs: Mapping[str, PretrainConfig]) -> Figure:
    """The learning rate over the steps of each recipe, side by side."""
    fig, axes = figure(1, len(configs), height=2.5, squeeze=False)
    for ax, (name, config) in zip(axes[0], configs.items(), strict=True):
        steps = np.unique(np.linspace(0, config.steps - 1, 400).astype(int))
        ax.plot(steps, [trainer.lr_at(int(s), config.optim, config.steps) for s in steps])
        ax.set(title=f"{name}: {config.steps:,} steps", xlabel="step", ylabel="learning rate")
        ax.xaxis.set_major_locator(MaxNLocator(4))
    return fig


def schedule(warmup: int, floor: float, total: int) -> Figure:
    """The shape of one schedule, as a share of its peak, and its mean."""
    optim = OptimConfig(peak_lr=1.0, warmup_steps=warmup, final_lr_fraction=floor)
    rates = [trainer.lr_at(s, optim, total) for s in range(total)]
    fig, ax = figure(height=2.3, width=5)
    ax.plot(rates)
    ax.set(xlabel="step", ylabel="share of the peak", ylim=(0, 1.05), title=f"mean rate: {np.mean(rates):.2f} of the peak")
    return fig


def histories(runs: Mapping[str, Sequence[dict]], keys: Sequence[str] = ("loss", "grad_norm"), level: float = 0.0) -> Figure:
    """One panel a key, one line a run, smoothed where a run is long; a dotted line at `level` in the first panel."""
    fig, axes = figure(1, len(keys), height=2.6, squeeze=False)
    for ax, key in zip(axes[0], keys, strict=True):
        for name, history in runs.items():
            values = np.array([r[key] for r in history])
            smooth = np.convolve(values, np.ones(WINDOW) / WINDOW, "valid") if len(values) > 10 * WINDOW else values
            (line,) = ax.plot(range(len(values) - len(smooth) + 1, len(values) + 1), smooth, label=name, linewidth=1.3)
            if len(smooth) < len(values):
                ax.plot(range(1, len(values) + 1), values, color=line.get_color(), alpha=0.25, linewidth=0.7, linestyle="-")
        ax.set(title=TITLES[key], xlabel="step")
    if level:
        axes[0][0].axhline(level, color=GREY, linewidth=0.8, linestyle=":")
    if len(runs) > 1:
        axes[0][-1].legend(fontsize=8)
    return fig


def excess(runs: Mapping[str, Sequence[dict]], clean: Sequence[dict], start: int) -> Figure:
    """How far the loss of each run lies above the clean run's from step `start` on."""
    fig, ax = figure(height=2.5)
    for name, history in runs.items():
        ax.plot([r["step"] for r in history[start:]],
                [r["loss"] - c["loss"] for r, c in zip(history[start:], clean[start:], strict=True)], label=name)
    ax.set(title="what one spoiled batch costs", xlabel="step", ylabel="loss above the clean run")
    ax.legend()
    return fig


def knowledge(along: Mapping[str, Mapping[int, Accuracy]], final: Accuracy) -> Figure:
    """Shares right over the steps of training, and by kind of fact at the end."""
    fig, (left, right) = figure(1, 2, height=3.2)
    for (name, scores), marker in zip(along.items(), "os^D", strict=False):
        left.plot(list(scores), [a.mean for a in scores.values()], marker=marker, label=name)
    left.set(title="when abilities arrive", xlabel="step", ylabel="share right", ylim=(-0.03, 1.03))
    left.legend()
    kinds = list(final.by_kind)[::-1]
    right.barh(kinds, [final.by_kind[k] for k in kinds])
    right.set(title="facts by kind, at the end", xlim=(0, 1))
    return fig


def sizes(arms: Sequence[Trained]) -> Figure:
    """Training loss over tokens, one curve a size (Figure 5)."""
    fig, ax = figure(height=3.2)
    for arm in arms:
        ax.plot(*arm.curve(), label=f"{arm.name} parameters")
    ax.set(xlabel="tokens", ylabel="training loss, nats", title="Figure 5 in small: four sizes, the same tokens")
    ax.legend()
    return fig


def recipe_table(recipes: Mapping[str, Recipe]) -> None:
    """Table 1 and the dimensions behind it, from the presets."""
    rows = []
    for name, r in recipes.items():
        m, p = r.model, r.pretrain
        rows.append([name, f"{accounting.parameter_count(m):,}", m.dim, m.n_layers, f"{m.n_heads}/{m.n_kv_heads}",
                     m.hidden_dim, p.longest, f"{p.optim.peak_lr:.1e}", p.optim.warmup_steps, f"{p.batch_tokens:,}",
                     f"{p.steps:,}"])
    table(rows, ["model", "parameters", "dim", "layers", "heads/kv", "FFN", "context", "peak", "warm-up", "batch", "steps"])


def carbon_table(recipes: Mapping[str, Recipe]) -> None:
    """Table 2 with what it implies: arithmetic by 6 · parameters · tokens, and its share of an A100's peak."""
    rows = []
    for name, (hours, watts, printed) in accounting.TABLE_2.items():
        flops = 6 * accounting.parameter_count(recipes[name].model) * recipes[name].pretrain.tokens
        reached = flops / (hours * 3600) / 1e12
        rows.append([name, f"{flops:.1e}", f"{hours:,}", watts, f"{reached:.0f}", f"{reached / A100_TFLOPS:.0%}",
                     f"{accounting.as_printed(accounting.carbon(hours, watts)):.2f}", f"{printed:.2f}"])
    table(rows, ["model", "FLOPs", "GPU-hours", "W", "TFLOP/s a GPU", "of 312", "tCO2eq", "paper"])


def loss_table(history: Sequence[dict], steps: Sequence[int]) -> None:
    """The loss at some steps, and the fair die that is as good: exp(loss) sides."""
    rows = [(s, history[s - 1]["loss"]) for s in steps if s <= len(history)]
    table([[s, f"{loss:.2f}", f"{math.exp(loss):.0f}"] for s, loss in rows],
          ["step", "loss", "as good as a die with so many sides"])
