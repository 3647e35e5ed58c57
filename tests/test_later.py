"""Tests of what is worked out beside a coroutine."""

from __future__ import annotations

import threading

import pytest

from whyfake.errors import UsageError
from whyfake.later import Later


def test_it_is_worked_out_once_whoever_asks() -> None:
    calls: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def work() -> int:
        calls.append(1)
        begun.set()
        assert go_on.wait(10)
        return 7

    later = Later(work)
    assert not calls
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(later.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert found == [7] * 4
    assert calls == [1]


def test_an_error_is_raised_to_each_who_asks() -> None:
    def work() -> int:
        raise UsageError("no regions")

    later = Later(work)
    for _ in range(2):
        with pytest.raises(UsageError, match="no regions"):
            later.get()
