"""Attention weights against the model's own output, and the measures of Ghost Attention on dialogues given by hand."""
from random import Random

import numpy as np
import pytest
import torch

from llama2_lib.analysis import attention
from llama2_lib.analysis import gatt_studies as studies
from llama2_lib.config import ModelConfig, preset
from llama2_lib.model.replies import Reply
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import gatt
from llama2_lib.text.chat import dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import demonstration, prompts
from llama2_lib.world.facts import TEST, TRAIN, load
from llama2_lib.world.ghost_rules import ghost_rules

WORLD = load()
CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=400, multiple_of=8, max_seq_len=256)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train([p.text for p in prompts(WORLD, 200, 0)], 400, tmp_path_factory.mktemp("t") / "t.model")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    m = Transformer(CONFIG).eval()
    with torch.no_grad():                     # larger than at the start, so that heads look at something
        for layer in m.layers:
            layer.attention.wq.weight.mul_(3)
            layer.attention_norm.weight.uniform_(0.5, 2)
    return m


def test_attention_weights_times_the_values_are_what_the_layer_puts_out(model):
    ids = torch.randint(400, (23,), generator=torch.Generator().manual_seed(0)).tolist()
    weights_LNTT = attention.weights(model, ids)
    assert weights_LNTT.shape == (2, 4, 23, 23)
    assert torch.allclose(weights_LNTT.sum(-1), torch.ones(2, 4, 23))
    assert weights_LNTT.triu(1).abs().max() == 0, "nobody looks ahead"
    outputs, inputs = [], []

    def note(_, given, out):
        inputs.append(given[0])
        outputs.append(out)
    hooks = [layer.attention.register_forward_hook(note) for layer in model.layers]
    with torch.no_grad():
        model(torch.tensor([ids]))
        for hook in hooks:
            hook.remove()
        for layer, a_NTT, x_BTD, out_BTD in zip(model.layers, weights_LNTT, inputs, outputs, strict=True):
            v_TKH = layer.attention.wv(x_BTD)[0].unflatten(-1, (2, -1))
            by_hand = torch.stack([a_NTT[n] @ v_TKH[:, n // 2] for n in range(4)], dim=1)    # two heads share a key head
            assert torch.allclose(layer.attention.wo(by_hand.flatten(1)), out_BTD[0], atol=1e-5)


def test_attention_of_nothing_or_of_too_much_is_refused(model):
    for n in (0, 257):
        with pytest.raises(ValueError, match=f"attention of {n} tokens in a context of 256"):
            attention.weights(model, [1] * n)


def test_bins_hold_the_largest_weight_of_all_heads():
    weights_LNTT = torch.zeros(1, 2, 4, 4)
    weights_LNTT[0, 0, 3, 0], weights_LNTT[0, 1, 2, 1], weights_LNTT[0, 1, 1, 1] = 0.4, 0.7, 0.2
    assert attention.binned(weights_LNTT, 2) == pytest.approx(np.array([[0.2, 0.0], [0.7, 0.0]]))
    with pytest.raises(ValueError, match="4 tokens do not fill 9 bins"):
        attention.binned(weights_LNTT, 9)


def test_the_system_span_is_the_message_with_its_marks(tokenizer):
    ids = render(dialog("Why?", "So.", system="Act as a cow."), tokenizer)[0]
    span = studies.system_span("Act as a cow.", tokenizer, ids)
    assert tokenizer.decode(ids[span]).strip() == "<<SYS>>\nAct as a cow.\n<</SYS>>"
    with pytest.raises(ValueError, match="does not begin with the system message 'Act as an owl.'"):
        studies.system_span("Act as an owl.", tokenizer, ids)


def test_attention_by_turn_is_that_of_the_tokens_that_write_the_answers(model, tokenizer):
    talk = dialog("Why?", "So it is.", "Who?", "The cat.", system="Act as a cow.")
    ids, mask = render(talk, tokenizer)
    span = studies.system_span("Act as a cow.", tokenizer, ids)
    share_LNT = attention.weights(model, ids)[..., span].sum(-1)
    starts = [t for t, i in enumerate(ids) if i == tokenizer.bos_id] + [len(ids)]
    for turn, (a, b) in enumerate(zip(starts, starts[1:], strict=False)):
        writing = [t - 1 for t in range(a, b) if mask[t]]
        largest = np.mean([share_LNT[:, :, t].max().item() for t in writing])
        mean = np.mean([share_LNT[:, :, t].mean().item() for t in writing])
        found = studies.attention_by_turn(model, tokenizer, talk)
        assert (found[0][turn], found[1][turn]) == pytest.approx((largest, mean), rel=1e-5)


def given_replies(monkeypatch, said):
    replies = [[Reply(text, True) for text in texts] for texts in said]
    monkeypatch.setattr(gatt, "converse", lambda model, tokenizer, systems, asked, *_: replies)


def test_recall_counts_kept_rules_by_turn_and_judges_the_rest(monkeypatch, tokenizer):
    given = studies.instructions(studies.all_rules(WORLD)[TRAIN], 2, 0)
    asked = gatt.questions(WORLD, 2, 3, 81, TEST)
    good = [[c.apply("Yes."), "Yes.", c.apply("Yes.")] for c in given]
    good[1] = good[1][:2]                                             # the second dialogue ends after two turns
    given_replies(monkeypatch, good)
    r = studies.recall(None, tokenizer, WORLD, given, 3, 0)
    assert r.by_turn() == [1.0, 0.0] and r.at(1) == 1.0
    assert r.asked == asked
    assert np.isnan(r.kept_NT[1, 2]) and np.isnan(r.gold_NT[1, 2]) and r.kept_NT[0, 2] == 1
    with pytest.raises(ValueError, match="turn 3 was reached by fewer than 10 dialogues"):
        r.at(3)


def test_the_gold_of_an_answer_does_not_depend_on_its_rule(monkeypatch, tokenizer):
    (c,) = studies.instructions(studies.all_rules(WORLD)[TRAIN], 1, 0)
    right = next(p.fact for p in gatt.questions(WORLD, 1, 20, 81, TEST)[0] if p.kind == "fact")
    asked = [[p for p in gatt.questions(WORLD, 1, 20, 81, TEST)[0] if p.fact == right][:1]]

    reply = demonstration(WORLD, asked[0][0], Random(0))
    monkeypatch.setattr(gatt, "questions", lambda *_: asked)
    found = []
    for text in (reply, c.apply(reply)):
        given_replies(monkeypatch, [[text]])
        r = studies.recall(None, tokenizer, WORLD, [c], 1, 0)
        found.append((float(r.kept_NT[0, 0]), float(r.gold_NT[0, 0])))
    assert found == [(0.0, 1.0), (1.0, 1.0)]


def test_new_words_stand_in_no_rule_of_the_world():
    known = {r.word.casefold() for split in studies.all_rules(WORLD).values() for r in split}
    drawn = studies.new_words(60, 0)
    assert {c.rules[0].kind for c in drawn} == set(studies.NEW_WORDS)
    for c in drawn:
        assert c.rules[0].word.casefold() not in known
        assert c.kept(c.apply("A rose is red.")) and not c.kept("A rose is red.")


def test_an_unknown_arm_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no arm 'half masks'; there are no masks, full words, four kinds"):
        studies.arm(None, tmp_path, None, "half masks")


@pytest.mark.parametrize("name", [*studies.PARTS, *studies.DATA])
def test_an_arm_learns_from_the_same_without_one_part(monkeypatch, tmp_path, tokenizer, name):
    recipe, cow = preset("toy"), next(r for r in studies.all_rules(WORLD)[TRAIN] if r.word == "cow")
    held, dash = [gatt.Held(cow.text, "", ("Why?", "Moo!"))], ghost_rules()[0]
    held.append(gatt.Held(dash.text, "", ("Why?", dash.apply("So."))))
    own = [dialog("Who?", "The cat."), dialog("Who?", "The cat!", system="Always shout.")]
    ghost = gatt.Ghost(tmp_path, "ghost", "before", tokenizer, held, own)
    seen = {}
    monkeypatch.setattr(gatt, "collect", lambda model, tokenizer, world, rules, *_: [r.text for r in rules])
    monkeypatch.setattr(gatt, "ghost_tune", lambda model, tokenizer, held, own, recipe, masks, title: seen.update(
        held=held, own=own, shortened=recipe.gatt.shortened, masks=masks))
    studies.trained_arm(recipe, ghost, name)
    whole = {"held": held, "own": own, "shortened": 0.5, "masks": True}
    assert {key for key in whole if seen[key] != whole[key]} == {{
        "no masks": "masks", "full words": "shortened", "four kinds": "held", "no single turns": "own"}[name]}
    assert seen["own"] == own or seen["own"] == own[:1]
    assert seen["held"] == held or seen["held"] == [cow.text], "a rule that it held, and none of the other table"


def test_what_carries_over_is_kept_at_the_last_turn_by_each_arm(monkeypatch, tmp_path, tokenizer):
    rules = {r.text: r for split in studies.all_rules(WORLD).values() for r in split}
    cow = next(r for r in rules.values() if r.word == "cow")
    dash = ghost_rules()[0]

    def converse(model, tokenizer, systems, asked, *_):
        """Ghost Attention forgets what it holds at the tenth turn, the arm what it never held at the second."""
        assert dash.text not in systems, "only the rules of the world are asked for"
        def kept(s, turn):
            return turn < 10 if model == "ghost" else turn < 2 or s == cow.text
        return [[Reply(rules[s].apply("Yes.") if kept(s, turn) else "Yes.", True) for turn in range(1, 11)][:len(asked[0])]
                for s in systems]
    monkeypatch.setattr(gatt, "converse", converse)
    held = [gatt.Held(r.text, "", ("Why?", "So.")) for r in (cow, dash)]
    ghost = gatt.Ghost(tmp_path, "ghost", "before", tokenizer, held, [])
    found = studies.carry_over_study(ghost, {"four kinds": "arm"}, WORLD, 0, count=12, turns=2)
    assert found == {"gatt": 1.0, "gatt_held_10": 0.0, "four kinds": 0.0, "four kinds_held_10": 1.0, "four kinds_gain": 1.0}


def test_the_model_s_own_example_is_taken_away_by_taking_the_rule_off_the_earlier_answers(monkeypatch, tokenizer):
    given = studies.instructions(studies.all_rules(WORLD)[TRAIN], 2, 0)
    given_replies(monkeypatch, [[c.apply("Yes."), c.apply("No."), c.apply("Yes.")] for c in given])
    r = studies.recall(None, tokenizer, WORLD, given, 3, 0)
    seen = []

    def obeys_while_it_sees_obedience(model, tokenizer, talks, *_):
        seen.extend(talks)
        return [c.apply("Yes.") if c.kept(d[2].content) and c.kept(d[4].content) else "Yes."
                for c, d in zip(given, talks, strict=True)]
    monkeypatch.setattr(studies, "replies", obeys_while_it_sees_obedience)
    assert studies.by_example(None, tokenizer, r, 2, 0) == (1.0, 0.0)
    assert [len(d) for d in seen] == [6] * 4 and all(d[0].content == c.text for c, d in zip(given * 2, seen, strict=True))
    assert [d[4].content for d in seen[2:]] == ["No."] * 2
    with pytest.raises(ValueError, match="no dialogue goes on after 3 exchanges"):
        studies.by_example(None, tokenizer, r, 3, 0)


def test_the_map_of_a_dialogue_says_between_which_bins_the_system_message_stands(model, tokenizer):
    talk = dialog("Why?", "So it is.", "Who?", "The cat.", system="Act as a cow.")
    ids = render(talk, tokenizer)[0]
    found, (start, stop) = studies.maps({"one": model}, tokenizer, talk, 10)
    span = studies.system_span("Act as a cow.", tokenizer, ids)
    assert found["one"].shape == (10, 10)
    assert (start * len(ids) / 10, stop * len(ids) / 10) == pytest.approx((span.start, span.stop))


def test_rules_are_trained_where_a_dialogue_held_them(tmp_path):
    cow, pig = (next(r for r in studies.all_rules(WORLD)[TRAIN] if r.word == w) for w in ("cow", "pig"))
    held = [gatt.Held(f"{cow.text} Always end with bye.", "", ("Why?", "So."))]
    ghost = gatt.Ghost(tmp_path, None, None, None, held, [])
    assert {r.word for r in studies.trained_rules(ghost, WORLD)} == {"cow", "bye"}
    assert pig in studies.untrained_figures(ghost, WORLD) and cow not in studies.untrained_figures(ghost, WORLD)
    assert {r.kind for r in studies.untrained_figures(ghost, WORLD)} == {"act"}


def test_ablations_ask_each_arm_in_full_and_in_few_words(monkeypatch, tmp_path, tokenizer):
    cow = next(r for r in studies.all_rules(WORLD)[TRAIN] if r.word == "cow")
    ghost = gatt.Ghost(tmp_path, "ghost", None, tokenizer, [gatt.Held(cow.text, "", ("Why?", "So."))], [])
    monkeypatch.setattr(gatt, "converse", lambda model, tokenizer, systems, asked, *_: [
        [Reply("Moo! Yes." if model == "ghost" or s == cow.text else "Yes.", True)] for s in systems])
    found = studies.ablation_study(ghost, {"full words": "arm"}, WORLD, 0, count=3, turns=1)
    assert {k: v for k, v in found.items() if "gold" not in k} == {
        "gatt_full": 1.0, "gatt_brief": 1.0, "full words_full": 1.0, "full words_brief": 0.0,
        "full words_full_gain": 0.0, "full words_brief_gain": 1.0}


def test_table_30_has_the_same_numbers_for_every_seed_however_long_the_dialogues_grow(monkeypatch, tmp_path, tokenizer):
    rules = studies.all_rules(WORLD)[TRAIN]
    ghost = gatt.Ghost(tmp_path, "ghost", "before", tokenizer, [gatt.Held(rules[0].text, "", ("Why?", "So."))], [])
    found = []
    given = {r.text: r for r in rules}
    for length in (11, 14):
        monkeypatch.setattr(gatt, "converse", lambda model, tokenizer, systems, asked, *_, n=length: [
            [Reply(given[s].apply("Yes.") if model == "ghost" or t == 0 else "Yes.", True) for t in range(n)]
            for s in systems])
        found.append(studies.recall_study(ghost, "control", WORLD, 0, count=2, turns=14))
    assert set(found[0]) == set(found[1])
    assert found[1]["turns_gatt"] == 14 and found[1]["gatt_beyond_10"] == 1.0 and found[1]["before_beyond_10"] == 0.0
    assert found[0]["least_to_10"] == 1.0 and found[0]["before_6"] == 0.0 and found[0]["gold_over_control"] == 0.0
