"""The tokenizer: SentencePiece BPE as Llama 2 uses it (section 2.2).

Every digit is its own token and an unknown character falls back to its UTF-8 bytes, so any text can be written and read
back. Ids follow Llama 2's published model: unk 0, bos 1, eos 2, then the 256 bytes; there is no pad id (Meta's is −1), so
batches are padded with the unk id, which is masked everywhere and never produced. Text never becomes a control id: the
three characters `<s>` in a user's message are three characters.

The merging itself is SentencePiece's work; notebook 02 shows it on a toy alphabet.
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece

SPACE_MARK = "\u2581"     # SentencePiece writes a space as this character, so the character itself needs care
UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
BYTE_PIECES = 256


class Tokenizer:
    """Text to ids and back, by a SentencePiece model."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, path: Path) -> None:
        specials = (processor.unk_id(), processor.bos_id(), processor.eos_id())
        if specials != (UNK_ID, BOS_ID, EOS_ID):
            raise ValueError(f"{path}: (unk, bos, eos) ids are {specials}; Llama 2's are {(UNK_ID, BOS_ID, EOS_ID)}")
        self._processor = processor
        self.path = path
        self.vocab_size: int = processor.get_piece_size()
        self.unk_id, self.bos_id, self.eos_id = UNK_ID, BOS_ID, EOS_ID
        self.pad_id = UNK_ID
        self._space_mark_ids = [processor.piece_to_id(f"<0x{b:02X}>") for b in SPACE_MARK.encode()]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, path: str | os.PathLike) -> Tokenizer:
        """Learn `vocab_size` pieces from `texts` and write the model to `path`.

        Raises ValueError if there is no text, or if the text is too poor to give that many pieces.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            try:
                sentencepiece.SentencePieceTrainer.train(
                    sentence_iterator=_sentences(texts), model_writer=file, vocab_size=vocab_size, model_type="bpe",
                    split_digits=True, byte_fallback=True, character_coverage=0.9999, unk_id=UNK_ID, bos_id=BOS_ID,
                    eos_id=EOS_ID, pad_id=-1, normalization_rule_name="identity", remove_extra_whitespaces=False,
                    max_sentence_length=1_000_000, num_threads=1, minloglevel=2)
            except RuntimeError as error:
                raise ValueError(f"a vocabulary of {vocab_size} pieces cannot be learned from this text: {error}") from error
        os.replace(temporary, path)
        return cls.load(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Tokenizer:
        """Read a SentencePiece model file, ours or Meta's tokenizer.model."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer at {path}")
        try:
            return cls(sentencepiece.SentencePieceProcessor(model_file=str(path)), path)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{path} is not a SentencePiece model: {error}") from error

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """The ids of `text`; `bos` and `eos` add Llama 2's document marks. ValueError for a lone surrogate."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text is not valid Unicode at character {error.start}: {text[error.start]!r}") from error
        ids: list[int] = []
        for i, part in enumerate(text.split(SPACE_MARK)):
            if i:
                ids += self._space_mark_ids
            ids += self._processor.encode(part) if i == 0 else self._continue(part)
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def encode_batch(self, texts: Sequence[str], bos: bool = False, eos: bool = False) -> list[list[int]]:
        """`encode` of many texts at once, several times faster."""
        plain = [i for i, t in enumerate(texts) if SPACE_MARK not in t and t.isascii()]
        quick = dict(zip(plain, self._processor.encode([texts[i] for i in plain]), strict=True))
        return [[self.bos_id] * bos + quick[i] + [self.eos_id] * eos if i in quick else self.encode(t, bos, eos)
                for i, t in enumerate(texts)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; control ids vanish, bytes that are not UTF-8 become U+FFFD. ValueError for an unknown id."""
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"id {i} is outside the vocabulary of {self.vocab_size}")
        return self._processor.decode([i for i in ids if i not in (self.unk_id, self.bos_id, self.eos_id)])

    def piece(self, token_id: int) -> str:
        """The piece behind an id, with SentencePiece's mark shown as it is: for looking, not for decoding."""
        return self._processor.id_to_piece(token_id)

    def pieces(self, text: str) -> list[str]:
        """The pieces of `text`, in order."""
        return [self.piece(i) for i in self.encode(text)]

    def _continue(self, part: str) -> list[int]:
        """Ids of text that follows other text: without the space SentencePiece puts before the first word."""
        if not part:
            return []
        anchor = self._processor.encode("\n")
        joined = self._processor.encode("\n" + part)
        if joined[:len(anchor)] != anchor:      # a model that merges newlines: fall back to bytes, which always decode
            return [self._processor.piece_to_id(f"<0x{b:02X}>") for b in part.encode()]
        return joined[len(anchor):]


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Non-empty lines of the texts: SentencePiece learns within lines. ValueError if there are none."""
    empty = True
    for text in texts:
        for line in text.split("\n"):
            if line.strip():
                empty = False
                yield line
    if empty:
        raise ValueError("there is no text to train a tokenizer on")
