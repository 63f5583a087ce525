"""The ledger: verdicts computed from intervals, nothing recorded by halves, nothing run twice, the README in step."""
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llama2_lib.config import PRESETS
from llama2_lib.course import ROOT, claims, run_claims, studies  # noqa: F401
from llama2_lib.course.claims import STUDIES, Criterion, Study


def fake(run, **fields):
    return Study(**{"id": "C99", "place": "Fig 0", "sentence": "More is more.", "criteria": (Criterion("gap", "above"),),
                    "notebook": "00_start_here", "symbol": "tests", "run": run, **fields})


@pytest.fixture
def places(monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "LEDGER", tmp_path / "claims.json")
    monkeypatch.setattr(claims, "RAW", tmp_path / "raw")
    for function, default in ((claims.raw_path, "raw"), (claims.read_raw, "raw"), (claims.run_seed, "raw"),
                              (claims.read_ledger, "claims.json"), (claims.write_ledger, "claims.json"),
                              (claims.show_claim, "claims.json")):
        monkeypatch.setattr(function, "__defaults__", (tmp_path / default,))
    return tmp_path


# --------------------------------------------------------------------------------------------------------------- verdicts

@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_the_interval_is_scipys(values):
    spread = np.std(values, ddof=1)
    low, high = claims.interval(values)
    if spread == 0:
        assert low == pytest.approx(high)
        return
    want = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=spread / np.sqrt(len(values)))
    assert (low, high) == pytest.approx(want, rel=1e-3, abs=1e-3 * spread + 1e-9)


@pytest.mark.parametrize("side, bound, values, verdict", [
    ("above", 0, [1.0, 1.1, 0.9, 1.0, 1.0], "reproduced"),
    ("above", 0, [-1.0, -1.1, -0.9, -1.0, -1.0], "reversed"),
    ("above", 0, [1.0, -1.1, 0.9, -1.0, 0.5], "not reproduced"),
    ("above", 0.99, [1.0, 1.1, 0.9, 1.0, 1.0], "not reproduced"),     # the mean is above, the interval is not
    ("below", 0, [-1.0, -1.1, -0.9, -1.0, -1.0], "reproduced"),
    ("below", 0, [1.0, 1.1, 0.9, 1.0, 1.0], "reversed"),
    ("below", 2, [1.0, 1.1, 0.9, 1.0, 1.0], "reproduced"),
    ("above", 0, [5.0], "not reproduced"),                            # one seed says nothing about spread
    ("above", 1, [1.0, 1.0, 1.0], "not reproduced"),
    ("mean at least", 0.9, [0.8, 1.0, 0.9, 0.95, 0.9], "reproduced"),
    ("mean at least", 0.92, [0.8, 1.0, 0.9, 0.95, 0.9], "not reproduced"),
    ("exactly", 3, [3.0], "reproduced"),
    ("exactly", 3, [3.0, 3.0000001], "not reproduced")])
def test_a_verdict_hangs_on_the_whole_interval(side, bound, values, verdict):
    assert claims.judge(Criterion("x", side, bound), values) == verdict


@pytest.mark.parametrize("verdicts, whole", [
    (["reproduced", "reproduced"], "reproduced"), (["reproduced", "not reproduced"], "not reproduced"),
    (["reproduced", "reversed"], "reversed"), (["not reproduced", "reversed"], "reversed")])
def test_a_claim_needs_all_its_criteria(verdicts, whole):
    assert claims.overall(verdicts) == whole


def test_a_criterion_has_a_known_side():
    with pytest.raises(ValueError, match="exactly, mean at least, got 'over'"):
        Criterion("x", "over")


# ---------------------------------------------------------------------------------------------------------------- running

def test_seeds_are_stored_at_once_and_never_run_again_and_only_whole_studies_are_recorded(places):
    calls = []

    def run(seed, preset):
        calls.append(seed)
        if seed == 3 and calls.count(3) == 1:
            raise RuntimeError("the lights went out")
        return {"gap": 1 + seed / 100}

    s = fake(run)
    failed = run_claims.run([s], None, "toy")
    assert failed == {"C99, seed 3": "RuntimeError: the lights went out"}
    assert sorted(calls) == [0, 1, 2, 3, 4] and claims.read_ledger() == {}
    assert run_claims.run([s], None, "toy") == {}
    assert sorted(calls) == [0, 1, 2, 3, 3, 4], "a finished seed was run again"
    row = claims.read_ledger()["C99"]
    assert row["seeds"] == [0, 1, 2, 3, 4] and row["values"]["gap"] == [1.0, 1.01, 1.02, 1.03, 1.04]
    assert row["verdict"] == "reproduced" and row["criteria"][0]["mean"] == pytest.approx(1.02)
    assert {"place", "sentence", "interval_kind", "notebook", "symbol", "command", "date", "code"} <= set(row)


def test_another_version_of_the_study_or_another_preset_is_run_anew(places, monkeypatch):
    claims.run_seed(fake(lambda seed, preset: {"gap": 1.0}), 0, "toy")
    assert claims.read_raw(fake(None), 0, "toy")["values"] == {"gap": 1.0}
    assert claims.read_raw(fake(None, version=2), 0, "toy") is None
    assert claims.read_raw(fake(None), 0, "small") is None and claims.read_raw(fake(None), 1, "toy") is None
    toy = PRESETS["toy"]()
    monkeypatch.setitem(PRESETS, "toy", lambda: replace(toy, gatt=replace(toy.gatt, tries=toy.gatt.tries + 1)))
    assert claims.read_raw(fake(None), 0, "toy") is None, "the result of other values was taken for this preset's"


@pytest.mark.parametrize("values, message", [
    ({"gop": 1.0}, "returns no 'gap', only gop"), ({"gap": float("nan")}, "gap is nan"),
    ({"gap": 1.0, "x": float("inf")}, "x is inf")])
def test_a_missing_or_broken_number_is_refused_and_not_stored(places, values, message):
    with pytest.raises(ValueError, match=message):
        claims.run_seed(fake(lambda seed, preset: values), 0, "toy")
    assert claims.read_raw(fake(None), 0, "toy") is None


def test_a_seed_that_another_process_runs_is_passed_over(places):
    from filelock import FileLock
    s = fake(lambda seed, preset: {"gap": 1.0})
    path = claims.raw_path("C99", 0, "toy")
    path.parent.mkdir(parents=True)
    with FileLock(f"{path}.lock"):
        assert run_claims.run_one(s, 0, "toy") == "running elsewhere"
    assert run_claims.run_one(s, 0, "toy") == "done"
    assert run_claims.run_one(s, 0, "toy") == "there"


@pytest.mark.parametrize("words, seeds", [("", None), ("0-4", (0, 1, 2, 3, 4)), ("3", (3,)), ("0,2 5-6", (0, 2, 5, 6))])
def test_seeds_are_read(words, seeds):
    assert run_claims.chosen_seeds(words) == seeds


@pytest.mark.parametrize("words", ["a", "4-0", "0-", "-1", "0..4"])
def test_odd_seeds_are_refused(words):
    with pytest.raises(ValueError):
        run_claims.chosen_seeds(words)


def test_an_unknown_claim_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no study of 'C98'; there are .*C01"):
        run_claims.chosen_claims("C01 C98")
    assert [s.id for s in run_claims.chosen_claims("C02,C01")] == ["C02", "C01"]


def test_a_claim_has_one_study():
    with pytest.raises(ValueError, match="C01 has two studies"):
        claims.study("C01")(lambda seed, preset: {})


# ---------------------------------------------------------------------------------------------------- display and records

def test_show_claim_says_plainly_that_there_is_no_record(places, capsys):
    claims.show_claim("C01")
    assert "No record yet: `make claims CLAIMS=C01`" in capsys.readouterr().out


def test_show_claim_prints_the_record(places, capsys, monkeypatch):
    s = fake(lambda seed, preset: {"gap": 1 + seed / 100, "loss": 2.0})
    monkeypatch.setitem(STUDIES, "C99", s)
    run_claims.run([s], None, "toy")
    capsys.readouterr()
    claims.show_claim("C99")
    said = capsys.readouterr().out
    assert "REPRODUCED   preset toy, 5 seeds" in said and "gap above 0: 1.020 (1.000 … 1.040)" in said and "seed 4" in said


def test_show_claim_refuses_an_unknown_claim():
    with pytest.raises(ValueError, match="no study of C98"):
        claims.show_claim("C98")


def test_every_recorded_verdict_follows_from_its_recorded_values():
    for row in claims.read_ledger().values():
        for c in row["criteria"]:
            verdict = claims.judge(Criterion(c["metric"], c["side"], c["bound"]), row["values"][c["metric"]])
            assert verdict == c["verdict"], f"{row['id']}, {c['metric']}"
        assert row["verdict"] == claims.overall([c["verdict"] for c in row["criteria"]])


def test_every_recorded_claim_still_has_the_criteria_it_was_judged_by():
    for claim, row in claims.read_ledger().items():
        s = STUDIES[claim]
        assert [(c["metric"], c["side"], c["bound"]) for c in row["criteria"]] == [
            (c.metric, c.side, c.bound) for c in s.criteria], f"{claim}: criteria changed after the record"
        assert (row["version"], tuple(row["seeds"])) == (s.version, s.seeds)


@pytest.mark.parametrize("claim", sorted(STUDIES))
def test_every_study_points_to_a_symbol_that_exists(claim):
    import importlib
    module, _, name = STUDIES[claim].symbol.rpartition(".")
    assert hasattr(importlib.import_module(module), name), STUDIES[claim].symbol


def test_uncertain_claims_get_five_seeds():
    for s in STUDIES.values():
        assert len(s.seeds) >= 5 or all(c.side == "exactly" for c in s.criteria), s.id


def test_the_readmes_table_is_in_step_with_the_ledger():
    done = subprocess.run([sys.executable, "scripts/render_claims.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_ledger_is_json_in_one_form():
    text = claims.LEDGER.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(("mean", "low", "high", "words"), [
    (0.12345, 0.1, 0.15, "0.123 (0.100 … 0.150)"),
    (19.71, 7.3, 32.1, "20 (7 … 32)"),
    (-0.00412, -0.00618, -0.00206, "-0.0041 (-0.0062 … -0.0021)"),
    (2.7e-7, 1.1e-7, 4.3e-7, "2.7e-07 (1.1e-07 … 4.3e-07)"),
    (0.1319, -0.0032, 0.2670, "0.132 (-0.003 … 0.267)"),
    (0.1, 0.0, 0.2, "0.10 (0.00 … 0.20)"),
    (4.0, 4.0, 4.0, "4"),
])
def test_a_mean_is_printed_to_two_digits_of_its_interval_s_half_width_but_never_without_its_sign(mean, low, high, words):
    assert claims.measured({"mean": mean, "interval": [low, high]}) == words
