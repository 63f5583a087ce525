"""A dry run: what the training step of a recipe would need on a cluster, traced on this machine without a single number.

    memory  = the most bytes alive at once in one step of one process, parameters, gradients and moments included
    hours   = training FLOPs of all the preset's tokens / (mfu · peak FLOP/s of a GPU)
    tCO2eq  = hours · watts · PUE · kg per kWh                                             (section 2.2.1, Table 2)

The trace is the true step (the same model, sharding, losses and optimiser) on fake tensors, which have shapes and no
contents, in a fake group of processes, whose collectives do nothing. `Tracker` counts the bytes. A few layers are traced
and the rest follows from them: each further layer adds the same. The paper says how many GPU-hours it took, not how the
step was laid out. Left out: what a GPU's allocator wastes between blocks (some percent), the memory of its libraries (about
1 GB), what a compiled model saves, and time lost in communication, which only a measured MFU knows.
"""
from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llama2_lib.config import ModelConfig, OptimConfig, ParallelConfig, Recipe, require
from llama2_lib.model import transformer
from llama2_lib.model.logprobs import masked_mean, token_logprobs
from llama2_lib.model.transformer import Transformer
from llama2_lib.training import accounting, sharding, trainer
from llama2_lib.training.distributed import ALONE, Layout, grouped
from llama2_lib.training.pieces import local

TRACED_LAYERS = (3, 4)        # enough for the worst moment to be where it is in a deep model
GIB = 2**30


class Tracker(TorchDispatchMode):
    """Counts the bytes of all storages that are made while it watches and are still alive; `peak` is the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[weakref.ref, int] = {}
        self.now = self.peak = 0

    def __enter__(self) -> Tracker:
        self._resize = torch.UntypedStorage.resize_
        tracker, resize = self, self._resize

        def noticed(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:      # FSDP frees its buffers so
            resize(storage, size)
            tracker._count(storage)
            return storage

        torch.UntypedStorage.resize_ = noticed
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        torch.UntypedStorage.resize_ = self._resize
        super().__exit__(*error)

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if DTensor in types:
            return NotImplemented        # it is asked again about the parts that a DTensor works with
        out = op(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = weakref.ref(storage, self._forget)
        self.now += storage.nbytes() - self.sizes.get(key, 0)
        self.sizes[key] = storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _forget(self, key: weakref.ref) -> None:
        self.now -= self.sizes.pop(key, 0)


@dataclass(frozen=True)
class Cluster:
    """The machines of a plan; the defaults are the paper's, A100s of 80 GB, at an MFU that Table 2's hours come near."""
    gpus: int = 8
    micro_batch: int = 1          # rows of the preset's length that one process reads at a time
    memory: float = 80.0          # GiB of a GPU
    mfu: float = 0.45             # share of a GPU's peak that the model's FLOPs reach
    tflops: float = 312.0         # that peak: dense bfloat16
    watts: float = 400.0

    def __post_init__(self) -> None:
        for name in ("gpus", "micro_batch"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("memory", "tflops", "watts"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}")
        require(0 < self.mfu <= 1, f"mfu is a share in 0…1, got {self.mfu}")


@dataclass(frozen=True)
class FakeBatch:
    """Rows of a known number of labels; the numbers themselves do not exist."""
    tokens_BT: Tensor
    count: int

    def to(self, device: torch.device) -> FakeBatch:
        return self


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at its step's worst moment; `rest` is activations, gathered weights and temporaries."""
    parameters: int
    gradients: int
    moments: int
    rest: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.moments + self.rest


def loss(model: nn.Module, batch: FakeBatch) -> tuple[Tensor, dict]:
    """The loss of pretraining, whose labels all count."""
    losses_BT = -token_logprobs(model(batch.tokens_BT), batch.tokens_BT)
    return masked_mean(losses_BT, torch.ones_like(batch.tokens_BT, dtype=torch.bool)), {}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[FakeBatch], dtype: torch.dtype,
         layout: Layout) -> None:
    """`trainer.update` without what it reads off the numbers: whether they are finite, and what to report."""
    optimizer.zero_grad(set_to_none=True)
    trainer.accumulate_gradients(model, batches, loss, sum(b.count for b in batches) * layout.data, dtype, layout)
    layout.average_gradients(model)
    if layout.mesh is None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    else:
        sharding.clip_gradients(model, 1.0)
    optimizer.step()


def trace(config: ModelConfig, parallel: ParallelConfig, layout: Layout, rows: int, seq_len: int, dtype: torch.dtype,
          micro_batches: int = 1) -> Memory:
    """The memory of one process in a step when the optimiser has its moments, for a model of this shape.

    rows: of one micro-batch. From the second micro-batch on gradients are there while activations are made, so that more
    than two need no more memory than two.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    with torch.device("meta"):
        model = Transformer(config)
    if layout.mesh is not None:
        sharding.shard(model, parallel, layout, dtype)
    with FakeTensorMode(allow_non_fake_inputs=True), Tracker() as tracker:
        model.to_empty(device="cpu")
        optimizer = trainer.make_optimizer(model, OptimConfig(peak_lr=1e-3))
        batches = [FakeBatch(torch.zeros(rows, seq_len, dtype=torch.long), rows * seq_len)] * min(micro_batches, 2)
        if layout.tensor > 1:       # DTensor works out how to cut each operator's result once, on tensors of full size
            step(model, optimizer, batches[:1], dtype, layout)
        else:
            _make_moments(model, optimizer)
        optimizer.zero_grad(set_to_none=True)
        tracker.peak = tracker.now
        step(model, optimizer, batches, dtype, layout)
        parameters = sum(local(p).nbytes for p in model.parameters())
        gradients = sum(local(p.grad).nbytes for p in model.parameters())
        moments = sum(local(v).nbytes for state in optimizer.state.values() for v in state.values())
        return Memory(parameters, gradients, moments, tracker.peak - parameters - gradients - moments)


def _make_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()


@contextlib.contextmanager
def cluster(gpus: int, tensor: int) -> Iterator[Layout]:
    """The layout of so many processes of which only the first exists. ValueError if they do not divide."""
    require(gpus >= 1 and gpus % tensor == 0, f"gpus {gpus} is not a multiple of tensor {tensor}")
    require(not grouped(), "a plan is made by one process alone")
    if gpus == 1:
        yield ALONE
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore
    dist.init_process_group("fake", rank=0, world_size=gpus, store=FakeStore())
    try:
        shape = (gpus // tensor, tensor)
        yield Layout(*shape, init_device_mesh("cpu", shape, mesh_dim_names=("data", "tensor")))
    finally:
        dist.destroy_process_group()


def memory(config: ModelConfig, parallel: ParallelConfig, layout: Layout, rows: int, seq_len: int,
           dtype: torch.dtype = torch.bfloat16, micro_batches: int = 1) -> Memory:
    """`trace` of all layers, from a trace of a few: what one more layer adds, as often as there are layers more."""
    few, more = TRACED_LAYERS
    if config.n_layers <= more:
        return trace(config, parallel, layout, rows, seq_len, dtype, micro_batches)
    small, large = (vars(trace(replace(config, n_layers=n), parallel, layout, rows, seq_len, dtype, micro_batches))
                    for n in TRACED_LAYERS)
    return Memory(**{name: small[name] + (large[name] - small[name]) * (config.n_layers - few) // (more - few)
                     for name in small})


# -------------------------------------------------------------------------------------------------------------- the plan

def pretraining_flops(recipe: Recipe) -> float:
    """Of all the preset's tokens: what the mathematics needs, without what checkpointing computes twice."""
    return recipe.pretrain.tokens * accounting.flops_per_token(recipe.model, recipe.pretrain.longest)


@dataclass(frozen=True)
class Plan:
    """What the pretraining of a recipe takes on a cluster."""
    recipe: Recipe
    cluster: Cluster
    memory: Memory
    micro_batches: int            # a step, one after another
    largest: int                  # most rows of a micro-batch that fit the GPU's memory; 0 where not even one does

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.cluster.memory * GIB

    @property
    def flops(self) -> float:
        """Of the whole training."""
        return pretraining_flops(self.recipe)

    @property
    def gpu_hours(self) -> float:
        return accounting.gpu_hours(self.flops, self.cluster.mfu * self.cluster.tflops * 1e12)

    @property
    def step_seconds(self) -> float:
        return self.gpu_hours * 3600 / self.cluster.gpus / self.recipe.pretrain.steps

    @property
    def tonnes(self) -> float:
        """tCO2eq."""
        return accounting.carbon(self.gpu_hours, self.cluster.watts)

    def __str__(self) -> str:
        c, p, m = self.cluster, self.recipe.runtime.parallel, self.memory
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in vars(m).items())
        return "\n".join((
            f"{self.recipe.name}: {accounting.parameter_count(self.recipe.model) / 1e9:.2f}B parameters, "
            f"{self.recipe.pretrain.tokens / 1e9:,.1f}B tokens",
            f"layout      {c.gpus} GPUs = {c.gpus // p.tensor} data × {p.tensor} tensor, "
            f"{'sharded' if p.shard else 'whole copies'}{', checkpointing' if p.checkpointing else ''}, "
            f"{self.micro_batches} micro-batches of {c.micro_batch} × {self.recipe.pretrain.longest} tokens a step",
            f"memory      {m.total / GIB:.1f} GiB a GPU ({parts}): {'fits' if self.fits else 'does not fit'} "
            f"{c.memory:g} GiB",
            f"            largest micro-batch that fits: {self.largest}",
            f"arithmetic  {self.flops:.3g} FLOPs; {self.step_seconds:.2f} s a step at an MFU of {c.mfu:g} of "
            f"{c.tflops:g} TFLOP/s",
            f"cost        {self.gpu_hours:,.0f} GPU-hours, {self.gpu_hours / c.gpus / 24:,.1f} days, "
            f"{self.tonnes:,.2f} tCO2eq at {c.watts:g} W a GPU"))


def plan(recipe: Recipe, machines: Cluster) -> Plan:
    """The plan of pretraining `recipe` under recipe.runtime.parallel, in bfloat16 over float32 weights.

    ValueError where GPUs, heads or the batch do not divide, or where one process is to train alone.
    """
    require(recipe.runtime.parallel.together, "runtime.parallel.together is False: there is nothing to plan for one process")
    need = functools.cache(functools.partial(step_memory, recipe, machines.gpus))
    rows = _rows(recipe, machines.gpus, machines.micro_batch)
    return Plan(recipe, machines, need(machines.micro_batch), rows // machines.micro_batch,
                _largest(lambda size: need(size).total, machines.memory * GIB, rows))


def step_memory(recipe: Recipe, gpus: int, micro_batch: int = 1) -> Memory:
    """What one of so many GPUs needs in a step of pretraining; ValueError as for `plan`."""
    parallel, rows = recipe.runtime.parallel, _rows(recipe, gpus, micro_batch)
    with cluster(gpus, parallel.tensor) as layout, _fused_attention():
        return memory(recipe.model, parallel, layout, micro_batch, recipe.pretrain.longest,
                      micro_batches=rows // micro_batch)


def _rows(recipe: Recipe, gpus: int, micro_batch: int) -> int:
    """The rows of a batch that one process reads."""
    data, whole = gpus // recipe.runtime.parallel.tensor, recipe.pretrain.batch_tokens // recipe.pretrain.longest
    require(data == 0 or whole % (data * micro_batch) == 0,
            f"a batch of {whole} rows is not a multiple of {data} data-parallel processes × a micro-batch of {micro_batch}")
    return whole // max(1, data)


def _largest(need: Callable[[int], int], room: float, rows: int) -> int:
    """The largest divisor of `rows` whose need does not exceed `room`, 0 for none: need grows with it."""
    sizes = [size for size in range(1, rows + 1) if rows % size == 0]
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if need(sizes[middle]) <= room else (low, middle)
    return sizes[low - 1] if low else 0


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention as on a GPU: on a CPU short rows are read by plain matrix products, which keep all the scores."""
    before = transformer.MATMUL_ATTENTION_UP_TO
    transformer.MATMUL_ATTENTION_UP_TO = 0
    try:
        yield
    finally:
        transformer.MATMUL_ATTENTION_UP_TO = before
