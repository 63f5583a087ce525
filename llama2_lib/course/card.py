"""A model card, written from what a run left behind (appendix A.7, Table 52).

The fields are Table 52's. Every number comes from a file of the run or is computed from one; a stage that was not run is
named as missing and no number stands in its place. What no file holds, `measured` may bring: rows of the evaluation, by the
name of what was measured. Hours are those of the training loops, as they were logged; energy is hours times an assumed
power, and carbon is Table 2's formula. Left out: the time of generation in rejection sampling and PPO, which is not logged.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from llama2_lib.config import ModelConfig, Recipe, require
from llama2_lib.stages import rlhf, road
from llama2_lib.training import accounting, checkpoint
from llama2_lib.world.facts import world_for

WATTS = 30.0             # of a laptop at work: assumed, not measured
LOGGED = ("pretrain", "sft", "variant", "reward/helpfulness", "reward/safety")     # stages whose records hold seconds
USES = "To learn and teach how a chat model is made, and to test claims about its training in a world whose truth is known."
OUT_OF_SCOPE = "Any use that needs an answer about the real world: the model knows {facts:,} facts of a small one."
LIMITS = ("It speaks simple English about its small world, knows nothing of the real one, and states falsehoods with full "
          "confidence when asked beyond it. Unsafe requests were stand-ins; nothing follows for real ones. Its judges were "
          "an oracle and simulated annotators, no people.")


def card(recipe: Recipe, folder: str | Path = "", measured: Mapping[str, str] | None = None, watts: float = WATTS) -> str:
    """The card of the run in `folder` (runs/<preset> by default), as Markdown.

    measured: further rows of the evaluation, each with its number as it is to be printed. ValueError where the run's model
    is not the recipe's, or `watts` is not above 0.
    """
    require(watts > 0, f"watts must be above 0, got {watts}")
    place = road.workdir(recipe, folder)
    fields = {**_details(recipe, place), "Intended use": USES,
              "Out-of-scope uses": OUT_OF_SCOPE.format(facts=len(world_for(recipe.world).facts)),
              **_hardware(recipe, place, watts), **_data(place), "Ethical considerations and limitations": LIMITS}
    rows = [f"| {name} | {text} |" for name, text in fields.items()]
    numbers = [f"| {name} | {number} |" for name, number in (_evaluation(place) | dict(measured or {})).items()]
    return "\n".join([f"# Model card: {recipe.name}, seed {recipe.seed}", "", "| | |", "|---|---|", *rows, "",
                      "## Evaluation", "", "| what | measured |", "|---|---|", *numbers, ""])


def versions(place: Path) -> list[str]:
    """The versions of the loop that the run holds."""
    return [name for name in rlhf.VERSIONS if _done(place / "rlhf" / name)]


def _done(folder: Path) -> bool:
    return (folder / checkpoint.MANIFEST).is_file()


def _date(folder: Path) -> str:
    """The day on which an artifact was finished."""
    return datetime.fromtimestamp((folder / checkpoint.MANIFEST).stat().st_mtime, UTC).date().isoformat()


def _missing(stage: str) -> str:
    return f"**missing**: {stage} was not run"


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _details(recipe: Recipe, place: Path) -> dict[str, str]:
    """Model details: who, what, when."""
    there = [s for s in ("pretrain", "sft") if _done(place / s)] + versions(place)
    fields = {"Developer": "Whoever ran this course's code; the recipe follows Llama 2 (arXiv 2307.09288).",
              "Variations": ", ".join(there) or _missing("pretrain"), "Input": "Text.", "Output": "Text."}
    if not _done(place / "pretrain"):
        return fields | {"Architecture": _missing("pretrain"), "Dates": _missing("pretrain")}
    model = ModelConfig(**_read(place / "pretrain" / checkpoint.MODEL)["config"])
    require(model == recipe.model, f"{place / 'pretrain'} holds a model of another shape than the recipe {recipe.name}")
    newest = place / "rlhf" / there[-1] if there[-1] in rlhf.VERSIONS else place / there[-1]
    first, last = _date(place / "pretrain"), _date(newest)
    return fields | {
        "Architecture": f"Llama 2's transformer: {accounting.parameter_count(model):,} parameters, {model.n_layers} layers "
                        f"of width {model.dim}, {model.n_heads} query heads on {model.n_kv_heads} key-value heads, "
                        f"{model.vocab_size:,} pieces, a context of {model.max_seq_len:,} tokens.",
        "Dates": f"Trained {first}" + (f" to {last}." if last != first else "."),
        "Status": "A static model, trained offline on generated data.", "License": "MIT, as the code.",
        "Comments": "To the issues of the repository that holds the code."}


def _hardware(recipe: Recipe, place: Path, watts: float) -> dict[str, str]:
    """Training factors and the carbon of what was logged."""
    hours, absent = 0.0, []
    for stage in LOGGED:
        if (place / stage / checkpoint.METRICS).is_file():
            hours += checkpoint.read_metrics(place / stage)[-1]["seconds"] / 3600
        else:
            absent.append(stage)
    if not hours:
        return {"Training factors": _missing("every logged stage"), "Carbon footprint": _missing("every logged stage")}
    factors = f"{hours:.3f} hours in the training loops of {', '.join(s for s in LOGGED if s not in absent)}"
    if "pretrain" not in absent:
        factors += f"; pretraining took {_flops(recipe, place):.3g} FLOPs"
    factors += ". " + "".join(f"{_missing(s)}. " for s in absent)
    grams = 1e6 * accounting.carbon(hours, watts)
    return {"Training factors": factors.strip(),
            "Carbon footprint": f"{hours * watts / 1000:.4f} kWh at an assumed {watts:g} W, {grams:.2f} g CO2eq by the "
                                "formula of Table 2. Not offset."}


def _flops(recipe: Recipe, place: Path) -> float:
    """Arithmetic of the tokens that pretraining read, in rows of two lengths where the recipe has two."""
    config = recipe.pretrain
    long, short = (accounting.flops_per_token(recipe.model, n) for n in (config.longest, config.seq_len))
    tokens = checkpoint.read_metrics(place / "pretrain")[-1]["tokens"]
    return tokens * (config.long_share * long + (1 - config.long_share) * short)


def _data(place: Path) -> dict[str, str]:
    """Training data: how much of what."""
    parts = []
    if _done(place / "corpus"):
        counts = _read(place / "corpus" / "statistics.json")["counts"]
        parts.append(f"{counts['documents']:,} documents of a generated web, cleaned from {counts['pages']:,} pages, "
                     f"{counts['characters kept']:,} characters; {counts.get('contamination', 0):,} hold benchmark text.")
    else:
        parts.append(_missing("corpus") + ".")
    for stage, words in (("pretrain", "tokens of pretraining"), ("sft", "answer tokens of fine-tuning, epochs counted")):
        parts.append(f"{checkpoint.read_metrics(place / stage)[-1]['tokens']:,} {words}."
                     if _done(place / stage) else _missing(stage) + ".")
    if _done(place / "preferences"):
        sides = _read(place / "preferences" / "statistics.json")
        parts.append(" and ".join(f"{s['comparisons']:,} comparisons for {side}" for side, s in sides.items()) + ".")
    else:
        parts.append(_missing("preferences") + ".")
    return {"Training data": " ".join(parts), "Data freshness": "The world is made by code and tables; it has no date."}


def _evaluation(place: Path) -> dict[str, str]:
    """What the stages measured about themselves, on what they had not trained on."""
    rows = {}
    name = "pretraining: loss on held-out text, nats a token"
    rows[name] = f"{_read(place / 'pretrain' / 'summary.json')['validation_loss']:.4f}" if _done(place / "pretrain") \
        else _missing("pretrain")
    for side in ("helpfulness", "safety"):
        name = f"{side} reward: pairs in order, the last tenth of those it learned from, before it did"
        rows[name] = _share(checkpoint.read_metrics(place / "reward" / side)) if _done(place / "reward") \
            else _missing("reward")
    last, name = place / "rlhf" / rlhf.VERSIONS[-1], f"{rlhf.VERSIONS[-1]}: best score of PPO on held-out prompts"
    if _done(last):
        best = max((r for r in checkpoint.read_metrics(last) if "held_out" in r), key=lambda r: r["held_out"])
        rows[name] = f"{best['held_out']:.3f}"
        rows[f"{rlhf.VERSIONS[-1]}: KL of PPO at that point, nats a reply"] = f"{best['kl']:.3f}"
    else:
        rows[name] = _missing(rlhf.VERSIONS[-1])
    return rows


def _share(history: list[dict]) -> str:
    tail = history[-max(1, len(history) // 10):]
    return f"{sum(r['accuracy'] for r in tail) / len(tail):.3f}"
