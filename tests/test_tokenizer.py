"""The tokenizer: round trips, digits, bytes, control ids, bad input."""
import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from llama2_lib.text.tokenizer import BYTE_PIECES, Tokenizer

TEXT = ["The cat sat on the mat and saw 37 dogs.", "What is the capital of France? Paris is the capital of France.",
        "[INST] What is 1984 + 5? [/INST] It is 1989.", "Der Hund schläft im Garten.", "<<SYS>> Always rhyme. <</SYS>>"] * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train(TEXT, 380, tmp_path_factory.mktemp("tokenizer") / "tokenizer.model")


@given(text=st.text())
@example(text="▁leading and trailing▁ ")
@example(text="  two spaces\n\n\ttab\x00nul")
@example(text="<s></s><unk><0x0A>")
@example(text="👩‍👩‍👧 Ünïcödé 漢字 \u202e")
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text(alphabet="<s>/unk0xA▁ ") | st.text())
def test_text_never_becomes_a_control_id(tokenizer, text):
    assert not {0, 1, 2} & set(tokenizer.encode(text)), "the user could end the turn by writing </s>"


@given(texts=st.lists(st.text(), max_size=4))
def test_a_batch_is_one_by_one(tokenizer, texts):
    assert tokenizer.encode_batch(texts, bos=True) == [tokenizer.encode(t, bos=True) for t in texts]


def test_llama_2_ids(tokenizer):
    ids = tokenizer.encode("The cat", bos=True, eos=True)
    assert (ids[0], ids[-1]) == (1, 2) == (tokenizer.bos_id, tokenizer.eos_id)
    assert tokenizer.unk_id == 0 and tokenizer.pad_id not in (tokenizer.bos_id, tokenizer.eos_id)
    assert [tokenizer.piece(3 + b) for b in range(BYTE_PIECES)] == [f"<0x{b:02X}>" for b in range(BYTE_PIECES)]
    assert tokenizer.decode(ids) == "The cat"


def test_each_digit_is_a_token(tokenizer):
    digits = [p.lstrip("▁") for p in tokenizer.pieces("1984 37")]
    assert [d for d in digits if d] == list("198437"), "is split_digits on?"


def test_an_unseen_character_falls_back_to_bytes(tokenizer):
    assert tokenizer.pieces("ξ")[-2:] == ["<0xCE>", "<0xBE>"]


def test_same_text_same_model(tokenizer, tmp_path):
    again = Tokenizer.train(TEXT, 380, tmp_path / "t.model")
    assert again.path.read_bytes() == tokenizer.path.read_bytes()


def test_bad_input(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="no text"):
        Tokenizer.train(["", "\n \n"], 300, tmp_path / "t.model")
    with pytest.raises(ValueError, match="3000 pieces"):
        Tokenizer.train(["too little text"], 3000, tmp_path / "t.model")
    with pytest.raises(ValueError, match="character 1"):
        tokenizer.encode("a\ud800b")
    with pytest.raises(ValueError, match="id 9999"):
        tokenizer.decode([5, 9999])
    with pytest.raises(ValueError, match="id -1"):
        tokenizer.decode([-1])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Tokenizer.load(tmp_path / "nowhere.model")
    (tmp_path / "broken.model").write_bytes(tokenizer.path.read_bytes()[:100])
    with pytest.raises(ValueError, match="broken.model"):
        Tokenizer.load(tmp_path / "broken.model")


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    with (tmp_path / "other.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXT), model_writer=file, vocab_size=80,
                                                 model_type="bpe", bos_id=2, eos_id=1, minloglevel=2)
    with pytest.raises(ValueError, match=r"\(0, 2, 1\)"):
        Tokenizer.load(tmp_path / "other.model")
