"""Run a stage from the command line: python -m llama2_lib STAGE PRESET key=value …

    python -m llama2_lib sft toy seed=1 sft.epochs=3
    python -m llama2_lib pretrain small workdir=/data/small runtime.compile=true
    python -m llama2_lib all toy                                             # every model of the course, in order
    python -m llama2_lib card toy                                            # the model card of what was built so far
    python -m llama2_lib plan llama2_70b gpus=64 tensor=8 micro_batch=1 memory=80 mfu=0.45       # a dry run: training.plan
    torchrun --nproc-per-node=2 -m llama2_lib sft toy runtime.parallel.tensor=2                  # many processes, one run
    python -m llama2_lib sft toy runtime.parts=2                             # one process, with the sums and bits of two
"""
from __future__ import annotations

import ast
import dataclasses
import sys

from llama2_lib import config
from llama2_lib.course.card import card
from llama2_lib.stages import road
from llama2_lib.training import distributed


def value(text: str) -> object:
    """A Python literal where the text is one (3, 1e-3, (0.9, 0.95)), true/false/none, else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def planned(preset: str, changes: dict[str, object]) -> str:
    """The plan of a preset's pretraining; tensor=8 stands for runtime.parallel.tensor=8, and so for its other settings."""
    from llama2_lib.training import plan  # loads torch.distributed, which takes seconds
    machines = {f.name: changes.pop(f.name) for f in dataclasses.fields(plan.Cluster) if f.name in changes}
    short = {f.name: f"runtime.parallel.{f.name}" for f in dataclasses.fields(config.ParallelConfig)}
    recipe = config.override(config.preset(preset), **{short.get(name, name): v for name, v in changes.items()})
    return str(plan.plan(recipe, config.override(plan.Cluster(), **machines)))


def run(command: str, preset: str, changes: dict[str, object], folder: str) -> str:
    """What the command has to say when it is done."""
    if command == "plan":
        return planned(preset, changes)
    recipe = config.override(config.preset(preset), **changes)
    distributed.start(recipe.runtime.parts)
    if command == "card":
        return card(recipe, folder)
    result = road.build(command, recipe, folder)
    result = result[-1] if isinstance(result, list) else result         # of several versions the last
    return f"{command} {preset}: {getattr(result, 'folder', result)}"


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        print("stages: ", ", ".join(road.STAGES), "and card, plan")
        print("presets:", ", ".join(config.PRESETS))
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    command, preset, *settings = arguments
    bad = [s for s in settings if "=" not in s]
    if bad:
        print(f"settings are written key=value; {bad[0]!r} is not", file=sys.stderr)
        return 2
    changes = {key: value(text) for key, _, text in (s.partition("=") for s in settings)}
    folder = str(changes.pop("workdir", ""))
    try:
        said = run(command, preset, changes, folder)
    except (ValueError, FileNotFoundError) as error:
        print(f"{command} {preset}: {error}", file=sys.stderr)
        return 1
    if distributed.is_main():
        print(said)
    distributed.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
