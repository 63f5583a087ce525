"""The training loop against arithmetic done by hand, and against itself: same seed, same bits."""
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llama2_lib.config import ModelConfig, OptimConfig, RuntimeConfig
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.batching import Batch
from llama2_lib.training import precision, trainer

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=61, multiple_of=16, max_seq_len=32)
OPTIM = OptimConfig(peak_lr=3e-3, warmup_steps=3)
FLOAT32 = RuntimeConfig(precision="float32")
GOLDEN = Path(__file__).parent / "golden" / "tiny_losses.json"


def tiny(seed: int = 0) -> Transformer:
    """A tiny Transformer whose weights do not hang on how a processor rounds logarithms and cosines."""
    model = Transformer(CONFIG)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            draw = torch.randint(-500, 501, p.shape, generator=generator) / 500
            p.copy_(draw * (3 / p.shape[1]) ** 0.5 if p.ndim == 2 else 1 + 0.1 * draw)
    return model


def text_loss(model, batch):
    """Mean cross-entropy over the labels that count: torch's, not the library's."""
    losses = F.cross_entropy(model(batch.tokens_BT).float().transpose(1, 2), batch.labels_BT, reduction="none")
    return losses[batch.mask_BT].mean(), {}


def random_batches(count: int, rows: int = 4, T: int = 16, seed: int = 0, uneven: bool = True) -> list[Batch]:
    """Batches with a pattern to learn (the next token is the last one times 7 mod 61) and rows of uneven length."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        start = torch.randint(1, 61, (rows, 1), generator=generator)
        ids = torch.cat([start * pow(7, t, 61) % 61 for t in range(T + 1)], dim=1)
        length = torch.randint(1, T + 1, (rows, 1), generator=generator) if uneven else torch.full((rows, 1), T)
        batches.append(Batch(ids[:, :-1], ids[:, 1:], torch.arange(T) < length))
    return batches


def fit(steps: int, model=None, batches=None, **kwargs) -> list[dict]:
    batches = batches or random_batches(steps)
    return trainer.fit(model or tiny(), iter(batches), text_loss, OPTIM, steps, **{"runtime": FLOAT32, **kwargs})


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# -------------------------------------------------------------------------------------------------------------- schedule

def test_schedule_at_the_points_the_paper_names():
    optim = OptimConfig(peak_lr=3e-4, warmup_steps=2000)
    total = 500_000
    assert trainer.lr_at(0, optim, total) == pytest.approx(3e-4 / 2000), "the first step must already learn"
    assert trainer.lr_at(999, optim, total) == pytest.approx(1.5e-4)
    assert trainer.lr_at(1999, optim, total) == trainer.lr_at(2000, optim, total) == pytest.approx(3e-4)
    assert trainer.lr_at(251_000, optim, total) == pytest.approx(3e-4 * 0.55), "half-way down the cosine: (1 + 0.1) / 2"
    assert trainer.lr_at(total, optim, total) == pytest.approx(3e-5)


@given(total=st.integers(1, 300), warmup=st.integers(0, 400), final=st.sampled_from([0.0, 0.1, 1.0]))
def test_learning_rate_is_never_zero_and_rises_then_falls(total, warmup, final):
    optim = OptimConfig(peak_lr=1e-3, warmup_steps=warmup, final_lr_fraction=final)
    rates = [trainer.lr_at(s, optim, total) for s in range(total)]
    assert all(0 < r <= 1e-3 * (1 + 1e-12) for r in rates)
    top = min(warmup, total - 1)
    assert rates[:top + 1] == sorted(rates[:top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_schedule_refuses_a_step_outside_the_run():
    with pytest.raises(ValueError, match="step 11 .* 10 steps"):
        trainer.lr_at(11, OPTIM, 10)


# ---------------------------------------------------------------------------------------------------------------- update

def test_decay_reaches_matrices_only():
    model = tiny()
    optimizer = trainer.make_optimizer(model, OPTIM)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, p in model.named_parameters():
        assert decay[id(p)] == (0.0 if name.endswith("norm.weight") else 0.1), name
    assert len(decay) == len(list(model.parameters()))


def test_one_update_is_adamw_by_hand():
    """First step: moments (1−β)·g and (1−β)·g², bias-corrected to g and g²; decay by lr·0.1 on the matrix only."""
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    model.g = torch.nn.Parameter(torch.tensor([0.5, 0.25]))
    ids = torch.zeros(1, 2, dtype=torch.long)
    batch = Batch(ids, ids, torch.ones(1, 2, dtype=torch.bool))
    optim = OptimConfig(peak_lr=1.0, eps=1e-5, weight_decay=0.1)

    def loss(m, b):
        return (m.w * torch.tensor([3.0, 0.4])).sum() + (m.g * torch.tensor([-1.2, 4e-5])).sum(), {"half": 0.5}

    metrics = trainer.update(model, trainer.make_optimizer(model, optim), [batch], loss, lr=0.01, clip_norm=math.inf)
    for p, start, grad, decay in ((model.w, [1.0, -2.0], [3.0, 0.4], 0.1), (model.g, [0.5, 0.25], [-1.2, 4e-5], 0.0)):
        want = [x * (1 - 0.01 * decay) - 0.01 * g / (abs(g) + 1e-5) for x, g in zip(start, grad, strict=True)]
        assert p.detach().flatten().tolist() == pytest.approx(want, abs=1e-7)
    assert metrics["grad_norm"] == pytest.approx(math.sqrt(3.0**2 + 0.4**2 + 1.2**2), abs=1e-5)
    assert metrics["half"] == 0.5 and metrics["tokens"] == 2


def test_clipping_scales_the_whole_gradient():
    """AdamW's first step hardly depends on the gradient's size, so the moments are looked at."""
    for clip, factor in ((0.01, None), (math.inf, 1.0)):
        model, batches = tiny(), random_batches(1)
        optimizer = trainer.make_optimizer(model, OPTIM)
        metrics = trainer.update(model, optimizer, batches, text_loss, lr=1e-3, clip_norm=clip)
        norm = math.sqrt(sum(float((optimizer.state[p]["exp_avg"] / 0.1).square().sum()) for p in model.parameters()))
        assert norm == pytest.approx(clip if factor is None else metrics["grad_norm"], rel=1e-4)


def accumulated(parts: int, seed: int) -> tuple[dict[str, torch.Tensor], float]:
    """Gradients and loss of 8 uneven rows given as `parts` micro-batches."""
    (whole,) = random_batches(1, rows=8, seed=seed)
    batches = [Batch(*(t.chunk(parts)[i] for t in (whole.tokens_BT, whole.labels_BT, whole.mask_BT))) for i in range(parts)]
    model = tiny()
    optimizer = trainer.make_optimizer(model, OPTIM)
    metrics = trainer.update(model, optimizer, batches, text_loss, lr=1e-3, clip_norm=math.inf)
    return {n: optimizer.state[p]["exp_avg"] / 0.1 for n, p in model.named_parameters()}, metrics["loss"]


def test_eight_rows_at_once_equal_eight_single_rows():
    """Rows of 1 to 16 labels: a mean of the rows' means would be off by far more. The drift over seeds must average out."""
    drifts = []
    for seed in range(64):
        whole, loss = accumulated(1, seed)
        for parts in (2, 8):
            split, split_loss = accumulated(parts, seed)
            assert split_loss == pytest.approx(loss, abs=1e-6), "is each micro-batch weighted by its own count of labels?"
            for name in whole:
                assert (whole[name] - split[name]).abs().max() <= 1e-6, name
        drifts.append(split_loss - loss)
    assert abs(sum(drifts) / len(drifts)) <= 2e-7, "the error does not average out: something is systematically off"


def test_a_micro_batch_without_labels_changes_nothing():
    model, other = tiny(), tiny()
    (batch,) = random_batches(1)
    empty = Batch(batch.tokens_BT, batch.labels_BT, torch.zeros_like(batch.mask_BT))
    a = trainer.update(model, trainer.make_optimizer(model, OPTIM), [batch, empty], text_loss, lr=1e-3, clip_norm=1.0)
    b = trainer.update(other, trainer.make_optimizer(other, OPTIM), [batch], text_loss, lr=1e-3, clip_norm=1.0)
    assert a == b and all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_all_labels_masked_is_refused():
    model = tiny()
    (batch,) = random_batches(1)
    empty = Batch(batch.tokens_BT, batch.labels_BT, torch.zeros_like(batch.mask_BT))
    with pytest.raises(ValueError, match="step 7: no label counts in any of the 2"):
        trainer.update(model, trainer.make_optimizer(model, OPTIM), [empty] * 2, text_loss, lr=1e-3, clip_norm=1.0, step=7)


def test_learning_rate_zero_is_refused():
    with pytest.raises(ValueError, match="step 0: the learning rate must be above 0, got 0"):
        trainer.update(tiny(), trainer.make_optimizer(tiny(), OPTIM), random_batches(1), text_loss, lr=0.0, clip_norm=1.0)


def nan_loss(model, batch):
    return text_loss(model, batch)[0] * float("nan"), {}


def nan_gradient(model, batch):
    """A finite loss, 0, whose derivative is infinite: sqrt at 0."""
    return (model.norm.weight.sum() * 0).sqrt(), {}


@pytest.mark.parametrize(("bad", "what"), [(nan_loss, "loss is nan"), (nan_gradient, "grad_norm is nan")])
def test_a_loss_or_gradient_that_is_not_finite_leaves_the_weights_alone(bad, what):
    model, batches = tiny(), random_batches(4)
    optimizer = trainer.make_optimizer(model, OPTIM)
    trainer.update(model, optimizer, batches[:1], text_loss, lr=1e-3, clip_norm=1.0)
    before, moments = weights(model), optimizer.state_dict()
    moments = {k: {f: v.clone() for f, v in s.items()} for k, s in moments["state"].items()}
    with pytest.raises(trainer.TrainingDiverged, match=f"step 41, rank 0: .*{what}"):
        trainer.update(model, optimizer, [batches[1]], bad, lr=1e-3, clip_norm=1.0, step=41)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert all(torch.equal(v, after[k][f]) for k, s in moments.items() for f, v in s.items())
    trainer.update(model, optimizer, batches[2:3], text_loss, lr=1e-3, clip_norm=1.0)       # and training can go on


# ------------------------------------------------------------------------------------------------------------------- fit

def test_bit_equal_from_run_to_run_whatever_the_global_generators_say():
    def noisy(model, batch):
        loss, _ = text_loss(model, batch)
        return loss * (1 + 0.1 * torch.rand(())), {}

    runs = []
    for wander in (0, 5):
        torch.rand(wander)
        model = tiny()
        history = trainer.fit(model, iter(random_batches(5)), noisy, OPTIM, 5, runtime=FLOAT32, seed=3)
        runs.append(([(r["loss"], r["grad_norm"], r["lr"]) for r in history], weights(model)))
    assert runs[0][0] == runs[1][0] and all(torch.equal(runs[0][1][n], runs[1][1][n]) for n in runs[0][1])


def test_fit_does_not_touch_the_callers_generators():
    model = tiny()
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    fit(1, model)
    assert torch.equal(torch.rand(3), want)


def test_history_says_what_happened():
    batches = random_batches(6)
    seen = []
    history = fit(3, batches=batches, micro_batches=2, on_step=lambda step, record: seen.append((step, dict(record))))
    assert [r["step"] for r in history] == [1, 2, 3] == [s for s, _ in seen]
    assert [r["lr"] for r in history] == [trainer.lr_at(s, OPTIM, 3) for s in range(3)]
    counts = [b.count for b in batches]
    assert [r["tokens"] for r in history] == [sum(counts[:2]), sum(counts[:4]), sum(counts)]
    assert all(0 < a["seconds"] < b["seconds"] for a, b in zip(history, history[1:], strict=False))
    assert all(r["tokens_per_second"] > 0 and r["grad_norm"] > 0 for r in history)


def test_what_on_step_adds_is_kept():
    history = fit(2, on_step=lambda step, record: record.update(half=step / 2))
    assert [r["half"] for r in history] == [0.5, 1.0]


def test_it_learns():
    history = fit(60, batches=random_batches(60, rows=16, uneven=False))
    assert history[0]["loss"] > 4.0 and history[-1]["loss"] < 1.5, [r["loss"] for r in history[::10]]


def test_golden_losses():
    """Twenty losses in float32: a refactor must give the same. Instruction sets differed by 1e-6; 5e-5 leaves room."""
    history = fit(20, batches=random_batches(20), seed=0)
    want = json.loads(GOLDEN.read_text())["losses"]
    assert [r["loss"] for r in history] == pytest.approx(want, abs=5e-5)


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"steps": 0}, "at least one step, got 0"), ({"steps": 2, "micro_batches": 0}, "at least one micro-batch"),
    ({"steps": 2, "save_every": 1}, "save_every must be at least 1 and needs a folder"),
    ({"steps": 2, "runtime": RuntimeConfig(precision="float32"), "batches": iter(())}, "the loader is empty: step 0 of 2"),
    ({"steps": 3, "batches": random_batches(2)}, "the loader is used up: step 2 of 3 found 0 of its 1"),
])
def test_fit_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        fit(**kwargs)


def test_the_progress_bar_names_what_matters(capsys):
    fit(2, title="tiny run")
    line = capsys.readouterr().err
    assert all(word in line for word in ("tiny run", "loss", "lr", "grad", "tokens/s", "2/2")), line
    fit(2)
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------------------------- precision

def test_bfloat16_autocast_keeps_float32_weights_and_stays_close():
    batches = random_batches(20)
    model = tiny()
    low = fit(20, model, batches, runtime=RuntimeConfig(precision="bfloat16"))
    full = fit(20, None, batches)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert low[0]["loss"] != full[0]["loss"], "bfloat16 gives the same bits: was autocast on?"
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(low, full, strict=True)) < 0.05


def test_the_choice_is_made_once_and_says_why(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for gain, dtype in ((2.0, torch.bfloat16), (0.4, torch.float32)):
        precision._choose_for.cache_clear()
        monkeypatch.setattr(precision, "_measured_gain", lambda gain=gain: gain)
        choice = precision.choose("auto")
        monkeypatch.setattr(precision, "_measured_gain", lambda: pytest.fail("measured twice in one process"))
        assert choice.dtype == dtype and f"{gain:.1f} times" in choice.reason and precision.choose("auto") is choice
    precision._choose_for.cache_clear()
    assert precision.choose("bfloat16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="got 'float16'"):
        precision.choose("float16")


def test_without_vector_units_the_choice_is_float32():
    code = "from llama2_lib.training import precision; print(precision.choose('auto').dtype)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env={**os.environ, "ATEN_CPU_CAPABILITY": "default"}).stdout
    assert out.strip() == "torch.float32"


def test_the_probe_is_short_and_draws_no_random_numbers():
    import time
    torch.manual_seed(0)
    before = torch.get_rng_state()
    precision._measured_gain()
    start = time.process_time()
    precision._measured_gain()
    assert time.process_time() - start < 0.3 * max(1, torch.get_num_threads())
    assert torch.equal(torch.get_rng_state(), before)
