"""Pictures of notebook 13 whose code teaches nothing; the numbers all come from its caller."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from llama2_lib.config import Recipe, preset
from llama2_lib.course import ROOT
from llama2_lib.course.plots import AMBER, COLOURS, GREY, NAVY, SKY, TEAL, VERMILION, figure, table
from llama2_lib.training import accounting, plan
from llama2_lib.training.plan import GIB, Cluster, Memory

NOTHING = 1e-8                      # where a gap of exactly 0 is drawn on a logarithmic axis
RANKS = (NAVY, AMBER, TEAL, SKY)
ON_RANK = ("white", "black", "white", "black")


def gaps(found: Mapping[str, Sequence[float]], bars: Mapping[str, float]) -> Figure:
    """One row a layout, one mark a step: how far its loss is from that of one process. `bars`: lines by name."""
    fig, ax = figure(height=0.3 * len(found) + 1.1)
    for row, gap in enumerate(found.values()):
        ax.scatter([max(g, NOTHING) for g in gap], [row] * len(gap), color=NAVY, marker="|", s=90)
    for name, bar in bars.items():
        ax.axvline(bar, color=VERMILION, linewidth=1, linestyle="--")
        ax.text(bar, -0.75, name, color=VERMILION, fontsize=8, ha="center")
    ax.set(xscale="log", xlim=(NOTHING / 2, 2e-5), xlabel="distance from the loss of one process, nats",
           yticks=range(len(found)), yticklabels=list(found), ylim=(len(found) - 0.4, -0.5))
    return fig


def held(layouts: Mapping[str, Sequence[Mapping[str, list]]], matrices: Sequence[str]) -> Figure:
    """One panel a layout: matrices to scale, each region in the colour of the first process that holds it and with the
    numbers of all that do."""
    fig, axes = figure(1, len(layouts), height=4.2, squeeze=False)
    for ax, (name, by_rank) in zip(axes[0], layouts.items(), strict=True):
        top = 0.0
        for matrix in matrices:
            regions: dict[tuple, list[int]] = {}
            for rank, parts in enumerate(by_rank):
                regions.setdefault(tuple(map(tuple, parts[matrix])), []).append(rank)
            height = max(rows[1] for rows, _ in regions)
            ax.text(0, top - 8, matrix.removeprefix("layers.0.").removesuffix(".weight"), fontsize=8)
            for ((r0, r1), (c0, c1)), ranks in regions.items():
                ax.add_patch(Rectangle((c0, top + r0), c1 - c0, r1 - r0, facecolor=RANKS[ranks[0]], edgecolor="white"))
                ax.text((c0 + c1) / 2, top + (r0 + r1) / 2, " ".join(map(str, ranks)), ha="center", va="center", fontsize=8,
                        color=ON_RANK[ranks[0]])
            top += height + 50
        ax.set(title=name, xlim=(0, max(parts[m][1][1] for parts in by_rank for m in matrices)), ylim=(top - 30, -40))
        ax.axis("off")
    return fig


def at(measured: Memory, gpus: int, measured_gpus: int) -> Memory:
    """The memory of another number of GPUs: what is kept is shared by all, the rest does not hang on their number."""
    share = measured_gpus / gpus
    return Memory(round(measured.parameters * share), round(measured.gradients * share), round(measured.moments * share),
                  measured.rest)


def memory_bars(measured: Mapping[str, tuple[Recipe, Memory]], measured_gpus: int, gpus: int, card: float = 80.0) -> Figure:
    """What one of `gpus` GPUs holds, by size and by part, and the memory of a card."""
    fig, ax = figure(height=2.6)
    for row, (recipe, memory) in enumerate(measured.values()):
        left = 0.0
        for (part, size), colour in zip(vars(at(memory, gpus, measured_gpus)).items(), COLOURS, strict=False):
            ax.barh(row, size / GIB, left=left, color=colour, edgecolor="white", label=part if row == 0 else None)
            left += size / GIB
        days = plan.Plan(recipe, Cluster(gpus=gpus), memory, 1, 1).gpu_hours / gpus / 24
        ax.text(left + 1, row, f"{left:.0f} GiB, {days:,.0f} days", va="center", fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    ax.axvline(card, color=GREY, linewidth=1.2, linestyle="--")
    ax.set(yticks=range(len(measured)), yticklabels=list(measured), ylim=(len(measured) - 0.5, -0.5), xlabel="GiB a GPU",
           xlim=(0, max(1.5 * card, 1.05 * ax.get_xlim()[1])), title=f"{gpus:,} GPUs")
    ax.legend(fontsize=8, ncols=4, loc="upper right")
    return fig


def paper_hours() -> list[list[str]]:
    """Rows of Table 2 as arithmetic: size, GPU-hours, what they imply of a GPU, and days on 2,000 of them."""
    rows = []
    for name, (hours, *_) in accounting.TABLE_2.items():
        reached = plan.pretraining_flops(preset(f"llama2_{name.lower()}")) / hours / 3600 / 1e12
        rows.append([name, f"{hours:,}", f"{reached:.0f}", f"{reached / Cluster().tflops:.0%}", f"{hours / 2000 / 24:.1f}"])
    return rows


def gpu_record(path: Path = ROOT / "data" / "gpu.json") -> None:
    """Print what benchmarks/gpu.py measured, if it ever ran: training by size, then one row of generation."""
    if not path.exists():
        print("no GPU has been measured yet: `python benchmarks/gpu.py` on a machine that has one")
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    print(f"{record['card']}, torch {record['torch']}: " + ", ".join(f"{k} {v:,.0f}" for k, v in record["ceilings"].items()))
    table([[name, f"{r['tokens_per_second']:,.0f}", f"{r['tflops']:.0f}", _share(r["mfu"]), _share(r["of_matmul"])]
           for name, r in record.get("train", {}).items() if "missing" not in r],
          ["training", "tokens/s", "TFLOP/s", "of the peak (MFU)", "of its own matmul"])
    table([[name, f"{max(b['tokens_per_second'] for b in r['batches']):,.0f}",
            f"{r['one_row_graph']['tokens_per_second']:.0f}", _share(r["one_row_graph"]["of_bandwidth"])]
           for name, r in record.get("generate", {}).items()],
          ["generation", "tokens/s, best batch", "tokens/s, one row", "of its own bandwidth"])


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
