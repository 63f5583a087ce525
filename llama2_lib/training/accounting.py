"""What a model costs: parameters, arithmetic, memory, GPU-hours, carbon (sections 2.2 and 2.2.1, Tables 1 and 2).

Closed formulas; the tests count the same numbers on real modules. Left out: activations, whose memory depends on
checkpointing and on the attention kernel, and the energy of interconnect, cooling beyond the PUE, and making the machines.
"""
from __future__ import annotations

import math

from llama2_lib.config import ModelConfig, require

# Section 2.2.1 prints hours, watts and tonnes but not the intensity. Table 2 implies 0.4235 kg per kWh of GPU energy, which
# is what the Llama 1 paper states in two factors: the US mean of 0.385 kg/kWh and a power usage effectiveness of 1.1.
GRID_KG_PER_KWH = 0.385
POWER_USAGE_EFFECTIVENESS = 1.1

# Table 2: GPU-hours, watts per GPU (the cap of its cluster), printed tCO2eq
TABLE_2 = {
    "7B": (184_320, 400, 31.22),
    "13B": (368_640, 400, 62.44),
    "34B": (1_038_336, 350, 153.90),
    "70B": (1_720_320, 400, 291.42),
}
TABLE_2_TOTAL = (3_311_616, 539.00)


def parameter_parts(config: ModelConfig) -> dict[str, int]:
    """Parameters by part of the model; they add up to `parameter_count`."""
    kv_dim = config.n_kv_heads * config.head_dim
    return {
        "tok_embeddings": config.vocab_size * config.dim,
        "attention": config.n_layers * (2 * config.dim * config.dim + 2 * config.dim * kv_dim),    # wq, wo; wk, wv
        "feed_forward": config.n_layers * 3 * config.dim * config.hidden_dim,                      # w1, w2, w3
        "norms": (2 * config.n_layers + 1) * config.dim,
        "output": config.vocab_size * config.dim,
    }


def parameter_count(config: ModelConfig) -> int:
    """Number of weights: 6,738,415,616 for the 7B. Input and output embeddings are not tied."""
    return sum(parameter_parts(config).values())


def attention_flops_per_token(config: ModelConfig, seq_len: int, causal: bool = False) -> int:
    """Forward FLOPs of q·kᵀ and weights·v for one token of a sequence of `seq_len`.

    By the usual convention the masked half counts too; `causal` counts only the (seq_len + 1) / 2 keys seen on average.
    """
    keys = (seq_len + 1) / 2 if causal else seq_len
    return round(config.n_layers * 2 * 2 * keys * config.dim)


def flops_per_token(config: ModelConfig, seq_len: int, training: bool = True, causal: bool = False) -> int:
    """FLOPs per token: 2 per weight that multiplies (the embedding is a look-up) plus attention; ×3 with the backward pass.

    This is the 6·N + 12·L·D·T of the PaLM paper, with N exact: the embedding table and the norms are left out.
    """
    parts = parameter_parts(config)
    matmuls = 2 * (parts["attention"] + parts["feed_forward"] + parts["output"])
    return (3 if training else 1) * (matmuls + attention_flops_per_token(config, seq_len, causal))


def kv_cache_bytes(config: ModelConfig, batch: int, length: int, bytes_per_value: int = 2) -> int:
    """Bytes of the keys and values of `batch` sequences of `length` tokens (Figure 24); bf16 by default."""
    return 2 * config.n_layers * batch * length * config.n_kv_heads * config.head_dim * bytes_per_value


def largest_batch(config: ModelConfig, length: int, budget_bytes: int, bytes_per_value: int = 2) -> int:
    """Most sequences of `length` tokens whose KV cache fits `budget_bytes` (Figure 24)."""
    return budget_bytes // kv_cache_bytes(config, 1, length, bytes_per_value)


def gpu_hours(flops: float, flops_per_second: float) -> float:
    """GPU-hours for `flops` of work at `flops_per_second` reached on one GPU. The number of GPUs does not enter."""
    require(flops_per_second > 0, f"flops_per_second must be above 0, got {flops_per_second}")
    return flops / flops_per_second / 3600


def carbon(gpu_hours: float, watts: float) -> float:
    """Tonnes of CO2 equivalent of `gpu_hours` at `watts` per GPU (Table 2).

    energy (kWh) = hours · watts / 1000;  tCO2eq = energy · PUE 1.1 · 0.385 kg/kWh / 1000. The value is not rounded.
    """
    require(gpu_hours >= 0 and watts >= 0, f"GPU-hours and watts must not be negative, got {gpu_hours} and {watts}")
    return gpu_hours * watts / 1000 * POWER_USAGE_EFFECTIVENESS * GRID_KG_PER_KWH / 1000


def as_printed(tonnes: float) -> float:
    """Cut (not rounded) to two decimals, as Table 2 does: 62.4476 is printed 62.44 and 153.9074 is 153.90.

    No single intensity gives all four rows by rounding: the 13B needs at most 0.423482 kg/kWh, the 70B at least 0.423490.
    """
    return math.floor(tonnes * 100 + 1e-6) / 100
