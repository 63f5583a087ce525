"""PPO (section 3.2.3): roll out, score, estimate advantages, take clipped steps; and the mathematics of each.

    R(g | p) = R̃_c(g | p) − β · KL(π_θ ‖ π_0),     R̃_c = whiten(logit(R_c))
    R_c = R_s if the prompt is a safety prompt or R_s < 0.15, else R_h
    A_t = Σ_l (γ λ)^l δ_{t+l},   δ_t = r_t + γ V_{t+1} − V_t
    L_policy = mean max(−A ρ, −A clip(ρ, 1 ± ε)),   ρ = π_θ / π_old

The mathematics is pure functions of (B, T) tensors over the tokens of replies; `mask_BT` is True where a token counts, the
end token included, and a row's tokens stand together. The paper gives β, ε, batch and minibatch, one step a minibatch, the
0.15 and the whitening, and early stopping on held-out prompts. It is silent on the rest. We choose: the critic is a value
head on the policy's own body, starting at 0 and scaled up, since at the policy's learning rate it would still be near 0
when the run ends; the estimate k1 = log π_θ − log π_0 of each token enters that token's reward,
and the score comes on the last one, as in the published code of Ziegler et al.; whitening is over the rollouts of an
iteration; a reply that does not end within the budget gets a fixed low reward. Old log-probabilities are the trainer's own,
not the sampler's, so that the first ratio is 1. Top-p is not used: what is sampled must be what is learned from. Left out:
adaptive β, a separate critic, early stopping on KL.

This stage knows no reward model: `train` takes any function that scores dialogues, so that the oracle can stand in for it.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from llama2_lib.config import PPOConfig, RuntimeConfig, require
from llama2_lib.model.generation import END
from llama2_lib.model.logprobs import entropy, masked_mean, token_logprobs, whiten
from llama2_lib.model.replies import Scorer, as_dialog
from llama2_lib.model.transformer import ScalarHead, Transformer
from llama2_lib.text.batching import Movable, Packed, packed
from llama2_lib.text.chat import render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import distributed, precision, trainer
from llama2_lib.training.distributed import ALONE, Layout
from llama2_lib.training.randomness import own_randomness
from llama2_lib.training.sampling import sample_ids
from llama2_lib.world.dialogs import Prompt

UNSAFE_BELOW = 0.15          # of the safety model's score in (0, 1): 0.89 precision and 0.55 recall on Meta Safety
CLIP = 0.2                   # ε of the ratio
VALUE_CLIP = 0.2             # of the change of a value; the paper is silent
UNFINISHED = -2.0            # whitened reward of a reply without an end
CRITIC_GAIN = 20.0           # of the value head, whose weights move by no more than the policy's rate a step


# ---------------------------------------------------------------------------------------------------------- the mathematics


def final_reward(helpful_B: Tensor, safety_B: Tensor, is_safety_B: Tensor) -> Tensor:
    """R̃_c of each reply: `piecewise`, whitened to mean 0 and variance 1 over the batch; equal scores give 0."""
    return whiten(piecewise(helpful_B, safety_B, is_safety_B))


def piecewise(helpful_B: Tensor, safety_B: Tensor, is_safety_B: Tensor) -> Tensor:
    """logit(R_c): the safety score for a safety prompt or a reply that looks unsafe, else the helpfulness score.

    helpful_B, safety_B: scores before the sigmoid (logits); is_safety_B: bool, the prompt's kind. ValueError for tensors of
    unequal shape.
    """
    require(helpful_B.shape == safety_B.shape == is_safety_B.shape,
            f"final_reward needs three tensors of one shape, got {tuple(helpful_B.shape)}, {tuple(safety_B.shape)} and "
            f"{tuple(is_safety_B.shape)}")
    looks_unsafe_B = safety_B < math.log(UNSAFE_BELOW / (1 - UNSAFE_BELOW))
    return torch.where(is_safety_B.bool() | looks_unsafe_B, safety_B, helpful_B).float()


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


# -------------------------------------------------------------------------------------------------------------- the network

class ActorCritic(nn.Module):
    """A policy and the value of each state, from one body; values are 0 at first."""

    def __init__(self, policy: Transformer) -> None:
        super().__init__()
        self.policy, self.value = policy, ScalarHead(policy.config.dim, std=0.0)

    def forward(self, replies: Replies, temperature: float) -> tuple[Tensor, Tensor]:
        """(logits_NV, values_N) for each token of the replies, row by row.

        Logits are divided by the temperature; a token's value is that of the state in which it is chosen.
        """
        h_ND = replies.states(self.policy)
        return self.policy.output(h_ND).float() / temperature, CRITIC_GAIN * self.value(h_ND).float()


@dataclass(frozen=True)
class Replies(Movable):
    """Dialogues packed in rows, and where their replies' tokens are: mask_BT, and for each token, row by row, the place from
    which it is predicted (before_N, in the rows laid end to end) and its id (labels_N)."""
    rows: Packed
    mask_BT: Tensor
    before_N: Tensor
    labels_N: Tensor

    def states(self, model: Transformer) -> Tensor:
        """The hidden states from which the replies' tokens are predicted, (N, D)."""
        return model.hidden(self.rows.tokens_RT, self.rows.positions_RT, self.rows.segments_RT).flatten(0, 1)[self.before_N]

    def logprobs(self, logits_NV: Tensor) -> Tensor:
        """Log-probability of each token of the replies, (B, T)."""
        return self.unfold(token_logprobs(logits_NV, self.labels_N))

    def unfold(self, x_N: Tensor) -> Tensor:
        """One number a token as a (B, T) matrix, 0 where no token is."""
        return x_N.new_zeros(self.mask_BT.shape).masked_scatter(self.mask_BT, x_N)


def laid_out(dialogues: Sequence[list[int]], starts: Sequence[int], context: int) -> Replies:
    """Dialogues as Replies; starts[b] is where the reply of dialogue b begins. ValueError for a reply without a token."""
    counts = [len(ids) - start for ids, start in zip(dialogues, starts, strict=True)]
    for b, (count, start) in enumerate(zip(counts, starts, strict=True)):
        require(count >= 1 and start >= 1, f"reply {b} has {count} tokens after a prompt of {start}")
    rows = packed(dialogues, context)
    mask_BT = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    at_N = torch.cat([torch.arange(last - n, last) for last, n in zip(rows.last_N.tolist(), counts, strict=True)])
    return Replies(rows, mask_BT, at_N, rows.tokens_RT.flatten()[at_N + 1])


# ------------------------------------------------------------------------------------------------------------- rolling out

@dataclass(frozen=True)
class Rollouts:
    """What one iteration learns from. All (B, T) tensors are 0 where mask_BT is False."""
    prompts: list[Prompt]
    dialogues: list[list[int]]
    starts: list[int]
    finished_B: Tensor
    mask_BT: Tensor
    logprobs_BT: Tensor
    reference_BT: Tensor
    values_BT: Tensor
    entropy_BT: Tensor
    score_B: Tensor
    reward_B: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor

    @property
    def kl(self) -> float:
        """Mean over the replies of log π_θ − log π_0, in nats: an estimate of KL(π_θ ‖ π_0)."""
        return (self.logprobs_BT - self.reference_BT).sum(1).mean().item()


def sample(policy: Transformer, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: PPOConfig,
           seed: int) -> tuple[list[list[int]], list[int], Tensor]:
    """(dialogues, starts, finished_B): one reply to each prompt, at the temperature of rollouts."""
    asked = [render(as_dialog(p), tokenizer)[0] for p in prompts]
    found = sample_ids(policy, tokenizer, asked, config.temperature, seed, config.max_new_tokens)
    return ([a + said for a, (said, _) in zip(asked, found, strict=True)], list(map(len, asked)),
            torch.tensor([why == END for _, why in found]))


def read(model: ActorCritic, reference: Transformer, rows: Sequence[tuple[tuple[int, ...], int]], config: PPOConfig,
         dtype: torch.dtype) -> list[Tensor]:
    """What the networks say of each (dialogue, start): log π, value, entropy and log π_0 of its reply's tokens, (T, 4)."""
    found, device = [], next(model.parameters()).device
    with torch.no_grad(), precision.autocast(device.type, dtype):
        for first in range(0, len(rows), config.minibatch):
            dialogues, starts = zip(*rows[first:first + config.minibatch], strict=True)
            replies = laid_out(dialogues, starts, reference.config.max_seq_len).to(device)
            logits_NV, values_N = model(replies, config.temperature)
            own = replies.logprobs(logits_NV), replies.unfold(values_N), replies.unfold(entropy(logits_NV))
            logits_NV = reference.output(replies.states(reference)).float() / config.temperature
            all_BT4 = torch.stack((*own, replies.logprobs(logits_NV)), -1).cpu()
            found += [x_T4[:len(ids) - start].clone() for x_T4, ids, start in zip(all_BT4, dialogues, starts, strict=True)]
    return found


def roll_out(model: ActorCritic, reference: Transformer, tokenizer: Tokenizer, prompts: Sequence[Prompt], scorer: Scorer,
             config: PPOConfig, seed: int, dtype: torch.dtype = torch.float32) -> Rollouts:
    """Sample a reply to each prompt, score it, and estimate advantages, which are whitened over all tokens."""
    dialogues, starts, finished_B = sample(model.policy, tokenizer, prompts, config, seed)
    counts_B = torch.tensor([len(ids) - start for ids, start in zip(dialogues, starts, strict=True)])
    mask_BT = torch.arange(int(counts_B.max())) < counts_B[:, None]
    rows = list(zip(map(tuple, dialogues), starts, strict=True))
    said = distributed.divided(rows, lambda some: read(model, reference, some, config, dtype))
    logprobs_BT, values_BT, entropy_BT, reference_BT = pad_sequence(said, batch_first=True).unbind(-1)
    score_B = torch.as_tensor(scorer(prompts, dialogues), dtype=torch.float32)
    reward_B = torch.where(finished_B, whiten(score_B), UNFINISHED)
    rewards_BT = token_rewards(reward_B, logprobs_BT, reference_BT, mask_BT, config.beta)
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, config.gamma, config.lam)
    return Rollouts(list(prompts), dialogues, starts, finished_B, mask_BT, logprobs_BT, reference_BT, values_BT, entropy_BT,
                    score_B, reward_B, whiten(advantages_BT, mask_BT), returns_BT)


# ---------------------------------------------------------------------------------------------------------------- learning

@dataclass(frozen=True)
class MiniBatch(Movable):
    """Part of the rollouts, as `trainer.update` takes it: what the loss is a mean over are tokens."""
    replies: Replies
    logprobs_BT: Tensor
    values_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor

    @property
    def count(self) -> int:
        return int(self.replies.mask_BT.sum())


def minibatches(rollouts: Rollouts, size: int, context: int, generator: torch.Generator,
                layout: Layout = ALONE) -> Iterator[list[MiniBatch]]:
    """The rollouts once, in random order, `size` replies at a time: of each minibatch the parts of this process."""
    require(size % layout.parts == 0, f"a minibatch of {size} replies cannot be cut into {layout.parts} equal parts")
    for whole_B in torch.randperm(len(rollouts.dialogues), generator=generator).split(size):
        cut = whole_B.tensor_split(layout.parts)
        yield [_chosen(rollouts, cut[part], context) for part in layout.own]


def _chosen(rollouts: Rollouts, rows_B: Tensor, context: int) -> MiniBatch:
    replies = laid_out([rollouts.dialogues[b] for b in rows_B], [rollouts.starts[b] for b in rows_B], context)
    T = replies.mask_BT.shape[1]
    return MiniBatch(replies, *(x[rows_B, :T] for x in (rollouts.logprobs_BT, rollouts.values_BT,
                                                        rollouts.advantages_BT, rollouts.returns_BT)))


def ppo_loss(model: ActorCritic, batch: MiniBatch, clip: float, value_weight: float,
             temperature: float) -> tuple[Tensor, dict[str, Tensor]]:
    """(policy loss + value_weight · value loss, health) of a minibatch."""
    logits_NV, values_N = model(batch.replies, temperature)
    logprobs_BT, values_BT = batch.replies.logprobs(logits_NV), batch.replies.unfold(values_N)
    mask_BT = batch.replies.mask_BT
    policy, health = policy_loss(logprobs_BT, batch.logprobs_BT, batch.advantages_BT, mask_BT, clip)
    value = value_loss(values_BT, batch.values_BT, batch.returns_BT, mask_BT)
    return policy + value_weight * value, {**health, "value_loss": value.detach()}


def learn(model: ActorCritic, optimizer: torch.optim.Optimizer, rollouts: Rollouts, config: PPOConfig, lr: float,
          generator: torch.Generator, dtype: torch.dtype = torch.float32, step: int = 0,
          layout: Layout = ALONE) -> dict[str, float]:
    """One optimiser step for each minibatch, config.epochs times over; the means of what the steps measured come back."""
    loss = partial(ppo_loss, clip=config.clip, value_weight=config.value_weight, temperature=config.temperature)
    done = [trainer.update(model, optimizer, parts, loss, lr=lr, clip_norm=config.optim.clip_norm, dtype=dtype, step=step,
                           layout=layout)
            for _ in range(config.epochs)
            for parts in minibatches(rollouts, config.minibatch, model.policy.config.max_seq_len, generator, layout)]
    return {name: sum(d[name] for d in done) / len(done) for name in done[0]}


def health_of(rollouts: Rollouts) -> dict[str, float]:
    """What to watch: score, reward, KL, length in tokens, share without an end, entropy, explained variance."""
    r, mask = rollouts, rollouts.mask_BT
    return {"score": r.score_B.mean().item(), "reward": r.reward_B.mean().item(), "kl": r.kl,
            "length": mask.sum(1).float().mean().item(), "unfinished": 1 - r.finished_B.float().mean().item(),
            "entropy": masked_mean(r.entropy_BT, mask).item(),
            "explained_variance": explained_variance(r.values_BT, r.returns_BT, mask).item()}


def train(policy: Transformer, tokenizer: Tokenizer, prompts: Iterator[Prompt], held_out: Sequence[Prompt], scorer: Scorer,
          config: PPOConfig, *, seed: int = 0, runtime: RuntimeConfig | None = None,
          on_iteration: Callable[[dict, Rollouts], None] | None = None, title: str = "") -> list[dict]:
    """Train `policy` in place; one record an iteration comes back, and the policy is the best one on `held_out`.

    Every config.evaluate_every iterations the policy answers the held-out prompts; when its mean score has not risen for
    config.patience evaluations, training stops. Without held-out prompts it never does, and the policy is the last one.
    `on_iteration(record, rollouts)` may look and add to the record. ValueError if the prompts run out.

    In a group of processes the learning is spread. The weights are gathered whole before each sampling, as in the paper, and
    each process samples and reads its part of the replies. From the same replies they learn what one process learns, up to
    rounding; rounding may turn a sampled token, and from there two runs part.
    """
    runtime = runtime or RuntimeConfig()
    dtype = distributed.agreed(precision.choose(runtime.precision, distributed.place(policy).type).dtype)
    reference, history = copy.deepcopy(policy).eval().requires_grad_(False), []
    best = (_held_out_score(policy, tokenizer, held_out, scorer, config, seed), 0, copy.deepcopy(policy.state_dict()))
    actor = ActorCritic(policy).to(policy.output.weight.device).train()
    with own_randomness(seed), distributed.worker(actor, runtime, dtype) as (model, layout):
        optimizer = trainer.make_optimizer(model, config.optim)
        generator = torch.Generator().manual_seed(seed)
        for i in tqdm(range(config.iterations), desc=title, disable=not title or not distributed.is_main(), mininterval=2.0):
            asked = list(islice(prompts, config.batch))
            require(len(asked) == config.batch, f"iteration {i} found {len(asked)} of its {config.batch} prompts")
            rollouts = roll_out(actor, reference, tokenizer, asked, scorer, config, seed + 7919 * (i + 1), dtype)
            lr = trainer.lr_at(i, config.optim, config.iterations)
            work = partial(learn, model, optimizer, rollouts, config, lr, generator, dtype, i, layout)
            record = {"iteration": i + 1, **health_of(rollouts), "lr": lr,
                      **distributed.trained(runtime.parallel, actor, work)}
            distributed.bring_back(actor, model)
            history.append(record)
            if held_out and ((i + 1) % config.evaluate_every == 0 or i + 1 == config.iterations):
                record["held_out"] = _held_out_score(policy, tokenizer, held_out, scorer, config, seed)
                if record["held_out"] > best[0]:
                    best = (record["held_out"], i + 1, copy.deepcopy(policy.state_dict()))
            if on_iteration is not None:
                on_iteration(record, rollouts)
            if held_out and i + 1 - best[1] >= config.patience * config.evaluate_every:
                break
    if held_out:
        policy.load_state_dict(best[2])
    return history


def _held_out_score(policy: Transformer, tokenizer: Tokenizer, held_out: Sequence[Prompt], scorer: Scorer, config: PPOConfig,
                    seed: int) -> float:
    if not held_out:
        return -math.inf
    dialogues, _, _ = sample(policy, tokenizer, held_out, config, seed)
    return torch.as_tensor(scorer(held_out, dialogues), dtype=torch.float32).mean().item()
