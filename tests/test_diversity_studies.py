"""The measures of diversity over the temperature, on replies and numbers small enough to check by hand."""
import numpy as np
import pytest
from scipy import stats

from llama2_lib.analysis import diversity_studies as studies
from llama2_lib.analysis.bootstrap import interval, resampled
from llama2_lib.analysis.diversity import distinct, self_bleu, word_entropy
from llama2_lib.config import ModelConfig
from llama2_lib.model.transformer import Transformer
from llama2_lib.model.weights import save_hf
from llama2_lib.text.chat import dialog
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.dialogs import prompts
from llama2_lib.world.facts import TEST, load, split_of


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train([p.text for p in prompts(load(), 200, 0)], 400, tmp_path_factory.mktemp("t") / "tokenizer.model")


@pytest.fixture(scope="module")
def model():
    return Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=400, multiple_of=16,
                                   max_seq_len=256))


def flat(level, slope, temperatures, noise=()):
    """A spread whose Self-BLEU is level + slope · T, plus a number for each prompt."""
    values_PT = level + slope * np.asarray(temperatures) + np.asarray(noise or (0.0, 0.0, 0.0))[:, None]
    return studies.Spread(values_PT, values_PT, values_PT)


def test_factual_prompts_have_one_right_answer_and_no_demonstration_asks_them():
    world = load()
    asked = list(prompts(world, 30, 3, studies.KINDS[studies.FACTUAL], TEST))
    assert [m[0].content for m in studies.instructions(world, 30, 3)[studies.FACTUAL]] == [p.text for p in asked]
    assert all(split_of(p.fact) == TEST for p in asked if p.fact)
    assert {p.kind for p in prompts(world, 30, 3, studies.KINDS[studies.CREATIVE])} == {"story", "poem"}


def test_a_spread_holds_the_measures_of_each_prompt_at_each_temperature():
    said_TP = [[["a b c"] * 3, ["a b", "c d", "a b"]], [["a b c", "a b d", "x y z"], ["p q r s", "p q", "r s"]]]
    found = studies.spread(said_TP, n=2)
    assert found.self_bleu_PT.shape == (2, 2)
    for t in range(2):
        for p in range(2):
            assert found.self_bleu_PT[p, t] == self_bleu(said_TP[t][p], 2)
            assert found.distinct_PT[p, t] == distinct(said_TP[t][p], 2)
            assert found.entropy_PT[p, t] == word_entropy(said_TP[t][p])


def test_slopes_are_scipys():
    temperatures, rng = (0.4, 0.6, 1.4), np.random.default_rng(0)
    values_PT = rng.random((4, 3))
    want = [stats.linregress(temperatures, row).slope for row in values_PT]
    assert studies.Spread(values_PT, values_PT, values_PT).slope_P(temperatures) == pytest.approx(want)


def test_the_bootstrap_is_as_wide_as_the_standard_error_says():
    values = np.random.default_rng(1).normal(size=200)
    low, high = interval(resampled(values, resamples=20_000))
    want = stats.norm.interval(0.95, values.mean(), values.std() / 200**0.5)
    assert (low, high) == pytest.approx(want, abs=0.01)
    with pytest.raises(ValueError, match="at least one value"):
        resampled([])


def test_changes_are_taken_prompt_by_prompt():
    temperatures = (0.0, 1.0, 2.0)
    spread_out = (0.0, 5.0, -3.0)                     # prompts differ widely, and alike before and after
    before = {g: flat(1.0, -0.5, temperatures, spread_out) for g in studies.GROUPS}
    after = {studies.FACTUAL: flat(1.0, -0.2, temperatures, spread_out),
             studies.CREATIVE: flat(1.1, -0.5, temperatures, spread_out)}
    found = studies.changes(before, after, temperatures)
    assert found["slope factual"] == pytest.approx((0.3, 0.3, 0.3))          # no prompt's change differs: no width
    assert found["slope creative"] == pytest.approx((0, 0, 0), abs=1e-9)
    assert found["rise factual"] == pytest.approx((0.6,) * 3)                # at the hottest temperature
    assert found["mean rise factual"] == pytest.approx((0.3,) * 3)
    assert found["rise difference"] == pytest.approx((0.5,) * 3)


def test_replies_are_grouped_by_prompt_and_one_greedy_reply_is_like_the_other(model, tokenizer):
    asked = [dialog("What is 1 + 1?"), dialog("Write a poem about a fox.")]
    cold, hot = (studies.said((model, tokenizer), asked, t, samples=3, max_new_tokens=12) for t in (0.0, 1.0))
    assert [len(row) for row in cold] == [len(row) for row in hot] == [3, 3]
    assert all(len(set(row)) == 1 for row in cold)
    assert all(len(set(row)) > 1 for row in hot)


def test_the_study_finds_no_change_between_a_model_and_itself(model, tokenizer):
    found = studies.diversity_study({"a": (model, tokenizer), "b": (model, tokenizer)}, load(), 0, asked=2, samples=2)
    assert [found[f"{k}_b"] for k in ("rise_difference", "slope_factual", "slope_difference")] == [0, 0, 0]
    assert found["factual_a_0.4"] == found["factual_b_0.4"]


def test_a_published_model_answers_the_paper_s_kind_of_prompts(model, tokenizer, tmp_path, monkeypatch):
    save_hf(model, tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    monkeypatch.setattr(studies, "REAL", {"factual": ("What is 1 + 1?",), "creative": ("Write a poem.",)})
    found = studies.real(tmp_path, samples=2, temperatures=(0.0, 1.0))
    assert all(cold > hot >= 0 for cold, hot in found.values())
