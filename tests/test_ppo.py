"""PPO's mathematics by hand, by brute force and by Monte Carlo; each failure of the field's table is tried."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2_lib.stages import ppo

G = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


def lengths_mask(lengths, width):
    return torch.arange(width) < torch.tensor(lengths)[:, None]


# --------------------------------------------------------------------------------------------------------------- the reward

def test_the_safety_score_rules_safety_prompts_and_replies_that_look_unsafe():
    border = math.log(0.15 / 0.85)
    helpful = torch.tensor([1.0, 2.0, 3.0, 4.0])
    safety = torch.tensor([9.0, border - 0.01, border + 0.01, 9.0])
    is_safety = torch.tensor([True, False, False, False])
    chosen = torch.tensor([9.0, border - 0.01, 3.0, 4.0])
    expected = (chosen - chosen.mean()) / chosen.var(correction=0).sqrt()
    assert torch.allclose(ppo.final_reward(helpful, safety, is_safety), expected, atol=1e-6)


def test_the_reward_is_whitened_and_one_reply_gives_no_nan():
    found = ppo.final_reward(random(64), random(64), torch.rand(64, generator=G) > 0.5)
    assert found.mean().abs() < 1e-6
    assert found.var(correction=0) == pytest.approx(1, abs=1e-5)
    assert ppo.final_reward(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([False])).tolist() == [0]
    with pytest.raises(ValueError, match="one shape"):
        ppo.final_reward(torch.zeros(2), torch.zeros(3), torch.zeros(2, dtype=torch.bool))


def test_the_score_stands_on_the_last_token_that_counts():
    """Replies of 2, 4 and all tokens: the exact matrix."""
    mask = lengths_mask([2, 4, 5], 5)
    logp, ref = torch.full((3, 5), -1.0), torch.full((3, 5), -1.5)
    expected = torch.tensor([[-.05, .95, 0, 0, 0], [-.05, -.05, -.05, 1.95, 0], [-.05, -.05, -.05, -.05, 2.95]])
    assert torch.allclose(ppo.token_rewards(torch.tensor([1.0, 2.0, 3.0]), logp, ref, mask, beta=0.1), expected)


def test_a_policy_that_is_its_reference_pays_nothing_and_padding_cannot_leak():
    mask, logp = lengths_mask([3, 1], 4), random(2, 4)
    logp[~mask] = math.nan
    rewards = ppo.token_rewards(torch.tensor([1.0, -1.0]), logp, logp.clone(), mask, beta=0.5)
    assert rewards.tolist() == [[0, 0, 1, 0], [-1, 0, 0, 0]]
    with pytest.raises(ValueError, match="reply 1 of the batch has no token"):
        ppo.token_rewards(torch.zeros(2), logp, logp, lengths_mask([3, 0], 4), beta=0.5)


def test_the_kl_of_the_reward_has_the_right_sign_and_size():
    """Sampled from the policy, the penalty's mean is −β KL(π ‖ π_0); its score-function gradient is the analytic one."""
    logits = random(6).requires_grad_()
    reference = random(6).log_softmax(0)
    logp = logits.log_softmax(0)
    kl = (logp.exp() * (logp - reference)).sum()
    (analytic,) = torch.autograd.grad(kl, logits)
    n = 200_000
    drawn = torch.multinomial(logp.detach().exp(), n, replacement=True, generator=G)
    rewards = ppo.token_rewards(torch.zeros(n), logp.detach()[drawn][:, None], reference[drawn][:, None],
                                torch.ones(n, 1, dtype=torch.bool), beta=1.0)[:, 0]
    assert -rewards.mean() == pytest.approx(kl.item(), abs=4 * rewards.std().item() / math.sqrt(n))
    scores = torch.nn.functional.one_hot(drawn, 6) - logp.detach().exp()      # ∇ log π of each draw
    samples = -rewards[:, None] * scores
    error = samples.std(0) / math.sqrt(n)
    assert ((samples.mean(0) - analytic).abs() < 4 * error + 1e-12).all()


# ----------------------------------------------------------------------------------------------------------- the advantages

def brute_force(rewards, values, length, gamma, lam):
    advantages = []
    for t in range(length):
        total = 0.0
        for k in range(t, length):
            following = values[k + 1] if k + 1 < length else 0.0
            total += (gamma * lam) ** (k - t) * (rewards[k] + gamma * following - values[k])
        advantages.append(total)
    return advantages


@settings(deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.floats(0.5, 1), st.floats(0, 1), st.integers(0, 3))
def test_gae_equals_the_sum_written_out_and_padding_changes_nothing(lengths, gamma, lam, pads):
    width = max(lengths)
    rewards, values, mask = random(len(lengths), width), random(len(lengths), width), lengths_mask(lengths, width)
    advantages, returns = ppo.gae(rewards, values, mask, gamma, lam)
    for b, n in enumerate(lengths):
        expected = brute_force(rewards[b].tolist(), values[b].tolist(), n, gamma, lam)
        assert advantages[b, :n].tolist() == pytest.approx(expected, abs=1e-9)
        assert torch.allclose(returns[b, :n], torch.tensor(expected, dtype=torch.float64) + values[b, :n], atol=1e-9)
    junk = torch.full((len(lengths), pads), math.nan, dtype=torch.float64)
    wide = [torch.cat([x, junk], 1) for x in (rewards, values)]
    padded, _ = ppo.gae(*wide, lengths_mask(lengths, width + pads), gamma, lam)
    assert torch.equal(padded[:, :width], advantages)
    assert padded[:, width:].abs().sum() == 0
    assert advantages[~mask].abs().sum() == 0


def test_with_lambda_one_the_return_is_the_discounted_sum_of_rewards():
    rewards, values = random(1, 6), random(1, 6)
    _, returns = ppo.gae(rewards, values, torch.ones(1, 6, dtype=torch.bool), 0.9, 1.0)
    assert returns[0, 2].item() == pytest.approx(sum(0.9**k * rewards[0, 2 + k].item() for k in range(4)))


# --------------------------------------------------------------------------------------------------------------- the losses

@pytest.mark.parametrize(("log_ratio", "advantage", "loss", "gradient", "clipped"), [
    (1.0, 2.0, -2 * 1.2, 0.0, 1), (1.0, -2.0, 2 * math.e, 2 * math.e, 0), (-1.0, 2.0, -2 / math.e, -2 / math.e, 0),
    (-1.0, -2.0, 2 * 0.8, 0.0, 1), (0.0, 2.0, -2.0, -2.0, 0)])
def test_the_policy_loss_by_hand(log_ratio, advantage, loss, gradient, clipped):
    """Ratios e, 1/e and 1 against 1 ± 0.2, for both signs of the advantage."""
    logp = torch.tensor([[log_ratio - 3.0]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.bool)
    found, health = ppo.policy_loss(logp, torch.tensor([[-3.0]], dtype=torch.float64), torch.tensor([[advantage]]), one)
    found.backward()
    assert (found.item(), logp.grad.item()) == (pytest.approx(loss), pytest.approx(gradient))
    assert health["clipfrac"] == clipped
    assert health["approx_kl"] == pytest.approx(math.exp(log_ratio) - 1 - log_ratio)


def test_before_the_first_update_the_ratio_is_one_and_the_gradient_is_the_policy_gradient():
    mask, advantages = lengths_mask([5, 2, 3], 5), random(3, 5)
    logp = random(3, 5).requires_grad_()
    loss, health = ppo.policy_loss(logp, logp.detach().clone(), advantages, mask)
    loss.backward()
    assert health["ratio"] == 1
    assert health["approx_kl"] == 0
    assert torch.allclose(logp.grad, torch.where(mask, -advantages / mask.sum(), 0.0))


def test_losses_are_means_over_all_tokens_of_the_batch_and_padding_cannot_leak():
    mask, old, advantages, logp = lengths_mask([5, 1], 5), random(2, 5), random(2, 5), random(2, 5)
    values, returns = random(2, 5), random(2, 5)
    spoiled = [torch.where(mask, x, math.nan) for x in (logp, old, values, returns)]
    assert torch.allclose(ppo.policy_loss(spoiled[0], spoiled[1], torch.where(mask, advantages, 0.0), mask)[0],
                          ppo.policy_loss(logp, old, advantages, mask)[0])
    for loss, tensors in ((lambda *x: ppo.policy_loss(*x)[0], (logp, old, advantages, mask)),
                          (ppo.value_loss, (values, values + 0.1, returns, mask))):
        rows = [loss(*(x[b:b + 1] for x in tensors)) for b in range(2)]
        assert loss(*tensors).item() == pytest.approx((5 * rows[0] + rows[1]).item() / 6)
    assert torch.isfinite(ppo.value_loss(spoiled[2], values, spoiled[3], mask))


@pytest.mark.parametrize(("value", "old", "target", "loss"), [
    (1.0, 0.0, 2.0, 0.5 * 1.8**2),       # moved further than 0.2 towards the target: the held value's larger error counts
    (-1.0, 0.0, 2.0, 0.5 * 3.0**2),      # moved away: the free value's larger error counts
    (0.1, 0.0, 2.0, 0.5 * 1.9**2)])      # moved within the clip
def test_the_value_loss_by_hand(value, old, target, loss):
    one = torch.ones(1, 1, dtype=torch.bool)
    found = ppo.value_loss(*(torch.tensor([[x]]) for x in (value, old, target)), one)
    assert found.item() == pytest.approx(loss)


def test_old_quantities_get_no_gradient():
    mask = torch.ones(2, 3, dtype=torch.bool)
    old, advantages, values, old_values, returns = (random(2, 3).requires_grad_() for _ in range(5))
    (ppo.policy_loss(random(2, 3), old, advantages, mask)[0] + ppo.value_loss(values, old_values, returns, mask)).backward()
    assert [x.grad is None for x in (old, advantages, old_values, returns, values)] == [True] * 4 + [False]


def test_explained_variance():
    returns, mask = random(4, 6), lengths_mask([6, 3, 5, 1], 6)
    assert ppo.explained_variance(returns, returns, mask) == 1
    assert ppo.explained_variance(torch.zeros_like(returns), returns, mask) == pytest.approx(0)
    noise = random(4, 6)
    expected = 1 - noise[mask].var(correction=0) / returns[mask].var(correction=0)
    assert ppo.explained_variance(returns - noise, returns, mask) == pytest.approx(expected.item(), abs=1e-6)


def test_prompts_before_a_reply_change_no_advantage_and_get_none():
    rewards, values, mask = random(2, 4), random(2, 4), lengths_mask([4, 3], 4)
    before = torch.full((2, 3), 7.0, dtype=torch.float64)
    shifted, _ = ppo.gae(torch.cat([before, rewards], 1), torch.cat([before, values], 1),
                         torch.cat([torch.zeros(2, 3, dtype=torch.bool), mask], 1), 0.9, 0.8)
    assert shifted[:, :3].abs().sum() == 0
    assert torch.equal(shifted[:, 3:], ppo.gae(rewards, values, mask, 0.9, 0.8)[0])
