"""The RLHF doctor: silent on a healthy run, and each disease found from the records that show it, and from no others."""
import math

import pytest

from llama2_lib.course import doctor
from llama2_lib.training import checkpoint

HEALTHY = [{"iteration": i, "score": 0.1 * i, "gold": 0.5 + 0.01 * i, "kl": 0.1 * i, "length": 20.0 + 0.2 * i,
            "entropy": 0.6 - 0.01 * i, "clipfrac": 0.02, "explained_variance": 0.02 * i} for i in range(20)]
SICK = {
    "reward hacking": lambda i: {"gold": 0.5 - 0.01 * i},
    "KL runaway": lambda i: {"kl": 1.0 * i},
    "length exploit": lambda i: {"length": 20.0 + 2 * i},
    "dead value head": lambda i: {"explained_variance": 0.0},
    "clip saturation": lambda i: {"clipfrac": 0.5},
    "entropy collapse": lambda i: {"entropy": 0.6 * 0.8**i},
}


def names(history):
    return [f.name for f in doctor.diagnose(history)]


def test_a_healthy_run_has_no_finding():
    assert names(HEALTHY) == []


@pytest.mark.parametrize("disease", SICK)
def test_each_disease_is_found_by_its_own_records_alone(disease):
    history = [{**r, **SICK[disease](r["iteration"])} for r in HEALTHY]
    (found,) = doctor.diagnose(history)
    assert found.name == disease and found.evidence and found.cure and "§" in found.place


def test_every_disease_is_tested():
    assert [name for name, *_ in doctor.DISEASES] == list(SICK)


def test_without_gold_hacking_cannot_be_seen_but_its_shadows_can():
    history = [{k: v for k, v in {**r, "length": 20.0 + 3 * r["iteration"]}.items() if k != "gold"} for r in HEALTHY]
    assert names(history) == ["length exploit"]


def test_a_critic_whose_variance_is_no_number_is_dead():
    assert names([{**r, "explained_variance": math.nan} for r in HEALTHY]) == ["dead value head"]


def test_gold_that_wavers_is_no_hacking():
    assert names([{**r, "gold": 0.5 - 0.01 * (r["iteration"] % 2)} for r in HEALTHY]) == []


def test_records_that_cannot_be_judged_are_named():
    with pytest.raises(ValueError, match="5 iterations are too few"):
        doctor.diagnose(HEALTHY[:5])
    with pytest.raises(ValueError, match="record 3 lacks kl"):
        doctor.diagnose([{k: v for k, v in r.items() if not (k == "kl" and r["iteration"] == 3)} for r in HEALTHY])


def test_a_metrics_file_is_read_and_a_bad_line_named(tmp_path):
    checkpoint.write_metrics(tmp_path, HEALTHY)
    assert checkpoint.read_metrics(tmp_path) == HEALTHY
    for line in ('{"iteration": 1', "[1]"):
        (tmp_path / "metrics.jsonl").write_text('{"iteration": 0}\n' + line + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match="line 2: not"):
            checkpoint.read_metrics(tmp_path)
