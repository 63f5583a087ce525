"""The pictures of notebook 01: a layer, RoPE as clock hands, who shares which key-value head, and the ablation's two panels.

Drawing only; what is drawn is computed by the library. Paper: section 2.2, Table 18, Figure 24.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from llama2_lib.config import llama2_70b
from llama2_lib.course import plots
from llama2_lib.model.transformer import rope_table
from llama2_lib.training.accounting import kv_cache_bytes

HANDS, HEAD_WIDTH, REACH = 8, 32, 256     # pairs drawn, width of the head they belong to, longest distance drawn


def draw_layer() -> Figure:
    """One layer: a line carries the stream; attention and the feed-forward network read it and add to it."""
    fig, ax = plots.figure(height=2.3)
    ax.axis("off")
    ax.set(xlim=(0, 10), ylim=(0, 3))
    ax.annotate("", (9.9, 1), (0, 1), arrowprops={"arrowstyle": "->", "lw": 2.5, "color": plots.NAVY})
    ax.text(0.05, 0.5, "x: one vector a token", color=plots.NAVY)
    for left, names in ((0.6, ("RMSNorm", "Attention")), (5.2, ("RMSNorm", "FFN"))):
        ax.plot([left, left, left + 3.6], [1, 2.35, 2.35], color=plots.GREY, ls="-")
        for i, name in enumerate(names):
            box = {"boxstyle": "round", "fc": plots.PALE, "ec": plots.GREY}
            ax.text(left + 1.0 + 1.6 * i, 2.35, name, ha="center", va="center", bbox=box)
        ax.annotate("", (left + 3.6, 1.1), (left + 3.6, 2.4), arrowprops={"arrowstyle": "->", "color": plots.GREY})
        plus = {"boxstyle": "circle", "fc": "white", "ec": plots.NAVY}
        ax.text(left + 3.6, 0.93, "+", ha="center", va="center", bbox=plus)
    return fig


def draw_rope(position: int, base_exponent: float) -> Figure:
    """Left: the first pairs of channels as hands of a clock. Right: dot product of two equal vectors by their distance."""
    cos, sin = rope_table(HEAD_WIDTH, REACH, 10.0 ** base_exponent)
    fig, (left, right) = plots.figure(1, 2, height=2.9)
    for i in range(HANDS):
        x, y = float(cos[position, i]), float(sin[position, i])
        left.plot([0, x], [0, y], ls="-", color=plots.COLOURS[i % 6], alpha=1 - i / 12)
        left.text(1.12 * x, 1.12 * y, str(i), ha="center", va="center", fontsize=8)
    left.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", title=f"pairs 0 to {HANDS - 1} at position {position}")
    right.plot(range(REACH), cos.mean(1))
    right.axvline(position, color=plots.VERMILION, ls=":")
    right.set(title="dot product of equal vectors", xlabel="distance in tokens")
    return fig


def draw_sharing(kv_heads: int) -> Figure:
    """Left: which of 64 query heads read which key-value head. Right: cache a token costs at the shape of the 70B."""
    fig, (left, right) = plots.figure(1, 2, height=2.7)
    group = 64 // kv_heads
    for n in range(64):
        colour = plots.COLOURS[n // group % 6]
        left.plot([n, n // group * group + (group - 1) / 2], [1, 0], ls="-", lw=0.8, marker="o", ms=2.5, color=colour)
    left.set(title=f"64 query heads, {kv_heads} to read", ylim=(-0.3, 1.3), yticks=[0, 1], xticks=[])
    left.set_yticklabels(["key-value", "query"])
    counts = [2 ** power for power in range(7)]
    one = kv_cache_bytes(llama2_70b().model, 1, 1) / llama2_70b().model.n_kv_heads / 1024
    right.bar(range(7), [one * k for k in counts], color=[plots.VERMILION if k == kv_heads else plots.SKY for k in counts])
    right.set(title="70B shape: KiB of cache a token", xticks=range(7), yscale="log", xlabel="key-value heads of 64")
    right.set_xticklabels(counts)
    return fig


def draw_ablation(histories: Mapping[str, Sequence[Mapping]], largest_batch: Mapping[str, int]) -> Figure:
    """Table 18's question and Figure 24's: training loss by variant, and sequences that fit a fixed cache."""
    fig, (left, right) = plots.figure(1, 2, height=2.8)
    for name, history in histories.items():
        left.plot([r["tokens"] / 1000 for r in history], [r["loss"] for r in history], label=name)
    left.set(title="training loss", xlabel="thousand tokens", ylabel="nats a token")
    left.legend()
    bars = right.bar(range(len(largest_batch)), list(largest_batch.values()), color=plots.COLOURS[:len(largest_batch)])
    right.bar_label(bars)
    right.set(title="sequences in a fixed cache", xticks=range(len(largest_batch)))
    right.set_xticklabels(list(largest_batch))
    return fig
