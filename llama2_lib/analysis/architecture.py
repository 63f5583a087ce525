"""Query heads and key-value heads: MHA, GQA and MQA at equal parameters (appendix A.2.1, Table 18 and Figure 24).

The paper trains 30B models on 150B tokens and widens the FFN (×1.3 for GQA, ×1.33 for MQA) so that all three weigh the same.
Here the toy is trained on pages of the small world, with eight heads rather than four so that there is something to share.
Quality is the validation loss, not benchmark scores; cost is the size of the KV cache, counted and not timed. Left out: the
speed of generation, and the paper's reason against MQA, that one key-value head cannot be spread over eight GPUs.
"""
from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llama2_lib.config import ModelConfig, OptimConfig, Recipe
from llama2_lib.model.transformer import Transformer
from llama2_lib.stages import corpus, pretrain
from llama2_lib.text.batching import Loader, Windows
from llama2_lib.text.mixture import documents
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import accounting, trainer

KV_HEADS = {"MHA": 8, "GQA": 2, "MQA": 1}     # of eight query heads; Llama 2 70B shares 8 among 64
CACHE_BUDGET = 64 * 2**20                     # bytes, of Figure 24's toy
ROW, ROWS = 128, 16                           # tokens in a training sequence, sequences in a batch
OPTIM = OptimConfig(peak_lr=3e-3, warmup_steps=10)


@dataclass(frozen=True)
class Trained:
    """One variant after a short training: its loss on held-out pages, in nats per token, and its training history."""
    model: Transformer
    validation_loss: float
    history: list[dict]


def variants(model: ModelConfig) -> dict[str, ModelConfig]:
    """MHA, GQA and MQA of one shape: what fewer key-value heads save goes into a wider FFN, as in Table 18."""
    base = dataclasses.replace(model, n_heads=8, n_kv_heads=8)
    return {name: widened(base, kv) for name, kv in KV_HEADS.items()}


def widened(mha: ModelConfig, n_kv_heads: int) -> ModelConfig:
    """`mha` with fewer key-value heads and the FFN wider by the parameters that saves, to within half a hidden channel."""
    saved_channels = 2 * (mha.n_kv_heads - n_kv_heads) * mha.head_dim       # columns of wk and wv; w1, w2, w3 share them
    hidden = mha.hidden_dim + round(saved_channels / 3)
    # a width rounded up to a multiple of itself is that width
    return dataclasses.replace(mha, n_kv_heads=n_kv_heads, multiple_of=hidden, ffn_dim_multiplier=None)


def token_streams(recipe: Recipe, workdir: Path, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation): the first `tokens` ids of the corpus' pages and the next eighth, for every seed of a study."""
    folder = corpus.run(recipe, workdir)
    tokenizer = Tokenizer.load(folder / corpus.TOKENIZER)
    pages = documents(folder, recipe.mixture, recipe.seed)
    needed, parts = tokens + tokens // 8, []
    while sum(map(len, parts)) < needed and (some := list(itertools.islice(pages, 1000))):
        parts.append(pretrain.token_stream(some, tokenizer))
    stream_N = np.concatenate(parts)[:needed]
    cut = len(stream_N) * 8 // 9
    return stream_N[:cut], stream_N[cut:]


def train(config: ModelConfig, train_N: np.ndarray, validation_N: np.ndarray, steps: int, seed: int, *,
          runtime=None, title: str = "", on_step: Callable[[int, dict], None] | None = None) -> Trained:
    """Train one variant for `steps` batches of ROWS × ROW tokens; the seed sets its weights and the order of the rows."""
    torch.manual_seed(seed)
    model = Transformer(config)
    loader = Loader(Windows(train_N, ROW), ROWS, seed)
    history = trainer.fit(model, loader, pretrain.pretrain_loss, OPTIM, steps, runtime=runtime, seed=seed, title=title,
                          on_step=on_step)
    model.eval()
    return Trained(model, pretrain.validation_loss(model, validation_N, ROW), history)


def cache_costs(config: ModelConfig, length: int = 512, budget: int = CACHE_BUDGET) -> dict[str, int]:
    """Bytes of bf16 KV cache a token of context costs, and the most sequences of `length` that fit `budget` (Figure 24)."""
    return {"cache_bytes_per_token": accounting.kv_cache_bytes(config, 1, 1),
            "largest_batch": accounting.largest_batch(config, length, budget)}


def gqa_study(recipe: Recipe, seed: int, workdir: Path, steps: int = 400) -> dict[str, float]:
    """One seed of claim C03: validation loss, parameters and cache of the three variants, and the differences it turns on.

    The corpus is the recipe's own, the same for every seed; only weights and data order change.
    """
    train_N, validation_N = token_streams(recipe, workdir, steps * ROW * ROWS)
    result: dict[str, float] = {}
    for name, config in variants(recipe.model).items():
        result[f"loss_{name}"] = train(config, train_N, validation_N, steps, seed, runtime=recipe.runtime).validation_loss
        result[f"parameters_{name}"] = accounting.parameter_count(config)
        result |= {f"{key}_{name}": value for key, value in cache_costs(config).items()}
    result["gqa_minus_mha"] = result["loss_GQA"] - result["loss_MHA"]
    result["gqa_minus_mqa"] = result["loss_GQA"] - result["loss_MQA"]
    result["cache_mha_over_gqa"] = result["cache_bytes_per_token_MHA"] / result["cache_bytes_per_token_GQA"]
    return result
