"""Table 9a by hand on five documents."""
import pytest

from llama2_lib.analysis.pronouns import PAPER, pronoun_shares


def test_shares_within_their_heading():
    texts = ["She saw him.", "They sleep. It is late.", "I ask you.", "It rains, itself.", "A cat eats fish."]
    shares = pronoun_shares(texts)
    assert shares.keys() == PAPER.keys()
    assert shares == {"any gender": 40, "she": 50, "he": 50, "they": 50, "any person": 80, "1st": 25, "2nd": 25, "3rd": 75}


def test_words_not_letters():
    assert pronoun_shares(["The hero heard sheep."])["any person"] == 0
    with pytest.raises(ValueError, match="at least one document"):
        pronoun_shares([])
