"""The loop of versions on a tiny recipe: what each leaves, what a stopped run keeps, from which winners a version learns."""
import dataclasses
import shutil

import pytest
import torch

from llama2_lib.config import RLHFConfig, override, preset
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import reward, rlhf, road, sft
from llama2_lib.stages.rejection import Winner
from llama2_lib.text.chat import dialog
from llama2_lib.world.dialogs import prompts
from llama2_lib.world.facts import load

TINY = {"model.dim": 32, "model.n_layers": 1, "model.vocab_size": 360, "model.multiple_of": 8, "world.documents": 150,
        "pretrain.tokens": 8192, "pretrain.batch_tokens": 1024, "pretrain.snapshots": 0, "pretrain.validation_share": 0.1,
        "sft.demonstrations": 40, "sft.epochs": 1, "variant.demonstrations": 20, "preferences.helpfulness": 60,
        "preferences.safety": 30, "rejection.samples": 3, "rlhf.prompts": 12, "rlhf.batch.helpfulness": 40,
        "rlhf.batch.safety": 30, "ppo.iterations": 2, "ppo.batch": 8, "ppo.minibatch": 4, "ppo.max_new_tokens": 8,
        "ppo.evaluate_every": 1, "runtime.precision": "float32"}
RECIPE = override(preset("toy"), **TINY)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rlhf")
    return folder, road.build("rlhf", RECIPE, folder)


def stamps(folder):
    return {p.parent.name: p.stat().st_mtime_ns for p in (folder / "rlhf").glob("*/manifest.json")}


def test_six_versions_and_only_the_last_has_seen_ppo(built):
    _, versions = built
    assert [v.name for v in versions] == ["SFT", "V1", "V2", "V3", "V4", "V5"]
    assert [v.before_ppo is not None for v in versions] == [False] * 5 + [True]
    outputs = [v.policy.output.weight for v in versions]
    assert all(not torch.equal(a, b) for a, b in zip(outputs, outputs[1:], strict=False))
    heads = [v.rewards["safety"].head.out.weight for v in versions]
    assert all(not torch.equal(a, b) for a, b in zip(heads, heads[1:], strict=False))
    assert len((versions[-1].folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_run_that_stopped_goes_on_after_its_last_whole_version(built):
    folder, versions = built
    before = stamps(folder)
    shutil.rmtree(folder / "rlhf" / "V5")
    again = rlhf.run(RECIPE, folder)
    after = stamps(folder)
    assert {name for name in before if before[name] != after[name]} == {"V5"}
    weights = (v[-1].policy.output.weight for v in (versions, again))
    assert torch.equal(*weights), "the version that was built again is the same"


def test_a_setting_of_ppo_rebuilds_the_last_version_alone(built):
    folder, _ = built
    before = stamps(folder)
    rlhf.run(override(RECIPE, **{"ppo.beta": 0.5}), folder)
    after = stamps(folder)
    assert {name for name in before if before[name] != after[name]} == {"V5"}


def test_an_unknown_version_is_refused(built):
    with pytest.raises(ValueError, match="no version 'V6'; there are SFT, V1"):
        rlhf.run(RECIPE, built[0], "V6")


@pytest.mark.parametrize(("bag_from", "rounds"), [(1, 3), (3, 3), (4, 1)])
def test_the_bag_holds_all_rounds_from_the_version_that_the_recipe_names(built, tmp_path, monkeypatch, bag_from, rounds):
    _, versions = built
    learned = []
    monkeypatch.setattr(sft, "tune", lambda model, tokenizer, dialogues, *_, **__: learned.extend(dialogues))
    monkeypatch.setattr(rlhf.rejection, "select", lambda *_: [Winner(dialog("Hi.", "V3's own"), 1.0)])
    recipe = dataclasses.replace(RECIPE, rlhf=dataclasses.replace(RECIPE.rlhf, bag_from=bag_from))
    rlhf.sampled(recipe, versions[:3], "V3", 0, tmp_path)
    earlier = [len(rlhf.rejection.read(v.folder / rlhf.WINNERS)) for v in versions[1:3]]
    assert len(learned) == 1 + (sum(earlier) if rounds == 3 else 0)
    assert learned[-1][-1].content == "V3's own"


def test_the_score_of_a_safety_prompt_is_the_safety_model_s(monkeypatch):
    asked = [next(prompts(load(), 1, 0, {kind: 1})) for kind in ("unsafe", "sum", "fact")]
    said = {"helpfulness": [1.0, 2.0, 3.0], "safety": [0.5, -1.7, -1.8]}
    models = {side: reward.fresh(Transformer(RECIPE.model), 0) for side in said}
    monkeypatch.setattr(reward, "joint_scores", lambda chosen, rows, dtype: [said[s] for s in models if models[s] in chosen])
    found = rlhf.scorer(models)(asked, [[1]] * 3)
    assert found == pytest.approx([0.5, 2.0, -1.8]), "and so is that of a reply below 0.15, which is -1.73"


def test_retraining_leaves_the_older_reward_models_as_they_were(built):
    folder, versions = built
    older = versions[1].rewards
    before = {side: model.head.out.weight.clone() for side, model in older.items()}
    batch = {side: rlhf.files.read(versions[2].folder / f"{side}.jsonl") for side in before}
    newer = rlhf.retrain(RECIPE, older, versions[1].tokenizer, batch, [folder / "preferences"])
    for side, weight in before.items():
        assert torch.equal(older[side].head.out.weight, weight)
        assert not torch.equal(newer[side].head.out.weight, weight)


@pytest.mark.parametrize(("field", "value", "words"), [("prompts", 0, "rlhf.prompts must be at least 1, got 0"),
                                                       ("bag_from", 0, "rlhf.bag_from must be at least 1, got 0"),
                                                       ("safety", 1.5, "rlhf.safety is a share in 0…1, got 1.5")])
def test_bad_settings_name_themselves(field, value, words):
    with pytest.raises(ValueError, match=words):
        RLHFConfig(**{"prompts": 5, "batch": RECIPE.preferences, field: value})
