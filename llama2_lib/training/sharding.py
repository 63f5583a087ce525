"""What FSDP2 and tensor parallelism do to a model, and what must be said anew once its weights are cut.

    tensor:  wq, wk, wv, w1, w3 and output are cut by rows, wo and w2 by columns: one sum a half-block, over the tensor axis
    data:    each block's weights are cut once more over the data axis, gathered for its forward and for its backward pass

The paper is silent on all of it. The model knows nothing of this: it reads its heads off the tensors it gets. A cut
parameter is a DTensor. torch's own clip_grad_norm_ refuses parameters of different meshes (norms are not cut over the
tensor axis), so the norm is taken here, each number counted once. Left out: sequence parallelism, which would cut the
activations between blocks as well; loss parallelism, which would leave the logits cut; prefetching by hand.
"""
from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterable, Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

from llama2_lib.config import ModelConfig, ParallelConfig, RuntimeConfig, require
from llama2_lib.model.transformer import Transformer, TransformerBlock
from llama2_lib.training.distributed import Layout, device, grouped, world_size
from llama2_lib.training.pieces import local

BUCKET = 8_000_000      # numbers in one message of gradients
# the logits of a tensor-parallel model are a view; nothing here writes into them
warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


# ------------------------------------------------------------------------------------------------------------- spreading

def spread(model: nn.Module, runtime: RuntimeConfig, layout: Layout, dtype: torch.dtype) -> nn.Module:
    """A copy of `model` whose weights are spread over the mesh; the parts that are not cut may share memory with it."""
    twin = _alias(model)
    shard(twin, runtime.parallel, layout, dtype, runtime.compile)
    for unit in _units(twin):       # makes its buffers: first made under inference_mode, they could never be trained with
        unit.unshard()
        unit.reshard()
    return twin if runtime.parallel.shard and layout.data > 1 else twin.to(device())


def shard(model: nn.Module, parallel: ParallelConfig, layout: Layout, dtype: torch.dtype = torch.float32,
          compile: bool = False) -> None:
    """Spread `model` in place. ValueError if heads, FFN or vocabulary do not divide over the tensor axis, and for FSDP2 on
    CPUs with a torch that cannot do it."""
    blocks = [m for m in model.modules() if isinstance(m, TransformerBlock)]
    if layout.tensor > 1:
        _cut_matrices(model, layout)
    for block in blocks:
        if parallel.checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        if compile:
            block.compile()
    if parallel.shard and layout.data > 1:
        require(layout.mesh.device_type != "cpu" or hasattr(torch.cpu.Stream, "record_event"),
                f"torch {torch.__version__} has FSDP2 for GPUs alone: on CPUs it takes a newer torch, or "
                "runtime.parallel.shard=False, which keeps whole copies")
        # the tables of RoPE are arguments of a block: cast to bfloat16 they would turn by wrong angles
        policy = MixedPrecisionPolicy(None if dtype == torch.float32 else dtype, torch.float32, cast_forward_inputs=False)
        for part in (*blocks, model):
            fully_shard(part, mesh=layout.mesh["data"], mp_policy=policy,
                        reshard_after_forward=parallel.reshard and part is not model)
        if isinstance(model, Transformer):
            register_fsdp_forward_method(model, "hidden")       # hooks gather weights for forward() alone


def _units(worker: nn.Module) -> list[FSDPModule]:
    """The parts whose weights are gathered at one go: the whole, for what is in no block, and the blocks."""
    return [m for m in worker.modules() if isinstance(m, FSDPModule)]


def _alias(model: nn.Module) -> nn.Module:
    """A copy of the modules whose parameters share the memory of the model's."""
    shared = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, shared)


def _cut_matrices(model: nn.Module, layout: Layout) -> None:
    rows, columns = ColwiseParallel, RowwiseParallel      # torch names them by the axis of the transposed matrix
    mesh = layout.mesh["tensor"]
    for part in model.modules():
        if isinstance(part, Transformer):
            _check_division(part.config, layout.tensor)
            parallelize_module(part, mesh, {"tok_embeddings": columns(input_layouts=Replicate()),
                                            "output": rows(output_layouts=Replicate())})
        if isinstance(part, TransformerBlock):
            parallelize_module(part, mesh, {f"attention.{w}": rows() for w in ("wq", "wk", "wv")} |
                               {"feed_forward.w1": rows(), "feed_forward.w3": rows(),
                                "attention.wo": columns(), "feed_forward.w2": columns()})


def _check_division(config: ModelConfig, tensor: int) -> None:
    sizes = {name: getattr(config, name) for name in ("n_heads", "n_kv_heads", "hidden_dim", "vocab_size")}
    wrong = [f"{name} {size}" for name, size in sizes.items() if size % tensor]
    require(not wrong, f"{', '.join(wrong)} cannot be cut into runtime.parallel.tensor {tensor} equal parts")


# ------------------------------------------------------------------------------------------------------- whole and in part

def holders(tensor: Tensor) -> int:
    """How many processes hold the same part of `tensor`."""
    if not isinstance(tensor, DTensor):
        return world_size()
    mesh = tensor.device_mesh
    cuts = [size for size, placement in zip(mesh.shape, tensor.placements, strict=True) if not placement.is_replicate()]
    return dist.get_world_size() // torch.Size(cuts).numel()


@torch.no_grad()
def bring_back(model: nn.Module, worker: nn.Module) -> None:
    """Give the parameters of `model` the values of its `worker`, gathered one at a time."""
    for p, q in zip(model.parameters(), worker.parameters(), strict=True):
        p.copy_(q.full_tensor() if isinstance(q, DTensor) else q)


@contextlib.contextmanager
def gathered(worker: nn.Module, reshard: bool = True) -> Iterator[None]:
    """Inside this context all weights are gathered over the data axis, once; after it each process has its part again.

    Section 3.2.3 does so before sampling ("we consolidate the model weights to each node once before generation and free the
    memory after"): otherwise every token gathers every block anew. Nothing where nothing is sharded. reshard: what the
    ParallelConfig of the worker says, for the forward passes that follow.
    """
    units = _units(worker)
    for unit in units:
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(reshard and unit is not worker, recurse=False)
            unit.reshard()


# ------------------------------------------------------------------------------------------------------------- gradients

@torch.no_grad()
def clip_gradients(model: nn.Module, clip_norm: float) -> Tensor:
    """Scale the whole gradient to a norm of at most `clip_norm`; its norm before.

    norm² = Σ over processes of Σ over parameters of |local part|² / processes that hold the same part
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    squares = [local(g).float().norm().double().square() / holders(g) for g in gradients]
    total = torch.stack(squares).sum()
    if grouped():
        dist.all_reduce(total)
    norm = total.sqrt()
    scale = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    for g in gradients:
        local(g).mul_(scale.to(g.device, local(g).dtype))
    return norm


@torch.no_grad()
def average_gradients(model: nn.Module, layout: Layout) -> None:
    """The mean over the data axis of the gradients of a model whose copies are whole: plain data parallelism."""
    if layout.data == 1 or isinstance(model, FSDPModule):
        return
    group = layout.mesh.get_group("data")
    for bucket in _buckets([local(p.grad) for p in model.parameters() if p.grad is not None]):
        flat = torch.cat([part.flatten() for part in bucket])
        dist.all_reduce(flat, group=group)
        for part, mean in zip(bucket, flat.div_(layout.data).split([part.numel() for part in bucket]), strict=True):
            part.copy_(mean.view_as(part))


def _buckets(parts: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in lists of about BUCKET numbers: one message for many small ones, and no copy of all of them at once."""
    bucket: list[Tensor] = []
    for part in parts:
        bucket.append(part)
        if sum(t.numel() for t in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
