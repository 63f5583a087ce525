"""Contamination (A.6) against loops that follow its words, against Table 51, and against what the world planted."""
import itertools
import tracemalloc
from random import Random

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2_lib.config import WorldConfig
from llama2_lib.text import contamination as a6
from llama2_lib.text.contamination import Contamination, spans, subsets
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.world import faults, reading, web
from llama2_lib.world.facts import load

LINE = list(range(100, 160))
TABLE_51 = {  # model: mean of the clean, not clean, not dirty and dirty subset, and Z as printed, for MMLU Humanities
    "70B": ((3996, 62.2, 65.3, -4.08), (709, 82.7, 65.3, 9.71), (4185, 62.7, 65.3, -3.50), (520, 85.8, 65.3, 9.80)),
    "7B": ((3996, 40.8, 42.9, -2.75), (709, 54.9, 42.8, 6.50), (4185, 41.1, 42.9, -2.25), (520, 56.9, 42.8, 6.49))}


@st.composite
def cases(draw):
    """Samples and documents that share stretches with a few tokens changed, over few tokens, so that chance matches too."""
    rng, alphabet = Random(draw(st.integers(0, 10**6))), draw(st.sampled_from((2, 3, 30)))
    samples = [rng.choices(range(alphabet), k=rng.randint(1, 36)) for _ in range(draw(st.integers(1, 3)))]
    documents = []
    for _ in range(draw(st.integers(0, 3))):
        text = rng.choices(range(alphabet), k=rng.randint(0, 12))
        for _ in range(rng.randint(0, 2)):
            piece = list(rng.choice(samples))[rng.randint(0, 4):]
            for _ in range(rng.randint(0, 7)):
                if piece:
                    piece[rng.randrange(len(piece))] = rng.randrange(alphabet)
            text += piece + rng.choices(range(alphabet), k=rng.randint(0, 5))
        documents.append(text)
    return samples, documents


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(0, 5))
def test_equals_the_loops(case, budget):
    samples, documents = case
    found = Contamination(samples, (10, 13, 20), budget).read(documents)
    for length in (10, 13, 20):
        for sample, marks in zip(samples, found.marks(length), strict=True):
            assert marks.tolist() == reference.contaminated_by_loops(sample, documents, length, budget)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_false_proposals_buffers_and_slices_change_nothing(case):
    """Every hash collides, buffers hold a few tokens, pairs are compared three at a time: the marks stay."""
    samples, documents = case
    usual = Contamination(samples).read(documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(a6, "_hashes", lambda ids_T: np.zeros(max(0, len(ids_T) - 9), dtype=np.uint64))
        patch.setattr(a6, "BUFFER", 20)
        patch.setattr(a6, "PROPOSALS", 3)
        odd = Contamination(samples).read(documents)
    for length in a6.LENGTHS:
        assert all(map(np.array_equal, usual.marks(length), odd.marks(length)))
    assert (usual.documents, usual.tokens) == (len(documents), sum(map(len, documents)))


def marked(document, **how):
    return Contamination([LINE], **how).read([document]).marks()[0]


def changed(*places, line=LINE):
    return [1 if i in places else token for i, token in enumerate(line)]


@pytest.mark.parametrize(("document", "count"), [
    (LINE, 60), (LINE[:11], 11), (LINE[:10], 0), (changed(20, 30, 40, 50), 60), (changed(20, 22, 24, 26, 28), 59),
    (changed(9), 50), (changed(10, 59), 59), ([], 0)],
    ids=["all", "eleven", "ten", "four", "five: two spans", "one of the first ten", "none may trail", "empty"])
def test_by_hand(document, count):
    assert marked(document).sum() == count


def test_five_places_too_close_for_a_second_span_end_the_first():
    assert marked(changed(20, 28, 36, 44, 52)).sum() == 52
    assert marked(changed(20, 28, 36, 44, 52), budget=5).sum() == 60


def test_a_span_may_begin_before_the_document_and_no_span_runs_across_two_documents():
    assert np.flatnonzero(marked(LINE[20:])).tolist() == list(range(20, 60))
    assert Contamination([LINE], (10, 40)).read([LINE[:30], LINE[31:]]).shares(40)[0] == 0
    assert not Contamination([LINE[:8], LINE[8:16]]).read([LINE]).shares().any()


def test_longer_spans_are_asked_for_by_l():
    found = Contamination([LINE]).read([LINE[:31]])
    assert [found.shares(length)[0] * 60 for length in a6.LENGTHS] == pytest.approx([31, 31, 31, 0, 0])


def test_reading_goes_on():
    found = Contamination([LINE]).read([LINE[:20]]).read(iter([LINE[30:]]))
    assert found.shares()[0] * 60 == pytest.approx(50)


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 4))
def test_spans_are_spans(equal, budget):
    for start, end in spans(np.array(equal, dtype=bool), budget):
        assert all(equal[start:start + 10]) and equal[end - 1] and equal[start:end].count(False) <= budget


def test_memory_hangs_on_the_samples_and_not_on_the_number_of_documents():
    rng = np.random.default_rng(0)
    found = Contamination(rng.integers(0, 2000, (100, 60)))
    peaks = []
    for count in (2_000, 20_000):
        tracemalloc.start()
        found.read(rng.integers(0, 2000, 120) for _ in range(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert 2_000 * 120 < a6.BUFFER < 20_000 * 120
    assert peaks[1] < 80 * a6.BUFFER


# ---------------------------------------------------------------------------------------------------------------- statistics

@pytest.mark.parametrize("model", TABLE_51)
def test_z_of_table_51_follows_from_its_means(model):
    """A score of 0 or 1 a sample: σ² = μ (1 − μ). The printed means leave Z uncertain by half a digit of each."""
    for n, mean, expected, printed in TABLE_51[model]:
        mean, expected = mean / 100, expected / 100
        deviation = (expected * (1 - expected)) ** 0.5
        assert a6.z(mean, n, expected, deviation) == pytest.approx(printed, abs=0.001 / (deviation / n**0.5) + 0.02)


def test_z_is_the_spread_of_random_subsets():
    rng = np.random.default_rng(0)
    scores, shares = rng.random(400) < 0.4, np.repeat([0.0, 0.5, 1.0], (250, 70, 80))
    found = subsets(scores, shares)["clean"]
    draws = rng.choice(scores.astype(float), (20_000, 250)).mean(1)
    assert found.z == pytest.approx((found.mean - draws.mean()) / draws.std(), abs=0.05)


def test_the_four_subsets_share_their_bounds():
    found = a6.members([0.1999, 0.2, 0.7999, 0.8])
    assert {name: chosen.tolist() for name, chosen in found.items()} == {
        "clean": [True, False, False, False], "not clean": [False, True, True, True],
        "not dirty": [True, True, True, False], "dirty": [False, False, False, True]}


def test_evidence_needs_all_four_and_the_right_direction():
    shares = np.repeat([0.0, 1.0], 200)
    better = np.concatenate([np.tile([1, 0, 0, 0], 50), np.tile([1, 1, 1, 0], 50)])
    assert a6.affected(subsets(better, shares))
    assert not a6.affected(subsets(better[::-1], shares))              # the contaminated ones are worse
    assert not a6.affected(subsets(np.tile([1, 0], 200), shares))
    assert not a6.affected(subsets(better, np.zeros(400)))             # nothing is dirty: no evidence
    assert not a6.affected(subsets(np.ones(400), shares))
    fewer = subsets(better, np.repeat([0.0, 0.5, 1.0], (200, 190, 10)))
    assert fewer["clean"].z < -2 and not a6.affected(fewer)


def test_the_largest_length_with_an_effect():
    samples = [[i * 100 + k for k in range(60)] for i in range(200)]
    found = Contamination(samples).read(s[:32] for s in samples[:100])
    scores = np.repeat([1, 0], 100)
    assert a6.largest_length(scores, found) is None                    # half of each sample: not clean, but nothing is dirty
    found.read(s[:50] for s in samples[:100])
    assert a6.largest_length(scores, found) == 40
    assert a6.largest_length(np.tile([0, 1], 100), found) is None


# ------------------------------------------------------------------------------------------------------------- planted truth

@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    pages = list(web.pages(load(), WorldConfig(documents=2_500, contaminated=0.05), 3))
    tokenizer = Tokenizer.train((p.text for p in pages), 800, tmp_path_factory.mktemp("t") / "t.model")
    return pages, reading.benchmark(3), tokenizer


def read_crawl(crawl):
    pages, items, tokenizer = crawl
    samples, documents = (tokenizer.encode_batch([x.text for x in texts]) for texts in (items, pages))
    return Contamination(samples).read(documents)


def test_long_spans_find_what_was_planted_and_nothing_else(crawl):
    pages, items, _ = crawl
    found = read_crawl(crawl)
    planted = set(itertools.chain(*(p.contaminated for p in pages)))
    assert planted and {i.number for i, share in zip(items, found.shares(50), strict=True) if share >= a6.CLEAN} == planted
    for item, share in zip(items, found.shares(50), strict=True):
        if item.number in planted:
            assert share > 0.95 if item.planted == reading.WHOLE else 0.5 < share < 0.9


def test_short_spans_also_find_what_reports_have_in_common(crawl):
    """The reports are made of the same phrases; ten tokens of them prove nothing, and precision grows with L."""
    found = read_crawl(crawl)
    shares = [found.shares(length) for length in a6.LENGTHS]
    assert all((a >= b).all() for a, b in itertools.pairwise(shares))
    assert (shares[0] >= a6.CLEAN).sum() > (shares[-1] >= a6.CLEAN).sum()


def test_words_changed_by_the_page_are_bridged(crawl):
    _, items, tokenizer = crawl
    rng = Random(0)
    edited = [faults.edit(i.text, rng) for i in items]
    ids = tokenizer.encode_batch([i.text for i in items])
    shares = [np.mean([Contamination([s], budget=b).read([e]).shares()[0]
                       for s, e in zip(ids, tokenizer.encode_batch(edited), strict=True)]) for b in (0, 4)]
    assert 0.7 < shares[0] < shares[1]


@pytest.mark.parametrize(("samples", "how", "message"), [
    ([], {}, "no evaluation sample"), ([[1], []], {}, "sample 1 has no token"), ([[1, -1]], {}, "sample 0 is no row"),
    ([["a"]], {}, "sample 0 is no row"), ([[1]], {"lengths": (9,)}, r"10 or more, got \(9,\)"),
    ([[1]], {"budget": -1}, "got -1")])
def test_bad_samples_are_refused(samples, how, message):
    with pytest.raises(ValueError, match=message):
        Contamination(samples, **how)


def test_bad_documents_are_named():
    with pytest.raises(ValueError, match="document 1 is no row"):
        Contamination([LINE]).read([[1, 2], [0.5]])
    with pytest.raises(ValueError, match="L is one of 10, 20, 30, 40, 50, got 15"):
        Contamination([LINE]).shares(15)
    with pytest.raises(ValueError, match="got 2 and 1"):
        subsets([1, 0], [0.5])
