"""What a chat model is worth, judged on replies that are known: a function of the dialogue in place of a network."""
from random import Random
from statistics import fmean

import pytest
import torch

from llama2_lib.analysis import chat
from llama2_lib.config import ModelConfig
from llama2_lib.model import replies
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import prompts
from llama2_lib.world.facts import TEST, TRAIN, is_held_out, load, split_of, worked_sum
from llama2_lib.world.replies import answer, damaged, demonstration

WORLD = load()
TRUTH = {p.text: p for split in (TRAIN, TEST) for p in chat.fact_prompts(WORLD, split)}


@pytest.fixture
def says(monkeypatch):
    """Replaces sampling by a function of the prompt's text."""
    def use(reply):
        def fake(model, tokenizer, dialogs, temperature=0.0, seed=0, max_new_tokens=0, copies=1):
            return [chat.Reply(reply(d[-1].content), True) for d in dialogs]
        for module in (chat, replies):
            monkeypatch.setattr(module, "sample", fake)
    return use


def test_fact_prompts_ask_every_fact_of_their_split_once_and_no_other():
    for split in (TRAIN, TEST):
        asked = [p.fact for p in chat.fact_prompts(WORLD, split)]
        assert set(asked) == {f for f in WORLD.facts if split_of(f) == split}
        assert len(asked) == len(set(asked))


def test_sum_prompts_of_the_test_split_stand_in_no_document():
    assert all(is_held_out(*p.operands) for p in chat.sum_prompts(WORLD, 50))
    assert not any(is_held_out(*p.operands) for p in chat.sum_prompts(WORLD, 50, TRAIN))


def test_accuracy_counts_right_replies_by_kind(says):
    rng = Random(0)
    says(lambda text: answer(WORLD, TRUTH[text].fact, rng) if TRUTH[text].fact.relation == "capital" else "I do not know.")
    found = chat.chat_fact_accuracy(None, None, WORLD)
    assert found.by_kind["capital"] == 1
    assert {share for kind, share in found.by_kind.items() if kind != "capital"} == {0}


def test_sums_are_parted_by_carrying(says):
    asked = chat.sum_prompts(WORLD, 200)
    operands = {p.text: p.operands for p in asked}
    says(lambda text: worked_sum(*operands[text]) if sum(n % 10 for n in operands[text]) < 10 else "No idea.")
    assert chat.accuracy(None, None, WORLD, asked).by_kind == {"no carry": 1, "carry": 0}


def test_accuracy_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no question"):
        chat.accuracy(None, None, WORLD, [])


def test_gold_is_high_for_demonstrations_and_lower_for_damaged_replies(says):
    asked = {p.text: p for p in prompts(WORLD, 60, 0, split=TEST)}
    rng = Random(1)
    means = []
    for write in (demonstration, damaged):
        says(lambda text, write=write: write(WORLD, asked[text], rng))
        means.append(chat.mean_gold(chat.judged(None, None, WORLD, list(asked.values()))))
    assert means[0] > 0.9 > means[1] + 0.2


def test_gold_by_kind_puts_rules_apart_and_sorts(says):
    says(lambda text: "Well.")
    found = chat.judged(None, None, WORLD, list(prompts(WORLD, 200, 0, split=TEST)))
    by_kind = chat.gold_by_kind(found)
    assert list(by_kind.values()) == sorted(by_kind.values(), reverse=True)
    assert by_kind["rule"] == pytest.approx(fmean(j.gold.total for j in found if j.prompt.rule))


def tiny(tmp_path, size=400):
    tokenizer = Tokenizer.train([f"{p.text} [INST] [/INST]" for p in prompts(WORLD, 200, 0)], size, tmp_path / "t.model")
    torch.manual_seed(0)
    return tokenizer, Transformer(ModelConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=size, multiple_of=8,
                                              max_seq_len=64))


def test_losses_part_answers_from_prompts_token_by_token(tmp_path):
    tokenizer, model = tiny(tmp_path)
    examples = [render(dialog("What does a cow eat?", "A cow eats grass."), tokenizer),
                ([1, 9, 8, 2], [False, False, True, True])]
    sums, counts = [0.0, 0.0], [0, 0]
    for ids, mask in examples:
        for t in range(1, len(ids)):      # one forward pass a token: nothing is shifted, nothing is masked
            with torch.no_grad():
                p = model(torch.tensor([ids[:t]]))[0, -1].double().softmax(-1)[ids[t]]
            sums[mask[t]] -= float(p.log())
            counts[mask[t]] += 1
    answer, prompt = chat.losses(model, examples)
    assert answer == pytest.approx(sums[True] / counts[True], abs=1e-4)
    assert prompt == pytest.approx(sums[False] / counts[False], abs=1e-4)
    assert abs(answer - prompt) > 1e-3, "the two means must differ, or the test could not tell them apart"


def test_a_text_in_the_chat_format_is_continued_as_its_dialogue_is(tmp_path):
    tokenizer, model = tiny(tmp_path)
    asked = ["What does a cow eat?", "What is 2 + 2?"]
    by_dialog = chat.sample(model, tokenizer, [dialog(text) for text in asked], max_new_tokens=6)
    assert chat.continued(model, tokenizer, [f"[INST] {text} [/INST]" for text in asked], max_new_tokens=6) == by_dialog
    assert chat.continued(model, tokenizer, asked, max_new_tokens=6) != by_dialog


def test_sampling_leaves_the_model_in_its_mode_and_refuses_a_dialogue_that_waits_for_nothing(tmp_path):
    tokenizer, model = tiny(tmp_path)
    model.train()
    (reply,) = chat.sample(model, tokenizer, [dialog("What does a cow eat?")], max_new_tokens=5)
    assert model.training
    assert not reply.finished
    with pytest.raises(ValueError, match="dialogue 1 does not end on a user message"):
        chat.sample(model, tokenizer, [dialog("Hi."), dialog("Hi.", "Ho.")])
