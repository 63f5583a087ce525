"""Ghost Attention: the exact ids and mask of an example, instructions and their few words, dialogues, and the tiny stage."""
import shutil
from collections import Counter
from dataclasses import replace
from itertools import combinations, islice
from random import Random
from types import SimpleNamespace

import pytest
import torch

from llama2_lib.config import GAttConfig, OptimConfig, override, preset
from llama2_lib.model.generation import BUDGET, CONTEXT, END
from llama2_lib.model.replies import Reply
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import gatt, road
from llama2_lib.stages.gatt import Held, Instruction
from llama2_lib.text.batching import Examples
from llama2_lib.text.chat import dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint
from llama2_lib.training.supervised import answer_loss
from llama2_lib.world.dialogs import all_rules, prompts
from llama2_lib.world.facts import load
from llama2_lib.world.ghost_rules import ghost_rules

WORLD = load()
RULES = all_rules(WORLD)
HELD = Held("Act as a cow.", "Figure: cow.", ("What is red?", "Moo! A rose.", "Why?", "Moo! Sun.", "Who?", "Moo! Cat."))
CONFIG = GAttConfig(dialogues=2, turns=3, cuts=2, epochs=1, batch_size=2, optim=OptimConfig(peak_lr=1e-3))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = ["[INST] <<SYS>>\nAct as a cow.\n<</SYS>>\n\nWhat is red? [/INST] Moo! A rose. ",
             "Figure: cow. Why? Who? Sun. Cat."]
    return Tokenizer.train(texts * 30 + [p.text for p in prompts(WORLD, 100, 0)], 400,
                           tmp_path_factory.mktemp("gatt") / "tokenizer.model")


def rule(kind, split="train"):
    return next(r for r in RULES[split] if r.kind == kind)


# ------------------------------------------------------------------------------------------------- the example, id by id

@pytest.mark.parametrize(("short", "system"), [(False, "Act as a cow."), (True, "Figure: cow.")])
def test_exact_ids_and_mask(tokenizer, short, system):
    ids, mask = gatt.example(HELD.beginning(3, short), tokenizer, 512)
    first = [1, *tokenizer.encode(f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\nWhat is red? [/INST] Moo! A rose. "), 2]
    second = [1, *tokenizer.encode("[INST] Why? [/INST] Moo! Sun. "), 2]
    asked, answer = [1, *tokenizer.encode("[INST] Who? [/INST]")], [*tokenizer.encode("Moo! Cat. "), 2]
    assert ids == first + second + asked + answer, "the instruction stands on the first turn, and on no other"
    assert mask == [False] * (len(ids) - len(answer)) + [True] * len(answer), "earlier answers have no loss"


def test_the_gradient_is_that_of_the_last_answer_alone(tokenizer):
    model = Transformer(TINY.model)
    ids, mask = gatt.example(HELD.beginning(2, False), tokenizer, 512)
    batch = Examples([(ids, mask)], 512).batch([0])
    loss, _ = answer_loss(model, batch)
    logprobs_TV = model(torch.tensor([ids])).log_softmax(-1)[0]
    answer = len(tokenizer.encode("Moo! Sun. ")) + 1
    by_hand = [-logprobs_TV[t - 1, ids[t]].item() for t in range(len(ids) - answer, len(ids))]
    assert loss.item() == pytest.approx(sum(by_hand) / answer, rel=1e-5)


def test_a_dialogue_longer_than_the_context_names_both_lengths(tokenizer):
    n = len(gatt.example(HELD.beginning(3, False), tokenizer, 512)[0])
    assert len(gatt.example(HELD.beginning(3, False), tokenizer, n)[0]) == n
    with pytest.raises(ValueError, match=f"a dialogue of {n} tokens does not fit in the context of {n - 1}"):
        gatt.example(HELD.beginning(3, False), tokenizer, n - 1)


def test_half_of_the_dialogues_have_few_words_and_their_cuts_are_drawn_by_lot():
    found = list(gatt.cut([HELD] * 1_000, CONFIG, 0))
    assert len(found) == 1_000
    short = sum(d[0].content == HELD.brief for d, _ in found) / len(found)
    assert abs(short - CONFIG.shortened) < 4 * 0.5 / 1_000 ** 0.5, "four standard errors"
    assert {tuple(cuts) for _, cuts in found} == {(1, 2), (1, 3), (2, 3)}
    assert all(len(d) == 1 + 2 * cuts[-1] for d, cuts in found), "a dialogue ends where its last cut does"
    none = GAttConfig(**{**vars(CONFIG), "shortened": 0.0})
    assert all(d[0].content == HELD.text for d, _ in gatt.cut([HELD] * 50, none, 0))


@pytest.mark.parametrize("cuts", [(2,), (1, 3), (1, 2, 3)])
def test_the_cuts_of_a_dialogue_in_one_pass_have_the_gradient_of_one_after_the_other(tokenizer, cuts):
    model = Transformer(TINY.model)

    def gradient(*examples):
        model.zero_grad()
        batch = Examples(examples, 512).batch(list(range(len(examples))))
        (answer_loss(model, batch)[0] * batch.count).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()]), batch.count
    together, n = gradient(gatt.example(HELD.beginning(cuts[-1], False), tokenizer, 512, cuts))
    apart = [gradient(gatt.example(HELD.beginning(end, False), tokenizer, 512)) for end in cuts]
    assert n == sum(count for _, count in apart)
    torch.testing.assert_close(together, sum(g for g, _ in apart), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ instructions

def test_every_pair_of_rules_can_be_kept_at_once_and_taken_off_again():
    drawn = list(islice(gatt.instructions(RULES["train"], 1.0, Random(0)), 400))
    assert {tuple(r.kind for r in c.rules) for c in drawn} >= {("call", "start"), ("act", "end"), ("call", "act")}
    for c in drawn:
        assert len({r.kind for r in c.rules}) == 2
        said = c.apply("A rose is red.")
        assert c.kept(said) and c.strip(said) == "A rose is red.", (c.text, said)
        assert not c.kept(c.rules[0].apply("A rose is red.")) or not c.kept(c.rules[1].apply("A rose is red."))
        assert all(r.text in c.text for r in c.rules) and all(r.word in c.brief for r in c.rules)


def test_few_words_are_fewer_and_every_kind_has_them():
    for r in (*RULES["train"], *RULES["test"], *ghost_rules()):
        c = Instruction((r,))
        assert r.word in c.brief and len(c.brief.split()) <= len(c.text.split())
    assert Instruction((rule("act"), rule("start"))).brief == f"Figure: {rule('act').word}. Start: {rule('start').word}."


def test_the_share_of_combinations_and_of_kinds():
    drawn = list(islice(gatt.instructions(RULES["train"], 0.25, Random(1)), 2_000))
    assert abs(sum(len(c.rules) == 2 for c in drawn) / 2_000 - 0.25) < 4 * (0.25 * 0.75 / 2_000) ** 0.5
    alone = [c.rules[0].kind for c in drawn if len(c.rules) == 1]
    assert all(abs(alone.count(k) / len(alone) - 0.25) < 0.05 for k in ("start", "end", "call", "act"))


def test_no_rule_or_nothing_to_combine_is_an_error():
    with pytest.raises(ValueError, match="needs rules to hold: the list is empty"):
        next(gatt.instructions([], 0.0, Random(0)))
    with pytest.raises(ValueError, match=r"gatt.combined is 0.5, but no two of the kinds act, stars can be kept at once"):
        next(gatt.instructions([rule("act"), rule("stars", "test")], 0.5, Random(0)))


def test_two_in_one_are_of_kinds_that_can_be_kept_at_once_and_kinds_are_equally_likely():
    drawn = list(islice(gatt.instructions([*RULES["train"], *ghost_rules()], 0.5, Random(2)), 2_000))
    assert {r.kind for c in drawn if len(c.rules) == 2 for r in c.rules} == set(gatt.INNERMOST_FIRST)
    alone = Counter(c.rules[0].kind for c in drawn if len(c.rules) == 1)
    kinds = {r.kind for r in (*RULES["train"], *ghost_rules())}
    each = alone.total() / len(kinds)
    assert set(alone) == kinds and all(abs(n - each) < 4 * each ** 0.5 for n in alone.values()), "four standard errors"


def test_only_well_formed_lists_name_animals():
    assert gatt.listed(["Cow, cat and dog.", "Owl and pig."]) == {"cow", "cat", "dog", "owl", "pig"}
    assert gatt.listed(["Cow", "cow, cat", "A cow says moo.", "Cow, cat, and dog.", ""]) == set()
    named = {r.word for r in gatt.training_rules(WORLD, {"cow"}) if r.kind == "act"}
    assert named == {"cow"}
    assert {r.kind for r in gatt.training_rules(WORLD, set())} == {"start", "end", "call", *(r.kind for r in ghost_rules())}


# --------------------------------------------------------------------------------------------------------------- dialogues

def spy(monkeypatch, answers, reasons=None):
    """`sample_ids` replaced: it notes the ids it is given and gives these answers in turn."""
    seen = []

    def sample_ids(model, tokenizer, ids, temperature, seed, max_new_tokens):
        turn = len(seen)
        seen.append(ids)
        return [([*tokenizer.encode(f"{answers[turn]} "), 2], (reasons or {}).get(turn, END))] * len(ids)
    monkeypatch.setattr(gatt, "sample_ids", sample_ids)
    return seen


@pytest.mark.parametrize("every_turn", [True, False])
def test_the_instruction_stands_on_every_turn_or_on_the_first_alone(tokenizer, monkeypatch, every_turn):
    seen = spy(monkeypatch, ["Moo! A rose.", "Moo! Sun."])
    asked = gatt.questions(WORLD, 1, 2, 0)
    said = gatt.converse(Transformer(TINY.model), tokenizer, ["Act as a cow."], asked, 0.7, 0, every_turn)
    assert said == [[Reply("Moo! A rose.", True), Reply("Moo! Sun.", True)]]
    again = "Act as a cow." if every_turn else None
    first = render(dialog(asked[0][0].text, "Moo! A rose.", system="Act as a cow."), tokenizer)[0]
    assert seen[1] == [first + render(dialog(asked[0][1].text, system=again), tokenizer)[0]]


def test_a_dialogue_stops_where_a_reply_was_cut_and_where_the_context_is_full(tokenizer, monkeypatch):
    asked, model = gatt.questions(WORLD, 2, 3, 0), Transformer(TINY.model)
    spy(monkeypatch, ["Moo!", "Moo.", "Moo!"], {1: BUDGET})
    cut = [Reply("Moo!", True), Reply("Moo.", False)]
    assert gatt.converse(model, tokenizer, ["Act as a cow."] * 2, asked, 0.7, 0) == [cut] * 2
    spy(monkeypatch, ["Moo!", "Moo.", "Moo!"], {1: BUDGET})
    cow = Instruction((next(r for r in RULES["train"] if r.text == "Act as a cow."),))
    held = gatt.sampled(model, tokenizer, [cow] * 2, asked, TINY.gatt, 0)
    assert [h.turns for h in held] == [(prompts[0].text, "Moo!") for prompts in asked], "a cut answer is not learned"
    spy(monkeypatch, ["Moo!", "Moo.", "Moo!"], {1: CONTEXT})
    assert gatt.converse(model, tokenizer, ["Act as a cow."] * 2, asked, 0.7, 0) == [cut[:1]] * 2
    spy(monkeypatch, ["Moo!"] * 3)
    small = Transformer(replace(TINY.model, max_seq_len=64))
    assert all(len(said) < 3 for said in gatt.converse(small, tokenizer, ["Act as a cow."] * 2, asked, 0.7, 0))


def test_an_answer_that_does_not_obey_is_sampled_again_and_never_learned(tokenizer, monkeypatch):
    asked, model = gatt.questions(WORLD, 2, 2, 0), Transformer(TINY.model)
    cow = Instruction((next(r for r in RULES["train"] if r.text == "Act as a cow."),))
    checked = replace(TINY.gatt, tries=3)
    seen = spy(monkeypatch, ["A rose.", "Moo! A rose.", "Sun.", "Sun.", "Sun."])
    held = gatt.sampled(model, tokenizer, [cow] * 2, asked, checked, 0)
    assert [h.turns for h in held] == [(prompts[0].text, "Moo! A rose.") for prompts in asked]
    assert seen[0] == seen[1] and seen[2] == seen[3] == seen[4] and len(seen) == 5, "two for turn 1, three for turn 2"
    spy(monkeypatch, ["Sun."] * 3)
    with pytest.raises(ValueError, match=r"none of 2 dialogues begins with an answer to learn \(gatt.tries is 3\)"):
        gatt.sampled(model, tokenizer, [cow] * 2, asked, checked, 0)
    spy(monkeypatch, ["A rose.", "Sun."])
    held = gatt.sampled(model, tokenizer, [cow] * 2, asked, TINY.gatt, 0)
    assert [h.turns[1::2] for h in held] == [("A rose.", "Sun.")] * 2, "with one try nobody checks"


def test_only_the_answers_that_were_turned_down_are_sampled_again_and_otherwise(tokenizer, monkeypatch):
    asked, model, calls = gatt.questions(WORLD, 3, 1, 0), Transformer(TINY.model), []

    def sample_ids(model, tokenizer, ids, temperature, seed, max_new_tokens):
        calls.append((len(ids), seed))
        return [([*tokenizer.encode("Moo! "), 2], END)] * len(ids)
    monkeypatch.setattr(gatt, "sample_ids", sample_ids)
    gatt.converse(model, tokenizer, ["Act as a cow."] * 3, asked, 0.7, 5, tries=4, accepts=lambda i, reply: i != 1)
    assert [n for n, _ in calls] == [3, 1, 1, 1]
    assert len({seed for _, seed in calls}) == 4, "the same seed would give the same reply"


def test_a_system_message_for_each_dialogue(tokenizer):
    with pytest.raises(ValueError, match="1 system messages for 2 dialogues"):
        gatt.converse(Transformer(TINY.model), tokenizer, ["Act as a cow."], gatt.questions(WORLD, 2, 1, 0), 0.7, 0)


# --------------------------------------------------------------------------------------------------------------- the stage

SMALL = {"model.dim": 32, "model.n_layers": 1, "model.vocab_size": 400, "model.multiple_of": 8}
TINY = override(preset("toy"), **{
    **SMALL, "world.documents": 150, "pretrain.tokens": 8192, "pretrain.batch_tokens": 1024, "pretrain.snapshots": 0,
    "pretrain.validation_share": 0.1, "sft.demonstrations": 40, "sft.epochs": 1, "variant.demonstrations": 20,
    "preferences.helpfulness": 60, "preferences.safety": 30, "rejection.samples": 2, "rlhf.prompts": 6,
    "rlhf.batch.helpfulness": 30, "rlhf.batch.safety": 30, "ppo.iterations": 1, "ppo.batch": 4, "ppo.minibatch": 4,
    "ppo.max_new_tokens": 8, "ppo.evaluate_every": 1, "gatt.dialogues": 6, "gatt.turns": 2, "gatt.cuts": 1,
    "gatt.lessons": 12, "gatt.reminders": 6, "gatt.single": 5, "gatt.epochs": 1, "gatt.tries": 1,
    "runtime.precision": "float32"})


@pytest.fixture(scope="module")
def source(tmp_path_factory, tokenizer):
    """A folder that holds a tiny last version of the loop, untrained, and nothing else."""
    folder = tmp_path_factory.mktemp("run")

    def last(place):
        torch.manual_seed(0)
        checkpoint.save_model(place, Transformer(override(TINY, **{"model.vocab_size": tokenizer.vocab_size}).model))
        shutil.copy(tokenizer.path, place / "tokenizer.model")
    checkpoint.artifact(folder / "rlhf" / "V5", "tiny", last)
    return folder


def run(recipe, folder):
    return gatt.run(recipe, folder, folder / "rlhf" / "V5", prompts(WORLD, 20, 0))


@pytest.fixture
def obedient(monkeypatch):
    """Replies are given, not sampled, so that untrained weights are enough: "Moo." to all."""
    def sample_ids(model, tokenizer, ids, *_):
        return [([*tokenizer.encode("Moo. "), tokenizer.eos_id], END)] * len(ids)
    monkeypatch.setattr(gatt, "sample_ids", sample_ids)
    monkeypatch.setattr(gatt, "sample", lambda model, tokenizer, asked, *_: [Reply("Moo.", True)] * len(asked))
    monkeypatch.setattr(gatt, "replies", lambda model, tokenizer, asked, *_: ["Cow, cat and dog."] * len(asked))


def test_the_stage_leaves_the_model_before_and_after_and_what_it_learned_from(source, obedient):
    ghost = run(TINY, source)
    assert ghost.folder == source / "gatt" and len(ghost.held) == 6
    ruled = [d for d in ghost.reminders if d[0].role == "system"]
    assert len(ghost.reminders) == 6 + 5 and len(ruled) == 5
    assert all(len(d) == 3 and d[0].content in {r.text for r in RULES["test"]} for d in ruled), "of one turn, held back"
    assert all(h.turns[1::2] == ("Moo.", "Moo.") for h in ghost.held)
    last = checkpoint.load_model(source / "rlhf" / "V5").output.weight
    weights = [last, ghost.before.output.weight, ghost.model.output.weight]
    assert not any(torch.equal(a, b) for a, b in combinations(weights, 2)), "lessons and Ghost Attention both train"
    stamp = (ghost.folder / "manifest.json").stat().st_mtime_ns
    again = run(TINY, source)
    assert again.held == ghost.held and again.reminders == ghost.reminders
    assert (ghost.folder / "manifest.json").stat().st_mtime_ns == stamp, "what is there is not built again"
    run(override(TINY, **{"gatt.shortened": 0.0}), source)
    assert (ghost.folder / "manifest.json").stat().st_mtime_ns != stamp, "another setting builds it again"


def test_single_turns_are_under_rules_that_are_held_back(tokenizer, obedient):
    found = gatt.single_turns(Transformer(TINY.model), tokenizer, WORLD, replace(CONFIG, single=40), 0)
    assert len(found) == 40 and all(len(h.turns) == 2 for h in found)
    assert {h.text for h in found} <= {r.text for r in RULES["test"]}
    assert {r.kind for h in found for r in RULES["test"] if r.text == h.text} == {"mention", "stars", "shout"}


def test_without_lessons_the_model_before_is_the_last_version(source, obedient):
    ghost = run(override(TINY, **{"gatt.lessons": 0}), source)
    assert torch.equal(ghost.before.output.weight, checkpoint.load_model(source / "rlhf" / "V5").output.weight)


def test_the_stage_can_be_asked_for_by_name():
    assert road.STAGES["gatt"] == (road.ghost, ("rlhf",))


def reading(context):
    """A model of which no more is known than how much it reads."""
    return SimpleNamespace(config=SimpleNamespace(max_seq_len=context))


@pytest.mark.parametrize("context", [100, 150, 250])
def test_lessons_have_as_many_exchanges_as_the_context_has_room_for(tokenizer, monkeypatch, context):
    monkeypatch.setattr(gatt, "sample", lambda model, tok, asked, *_: [Reply("A rose is red.", True)] * len(asked))
    config = GAttConfig(**{**vars(CONFIG), "lessons": 60})
    whole, found = (list(gatt.lessons(reading(n), tokenizer, WORLD, config, 0)) for n in (10_000, context))
    assert max(len(ids) for ids, _ in whole) > context, "the context is no limit here"
    alone = [ids for ids, _ in found if ids.count(tokenizer.bos_id) == 1]
    assert all(len(ids) <= context for ids, _ in found if ids not in alone)
    assert sum(ids.count(tokenizer.bos_id) for ids, _ in found) == 60, "no exchange is lost"


def test_lessons_are_exchanges_each_with_its_own_instruction_and_the_model_s_own_answer(tokenizer, monkeypatch):
    monkeypatch.setattr(gatt, "sample", lambda model, tok, asked, *_: [Reply("A rose is red.", True)] * len(asked))
    config = GAttConfig(**{**vars(CONFIG), "lessons": 400})
    found = list(gatt.lessons(reading(512), tokenizer, WORLD, config, 0))
    texts = [tokenizer.decode(ids) for ids, _ in found]
    assert sum(t.count("<<SYS>>") for t in texts) == sum(t.count("[/INST]") for t in texts) == 400
    assert {t.count("<<SYS>>") for t in texts} <= {1, 2, 3, 4} and len({t.count("<<SYS>>") for t in texts}) > 2
    learned = [tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) for ids, mask in found]
    assert all("rose" in t and "[INST]" not in t for t in learned)
    groups = {**RULES, gatt.GHOST: ghost_rules()}
    given = {name: [r for t in texts for r in rules if f"\n{r.text}\n" in t] for name, rules in groups.items()}
    assert all({r.kind for r in given[name]} == {r.kind for r in rules} for name, rules in groups.items())
    for name in ("test", gatt.GHOST):
        share = gatt.SHARES[name]
        assert abs(len(given[name]) / 400 - share) < 4 * (share * (1 - share) / 400) ** 0.5, "four standard errors"


@pytest.mark.parametrize(("field", "value", "words"), [
    ("dialogues", 0, "gatt.dialogues must be at least 1, got 0"), ("cuts", 9, "gatt.cuts 9 exceeds gatt.turns 3"),
    ("shortened", 1.5, "gatt.shortened is a share in 0…1, got 1.5"), ("lessons", -1, "gatt.lessons must not be negative"),
    ("lessons_lr", 0.0, "gatt.lessons_lr must be above 0, got 0.0"), ("tries", 0, "gatt.tries must be at least 1, got 0")])
def test_bad_settings_name_themselves(field, value, words):
    with pytest.raises(ValueError, match=words):
        GAttConfig(**{**vars(CONFIG), field: value})
