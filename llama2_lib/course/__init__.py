"""What the notebooks lean on: checks, plots, widgets, the claims ledger, and the runner behind `make course`.

`start` is the one line every notebook begins with: it turns the three common parameters into a recipe and a folder. Data and
artifacts are found from the package's own place, never from the working directory (papermill runs in the caller's folder).
"""
from __future__ import annotations

from pathlib import Path

from llama2_lib.config import Recipe, override
from llama2_lib.config import preset as recipe_of

ROOT = Path(__file__).resolve().parents[2]     # the checkout: notebooks/, data/, figures/, runs/


def find_workdir(preset: str, seed: int = 0, workdir: str = "") -> Path:
    """The folder of a run's artifacts: `workdir` if given, else runs/<preset>, or runs/<preset>-seed<n> for other seeds.

    Each seed has a folder of its own, so that trying another seed does not rebuild what the first one left.
    """
    if workdir:
        return Path(workdir).expanduser().resolve()
    return ROOT / "runs" / (preset if seed == 0 else f"{preset}-seed{seed}")


def start(preset: str, seed: int = 0, workdir: str = "") -> tuple[Recipe, Path]:
    """The recipe of `preset` at `seed` and the folder of its artifacts; sets torch's seed and the plots' style.

    From then on the process keeps the memory it frees (`training.heap`).

    Raises ValueError for a preset that does not exist or a seed that is not an int, naming the value.
    """
    import torch

    from llama2_lib.course.plots import use_style
    from llama2_lib.training.heap import keep_freed_memory
    keep_freed_memory()
    recipe = override(recipe_of(preset), seed=seed)
    torch.manual_seed(seed)
    use_style()
    return recipe, find_workdir(preset, seed, workdir)
