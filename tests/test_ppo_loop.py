"""PPO's loop: rollouts as the trainer sees them, replies at their own places, and a policy that learns what it is paid."""
from dataclasses import replace

import pytest
import torch

from llama2_lib.config import ModelConfig, OptimConfig, PPOConfig, RuntimeConfig
from llama2_lib.model.logprobs import masked_mean, token_logprobs
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import ppo
from llama2_lib.text.chat import dialog, render
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import trainer
from llama2_lib.world.dialogs import prompts
from llama2_lib.world.facts import load

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=400, multiple_of=8, max_seq_len=128)
PPO = PPOConfig(iterations=6, batch=16, minibatch=8, beta=0.02, max_new_tokens=6, evaluate_every=2, patience=2,
                optim=OptimConfig(peak_lr=3e-3, final_lr_fraction=1.0))
PROMPTS = list(prompts(load(), 400, 0))
FP32 = RuntimeConfig(precision="float32")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [f"[INST] {p.text} [/INST]" for p in PROMPTS]
    return Tokenizer.train(texts, 400, tmp_path_factory.mktemp("ppo") / "t.model")


def policy(seed=0):
    torch.manual_seed(seed)
    return Transformer(CONFIG)


def constant(asked, dialogues):
    return torch.zeros(len(dialogues))


def rolled(tokenizer, config=PPO, model=None, scorer=constant):
    model = model or ppo.ActorCritic(policy())
    return model, ppo.roll_out(model, policy(), tokenizer, PROMPTS[:16], scorer, config, seed=3)


# ------------------------------------------------------------------------------------------------------ where the tokens are

def test_log_probabilities_stand_at_the_reply_s_own_tokens():
    """Three dialogues of uneven lengths, one by one and without packing."""
    dialogues, starts = [[1, 5, 6, 7, 8, 2], [1, 9, 10, 2], [1, 4, 4, 4, 11, 12, 13, 2]], [3, 2, 4]
    model = ppo.ActorCritic(policy()).eval()
    torch.nn.init.normal_(model.value.out.weight)
    replies = ppo.laid_out(dialogues, starts, 16)
    logits, values = model(replies, temperature=0.7)
    logprobs, values = replies.logprobs(logits), replies.unfold(values)
    for b, (ids, start) in enumerate(zip(dialogues, starts, strict=True)):
        h = model.policy.hidden(torch.tensor([ids[:-1]]))[:, start - 1:]
        n = len(ids) - start
        assert torch.allclose(logprobs[b, :n], token_logprobs(model.policy.output(h) / 0.7, torch.tensor([ids[start:]]))[0],
                              atol=1e-5)
        assert torch.allclose(values[b, :n], ppo.CRITIC_GAIN * model.value(h)[0], atol=1e-4)
        assert not logprobs[b, n:].any() and not values[b, n:].any()


def test_a_reply_without_a_token_is_refused():
    with pytest.raises(ValueError, match="reply 1 has 0 tokens after a prompt of 3"):
        ppo.laid_out([[1, 2, 3], [1, 2, 3]], [2, 3], 16)


# ------------------------------------------------------------------------------------------------------------------ rollouts

@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_policy_starts_as_its_own_reference_and_the_first_ratio_is_one(tokenizer, temperature):
    config = replace(PPO, temperature=temperature)
    model, r = rolled(tokenizer, config)
    assert torch.equal(r.logprobs_BT, r.reference_BT) and r.kl == 0
    (batch,) = next(ppo.minibatches(r, 8, 128, torch.Generator()))
    _, health = ppo.ppo_loss(model, batch, 0.2, 0.1, temperature)
    assert health["ratio"] == pytest.approx(1, abs=1e-5) and health["approx_kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_sampler_s_log_probabilities_are_the_trainer_s(tokenizer, temperature):
    from llama2_lib.model.generation import generate
    model = policy().eval()
    asked = [render(dialog(p.text, system=p.system), tokenizer)[0] for p in PROMPTS[:8]]
    found = generate(model, asked, max_new_tokens=6, temperature=temperature, eos_id=tokenizer.eos_id, seed=1)
    whole = [a + b for a, b in zip(asked, found.lists(), strict=True)]
    replies = ppo.laid_out(whole, [len(a) for a in asked], 128)
    logprobs = replies.logprobs(ppo.ActorCritic(model)(replies, temperature)[0])
    width = logprobs.shape[1]
    assert torch.allclose(logprobs, found.logprobs_NT[:, :width], atol=1e-5)


def test_the_score_is_of_the_whole_dialogue_and_unfinished_replies_get_a_fixed_reward(tokenizer):
    seen = []

    def scorer(asked, dialogues):
        seen.extend(zip(asked, dialogues, strict=True))
        return torch.arange(float(len(dialogues)))

    _, r = rolled(tokenizer, scorer=scorer)
    for (prompt, ids), start in zip(seen, r.starts, strict=True):
        assert ids[:start] == render(dialog(prompt.text, system=prompt.system), tokenizer)[0]
    assert (r.reward_B[~r.finished_B] == ppo.UNFINISHED).all() and bool((~r.finished_B).any())
    ends = [ids[-1] == tokenizer.eos_id for ids in r.dialogues]
    assert r.finished_B.tolist() == ends


def test_advantages_are_whitened_over_tokens_and_nothing_leaks_into_padding(tokenizer, monkeypatch):
    whole = ppo.sample(policy(), tokenizer, PROMPTS[:16], PPO, 3)
    cut = [ids[:start + 1 + b % 6] for b, (ids, start) in enumerate(zip(*whole[:2], strict=True))]
    monkeypatch.setattr(ppo, "sample", lambda *_: (cut, *whole[1:]))
    _, r = rolled(tokenizer, scorer=lambda asked, d: torch.arange(float(len(d))))
    assert not r.mask_BT.all(), "some replies are shorter than others"
    kept = r.advantages_BT[r.mask_BT]
    assert kept.mean().abs() < 1e-5 and kept.std(correction=0) == pytest.approx(1, abs=1e-4)
    for x in (r.advantages_BT, r.logprobs_BT, r.reference_BT, r.values_BT):
        assert not x[~r.mask_BT].any()


# ------------------------------------------------------------------------------------------------------------------ learning

def test_minibatches_hold_every_reply_once_with_its_own_numbers(tokenizer):
    _, r = rolled(tokenizer)
    parts = sum(ppo.minibatches(r, 8, 128, torch.Generator().manual_seed(1)), [])
    assert [len(p.replies.mask_BT) for p in parts] == [8, 8]
    rows = [row[mask].tolist() for p in parts for row, mask in zip(p.logprobs_BT, p.replies.mask_BT, strict=True)]
    own = [row[mask].tolist() for row, mask in zip(r.logprobs_BT, r.mask_BT, strict=True)]
    assert sorted(rows) == sorted(own)


def test_accumulation_changes_no_gradient(tokenizer, monkeypatch):
    """Sixteen replies of one to six tokens at once, or one by one: the same loss and the same gradient."""
    def uneven(*arguments):
        dialogues, starts, finished_B = sample(*arguments)
        cut = [ids[:start + 1 + b % 6] for b, (ids, start) in enumerate(zip(dialogues, starts, strict=True))]
        return cut, starts, finished_B

    sample = ppo.sample
    monkeypatch.setattr(ppo, "sample", uneven)
    _, r = rolled(tokenizer, scorer=lambda asked, d: torch.arange(float(len(d))))
    results = []
    for size in (16, 1):
        model = ppo.ActorCritic(policy())
        optimizer = trainer.make_optimizer(model, PPO.optim)
        batches = sum(ppo.minibatches(r, size, 128, torch.Generator().manual_seed(1)), [])

        def loss(m, b):
            return ppo.ppo_loss(m, b, 0.2, 0.1, 1.0)

        metrics = trainer.update(model, optimizer, batches, loss, lr=1e-3, clip_norm=1.0)
        results.append((metrics["loss"], metrics["grad_norm"]))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.fixture
def all_finished(monkeypatch):
    """A random model hardly ever ends a reply; here every reply counts as ended, so that its score is its reward."""
    def finished(*arguments):
        dialogues, starts, finished_B = sample(*arguments)
        return dialogues, starts, torch.ones_like(finished_B)
    sample = ppo.sample
    monkeypatch.setattr(ppo, "sample", finished)


def test_the_policy_learns_to_say_what_is_paid_and_kl_grows(tokenizer, all_finished):
    """Paid: the share of ids below 100 among the last tokens; a quarter of the vocabulary."""
    def scorer(asked, dialogues):
        return torch.tensor([sum(t < 100 for t in ids[-6:]) / 6 for ids in dialogues])

    config = replace(PPO, iterations=40, patience=40, beta=0.0)
    history = ppo.train(policy(), tokenizer, iter(PROMPTS * 4), PROMPTS[:8], scorer, config, runtime=FP32)
    assert history[-1]["score"] > history[0]["score"] + 0.2
    assert history[0]["kl"] == 0 and history[-1]["kl"] > 1
    assert {"clipfrac", "approx_kl", "explained_variance", "entropy", "length", "unfinished"} <= set(history[0])


def test_beta_holds_the_policy_back(tokenizer, all_finished):
    def scorer(asked, dialogues):
        return torch.tensor([float(ids[-1] % 2) for ids in dialogues])

    ends = [ppo.train(policy(), tokenizer, iter(PROMPTS * 4), PROMPTS[:8], scorer,
                      replace(PPO, iterations=15, patience=40, beta=beta), runtime=FP32)[-1]["kl"] for beta in (0.0, 1.0)]
    assert ends[1] < ends[0]


def test_training_stops_when_the_held_out_score_no_longer_rises_and_keeps_the_best(tokenizer):
    scores = iter([5.0, *[1.0] * 100])                       # the first is that of the policy before training

    def scorer(asked, dialogues):
        return torch.full((len(dialogues),), next(scores) if asked is held_out else 0.0)

    held_out, model = PROMPTS[:8], policy()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    history = ppo.train(model, tokenizer, iter(PROMPTS), held_out, scorer, replace(PPO, iterations=20), runtime=FP32)
    assert len(history) == PPO.patience * PPO.evaluate_every
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()), "the best was the one before training"


def test_two_runs_are_equal_and_another_seed_is_not(tokenizer):
    def scorer(asked, dialogues):
        return torch.tensor([float(len(ids)) for ids in dialogues])

    def run(seed):
        said = []
        done = ppo.train(policy(), tokenizer, iter(PROMPTS), PROMPTS[:8], scorer, replace(PPO, iterations=3), seed=seed,
                         runtime=FP32, on_iteration=lambda record, rollouts: said.append(rollouts.dialogues))
        return [r["loss"] for r in done], said[0]
    (losses, said), again, (other_losses, other_said) = run(0), run(0), run(1)
    assert (losses, said) == again
    assert losses != other_losses and said != other_said


def test_too_few_prompts_are_said_before_a_step(tokenizer):
    with pytest.raises(ValueError, match="iteration 1 found 4 of its 16 prompts"):
        ppo.train(policy(), tokenizer, iter(PROMPTS[:20]), PROMPTS[:8], constant, PPO, runtime=FP32)


def test_the_value_head_starts_at_zero_and_learns(tokenizer):
    def scorer(asked, dialogues):
        return torch.tensor([3.0 if p.kind == "sum" else 0.0 for p in asked])

    history = ppo.train(policy(), tokenizer, iter(PROMPTS * 4), PROMPTS[:8], scorer,
                        replace(PPO, iterations=40, patience=40), runtime=FP32)
    early, late = (masked_mean(torch.tensor([r["value_loss"] for r in part]), torch.ones(5, dtype=torch.bool)).item()
                   for part in (history[:5], history[-5:]))
    assert history[0]["explained_variance"] == pytest.approx(0, abs=1e-6) and late < early
