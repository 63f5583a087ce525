"""Which arithmetic this machine does best: float32, or bfloat16 autocast over float32 weights.

The paper trained in mixed precision and does not say how. Here weights, gradients and AdamW's moments stay in float32 and
autocast casts only the inputs of matrix products: weights held in bfloat16 lose small updates, since 1 + 2⁻⁹ rounds to 1.
On a processor with AVX512-BF16 or AMX units that is about twice as fast; without them it is several times slower, so the
choice is measured once per process, in well under 0.3 s, and reported. Left out: float16 with loss scaling, and float8.
"""
from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

MIN_GAIN = 1.25      # bfloat16 must win by this much: below it the loss of digits buys nothing
ROUNDS = 12


@dataclass(frozen=True)
class Precision:
    """The dtype of matrix products in training, and why it was chosen."""
    dtype: torch.dtype
    reason: str


def choose(setting: str = "auto", device: str = "cpu") -> Precision:
    """The arithmetic for `runtime.precision`: as told by "float32" or "bfloat16", or by measure for "auto".

    device: a device type, "cpu" or "cuda". A process gets one answer for life. ValueError for another setting.
    """
    if setting in ("float32", "bfloat16"):
        return Precision(getattr(torch, setting), f"{setting}, as runtime.precision says")
    if setting != "auto":
        raise ValueError(f"runtime.precision must be auto, float32 or bfloat16, got {setting!r}")
    return _choose_for(device)


def autocast(device: str, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Matrix products in `dtype` inside this context; nothing at all for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=dtype)


@functools.cache
def _choose_for(device: str) -> Precision:
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision(torch.bfloat16, "bfloat16: this GPU has units for it")
        return Precision(torch.float32, "float32: this GPU has no bfloat16 units")
    if device != "cpu":
        return Precision(torch.float32, f"float32: bfloat16 is not measured on {device}")
    vectors = torch.backends.cpu.get_cpu_capability()
    if not vectors.startswith(("AVX512", "SVE")):
        return Precision(torch.float32, f"float32: torch runs with {vectors} instructions here, without bfloat16 units")
    gain = _measured_gain()
    if gain >= MIN_GAIN:
        return Precision(torch.bfloat16, f"bfloat16: matrix products measured {gain:.1f} times as fast as in float32")
    return Precision(torch.float32, f"float32: bfloat16 measured only {gain:.1f} times as fast")


def _measured_gain() -> float:
    """Time of a linear layer, forward and backward, in float32 over its time in bfloat16 autocast; best of a few rounds.

    The rounds are interleaved, so that another program's load falls on both, and done by one thread: two would wait for each
    other where a core is busy, and the choice hang on chance. Draws no random numbers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x_BD = torch.linspace(-1, 1, 512 * 256).reshape(512, 256)
    w_DD = torch.linspace(-1, 1, 704 * 256).reshape(704, 256).requires_grad_()
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(ROUNDS + 1):          # the first round also loads the kernels
        for dtype in best:
            start = time.perf_counter()
            with autocast("cpu", dtype):
                y_BD = F.linear(x_BD, w_DD)
            torch.autograd.grad(y_BD.float().sum(), w_DD)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]
