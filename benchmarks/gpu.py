"""How near a GPU comes to its own limits: tokens/s and MFU of training steps, tokens/s of generation.

    python benchmarks/gpu.py [--parts ceilings train generate] [--sizes 100M 1B 7B] [--out data/gpu.json]

First the card's own ceilings, measured: a large bfloat16 matrix product, and a copy of memory. Training is forward,
backward, clipping and fused AdamW on random tokens, blocks compiled: 100M and 1B with float32 weights under bfloat16
autocast, as `training.trainer` has it, 7B with weights and moments in bfloat16, so that one card holds it. MFU is model
FLOPs (attention's masked half counted, as is usual) over the card's dense bfloat16 peak by its data sheet. Generation is
`generate` by batches, and one row at a time, the whole step compiled and replayed as one CUDA graph, whose bound is the time
to read all weights once. Each part is written to the file as it ends. Needs torch and numpy alone; without a GPU it says so
and exits with 1.
"""
from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))       # a machine with a GPU may have torch and not the course's other packages

from llama2_lib.config import ModelConfig  # noqa: E402
from llama2_lib.model.generation import generate  # noqa: E402
from llama2_lib.model.transformer import KVCache, Transformer  # noqa: E402
from llama2_lib.training.accounting import flops_per_token, kv_cache_bytes, parameter_count, parameter_parts  # noqa: E402

PEAK_TFLOPS = {"H200": 989.4, "H100 PCIe": 756.0, "H100": 989.4, "A100": 312.0}      # dense bfloat16, NVIDIA's data sheets
PROMPT, NEW = 128, 128
PARTS = ("ceilings", "train", "generate")
BATCHES = (1, 16, 64, 256)


@dataclass(frozen=True)
class Size:
    """A model and the micro-batch it is trained on. pure: weights and moments in bfloat16."""
    config: ModelConfig
    rows: int
    length: int
    pure: bool = False


def shape(dim: int, layers: int, heads: int) -> ModelConfig:
    return ModelConfig(dim=dim, n_layers=layers, n_heads=heads, n_kv_heads=heads, vocab_size=32_000, max_seq_len=4096)


SIZES = {"100M": Size(shape(768, 12, 12), 32, 1024), "1B": Size(shape(2560, 12, 20), 16, 2048),
         "7B": Size(shape(4096, 32, 32), 2, 4096, pure=True)}


# ------------------------------------------------------------------------------------------------------------- arithmetic

def peak_tflops(card: str) -> float | None:
    """The data sheet's dense bfloat16 peak of a card; None for one that is not in the table."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if all(word in card for word in name.split())), None)


def training_record(size: Size, rows: int, seconds: float, peak: float | None, matmul: float | None) -> dict:
    """Tokens/s of a step of `rows` rows that took `seconds`, and its TFLOP/s as a share of each ceiling there is."""
    speed = rows * size.length / seconds
    tflops = speed * flops_per_token(size.config, size.length) / 1e12
    shares = {"mfu": peak and tflops / peak, "of_matmul": matmul and tflops / matmul}
    return {"parameters": parameter_count(size.config), "rows": rows, "length": size.length, "step_seconds": seconds,
            "tokens_per_second": speed, "tflops": tflops, **shares}


def read_bytes(config: ModelConfig, rows: int, length: int) -> int:
    """Bytes that a decoding step must read in bfloat16: every weight but the table of embeddings, keys and values so far."""
    parts = parameter_parts(config)
    return 2 * (parameter_count(config) - parts["tok_embeddings"]) + kv_cache_bytes(config, rows, length)


def decoding_record(config: ModelConfig, length: int, seconds: float, bandwidth: float | None) -> dict:
    """Tokens/s of one row at a context of `length` whose step took `seconds`; bandwidth in GB/s."""
    reached = read_bytes(config, 1, length) / seconds / 1e9
    return {"tokens_per_second": 1 / seconds, "gb_per_second": reached, "of_bandwidth": bandwidth and reached / bandwidth}


def median_seconds(step: Callable[[], object], warmup: int, rounds: int) -> float:
    """Median wall time of a call, the GPU's queue emptied before and after each."""
    taken = []
    for i in range(warmup + rounds):
        _wait()
        began = time.perf_counter()
        step()
        _wait()
        if i >= warmup:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ---------------------------------------------------------------------------------------------------------------- ceilings

def ceilings(device: str, side: int = 8192, gib: int = 4) -> dict:
    """TFLOP/s of a square bfloat16 product, and GB/s of a copy, counted as read and written."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    matmul = 2 * side**3 / median_seconds(lambda: a @ b, 5, 20) / 1e12
    source = torch.ones(gib * 2**29, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / median_seconds(lambda: target.copy_(source), 3, 10) / 1e9
    return {"matmul_tflops": matmul, "copy_gb_per_second": copied}


# ---------------------------------------------------------------------------------------------------------------- training

def make_model(size: Size, device: str, pure: bool) -> Transformer:
    with torch.device(device):
        model = Transformer(size.config)
        model.rope(torch.zeros(1, 1, dtype=torch.long))     # its table is made here, not in a graph
    return model.to(torch.bfloat16) if pure else model


def training_step(size: Size, rows: int, device: str, compiled: bool = True) -> Callable[[], Tensor]:
    """One optimiser step on random tokens, as a function; it returns the loss."""
    model = make_model(size, device, size.pure)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, fused=True)
    tokens_BT = torch.randint(0, size.config.vocab_size, (rows, size.length + 1), device=device)

    def tail(h_BTD: Tensor) -> Tensor:
        return F.cross_entropy(model.output(h_BTD).float().flatten(0, 1), tokens_BT[:, 1:].flatten())

    if compiled:
        for block in model.layers:
            block.compile()
        tail = torch.compile(tail)

    def step() -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=not size.pure):
            loss = tail(model.hidden(tokens_BT[:, :-1]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()
    return step


def train(name: str, peak: float | None, matmul: float | None) -> dict:
    """The record of one size; half the rows where the card's memory does not hold them, down to one."""
    size = SIZES[name]
    rows = size.rows
    while True:
        try:
            return training_record(size, rows, median_seconds(training_step(size, rows, "cuda"), 5, 15), peak, matmul)
        except torch.OutOfMemoryError:
            if rows == 1:
                return {"parameters": parameter_count(size.config), "missing": "one row does not fit this card"}
        rows //= 2
        free()


def free() -> None:
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


# -------------------------------------------------------------------------------------------------------------- generation

class FixedCache(KVCache):
    """A cache all of which is read at every step, the empty part hidden by a bias: its shapes never change, as a CUDA graph
    demands. `place`, (1,), is where the next key goes."""

    def __init__(self, config: ModelConfig, length: int, dtype: torch.dtype, device: str) -> None:
        super().__init__(config, 1, length, dtype, device)
        self.place = torch.zeros(1, dtype=torch.long, device=device)

    def remember(self, layer: int, k_BTKH: Tensor, v_BTKH: Tensor) -> tuple[Tensor, Tensor]:
        self.keys[layer].index_copy_(2, self.place, k_BTKH.transpose(1, 2))
        self.values[layer].index_copy_(2, self.place, v_BTKH.transpose(1, 2))
        return self.keys[layer], self.values[layer]


def decode(model: Transformer, token_11: Tensor, cache: FixedCache) -> Tensor:
    """Logits after one more token, (1, V)."""
    hidden_S = torch.arange(cache.capacity, device=token_11.device) > cache.place
    bias_11S = torch.zeros(1, 1, cache.capacity, device=token_11.device).masked_fill(hidden_S, -torch.inf)
    rope, h_11D = model.rope(cache.place[None]), model.tok_embeddings(token_11)
    for i, layer in enumerate(model.layers):
        h_11D = layer(h_11D, rope, bias_11S, lambda k, v, i=i: cache.remember(i, k, v))
    return model.output(model.norm(h_11D))[:, 0]


def greedy_step(model: Transformer, token_11: Tensor, cache: FixedCache) -> Callable[[], None]:
    """Write the next greedy token over the last one, and go one place on."""
    def step() -> None:
        token_11.copy_(decode(model, token_11, cache).argmax(-1, keepdim=True))
        cache.place.add_(1)
    return step


def graphed(step: Callable[[], None]) -> Callable[[], None]:
    """The same step, compiled and recorded as one CUDA graph."""
    fast, side = torch.compile(step), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            fast()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fast()
    return graph.replay


@torch.no_grad()
def one_row(model: Transformer, bandwidth: float | None, wrap: Callable = graphed) -> dict:
    """The record of one row decoding NEW tokens behind a context of PROMPT, from a graph."""
    device = str(model.output.weight.device)
    cache = FixedCache(model.config, PROMPT + NEW, model.output.weight.dtype, device)
    step = wrap(greedy_step(model, torch.ones(1, 1, dtype=torch.long, device=device), cache))
    cache.place.fill_(PROMPT)

    def reply() -> None:
        cache.place.fill_(PROMPT)
        for _ in range(NEW):
            step()
    return decoding_record(model.config, PROMPT + NEW, median_seconds(reply, 1, 3) / NEW, bandwidth)


def batches(model: Transformer, rows: int) -> dict:
    """Tokens/s of the library's `generate`, sampled, the reading of the prompts included."""
    prompts = torch.randint(3, model.config.vocab_size, (rows, PROMPT)).tolist()
    seconds = median_seconds(lambda: generate(model, prompts, max_new_tokens=NEW, eos_id=-1, dtype=torch.bfloat16), 1, 2)
    return {"rows": rows, "tokens_per_second": rows * NEW / seconds}


def generation(name: str, bandwidth: float | None) -> dict:
    model = make_model(SIZES[name], "cuda", pure=True).eval().requires_grad_(False)
    return {"batches": [batches(model, rows) for rows in BATCHES], "one_row_graph": one_row(model, bandwidth)}


# -------------------------------------------------------------------------------------------------------------- the record

def keep(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(parts: list[str], sizes: list[str], out: Path) -> None:
    """Run the parts, and write what is known after each."""
    card = torch.cuda.get_device_name()
    record = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if record.get("card") != card:
        record = {"card": card, "peak_tflops": peak_tflops(card)}
    record["torch"] = torch.__version__
    if "ceilings" in parts:
        record["ceilings"] = ceilings("cuda")
        keep(out, record)
        print(record, flush=True)
    limits = record.get("ceilings", {})
    for part in [p for p in PARTS[1:] if p in parts]:
        for name in sizes:
            free()
            began = time.perf_counter()
            found = (train(name, record["peak_tflops"], limits.get("matmul_tflops")) if part == "train"
                     else generation(name, limits.get("copy_gb_per_second")))
            record.setdefault(part, {})[name] = found
            keep(out, record)
            print(f"{part} {name} ({time.perf_counter() - began:.0f} s): {found}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "gpu.json")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(f"no GPU: torch {torch.__version__} sees no CUDA device here, so nothing was measured and {args.out.name} was "
              "not written", file=sys.stderr)
        return 1
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    measure(args.parts, args.sizes, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
