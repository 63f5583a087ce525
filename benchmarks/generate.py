"""Generation speed, side by side with transformers' `generate` in one process, and the seconds of a PPO iteration.

    python benchmarks/generate.py [--rounds 5] [--threads 1]

Random weights at size A; prompts of 32 tokens, 64 new tokens, sampled at temperature 1, no end token; then best-of-K as
rejection sampling needs it: 32 prompts, 16 samples each, where our samples share a prefill. "Compiled" is `generate` with
compiled steps; the compiling is not counted. Last, where runs/toy holds them, the course's own models: best of 16 of the
chat model, whose replies end early, and a PPO iteration of 256 rollouts with reference, critic and both rewards.
Contestants take turns; figures are medians of processor time (wall time with more than one thread, and for PPO).
"""
from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import generate as this  # new processes find this file by its name
import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from llama2_lib.config import ModelConfig, override, preset
from llama2_lib.model.generation import generate
from llama2_lib.model.replies import as_dialog
from llama2_lib.model.transformer import Transformer
from llama2_lib.model.weights import save_hf
from llama2_lib.stages import ppo, rlhf, road
from llama2_lib.text.chat import render
from llama2_lib.training.launch import together
from llama2_lib.world.facts import world_for

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

    def mine(dtype: torch.dtype, compiled: bool = False) -> Callable[[], object]:
        return lambda: generate(ours, tokens_BT.tolist(), max_new_tokens=NEW, eos_id=-1, samples_per_prompt=samples,
                                dtype=dtype, batch_rows=512, compiled=compiled)
    better = torch.float32 if prompts * samples < 8 else torch.bfloat16
    return {"transformers": transformers, "ours, fp32": mine(torch.float32), "ours, bf16": mine(torch.bfloat16),
            "ours, compiled": mine(better, compiled=True)}


def own_replies(v: rlhf.Version, asked: list[list[int]], samples: int, room: int) -> dict[str, Callable[[], object]]:
    """Best of `samples` by a chat model of the course: prompts of uneven length, replies that end."""
    end = v.tokenizer.eos_id
    with tempfile.TemporaryDirectory() as folder:
        save_hf(v.policy, folder)
        theirs = LlamaForCausalLM.from_pretrained(folder).eval()
    longest = max(map(len, asked))
    tokens_BT = torch.tensor([[0] * (longest - len(p)) + p for p in asked])
    seen_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in asked])

    def transformers() -> object:
        return theirs.generate(tokens_BT, attention_mask=seen_BT, max_new_tokens=room, do_sample=True, top_k=0,
                               num_return_sequences=samples, eos_token_id=end, pad_token_id=0)

    def mine(dtype: torch.dtype) -> Callable[[], object]:
        return lambda: generate(v.policy, asked, max_new_tokens=room, eos_id=end, samples_per_prompt=samples, dtype=dtype,
                                batch_rows=512)
    return {"transformers": transformers, "ours, fp32": mine(torch.float32), "ours, bf16": mine(torch.bfloat16)}


def ppo_seconds(place: str, iterations: int) -> float:
    """Median wall seconds of a PPO iteration of 256 rollouts of at most 48 tokens, from the version in `place`; the first
    iteration, which warms up, is not counted."""
    v, recipe = rlhf.load(Path(place)), override(preset("toy"), **{"runtime.parallel.shard": False})
    config = replace(recipe.ppo, iterations=iterations + 1, batch=256, max_new_tokens=48)
    ends: list[float] = []
    ppo.train(v.policy, v.tokenizer, rlhf.asked(world_for(recipe.world), 1), [], rlhf.scorer(v.rewards, recipe.runtime),
              config, runtime=recipe.runtime, on_iteration=lambda *_: ends.append(time.perf_counter()))
    return statistics.median(end - start for start, end in pairwise(ends))


def timed(runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float], title: str) -> dict[str, float]:
    """Median seconds of each contestant; they take turns, and the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for i in tqdm(range(rounds + 1), desc=title, leave=False):
        for name, run in runs.items():
            start = clock()
            run()
            if i:
                taken[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def show(case: str, taken: Mapping[str, float], words: Callable[[float], str]) -> None:
    """One line: each contestant's figure, and how many times as fast as transformers it is."""
    print(f"{case:24}" + "   ".join(f"{name} {words(seconds)} (× {taken['transformers'] / seconds:.2f})"
                                    for name, seconds in taken.items()), flush=True)


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
        taken = timed(contestants(prompts, samples), args.rounds, clock, case)
        show(case, taken, lambda seconds, tokens=prompts * samples * NEW: f"{tokens / seconds:,.0f}")
    place = road.workdir(preset("toy")) / "rlhf" / rlhf.VERSIONS[1]
    if not place.exists():
        print(f"{place} is missing, so the course's own models are not timed: python -m llama2_lib rlhf toy")
        return
    v = rlhf.load(place)
    asked = [render(as_dialog(p), v.tokenizer)[0] for p in islice(rlhf.asked(world_for(preset("toy").world), 0), 32)]
    taken = timed(own_replies(v, asked, 16, 64), args.rounds, clock, "own replies")
    show("own replies, best of 16", taken, lambda seconds: f"{seconds:.2f} s")
    one = ppo_seconds(str(place), args.rounds)
    two = together(2, this.ppo_seconds, str(place), args.rounds)[0]
    print(f"a PPO iteration of 256, wall time: {one:.2f} s here, {two:.2f} s by two processes of one thread")


if __name__ == "__main__":
    main()
