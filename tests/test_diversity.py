"""Self-BLEU against NLTK's sentence BLEU with smoothing method 1, and the two measures that stand beside it."""
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from llama2_lib.analysis import diversity

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "cow", "moon", "the", "of"]), max_size=14).map(" ".join)


def by_nltk(texts, n):
    words = [t.split() for t in texts]
    method1 = SmoothingFunction().method1
    scores = [sentence_bleu(words[:i] + words[i + 1:], w, (1 / n,) * n, method1) if w else 0.0 for i, w in enumerate(words)]
    return sum(scores) / len(scores)


@settings(deadline=None, max_examples=150)
@given(st.lists(WORDS, min_size=2, max_size=7), st.integers(1, 5))
def test_self_bleu_is_nltks(texts, n):
    assert diversity.self_bleu(texts, n) == pytest.approx(by_nltk(texts, n), abs=1e-9)


def test_equal_texts_score_one_and_texts_without_a_common_word_zero():
    assert diversity.self_bleu(["the cow eats grass today"] * 5) == pytest.approx(1)
    assert diversity.self_bleu(["a b c d e", "f g h i j"]) == 0


def test_the_order_of_the_texts_does_not_matter():
    texts = ["the cow eats grass", "the cow eats hay", "a dog eats the grass", "the the the the"]
    assert diversity.self_bleu(texts, 3) == pytest.approx(diversity.self_bleu(texts[::-1], 3))


def test_distinct_and_entropy():
    assert diversity.distinct(["a b a b", "a b"], 1) == pytest.approx(2 / 6)
    assert diversity.distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert diversity.distinct(["a"], 2) == 0
    assert diversity.word_entropy(["a b", "a b"]) == pytest.approx(math.log(2))
    assert diversity.word_entropy(["a a", "a"]) == 0
    assert diversity.word_entropy([""]) == 0


@pytest.mark.parametrize(("texts", "n", "message"), [(["a"], 3, "got 1"), (["a", "b"], 0, "at least 1, got 0")])
def test_bad_input_is_named(texts, n, message):
    with pytest.raises(ValueError, match=message):
        diversity.self_bleu(texts, n)
