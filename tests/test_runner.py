"""`make course` on small notebooks: the table, the exit status, the pages, the estimate."""
import json
import os
import threading

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from llama2_lib.course import find_workdir, models, progress, runner, start
from llama2_lib.course.notebook_files import KERNEL, find, normalise, title_and_claim
from llama2_lib.stages import road

PARAMETERS = 'preset: str = "toy"  # recipe\nseed: int = 0  # seed'


def write(folder, name, *sources):
    cells = [new_markdown_cell("# 1 · A title\n\nThe **claim** in a [sentence](x).\n\nMore.", id="title"),
             new_code_cell(PARAMETERS, id="parameters", metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    folder.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture(scope="module")
def course_run(tmp_path_factory):
    """Two notebooks, one of which fails, run once for the tests below."""
    folder, out = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("out")
    paths = [write(folder, "01_good", "print(f'✓ seed {seed}')\nprint('✓ two')\nprint('not ✓ one')"),
             write(folder, "02_bad", "a = 1", "raise ValueError('on purpose')", "print('✓ never')")]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LLAMA2_FIGURES", raising=False)
        results = runner.run(paths, out, "toy", 3, terminal=False)
    return results, out


def test_results_count_checks_and_name_the_failed_cell(course_run):
    good, bad = course_run[0]
    assert (good.name, good.checks, good.error) == ("01_good", 2, "")
    assert (good.title, good.claim) == ("1 · A title", "The claim in a sentence.")
    assert (bad.failed_cell, bad.error, bad.checks) == ("cell-1", "ValueError: on purpose", 0)


def test_parameters_reach_the_notebook_and_pages_are_written(course_run):
    _, out = course_run
    assert "✓ seed 3" in (out / "01_good.html").read_text(encoding="utf-8")
    assert "on purpose" in (out / "02_bad.html").read_text(encoding="utf-8")
    index = (out / "index.html").read_text(encoding="utf-8")
    assert 'href="01_good.html"' in index and "failed at cell cell-1" in index and "2 checks" in index
    assert "papermill" not in (out / "01_good.ipynb").read_text(encoding="utf-8").replace("injected-parameters", "")


def test_only_notebooks_that_ran_through_are_timed(course_run):
    _, out = course_run
    assert list(json.loads((out / "seconds.json").read_text(encoding="utf-8"))["toy"]) == ["01_good"]


def test_the_table_and_the_exit_status(course_run, capsys, monkeypatch, tmp_path):
    results, _ = course_run
    monkeypatch.setattr(runner, "run", lambda *a: results)
    monkeypatch.setattr(runner, "find", lambda words: [tmp_path])
    monkeypatch.setattr(models, "build", lambda *a: built.append(a) or 1)
    built = []
    assert runner.main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("the models first") and "from start to end" in said
    assert "01_good" in said and "✗ 02_bad, cell cell-1: ValueError: on purpose" in said
    monkeypatch.setattr(runner, "run", lambda *a: results[:1])
    assert runner.main(["--out", str(tmp_path), "--notebooks", "01"]) == 0
    assert built == [("toy", 0)], "all models for all notebooks; a few notebooks build what they miss"


def test_notebooks_run_two_at_a_time(tmp_path, monkeypatch):
    wait = ("import os, time\nfrom pathlib import Path\nassert os.path.basename(os.getcwd()) == 'nb'\n"
            "assert int(os.environ['OMP_NUM_THREADS']) == max(1, os.cpu_count() // 2)\n"
            "Path('{}').touch()\nwhile not Path('{}').exists(): time.sleep(0.05)")
    a, b = tmp_path / "a", tmp_path / "b"
    paths = [write(tmp_path / "nb", "01_one", wait.format(a, b)), write(tmp_path / "nb", "02_two", wait.format(b, a))]
    before = os.getcwd()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    results = runner.run(paths, tmp_path / "out", "toy", 0, terminal=False, at_once=2)
    assert os.getcwd() == before
    assert [(r.name, r.error) for r in results] == [("01_one", ""), ("02_two", "")], "each waits for the other"


def test_the_longest_notebooks_begin(tmp_path, monkeypatch):
    seconds, both = {"01_short": 1.0, "02_long": 9.0, "03_longer": 10.0}, threading.Barrier(2)
    began = []

    def execute(path, *_):
        began.append(path.stem)
        if path.stem == "01_short":
            assert len(began) == 3, "it began before the others were under way"
        else:
            both.wait(10)
        return runner.Result(path.stem, 1.0, 1, 0)
    monkeypatch.setattr(runner, "expected_seconds", lambda *_: seconds)
    monkeypatch.setattr(runner, "execute", execute)
    results = runner.run([write(tmp_path, name, "1") for name in seconds], tmp_path / "out", "toy", 0, False, at_once=2)
    assert [result.name for result in results] == list(seconds)


def test_models_are_built_by_as_many_processes_as_pay(monkeypatch):
    monkeypatch.setattr(models.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(models.os, "cpu_count", lambda: 1)
    assert models.processes() == 1 and models.command("toy", 3, 1)[1:] == ["-m", "llama2_lib", "all", "toy", "seed=3"]
    monkeypatch.setattr(models.os, "cpu_count", lambda: 2)
    assert models.processes() == (2 if models.os.name == "posix" else 1)
    assert {"--nproc-per-node=2", "runtime.parallel.together=false"} <= set(models.command("toy", 0, 2))
    assert "all" in road.STAGES
    monkeypatch.setattr(models.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(models.torch.cuda, "device_count", lambda: 8)
    assert models.processes() == 8 and "runtime.parallel.together=false" not in models.command("small", 0, 8)


def test_a_parameter_that_the_notebook_does_not_have_is_refused(tmp_path):
    path = write(tmp_path / "nb", "01_good", "1")
    with pytest.raises(ValueError, match="01_good.ipynb has no parameter called sead"):
        runner.execute(path, tmp_path / "out", {"preset": "toy", "sead": 1})


def test_a_kernel_that_dies_is_a_failure_with_a_cell(tmp_path):
    path = write(tmp_path / "nb", "01_dead", "import os\nos._exit(3)")
    result = runner.execute(path, tmp_path / "out", {})
    assert result.failed_cell == "cell-0" and "DeadKernelError" in result.error


@pytest.mark.parametrize("arguments", [["--preset", "huge"], ["--seed", "x"], ["--notebooks", "99"]])
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        runner.main(arguments)
    assert stop.value.code == 2


def test_notebooks_are_found_by_the_beginning_of_their_names(tmp_path):
    for name in ("00_a", "01_b", "03_c"):
        write(tmp_path, name)
    assert [p.stem for p in find("", tmp_path)] == ["00_a", "01_b", "03_c"]
    assert [p.stem for p in find("03,00", tmp_path)] == ["00_a", "03_c"]
    with pytest.raises(ValueError, match="no notebook begins with '02'; there are 00_a, 01_b, 03_c"):
        find("02", tmp_path)


# --------------------------------------------------------------------------------------------------------------- progress

def test_the_estimate_is_the_last_run_here_else_the_authors_record_else_a_guess(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "RECORD", tmp_path / "record.json")
    progress.RECORD.write_text('{"toy": {"01_a": 10, "02_b": 20}, "small": {"03_c": 900}}')
    progress.record_seconds({"02_b": 33.333}, tmp_path / "here.json", "toy")
    progress.record_seconds({"04_d": 5.0}, tmp_path / "here.json", "small")
    expected = progress.expected_seconds(["01_a", "02_b", "03_c"], tmp_path / "here.json", "toy")
    assert expected == {"01_a": 10.0, "02_b": 33.3, "03_c": progress.GUESS}
    progress.RECORD.write_text('{"toy": {"models": 1170}}')
    assert progress.models_take("toy") == "; from nothing they take about 20 minutes on two cores"
    assert progress.models_take("small") == ""


def test_the_time_left_falls_and_follows_the_pace():
    with progress.Countdown({"a": 10.0, "b": 40.0}, terminal=False) as countdown:
        assert countdown.words() == "about 50 s left"
        countdown.start("a")
        countdown.finish("a", 20.0)                      # half as fast as expected: half of that is believed
        assert countdown.seconds_left() == pytest.approx(60.0)
        countdown.start("b")
        countdown.began["b"] -= 30.0
        assert countdown.seconds_left() == pytest.approx(30.0, abs=1.0)
        countdown.began["b"] -= 1e6                      # an overrun is never below zero
        assert 0 <= countdown.seconds_left() < 5
        assert countdown.words() == "about 2 s left"


def test_two_at_a_time_need_half_the_time_but_never_less_than_the_longest():
    with progress.Countdown({"a": 10.0, "b": 10.0, "c": 30.0}, terminal=False, at_once=2) as countdown:
        assert countdown.seconds_left() == pytest.approx(30.0)
        countdown.start("a")
        countdown.start("b")
        countdown.finish("b", 10.0)
        assert countdown.seconds_left() == pytest.approx(30.0, abs=0.5) and list(countdown.began) == ["a"]


# ---------------------------------------------------------------------------------------------------------------- folders

def test_each_seed_has_a_folder_of_its_own(tmp_path):
    assert find_workdir("toy").parts[-2:] == ("runs", "toy")
    assert find_workdir("toy", 3).parts[-2:] == ("runs", "toy-seed3")
    assert find_workdir("toy", 3, str(tmp_path)) == tmp_path.resolve()


def test_start_gives_the_recipe_with_the_seed(tmp_path):
    recipe, folder = start("toy", 3, str(tmp_path))
    assert (recipe.name, recipe.seed, folder) == ("toy", 3, tmp_path.resolve())
    with pytest.raises(ValueError, match="no preset"):
        start("huge")


def test_the_normal_form_folds_solutions_and_takes_ids_from_the_text():
    nb = new_notebook(cells=[new_code_cell("1", id="abcd1234", metadata={"id": "rope-table", "tags": ["solution"], "x": 1})],
                      metadata={"widgets": {}, "jupytext": {}})
    nb = normalise(nb)
    assert nb.cells[0].id == "rope-table" and set(nb.metadata) == {"kernelspec", "language_info"}
    assert nb.cells[0].metadata == {"tags": ["solution"], "jupyter": {"source_hidden": True}}
    assert normalise(nb) == nb
    assert title_and_claim(nb) == ("", "")


def test_notebooks_and_stages_agree_on_the_folder(tmp_path):
    from llama2_lib.config import override, preset
    from llama2_lib.stages import road
    for seed, folder in ((0, ""), (3, ""), (3, str(tmp_path))):
        assert find_workdir("toy", seed, folder) == road.workdir(override(preset("toy"), seed=seed), folder)
