"""A process for test_checkpoint.py to kill: reads commands on stdin and forks a child for each, torch being loaded once.

`save FOLDER START` saves training states START, START + 1, … without a pause, printing each number once it is on the disk;
`build FOLDER` makes an artifact. The server prints the child's pid first and "end" when it is gone.
"""
import os
import sys
import time
from pathlib import Path

import torch

from llama2_lib.config import ModelConfig
from llama2_lib.model.transformer import Transformer
from llama2_lib.training import checkpoint

CONFIG = ModelConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=32, multiple_of=8, max_seq_len=8)
RUN = {"steps": 10, "seed": 0}


def small_run(value: float = 0.0) -> tuple[Transformer, torch.optim.AdamW]:
    """A model and optimiser whose every tensor holds `value`, so that a mixture of two saves shows."""
    model = Transformer(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.25)
    optimizer.step()
    fill(model, optimizer, value)
    return model, optimizer


@torch.no_grad()
def fill(model: Transformer, optimizer: torch.optim.AdamW, value: float) -> None:
    for p in model.parameters():
        p.fill_(value)
        for moment in optimizer.state[p].values():
            moment.fill_(value)


def save(folder: str, start: int) -> None:
    model, optimizer = small_run()
    for step in range(start, start + 10_000):
        fill(model, optimizer, step)
        state = checkpoint.TrainingState(step, {"index": step}, RUN, "float32", [{"step": step}])
        checkpoint.save_state(folder, model, optimizer, state)
        os.write(1, f"{step}\n".encode())


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
        command, folder, *start = line.split()
        child = os.fork()
        if child == 0:
            try:
                save(folder, int(start[0])) if command == "save" else build(folder)
            finally:
                os._exit(0)
        os.write(1, f"{child}\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"end\n")


if __name__ == "__main__":
    main()
