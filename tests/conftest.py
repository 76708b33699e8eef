"""Shared rules of the suite: what a test may need, and that it may not be skipped where that exists."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.golden"]

GOLDEN_DIR = Path(__file__).resolve().parent.parent.parent / "shared" / "golden"


def pytest_configure() -> None:
    """What is started in the background of a script ignores SIGINT, and so would every program a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _missing_mount() -> str | None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not accessible"
    if importlib.util.find_spec("pyfuse3") is None:
        return "pyfuse3 is not installed"
    return None


def _missing_root() -> str | None:
    return None if os.geteuid() == 0 else "not running as root"


def _missing_golden() -> str | None:
    return None if GOLDEN_DIR.is_dir() else "the folder of golden images is absent (../shared/golden)"


NEEDS = {"mount": _missing_mount, "root": _missing_root, "golden": _missing_golden}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, a test whose marker names something this machine lacks."""
    for name, missing in NEEDS.items():
        if item.get_closest_marker(name) is not None and (reason := missing()) is not None:
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under HAMMERFS_REQUIRE_ALL a marked test may not be skipped where all it needs is there."""
    report = yield
    if os.environ.get("HAMMERFS_REQUIRE_ALL") and report.skipped and not hasattr(report, "wasxfail"):
        marked = [name for name in NEEDS if item.get_closest_marker(name) is not None]
        if marked and all(NEEDS[name]() is None for name in marked):
            report.outcome = "failed"
            report.longrepr = f"skipped although {', '.join(marked)} is available: {report.longrepr}"
    return report


@pytest.fixture
def nothing_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is done leaves no trace where it is done."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield
    assert os.listdir(here) == []
