"""Reward models: losses by hand, scores that padding and neighbours cannot change, and a preference that can be learned."""
import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from llama2_lib.config import ModelConfig, OptimConfig, RewardConfig, RuntimeConfig, preset
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import reward
from llama2_lib.text.batching import Loader, packed
from llama2_lib.text.chat import dialog
from llama2_lib.text.comparisons import Comparison
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import trainer
from llama2_lib.world.annotators import GRADES

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=50, multiple_of=8, max_seq_len=32)


def fresh(seed=0):
    torch.manual_seed(seed)
    return reward.RewardModel(Transformer(CONFIG))


def test_the_ranking_loss_by_hand_and_in_the_extremes():
    found = reward.ranking_loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.0]))
    assert found.item() == pytest.approx((math.log1p(math.exp(-0.5)) + math.log1p(math.exp(1))) / 2)
    assert reward.ranking_loss(torch.tensor([-500.0]), torch.tensor([500.0]), 3.0).item() == pytest.approx(1003)
    assert reward.ranking_loss(torch.tensor([500.0]), torch.tensor([-500.0])).item() == 0
    with pytest.raises(ValueError, match="each chosen score"):
        reward.ranking_loss(torch.zeros(2), torch.zeros(1))


def test_a_larger_margin_costs_more_and_pushes_harder():
    chosen = torch.tensor([1.0], requires_grad=True)
    pushes = []
    for margins in reward.MARGINS:
        loss = reward.ranking_loss(chosen, torch.zeros(1), reward.margin_of("significantly better", margins))
        pushes.append((loss.item(), -torch.autograd.grad(loss, chosen)[0].item()))
    assert pushes == sorted(pushes)
    assert len(set(pushes)) == 3


def test_margins_are_table_27s():
    grades = ("significantly better", "better", "slightly better", "negligibly better or unsure")
    assert [reward.margin_of(g, "large") for g in grades] == [3, 2, 1, 0]
    assert [reward.margin_of(g, "small") for g in grades] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    with pytest.raises(ValueError, match="no grade 'great'"):
        reward.margin_of("great")
    with pytest.raises(ValueError, match="got 'huge'"):
        reward.margin_of("better", "huge")


def test_the_safety_loss_counts_labelled_replies_alone():
    scores, labels = torch.tensor([2.0, -1.0, 9.0]), torch.tensor([1.0, 0.0, reward.NO_LABEL])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert reward.safety_loss(scores, labels).item() == pytest.approx(expected)
    assert reward.safety_loss(scores, torch.full((3,), reward.NO_LABEL)).item() == 0


def test_neither_padding_nor_neighbours_change_a_score():
    model = fresh().eval()
    rows = [[3, 4, 5], [6, 7, 8, 9, 10, 11, 12], [3, 4]]
    together = reward.scores(model, rows)
    alone = [reward.scores(model, [row])[0] for row in rows]
    assert together == pytest.approx(alone, abs=1e-6)
    assert len({round(s, 4) for s in alone}) == 3


def test_the_score_is_read_at_the_last_token():
    """Another last token changes it; what stands behind it in the row cannot."""
    model = fresh().eval()
    found = [model(packed(rows, 8))[0].item() for rows in ([[3, 4, 5]], [[3, 4, 5], [9, 9]], [[3, 4, 6]])]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert abs(found[0] - found[2]) > 1e-3


def test_a_preference_is_learned_and_its_opposite_is_not():
    """Replies that hold token 7 are preferred. Held-out pairs are ranked right after training, by chance before."""
    rng = np.random.default_rng(0)

    def pair():
        plain = rng.integers(10, 50, 6).tolist()
        good = [*plain]
        good[rng.integers(6)] = 7
        return [1, *good, 2], [1, *plain, 2], 0.0, reward.NO_LABEL, reward.NO_LABEL

    model, test = fresh(), [pair() for _ in range(100)]

    def accuracy():
        return np.mean([c > r for c, r in zip(*(reward.scores(model, [p[k] for p in test]) for k in (0, 1)), strict=True)])

    loader = Loader(reward.Pairs([pair() for _ in range(640)], 32), 32, seed=0, epochs=3)
    history = trainer.fit(model, loader, reward.reward_loss, OptimConfig(peak_lr=3e-3, warmup_steps=5), 60,
                          runtime=RuntimeConfig(precision="float32"))
    assert accuracy() > 0.9
    assert history[-1]["accuracy"] > history[0]["accuracy"]
    assert not model.body.output.weight.requires_grad


def test_a_batch_holds_the_chosen_sides_first():
    rows = reward.Pairs([([1, 5, 2], [1, 6, 7, 2], 1.0, 1.0, 0.0), ([1, 8, 2], [1, 2], 0.0, -1.0, -1.0)], 8)
    batch = rows.batch(np.array([1, 0]))
    ends = batch.rows.tokens_RT.flatten()
    lengths = batch.rows.positions_RT.flatten()[batch.rows.last_N] + 1
    read = [ends[last - n + 1:last + 1].tolist()
            for last, n in zip(batch.rows.last_N.tolist(), lengths.tolist(), strict=True)]
    assert read == [[1, 8, 2], [1, 5, 2], [1, 2], [1, 6, 7, 2]]
    assert (batch.margin_B.tolist(), batch.safe_2B.tolist(), batch.count) == ([0, 1], [-1, 1, -1, 0], 2)


def test_the_safety_term_is_added_with_its_weight():
    model = fresh()
    batch = reward.Pairs([([1, 5, 2], [1, 6, 2], 0.0, 1.0, 0.0)], 8).batch(np.array([0]))
    plain, _ = reward.reward_loss(model, batch)
    both, _ = reward.reward_loss(model, batch, safety_weight=2.0)
    scores = model(batch.rows)
    assert (both - plain).item() == pytest.approx(2 * reward.safety_loss(scores, batch.safe_2B).item(), rel=1e-5)


@pytest.mark.parametrize(("pairs", "message"), [
    ([], "there are no pairs"), ([([1, 2], [1, 2], 0, 1, 1)], "pair 0: both sides are the same"),
    ([([1, 3], [1, 2], 0, 1, 1), ([1] * 9, [1, 2], 0, 1, 1)], "pair 1 is 9 tokens long; the model reads 8")])
def test_pairs_that_cannot_be_learned_from_are_named(pairs, message):
    with pytest.raises(ValueError, match=message):
        reward.Pairs(pairs, 8)


def test_an_empty_row_has_no_score():
    with pytest.raises(ValueError, match="row 1 is empty"):
        reward.scores(fresh(), [[1], []])


def test_a_mix_holds_all_of_its_own_and_a_share_of_others():
    own, others = list(range(90)), list(range(1000, 1100))
    found = reward.mix(own, others, 0.1, seed=0)
    assert (len(found), found[:90]) == (100, own) and set(found[90:]) <= set(others)
    assert len(reward.mix(own, others, 0.9, seed=0)) == 190, "no more than there are"
    assert reward.mix(own, others, 0.1, 0) == found != reward.mix(own, others, 0.1, 1)


def test_a_saved_reward_model_scores_as_before(tmp_path):
    model = fresh().eval()
    reward.save(tmp_path, model)
    rows = [[3, 4, 5], [6, 7]]
    assert reward.scores(reward.load(tmp_path), rows) == reward.scores(model, rows)


def test_the_head_hangs_on_the_seed_alone():
    body = Transformer(CONFIG)
    torch.manual_seed(9)
    one, again, other = (reward.fresh(body, s).head.out.weight for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_judge_learns_and_the_body_beneath_it_stays(tmp_path):
    model = reward.fresh(Transformer(CONFIG), 0, judge_layers=2)
    before, rows = copy.deepcopy(model.body.state_dict()), [[3, 4, 5], [6, 7]]
    reward.ranking_loss(model(packed(rows[:1], 16)), model(packed(rows[1:], 16))).backward()
    assert all(p.grad is None for p in model.body.parameters())
    assert all(p.grad is not None and p.grad.any() for p in (*model.judge.parameters(), *model.head.parameters()))
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
    assert all(torch.equal(t, before[name]) for name, t in model.body.state_dict().items())
    reward.save(tmp_path, model.eval())
    assert reward.scores(reward.load(tmp_path), rows) == reward.scores(model, rows)


def test_models_that_share_a_body_read_together_and_score_as_alone(tmp_path, monkeypatch):
    body, rows = Transformer(CONFIG), [[3, 4, 5], [6, 7], [3, 4, 5]]
    models = [reward.fresh(copy.deepcopy(body), seed, judge_layers=1).eval() for seed in (0, 1)]
    alone = [reward.scores(m, rows) for m in models]
    for side, model in zip(reward.SIDES, models, strict=True):
        reward.save(tmp_path / side, model)
    shared = reward.load_both(tmp_path)
    one, other = shared.values()
    assert one.body is other.body
    monkeypatch.setattr(other, "read", None)
    assert reward.joint_scores(list(shared.values()), rows) == alone
    with torch.no_grad():
        models[1].body.tok_embeddings.weight.add_(0.1)
    reward.save(tmp_path / reward.SIDES[1], models[1])
    one, other = reward.load_both(tmp_path).values()
    assert one.body is not other.body and reward.joint_scores([one, other], rows)[1] == reward.scores(models[1], rows)


def test_surprise_is_the_body_s_own_loss_of_each_token_and_does_not_cross_sequences():
    body, rows = Transformer(CONFIG).eval(), packed([[3, 4, 5], [6, 7]], 16)
    found = reward.surprise(body, body.hidden(rows.tokens_RT, rows.positions_RT, rows.segments_RT), rows)
    for ids, last in zip(([3, 4, 5], [6, 7]), rows.last_N.tolist(), strict=True):
        logits = body(torch.tensor([ids]))[0, :-1]
        own = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").clamp(max=8)
        assert torch.allclose(found.flatten()[last - len(ids) + 1:last + 1], torch.cat([torch.zeros(1), own]), atol=1e-5)


def test_pairs_graded_unsure_are_left_out_when_the_recipe_says_so(tmp_path):
    """Of two comparisons one is unsure: a batch of one pair then makes one step in place of two."""
    tokenizer = Tokenizer.train(["[INST] Hi. [/INST] Ho. Hm."] * 9, 280, tmp_path / "t.model")
    pairs = [Comparison(dialog("Hi."), "Ho.", "Hm.", grade) for grade in (GRADES[0], GRADES[-1])]
    steps = {}
    for unsure in (True, False):
        model = reward.fresh(Transformer(dataclasses.replace(CONFIG, vocab_size=280)), 0)
        config = RewardConfig(batch_pairs=1, optim=OptimConfig(peak_lr=1e-3), unsure=unsure)
        steps[unsure] = len(reward.train(model, tokenizer, pairs, config, 0, runtime=RuntimeConfig(precision="float32")))
    assert steps == {True: 2, False: 1}


@pytest.mark.parametrize(("steps", "warmup"), [(20, 5), (1000, 30)])
def test_warm_up_is_three_per_cent_and_at_least_five_steps(steps, warmup):
    optim = preset("llama2_70b").reward.schedule(steps)
    assert (optim.warmup_steps, optim.peak_lr, optim.final_lr_fraction) == (warmup, 5e-6, 0.1)
