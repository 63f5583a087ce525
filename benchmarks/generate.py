"""Generation speed, side by side with transformers' `generate` in one process.

    python benchmarks/generate.py [--rounds 5] [--threads 1]

Random weights at size A; prompts of 32 tokens, 64 new tokens, sampled at temperature 1, no end token; then best-of-K as
rejection sampling needs it: 32 prompts, 16 samples each, where our samples share a prefill. Contestants take turns; figures
are medians of processor time (wall time with more than one thread).
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from llama2_lib.config import ModelConfig
from llama2_lib.model.generation import generate
from llama2_lib.model.transformer import Transformer

CONFIG = ModelConfig(dim=128, n_layers=4, n_heads=4, n_kv_heads=2, vocab_size=1024, multiple_of=128, max_seq_len=512)
PROMPT, NEW = 32, 64
CASES = {"batch 1": (1, 1), "batch 16": (16, 1), "batch 64": (64, 1), "best of 16, 32 prompts": (32, 16)}


def contestants(prompts: int, samples: int) -> dict[str, Callable[[], object]]:
    tokens_BT = torch.randint(3, CONFIG.vocab_size, (prompts, PROMPT))
    theirs = LlamaForCausalLM(LlamaConfig(
        hidden_size=CONFIG.dim, intermediate_size=CONFIG.hidden_dim, num_hidden_layers=CONFIG.n_layers,
        num_attention_heads=CONFIG.n_heads, num_key_value_heads=CONFIG.n_kv_heads, vocab_size=CONFIG.vocab_size,
        max_position_embeddings=CONFIG.max_seq_len)).eval()
    ours = Transformer(CONFIG)

    def transformers() -> object:
        return theirs.generate(tokens_BT, attention_mask=torch.ones_like(tokens_BT), max_new_tokens=NEW, do_sample=True,
                               top_k=0, num_return_sequences=samples, eos_token_id=None, pad_token_id=0)

    def mine(dtype: torch.dtype) -> Callable[[], object]:
        return lambda: generate(ours, tokens_BT.tolist(), max_new_tokens=NEW, eos_id=-1, samples_per_prompt=samples,
                                dtype=dtype, batch_rows=512)
    return {"transformers": transformers, "ours, fp32": mine(torch.float32), "ours, bf16": mine(torch.bfloat16)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    print(f"torch {torch.__version__}, {args.threads} thread(s), prompt {PROMPT} + {NEW} new tokens: new tokens a second")
    for case, (prompts, samples) in CASES.items():
        runs = contestants(prompts, samples)
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for i in tqdm(range(args.rounds + 1), desc=case, leave=False):
            for name, run in runs.items():
                start = clock()
                run()
                if i:                                   # the first round warms up
                    taken[name].append(clock() - start)
        speed = {name: prompts * samples * NEW / statistics.median(values) for name, values in taken.items()}
        print(f"{case:24}" + "   ".join(f"{name} {value:,.0f} (× {value / speed['transformers']:.2f})"
                                        for name, value in speed.items()))


if __name__ == "__main__":
    main()
