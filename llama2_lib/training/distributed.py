"""Who else is training: the seam through which the trainer speaks to other processes.

On one process every call here is a no-op. With a process group (torchrun) the same calls count and add over all ranks, so
that the trainer divides by the global number of tokens either way. Sharding (FSDP2, tensor parallel) is not here yet.
"""
from __future__ import annotations

import torch
import torch.distributed as dist


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """This process's number, 0 … world_size − 1."""
    return dist.get_rank() if _grouped() else 0


def is_main() -> bool:
    """Whether this process is the one that prints and writes files."""
    return rank() == 0


def all_reduce_sum(number: float) -> float:
    """The sum of every rank's `number`, in double precision; `number` itself on one process."""
    if not _grouped():
        return number
    total = torch.tensor(float(number), dtype=torch.float64)
    if dist.get_backend() == "nccl":
        total = total.to(torch.device("cuda", torch.cuda.current_device()))
    dist.all_reduce(total)
    return total.item()
