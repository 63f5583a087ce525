"""The global random generators: kept apart from the caller's while a run lasts, and written down so that it can go on.

Left out: generators that belong to one object, such as a loader's or a sampler's; those are functions of their seeds.
"""
from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Inside this context torch's, Python's and NumPy's generators start from `seed`; after it they are as before."""
    before = randomness()
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        set_randomness(before)


def randomness() -> dict:
    """The state of torch's, Python's and NumPy's global generators, as plain JSON types."""
    version, numbers, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)
    return {"torch": torch.get_rng_state().numpy().tobytes().hex(),
            "cuda": [s.numpy().tobytes().hex() for s in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
            "python": [version, list(numbers), gauss],
            "numpy": {**legacy, "state": {"key": legacy["state"]["key"].tolist(), "pos": legacy["state"]["pos"]}}}


def set_randomness(state: dict) -> None:
    """Put the global generators where `randomness` found them."""
    torch.set_rng_state(_bytes(state["torch"]))
    if state["cuda"]:
        torch.cuda.set_rng_state_all([_bytes(s) for s in state["cuda"]])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    inner = state["numpy"]["state"]
    np.random.set_state({**state["numpy"], "state": {"key": np.array(inner["key"], dtype=np.uint32), "pos": inner["pos"]}})


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
