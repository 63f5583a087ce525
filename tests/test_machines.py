"""Notebook 13's numbers beside its pictures, by hand; the processes themselves are tested in test_distributed.py."""
import json

import pytest

from llama2_lib.analysis import scaling_out
from llama2_lib.config import preset
from llama2_lib.course import machines
from llama2_lib.training import plan
from llama2_lib.training.plan import GIB, Memory


def ranks(*losses):
    return [{"losses": list(run)} for run in losses]


def test_the_gap_of_a_layout_is_that_of_its_furthest_process():
    found = {"1": ranks((3.0, 2.0)), "2 sharded": ranks((3.0, 2.5), (3.25, 2.0))}
    assert scaling_out.gaps(found) == {"2 sharded": [0.25, 0.5]}


def test_what_is_kept_is_shared_by_more_gpus_and_the_rest_is_not():
    measured = Memory(800, 400, 1600, 70)
    assert machines.at(measured, 128, 64) == Memory(400, 200, 800, 70)


@pytest.mark.parametrize("gpus", [16, 256])
def test_that_is_what_a_trace_of_so_many_finds(gpus):
    recipe = preset("llama2_7b")
    found, want = machines.at(plan.step_memory(recipe, 64), gpus, 64), plan.step_memory(recipe, gpus)
    assert found.total == pytest.approx(want.total, rel=0.02)


def test_table_2_as_arithmetic():
    """The 7B: 6 FLOPs a weight that multiplies and 12 · 32 · 4096 · 4096 of attention, 2T tokens, in 184,320 hours."""
    flops = 2e12 * (6 * (6_738_415_616 - 32_000 * 4096 - 65 * 4096) + 12 * 32 * 4096 * 4096)
    reached = flops / 184_320 / 3600 / 1e12
    assert machines.paper_hours()[0] == ["7B", "184,320", f"{reached:.0f}", f"{reached / 312:.0%}", "3.8"]


def test_the_pictures_name_every_process():
    half = [[0, 2], [0, 4]], [[2, 4], [0, 4]]
    fig = machines.held({"copies": [{"m": [[0, 4], [0, 4]]}] * 2, "halves": [{"m": h} for h in half]}, ["m"])
    assert [t.get_text() for t in fig.axes[0].texts] == ["m", "0 1"]
    assert [t.get_text() for t in fig.axes[1].texts] == ["m", "0", "1"]
    assert [p.get_height() for p in fig.axes[1].patches] == [2, 2]


def test_the_bars_add_up():
    measured = {"7b": (preset("llama2_7b"), Memory(GIB, GIB, 2 * GIB, GIB))}
    ax = machines.memory_bars(measured, 64, 32).axes[0]
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(2 + 2 + 4 + 1)
    assert ax.texts[0].get_text().startswith("9 GiB, ")


def test_the_record_of_a_gpu_or_its_absence(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    machines.gpu_record(path)
    assert "no GPU has been measured yet" in capsys.readouterr().out
    row = {"tokens_per_second": 700.0, "gb_per_second": 1.0, "of_bandwidth": 0.625}
    path.write_text(json.dumps({
        "card": "NVIDIA H200", "torch": "2.11", "ceilings": {"matmul_tflops": 700.0},
        "train": {"1B": {"tokens_per_second": 60000.0, "tflops": 450.0, "mfu": 0.455, "of_matmul": None},
                  "7B": {"missing": "one row does not fit this card"}},
        "generate": {"1B": {"batches": [{"rows": 1, "tokens_per_second": 80.0}, {"rows": 16, "tokens_per_second": 900.0}],
                            "one_row_graph": row}}}))
    machines.gpu_record(path)
    said = capsys.readouterr().out
    assert "NVIDIA H200" in said and "46%" in said and "900" in said and "62%" in said and "7B" not in said
