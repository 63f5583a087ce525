"""Run a stage from the command line: python -m llama2_lib STAGE PRESET key=value …

    python -m llama2_lib sft toy seed=1 sft.epochs=3
    python -m llama2_lib pretrain small workdir=/data/small runtime.compile=true
    python -m llama2_lib card toy                    # the model card of what was built so far
    torchrun --nproc-per-node=2 -m llama2_lib sft toy runtime.parallel.tensor=2        (many processes, one run)
"""
from __future__ import annotations

import ast
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


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        print("stages: ", ", ".join(road.STAGES))
        print("presets:", ", ".join(config.PRESETS))
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    stage, preset, *settings = arguments
    bad = [s for s in settings if "=" not in s]
    if bad:
        print(f"settings are written key=value; {bad[0]!r} is not", file=sys.stderr)
        return 2
    changes = {key: value(text) for key, _, text in (s.partition("=") for s in settings)}
    folder = str(changes.pop("workdir", ""))
    distributed.start()
    try:
        recipe = config.override(config.preset(preset), **changes)
        if stage == "card":
            print(card(recipe, folder))
            return 0
        result = road.build(stage, recipe, folder)
        result = result[-1] if isinstance(result, list) else result         # of several versions the last
    except (ValueError, FileNotFoundError) as error:
        print(f"{stage} {preset}: {error}", file=sys.stderr)
        return 1
    if distributed.is_main():
        print(f"{stage} {preset}: {getattr(result, 'folder', result)}")
    distributed.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
