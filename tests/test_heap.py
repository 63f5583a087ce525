"""Malloc's thresholds: taken by glibc, left alone elsewhere, and set once."""
import platform

import pytest

from llama2_lib.training import heap


@pytest.fixture(autouse=True)
def fresh():
    heap.keep_freed_memory.cache_clear()
    yield
    heap.keep_freed_memory.cache_clear()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc here")
def test_glibc_takes_both_settings():
    assert heap.keep_freed_memory() is True


def test_a_setting_that_malloc_refuses_is_reported(monkeypatch):
    class Refuses:
        def __init__(self, _):
            self.mallopt = lambda name, value: int(name != heap.M_TRIM_THRESHOLD)

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.40"))
    monkeypatch.setattr(heap.ctypes, "CDLL", Refuses)
    assert heap.keep_freed_memory() is False


def test_nothing_is_touched_without_glibc(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(heap.ctypes, "CDLL", None)              # a call would fail
    assert heap.keep_freed_memory() is False
