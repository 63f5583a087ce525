"""The one training loop (section 2.2): AdamW, linear warm-up, cosine to a tenth of the peak, clipping.

`update` is one optimiser step over a list of micro-batches and `fit` is many of them. Each stage brings its own loss; PPO
brings its own outer loop and calls the same `update`. Every micro-batch weighs as much as it has labels, divided by the
labels of all micro-batches on all processes: so neither accumulation nor data parallel changes the loss. How a model is
spread over processes is the business of `distributed.worker`; here it is a model like any other.

The paper is silent on what happens at a bad step: here a loss or gradient that is not finite stops the run before the
weights change. Left out: skipping of bad batches, averaging of weights.
"""
from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from tqdm import tqdm

from llama2_lib.config import OptimConfig, RuntimeConfig
from llama2_lib.training import checkpoint, distributed, precision
from llama2_lib.training.distributed import ALONE, Layout, is_main, rank
from llama2_lib.training.heap import keep_freed_memory
from llama2_lib.training.randomness import own_randomness


class MicroBatch(Protocol):
    """What a loss is taken over: `text.batching.Batch`, or anything else that can be counted and moved."""

    @property
    def count(self) -> int: ...

    def to(self, device: torch.device) -> MicroBatch: ...


Loss = Callable[[nn.Module, MicroBatch], tuple[torch.Tensor, dict]]     # mean over batch.count labels, and its health
OnStep = Callable[[int, dict], None]                                    # steps done, the record of the last one


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is not finite. The weights are those of the last good step."""


def lr_at(step: int, optim: OptimConfig, total_steps: int) -> float:
    """Learning rate of step 0 … total_steps − 1, never 0; at total_steps it would be final_lr_fraction of the peak.

    warm-up:  peak · (step + 1) / warmup_steps          (step 0 already learns)
    cosine:   peak · (f + (1 − f) · (1 + cos π·p) / 2),  p = (step − warmup) / (total − warmup),  f = final_lr_fraction
    """
    if not 0 <= step <= total_steps:
        raise ValueError(f"step {step} lies outside a run of {total_steps} steps")
    if step < optim.warmup_steps:
        return optim.peak_lr * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, total_steps - optim.warmup_steps)
    final = optim.final_lr_fraction
    return optim.peak_lr * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


def make_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only: a norm's gain has no other weight to trade its size with."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("the model has no parameter to train")
    # one fused launch takes parameters of one mesh only; a whole tensor has none
    groups = [{"params": [p for p in trained if (p.ndim >= 2, getattr(p, "device_mesh", None)) == (matrix, mesh)],
               "weight_decay": optim.weight_decay if matrix else 0.0}
              for matrix in (True, False) for mesh in {getattr(p, "device_mesh", None): None for p in trained}]
    fused = all(p.device.type in ("cpu", "cuda") for p in trained)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=optim.peak_lr, betas=optim.betas, eps=optim.eps,
                             fused=fused)


def update(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Sequence[MicroBatch], loss_fn: Loss, *, lr: float,
           clip_norm: float, dtype: torch.dtype = torch.float32, step: int = 0, layout: Layout = ALONE) -> dict[str, float]:
    """One optimiser step over `batches` as if they were one batch; returns loss, grad_norm, tokens and loss_fn's metrics.

    tokens is the number of labels that counted, on all processes; grad_norm is taken before clipping to `clip_norm`.
    layout: that of `distributed.worker`, where `model` is one and `batches` are this process's part of the batches.
    Raises TrainingDiverged, naming `step`, before the weights change if the loss or the gradient is not finite; ValueError
    if lr is not above 0 or if no label counts.
    """
    tokens = _count(batches, lr, step, layout)
    optimizer.zero_grad(set_to_none=True)
    metrics = accumulate_gradients(model, batches, loss_fn, tokens, dtype, layout)
    layout.average_gradients(model)
    norm = layout.clip_gradients(model, clip_norm)
    metrics = layout.totals({name: float(value) for name, value in metrics.items()})      # waits for the GPU
    metrics |= {"grad_norm": norm, "tokens": tokens}
    _stop_unless_finite(metrics, optimizer, step)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return metrics


def _count(batches: Sequence[MicroBatch], lr: float, step: int, layout: Layout) -> int:
    """The labels that count, on all processes."""
    if not lr > 0:
        raise ValueError(f"step {step}: the learning rate must be above 0, got {lr}")
    tokens = round(layout.totals({"tokens": sum(b.count for b in batches)})["tokens"])
    if tokens == 0:
        raise ValueError(f"step {step}: no label counts in any of the {len(batches)} micro-batches: all are masked")
    return tokens


def accumulate_gradients(model: nn.Module, batches: Sequence[MicroBatch], loss_fn: Loss, tokens: int,
                          dtype: torch.dtype, layout: Layout) -> dict[str, torch.Tensor]:
    """Gradients of the mean loss over all `tokens`, added into the parameters; this process's part of each mean.

    A batch in which no label counts has gradients of 0 and a loss of 0 / 0. One process leaves it out; several must meet.
    """
    device = next(model.parameters()).device
    sums: dict[str, torch.Tensor] = {}
    for batch in batches:
        if batch.count == 0 and layout.data == 1:
            continue
        share = batch.count / tokens
        with precision.autocast(device.type, dtype):
            loss, health = loss_fn(model, batch.to(device))
        (loss * (share * layout.data)).backward()      # data parallel averages gradients over the processes
        for name, value in {**health, "loss": loss.detach()}.items():
            part = share * value if batch.count else 0.0
            sums[name] = sums.get(name, 0.0) + torch.as_tensor(part, dtype=torch.float64)     # as `Layout.totals` sums
    return sums


def _stop_unless_finite(metrics: dict[str, float], optimizer: torch.optim.Optimizer, step: int) -> None:
    bad = {name: metrics[name] for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])}
    if bad:
        optimizer.zero_grad(set_to_none=True)
        what = " and ".join(f"{name} is {value}" for name, value in bad.items())
        raise TrainingDiverged(f"step {step}, rank {rank()}: {what}; the weights are those before this step")


def fit(model: nn.Module, loader: Iterator[MicroBatch], loss_fn: Loss, optim: OptimConfig, steps: int, *,
        runtime: RuntimeConfig | None = None, seed: int = 0, folder: str | Path | None = None, save_every: int | None = None,
        micro_batches: int = 1, on_step: OnStep | None = None, look_at: Collection[int] | None = None,
        title: str = "") -> list[dict]:
    """Train `model` in place for `steps` steps of `micro_batches` batches each; one record a step comes back.

    A record holds step (steps done), loss, lr, grad_norm, tokens (seen so far), seconds (training so far), tokens_per_second
    and what loss_fn measured. `on_step(steps done, record)` is called after each step, or after those that `look_at`
    names: it may evaluate and add to the record. With a `title` a progress bar shows. With a `folder` the run is saved there
    every `save_every` steps and at its end, and goes on from the newest complete state it finds there, with the same losses
    to the bit as a run that never stopped.
    In a group of processes (`distributed.start`) each takes its part of every batch, spread as runtime.parallel says, or the
    first trains alone (parallel.together=False), and alone calls on_step. All must make the same call, and a run may go on
    with another number of them.

    Raises ValueError for no steps or an empty loader before anything is trained, and for a state of another run.
    """
    _check_call(steps, micro_batches, folder, save_every)
    runtime = runtime or RuntimeConfig()
    work = partial(_fit, model, loader, loss_fn, optim, steps, runtime, seed, folder, save_every, micro_batches, on_step,
                   look_at, title)
    return distributed.trained(runtime.parallel, model, work)


def _fit(model: nn.Module, loader: Iterator[MicroBatch], loss_fn: Loss, optim: OptimConfig, steps: int,
         runtime: RuntimeConfig, seed: int, folder: str | Path | None, save_every: int | None, micro_batches: int,
         on_step: OnStep | None, look_at: Collection[int] | None, title: str) -> list[dict]:
    keep_freed_memory()
    dtype = distributed.agreed(precision.choose(runtime.precision, distributed.place(model).type).dtype)
    run = {"steps": steps, "seed": seed, "micro_batches": micro_batches, "optim": dataclasses.asdict(optim)}
    model.train()
    with own_randomness(seed), _bar(steps, title) as bar, distributed.worker(model, runtime, dtype) as (worker, layout):
        if layout.parts > 1:
            loader.take(layout.own, layout.parts)
        optimizer = make_optimizer(worker, optim)
        history, dtype = _resume(folder, worker, optimizer, loader, run, dtype)
        step_loss = torch.compile(loss_fn) if runtime.compile and worker is model else loss_fn
        for step in range(len(history), steps):
            start, lr = time.perf_counter(), lr_at(step, optim, steps)
            batches = _next_batches(loader, micro_batches * len(layout.own), step, steps)
            metrics = update(worker, optimizer, batches, step_loss, lr=lr, clip_norm=optim.clip_norm, dtype=dtype, step=step,
                             layout=layout)
            history.append(_record(step, metrics, lr, time.perf_counter() - start, history))
            if on_step is not None and (look_at is None or step + 1 in look_at):
                distributed.bring_back(model, worker)
                on_step(step + 1, history[-1])
            if folder and _save_is_due(step + 1, steps, save_every):
                state = checkpoint.TrainingState(step + 1, loader.state(), run, str(dtype).removeprefix("torch."), history)
                checkpoint.save_state(folder, worker, optimizer, state)
            _show(bar, history[-1])
    return history


def _check_call(steps: int, micro_batches: int, folder: str | Path | None, save_every: int | None) -> None:
    if steps < 1:
        raise ValueError(f"fit needs at least one step, got {steps}")
    if micro_batches < 1:
        raise ValueError(f"fit needs at least one micro-batch a step, got {micro_batches}")
    if save_every is not None and (save_every < 1 or folder is None):
        raise ValueError(f"save_every must be at least 1 and needs a folder, got {save_every} and folder {folder}")


def _resume(folder: str | Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterator[MicroBatch],
            run: dict, dtype: torch.dtype) -> tuple[list[dict], torch.dtype]:
    """The records so far and the arithmetic they were made in: a run never changes its arithmetic half-way."""
    state = checkpoint.load_state(folder, model, optimizer, run) if folder else None
    if state is None:
        return [], dtype
    loader.restore(state.loader)
    return state.history, getattr(torch, state.dtype)


def _next_batches(loader: Iterator[MicroBatch], micro_batches: int, step: int, steps: int) -> list[MicroBatch]:
    """The micro-batches of one step; ValueError if the loader ends before them."""
    batches = [batch for batch in (next(loader, None) for _ in range(micro_batches)) if batch is not None]
    if len(batches) < micro_batches:
        raise ValueError(f"the loader is {'used up' if step or batches else 'empty'}: step {step} of {steps} found "
                         f"{len(batches)} of its {micro_batches} micro-batches")
    return batches


def _save_is_due(done: int, steps: int, save_every: int | None) -> bool:
    return done == steps or (save_every is not None and done % save_every == 0)


def _record(step: int, metrics: dict[str, float], lr: float, seconds: float, history: list[dict]) -> dict:
    before = history[-1] if history else {"tokens": 0, "seconds": 0.0}
    return {"step": step + 1, **metrics, "lr": lr, "tokens": before["tokens"] + metrics["tokens"],
            "seconds": before["seconds"] + seconds, "tokens_per_second": metrics["tokens"] / seconds}


def _bar(steps: int, title: str) -> tqdm:
    """A bar on stderr; in a notebook, which stores every repaint, it repaints less often."""
    return tqdm(total=steps, desc=title, disable=not title or not is_main(), mininterval=0.5 if sys.stderr.isatty() else 2.0)


def _show(bar: tqdm, record: dict) -> None:
    bar.set_postfix_str(f"loss {record['loss']:.3f}, lr {record['lr']:.1e}, grad {record['grad_norm']:.2f}, "
                        f"{record['tokens'] / record['seconds']:,.0f} tokens/s", refresh=False)
    bar.update(record["step"] - bar.n)       # at a resumed run's first step: all steps so far
