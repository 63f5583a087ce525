"""How fast contamination is looked for, and in how much memory: a stream of synthetic documents against one benchmark.

    python benchmarks/contamination.py [--documents 10000 100000 1000000] [--samples 1000]

Documents of 50 to 350 random tokens of a vocabulary of 32,000; one in a hundred holds half a sample. They are made as they
are read, and what making them costs is measured alone and taken off. Each count runs in a process of its own, so that its
peak memory is its own; the baseline is the same process before the first document. Processor time, one thread.
"""
from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Iterator

import numpy as np

from llama2_lib.text.contamination import Contamination

VOCABULARY, SHORTEST, LONGEST, HOLDS = 32_000, 50, 350, 0.01


def documents(count: int, samples: list[np.ndarray], seed: int = 0) -> Iterator[np.ndarray]:
    """Documents one at a time."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        text_T = rng.integers(0, VOCABULARY, rng.integers(SHORTEST, LONGEST + 1))
        if rng.random() < HOLDS:
            piece = samples[rng.integers(len(samples))]
            text_T = np.concatenate([text_T, piece[:len(piece) // 2]])
        yield text_T


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024          # Linux counts KiB


def measure(count: int, sample_count: int) -> tuple[float, float, int, float, float, float]:
    """(seconds, seconds of making the documents, tokens, MiB before, MiB at the peak, share of samples not clean)."""
    rng = np.random.default_rng(1)
    samples = [rng.integers(0, VOCABULARY, rng.integers(60, 200)) for _ in range(sample_count)]
    start = time.process_time()
    for _ in documents(count, samples):
        pass
    making = time.process_time() - start
    contamination, before, start = Contamination(samples), peak_mib(), time.process_time()
    contamination.read(documents(count, samples))
    seconds = time.process_time() - start
    return seconds - making, making, contamination.tokens, before, peak_mib(), float((contamination.shares() >= 0.2).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--samples", type=int, default=1_000)
    args = parser.parse_args()
    print(f"{args.samples:,} evaluation samples of 60 to 200 tokens, one process, one thread")
    for count in args.documents:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, making, tokens, before, peak, share = pool.apply(measure, (count, args.samples))
        print(f"{count:>9,} documents, {tokens / 1e6:6.1f}M tokens: {count / seconds:9,.0f} documents/s, "
              f"{tokens / seconds / 1e6:5.1f}M tokens/s, {seconds:5.1f} s (and {making:.1f} s to make them); "
              f"memory {before:.0f} MiB before, {peak:.0f} MiB at the peak; {share:.0%} of samples not clean", flush=True)


if __name__ == "__main__":
    main()
