"""The model card: Table 52's fields, numbers from the run's files alone, what is missing named as missing."""
import dataclasses
import json
import re

import pytest

from llama2_lib.__main__ import main
from llama2_lib.config import override, preset
from llama2_lib.course.card import card
from llama2_lib.training import accounting, checkpoint
from llama2_lib.world.facts import world_for

FIELDS = ("Developer", "Variations", "Input", "Output", "Architecture", "Dates", "Status", "License", "Comments",
          "Intended use", "Out-of-scope uses", "Training factors", "Carbon footprint", "Training data", "Data freshness",
          "Ethical considerations and limitations")
RECIPE = override(preset("toy"), **{"model.dim": 32, "model.n_layers": 3, "pretrain.long_share": 0.0})
RECORDS = {
    "pretrain": [{"step": 1, "seconds": 3600.0, "tokens": 98765}], "sft": [{"step": 1, "seconds": 1800.0, "tokens": 4321}],
    "variant": [{"step": 1, "seconds": 0.0, "tokens": 1}],
    "reward/helpfulness": [{"accuracy": 0.0, "seconds": 1.0}] * 18 + [{"accuracy": 0.75, "seconds": 1800.0}] * 2,
    "reward/safety": [{"accuracy": 0.5, "seconds": 0.0}],
    "rlhf/V5": [{"kl": 0.1, "held_out": 1.0}, {"kl": 0.25, "held_out": 3.5}, {"kl": 9.0}, {"kl": 0.7, "held_out": 3.25}]}
FILES = {
    "corpus/statistics.json": {"counts": {"documents": 777, "pages": 1234, "characters kept": 5555, "contamination": 6}},
    "pretrain/summary.json": {"validation_loss": 0.5432},
    "preferences/statistics.json": {"helpfulness": {"comparisons": 2468}, "safety": {"comparisons": 135}}}


def write(folder, files=FILES, records=RECORDS):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    for name, history in records.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        checkpoint.write_metrics(folder / name, history)
    for name in ("corpus", "pretrain", "sft", "preferences", "reward", "rlhf/V5"):
        if (folder / name).exists():
            (folder / name / checkpoint.MANIFEST).write_text('{"key": "k", "files": {}}', encoding="utf-8")
    if (folder / "pretrain").exists():
        model = {"config": dataclasses.asdict(RECIPE.model)}
        (folder / "pretrain" / checkpoint.MODEL).write_text(json.dumps(model), encoding="utf-8")
    return folder


def field(text, name):
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return row.removeprefix(f"| {name} | ").removesuffix(" |")


def test_a_whole_run_has_every_field_of_table_52_and_nothing_missing(tmp_path):
    text = card(RECIPE, write(tmp_path))
    assert [field(text, name) for name in FIELDS] and "missing" not in text
    assert field(text, "Variations") == "pretrain, sft, V5"
    assert f"{accounting.parameter_count(RECIPE.model):,} parameters" in field(text, "Architecture")
    assert f"{len(world_for(RECIPE.world).facts):,} facts" in field(text, "Out-of-scope uses")


def test_the_numbers_are_the_run_s(tmp_path):
    text = card(RECIPE, write(tmp_path), watts=100)
    assert {"777", "1,234", "5,555", "6", "98,765", "4,321", "2,468", "135"} <= set(
        re.findall(r"[\d,]+\d|\d", field(text, "Training data")))
    flops = 98765 * accounting.flops_per_token(RECIPE.model, RECIPE.pretrain.seq_len)
    assert field(text, "Training factors").startswith("2.000 hours") and f"{flops:.3g} FLOPs" in text
    grams = 1e6 * accounting.carbon(2.0, 100)
    assert f"0.2000 kWh at an assumed 100 W, {grams:.2f} g" in field(text, "Carbon footprint")
    rows = dict(re.findall(r"^\| (.+): .+ \| ([\d.]+) \|$", text, flags=re.M))
    assert rows["pretraining"] == "0.5432" and rows["helpfulness reward"] == "0.750" and rows["safety reward"] == "0.500"
    assert field(text, "V5: best score of PPO on held-out prompts") == "3.500"
    assert field(text, "V5: KL of PPO at that point, nats a reply") == "0.250"


def test_no_number_of_a_run_stands_in_the_text_itself(tmp_path):
    """Other records, another card: what the records do not decide holds no digit but names and the recipe's shape."""
    texts = []
    for i, factor in enumerate((1, 3)):
        records = {name: [{k: v * factor for k, v in r.items()} for r in rows] for name, rows in RECORDS.items()}
        files = json.loads(re.sub(r"\d+\.?\d*", lambda m, f=factor: str(json.loads(m[0]) * f), json.dumps(FILES)))
        texts.append(card(RECIPE, write(tmp_path / str(i), files, records)))
    for name in ("Training factors", "Carbon footprint", "Training data"):
        pairs = zip(*(re.findall(r"\d[\d,.e+]*\d|\d", field(t, name)) for t in texts), strict=True)
        assert {a for a, b in pairs if a == b} <= {"30", "2"}, name       # watts, and the name of Table 2


@pytest.mark.parametrize("gone", ["corpus", "pretrain", "sft", "variant", "preferences", "reward", "rlhf"])
def test_a_missing_stage_is_named(tmp_path, gone):
    files = {name: x for name, x in FILES.items() if not name.startswith(gone)}
    records = {name: x for name, x in RECORDS.items() if not name.startswith(gone)}
    text = card(RECIPE, write(tmp_path, files, records))
    assert {"rlhf": "V5"}.get(gone, gone) in " ".join(re.findall(r"\*\*missing\*\*: (.+?) was not run", text))


def test_an_empty_folder_gives_a_card_of_missing_stages(tmp_path):
    text = card(RECIPE, tmp_path)
    assert text.count("**missing**") >= 8
    assert not re.search(r"\d", "".join(field(text, n) for n in ("Architecture", "Training factors", "Carbon footprint")))


def test_what_was_measured_elsewhere_is_added(tmp_path):
    assert field(card(RECIPE, tmp_path, {"V5 over SFT": "0.61 (0.55 … 0.67)"}), "V5 over SFT") == "0.61 (0.55 … 0.67)"


def test_a_run_of_another_recipe_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="another shape than the recipe toy"):
        card(preset("toy"), tmp_path)
    with pytest.raises(ValueError, match="got 0"):
        card(RECIPE, tmp_path, watts=0)


def test_the_command_line_prints_a_card(tmp_path, capsys):
    write(tmp_path)
    shape = ["model.dim=32", "model.n_layers=3", "pretrain.long_share=0.0"]
    assert main(["card", "toy", f"workdir={tmp_path}", *shape]) == 0
    assert capsys.readouterr().out.strip() == card(RECIPE, tmp_path).strip()
    assert main(["card", "toy", f"workdir={tmp_path}"]) == 1 and "another shape" in capsys.readouterr().err
