"""`hammer df --history`: what it predicts is what pruning gives back, to the byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hammerfs.addr import round16
from hammerfs.btree.iterate import scan
from hammerfs.const import RECTYPE_DATA
from hammerfs.errors import UsageError
from hammerfs.fs import HammerFS
from hammerfs.keys import KEY_MAX, KEY_MIN
from hammerfs.maint import census
from hammerfs.maint.census import Census, Policy
from hammerfs.maint.prune import is_prunable, prune_ranges
from hammerfs.ondisk.node import LeafElm
from hammerfs.rw import WritableFS
from hammerfs.snapshot import Snapshot
from mkfs.cli import main as newfs
from tests.enginelab import Clock, assert_sound, fresh, mount
from tests.golden import GoldenStore
from tests.maint.lab import churn, history, verb, whole
from tools.cli import main
from tools.fsck.check import run as fsck

Out = pytest.CaptureFixture[str]
NOW = 1000.0


def counted(fs: HammerFS) -> dict[str, Any]:
    """The census of a file system."""
    found = Census(fs, Clock()() / 1_000_000)
    while found.step():
        continue
    return found.as_json()


def asked(fs: WritableFS) -> dict[str, Any]:
    """The same by the verb, slice by slice."""
    start = None
    while True:
        reply = verb(fs, "df-history", start=start, seconds=0)
        start = reply["next"]
        if start is None:
            result: dict[str, Any] = reply["result"]
            return result


# The policy


def elm(create: int, delete: int) -> LeafElm:
    return LeafElm(1, 0, create, delete, 1, 1, 0x52, 1, 0, 0, 0, 0, 0)


SNAPS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1000)), max_size=7, unique_by=lambda point: point[0])


@given(SNAPS, st.sampled_from([0, 100, 400, 900]), st.integers(1, 45), st.integers(0, 30))
def test_the_policy_is_that_of_prune_with_all_snapshots_and_without_each(
    points: list[tuple[int, int]], prune_min: int, create: int, life: int
) -> None:
    policy = Policy([Snapshot(tid, ts * 1_000_000, b"") for tid, ts in points], prune_min, NOW)

    def taken(rest: Sequence[tuple[int, float]]) -> bool:
        return is_prunable(elm(create, create + life), prune_ranges(rest, prune_min, NOW))

    now = taken(points)
    assert policy.is_prunable(create, create + life) == now
    holders = [tid for tid, _ in points if not now and taken([one for one in points if one[0] != tid])]
    holder = policy.holder(create, create + life)
    assert holders == ([] if holder is None or now else [holder])


# Predictions, and what comes true


def three_snapshots(media: Sequence[Any], *, pfs: bool = False) -> list[int]:
    """Files with history around four snapshots; the TIDs of the snapshots."""
    fs = mount(media)
    history(fs, 2, per_round=12)
    tids = []
    for number in range(4):
        tids.append(int(verb(fs, "snap", path="/", label=f"s{number}")["tid"], 16))
        churn_twice(fs, number)
    churn(fs, 2)
    if pfs:
        verb(fs, "pfs-create", path="/", link="p", slave=False, options=[])
        for number in range(4):
            pfs_round(fs, number)
    fs.close()
    return tids


def pfs_round(fs: WritableFS, number: int) -> None:
    root = fs.root(1)
    for name in range(6):
        fs.write(fs.create(root, b"f%d.%d" % (number, name)), 0, Random(name).randbytes(5000))
    fs.sync()
    for name in range(3):
        fs.unlink(root, b"f%d.%d" % (number, name))
    fs.sync()
    if number:
        fs.unlink(root, b"f%d.3" % (number - 1))
    verb(fs, "snap", path="/p", label=f"p{number}")


def churn_twice(fs: WritableFS, number: int) -> None:
    churn(fs, 2)
    directory = fs.mkdir(fs.root(), b"more%d" % number)
    for name in range(10):
        fs.write(fs.create(directory, b"f%d" % name), 0, Random(name).randbytes(20_000))
    fs.sync()
    for name in range(0, 10, 2):
        fs.unlink(directory, b"f%d" % name)
    fs.sync()


def test_what_prune_gives_back_now_and_without_each_of_the_snapshots() -> None:
    base = fresh()
    tids = three_snapshots(base, pfs=True)
    fs = mount(base)
    want = asked(fs)
    fs.close()
    for pfs_id, path in ((0, "/"), (1, "/p")):
        found = want["pfs"][pfs_id]
        assert found["history"]["bytes"] == sum(
            [found[name]["bytes"] for name in ("reclaimable", "several", "recent")]
            + [snap["bytes"] for snap in found["snapshots"]]
        )
        assert found["reclaimable"]["records"] > 0
        for snap in found["snapshots"]:
            media = [type(base[0])(device, owns_lower=False) for device in base]
            fs = mount(media)
            now = whole(fs, "prune", path=path)
            assert now["nbytes"] == found["reclaimable"]["bytes"]
            assert now["records"] + now["entries"] == found["reclaimable"]["records"]
            verb(fs, "snaprm", path=path, tids=[snap["tid"]])
            then = whole(fs, "prune", path=path)
            assert then["nbytes"] == snap["bytes"], snap
            assert then["records"] + then["entries"] == snap["records"]
            assert counted(fs)["pfs"][pfs_id]["reclaimable"] == {"records": 0, "bytes": 0}
            fs.close()
            assert_sound(media)
    held = [snap["records"] for snap in want["pfs"][0]["snapshots"]]
    assert [int(snap["tid"], 16) for snap in want["pfs"][0]["snapshots"]] == tids
    assert held[3] == 0, "prune never looks behind the newest snapshot"
    assert any(held)


def test_recent_history_is_counted_as_prune_min_keeps_it() -> None:
    media = fresh()
    three_snapshots(media)
    fs = mount(media)
    without = asked(fs)["pfs"][0]
    verb(fs, "pfs-update", path="/", options=["prune-min=10000d"])
    with_min = asked(fs)["pfs"][0]
    assert without["reclaimable"]["records"] > with_min["reclaimable"]["records"] == 0
    assert with_min["recent"]["records"] == with_min["history"]["records"]
    assert whole(fs, "prune", path="/")["records"] == 0
    fs.close()


@pytest.mark.golden
def test_an_image_of_the_original(golden: GoldenStore, capsys: Out) -> None:
    image = golden.copy("maint-base")
    assert main(["-f", image.spec, "--json", "df", "--history"]) == 0
    (pfs,) = (found := json.loads(capsys.readouterr().out))["pfs"]
    assert main(["-f", image.spec, "--json", "prune", "/"]) == 0
    pruned = json.loads(capsys.readouterr().out)
    assert pruned["nbytes"] == pfs["reclaimable"]["bytes"] > 0
    assert pruned["records"] + pruned["entries"] == pfs["reclaimable"]["records"]
    assert [snap["label"] for snap in pfs["snapshots"]] == ["s0", "s2", "s4"]
    assert main(["-f", image.spec, "snaprm", "/", pfs["snapshots"][1]["tid"]]) == 0
    capsys.readouterr()
    assert main(["-f", image.spec, "--json", "prune", "/"]) == 0
    assert json.loads(capsys.readouterr().out)["nbytes"] == pfs["snapshots"][1]["bytes"] > 0
    assert found["stored"]["exact"]


# What is stored


def test_the_media_holds_what_is_said() -> None:
    media = fresh()
    three_snapshots(media)
    fs = mount(media)
    found = asked(fs)
    elms = list(scan(fs.tree, KEY_MIN, KEY_MAX))
    assert found["pfs"][0]["live"]["records"] == sum(not e.delete_tid for e in elms)
    assert found["pfs"][0]["history"]["bytes"] == sum(e.data_len for e in elms if e.delete_tid)
    assert found["stored"]["bytes"] == sum(round16(e.data_len) for e in elms)
    assert found["stored"]["history_bytes"] == sum(round16(e.data_len) for e in elms if e.delete_tid)
    space = found["space"]
    assert space["used"] + space["reserved"] + space["free"] == space["total"]
    assert found["nodes_bytes"] + found["stored"]["bytes"] + found["room_bytes"] == space["used"]
    assert found["stored"]["live_bytes"] + found["stored"]["history_bytes"] == found["stored"]["bytes"]
    whole(fs, "prune", path="/")
    after = asked(fs)
    assert found["stored"]["bytes"] - after["stored"]["bytes"] == found["stored"]["reclaimable_bytes"]
    fs.close()
    assert fsck(list(media)).nodes * 4096 == after["nodes_bytes"]


@pytest.mark.golden
def test_shared_extents_are_stored_once(golden: GoldenStore) -> None:
    with HammerFS.open(golden["dedup"].spec) as fs:
        found = counted(fs)
        elms = [e for e in scan(fs.tree, KEY_MIN, KEY_MAX) if e.data_len]
    once = {e.data_offset: round16(e.data_len) for e in elms}
    assert len(once) < len(elms)
    assert found["stored"]["bytes"] == sum(once.values())
    live = {e.data_offset for e in elms if not e.delete_tid}
    assert found["stored"]["live_bytes"] == sum(once[off] for off in live)
    assert sum(pfs["live"]["bytes"] + pfs["history"]["bytes"] for pfs in found["pfs"]) == sum(e.data_len for e in elms)


def test_what_a_live_file_shares_with_the_past_is_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    media = fresh()
    fs = mount(media)
    data = Random(1).randbytes(16384), Random(2).randbytes(3000)
    for name in (b"one", b"two"):
        directory = fs.mkdir(fs.root(), name)
        for number, contents in enumerate(data):
            fs.write(fs.create(directory, b"f%d" % number), 0, contents)
    fs.sync()
    elms = [e for e in scan(fs.tree, KEY_MIN, KEY_MAX) if e.rec_type == RECTYPE_DATA]
    pairs = [[a, b] for i, a in enumerate(elms) for b in elms[i + 1 :] if a.data_crc == b.data_crc]
    assert len(pairs) == 2

    def share(_tid: int) -> bool:
        for first, second in pairs:
            fs.alloc.add_ref(first.data_offset, first.data_len)
            fs.alloc.free(second.data_offset, second.data_len)
            fs.backend.tree.replace(second.sort_key, second._replace(data_offset=first.data_offset))
        return True

    fs.host.call(fs.flusher.transact(share))
    verb(fs, "snap", path="/")
    for number in range(2):
        fs.unlink(fs.lookup(fs.root(), b"two"), b"f%d" % number)
    fs.sync()
    verb(fs, "snap", path="/")
    found = counted(fs)
    shared = sum(round16(len(contents)) for contents in data)
    assert found["stored"]["exact"]
    assert found["pfs"][0]["history"]["bytes"] >= shared
    assert found["stored"]["history_bytes"] < 3000, "the live files refer to the same extents"
    monkeypatch.setattr(census, "_SMALL_BLOCKS", 0)
    rough = counted(fs)
    assert not rough["stored"]["exact"]
    assert rough["stored"]["bytes"] == found["stored"]["bytes"] + round16(3000)
    fs.close()


# Slices


def test_who_is_overtaken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "SCANNED", 20)
    fs = mount(fresh())
    history(fs, 2, per_round=10)
    one = verb(fs, "df-history", seconds=0)
    two = verb(fs, "df-history", seconds=0)
    with pytest.raises(UsageError, match="somebody else has asked since: begin again"):
        verb(fs, "df-history", start=one["next"], seconds=0)
    result = verb(fs, "df-history", start=two["next"], seconds=60)["result"]
    assert result == asked(fs)
    fs.close()


def test_text_and_json(tmp_path: Path, capsys: Out) -> None:
    image = str(tmp_path / "image")
    assert newfs(["-f", "-u", "8m", "-L", "T\x1b\nX", "--size", "200m", "--quiet", image]) == 0
    with WritableFS.open_rw(image) as fs:
        history(fs, 1, per_round=5)
        verb(fs, "snap", path="/", label="a\nb\x1b[31m")
    assert main(["-f", image, "df"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["Size", "Used", "Reserved", "Free", "Available", "Mounted", "on"]
    assert row.split()[0] == "192.00MB"
    assert row.endswith("  not mounted")
    assert main(["-f", image, "df", "--history"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "PFS 0 T\\x1b\\x0aX\n" in text
    assert (
        len([line for line in text.splitlines() if "held only by 0x" in line and line.endswith("a\\x0ab\\x1b[31m")])
        == 1
    )
    assert main(["-f", image, "--json", "df", "--history"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"space", "pfs", "stored", "nodes_bytes", "room_bytes"}
    assert found["pfs"][0]["snapshots"][0]["label"] == "a\nb\x1b[31m"
    assert main(["-f", image, "--json", "df"]) == 0
    assert json.loads(capsys.readouterr().out) == found["space"]
