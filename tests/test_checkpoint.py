"""Files against crashes and damage: what is written comes back to the bit, or an error names the file."""
import contextlib
import json
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from llama2_lib.config import ModelConfig, preset
from llama2_lib.model.transformer import Transformer
from llama2_lib.training import checkpoint, randomness
from llama2_lib.training.checkpoint import CorruptFile
from llama2_lib.training.launch import free_port

sys.path.insert(0, str(Path(__file__).parent))
from crash_writer import CONFIG, RUN, small_run  # noqa: E402


def flip_bit(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])


# ---------------------------------------------------------------------------------------------------------- fingerprints

def test_fingerprint_hangs_on_values_and_nothing_else():
    toy = preset("toy")
    one = checkpoint.fingerprint("pretrain", toy, 1, {"a": 1, "b": [2.5]})
    assert one == checkpoint.fingerprint("pretrain", preset("toy"), 1, {"b": [2.5], "a": 1})
    assert len({one, *(checkpoint.fingerprint(*p) for p in (
        ("sft", toy, 1, {"a": 1, "b": [2.5]}), ("pretrain", toy, 2, {"a": 1, "b": [2.5]}),
        ("pretrain", preset("small"), 1, {"a": 1, "b": [2.5]}), ("pretrain", toy, 1, {"a": 1, "b": [2.25]})))}) == 5
    with pytest.raises(TypeError, match="plain JSON types, got"):
        checkpoint.fingerprint(torch.zeros(1))


def test_fingerprint_is_the_same_in_another_process():
    """Python's own hash() of a string is not."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(checkpoint.fingerprint, ("a", 1, {"b": 2})) == checkpoint.fingerprint("a", 1, {"b": 2})


# ------------------------------------------------------------------------------------------------------------- artifacts

def counting_build(text: str = "one"):
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "words.txt").write_text(text)
        (folder / "sub" / "more.txt").write_text(text * 100)

    return build, calls


def test_an_artifact_is_built_once_and_again_for_another_key(tmp_path):
    build, calls = counting_build()
    folder = checkpoint.artifact(tmp_path / "corpus", "key-1", build)
    assert checkpoint.artifact(tmp_path / "corpus", "key-1", build) == folder and len(calls) == 1
    assert checkpoint.verify(folder) == "key-1" and (folder / "sub" / "more.txt").read_text() == "one" * 100
    build, calls = counting_build("two")
    checkpoint.artifact(tmp_path / "corpus", "key-2", build)
    assert len(calls) == 1 and (folder / "words.txt").read_text() == "two" and checkpoint.artifact_key(folder) == "key-2"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".corpus.lock", "corpus"]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "manifest", "no manifest"])
def test_a_damaged_artifact_is_built_again(tmp_path, damage):
    build, calls = counting_build()
    folder = checkpoint.artifact(tmp_path / "a", "key", build)
    file = folder / "sub" / "more.txt"
    if damage == "flip":
        flip_bit(file)
    elif damage == "cut":
        cut(file, 0.5)
    elif damage == "gone":
        file.unlink()
    elif damage == "manifest":
        cut(folder / checkpoint.MANIFEST, 0.5)
    else:
        (folder / checkpoint.MANIFEST).unlink()
    if damage == "no manifest":
        checkpoint.artifact(folder, "key", build)
    else:
        with pytest.warns(UserWarning, match="manifest.json is not readable" if damage == "manifest" else "more.txt"):
            checkpoint.artifact(folder, "key", build)
    assert len(calls) == 2 and file.read_text() == "one" * 100


def test_a_build_that_fails_leaves_the_old_artifact_and_its_training_states(tmp_path):
    build, _ = counting_build()
    folder = checkpoint.artifact(tmp_path / "a", "old", build)

    def crash(partial: Path) -> None:
        (partial / "state").mkdir()
        (partial / "state" / "step").write_text("7")
        (partial / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.artifact(folder, "new", crash)
    assert (folder / "words.txt").read_text() == "one"

    def resume(partial: Path) -> None:
        assert (partial / "state" / "step").read_text() == "7" and not (partial / "half.txt").exists()
        (partial / "done.txt").write_text("done")

    checkpoint.artifact(folder, "new", resume)
    assert sorted(p.name for p in folder.iterdir()) == ["done.txt", checkpoint.MANIFEST]


@pytest.fixture
def writers():
    """Starts crash_writer processes; they live as long as the test."""
    if os.name != "posix":
        pytest.skip("fork and kill -9 need POSIX")
    started = []

    def start() -> subprocess.Popen:
        script = Path(__file__).with_name("crash_writer.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.stdin.close()
        process.wait(timeout=20)
        process.stdout.close()


def order(writer: subprocess.Popen, line: str) -> None:
    writer.stdin.write(line + "\n")
    writer.stdin.flush()


def test_two_processes_never_build_the_same_artifact_twice(tmp_path, writers):
    pair = [writers(), writers()]
    assert [w.stdout.readline() for w in pair] == ["ready\n"] * 2
    for writer in pair:
        order(writer, f"build {tmp_path / 'a'}")
    said = [line for w in pair for line in iter(w.stdout.readline, "end\n")]
    assert said.count("built\n") == 1 and checkpoint.verify(tmp_path / "a") == "key"


# --------------------------------------------------------------------------------------------------------------- models

def test_a_model_comes_back_to_the_bit(tmp_path):
    model = Transformer(CONFIG)
    checkpoint.save_model(tmp_path / "m", model)
    back = checkpoint.load_model(tmp_path / "m")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["model.json", "weights.safetensors"]
    assert back.config == CONFIG
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.parameters(), strict=True))


@pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 0.999])
def test_every_flipped_bit_of_the_weights_is_found(tmp_path, place):
    checkpoint.save_model(tmp_path, Transformer(CONFIG))
    flip_bit(tmp_path / "weights.safetensors", place)
    with pytest.raises(CorruptFile, match="weights.safetensors is not what was written"):
        checkpoint.load_model(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_cut_weights_are_found(tmp_path, share):
    checkpoint.save_model(tmp_path, Transformer(CONFIG))
    cut(tmp_path / "weights.safetensors", share)
    with pytest.raises(CorruptFile, match=r"weights.safetensors holds \d+ bytes, \d+ were written"):
        checkpoint.load_model(tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_a_missing_file_is_named(tmp_path, name):
    checkpoint.save_model(tmp_path, Transformer(CONFIG))
    (tmp_path / name).unlink()
    with pytest.raises(CorruptFile, match=f"{name} is missing"):
        checkpoint.load_model(tmp_path)


def rewrite(folder: Path, tensors: dict) -> None:
    """Other weights with a checksum that fits: written on purpose, not damaged."""
    written = checkpoint._save_tensors(folder / "weights.safetensors", tensors)
    saved = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**saved, "weights": written}))


def test_missing_unknown_and_misshapen_tensors_are_all_listed(tmp_path):
    model = Transformer(CONFIG)
    checkpoint.save_model(tmp_path, model)
    tensors = dict(model.state_dict())
    del tensors["norm.weight"]
    tensors["extra"] = torch.zeros(1)
    tensors["output.weight"] = torch.zeros(31, 16)
    rewrite(tmp_path, tensors)
    with pytest.raises(ValueError) as error:
        checkpoint.load_model(tmp_path)
    for part in ("weights.safetensors", "norm.weight: missing", "extra: (1,) in the file, unknown here",
                 "output.weight: (31, 16) in the file, (32, 16) here"):
        assert part in str(error.value)


def test_a_huge_header_is_refused(tmp_path):
    checkpoint.save_model(tmp_path, Transformer(CONFIG))
    bad = tmp_path / "weights.safetensors"
    bad.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    saved = json.loads((tmp_path / "model.json").read_text())
    saved["weights"] = checkpoint._sync(bad)
    (tmp_path / "model.json").write_text(json.dumps(saved))
    with pytest.raises(CorruptFile, match="weights.safetensors is not a readable safetensors file"):
        checkpoint.load_model(tmp_path)


def test_a_pickle_is_refused_without_running_it(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    checkpoint.save_model(tmp_path, Transformer(CONFIG))
    torch.save({"norm.weight": Bomb()}, tmp_path / "weights.safetensors")
    saved = json.loads((tmp_path / "model.json").read_text())
    saved["weights"] = checkpoint._sync(tmp_path / "weights.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(saved))
    with pytest.raises(CorruptFile, match="not a readable safetensors"):
        checkpoint.load_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_model_config_that_is_none_is_refused_by_name(tmp_path):
    checkpoint.save_model(tmp_path, Transformer(CONFIG))
    saved = json.loads((tmp_path / "model.json").read_text())
    saved["config"]["colour"] = "red"
    (tmp_path / "model.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=r"model.json .*colour"):
        checkpoint.load_model(tmp_path)


# -------------------------------------------------------------------------------------------------------- training states

def values(model, optimizer) -> set[float]:
    found = set()
    for p in model.parameters():
        for t in (p, *optimizer.state[p].values()):
            found |= set(t.detach().unique().tolist())
    return found


def save(folder: Path, step: int, run: dict | None = None) -> Path:
    model, optimizer = small_run(step)
    state = checkpoint.TrainingState(step, {"index": step}, run or RUN, "float32", [{"step": step, "loss": 0.1 + 0.2}])
    return checkpoint.save_state(folder, model, optimizer, state)


def test_a_state_comes_back_to_the_bit(tmp_path):
    model, optimizer = small_run()
    for p in model.parameters():
        for t in (p, optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"]):
            t.data.normal_()
    state = checkpoint.TrainingState(5, {"epoch": 1}, RUN, "bfloat16", [{"loss": 0.1 + 0.2}])
    checkpoint.save_state(tmp_path, model, optimizer, state)
    drawn = (torch.rand(2), random.random(), np.random.rand(), np.random.standard_normal())
    other, fresh = small_run(1.0)
    assert checkpoint.load_state(tmp_path, other, fresh, RUN) == state
    assert torch.equal(drawn[0], torch.rand(2))
    assert drawn[1:] == (random.random(), np.random.rand(), np.random.standard_normal())
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        for field, value in optimizer.state[p].items():
            assert torch.equal(value, fresh.state[q][field]) and value.dtype == fresh.state[q][field].dtype, field


def test_the_normal_generators_spare_number_is_kept():
    """Python's and NumPy's normal draws come in pairs, and the second waits inside the generator."""
    random.gauss(0, 1), np.random.standard_normal()
    state = json.loads(json.dumps(randomness.randomness()))
    want = random.gauss(0, 1), np.random.standard_normal()
    random.seed(5), np.random.seed(5)
    randomness.set_randomness(state)
    assert (random.gauss(0, 1), np.random.standard_normal()) == want


def test_the_newest_two_states_are_kept(tmp_path):
    for step in (2, 4, 10, 6):
        save(tmp_path, step)
    assert [p.name for p in checkpoint.states(tmp_path)] == ["step-00000010", "step-00000006"]


def test_nothing_to_resume_is_none(tmp_path):
    assert checkpoint.load_state(tmp_path / "none", *small_run(), RUN) is None


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", 0.0, 0.5, 0.99, "gone"])
def test_resume_falls_back_to_the_last_complete_state_and_says_so(tmp_path, name, damage):
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    if damage == "gone":
        file.unlink()
    elif damage == "flip":
        flip_bit(file)
    else:
        cut(file, damage)
    model, optimizer = small_run(-1.0)
    with pytest.warns(UserWarning, match=r"step-00000002.*trying the training state before it"):
        state = checkpoint.load_state(tmp_path, model, optimizer, RUN)
    assert state.step == 1 and values(model, optimizer) == {1.0}


def test_if_every_state_is_damaged_it_raises(tmp_path):
    for step in (1, 2):
        cut(save(tmp_path, step) / "weights.safetensors", 0.5)
    with pytest.warns(UserWarning), pytest.raises(CorruptFile, match="none of the 2 training states"):
        checkpoint.load_state(tmp_path, *small_run(), RUN)


def test_another_run_is_refused_with_a_list_of_differences(tmp_path):
    save(tmp_path, 1, {"steps": 10, "seed": 0, "world_size": 2, "optim": {"peak_lr": 0.1, "betas": (0.9, 0.95)}})
    model, optimizer = small_run(-1.0)
    run = {"steps": 10, "seed": 1, "world_size": 1, "optim": {"peak_lr": 0.1, "betas": (0.9, 0.95)}}
    with pytest.raises(ValueError) as error:
        checkpoint.load_state(tmp_path, model, optimizer, run)
    text = str(error.value)
    assert "seed: 0 in the file, 1 here" in text and "world_size: 2 in the file, 1 here" in text and "optim" not in text
    assert values(model, optimizer) == {-1.0}, "a refused state must not be half loaded"


def test_another_shape_is_refused_before_anything_changes(tmp_path):
    save(tmp_path, 1)
    wide = Transformer(ModelConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=40, multiple_of=8, max_seq_len=8))
    before = [p.clone() for p in wide.parameters()]
    with pytest.raises(ValueError, match=r"tok_embeddings.weight.*\(32, 16\) in the file.*\(40, 16\)"):
        checkpoint.load_state(tmp_path, wide, torch.optim.AdamW(wide.parameters()), RUN)
    assert all(torch.equal(a, b) for a, b in zip(before, wide.parameters(), strict=True))


# --------------------------------------------------------------------------------------------------------------- crashes

def nothing_is_lost(folder, first, dead):
    """Whether the kill fell into a save. The last state that the dead writers finished, or `first`, must load whole."""
    finished = max([first, *(int(line) for writer in dead for line in iter(writer.stdout.readline, "end\n"))])
    half_written = any(folder.glob(".step-*.partial"))
    model, optimizer = small_run(-1.0)
    state = checkpoint.load_state(folder, model, optimizer, RUN)
    assert finished <= state.step <= finished + 1, "a finished save was lost"
    assert values(model, optimizer) == {float(state.step)} and state.loader == {"index": state.step}
    return half_written


def test_kill_9_during_saves_never_loses_the_last_complete_state(tmp_path, writers):
    """Twenty times: a process saves without a pause and is killed after a random time. What it last finished must load."""
    writer, draw, half_written = writers(), random.Random(0), 0
    assert writer.stdout.readline() == "ready\n"
    for attempt in range(20):
        order(writer, f"save {tmp_path} {attempt * 10_000}")
        numbers = sorted(int(writer.stdout.readline()) for _ in range(2))     # the pid and the first step, in either order
        child = next(n for n in numbers if n != attempt * 10_000)
        time.sleep(draw.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        half_written += nothing_is_lost(tmp_path, attempt * 10_000, [writer])
    assert half_written >= 5, f"only {half_written} of 20 kills fell into a save: the test proves little"


def test_kill_9_during_the_saves_of_two_processes_loses_nothing_either(tmp_path, writers):
    """Twenty times: two processes save their halves, and both are killed, one a little after the other."""
    pair, draw, half_written = [writers(), writers()], random.Random(1), 0
    assert [writer.stdout.readline() for writer in pair] == ["ready\n"] * 2
    for attempt in range(20):
        port = free_port()
        for rank, writer in enumerate(pair):
            order(writer, f"save {tmp_path} {attempt * 10_000} {rank} {port}")
        said = [{int(writer.stdout.readline()) for _ in range(2)} for writer in pair]      # the pid and the first step
        children = [number for numbers in said for number in numbers - {attempt * 10_000}]
        for child in draw.sample(children, 2):
            time.sleep(draw.random() * 0.03)
            with contextlib.suppress(ProcessLookupError):       # the one that is left may find its partner gone, and stop
                os.kill(child, signal.SIGKILL)
        half_written += nothing_is_lost(tmp_path, attempt * 10_000, pair)
    assert half_written >= 5, f"only {half_written} of 20 kills fell into a save: the test proves little"


def test_what_a_crash_leaves_is_swept_away_by_the_next_save(tmp_path):
    (tmp_path / ".step-00000003.partial").mkdir()
    (tmp_path / ".step-00000003.partial" / "weights.safetensors").write_bytes(b"half")
    save(tmp_path, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000004"]
