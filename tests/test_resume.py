"""A run that was stopped and one that was not give the same bits: losses, weights, data order, randomness, records."""
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llama2_lib.config import ModelConfig, OptimConfig, RuntimeConfig
from llama2_lib.model.transformer import Transformer
from llama2_lib.text.batching import Batch, Loader, Windows
from llama2_lib.training import checkpoint, trainer

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=61, multiple_of=16, max_seq_len=16)
OPTIM = OptimConfig(peak_lr=3e-3, warmup_steps=3)
STEPS = 9
MEASURED = ("seconds", "tokens_per_second")     # the only entries of a record that a clock decides


def noisy_loss(model, batch):
    """Cross-entropy of inputs with random dropouts: a generator that is not restored shows at once."""
    keep = torch.rand(batch.tokens_BT.shape) > 0.1
    logits_BTV = model(torch.where(keep, batch.tokens_BT, 0)).float()
    return F.cross_entropy(logits_BTV.transpose(1, 2), batch.labels_BT), {"kept": keep.float().mean()}


class Stopped(Exception):
    pass


def run(folder=None, stop_after: int | None = None, *, precision: str = "float32", **kwargs):
    """(records, weights) of a run whose rows (37, 4 at a time) cross epochs; it breaks off after `stop_after` steps."""
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    stream = np.random.default_rng(1).integers(0, 61, 37 * 16 + 1)

    def stop(step: int, record: dict) -> None:
        if step == stop_after:
            raise Stopped

    settings = {"runtime": RuntimeConfig(precision=precision), "seed": 5, "micro_batches": 2,
                "save_every": 2 if folder else None, **kwargs}
    history = trainer.fit(model, Loader(Windows(stream, 16), 4, seed=2), noisy_loss, OPTIM, STEPS, folder=folder,
                          on_step=stop, **settings)
    records = [{k: v for k, v in r.items() if k not in MEASURED} for r in history]
    return records, [p.detach().clone() for p in model.parameters()]


def same(a, b) -> bool:
    return a[0] == b[0] and all(torch.equal(p, q) for p, q in zip(a[1], b[1], strict=True))


@pytest.fixture(scope="module")
def straight():
    return run()


@pytest.mark.parametrize("stop_after", [3, 4, 7, 8])
def test_resume_is_bit_equal_from_any_step(tmp_path, straight, stop_after):
    with pytest.raises(Stopped):
        run(tmp_path, stop_after)
    torch.manual_seed(99)                     # whatever the new process's generators hold
    assert same(run(tmp_path), straight)
    assert checkpoint.states(tmp_path)[0].name == "step-00000009", "the end of a run is saved as well"


def test_stopping_again_and_again_changes_nothing(tmp_path, straight):
    for stop_after in (3, 5, 5, 7):
        with pytest.raises(Stopped):
            run(tmp_path, stop_after)
    assert same(run(tmp_path), straight)


def test_saving_changes_nothing(tmp_path, straight):
    assert same(run(tmp_path), straight)


def test_a_finished_run_trains_no_further(tmp_path, straight):
    run(tmp_path)
    assert same(run(tmp_path), straight)


def test_bfloat16_resumes_bit_equal_too(tmp_path):
    want = run(precision="bfloat16")
    with pytest.raises(Stopped):
        run(tmp_path, 5, precision="bfloat16")
    assert same(run(tmp_path, precision="bfloat16"), want)


def test_the_checkpoints_arithmetic_wins(tmp_path, straight):
    """A machine that would have chosen bfloat16 goes on in the float32 the run began with."""
    with pytest.raises(Stopped):
        run(tmp_path, 5)
    assert same(run(tmp_path, precision="bfloat16"), straight)


def test_a_damaged_newest_state_costs_steps_but_not_bits(tmp_path, straight):
    with pytest.raises(Stopped):
        run(tmp_path, 7)
    newest, before = checkpoint.states(tmp_path)
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="trying the training state before it"):
        assert same(run(tmp_path), straight)
    assert before.name == "step-00000004"


@pytest.mark.parametrize(("change", "message"), [
    ({"seed": 6}, "seed: 5 in the file, 6 here"), ({"micro_batches": 1}, "micro_batches: 2 in the file, 1 here")])
def test_a_state_of_another_run_is_refused(tmp_path, change, message):
    with pytest.raises(Stopped):
        run(tmp_path, 3)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **change)


def test_other_data_is_refused(tmp_path):
    torch.manual_seed(0)
    for length in (40, 41):
        loader = Loader(Windows(np.arange(length * 16 + 1) % 61, 16), 4, seed=2)
        if length == 40:
            trainer.fit(Transformer(CONFIG), loader, noisy_loss, OPTIM, 2, folder=tmp_path)
    with pytest.raises(ValueError, match="the loader cannot resume: rows was 40, is 41"):
        trainer.fit(Transformer(CONFIG), loader, noisy_loss, OPTIM, 2, folder=tmp_path)


def test_a_new_process_goes_on_with_the_same_bits(tmp_path, straight):
    """The same again with a process that really ends, and another that reads its files."""
    code = "import test_resume as t, sys; t.run(sys.argv[1], int(sys.argv[2]))"
    here = Path(__file__).parent
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path), "6"], capture_output=True, text=True,
                           env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"})
    assert ended.returncode == 1 and "Stopped" in ended.stderr, ended.stderr
    assert same(run(tmp_path), straight)


def test_an_endless_loader_without_a_state_needs_no_folder():
    ids = torch.arange(17)[None] % 61
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(1, 16, dtype=torch.bool))
    history = trainer.fit(Transformer(CONFIG), itertools.repeat(batch), noisy_loss, OPTIM, 2,
                          runtime=RuntimeConfig(precision="float32"))
    assert len(history) == 2
