"""The dry run against real steps, whole traces, and the paper's table."""
from __future__ import annotations

from dataclasses import replace

import processes
import pytest
import torch

from llama2_lib import __main__ as command
from llama2_lib.config import ParallelConfig, override, preset
from llama2_lib.training import accounting, plan

ROWS, LENGTH = 4, 64


def foreseen(parallel: ParallelConfig, gpus: int = 1) -> plan.Memory:
    with plan.cluster(gpus, parallel.tensor) as layout:
        return plan.trace(processes.LARGER, parallel, layout, ROWS, LENGTH, torch.float32)


def test_memory_of_one_process_is_what_a_real_step_needs():
    """By torch's own allocator; test_distributed.py has the same of two processes, sharded and checkpointed."""
    assert foreseen(ParallelConfig()).total == pytest.approx(processes.measured(rows=ROWS, seq_len=LENGTH), rel=0.03)


def test_the_parts_are_the_formulas():
    found = foreseen(ParallelConfig())
    want = 4 * accounting.parameter_count(processes.LARGER)
    assert (found.parameters, found.gradients) == (want, want)
    assert found.moments == pytest.approx(2 * want, rel=1e-3)       # and a count of steps for each parameter
    half = foreseen(ParallelConfig(), gpus=2)
    assert 2 * half.parameters == found.parameters and 2 * half.gradients == found.gradients


@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(checkpointing=True), ParallelConfig(tensor=2)])
def test_a_few_layers_foretell_the_rest(parallel):
    config = replace(processes.LARGER, n_layers=14)
    with plan.cluster(8, parallel.tensor) as layout:
        args = (config, parallel, layout, ROWS, LENGTH, torch.bfloat16)
        assert plan.memory(*args).total == pytest.approx(plan.trace(*args).total, rel=0.02)


def test_a_torch_without_fsdp_on_cpus_is_refused_by_name(monkeypatch):
    monkeypatch.delattr(torch.cpu.Stream, "record_event")
    with pytest.raises(ValueError, match=r"torch .* has FSDP2 for GPUs alone: .*runtime.parallel.shard=False"):
        foreseen(ParallelConfig(), gpus=2)
    assert foreseen(ParallelConfig(shard=False), gpus=2).total > 0


def test_one_process_that_trains_alone_needs_no_plan():
    recipe = override(preset("toy"), **{"runtime.parallel.together": False})
    with pytest.raises(ValueError, match=r"runtime\.parallel\.together is False"):
        plan.plan(recipe, plan.Cluster(gpus=2))


def test_the_tracker_sees_what_is_freed():
    with plan.Tracker() as tracker:
        a = torch.zeros(1000)
        b = a + 1
        assert tracker.now == 8000
        del a
        assert tracker.now == 4000
        b.untyped_storage().resize_(0)
        assert (tracker.now, tracker.peak) == (0, 8000)


def test_hours_and_carbon_come_near_table_2():
    """At the MFU that the 70B's row implies the others follow: the paper's hours are one arithmetic."""
    for name in ("7B", "70B"):
        recipe = preset(f"llama2_{name.lower()}")
        hours, watts, tonnes = accounting.TABLE_2[name]
        found = plan.Plan(recipe, plan.Cluster(mfu=0.45, watts=watts), plan.Memory(0, 0, 0, 0), 1, 1)
        assert found.gpu_hours == pytest.approx(hours, rel=0.05), name
        assert found.tonnes / found.gpu_hours == pytest.approx(tonnes / hours, rel=1e-3)


def test_the_largest_micro_batch_is_the_last_that_fits():
    assert plan._largest(lambda size: 10 * size, 45, 12) == 4
    assert plan._largest(lambda size: 10 * size, 9, 12) == 0
    assert plan._largest(lambda size: 10 * size, 1000, 12) == 12


def test_a_plan_from_the_command_line(capsys):
    settings = ["gpus=4", "tensor=2", "checkpointing=true", "memory=0.05", "pretrain.tokens=4000000", "model.n_layers=2"]
    assert command.main(["plan", "toy", *settings]) == 0
    text = capsys.readouterr().out
    assert "4 GPUs = 2 data × 2 tensor, sharded, checkpointing" in text and "fits 0.05 GiB" in text
    assert command.main(["plan", "toy", "gpus=3", "tensor=2"]) == 1
    assert "gpus 3 is not a multiple of tensor 2" in capsys.readouterr().err
    assert command.main(["plan", "toy", "gpus=4"]) == 1
    assert "not a multiple of 4 data-parallel processes" in capsys.readouterr().err
