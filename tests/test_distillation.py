"""Context distillation: what is sampled under a preprompt, what the gate keeps, what is learned, and what a run leaves."""
import dataclasses
import math

import numpy as np
import pytest
import torch

from llama2_lib.config import DistillationConfig, override, preset
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import distillation
from llama2_lib.stages.distillation import Pair
from llama2_lib.text.batching import Examples
from llama2_lib.text.chat import dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.training.supervised import answer_loss
from llama2_lib.world.dialogs import howtos, prompts
from llama2_lib.world.facts import load
from llama2_lib.world.oracle import is_refusal
from llama2_lib.world.tables import TableError

RECIPE = override(preset("toy"), **{
    "model.dim": 32, "model.n_layers": 1, "model.vocab_size": 400, "model.multiple_of": 8, "distillation.prompts": 12,
    "distillation.lessons": 4, "distillation.epochs": 1, "runtime.precision": "float32"})
ASKED = list(prompts(load(), 6, 0, {"unsafe": 1}))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A chat model nobody trained, as a finished artifact."""
    def build(folder):
        texts = [f"[INST] {p.text} [/INST] I cannot help." for p in prompts(load(), 300, 0)]
        Tokenizer.train(texts, RECIPE.model.vocab_size, folder / "tokenizer.model")
        torch.manual_seed(0)
        checkpoint.save_model(folder, Transformer(RECIPE.model))
    return checkpoint.artifact(tmp_path_factory.mktemp("start") / "SFT", "key", build)


@pytest.fixture
def tokenizer(start):
    return Tokenizer.load(start / "tokenizer.model")


@pytest.fixture
def heard(monkeypatch):
    """Replaces sampling: a reply says whether a system message was there; what was asked is kept."""
    calls = []

    def fake(model, tok, dialogues, temperature, seed):
        calls.append((list(dialogues), temperature, seed))
        return ["under a preprompt" if d[0].role == "system" else "bare" for d in dialogues]
    monkeypatch.setattr(distillation, "replies", fake)
    return calls


def likes(word, tokenizer):
    """A scorer that gives 1 to dialogues with `word` in them, and refuses to see a preprompt."""
    def scorer(asked, rows):
        texts = [tokenizer.decode(ids) for ids in rows]
        assert not any("<<SYS>>" in text for text in texts), "the reward saw the preprompt"
        assert all(p.text in text for p, text in zip(asked, texts, strict=True))
        return [float(word in text) for text in texts]
    return scorer


def test_a_reply_is_sampled_under_the_preprompt_and_scored_without(tokenizer, heard):
    pairs = distillation.collect(None, tokenizer, ASKED, distillation.targeted, likes("preprompt", tokenizer), 0.7, 3)
    assert pairs == [Pair(p.text, "under a preprompt", 1.0, "bare", 0.0) for p in ASKED]
    (under, *_), (bare, *_) = heard
    assert [d[0].content for d in under] == [distillation.targeted(p, None) for p in ASKED]
    assert all(len(d) == 1 for d in bare)
    assert heard[0][2] != heard[1][2], "one seed for both would make the replies depend on each other"


def test_without_a_preprompt_both_replies_are_the_model_s_own(tokenizer, heard):
    pairs = distillation.collect(None, tokenizer, ASKED, None, likes("bare", tokenizer), 0.7, 3)
    assert {p.reply for p in pairs} == {"bare"}


def test_an_empty_reply_leaves_its_prompt_out(tokenizer, monkeypatch):
    monkeypatch.setattr(distillation, "replies", lambda *a: ["", *["x"] * (len(ASKED) - 1)])
    assert len(distillation.collect(None, tokenizer, ASKED, None, likes("x", tokenizer), 1.0, 0)) == len(ASKED) - 1


def test_a_prompt_under_a_rule_has_no_room_for_a_preprompt(tokenizer):
    rule = next(p for p in prompts(load(), 9, 0, {"rule": 1}))
    with pytest.raises(ValueError, match="stands under the rule"):
        distillation.collect(None, tokenizer, [rule], distillation.generic, lambda p, r: [], 1.0, 0)


@pytest.mark.parametrize(("with_it", "without", "kept"), [(1.0, 0.5, True), (0.5, 1.0, False), (1.0, 1.0, False)])
def test_the_gate_keeps_what_the_preprompt_made_better(with_it, without, kept):
    pair = Pair("How?", "No.", with_it, "So.", without)
    assert distillation.learned([pair]) == ([dialog("How?", "No.")] if kept else [])
    assert distillation.learned([pair], gate=False) == [dialog("How?", "No.")]


def test_lessons_hold_each_kind_and_keep_what_the_model_says_without_a_preprompt(tokenizer, heard):
    found = list(distillation.lessons(None, tokenizer, load(), RECIPE.distillation, 0))
    n = RECIPE.distillation.lessons
    generic, targeted, harmless, own = found[:n], found[n:2 * n], found[2 * n:3 * n], found[3 * n:]
    assert all(is_refusal(d[-1].content) and d[0].content.startswith("You are a ") for d in generic)
    assert all(d[-1].content in distillation.TEMPLATES.values() and d[-1].content in d[0].content for d in targeted)
    assert all(d[0].role == "system" and not is_refusal(d[-1].content) for d in harmless)
    assert [d[0].role for d in own] == ["user"] * (distillation.PLAIN * n) and {d[1].content for d in own} == {"bare"}


def test_every_unsafe_request_has_a_category():
    assert set(distillation.risks()) == {h.request for h in howtos(load()) if h.kind == "unsafe"}


def test_a_fault_in_the_table_of_risks_names_its_line(tmp_path):
    (tmp_path / "risks.csv").write_text("request,category\nwake the dragon,harmful\nboil an egg,yummy\n")
    with pytest.raises(TableError, match=r"risks.csv, line 3: category 'yummy' is none of illicit, harmful, advice"):
        distillation.risks(tmp_path / "risks.csv")


def test_only_unsafe_prompts_have_a_risk():
    with pytest.raises(ValueError, match="is no unsafe prompt"):
        distillation.risk_of(next(prompts(load(), 1, 0, {"fact": 1})))


def test_the_loss_is_the_mean_surprise_of_the_reply_alone(start, tokenizer):
    model = checkpoint.load_model(start).eval()
    examples = [render(dialog(p.text, reply), tokenizer) for p, reply in zip(ASKED, ("No.", "I cannot help."), strict=False)]
    want = []
    for ids, mask in examples:        # one token after the other
        logp_TV = model(torch.tensor([ids[:-1]])).log_softmax(-1)[0]
        want += [-logp_TV[t, ids[t + 1]].item() for t in range(len(ids) - 1) if mask[t + 1]]
    batch = Examples(examples, 128).batch(np.array([0]))
    loss, _ = answer_loss(model, batch)
    assert loss.item() == pytest.approx(math.fsum(want) / len(want), abs=1e-5)


def test_a_run_leaves_the_model_before_and_after_and_is_not_built_twice(start, tmp_path):
    def scorer(asked, rows):
        return [float(len(r) % 7) for r in rows]
    found = distillation.run(RECIPE, tmp_path, start, scorer)
    first = checkpoint.load_model(start).output.weight
    weights = [first, found.taught.output.weight, found.policy.output.weight]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert len(found.pairs) == RECIPE.distillation.prompts and len({p.better for p in found.pairs}) == 2
    stamp = (found.folder / "manifest.json").stat().st_mtime_ns
    distillation.run(RECIPE, tmp_path, start, None)
    assert (found.folder / "manifest.json").stat().st_mtime_ns == stamp
    untaught = override(RECIPE, **{"distillation.lessons": 0})
    again = distillation.run(untaught, tmp_path, start, scorer)
    assert torch.equal(again.taught.output.weight, first), "without lessons the model before is the one that came in"


@pytest.mark.parametrize(("field", "value", "words"), [
    ("prompts", 0, "distillation.prompts must be at least 1, got 0"),
    ("lessons", -1, "distillation.lessons must not be negative, got -1"),
    ("temperature", -0.1, "temperature must not be negative, got -0.1")])
def test_bad_settings_name_themselves(field, value, words):
    with pytest.raises(ValueError, match=words):
        DistillationConfig(**{**dataclasses.asdict(RECIPE.distillation), "optim": RECIPE.distillation.optim, field: value})
