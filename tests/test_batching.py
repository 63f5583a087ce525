"""Batches: windows, packing, masks at the seams, and loaders that resume."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama2_lib.text.batching import PACKED_ROW, PADDING_SEGMENT, Examples, Interleaved, Loader, Windows, packed

BOS, EOS = 1, 2


def documents(*lengths):
    """A stream of documents BOS 10 11 … EOS with the given numbers of inner tokens."""
    return np.concatenate([[BOS, *range(10, 10 + n), EOS] for n in lengths]).astype(np.uint16)


def example(n, start, answer):
    """n ids from `start`; the last `answer` of them are learned."""
    return [BOS, *range(start, start + n - 1)], [False] * (n - answer) + [True] * answer


def test_windows_predict_every_token_but_the_first_once():
    stream = documents(5, 7, 3, 9, 4)
    rows = Windows(stream, seq_len=4)
    batch = rows.batch(np.arange(len(rows)))
    assert batch.labels_BT.flatten().tolist() == stream[1:1 + 4 * len(rows)].tolist()
    assert torch.equal(batch.tokens_BT[:, 1:], batch.labels_BT[:, :-1])
    assert batch.count == batch.labels_BT.numel()


def test_isolated_windows_number_documents_and_restart_positions():
    batch = Windows(documents(2, 1, 5), seq_len=9, isolate_at=BOS).batch(np.array([0]))
    assert batch.tokens_BT.tolist() == [[1, 10, 11, 2, 1, 10, 2, 1, 10]]
    assert batch.segments_BT.tolist() == [[1, 1, 1, 1, 2, 2, 2, 3, 3]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1]]
    assert batch.mask_BT.tolist() == [[True, True, True, False, True, True, False, True, True]], \
        "nothing in a document says which document comes next"


def test_a_document_cut_by_the_window_counts_positions_from_the_row():
    batch = Windows(documents(6, 6), seq_len=5, isolate_at=BOS).batch(np.array([1]))
    assert batch.tokens_BT.tolist() == [[14, 15, 2, 1, 10]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1]]


def test_packed_row_by_hand():
    rows = Examples([example(3, 10, 1), example(4, 20, 2)], seq_len=8)
    batch = rows.batch(np.array([0]))
    assert batch.tokens_BT.tolist() == [[1, 10, 11, 1, 20, 21]]
    assert batch.labels_BT.tolist() == [[10, 11, 1, 20, 21, 22]]
    assert batch.mask_BT.tolist() == [[False, True, False, False, True, True]]
    assert batch.segments_BT.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1, 2]]


def test_rows_that_see_each_other_share_one_segment_and_run_on():
    batch = Examples([example(3, 10, 1), example(4, 20, 2)], seq_len=8, isolate=False).batch(np.array([0]))
    assert batch.segments_BT.unique().tolist() == [0]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_padding_is_its_own_segment_and_never_learned():
    batch = Examples([example(3, 10, 1), example(6, 20, 2)], seq_len=6, pack=False).batch(np.array([0, 1]))
    padding = batch.segments_BT == PADDING_SEGMENT
    assert padding.tolist() == [[False] * 3 + [True] * 2, [False] * 5]
    assert not (batch.mask_BT & padding).any()
    assert batch.count == 3


@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=60), pack=st.booleans(), isolate=st.booleans())
def test_packing_loses_and_invents_nothing(lengths, pack, isolate):
    examples = [example(n, 100 * i + 10, 1 + i % (n - 1)) for i, n in enumerate(lengths)]
    rows = Examples(examples, seq_len=24, pack=pack, isolate=isolate)
    batch = rows.batch(np.arange(len(rows)))
    learned = sorted(batch.labels_BT[batch.mask_BT].tolist())
    assert learned == sorted(i for ids, mask in examples for i, m in zip(ids, mask, strict=True) if m)
    assert 0 < rows.fill <= 1


def learned(batch):
    """Each label that counts, with its position and all tokens that it may be told from."""
    found = []
    for r, t in batch.mask_BT.nonzero().tolist():
        seen = batch.segments_BT[r, :t + 1] == batch.segments_BT[r, t]
        found.append((int(batch.labels_BT[r, t]), int(batch.positions_BT[r, t]), batch.tokens_BT[r, :t + 1][seen].tolist()))
    return sorted(found)


@given(lengths=st.lists(st.integers(2, 200), min_size=2, max_size=20), data=st.data())
def test_short_rows_learn_the_same_labels_from_the_same_tokens(lengths, data):
    examples = [example(n, 1000 * i + 10, 1 + i % min(3, n - 1)) for i, n in enumerate(lengths)]
    long, short = (Examples(examples, seq_len=256, short=s) for s in (False, True))
    rows = np.array(data.draw(st.lists(st.integers(0, len(long) - 1), min_size=1, max_size=4, unique=True)))
    assert learned(short.batch(rows)) == learned(long.batch(rows))
    assert short.batch(rows).tokens_BT.shape[1] < max(PACKED_ROW, *lengths)


def test_examples_that_see_their_neighbours_keep_them():
    with pytest.raises(ValueError, match="short needs isolate"):
        Examples([example(3, 10, 1)], seq_len=8, isolate=False, short=True)


@pytest.mark.parametrize(("epochs", "drop_last", "batches"), [(1, True, 3), (1, False, 4), (2, False, 8)])
def test_an_epoch_visits_every_row_once(epochs, drop_last, batches):
    rows = Windows(np.arange(11 * 4 + 1), seq_len=4)
    seen = [b.tokens_BT[:, 0].tolist() for b in Loader(rows, 3, seed=7, epochs=epochs, drop_last=drop_last)]
    assert len(seen) == batches
    flat = [x for row in seen for x in row]
    assert len(set(flat)) == (9 if drop_last else 11)
    if epochs == 2:
        assert flat[:11] != flat[11:] and sorted(flat[:11]) == sorted(flat[11:])


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 9])
def test_resume_goes_on_where_it_stopped(stop):
    rows = Windows(np.arange(12 * 4 + 1), seq_len=4)
    straight, first, second = (Loader(rows, 3, seed=1) for _ in range(3))
    expected = [next(straight).tokens_BT for _ in range(stop + 6)]
    for _ in range(stop):
        next(first)
    second.restore(first.state())
    assert all(torch.equal(next(second).tokens_BT, e) for e in expected[stop:])


def test_bad_input():
    with pytest.raises(ValueError, match="stream of 4 tokens"):
        Windows(np.arange(4), seq_len=4)
    with pytest.raises(ValueError, match="2 rows do not fill one batch of 3"):
        Loader(Windows(np.arange(9), seq_len=4), 3, seed=0)
    with pytest.raises(ValueError, match="no examples"):
        Examples([], seq_len=8)
    with pytest.raises(ValueError, match="example 1 is 10 tokens"):
        Examples([example(3, 10, 1), example(10, 20, 2)], seq_len=8)
    with pytest.raises(ValueError, match="example 0 has no token to learn"):
        Examples([example(3, 10, 0)], seq_len=8)
    with pytest.raises(ValueError, match="3 ids and 2 mask"):
        Examples([([1, 2, 3], [True, True])], seq_len=8)
    rows = Windows(np.arange(49), seq_len=4)
    with pytest.raises(ValueError, match="seed was 1, is 2"):
        Loader(rows, 3, seed=2).restore(Loader(rows, 3, seed=1).state())


@pytest.mark.parametrize("stop", [0, 2, 3, 5])
def test_interleaved_lengths_are_spread_evenly_and_resume(stop):
    def make():
        short, long = Windows(np.arange(60), 4), Windows(np.arange(60), 8)
        return Interleaved(Loader(short, 2, seed=0), Loader(long, 1, seed=0), share=0.4)

    straight, first, second = make(), make(), make()
    expected = [next(straight).tokens_BT for _ in range(10)]
    assert [b.shape[1] for b in expected] == [4, 4, 8, 4, 8, 4, 4, 8, 4, 8]
    for _ in range(stop):
        next(first)
    second.restore(first.state())
    assert all(torch.equal(next(second).tokens_BT, e) for e in expected[stop:])


def test_a_batch_in_parts_is_the_whole_batch():
    def make():
        return Interleaved(*(Loader(Windows(np.arange(60), length), 2, seed=0) for length in (4, 8)), share=0.4)

    whole, parted = make(), make()
    parted.take([0, 1], 2)
    for _ in range(9):
        rows = [next(parted).tokens_BT for _ in range(2)]
        assert torch.equal(torch.cat(rows), next(whole).tokens_BT) and rows[0].shape[0] == 1
    assert parted.state() == whole.state()


@given(st.lists(st.lists(st.integers(3, 99), min_size=1, max_size=12), min_size=1, max_size=20), st.integers(4, 24))
def test_packed_sequences_can_be_read_back_and_do_not_overlap(sequences, room):
    rows = packed(sequences, room)
    flat, positions = rows.tokens_RT.flatten(), rows.positions_RT.flatten()
    for ids, last in zip(sequences, rows.last_N.tolist(), strict=True):
        assert flat[last - len(ids) + 1:last + 1].tolist() == ids
        assert positions[last - len(ids) + 1:last + 1].tolist() == list(range(len(ids)))
    assert int((rows.segments_RT != PADDING_SEGMENT).sum()) == sum(map(len, sequences))
    assert rows.tokens_RT.shape[1] <= max(room, max(map(len, sequences)))


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_nothing_to_pack_is_said(sequences):
    with pytest.raises(ValueError, match="empty or missing"):
        packed(sequences, 8)
