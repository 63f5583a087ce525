"""The stages from web page to chat model on a tiny recipe: losses by hand, artifacts reused or rebuilt, the command line."""
import json
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llama2_lib.__main__ import main, value
from llama2_lib.config import PretrainConfig, override, preset
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import pretrain, road, sft
from llama2_lib.text.batching import Batch
from llama2_lib.text.chat import Message
from llama2_lib.world.facts import TEST, is_held_out, load, split_of, sum_pairs

TINY = {"model.dim": 32, "model.n_layers": 1, "model.vocab_size": 360, "model.multiple_of": 8, "world.documents": 150,
        "pretrain.tokens": 8192, "pretrain.batch_tokens": 1024, "pretrain.snapshots": 2, "pretrain.validation_share": 0.1,
        "sft.demonstrations": 40, "sft.epochs": 1, "variant.demonstrations": 20, "preferences.helpfulness": 60,
        "preferences.safety": 30, "runtime.precision": "float32"}


def tiny(**changes):
    return override(preset("toy"), **{**TINY, **changes})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("road")
    return folder, road.build("sft", tiny(), folder)


def stamp(folder):
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("*/manifest.json")}


def test_the_road_leaves_a_model_and_its_records_at_each_stage(built):
    folder, chat = built
    base = road.build("pretrain", tiny(), folder)
    assert [row["step"] for row in base.history] == list(range(1, 9))
    assert base.summary["validation_loss"] < math.log(360) + 1
    assert list(base.snapshots()) == [3, 5]
    assert not torch.equal(base.model.output.weight, chat.model.output.weight)
    assert chat.tokenizer.path.read_bytes() == (folder / "corpus" / "tokenizer.model").read_bytes()


def test_two_reward_models_come_from_the_preferences_of_two_chat_models(built):
    folder, _ = built
    rewards = road.build("reward", tiny(), folder)
    pairs = road.build("preferences", tiny(), folder)
    assert {side for side in pairs.train if pairs.train[side]} == {"helpfulness", "safety"} == set(rewards.history)
    texts = {side: {c.prompt for c in pairs.train[side]} & {c.prompt for c in pairs.test[side]} for side in pairs.train}
    assert not any(texts.values()), "no prompt is both trained on and held out"
    assert not torch.equal(rewards.helpfulness.head.out.weight, rewards.safety.head.out.weight)
    before = stamp(folder)
    road.build("reward", tiny(), folder)
    assert stamp(folder) == before
    road.build("reward", tiny(**{"reward.margins": "large"}), folder)
    after = stamp(folder)
    assert after["reward"] != before["reward"] and after["preferences"] == before["preferences"]


def test_safety_demonstrations_replace_others_and_change_none_of_them():
    world, config = load(), preset("toy").sft
    plain, mixed = (list(sft.demonstrations(world, override(preset("toy"), **{"sft.safety": s}).sft, 0)) for s in (0.0, 0.2))
    same = sum(a == b for a, b in zip(plain, mixed, strict=True)) / config.demonstrations
    assert same == pytest.approx(0.8, abs=0.03)


def test_nothing_is_built_twice_and_a_changed_setting_rebuilds_what_hangs_on_it(built):
    folder, _ = built
    before = stamp(folder)
    road.build("sft", tiny(), folder)
    assert stamp(folder) == before
    road.build("sft", tiny(**{"sft.epochs": 2}), folder)
    after = stamp(folder)
    assert after["sft"] != before["sft"]
    assert (after["pretrain"], after["corpus"]) == (before["pretrain"], before["corpus"])


def test_two_builds_give_the_same_bytes(built, tmp_path):
    folder, _ = built
    again = road.build("pretrain", tiny(), tmp_path).folder
    assert (again / "weights.safetensors").read_bytes() == (folder / "pretrain" / "weights.safetensors").read_bytes()


def test_pretraining_goes_on_from_its_last_state_with_the_same_bytes(built, tmp_path, monkeypatch):
    folder, _ = built
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    saving, real, calls = tiny(**{"runtime.save_every": 2}), pretrain.pretrain_loss, []

    def power_cut(model, batch):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(model, batch)
    monkeypatch.setattr(pretrain, "pretrain_loss", power_cut)
    with pytest.raises(KeyboardInterrupt):
        road.build("pretrain", saving, tmp_path)
    monkeypatch.setattr(pretrain, "validation_loss", lambda *_: 0.0)
    again = road.build("pretrain", saving, tmp_path)
    assert len(calls) == 6 + 4, "it went on from the state after the fourth of eight steps"
    assert (again.folder / "weights.safetensors").read_bytes() == (folder / "pretrain" / "weights.safetensors").read_bytes()
    assert list(again.snapshots()) == [3, 5] and not (again.folder / "state").exists()


def batch_of(seed, vocab=50, B=3, T=7):
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, vocab, (B, T + 1), generator=g)
    return Batch(tokens[:, :-1], tokens[:, 1:], torch.rand(B, T, generator=g) < 0.4)


def test_both_losses_are_the_mean_over_the_labels_that_count():
    torch.manual_seed(0)
    model = Transformer(override(preset("toy"), **{"model.dim": 32, "model.vocab_size": 50}).model)
    batch = batch_of(1)
    logits = model(batch.tokens_BT)
    by_hand = [-F.log_softmax(logits[b, t], -1)[batch.labels_BT[b, t]]
               for b in range(3) for t in range(7) if batch.mask_BT[b, t]]
    for loss in (pretrain.pretrain_loss, sft.sft_loss):
        assert torch.allclose(loss(model, batch)[0], torch.stack(by_hand).mean(), atol=1e-6), loss.__name__


def test_the_validation_part_is_never_trained_on():
    stream = np.arange(10_000, dtype=np.uint16)
    optim = preset("toy").pretrain.optim
    config = PretrainConfig(tokens=4096, batch_tokens=512, seq_len=64, validation_share=0.1, optim=optim)
    train, validation = pretrain.split(stream, config)
    assert len(validation) == 1000 and train[-1] + 1 == validation[0]
    batches = [next(loader) for loader in [pretrain.loader(train, config, 0)] for _ in range(60)]
    assert max(int(batch.labels_BT.max()) for batch in batches) < 9000


def test_validation_loss_weighs_a_smaller_last_batch_right():
    torch.manual_seed(0)
    model = Transformer(override(preset("toy"), **{"model.dim": 32, "model.vocab_size": 50}).model)
    stream = torch.randint(3, 50, (16 * 5 + 1,)).numpy()
    one, four = (pretrain.validation_loss(model, stream, 16, batch_size=n) for n in (1, 4))
    assert one == pytest.approx(four, abs=1e-6)


def test_demonstrations_ask_only_what_fine_tuning_may_ask():
    world = load()
    tests = {q for f in world.facts if split_of(f) == TEST for q in
             (t.replace("{subject}", f.subject) for t in world.relations[f.relation].questions)}
    dialogues = list(sft.demonstrations(world, preset("toy").sft, seed=3))
    asked = [m.content for d in dialogues for m in d if m.role == "user"]
    assert len(dialogues) == preset("toy").sft.demonstrations
    assert not tests & set(asked)
    held_out = {f"{a} + {b}" for a, b in sum_pairs("test")}
    assert all(is_held_out(*map(int, s.split(" + "))) for s in list(held_out)[:50])
    assert not any(f" {s}?" in f" {q}" or q.startswith(f"{s} =") for q in asked for s in held_out if s in q)


def test_noise_spoils_answers_and_only_answers():
    world, config = load(), preset("toy").sft
    clean = list(sft.demonstrations(world, config, 0))
    noisy = list(sft.demonstrations(world, override(preset("toy"), **{"sft.noise": 1.0}).sft, 0))
    assert all(isinstance(m, Message) for d in noisy for m in d)
    different = sum(a != b for a, b in zip(clean, noisy, strict=True)) / len(clean)
    assert different > 0.8


@pytest.mark.parametrize(("changes", "error"), [
    ({"world.documents": 5}, "stream of|pieces cannot be learned"),
    ({"pretrain.batch_tokens": 1000}, "not a multiple"),
])
def test_too_little_text_is_said_before_training(tmp_path, changes, error):
    with pytest.raises(ValueError, match=error):
        road.build("pretrain", tiny(**changes), tmp_path)
    assert not list(tmp_path.glob("pretrain")), "nothing half-written may stay"


def test_command_line(built, capsys):
    folder, _ = built
    settings = [f"{k}={v}" for k, v in TINY.items()]
    assert main(["pretrain", "toy", f"workdir={folder}", *settings]) == 0
    assert str(folder / "pretrain") in capsys.readouterr().out
    assert main(["pretrain", "toy", "model.dimm=3"]) == 1
    assert "model.dimm" in capsys.readouterr().err
    assert main(["pretrain", "toy", "seed"]) == 2
    assert main(["nonsense", "toy"]) == 1
    assert main([]) == 2


@pytest.mark.parametrize(("text", "result"), [("3", 3), ("1e-3", 1e-3), ("true", True), ("None", None), ("(1, 2)", (1, 2)),
                                              ("runs/x", "runs/x")])
def test_values_from_the_command_line(text, result):
    assert value(text) == result


def test_records_are_plain_json(built):
    _, chat = built
    rows = (chat.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(row)["loss"] > 0 for row in rows)
