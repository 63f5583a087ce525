"""Many processes from within one: their results in order of rank, and what happens when one of them fails."""
import os
import signal
from pathlib import Path

import pytest

from llama2_lib.training import distributed
from llama2_lib.training.launch import together

pytestmark = pytest.mark.skipif(os.name != "posix", reason="gloo between processes is tested on Linux and macOS")


def seen(word: str) -> list:
    return [word, distributed.rank(), distributed.world_size(), distributed.everyones(distributed.rank()), os.getpid()]


def one_fails(place: str) -> None:
    """The first process waits for ever; the second fails once it knows the first one's number."""
    pid = Path(place)
    if distributed.rank() == 0:
        pid.write_text(str(os.getpid()))
        distributed.wait()
        signal.pause()
    distributed.wait()
    raise ValueError("no bread")


def test_each_process_gives_its_result():
    found = together(2, seen, "hello")
    assert [f[:4] for f in found] == [["hello", 0, 2, [0, 1]], ["hello", 1, 2, [0, 1]]]
    assert len({f[4] for f in found} | {os.getpid()}) == 3


def test_one_process_forms_no_group():
    assert [f[:4] for f in together(1, seen, "alone")] == [["alone", 0, 1, [0]]]


def test_a_process_that_fails_stops_the_others(tmp_path):
    place = tmp_path / "pid"
    with pytest.raises(RuntimeError, match="process 1 of 2 ended with 1:[^√]*ValueError: no bread"):
        together(2, one_fails, str(place))
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


def test_no_process_is_no_run():
    with pytest.raises(ValueError, match="at least one process is needed, got 0"):
        together(0, seen, "")
