"""Fine-tuning on examples with masks: one loss and one loop for SFT, context distillation and Ghost Attention (section 3.1).

    L = −mean log p(token | all before it)     over the tokens whose mask is set; the others are read and not learned

The stages differ in what they show and which tokens they learn from, never in this. Left out: sequence-level losses.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from llama2_lib.config import OptimConfig, RuntimeConfig
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.batching import Batch, Examples, Loader
from llama2_lib.training import distributed, trainer

Example = tuple[list[int], list[bool]]      # ids and loss mask, as `text.chat.render` writes them


def answer_loss(model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Mean negative log-likelihood, in nats, of the tokens that count; logits are computed for those alone."""
    h_BTD = model.hidden(batch.tokens_BT, batch.positions_BT, batch.segments_BT)
    logits_NV = model.output(h_BTD[batch.mask_BT])
    return F.cross_entropy(logits_NV.float(), batch.labels_BT[batch.mask_BT]), {}


def loader(examples: Sequence[Example], seq_len: int, batch_size: int, epochs: int, seed: int, *, pack: bool = True,
           isolate: bool = True) -> Loader:
    """Batches of packed examples, on a CPU in short rows; an epoch's last may be smaller. ValueError for no example."""
    short = pack and isolate and distributed.device().type == "cpu"
    rows = Examples(examples, seq_len, pack=pack, isolate=isolate, short=short)
    return Loader(rows, batch_size, seed, epochs=epochs, drop_last=False)


def fit(model: Transformer, batches: Loader, optim: OptimConfig, *, steps: int | None = None,
        runtime: RuntimeConfig | None = None, title: str = "") -> list[dict]:
    """Fine-tune `model` in place on all epochs of `batches`, or on fewer `steps`; the records of the steps come back."""
    return trainer.fit(model, batches, answer_loss, optim, steps or batches.epochs * len(batches), runtime=runtime,
                       seed=batches.seed, title=title)
