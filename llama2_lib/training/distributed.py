"""Many processes, one run (section 2.2: 2,000 to 3,000 GPUs): who there is, and how numbers go between them.

    processes = data × tensor      rank = data index · tensor + tensor index

Processes of one data index share each matrix (tensor parallel) and read the same rows; those of one tensor index read
different parts of a batch. `worker` is what the trainer trains: the model itself on one process, and on several a copy whose
weights are spread as a `ParallelConfig` says, with the model brought up to date at the end. On one process every call here
is a no-op, and nothing of torch.distributed is loaded: it takes seconds to import.

    torchrun --nproc-per-node=2 -m llama2_lib sft toy runtime.parallel.tensor=2

A step of a toy is so short that on a processor two processes lose more by waiting for each other than they gain. There the
first can train alone, with the threads of all, and all of them sample (`trained`, runtime.parallel.together=False).

What is summed in another order is rounded otherwise. For dozens of steps that stays in the last digits; over hundreds at a
high learning rate it grows, between two processes and one as between two threads of one process and one thread. A process
alone can be told to work in as many parts as a group would, one after another (`runtime.parts`): then the sums are the same
too, and what it makes equals to the bit what two processes make that keep whole copies. Shards sum the gradient's norm in
parts, and more than two processes sum in an order of their own: those differ by rounding.

The paper says nothing of its parallelism. Left out: pipeline and context parallelism, models too large for the memory of
one host (each process reads the whole model once before it keeps its part).
"""
from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from llama2_lib.config import ParallelConfig, RuntimeConfig, require
from llama2_lib.training.heap import keep_freed_memory

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

A, T, M = TypeVar("A", bound=Hashable), TypeVar("T"), TypeVar("M", bound=nn.Module)
PATIENCE = timedelta(days=1)      # what one process does alone (cleaning a corpus), the others wait for
_parts_alone = 1                  # in how many parts a process without a group works
_apart = False                    # whether this process works as if it had no group: see `trained`


# ------------------------------------------------------------------------------------------------------------- processes

def start(parts: int = 1) -> None:
    """Join the processes that torchrun started, by nccl between GPUs and by gloo between CPUs, and keep freed memory.

    Without torchrun this process works alone, in `parts` parts from now on (`runtime.parts`). ValueError for parts in a
    group, where each process does one.
    """
    global _parts_alone
    together = "RANK" in os.environ or grouped()
    require(parts == 1 or not together, f"runtime.parts is for a process alone, got {parts} under torchrun")
    _parts_alone = parts
    keep_freed_memory()
    if not together or grouped():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)


def stop() -> None:
    """Leave the group; alone, work in one part again."""
    global _parts_alone
    _parts_alone = 1
    _layout.cache_clear()
    if grouped():
        dist.destroy_process_group()


def grouped() -> bool:
    """Whether torchrun, or a test, made a group of processes."""
    return not _apart and dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if grouped() else 1


def rank() -> int:
    """This process's number, 0 … world_size − 1."""
    return dist.get_rank() if grouped() else 0


def is_main() -> bool:
    """Whether this process is the one that prints and writes files."""
    return rank() == 0


def wait() -> None:
    """Go on when every process has come here."""
    if grouped():
        dist.barrier()


def agreed(value: T) -> T:
    """The value that the first process has, on all of them: for what a clock, a disk or a processor decides."""
    if not grouped():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def everyones(value: T) -> list[T]:
    """The value of each process, in order of rank."""
    found = [value] * world_size()
    if grouped():
        dist.all_gather_object(found, value)
    return found


def divided(items: Sequence[A], work: Callable[[list[A]], Sequence[T]]) -> list[T]:
    """work(items), one result an item: each process works on a part of them, and all get every result, in order.

    Equal items go to one process together, in their order: what `work` counts among equals (the samples of a prompt) comes
    out as on one process. All processes must make the same call; `work` must make none that others have to join.
    """
    parts, own = (world_size(), [rank()]) if grouped() else (_parts_alone, range(_parts_alone))
    owners: dict[A, int] = {}
    for item in items:
        owners.setdefault(item, len(owners) % parts)
    done: list[tuple[int, T]] = []
    for part in own:
        places = [i for i, item in enumerate(items) if owners[item] == part]
        done += zip(places, work([items[i] for i in places]) if places else (), strict=True)
    found = dict(pair for process in everyones(done) for pair in process)
    return [found[i] for i in range(len(items))]


def place(model: nn.Module) -> torch.device:
    """Where `model` is trained: on this process's own GPU or CPU in a group, else where it is."""
    return device() if grouped() else next(model.parameters()).device


def device() -> torch.device:
    """Where a process computes: its own GPU, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def for_sampling(model: M) -> M:
    """`model`, moved to this process's own device: a whole copy writes there, or scores."""
    return model.to(device())


def for_training(model: M) -> M:
    """`model`, moved to this process's own device; in a group it stays where it is, and `worker` spreads it from there."""
    return model if grouped() else model.to(device())


# ---------------------------------------------------------------------------------------------------------------- layout

@dataclass(frozen=True)
class Layout:
    """The mesh of processes, data × tensor, and what is summed over it; by default one process alone, which cuts each batch
    in `alone` parts and reads them one after another."""
    data: int = 1
    tensor: int = 1
    mesh: DeviceMesh | None = None
    alone: int = 1

    @property
    def parts(self) -> int:
        """How many parts each batch is cut in."""
        return self.alone if self.mesh is None else self.data

    @property
    def own(self) -> Sequence[int]:
        """Which parts of each batch this process reads, of 0 … parts − 1."""
        return range(self.parts) if self.mesh is None else [self.mesh.get_local_rank("data")]

    def totals(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sum of each number over the parts of the batch, in double precision, the same on every process."""
        if self.mesh is None:
            return dict(numbers)
        sums = torch.tensor(list(numbers.values()), dtype=torch.float64)
        dist.all_reduce(sums)
        return dict(zip(numbers, (sums / self.tensor).tolist(), strict=True))     # those who share a part counted it alike

    def clip_gradients(self, model: nn.Module, clip_norm: float) -> float:
        """Scale the gradient to a norm of at most `clip_norm`; its norm before. Waits for the GPU."""
        if self.parts == 1 and self.mesh is None:
            return float(nn.utils.clip_grad_norm_(model.parameters(), clip_norm))
        from llama2_lib.training import sharding
        return sharding.clip_gradients(model, clip_norm).item()

    def average_gradients(self, model: nn.Module) -> None:
        """The mean of the gradients over the parts of the batch, where FSDP has not taken it already."""
        if self.mesh is not None:
            from llama2_lib.training import sharding
            sharding.average_gradients(model, self)


ALONE = Layout()


def layout(parallel: ParallelConfig) -> Layout:
    """The mesh for `parallel`. ValueError if the processes are no multiple of parallel.tensor."""
    return _layout(parallel.tensor) if grouped() and parallel.together else Layout(alone=_parts_alone)


@functools.cache
def _layout(tensor: int) -> Layout:
    from torch.distributed.device_mesh import init_device_mesh
    require(world_size() % tensor == 0, f"{world_size()} processes are not a multiple of runtime.parallel.tensor {tensor}")
    shape = (world_size() // tensor, tensor)
    return Layout(*shape, init_device_mesh(device().type, shape, mesh_dim_names=("data", "tensor")))


# ---------------------------------------------------------------------------------------------------------------- worker

@contextlib.contextmanager
def worker(model: nn.Module, runtime: RuntimeConfig, dtype: torch.dtype) -> Iterator[tuple[nn.Module, Layout]]:
    """(what to train, its layout); when the context ends well, `model` has the trained weights, whole, on every process.

    dtype: of matrix products; with FSDP and bfloat16 the gathered weights are bfloat16 too, and gradients are summed in
    float32. ValueError if heads, FFN or vocabulary do not divide over the tensor axis.
    """
    place = layout(runtime.parallel)
    if place.mesh is None:
        yield model, place
        return
    from llama2_lib.training import sharding
    spread = sharding.spread(model, runtime, place, dtype)
    yield spread, place
    sharding.bring_back(model, spread)


def trained(parallel: ParallelConfig, model: nn.Module, train: Callable[[], T]) -> T:
    """train(), which changes the weights of `model` in place: by all processes or, if not parallel.together, by the first.

    That one works as if there were no others and has the threads of all, since they wait. They get the weights and what
    train() returned; if it raises, they raise a RuntimeError. ValueError where there are GPUs.
    """
    if parallel.together or not grouped():
        return train()
    require(not torch.cuda.is_available(), "runtime.parallel.together=False is for processors, and here are GPUs")
    result, stopped = _apart_from_others(train) if is_main() else agreed((None, ""))
    if stopped:
        raise RuntimeError(f"the first process stopped: {stopped}")
    with torch.no_grad():
        changed = [p for p in model.parameters() if p.requires_grad]
        flat = torch.cat([p.flatten() for p in changed])
        dist.broadcast(flat, src=0)
        for p, new in zip(changed, flat.split([p.numel() for p in changed]), strict=True):
            p.copy_(new.view_as(p))
    return result


def _apart_from_others(train: Callable[[], T]) -> tuple[T, str]:
    """(train(), ""), told to the others, who hear of its error too."""
    global _apart
    threads, said = torch.get_num_threads(), (None, "interrupted")
    torch.set_num_threads(threads * world_size())
    _apart = True
    try:
        said = train(), ""
    except Exception as error:
        said = None, f"{type(error).__name__}: {error}"
        raise
    finally:
        _apart = False
        torch.set_num_threads(threads)
        agreed(said)
    return said


def bring_back(model: nn.Module, spread: nn.Module) -> None:
    """Give `model` the weights of its `worker`, whole, half-way through; nothing where they are one."""
    if spread is not model:
        from llama2_lib.training import sharding
        sharding.bring_back(model, spread)
