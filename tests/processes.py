"""What test_distributed.py has two and four processes do; what each finds goes back as JSON."""
from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import test_ppo_loop as loop
import torch
from safetensors import safe_open
from torch.utils._python_dispatch import TorchDispatchMode

from llama2_lib.config import ModelConfig, OptimConfig, ParallelConfig, RuntimeConfig
from llama2_lib.model import transformer
from llama2_lib.model.generation import generate
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import ppo
from llama2_lib.stages.sft import sft_loss
from llama2_lib.text.batching import Batch, Examples, Loader
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint, distributed, plan, sampling, sharding, trainer

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=64, multiple_of=16, max_seq_len=32)
LARGER = replace(CONFIG, dim=128, n_layers=6, vocab_size=512, max_seq_len=64)
OPTIM = OptimConfig(peak_lr=3e-3, warmup_steps=3, clip_norm=0.5)
STEPS, SAVED = 12, 5
WHOLE, FIRST = ParallelConfig(), ParallelConfig(together=False)
LAYOUTS = {
    2: {"fsdp": WHOLE, "copies": ParallelConfig(shard=False), "tensor": ParallelConfig(tensor=2),
        "checkpointing": ParallelConfig(checkpointing=True, reshard=False),
        "tensor, checkpointing": ParallelConfig(tensor=2, checkpointing=True)},
    4: {"both": ParallelConfig(tensor=2), "tensor, copies": ParallelConfig(tensor=2, shard=False)},
}


class Stopped(Exception):
    pass


class Communication(TorchDispatchMode):
    """Counts what goes between processes."""
    count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.count += op.namespace in ("c10d", "_c10d_functional")
        return op(*args, **(kwargs or {}))


def model(config: ModelConfig = CONFIG) -> Transformer:
    torch.manual_seed(0)
    return Transformer(config)


def loader() -> Loader:
    """17 rows of uneven length, four at a time: the last batch of an epoch has one row, which two processes cannot share."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 25, size=17)
    rows = [(rng.integers(3, 64, n).tolist(), [i >= n // 3 for i in range(n)]) for n in lengths]
    return Loader(Examples(rows, 24, pack=False), 4, seed=1, drop_last=False)


def runtime(parallel: ParallelConfig) -> RuntimeConfig:
    return RuntimeConfig(precision="float32", parallel=parallel)


def train(parallel: ParallelConfig = WHOLE, folder: Path | None = None, stop_after: int | None = None) -> dict:
    """Losses, norms and final weights of a run."""
    trained = model()

    def stop(step: int, record: dict) -> None:
        if step == stop_after:
            raise Stopped

    history = trainer.fit(trained, loader(), sft_loss, OPTIM, STEPS, runtime=runtime(parallel), seed=3, folder=folder,
                          save_every=SAVED if folder else None, on_step=stop)
    return {"losses": [r["loss"] for r in history], "norms": [r["grad_norm"] for r in history],
            "tokens": [r["tokens"] for r in history], "weights": {n: p.tolist() for n, p in trained.named_parameters()}}


def train_in_bf16(parallel: ParallelConfig = WHOLE) -> list[float]:
    how = RuntimeConfig(precision="bfloat16", parallel=parallel)
    return [r["loss"] for r in trainer.fit(model(), loader(), sft_loss, OPTIM, STEPS, runtime=how, seed=3)]


def one_sided(parallel: ParallelConfig = WHOLE) -> dict:
    """One update on four rows of which only the last two have labels: with two processes the first has none."""
    (whole,) = [next(loader())]
    batch = replace(whole, mask_BT=whole.mask_BT & (torch.arange(4) >= 2)[:, None])
    trained = model()
    with distributed.worker(trained, runtime(parallel), torch.float32) as (worker, layout):
        mine = Batch(*(t.chunk(layout.parts)[layout.own[0]] for t in vars(batch).values()))
        optimizer = trainer.make_optimizer(worker, OPTIM)
        metrics = trainer.update(worker, optimizer, [mine], sft_loss, lr=1e-3, clip_norm=0.5, layout=layout)
    return {**metrics, "mine": mine.count, "weights": {n: p.tolist() for n, p in trained.named_parameters()}}


def refused(parallel: ParallelConfig, config: ModelConfig = CONFIG, batch_size: int = 4) -> str:
    rows = loader().rows
    try:
        trainer.fit(model(config), Loader(rows, batch_size, seed=1), sft_loss, OPTIM, 1, runtime=runtime(parallel))
    except ValueError as error:
        return str(error)
    return ""


PROMPTS = [[1, 5, 9], [1, 7, 20, 33, 4], [1, 60]]


def watched() -> dict:
    """Who looks on while the first process trains, with how many others and threads, and what each hears of an error."""
    lookers, heard = [], ""
    try:
        trainer.fit(model(), loader(), sft_loss, OPTIM, 2, runtime=runtime(FIRST),
                    on_step=lambda step, record: lookers.append([distributed.world_size(), torch.get_num_threads()]))
        train(FIRST, stop_after=1)
    except (Stopped, RuntimeError) as error:
        heard = repr(error)
    return {"lookers": lookers, "heard": heard, "after": [distributed.world_size(), torch.get_num_threads()]}


def generated(parallel: ParallelConfig = WHOLE) -> dict:
    """Greedy replies from a sharded model with its weights gathered and without, and the gatherings of each."""
    plain, found = model(), {}
    ask = {"max_new_tokens": 8, "temperature": 0.0, "eos_id": 2}
    with distributed.worker(plain, runtime(parallel), torch.float32) as (worker, _):
        for name, context in (("slow", nullcontext()), ("gathered", sharding.gathered(worker)), ("after", nullcontext())):
            with context, Communication() as seen:
                tokens = generate(worker, PROMPTS, **ask).tokens_NT.tolist()
            found[name] = {"tokens": tokens, "communications": seen.count}
        held = {n: sharding.local(p).numel() for n, p in worker.named_parameters()}
    found["plain"] = {"tokens": generate(plain, PROMPTS, **ask).tokens_NT.tolist()}
    return {**found, "held": held}


def paid(folder: Path, parallel: ParallelConfig = WHOLE) -> dict:
    """Four iterations of PPO, paid for short replies."""
    ids = [f"[INST] {p.text} [/INST]" for p in loop.PROMPTS]
    tokenizer = Tokenizer.train(ids, 400, folder / f"ppo-{distributed.world_size()}-{distributed.rank()}.model")
    policy = loop.policy()
    history = ppo.train(policy, tokenizer, iter(loop.PROMPTS * 4), loop.PROMPTS[:8], short, replace(loop.PPO, iterations=4),
                        runtime=runtime(parallel))
    return {"history": history, "weights": {n: p.tolist() for n, p in policy.named_parameters()}}


def short(asked, dialogues: list[list[int]]) -> list[float]:
    return [-float(len(ids)) for ids in dialogues]


def sampled() -> dict:
    """What work each process did on letters, and greedy and drawn replies to prompts of which some stand there twice."""
    seen = []

    def upper(some: list[str]) -> list[str]:
        seen.append(some)
        return [f"{letter.upper()}{some[:i].count(letter)}" for i, letter in enumerate(some)]

    letters = distributed.divided(list("abcabca"), upper)
    few = distributed.divided(["a"], upper)
    ids, tokenizer = PROMPTS * 2, SimpleNamespace(eos_id=2)
    drawn = [sampling.sample_ids(model(), tokenizer, ids, temperature, 3, 8) for temperature in (0.0, 1.0)]
    return {"seen": seen, "letters": letters, "few": few, "drawn": drawn}


def made(folder: Path) -> dict:
    """What an artifact built together holds, and who has built it."""
    built = []

    def build(place: Path) -> None:
        built.append(str(place))
        (place / "rank.txt").write_text(str(distributed.rank()))
        distributed.wait()

    for _ in range(2):
        checkpoint.artifact(folder / "together", "key", build)
    checkpoint.artifact(folder / "alone", "key", lambda place: built.append("alone"), alone=True)
    return {"built": built, "rank": (folder / "together" / "rank.txt").read_text(), "scratch": Path(built[0]).exists()}


def measured(parallel: ParallelConfig = WHOLE, rows: int = 4, seq_len: int = 64) -> int:
    """The most bytes one process really has at once in its second step, by what torch's allocator reports."""
    alive, peak = 0, 0
    one_by_one = patch.object(transformer, "project", lambda x, *linears: tuple(f(x) for f in linears))     # as on a GPU
    with one_by_one, distributed.worker(model(LARGER), runtime(parallel), torch.float32) as (worker, layout):
        optimizer = trainer.make_optimizer(worker, OPTIM)
        batches = [plan.FakeBatch(torch.zeros(rows, seq_len, dtype=torch.long), rows * seq_len)]
        plan.step(worker, optimizer, batches, torch.float32, layout)
        optimizer.zero_grad(set_to_none=True)
        held = sum(sharding.local(p).nbytes for p in worker.parameters())
        held += sum(sharding.local(v).nbytes for state in optimizer.state.values() for v in state.values())
        with torch.profiler.profile(profile_memory=True) as profile:
            plan.step(worker, optimizer, batches, torch.float32, layout)
        for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
            if event.name() == "[memory]":
                alive += event.nbytes()
                peak = max(peak, alive)
    return held + peak


def read(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Weights and optimiser state of the newest training state in `folder`, as one process reads them."""
    plain = model()
    optimizer = trainer.make_optimizer(plain, OPTIM)
    run = json.loads((checkpoint.states(folder)[0] / checkpoint.STATE).read_text())["run"]
    checkpoint.load_state(folder, plain, optimizer, run)
    return dict(plain.named_parameters()), optimizer.state_dict()


def names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def scenarios(place: str) -> dict:
    folder, world = Path(place), distributed.world_size()
    found = {f"train {name}": train(parallel) for name, parallel in LAYOUTS[world].items()}
    if world == 2:
        found |= {f"one-sided {name}": one_sided(parallel) for name, parallel in LAYOUTS[2].items()}
        found |= {f"bytes {name}": measured(parallel) for name, parallel in LAYOUTS[2].items()}
        found |= {f"bf16 {name}": train_in_bf16(parallel) for name, parallel in LAYOUTS[2].items()}
        found["indivisible batch"] = refused(WHOLE, batch_size=3)
        found["indivisible heads"] = refused(ParallelConfig(tensor=2), replace(CONFIG, n_kv_heads=1))
        found["indivisible processes"] = refused(ParallelConfig(tensor=3))
        found["generate"], found["sampled"], found["artifact"] = generated(), sampled(), made(folder)
        found |= {f"paid {name}": paid(folder, LAYOUTS[2][name]) for name in ("fsdp", "tensor")}
        found |= {"train first": train(FIRST), "paid first": paid(folder, FIRST), "watched": watched()}
        for name in ("fsdp", "tensor"):
            try:
                train(LAYOUTS[2][name], folder / name, stop_after=SAVED + 2)
            except Stopped:
                if distributed.is_main():
                    for number in (1, 2, 4):
                        shutil.copytree(folder / name, folder / f"{name} at {number}")
                distributed.wait()
    for name in ("fsdp", "tensor"):
        found[f"resume {name}"] = train(LAYOUTS[2][name], folder / f"{name} at {world}")
    return found
