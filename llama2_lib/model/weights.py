"""Checkpoints of others: Meta's folders and Hugging Face's, to our Transformer and back.

Both hold the same numbers under other names. Two things differ besides: Hugging Face stores the rows of wq and wk permuted,
because its RoPE turns channel i with channel i + H/2 where Meta's turns adjacent pairs; Meta splits matrices over one to
eight model-parallel files. Whatever a folder holds is checked by name and shape before it is used, and all differences are
listed in one ValueError; then by hash, if the folder lists hashes (checklist.chk is Meta's, SHA256SUMS ours). No code in a
file is ever run: safetensors, JSON, and `torch.load(weights_only=True)`.

A folder is `Stored`: opened, not read. Matrices come one at a time, so that `convert` takes a 70B from one format to the
other with one file of the target in memory, or with one matrix where that is larger. Left out: other architectures, RoPE
scaling, quantised files.
"""
from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llama2_lib.config import ModelConfig, require
from llama2_lib.model.transformer import Transformer

Folder = str | os.PathLike[str]
Shape = tuple[int, ...]

HF_TOP = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
HF_LAYER = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}
# along which axis Meta's files cut a matrix; norms are whole in each file
META_AXIS = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1, "tok_embeddings": 1}
DERIVED = ("rope.freqs", "rotary_emb.inv_freq")   # tables that old checkpoints carry; both follow from the config
HASHES = {"checklist.chk": "md5", "SHA256SUMS": "sha256"}       # lists as md5sum -c and sha256sum -c read them
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Stored:
    """A model in files or in memory, of which `read` gives one matrix at a time, by our name for it."""
    config: ModelConfig
    read: Callable[[str], Tensor]


# ---------------------------------------------------------------------------------------------------------- names and rows

def hf_name(name: str) -> str:
    """Hugging Face's name of a parameter: layers.0.attention.wq.weight → model.layers.0.self_attn.q_proj.weight."""
    stem = name.removesuffix(".weight")
    if stem in HF_TOP:
        return HF_TOP[stem] + ".weight"
    _, number, part = stem.split(".", 2)
    return f"model.layers.{number}.{HF_LAYER[part]}.weight"


def pairs_to_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of wq or wk from Meta's order to Hugging Face's: row h·H + 2i + j becomes row h·H + j·H/2 + i."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def halves_to_pairs(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `pairs_to_halves`."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _reordered(name: str, weight: Tensor, config: ModelConfig, order: Callable[[Tensor, int], Tensor]) -> Tensor:
    heads = {"wq": config.n_heads, "wk": config.n_kv_heads}.get(name.split(".")[-2])
    return weight if heads is None else order(weight, heads)


# ------------------------------------------------------------------------------------------------------------------ checks

def _compare(where: object, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    """Raise one ValueError that lists every missing, unexpected and wrongly shaped tensor."""
    lines = [f"missing {name} {list(expected[name])}" for name in expected if name not in found]
    lines += [f"unexpected {name} {list(found[name])}" for name in found if name not in expected]
    lines += [f"{name} is {list(found[name])}, expected {list(expected[name])}"
              for name in expected if name in found and found[name] != expected[name]]
    require(not lines, f"{where} does not fit its config:\n  " + "\n  ".join(lines))


def _shapes(config: ModelConfig) -> dict[str, Shape]:
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in Transformer(config).named_parameters()}


def _read_json(path: Path) -> dict:
    """The JSON object in `path`; ValueError names the file if there is none."""
    require(path.is_file(), f"{path} is missing")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:      # covers broken UTF-8 and broken JSON
        raise ValueError(f"{path} is not JSON: {error}") from error
    require(isinstance(value, dict), f"{path} holds {type(value).__name__}, not an object")
    return value


def _need(values: Mapping, names: Iterable[str], where: object) -> None:
    wrong = [f"{name} {values.get(name)!r}" for name in names if type(values.get(name)) is not int]
    require(not wrong, f"{where} must give whole numbers for {', '.join(wrong)}")


def _check_hashes(folder: Path, paths: Iterable[Path]) -> None:
    """ValueError naming the first of `paths` that differs from the folder's list of hashes, if it has one."""
    for name, kind in HASHES.items():
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
            listed = {file.strip().lstrip("*"): digest for digest, _, file in (line.partition(" ") for line in lines)}
            for path in paths:
                require(path.name in listed, f"{folder / name} has no hash of {path.name}")
                require(_hash(path, kind) == listed[path.name], f"{path} is not what {name} lists: its {kind} differs")


def _write_hashes(folder: Path, name: str, paths: Iterable[Path]) -> None:
    text = "".join(f"{_hash(path, HASHES[name])}  {path.name}\n" for path in paths)
    (folder / name).write_text(text, encoding="utf-8")


def _hash(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _assemble(stored: Stored, dtype: torch.dtype | None) -> Transformer:
    """The Transformer that is stored, without drawing or copying weights first."""
    with torch.device("meta"):
        model = Transformer(stored.config)
    weights = {name: stored.read(name) for name, _ in model.named_parameters()}
    model.load_state_dict({name: w if dtype is None else w.to(dtype) for name, w in weights.items()}, assign=True)
    return model.requires_grad_(True)


def _of(model: Transformer) -> Stored:
    return Stored(model.config, dict(model.state_dict()).__getitem__)


# ------------------------------------------------------------------------------------------------------------- conversion

def convert(source: Folder, target: Folder, *, shards: int = 1, max_shard_bytes: int = SHARD_BYTES) -> None:
    """Write Meta's folder `source` as Hugging Face's folder `target`, or the other way round, to the bit.

    shards: model-parallel files of a Meta folder; max_shard_bytes: of a file in a Hugging Face folder. In memory there is at
    most one file of the target, or one matrix. ValueError as `load_hf` and `load_meta` raise it, for a source that is of
    neither kind, and for a target that is not empty.
    """
    source, target = Path(source), Path(target)
    kinds = [kind for kind, name in (("hf", "config.json"), ("meta", "params.json")) if (source / name).is_file()]
    require(len(kinds) == 1, f"{source} must hold either config.json or params.json; it holds {len(kinds)} of them")
    require(not target.exists() or not any(target.iterdir()), f"{target} is not empty")
    if kinds == ["hf"]:
        _write_meta(_open_hf(source), target, shards)
    else:
        _write_hf(_open_meta(source, max_seq_len=4096), target, max_shard_bytes)


# ------------------------------------------------------------------------------------------------------------ Hugging Face

def load_hf(folder: Folder, dtype: torch.dtype | None = None) -> Transformer:
    """Read config.json and model.safetensors, or the shards that model.safetensors.index.json names.

    dtype None keeps the files' own. Raises ValueError for a config that is not a plain Llama 2, a file that is missing, cut
    or malformed, an index that points outside the folder, and any name or shape that does not fit.
    """
    return _assemble(_open_hf(Path(folder)), dtype)


def _open_hf(folder: Path) -> Stored:
    values = _read_json(folder / "config.json")
    config = _config_from_hf(values, folder / "config.json")
    shapes = _shapes(config)
    stored = {hf_name(name): name for name in shapes}
    if values.get("tie_word_embeddings", False):
        del stored["lm_head.weight"]
    files = {path: _open_safetensors(path) for path in _hf_files(folder)}
    kept = [[name for name in file.keys() if not name.endswith(DERIVED)] for file in files.values()]   # noqa: SIM118
    holder = {name: path for path, names in zip(files, kept, strict=True) for name in names}
    require(len(holder) == sum(map(len, kept)), f"{folder}: a tensor is in more than one file")
    found = {name: tuple(files[path].get_slice(name).get_shape()) for name, path in holder.items()}
    _compare(folder, found, {theirs: shapes[ours] for theirs, ours in stored.items()})
    _check_hashes(folder, files)

    def read(ours: str) -> Tensor:
        theirs = hf_name(ours)
        if theirs not in holder:        # tied: the output matrix is the table of embeddings
            return read("tok_embeddings.weight").clone()
        return _reordered(ours, files[holder[theirs]].get_tensor(theirs), config, halves_to_pairs)
    return Stored(config, read)


def save_hf(model: Transformer, folder: Folder, max_shard_bytes: int = SHARD_BYTES) -> None:
    """Write `model` so that transformers' `LlamaForCausalLM.from_pretrained` reads it; several shards get an index."""
    _write_hf(_of(model), Path(folder), max_shard_bytes)


def _write_hf(stored: Stored, folder: Path, max_shard_bytes: int) -> None:
    """Shard by shard under temporary names, since a name says how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[tuple[Path, list[str]]] = []
    shard: dict[str, Tensor] = {}
    total = 0

    def flush() -> None:
        path = folder / f"{len(written)}.safetensors.tmp"
        save_file(shard, path, metadata={"format": "pt"})
        written.append((path, list(shard)))
        shard.clear()

    for name in _shapes(stored.config):
        weight = stored.read(name)
        if shard and sum(w.nbytes for w in shard.values()) + weight.nbytes > max_shard_bytes:
            flush()
        shard[hf_name(name)] = _reordered(name, weight, stored.config, pairs_to_halves).contiguous()
        total += weight.nbytes
    flush()
    count = len(written)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)] if count > 1 else ["model.safetensors"]
    files = [path.replace(folder / name) for (path, _), name in zip(written, names, strict=True)]
    if count > 1:
        where = {tensor: name for (_, tensors), name in zip(written, names, strict=True) for tensor in tensors}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(_config_to_hf(stored.config, weight.dtype), indent=2))
    _write_hashes(folder, "SHA256SUMS", files)


def _hf_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    require(index.is_file(), f"{folder} holds neither model.safetensors nor model.safetensors.index.json")
    weight_map = _read_json(index).get("weight_map")
    require(isinstance(weight_map, dict) and weight_map, f"{index} has no weight_map")
    for tensor, name in weight_map.items():
        inside = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:")
        require(inside, f"{index} places {tensor} in {name!r}, which is not a file name inside the folder")
    return [folder / name for name in sorted(set(weight_map.values()))]


def _open_safetensors(path: Path):
    require(path.is_file(), f"{path} is missing")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _config_from_hf(values: dict, path: Path) -> ModelConfig:
    _need(values, ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"), path)
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    dim, heads = values["hidden_size"], values["num_attention_heads"]
    plain = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
             "head_dim": dim // heads}
    for key, expected in plain.items():
        require(values.get(key) in (None, expected), f"{path}: {key} {values.get(key)!r}; Llama 2 has {expected!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    require(kind == "default", f"{path}: RoPE scaling {kind!r} is not part of Llama 2")
    multiple_of, multiplier = _ffn_shape(dim, values["intermediate_size"])
    return ModelConfig(
        dim=dim, n_layers=values["num_hidden_layers"], n_heads=heads,
        n_kv_heads=values.get("num_key_value_heads") or heads, vocab_size=values["vocab_size"], multiple_of=multiple_of,
        ffn_dim_multiplier=multiplier, norm_eps=values.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.get("rope_theta", values.get("rope_theta", 10_000.0))),
        max_seq_len=values.get("max_position_embeddings", 2048))


def _ffn_shape(dim: int, hidden: int) -> tuple[int, float | None]:
    """(multiple_of, ffn_dim_multiplier) that give this hidden width: Llama 2's own if they do, else the width itself."""
    stretched = (hidden, hidden / int(8 * dim / 3))
    for multiple_of, multiplier in ((256, None), (256, 1.0), (4096, 1.3), (hidden, None), stretched):
        if ModelConfig(dim, 1, 1, 1, 1, multiple_of, multiplier).hidden_dim == hidden:
            return multiple_of, multiplier
    raise ValueError(f"no FFN settings give a hidden width of {hidden} at a model width of {dim}")


def _config_to_hf(c: ModelConfig, dtype: torch.dtype) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": c.dim, "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads, "head_dim": c.head_dim,
        "intermediate_size": c.hidden_dim, "vocab_size": c.vocab_size, "rms_norm_eps": c.norm_eps, "hidden_act": "silu",
        "rope_theta": c.rope_theta, "max_position_embeddings": c.max_seq_len, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


# -------------------------------------------------------------------------------------------------------------------- Meta

def load_meta(folder: Folder, dtype: torch.dtype | None = None, max_seq_len: int = 4096) -> Transformer:
    """Read params.json and consolidated.NN.pth, one file per model-parallel rank, joined into whole matrices.

    params.json says neither the context (4,096) nor, in Llama 2's case, the vocabulary (−1: read off `output`). Raises
    ValueError for a file that is missing, cut or carries code, and any name or shape that does not fit.
    """
    return _assemble(_open_meta(Path(folder), max_seq_len), dtype)


def _open_meta(folder: Path, max_seq_len: int) -> Stored:
    values = _read_json(folder / "params.json")
    paths = sorted(folder.glob("consolidated.*.pth"))
    require(bool(paths), f"{folder} holds no consolidated.NN.pth")
    wanted = [f"consolidated.{i:02}.pth" for i in range(len(paths))]
    require([p.name for p in paths] == wanted, f"{folder} holds {[p.name for p in paths]}, expected {wanted}")
    shards = [_open_pickle(path) for path in paths]
    config = _config_from_meta(values, shards, folder / "params.json", max_seq_len)
    expected = {name: _cut(name, shape, len(paths)) for name, shape in _shapes(config).items()}
    for path, shard in zip(paths, shards, strict=True):
        _compare(path, {name: tuple(w.shape) for name, w in shard.items()}, expected)
    _check_hashes(folder, paths)
    return Stored(config, lambda name: _join(name, [shard[name] for shard in shards], folder))


def save_meta(model: Transformer, folder: Folder, shards: int = 1) -> None:
    """Write `model` as Meta does: params.json and `shards` model-parallel files. ValueError if a matrix does not divide."""
    _write_meta(_of(model), Path(folder), shards)


def _write_meta(stored: Stored, folder: Path, shards: int) -> None:
    """File by file; each reads every matrix and keeps its part."""
    config = stored.config
    heads, kv_heads = config.n_heads, config.n_kv_heads
    require(shards >= 1 and heads % shards == 0 and kv_heads % shards == 0,
            f"{heads} heads and {kv_heads} key-value heads do not divide over {shards} shards")
    shapes = _shapes(config)
    for name, shape in shapes.items():
        _cut(name, shape, shards)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"consolidated.{i:02}.pth" for i in range(shards)]
    for i, path in enumerate(paths):
        torch.save({name: _part(name, stored.read(name), shards, i) for name in shapes}, path)
    values = {key: getattr(config, key) for key in ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of",
                                                    "ffn_dim_multiplier", "norm_eps", "rope_theta")}
    (folder / "params.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    _write_hashes(folder, "checklist.chk", paths)


def _part(name: str, weight: Tensor, shards: int, i: int) -> Tensor:
    """A copy of what file i of `shards` has of a matrix; a norm is whole in each."""
    return (weight if weight.dim() == 1 else weight.chunk(shards, META_AXIS[name.split(".")[-2]])[i]).clone()


def _open_pickle(path: Path) -> dict[str, Tensor]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors and is refused before any of it runs") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole checkpoint: {error}") from error
    plain = isinstance(values, dict) and all(isinstance(v, Tensor) for v in values.values())
    require(plain, f"{path} is not a dictionary of tensors")
    return {name: weight for name, weight in values.items() if not name.endswith(DERIVED)}


def _config_from_meta(values: dict, shards: list[dict[str, Tensor]], path: Path, max_seq_len: int) -> ModelConfig:
    _need(values, ("dim", "n_layers", "n_heads", "multiple_of"), path)
    known = set(ModelConfig.__dataclass_fields__)
    require("norm_eps" in values, f"{path} lacks norm_eps")
    require(set(values) <= known, f"{path} has settings Llama 2 does not know: {', '.join(sorted(set(values) - known))}")
    settings = {"n_kv_heads": values["n_heads"], "max_seq_len": max_seq_len} | values
    if settings.get("vocab_size", -1) == -1:
        require("output.weight" in shards[0], f"{path} gives no vocab_size, and the first file has no output.weight")
        settings["vocab_size"] = shards[0]["output.weight"].shape[0] * len(shards)
    return ModelConfig(**settings)


def _cut(name: str, shape: Shape, shards: int) -> Shape:
    """Shape of one of `shards` equal parts of a matrix; a norm stays whole."""
    if len(shape) == 1:
        return shape
    axis = META_AXIS[name.split(".")[-2]]
    require(shape[axis] % shards == 0, f"{name} {list(shape)} does not divide over {shards} files along axis {axis}")
    return tuple(size // shards if i == axis else size for i, size in enumerate(shape))


def _join(name: str, parts: list[Tensor], folder: Path) -> Tensor:
    if parts[0].dim() == 1:
        require(all(torch.equal(parts[0], part) for part in parts), f"{folder}: the files disagree on {name}")
        return parts[0].clone()
    return torch.cat(parts, dim=META_AXIS[name.split(".")[-2]])
