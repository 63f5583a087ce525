"""The leak of claim C32: what is planted, what is counted against it, and the study's numbers on a leak made by hand."""
from dataclasses import replace

import numpy as np
import pytest

from llama2_lib.analysis import contamination as leaks
from llama2_lib.config import override, preset
from llama2_lib.text.contamination import Contamination
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world.reading import benchmark

ITEMS = leaks.reports(0, 40)
RECIPE = preset("toy")


def test_the_items_are_none_of_the_corpus_s_own():
    assert not {i.text for i in ITEMS} & {i.text for i in benchmark(0)}


def test_pages_hold_the_planted_items_and_no_other():
    texts = leaks.crawl(RECIPE, ITEMS, pages=60, copies=6)
    assert len(texts) == 60
    web, passages = "\n".join(texts), {i.passage for i in ITEMS if i.planted}
    assert all(i.planted_text in web for i in ITEMS if i.planted), "some copy of six stands unedited"
    assert not any(i.passage in web for i in ITEMS if not i.planted)
    assert sum(web.count(p) for p in passages) < 6 * len(passages), "and some were edited"
    assert not any(i.text in web for i in ITEMS if i.planted == "passage")


@pytest.fixture(scope="module")
def leak(tmp_path_factory):
    texts = leaks.crawl(RECIPE, ITEMS, pages=60, copies=6)
    tokenizer = Tokenizer.train(texts, 600, tmp_path_factory.mktemp("t") / "t.model")
    found = Contamination(tokenizer.encode_batch([i.text for i in ITEMS])).read(tokenizer.encode_batch(texts))
    planted = np.array([bool(i.planted) for i in ITEMS])
    return leaks.Leak(ITEMS, found, planted, np.arange(40) % 2 == 0)


def test_the_study_finds_what_was_planted_and_that_it_paid(leak):
    found = leaks.leak_study(leak)
    assert found["precision"] == found["recall"] == 1 and found["affected"]
    assert max(found["z_clean"], found["z_not_dirty"]) < -2 and min(found["z_dirty"], found["z_not_clean"]) > 2
    assert found["accuracy_clean"] == 0 and found["accuracy_not_clean"] == 1
    assert not found["control_affected"] and abs(found["control_z_clean"]) < 2
    assert all(np.isfinite(list(found.values())))


def test_without_an_effect_the_longest_length_is_reported(leak):
    other = replace(leak, leaked_S=leak.control_S)
    assert other.length == 50 and not leaks.leak_study(other)["affected"]


def test_a_model_s_answers_are_counted_as_they_stand(monkeypatch):
    def says(model, tokenizer, asked, room):
        assert all(text.endswith("Answer:") for text in asked) and room > 3
        return [f" {i.answer}.\nMore." if k % 2 else f" {i.answer}ish" for k, i in enumerate(ITEMS)]
    monkeypatch.setattr(leaks, "complete", says)

    class Words:
        def encode(self, text):
            return text.split()
    assert leaks.answered(None, Words(), ITEMS).tolist() == [k % 2 == 1 for k in range(40)]


def test_both_models_train_for_equally_many_steps_on_a_tiny_run(tmp_path):
    tiny = override(RECIPE, **{"model.dim": 32, "model.n_layers": 1, "model.vocab_size": 360, "model.multiple_of": 8,
                               "world.documents": 150, "pretrain.tokens": 8192, "pretrain.batch_tokens": 1024,
                               "pretrain.snapshots": 0, "pretrain.validation_share": 0.1, "runtime.precision": "float32"})
    found = leaks.leak(tiny, tmp_path, count=16, pages=20, copies=2)
    assert len(found.leaked_S) == len(found.control_S) == 16 and found.contamination.documents == 20
    assert found.score(50).recall > 0.6
