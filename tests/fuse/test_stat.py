"""The counters of a live mount: rows and text, by name, and the two that can be set."""

from __future__ import annotations

import json

import pytest

from tests.fuse.mounts import Mount
from tests.fuse.rwlab import run_hammer

pytestmark = pytest.mark.mount


@pytest.mark.parametrize("verb", ["ps", "vmstat", "tokens"])
def test_tables(mount: Mount, verb: str) -> None:
    found = json.loads(run_hammer(verb, mount.root, "--json"))
    assert isinstance(found["rows"], list)
    assert run_hammer(verb, mount.root).strip()


def test_threads_are_those_of_the_flusher(mount: Mount) -> None:
    rows = json.loads(run_hammer("ps", mount.root, "--json"))["rows"]
    assert {"hmrmaster", "hmrflush0", "hmrctl"} <= {row["comm"] for row in rows}


def test_counters_move(mount: Mount) -> None:
    before = json.loads(run_hammer("stats", mount.root, "--json"))
    for i in range(20):
        (mount.root / f"file{i}").write_bytes(b"x" * 5000)
    run_hammer("synctid", mount.root)
    after = json.loads(run_hammer("stats", mount.root, "--json"))
    assert after["flushes"] > before["flushes"]
    assert after["live_inodes"] == before["live_inodes"] + 20
    assert after["dirty_inodes"] == after["pending_records"] == 0
    assert after["failed"] is None
    for verb in ("iostats", "bstats"):
        assert set(json.loads(run_hammer(verb, mount.root, "--json"))) <= set(after)
    assert "flushes: " in run_hammer("iostats", mount.root)


def test_sysctl(mount: Mount) -> None:
    everything = json.loads(run_hammer("sysctl", mount.root, "--json"))
    assert everything["hw.ncpu"] == 1
    assert run_hammer("sysctl", mount.root, "vfs.hammer.fsync_mode=2").strip() == "vfs.hammer.fsync_mode: 2"
    below = json.loads(run_hammer("sysctl", mount.root, "vfs.hammer", "--json"))
    assert below["vfs.hammer.fsync_mode"] == 2
    assert all(name.startswith("vfs.hammer.") for name in below)


@pytest.mark.parametrize(
    ("setting", "code", "says"),
    [
        ("vfs.hammer.fsync_mode=9", 2, "no number from 0 to 4"),
        ("hw.ncpu=2", 2, "can't be set"),
        ("no.such", 1, "there is no"),
    ],
)
def test_what_sysctl_refuses(mount: Mount, setting: str, code: int, says: str) -> None:
    assert says in run_hammer("sysctl", mount.root, setting, code=code)
