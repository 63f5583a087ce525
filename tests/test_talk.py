"""The chat widget: what it says is what the model would say, dialogues that outgrow the context, silence."""
import pytest
import torch

from llama2_lib.config import ModelConfig
from llama2_lib.course.talk import Chat
from llama2_lib.model.replies import sample
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.chat import dialog
from llama2_lib.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = ["[INST] Hello there. [/INST] Good day to you."] * 30
    return Tokenizer.train(texts, 300, tmp_path_factory.mktemp("talk") / "t.model")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=300, multiple_of=8,
                                   max_seq_len=64))


def test_a_reply_is_the_model_s_and_joins_the_dialogue(model, tokenizer):
    chat = Chat(model, tokenizer, temperature=0.0, max_new_tokens=10)
    reply = chat.say("Hello <b>there</b>.")
    assert reply == sample(model, tokenizer, [dialog("Hello <b>there</b>.")], 0.0, max_new_tokens=10)[0].text
    assert [m.role for m in chat.messages] == ["user", "assistant"]
    assert "&lt;b&gt;there" in chat.page.value and "<b>there" not in chat.page.value, "what is said is no markup"
    chat.forget()
    assert chat.messages == [] and "nothing said" in chat.page.value


def test_an_empty_line_says_nothing(model, tokenizer):
    chat = Chat(model, tokenizer)
    assert chat.say("  ") == "" and chat.messages == []


def test_a_long_dialogue_forgets_its_oldest_exchange_and_keeps_the_system_message(model, tokenizer):
    chat = Chat(model, tokenizer, system="Good day.", max_new_tokens=6)
    for _ in range(8):
        chat.say("Hello there.")
    assert 0 < len(chat.messages) < 16
    assert len(chat._fitting()) <= 64 - 6
    assert chat.system.value == "Good day."
