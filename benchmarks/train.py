"""Training speed, side by side with transformers' LlamaForCausalLM in one process.

    python benchmarks/train.py [--size A B] [--compile] [--rounds 15] [--threads 1]

One step is forward, backward and AdamW on random tokens. The contestants take turns, so that another program's load falls
on all; figures are medians of processor time (of wall time with more than one thread), and ratios are against transformers
as it comes. "Tuned" is what its user could do by hand: eager attention, fused
AdamW, bf16 autocast where this processor gains.
"""
from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from llama2_lib.config import ModelConfig, OptimConfig
from llama2_lib.model.logprobs import token_logprobs
from llama2_lib.model.transformer import Transformer
from llama2_lib.training import precision
from llama2_lib.training.accounting import flops_per_token, parameter_count
from llama2_lib.training.trainer import make_optimizer

# name: shape, sequences per batch, tokens per sequence
SIZES = {
    "A": (ModelConfig(dim=128, n_layers=4, n_heads=4, n_kv_heads=2, vocab_size=1024, multiple_of=128), 24, 128),
    "B": (ModelConfig(dim=256, n_layers=6, n_heads=8, n_kv_heads=4, vocab_size=2048, multiple_of=64), 8, 256),
}
Step = Callable[[], None]


def transformers_step(config: ModelConfig, tokens_BT: torch.Tensor, labels_BT: torch.Tensor, tuned: bool,
                      dtype: torch.dtype, compiled: bool) -> Step:
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=config.dim, intermediate_size=config.hidden_dim, num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads, num_key_value_heads=config.n_kv_heads, vocab_size=config.vocab_size,
        max_position_embeddings=config.max_seq_len, use_cache=False,
        **({"attn_implementation": "eager"} if tuned else {})))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **({"fused": True} if tuned else {}))
    network = torch.compile(model) if compiled else model
    return step_of(lambda: network(input_ids=tokens_BT, labels=labels_BT).loss, optimizer, dtype if tuned else torch.float32)


def our_step(config: ModelConfig, tokens_BT: torch.Tensor, labels_BT: torch.Tensor, dtype: torch.dtype,
             compiled: bool) -> Step:
    model = Transformer(config)
    optimizer = make_optimizer(model, OptimConfig(peak_lr=1e-3))
    network = torch.compile(model) if compiled else model
    return step_of(lambda: -token_logprobs(network(tokens_BT), labels_BT).mean(), optimizer, dtype)


def step_of(loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> Step:
    def step() -> None:
        with precision.autocast("cpu", dtype):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return step


def median_seconds(steps: dict[str, Step], rounds: int, clock: Callable[[], float], title: str) -> dict[str, float]:
    """Median seconds of one step of each contestant, after three untimed steps that also compile."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for i in tqdm(range(rounds + 3), desc=title, leave=False):
        for name, step in steps.items():
            start = clock()
            step()
            if i >= 3:
                taken[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def ceiling(dtype: torch.dtype) -> float:
    """GFLOP/s of a matrix product of the sizes that occur here, best of 20: a step without any other work would reach it."""
    a, b = torch.randn(3072, 256).to(dtype), torch.randn(256, 768).to(dtype)
    best = math.inf
    for _ in range(20):
        start = time.process_time()
        for _ in range(5):
            a @ b
        best = min(best, (time.process_time() - start) / 5)
    return 2 * 3072 * 256 * 768 / best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--compile", action="store_true", help="also compiled contestants (half a minute each, once)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    chosen = precision.choose()
    print(f"torch {torch.__version__}, {args.threads} thread(s); tuned and ours in {chosen.reason}")
    print(f"matrix products alone on one core: float32 {ceiling(torch.float32):.0f}, bfloat16 "
          f"{ceiling(torch.bfloat16):.0f} GFLOP/s" if args.threads == 1 else "")
    for size in args.size:
        report(size, chosen.dtype, args)


def report(size: str, dtype: torch.dtype, args: argparse.Namespace) -> None:
    config, batch, length = SIZES[size]
    data_2BT = torch.randint(0, config.vocab_size, (2, batch, length))
    steps = {
        "transformers as it comes": transformers_step(config, *data_2BT, False, dtype, False),
        "transformers tuned": transformers_step(config, *data_2BT, True, dtype, False),
        "ours": our_step(config, *data_2BT, dtype, False),
    }
    if args.compile:
        steps["transformers tuned, compiled"] = transformers_step(config, *data_2BT, True, dtype, True)
        steps["ours compiled"] = our_step(config, *data_2BT, dtype, True)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    seconds = median_seconds(steps, args.rounds, clock, f"size {size}")
    print(f"\nsize {size}: {parameter_count(config):,} parameters, {batch} × {length} tokens a step")
    print(f"{'':30}{'tokens/s':>10}{'GFLOP/s':>10}{'× as it comes':>15}{'× tuned':>9}")
    for name, value in seconds.items():
        speed = batch * length / value
        print(f"{name:30}{speed:10,.0f}{speed * flops_per_token(config, length) / 1e9:10.0f}"
              f"{seconds['transformers as it comes'] / value:15.2f}{seconds['transformers tuned'] / value:9.2f}")


if __name__ == "__main__":
    main()
