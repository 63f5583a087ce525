"""The arithmetic of benchmarks/gpu.py by hand, its steps on a CPU against the library, and what it says without a GPU."""
import json
import subprocess
import sys

import pytest
import torch

from benchmarks import gpu
from llama2_lib.config import ModelConfig
from llama2_lib.model.generation import generate

TINY = ModelConfig(dim=16, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=40, multiple_of=8, max_seq_len=512)


def test_mfu_is_model_flops_over_the_peak():
    size = gpu.SIZES["7B"]
    found = gpu.training_record(size, rows=3, seconds=2.0, peak=400.0, matmul=300.0)
    assert found["tokens_per_second"] == 3 * size.length / 2
    # 6 a weight that multiplies, 12 · layers · width · length for attention
    flops = 6 * (6_738_415_616 - 32_000 * 4096 - 65 * 4096) + 12 * 32 * 4096 * size.length
    assert found["tflops"] == pytest.approx(3 * size.length / 2 * flops / 1e12)
    assert found["mfu"] == pytest.approx(found["tflops"] / 400)
    assert found["of_matmul"] == pytest.approx(found["tflops"] / 300)
    assert gpu.training_record(size, 3, 2.0, None, None)["mfu"] is None


def test_a_decoding_step_reads_every_weight_but_the_embeddings_and_its_cache():
    config = gpu.SIZES["7B"].config
    want = 2 * (6_738_415_616 - 32_000 * 4096) + 2 * 2 * 32 * 256 * 4096
    assert gpu.read_bytes(config, 1, 256) == want
    found = gpu.decoding_record(config, 256, 0.01, 4000.0)
    assert found["tokens_per_second"] == pytest.approx(100) and found["of_bandwidth"] == pytest.approx(want / 0.01 / 4e12)


def test_sizes_are_what_they_are_called():
    counts = {name: gpu.parameter_count(size.config) for name, size in gpu.SIZES.items()}
    assert 0.1e9 < counts["100M"] < 0.15e9 and 1e9 < counts["1B"] < 1.3e9 and counts["7B"] == 6_738_415_616


@pytest.mark.parametrize(("card", "peak"), [
    ("NVIDIA H200", 989.4), ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.0),
    ("NVIDIA A100-SXM4-80GB", 312.0), ("Tesla T4", None)])
def test_the_peak_of_a_card(card, peak):
    assert gpu.peak_tflops(card) == peak


@pytest.mark.parametrize("pure", [False, True])
def test_a_training_step_learns(pure):
    torch.manual_seed(0)
    step = gpu.training_step(gpu.Size(TINY, 2, 16, pure), 2, "cpu", compiled=False)
    losses = [step().item() for _ in range(12)]
    assert losses[-1] < losses[0]


@torch.no_grad()
def test_the_fixed_step_writes_the_tokens_of_generate():
    torch.manual_seed(0)
    model = gpu.make_model(gpu.Size(TINY, 1, 16), "cpu", pure=False).eval()
    prompt = [5, 9, 1, 22]
    want = generate(model, [prompt], max_new_tokens=6, temperature=0.0, eos_id=-1).lists()[0]
    cache, token_11 = gpu.FixedCache(TINY, 16, torch.float32, "cpu"), torch.tensor([[prompt[0]]])
    step, found = gpu.greedy_step(model, token_11, cache), []
    for i in range(len(prompt) + 5):
        if i < len(prompt):
            token_11.fill_(prompt[i])
        step()
        if i >= len(prompt) - 1:
            found.append(token_11.item())
    assert found == want


def test_one_row_is_timed_without_a_graph_too():
    torch.manual_seed(0)
    found = gpu.one_row(gpu.make_model(gpu.Size(TINY, 1, 16), "cpu", pure=True), 100.0, wrap=lambda step: step)
    assert found["tokens_per_second"] > 0 and found["of_bandwidth"] == pytest.approx(found["gb_per_second"] / 100)


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 1
    assert "no GPU" in capsys.readouterr().err and not (tmp_path / "gpu.json").exists()


def test_it_needs_torch_and_numpy_alone():
    """A rented GPU comes with those: the course's other packages are hidden here, and its GPU with them."""
    hidden = ("safetensors", "tqdm", "filelock", "sentencepiece", "matplotlib", "psutil", "datasketch", "IPython")
    run = f"runpy.run_path({gpu.__file__!r}, run_name='x')"
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({hidden!r})); {run}"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_the_record_is_written_part_by_part(tmp_path, monkeypatch):
    """A part that fails loses nothing of those before it, and another card begins anew."""
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"card": "old", "train": {"1B": {}}}))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(gpu, "ceilings", lambda device: {"matmul_tflops": 700.0, "copy_gb_per_second": 4000.0})
    monkeypatch.setattr(gpu, "train", lambda name, peak, matmul: {"mfu": peak / matmul})

    def broken(name, bandwidth):
        raise RuntimeError("out of luck")
    monkeypatch.setattr(gpu, "generation", broken)
    with pytest.raises(RuntimeError):
        gpu.measure(["ceilings", "train", "generate"], ["1B"], out)
    found = json.loads(out.read_text())
    assert found["card"] == "NVIDIA H200" and found["train"] == {"1B": {"mfu": pytest.approx(989.4 / 700)}}
