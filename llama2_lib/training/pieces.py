"""Tensors that are cut over processes, as files that any other number of processes can read.

Each process writes what it holds to one safetensors file; the header says which region of the whole tensor each piece is.
A reader asks for a region and gets it from whatever pieces overlap it: so a run saved by two processes goes on with one or
four (resharding). torch's own distributed checkpoints do the same, but open a pickle to do so. One process writes whole
tensors and needs none of this. Left out: pieces whose cuts are not along the axes.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from llama2_lib.training.distributed import everyones, rank

Region = tuple[slice, ...]


def local(tensor: Tensor) -> Tensor:
    """The part of `tensor` that this process holds, in the same memory; all of it where it is not cut."""
    return tensor.to_local() if hasattr(tensor, "placements") else tensor


def region(tensor: Tensor) -> Region:
    """Which part of the whole tensor `local(tensor)` is.

    The last axis of the mesh (tensor) cuts first and the data axis cuts what is left, into equal parts but for the last.
    """
    where = [(0, size) for size in tensor.shape]
    if hasattr(tensor, "placements"):
        mesh = tensor.device_mesh
        axes = zip(mesh.shape, mesh.get_coordinate(), tensor.placements, strict=True)
        for size, index, placement in reversed(list(axes)):
            if not placement.is_replicate():
                start, end = where[placement.dim]
                step = -(-(end - start) // size)
                where[placement.dim] = (min(start + index * step, end), min(start + (index + 1) * step, end))
    return tuple(slice(*ends) for ends in where)


def owned(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(what this process writes, the header that says so): its pieces, but for those that a process before it holds too."""
    here = {name: [(s.start, s.stop) for s in region(t)] for name, t in tensors.items()}
    before = everyones(here)[:rank()]
    own = {name: local(t) for name, t in tensors.items()
           if local(t).numel() and all(other[name] != here[name] for other in before)}
    return own, {"regions": json.dumps({name: here[name] for name in own})}


class Pieces:
    """The tensors of several files. A file without a header of regions holds whole tensors."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.places: dict[str, list] = {}       # of each tensor: (file, where each of its axes begins and ends)
        for path in sorted(paths):
            file = safe_open(path, framework="pt")
            stated = json.loads((file.metadata() or {}).get("regions", "{}"))
            for name in file.keys():       # noqa: SIM118
                whole = [(0, size) for size in file.get_slice(name).get_shape()]
                self.places.setdefault(name, []).append((file, stated.get(name, whole)))
        self.shapes = {name: tuple(max(end for _, end in axis) for axis in zip(*(where for _, where in found), strict=True))
                       for name, found in self.places.items()}

    def read(self, name: str, wanted: Region) -> Tensor:
        """That region of the tensor. ValueError if the pieces leave a part of it open."""
        out, missing = None, torch.Size([s.stop - s.start for s in wanted]).numel()
        for file, where in self.places[name]:
            common = [(max(a, s.start), min(b, s.stop)) for (a, b), s in zip(where, wanted, strict=True)]
            if any(a >= b for a, b in common):
                continue
            source = tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(common, where, strict=True))
            piece = file.get_slice(name)[source] if source else file.get_tensor(name)
            if out is None:
                out = piece.new_empty([s.stop - s.start for s in wanted])
            out[tuple(slice(a - s.start, b - s.start) for (a, b), s in zip(common, wanted, strict=True))] = piece
            missing -= piece.numel()
        if missing > 0:
            raise ValueError(f"{missing} numbers of {name} are in none of the files")
        return out
