"""A process for test_checkpoint.py to kill: reads commands on stdin and forks a child for each, torch being loaded once.

`save FOLDER START` saves training states START, START + 1, … without a pause, printing each number once it is on the disk;
`save FOLDER START RANK PORT` does so as one of two processes, each with its half of the model; `build FOLDER` makes an
artifact. The server prints the child's pid first and "end" when it is gone.
"""
import os
import sys
import time
from pathlib import Path

import torch

from llama2_lib.config import ModelConfig, OptimConfig, RuntimeConfig
from llama2_lib.model.transformer import Transformer
from llama2_lib.training import checkpoint, distributed, sharding, trainer  # noqa: F401  (sharding: loaded before the fork)
from llama2_lib.training.pieces import local

CONFIG = ModelConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=32, multiple_of=8, max_seq_len=8)
RUN = {"steps": 10, "seed": 0}


def small_run(value: float = 0.0) -> tuple[Transformer, torch.optim.AdamW]:
    """A model and optimiser whose every tensor holds `value`, so that a mixture of two saves shows."""
    model = Transformer(CONFIG)
    return model, with_moments(model, value)


def with_moments(model: torch.nn.Module, value: float) -> torch.optim.AdamW:
    optimizer = trainer.make_optimizer(model, OptimConfig(peak_lr=1e-3))
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.25)
    optimizer.step()
    fill(model, optimizer, value)
    return optimizer


@torch.no_grad()
def fill(model: torch.nn.Module, optimizer: torch.optim.AdamW, value: float) -> None:
    for p in model.parameters():
        local(p).fill_(value)
        for moment in optimizer.state[p].values():
            local(moment).fill_(value)


def save(folder: str, start: str, *group: str) -> None:
    if group:
        join(*group)
    with distributed.worker(Transformer(CONFIG), RuntimeConfig(), torch.float32) as (model, _):
        optimizer = with_moments(model, 0.0)
        for step in range(int(start), int(start) + 10_000):
            fill(model, optimizer, step)
            state = checkpoint.TrainingState(step, {"index": step}, RUN, "float32", [{"step": step}])
            checkpoint.save_state(folder, model, optimizer, state)
            os.write(1, f"{step}\n".encode())


def join(rank: str, port: str) -> None:
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    distributed.start()


def build(folder: str) -> None:
    def slow(partial: Path) -> None:
        os.write(1, b"built\n")
        (partial / "words.txt").write_text("x")
        time.sleep(0.1)

    checkpoint.artifact(folder, "key", slow)


def main() -> None:
    torch.set_num_threads(1)
    small_run()         # torch loads more at the first optimiser: once here, not in every child
    os.write(1, b"ready\n")
    for line in sys.stdin:
        command, *arguments = line.split()
        child = os.fork()
        if child == 0:
            try:
                {"save": save, "build": build}[command](*arguments)
            finally:
                os._exit(0)
        os.write(1, f"{child}\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"end\n")


if __name__ == "__main__":
    main()
