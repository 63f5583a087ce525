"""Checkpoints: round trips, the other library's own files, and every bad file of the list with its error."""
from __future__ import annotations

import json
import os
import struct
import subprocess
import sys

import pytest
import torch
from reference import hf_llama, hf_twin, permuted_rows, rough_weights
from safetensors.torch import load_file, save_file

from llama2_lib.config import ModelConfig, preset
from llama2_lib.model.transformer import Transformer
from llama2_lib.model.weights import (
    HASHES,
    convert,
    halves_to_pairs,
    load_hf,
    load_meta,
    pairs_to_halves,
    save_hf,
    save_meta,
)

CONFIG = ModelConfig(dim=64, n_layers=2, n_heads=8, n_kv_heads=8, vocab_size=96, multiple_of=24, norm_eps=3e-4,
                     rope_theta=5000.0, max_seq_len=96)
GROUPED = ModelConfig(dim=64, n_layers=2, n_heads=8, n_kv_heads=2, vocab_size=96, multiple_of=24, norm_eps=3e-4,
                      rope_theta=5000.0, max_seq_len=96)


@pytest.fixture
def model() -> Transformer:
    return rough_weights(Transformer(GROUPED), scale=0.1)


@pytest.fixture
def saved(model, tmp_path):
    save_hf(model, tmp_path / "hf")
    return tmp_path / "hf"


def same(a: Transformer, b: Transformer) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def forget_hashes(folder) -> None:
    """Take the list of hashes away, as from a folder that never had one."""
    for name in HASHES:
        (folder / name).unlink(missing_ok=True)


def edit(path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# ------------------------------------------------------------------------------------------------------------ Hugging Face

def test_permutation_against_a_loop_over_rows():
    weight = torch.randn(3 * 8, 5)
    assert torch.equal(pairs_to_halves(weight, 3), permuted_rows(weight, 8))
    assert torch.equal(halves_to_pairs(pairs_to_halves(weight, 3), 3), weight)


@torch.no_grad()
def test_transformers_reads_what_we_write(model, saved):
    from transformers import LlamaForCausalLM
    theirs = LlamaForCausalLM.from_pretrained(saved).eval()
    tokens = torch.randint(0, 96, (2, 80))
    assert (theirs(tokens).logits - model(tokens)).abs().max() <= 2e-5, "is rope_theta or eps lost on the way?"


@torch.no_grad()
@pytest.mark.parametrize("shard_size", ["1GB", "60KB"])
def test_we_read_what_transformers_writes(tmp_path, shard_size):
    torch.manual_seed(0)
    theirs = rough_weights(hf_llama(GROUPED), scale=0.1)
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "60KB")
    tokens = torch.randint(0, 96, (2, 80))
    assert (theirs(tokens).logits - load_hf(tmp_path)(tokens)).abs().max() <= 2e-5


@torch.no_grad()
def test_the_permutation_matters(model, tmp_path):
    wrong = hf_twin(model, permute=False)
    wrong.save_pretrained(tmp_path)
    tokens = torch.randint(0, 96, (2, 80))
    assert (load_hf(tmp_path)(tokens) - model(tokens)).abs().max() > 0.1


@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 50_000])
def test_hf_round_trip_is_exact(model, tmp_path, max_shard_bytes):
    save_hf(model, tmp_path, max_shard_bytes)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_bytes == 50_000)
    back = load_hf(tmp_path)
    assert same(back, model)
    assert back.config.hidden_dim == GROUPED.hidden_dim and back.config.rope_theta == 5000.0
    assert all(weight.requires_grad for weight in back.parameters())


def test_dtype_is_the_files_own_unless_told(model, tmp_path):
    save_hf(model.bfloat16(), tmp_path)
    assert load_hf(tmp_path).output.weight.dtype == torch.bfloat16
    assert load_hf(tmp_path, torch.float32).output.weight.dtype == torch.float32


def test_tied_embeddings_and_old_rotary_tables(model, saved):
    forget_hashes(saved)
    values = load_file(saved / "model.safetensors")
    del values["lm_head.weight"]
    values["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(values, saved / "model.safetensors")
    edit(saved / "config.json", lambda c: c.update(tie_word_embeddings=True))
    assert torch.equal(load_hf(saved).output.weight, model.tok_embeddings.weight)


@pytest.mark.parametrize("name", ["llama2_7b", "llama2_13b", "llama2_34b", "llama2_70b"])
def test_published_shapes_come_back_from_an_hf_config(name, tmp_path):
    from llama2_lib.model.weights import _config_from_hf, _config_to_hf
    config = preset(name).model
    values = _config_to_hf(config, torch.bfloat16)
    assert _config_from_hf(values, tmp_path).hidden_dim == config.hidden_dim


# -------------------------------------------------------------------------------------------------------------------- Meta

@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_meta_round_trip_over_model_parallel_files(tmp_path, shards):
    model = rough_weights(Transformer(CONFIG))
    save_meta(model, tmp_path, shards)
    assert len(list(tmp_path.glob("consolidated.*.pth"))) == shards
    back = load_meta(tmp_path, max_seq_len=96)
    assert same(back, model) and back.config == CONFIG


def test_meta_files_are_cut_where_meta_cuts_them(tmp_path):
    model = rough_weights(Transformer(CONFIG))
    save_meta(model, tmp_path, 2)
    second = torch.load(tmp_path / "consolidated.01.pth", weights_only=True)
    wants = {"layers.0.attention.wq": model.layers[0].attention.wq.weight[32:],
             "layers.0.attention.wo": model.layers[0].attention.wo.weight[:, 32:],
             "layers.1.feed_forward.w2": model.layers[1].feed_forward.w2.weight[:, 96:],
             "tok_embeddings": model.tok_embeddings.weight[:, 32:], "output": model.output.weight[48:],
             "norm": model.norm.weight}
    for name, want in wants.items():
        assert torch.equal(second[name + ".weight"], want), name
    assert os.path.getsize(tmp_path / "consolidated.01.pth") < 0.6 * sum(w.nbytes for w in model.parameters())


def test_published_params_json_gives_no_vocabulary(tmp_path):
    model = rough_weights(Transformer(CONFIG))
    save_meta(model, tmp_path, 2)
    forget_hashes(tmp_path)
    part = torch.load(tmp_path / "consolidated.00.pth", weights_only=True)
    torch.save(part | {"rope.freqs": torch.ones(4)}, tmp_path / "consolidated.00.pth")
    edit(tmp_path / "params.json", lambda p: p.update(vocab_size=-1))
    assert load_meta(tmp_path).config.vocab_size == 96


def test_meta_and_hf_folders_give_the_same_model(tmp_path, model):
    save_meta(model, tmp_path / "meta", 2)
    save_hf(load_meta(tmp_path / "meta"), tmp_path / "hf")
    assert same(load_hf(tmp_path / "hf"), model)


# -------------------------------------------------------------------------------------------------------------- conversion

SEVENTY = ModelConfig(dim=128, n_layers=80, n_heads=64, n_kv_heads=8, vocab_size=320, multiple_of=64,
                      ffn_dim_multiplier=1.3, rope_theta=10000.0, max_seq_len=4096)


def test_a_model_of_seventys_shape_goes_there_and_back_to_the_bit(tmp_path):
    model = rough_weights(Transformer(SEVENTY)).bfloat16()
    save_meta(model, tmp_path / "meta", 8)
    convert(tmp_path / "meta", tmp_path / "hf", max_shard_bytes=1_000_000)
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 10
    assert same(load_hf(tmp_path / "hf"), model)
    convert(tmp_path / "hf", tmp_path / "back", shards=8)
    assert [p.name for p in sorted((tmp_path / "back").glob("*.pth"))] == [f"consolidated.{i:02}.pth" for i in range(8)]
    back = load_meta(tmp_path / "back")
    assert same(back, model) and back.config.hidden_dim == SEVENTY.hidden_dim


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory of its own in /proc")
@pytest.mark.parametrize("way", ["hf", "meta"])
def test_conversion_needs_the_memory_of_one_file(tmp_path, way):
    config = ModelConfig(dim=512, n_layers=12, n_heads=8, n_kv_heads=8, vocab_size=512, multiple_of=64)
    model = Transformer(config)
    whole = sum(w.nbytes for w in model.parameters())
    (save_hf if way == "meta" else save_meta)(model, tmp_path / "from", **({} if way == "meta" else {"shards": 8}))
    how = {"shards": 8} if way == "meta" else {"max_shard_bytes": whole // 8}
    code = f"""
import threading
from llama2_lib.model.weights import convert
from pathlib import Path
def own():        # memory that no file stands behind
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024
convert({str(tmp_path / "from")!r}, {str(tmp_path / "out")!r}, **{how!r})      # what torch loads at first use
start, most, done = own(), [0], threading.Event()
def watch():
    while not done.wait(0.002):
        most[0] = max(most[0], own())
watcher = threading.Thread(target=watch)
watcher.start()
convert({str(tmp_path / "from")!r}, {str(tmp_path / "to")!r}, **{how!r})
done.set(); watcher.join()
print(most[0] - start)
"""
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000"}        # freed memory goes back at once
    needed = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout)
    assert whole / 16 < needed < whole / 5, f"{needed / whole:.2f} of the whole model was in memory"


def test_a_flipped_bit_is_found(tmp_path, model):
    for save, load, name in ((save_hf, load_hf, "model.safetensors"), (save_meta, load_meta, "consolidated.00.pth")):
        folder = tmp_path / name
        save(model, folder)
        assert same(load(folder), model)
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4                      # in the middle of a matrix: still a whole file of the right shapes
        (folder / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} is not what .* lists"):
            load(folder)
        forget_hashes(folder)
        assert not same(load(folder), model), "without a list nobody can know"


def test_a_file_that_the_list_forgets_is_refused(saved):
    (saved / "SHA256SUMS").write_text("")
    with pytest.raises(ValueError, match="has no hash of model.safetensors"):
        load_hf(saved)


def test_what_convert_refuses(tmp_path, saved):
    with pytest.raises(ValueError, match="it holds 0 of them"):
        convert(tmp_path, tmp_path / "to")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="to is not empty"):
        convert(saved, tmp_path / "to")
    with pytest.raises(ValueError, match="8 heads and 2 key-value heads do not divide over 4"):
        convert(saved, tmp_path / "other", shards=4)


# --------------------------------------------------------------------------------------------------------------- bad input

class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_that_carries_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_meta(Transformer(CONFIG), tmp_path)
    torch.save({"output.weight": torch.zeros(2), "x": Bomb()}, tmp_path / "consolidated.00.pth")
    with pytest.raises(ValueError, match="consolidated.00.pth holds more than tensors"):
        load_meta(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["hf", "meta"])
def test_a_cut_file_gives_one_error_with_its_name(tmp_path, model, kind, share):
    (save_hf if kind == "hf" else save_meta)(model, tmp_path)
    path = tmp_path / ("model.safetensors" if kind == "hf" else "consolidated.00.pth")
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=path.name):
        (load_hf if kind == "hf" else load_meta)(tmp_path)


def safetensors_bytes(header: dict, data: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize("content", [
    safetensors_bytes({}, b"", length=2**62),                                                    # a header beyond the file
    b"\xff" * 64,
    safetensors_bytes({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                       "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),  # overlap
    safetensors_bytes({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}, bytes(8)),    # shape beyond the data
    safetensors_bytes({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}, bytes(8)),   # offsets beyond the file
], ids=["huge header", "noise", "overlap", "shape", "offsets"])
def test_malformed_safetensors_are_refused(saved, content):
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors is not a whole safetensors file"):
        load_hf(saved)


@pytest.mark.parametrize("target", ["../outside.safetensors", "/etc/passwd", "..", "", "a\\b.safetensors", "c:x", 7])
def test_an_index_that_points_outside_is_refused(model, tmp_path, target):
    save_hf(model, tmp_path, 50_000)
    edit(tmp_path / "model.safetensors.index.json", lambda i: i["weight_map"].update({"model.norm.weight": target}))
    with pytest.raises(ValueError, match="not a file name inside the folder"):
        load_hf(tmp_path)


def test_a_missing_shard_is_named(model, tmp_path):
    save_hf(model, tmp_path, 50_000)
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    with pytest.raises(ValueError, match="model-00002-of-.*safetensors is missing"):
        load_hf(tmp_path)


def test_all_differences_are_listed_at_once(saved):
    values = load_file(saved / "model.safetensors")
    values["model.norm.bias"] = values.pop("model.norm.weight")
    values["lm_head.weight"] = values["lm_head.weight"][:50].clone()
    save_file(values, saved / "model.safetensors")
    with pytest.raises(ValueError) as error:
        load_hf(saved)
    for part in ("missing model.norm.weight [64]", "unexpected model.norm.bias [64]",
                 "lm_head.weight is [50, 64], expected [96, 64]"):
        assert part in str(error.value)


@pytest.mark.parametrize("change, message", [
    ({"num_hidden_layers": 3}, "missing model.layers.2"), ({"model_type": "mistral"}, "model_type 'mistral'"),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, "RoPE scaling 'linear'"), ({"head_dim": 16}, "head_dim"),
    ({"hidden_size": "64"}, "hidden_size '64'"), ({"num_key_value_heads": 3}, "not a multiple"),
    ({"attention_bias": True}, "attention_bias"),
])
def test_a_config_that_is_not_llama_2_is_refused(saved, change, message):
    edit(saved / "config.json", lambda c: c.update(change))
    with pytest.raises(ValueError, match=message):
        load_hf(saved)


def test_config_files_that_are_missing_or_not_json(saved):
    (saved / "config.json").write_text('{"hidden_size": 64,')
    with pytest.raises(ValueError, match="config.json is not JSON"):
        load_hf(saved)
    (saved / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        load_hf(saved)
    (saved / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json is missing"):
        load_hf(saved)


def test_meta_folders_that_do_not_fit(tmp_path):
    model = rough_weights(Transformer(CONFIG))
    with pytest.raises(ValueError, match="8 heads and 2 key-value heads do not divide over 4"):
        save_meta(Transformer(GROUPED), tmp_path, 4)
    save_meta(model, tmp_path, 4)
    (tmp_path / "consolidated.01.pth").unlink()
    with pytest.raises(ValueError, match="expected .*consolidated.01.pth"):
        load_meta(tmp_path)
    (tmp_path / "consolidated.03.pth").unlink()
    (tmp_path / "consolidated.02.pth").rename(tmp_path / "consolidated.01.pth")
    with pytest.raises(ValueError, match="consolidated.00.pth does not fit"):
        load_meta(tmp_path)
    save_meta(model, tmp_path, 2)
    forget_hashes(tmp_path)
    part = torch.load(tmp_path / "consolidated.01.pth", weights_only=True)
    torch.save(part | {"norm.weight": part["norm.weight"] + 1}, tmp_path / "consolidated.01.pth")
    with pytest.raises(ValueError, match="the files disagree on norm.weight"):
        load_meta(tmp_path)
    torch.save([1, 2], tmp_path / "consolidated.01.pth")
    with pytest.raises(ValueError, match="not a dictionary of tensors"):
        load_meta(tmp_path)
