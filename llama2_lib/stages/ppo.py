"""The mathematics of PPO (section 3.2.3): rewards token by token, advantages, and the two clipped losses.

    R(g | p) = R̃_c(g | p) − β · KL(π_θ ‖ π_0),     R̃_c = whiten(logit(R_c))
    R_c = R_s if the prompt is a safety prompt or R_s < 0.15, else R_h
    A_t = Σ_l (γ λ)^l δ_{t+l},   δ_t = r_t + γ V_{t+1} − V_t
    L_policy = mean max(−A ρ, −A clip(ρ, 1 ± ε)),   ρ = π_θ / π_old

Pure functions of (B, T) tensors over the tokens of replies; `mask_BT` is True where a token counts, the end token
included, and a row's tokens stand together. The paper gives β, ε, the 0.15 and the whitening. It is silent on the critic, on
γ and λ, and on how KL is spread: here the estimate k1 = log π_θ − log π_0 of each token enters that token's reward, and the
score comes on the last one, as in the published code of Ziegler et al. Left out: the loop of rollouts, and adaptive β.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

from llama2_lib.config import require
from llama2_lib.model.logprobs import masked_mean, whiten

UNSAFE_BELOW = 0.15          # of the safety model's score in (0, 1): 0.89 precision and 0.55 recall on Meta Safety
CLIP = 0.2                   # ε of the ratio
VALUE_CLIP = 0.2             # of the change of a value; the paper is silent


def final_reward(helpful_B: Tensor, safety_B: Tensor, is_safety_B: Tensor) -> Tensor:
    """R̃_c of each reply: the safety score for a safety prompt or a reply that looks unsafe, else helpfulness; whitened.

    helpful_B, safety_B: scores before the sigmoid (logits); is_safety_B: bool, the prompt's kind. Mean 0 and variance 1 over
    the batch; equal scores give 0. ValueError for tensors of unequal shape.
    """
    require(helpful_B.shape == safety_B.shape == is_safety_B.shape,
            f"final_reward needs three tensors of one shape, got {tuple(helpful_B.shape)}, {tuple(safety_B.shape)} and "
            f"{tuple(is_safety_B.shape)}")
    looks_unsafe_B = safety_B < math.log(UNSAFE_BELOW / (1 - UNSAFE_BELOW))
    return whiten(torch.where(is_safety_B.bool() | looks_unsafe_B, safety_B, helpful_B).float())


def token_rewards(score_B: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor, beta: float) -> Tensor:
    """r_t, (B, T): −β (log π_θ − log π_0) on every token that counts, and the score on the last of them besides.

    ValueError for a reply without a token: its score would be lost.
    """
    empty_B = ~mask_BT.any(1)
    require(not bool(empty_B.any()), f"reply {int(empty_B.int().argmax())} of the batch has no token")
    penalty_BT = torch.where(mask_BT, -beta * (logprobs_BT - reference_BT), 0.0)
    return penalty_BT + torch.where(last_token(mask_BT), score_B[:, None], 0.0)


def last_token(mask_BT: Tensor) -> Tensor:
    """True on the last token that counts of each row, (B, T)."""
    return mask_BT & (mask_BT.flip(1).cumsum(1).flip(1) == 1)


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(advantages_BT, returns_BT) by generalised advantage estimation, not whitened; 0 where the mask is False.

    A reply is an episode: after its last token nothing follows, whatever stands in the padding.
    """
    rewards, values = (torch.where(mask_BT, x, 0.0) for x in (rewards_BT, values_BT))
    advantages_BT = torch.zeros_like(values)
    following_B = torch.zeros_like(values[:, 0])
    next_value_B = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        delta_B = rewards[:, t] + gamma * next_value_B - values[:, t]
        following_B = torch.where(mask_BT[:, t], delta_B + gamma * lam * following_B, 0.0)
        advantages_BT[:, t], next_value_B = following_B, values[:, t]
    return advantages_BT, advantages_BT + values


def policy_loss(logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor,
                clip: float = CLIP) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, health): the mean over all tokens that count of max(−A ρ, −A clip(ρ, 1 ± clip)).

    The gradient flows through logprobs_BT alone. health: clipfrac, the share of tokens whose ratio was clipped to effect;
    approx_kl, the estimate mean(ρ − 1 − log ρ) of KL(π_old ‖ π_θ), never negative; ratio, its mean.
    """
    log_ratio_BT = torch.where(mask_BT, logprobs_BT - old_logprobs_BT.detach(), 0.0)
    ratio_BT, advantages_BT = log_ratio_BT.exp(), advantages_BT.detach()
    free_BT, held_BT = -advantages_BT * ratio_BT, -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    health = {"clipfrac": masked_mean((held_BT > free_BT).float(), mask_BT),
              "approx_kl": masked_mean(ratio_BT - 1 - log_ratio_BT, mask_BT), "ratio": masked_mean(ratio_BT, mask_BT)}
    return masked_mean(torch.maximum(free_BT, held_BT), mask_BT), {k: v.detach() for k, v in health.items()}


def value_loss(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor,
               clip: float = VALUE_CLIP) -> Tensor:
    """½ · mean over the tokens that count of max((V − R)², (clip(V, V_old ± clip) − R)²)."""
    old_BT, returns_BT = old_values_BT.detach(), returns_BT.detach()
    held_BT = old_BT + (values_BT - old_BT).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((values_BT - returns_BT).square(), (held_BT - returns_BT).square()), mask_BT)


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """1 − Var(R − V) / Var(R) over the tokens that count: 1 a perfect critic, 0 one that says the mean; NaN for equal R."""
    returns, errors = returns_BT[mask_BT].float(), (returns_BT - values_BT)[mask_BT].float()
    return 1 - errors.var(correction=0) / returns.var(correction=0)
