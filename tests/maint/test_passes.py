"""Long passes end in good order: at a signal, when the time is over; a file keeps where they go on."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tools.passes import run_pass

STEPS = 5


class Steps:
    """A session whose verb takes some steps; a signal comes in one of them.

    Args:
        number: The signal.
    """

    place = "nowhere"

    def __init__(self, number: int | None = None) -> None:
        self._number = number
        self.starts: list[str | None] = []

    def run(self, verb: str, path: str | None = None, **args: Any) -> Any:
        """One step."""
        assert (verb, path, args["percent"]) == ("reblock", "/", 90)
        self.starts.append(args["start"])
        done = int(args["start"] or 0) + 1
        if self._number is not None and done == 3:
            os.kill(os.getpid(), self._number)
        return {"next": str(done) if done < STEPS else None, "stats": {"steps": 1}}


def words(cycle: Path | None = None, seconds: float | None = None) -> argparse.Namespace:
    return argparse.Namespace(seconds=seconds, cycle=None if cycle is None else str(cycle))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_behind_a_step(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    cycle = tmp_path / "cycle"
    try:
        found = run_pass(Steps(number), words(cycle), "reblock", "/", percent=90)
        assert signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}
    finally:
        signal.signal(number, before)
    assert (found.by, found.exit_code, found.stopped_at, found.stats) == ("interrupt", 130, "3", {"steps": 3})
    assert cycle.read_text().strip() == "3"
    again = Steps()
    found = run_pass(again, words(cycle), "reblock", "/", percent=90)
    assert again.starts == ["3", "4"]
    assert (found.by, found.exit_code, found.stopped_at) == ("", 0, None)
    assert not cycle.exists()


def test_a_signal_that_is_ignored_ends_nothing(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        found = run_pass(Steps(signal.SIGHUP), words(tmp_path / "cycle"), "reblock", "/", percent=90)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (found.by, found.stats) == ("", {"steps": STEPS})


def test_the_time_that_was_given(tmp_path: Path) -> None:
    found = run_pass(Steps(), words(tmp_path / "cycle", 0), "reblock", "/", percent=90)
    assert (found.by, found.exit_code, found.stopped_at) == ("timer", 0, "1")
