"""Two and four processes against one: the same losses, norms and weights, whatever the layout; and a run that changes it.

The processes run `processes.scenarios`, once for each number of them; the tests read what they found.
"""
from __future__ import annotations

import json
import os
from pathlib import Path

import processes
import pytest
import torch

from llama2_lib.config import ParallelConfig
from llama2_lib.training import distributed, plan
from llama2_lib.training.launch import together

pytestmark = pytest.mark.skipif(os.name != "posix", reason="gloo between processes is tested on Linux and macOS")
ONE_STEP, LATER = 1e-6, 5e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(folder) -> list[dict]:
    return together(2, processes.scenarios, str(folder))


@pytest.fixture(scope="module")
def four(folder, two) -> list[dict]:
    return together(4, processes.scenarios, str(folder))


@pytest.fixture(scope="module")
def one() -> dict:
    return processes.train()


def close(found: dict, want: dict, case: str) -> None:
    assert abs(found["losses"][0] - want["losses"][0]) <= ONE_STEP, case
    for name in ("losses", "norms"):
        assert found[name] == pytest.approx(want[name], abs=LATER), f"{case}: {name}"
    assert found["tokens"] == want["tokens"], f"{case}: was every label counted once?"
    for name, weight in want["weights"].items():
        assert torch.tensor(found["weights"][name]) == pytest.approx(torch.tensor(weight), abs=LATER), f"{case}: {name}"


@pytest.mark.parametrize("name", [*processes.LAYOUTS[2], "first"])
def test_two_processes_train_as_one_does(two, one, name):
    assert max(one["norms"]) > processes.OPTIM.clip_norm, "clipping never acted: an unequal norm would not show"
    for rank, found in enumerate(two):
        close(found[f"train {name}"], one, f"{name}, rank {rank}")
    assert two[0][f"train {name}"] == two[1][f"train {name}"], "the processes have drifted apart"


@pytest.mark.parametrize("name", processes.LAYOUTS[2])
def test_bf16_differs_from_float32_by_its_rounding_alone(two, one, name):
    """With FSDP the residual stream is bf16 as well: what may differ is the last of bf16's eight bits, relative."""
    found = two[0][f"bf16 {name}"]
    assert found != one["losses"], "bf16 was not used"
    assert found == pytest.approx(one["losses"], rel=2**-8)


@pytest.mark.parametrize("name", processes.LAYOUTS[4])
def test_four_processes_on_two_axes_train_as_one_does(four, one, name):
    close(four[0][f"train {name}"], one, name)
    assert all(found[f"train {name}"] == four[0][f"train {name}"] for found in four)


@pytest.mark.parametrize("name", processes.LAYOUTS[2])
def test_a_process_without_a_label_weighs_nothing(two, name):
    want = processes.one_sided()
    found = [t[f"one-sided {name}"] for t in two]
    assert found[0]["mine"] == (0 if processes.LAYOUTS[2][name].tensor == 1 else want["mine"])
    for f in found:
        assert f["loss"] == pytest.approx(want["loss"], abs=ONE_STEP) and f["tokens"] == want["tokens"]
        for weight, expected in zip(f["weights"].values(), want["weights"].values(), strict=True):
            assert torch.tensor(weight) == pytest.approx(torch.tensor(expected), abs=ONE_STEP)


@pytest.mark.parametrize("saved", ["fsdp", "tensor"])
def test_a_run_saved_by_two_goes_on_with_one_two_or_four(folder, two, four, saved):
    straight = two[0][f"train {saved}"]
    resumed = {1: processes.train(folder=folder / f"{saved} at 1"), 2: two[0][f"resume {saved}"],
               4: four[0][f"resume {saved}"]}
    assert resumed[2] == straight, "the same number of processes gives the same bits"
    for number in (1, 4):
        close(resumed[number], straight, f"{saved}, {number} processes")
        before = processes.SAVED
        assert resumed[number]["losses"][:before] == straight["losses"][:before], "it did not go on, it began again"


def test_weights_saved_by_two_are_read_by_one_to_the_bit(folder, two, four):
    """The states at the end, one written by two processes, one by four: pieces put together are the weights they had."""
    for found, world in ((two, 2), (four, 4)):
        for saved in ("fsdp", "tensor"):
            weights, _ = processes.read(folder / f"{saved} at {world}")
            want = found[0][f"resume {saved}"]["weights"]
            assert all(torch.equal(weights[name], torch.tensor(w)) for name, w in want.items()), (world, saved)


def test_pieces_are_written_once(folder, two):
    """Cut weights by each process, whole ones by the first alone."""
    (newest, *_) = sorted((folder / "tensor").glob("step-*"), reverse=True)
    sizes = [processes.names(newest / f"weights-{rank:05d}-of-00002.safetensors") for rank in range(2)]
    assert "layers.0.attention.wq.weight" in sizes[1] and "norm.weight" in sizes[0] and "norm.weight" not in sizes[1]


def test_what_does_not_divide_is_refused(two):
    assert two[1]["indivisible batch"] == "a batch of 3 rows cannot be cut into 2 equal parts, one a process"
    assert "n_kv_heads 1 cannot be cut into runtime.parallel.tensor 2" in two[0]["indivisible heads"]
    assert two[0]["indivisible processes"] == "2 processes are not a multiple of runtime.parallel.tensor 3"


def test_generation_from_gathered_weights_speaks_to_no_one(two):
    found = two[1]["generate"]
    assert found["gathered"]["communications"] == 0
    assert found["slow"]["communications"] == found["after"]["communications"] >= 8, "freed again, it gathers at each token"
    assert all(found[name]["tokens"] == found["plain"]["tokens"] for name in ("slow", "gathered", "after"))


def test_each_process_holds_its_half(two):
    whole = sum(p.numel() for p in processes.model().parameters())
    assert [sum(found["generate"]["held"].values()) for found in two] == [whole / 2] * 2


def test_the_first_trains_alone_with_the_threads_of_both(two):
    first, second = (found["watched"] for found in two)
    assert first["lookers"] == [[1, 2 * threads] for _, threads in [first["after"]] * 2] and second["lookers"] == []
    assert first["after"] == second["after"] and first["after"][0] == 2, "and then they are two again"
    assert (first["heard"], second["heard"]) == ("Stopped()", "RuntimeError('the first process stopped: Stopped: ')")


def test_a_process_that_trains_alone_has_no_tensor_axis():
    with pytest.raises(ValueError, match=r"parallel\.tensor is 2, but with parallel\.together=False"):
        ParallelConfig(tensor=2, together=False)


@pytest.mark.parametrize("name", ["fsdp", "tensor", "first"])
def test_ppo_learns_as_on_one_process(two, tmp_path, name):
    want = processes.paid(tmp_path)
    for found in (t[f"paid {name}"] for t in two):
        for record, expected in zip(found["history"], want["history"], strict=True):
            assert record == pytest.approx(expected, abs=1e-4, nan_ok=True)
        for weight, expected in zip(found["weights"].values(), want["weights"].values(), strict=True):
            assert torch.tensor(weight) == pytest.approx(torch.tensor(expected), abs=1e-5)


def test_work_is_divided_and_equal_items_stay_together(two):
    want = ["A0", "B0", "C0", "A1", "B1", "C1", "A2"]
    assert [found["sampled"]["letters"] for found in two] == [want, want], "in order, and equals counted as by one process"
    assert [found["sampled"]["seen"] for found in two] == [[["a", "c", "a", "c", "a"], ["a"]], [["b", "b"]]]
    assert [found["sampled"]["few"] for found in two] == [["A0"], ["A0"]], "a process without work gets the result too"


def test_a_process_alone_can_work_in_the_parts_of_two(two, monkeypatch):
    distributed.start(parts=2)
    try:
        alone = processes.sampled()
    finally:
        distributed.stop()
    assert alone["letters"] == two[0]["sampled"]["letters"]
    assert sorted(alone["seen"]) == sorted(two[0]["sampled"]["seen"] + two[1]["sampled"]["seen"])
    assert len(processes.sampled()["seen"]) == 2, "and then again as a whole"
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"runtime\.parts is for a process alone, got 2"):
        distributed.start(parts=2)


def test_replies_are_those_of_one_process(two):
    """The second of two equal prompts has a sample of its own; rounding did not turn a token here."""
    want = json.loads(json.dumps(processes.sampled()["drawn"]))
    assert [found["sampled"]["drawn"] for found in two] == [want, want]
    greedy, drawn = want
    assert greedy[:3] == greedy[3:] and drawn[:3] != drawn[3:]


def test_models_go_to_the_device_that_computes(monkeypatch):
    """Alone a stage trains where it samples; in a group training spreads what lies on the host."""
    monkeypatch.setattr(distributed, "device", lambda: torch.device("meta"))
    assert distributed.for_training(processes.model()).output.weight.is_meta
    assert distributed.for_sampling(processes.model()).output.weight.is_meta
    monkeypatch.setattr(distributed, "grouped", lambda: True)
    assert not distributed.for_training(processes.model()).output.weight.is_meta
    assert distributed.for_sampling(processes.model()).output.weight.is_meta


def test_the_first_process_writes_artifacts(two):
    first, second = (found["artifact"] for found in two)
    assert len(first["built"]) == 2 and first["built"][1] == "alone", "built together once, and once by the first alone"
    assert len(second["built"]) == 1 and first["rank"] == second["rank"] == "0"
    assert not second["scratch"], "what the others write is thrown away"


@pytest.mark.parametrize("name", processes.LAYOUTS[2])
def test_a_dry_run_foresees_the_memory_of_a_step(two, name):
    parallel = processes.LAYOUTS[2][name]
    with plan.cluster(2, parallel.tensor) as layout:
        want = plan.trace(processes.LARGER, parallel, layout, 4, 64, torch.float32).total
    assert [found[f"bytes {name}"] for found in two] == pytest.approx([want, want], rel=0.1)


def test_one_process_is_left_alone():
    model = processes.model()
    with distributed.worker(model, processes.runtime(ParallelConfig(tensor=8)), torch.float32) as (worker, layout):
        assert worker is model and layout == distributed.ALONE
