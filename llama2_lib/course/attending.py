"""What notebook 08 leans on: pictures of how long an instruction is kept, and of where a model looks.

Paper: section 3.3, Table 30, Figures 9 and 10. Drawing only; what is shown is computed elsewhere.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from llama2_lib.course import plots

BRIGHT = 0.4

def over_turns(curves: Mapping[str, Sequence[float]], ylabel: str, top: float | None = 1.04) -> Figure:
    """One line a model over the turns of a dialogue, counted from 1: Table 30 as a picture."""
    fig, ax = plots.figure(height=2.8)
    for i, (name, values) in enumerate(curves.items()):
        ax.plot(range(1, len(values) + 1), values, marker=plots.MARKERS[i], label=name)
    ax.set(xlabel="turn", ylabel=ylabel, ylim=(0, top))
    ax.set_xticks(range(1, max(map(len, curves.values())) + 1))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def looks(maps: Mapping[str, np.ndarray], system: Sequence[float]) -> Figure:
    """Figure 10: the largest attention between binned tokens, one panel a model, cut at BRIGHT since a token's nearest
    neighbours outshine all else; `system` holds the bins between which the system message stands."""
    fig, axes = plots.figure(1, len(maps), height=3.2, sharey=True)
    for ax, (name, m) in zip(np.atleast_1d(axes), maps.items(), strict=True):
        lower = np.where(np.tri(len(m)), m, np.nan)
        image = ax.imshow(lower, vmin=0, vmax=BRIGHT, aspect="auto")
        ax.grid(False)
        for x in system:
            ax.axvline(x - 0.5, color=plots.VERMILION, lw=1, ls="--")
        ax.set(title=name, xlabel="token looked at, in bins")
    np.atleast_1d(axes)[0].set(ylabel="token that looks, in bins")
    fig.colorbar(image, ax=axes, label="largest attention", extend="max")
    return fig
