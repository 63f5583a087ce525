"""Pretraining (section 2): a base model from the clean corpus.

    L = −mean_t log p(x_t | x_<t)     over every token of a stream of documents

The recipe is the paper's (AdamW, warm-up, cosine to a tenth, clipping), with the preset's numbers. Documents stand one
after another, BOS … EOS, and fill the rows; whether they see each other the paper does not say: here they do, as is usual.
Left out: recovery from loss spikes, data order by quality.

`run` leaves runs/<preset>/pretrain: weights, tokenizer, metrics.jsonl, summary.json, and `snapshots/` taken along the way.
"""
from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llama2_lib.config import PretrainConfig, Recipe, require
from llama2_lib.model.logprobs import masked_mean, token_logprobs
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.batching import Batch, Interleaved, Loader, Windows
from llama2_lib.text.mixture import documents
from llama2_lib.text.tokenizer import Tokenizer
from llama2_lib.training import checkpoint, trainer
from llama2_lib.training.distributed import for_training, is_main

ENCODE_AT_ONCE = 2_000   # documents


@dataclass(frozen=True)
class Pretrained:
    """A base model and how it came about."""
    folder: Path
    model: Transformer
    tokenizer: Tokenizer
    history: list[dict]

    @property
    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))

    def snapshots(self) -> dict[int, Path]:
        """Folders of the models kept along the way, by the number of steps taken; `checkpoint.load_model` reads them."""
        return {int(f.name): f for f in sorted((self.folder / "snapshots").glob("*"))}


def pretrain_loss(model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Mean negative log-likelihood, in nats, of the labels that count."""
    logits_BTV = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT)
    return masked_mean(-token_logprobs(logits_BTV, batch.labels_BT), batch.mask_BT), {}


def token_stream(texts: Iterable[str], tokenizer: Tokenizer) -> np.ndarray:
    """Documents as one line of ids, BOS text EOS BOS text EOS …, in the smallest integer type that holds the vocabulary."""
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    texts = iter(texts)
    parts = []
    while chunk := list(islice(texts, ENCODE_AT_ONCE)):
        parts += [np.array(ids, dtype=dtype) for ids in tokenizer.encode_batch(chunk, bos=True, eos=True)]
    require(bool(parts), "pretraining has no document to read")
    return np.concatenate(parts)


def split(stream_N: np.ndarray, config: PretrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation): the last `validation_share` is never trained on. ValueError if a part is too short."""
    cut = len(stream_N) - int(config.validation_share * len(stream_N))
    short = min(cut, len(stream_N) - cut)
    require(short > config.longest, f"a stream of {len(stream_N)} tokens leaves {short} for a part that needs at least "
                                    f"{config.longest + 1}: write more pages (world.documents)")
    return stream_N[:cut], stream_N[cut:]


def loader(train_N: np.ndarray, config: PretrainConfig, seed: int) -> Loader | Interleaved:
    """Batches of `batch_tokens`: rows of `seq_len`, and for a `long_share` of the steps rows of `long_seq_len`."""
    def rows(length: int) -> Loader:
        return Loader(Windows(train_N, length), config.batch_tokens // length, seed)

    return Interleaved(rows(config.seq_len), rows(config.longest), config.long_share) if config.long_seq_len \
        else rows(config.seq_len)


@torch.no_grad()
def validation_loss(model: Transformer, validation_N: np.ndarray, seq_len: int, batch_size: int = 32) -> float:
    """Mean loss in nats per token over all whole windows of `validation_N`."""
    rows = Windows(validation_N, seq_len)
    losses = [pretrain_loss(model, b)[0] for b in _in_order(rows, batch_size)]
    weights = [min(batch_size, len(rows) - i) for i in range(0, len(rows), batch_size)]
    return float(np.average([float(x) for x in losses], weights=weights))


def _in_order(rows: Windows, batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(rows), batch_size):
        yield rows.batch(np.arange(start, min(start + batch_size, len(rows))))


def run(recipe: Recipe, workdir: Path) -> Pretrained:
    """The base model of `recipe`, trained on workdir/corpus unless workdir/pretrain already holds it."""
    corpus = workdir / "corpus"
    key = checkpoint.fingerprint("pretrain", recipe.model, recipe.pretrain, recipe.mixture, recipe.seed,
                                 checkpoint.artifact_key(corpus))
    folder = checkpoint.artifact(workdir / "pretrain", key, lambda tmp: _train(recipe, corpus, tmp))
    history = checkpoint.read_metrics(folder)
    return Pretrained(folder, checkpoint.load_model(folder), Tokenizer.load(folder / "tokenizer.model"), history)


def _train(recipe: Recipe, corpus: Path, folder: Path) -> None:
    config = recipe.pretrain
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    require(tokenizer.vocab_size == recipe.model.vocab_size,
            f"the tokenizer has {tokenizer.vocab_size} pieces, the model {recipe.model.vocab_size} rows of embeddings")
    train_N, validation_N = split(token_stream(documents(corpus, recipe.mixture, recipe.seed), tokenizer), config)
    torch.manual_seed(recipe.seed)
    model, state = for_training(Transformer(recipe.model)), folder / "state"         # what is in there survives a crash
    keep = {round(config.steps * (i + 1) / (config.snapshots + 1)) for i in range(config.snapshots)}

    def snapshot(step: int, metrics: dict) -> None:
        checkpoint.save_model(state / "snapshots" / f"{step:06d}", model)

    every = recipe.runtime.save_every or None
    history = trainer.fit(model, loader(train_N, config, recipe.seed), pretrain_loss, config.optim, config.steps,
                          runtime=recipe.runtime, seed=recipe.seed, folder=every and state, save_every=every,
                          on_step=snapshot, look_at=keep, title="pretraining")
    if keep and is_main():                                # who else was there may not have been asked for snapshots
        (state / "snapshots").rename(folder / "snapshots")
    checkpoint.save_model(folder, model)
    shutil.copy(corpus / "tokenizer.model", folder / "tokenizer.model")
    checkpoint.write_metrics(folder, history)
    summary = {"stream_tokens": len(train_N), "epochs": config.steps * config.batch_tokens / len(train_N),
               "validation_tokens": len(validation_N),
               "validation_loss": validation_loss(model, validation_N, config.seq_len)}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
