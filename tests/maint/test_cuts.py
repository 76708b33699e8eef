"""Power cuts in the middle of maintenance: what is there, and what has to be seen of the past, stays exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest

from hammerfs.btree.iterate import scan
from hammerfs.changes import WriteOptions
from hammerfs.const import LOCALIZE_MISC, MAX_TID, OBJID_ROOT, PFS_DELETED, RECTYPE_PFS
from hammerfs.device.base import Device
from hammerfs.device.faulty import Crash, Journal, RecordingDevice, crash_images
from hammerfs.maint import pfs_admin, prune, reblock
from hammerfs.maint.sweep import pfs_keys
from hammerfs.ondisk.records import PfsData
from hammerfs.rw import WritableFS
from tests.enginelab import Clock, abandon, assert_sound, fresh, mount
from tests.maint.lab import churn, history, trees, verb, whole

CUTS = 25


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (prune, reblock, pfs_admin):
        monkeypatch.setattr(module, "SCANNED", 150)
        monkeypatch.setattr(module, "CHANGED", 40)
    monkeypatch.setattr(reblock, "MOVED_BYTES", 300_000)


def cut(media: Sequence[Device], work: Callable[[WritableFS], object], check: Callable[[WritableFS], object]) -> int:
    """Do something to a file system and check what a cut at any moment of it leaves."""
    journal, options = Journal(), WriteOptions(clock=Clock())
    fs = mount([RecordingDevice(device, journal) for device in media], options)
    work(fs)
    abandon(fs)
    points = [n + 1 for n, event in enumerate(journal.events) if event.kind != "mark"]
    chosen = sorted({points[-1], *Random(1).sample(points, min(CUTS, len(points)))})
    checked = 0
    for image in crash_images(journal, seed=1, crashes=tuple(Crash), cuts=chosen):
        again = mount(image.devices, options)
        try:
            check(again)
        except AssertionError as err:
            err.add_note(str(image))
            raise
        again.close()
        assert_sound(image.devices, idle=False)
        checked += 1
    return checked


def pruned(fs: WritableFS) -> None:
    whole(fs, "prune", path="/")


def moved(fs: WritableFS) -> None:
    whole(fs, "reblock", path="/")


def balanced(fs: WritableFS) -> None:
    whole(fs, "prune", path="/", everything=True)
    whole(fs, "rebalance", path="/")


@pytest.mark.parametrize(("version", "work"), [(2, moved), (7, moved), (7, pruned)])
def test_snapshots_and_the_present_survive(version: int, work: Callable[[WritableFS], None]) -> None:
    media = fresh(version)
    fs = mount(media)
    tids = history(fs, 2, per_round=20)
    if version > 2:
        points: list[int | None] = [None]
        for _ in range(3):
            points.append(int(verb(fs, "snap", path="/")["tid"], 16))
            tids = churn(fs, 2)
        points += tids
    else:
        points = [None, *tids]
    want = trees(fs, points)
    fs.close()

    def check(fs: WritableFS) -> None:
        assert trees(fs, points) == want

    assert cut(media, work, check) > CUTS


def test_a_tree_that_is_rebalanced_survives() -> None:
    media = fresh()
    fs = mount(media)
    history(fs, 3)
    churn(fs, 2)
    want = trees(fs, [None])
    fs.close()

    def check(fs: WritableFS) -> None:
        assert trees(fs, [None]) == want

    assert cut(media, balanced, check) > CUTS


@pytest.mark.parametrize(("before", "after"), [(2, 4), (3, 7), (1, 2), (6, 7)])
def test_a_version_upgrade_is_whole_or_has_not_been(before: int, after: int) -> None:
    media = fresh(before)
    fs = mount(media)
    history(fs, 2, per_round=10)
    want = trees(fs, [None])
    fs.close()
    seen: set[int] = set()

    def work(fs: WritableFS) -> None:
        verb(fs, "version-upgrade", version=after)

    def check(fs: WritableFS) -> None:
        seen.add(fs.volumes.version)
        assert trees(fs, [None]) == want
        fs.create(fs.root(), b"afterwards")

    assert cut(media, work, check) > 2
    assert seen == {before, after}


@pytest.mark.parametrize("kind", ["master", "slave"])
def test_destroying_a_pfs_harms_no_other_and_is_finished_by_a_second_try(kind: str) -> None:
    media = fresh()
    fs = mount(media)
    verb(fs, "pfs-create", path="/", link="p", slave=False, options=[])
    history(fs, 1, per_round=10)
    root = fs.root(1)
    for name in range(30):
        fs.write(fs.create(root, b"f%d" % name), 0, b"x" * 9000)
    fs.sync()
    if kind == "slave":
        verb(fs, "pfs-downgrade", path="/p")
    want = trees(fs, [None])[None]
    fs.close()
    states: set[tuple[bool, bool]] = set()

    def work(fs: WritableFS) -> None:
        whole(fs, "pfs-destroy", path="/p", unlink=True)

    def check(fs: WritableFS) -> None:
        now = trees(fs, [None])[None]
        states.add((fs.pfs.was_destroyed(1), b"/p" in now))
        if b"/p" in now:
            whole(fs, "pfs-destroy", path="/p", unlink=True)
        elm = fs.records.lookup(LOCALIZE_MISC, OBJID_ROOT, RECTYPE_PFS, 1 << 16, MAX_TID)
        assert elm is not None
        assert PfsData.decode(fs.records.payload(elm)).mirror_flags == PFS_DELETED
        assert list(scan(fs.tree, *pfs_keys(1))) == []
        now = trees(fs, [None])[None]
        assert b"/p" not in now
        assert {path: node for path, node in now.items() if path != b"/p"} == {
            path: node for path, node in want.items() if path != b"/p"
        }

    assert cut(media, work, check) > CUTS
    assert states >= {(False, True), (True, False)}


def test_a_slave_shows_one_round_or_the_next() -> None:
    source, target = mount(fresh()), fresh()
    verb(source, "pfs-create", path="/", link="m", slave=False, options=[])
    data = source.pfs.get(1)
    shared = data.shared_uuid.hex()
    slave = mount(target)
    verb(slave, "pfs-create", path="/", link="s", slave=True, options=[f"shared-uuid={data.shared}"])
    root = source.root(1)
    ends: list[int] = []
    want: dict[int, dict[bytes, bytes]] = {}

    def round_into(fs: WritableFS) -> None:
        beg, end = (ends[-1] if ends else 0) + 1, source.sync()
        words = {"pfs": 1, "tid_end": f"0x{end:x}"}
        start = at = None
        while True:
            read = verb(source, "mirror-read", tid_beg=f"0x{beg:x}", start=start, nbytes=60_000, **words)
            if read["data"]:
                at = verb(fs, "mirror-write", shared_uuid=shared, tid_beg="0x1", data=read["data"], start=at, **words)[
                    "next"
                ]
            start = read["next"]
            if start is None:
                break
        verb(fs, "mirror-synced", pfs=1, shared_uuid=shared, tid=f"0x{end:x}")
        ends.append(end)

    def contents(fs: WritableFS, tid: int) -> dict[bytes, bytes]:
        found = {}
        for entry in fs.readdir(fs.root(1, tid)):
            inode = fs.iget(1, entry.obj_id, tid)
            found[entry.name] = fs.read(inode, 0, inode.size)
        return found

    for name in range(40):
        source.write(source.create(root, b"f%d" % name), 0, b"one" * 3000)
    round_into(slave)
    for name in range(0, 40, 3):
        source.unlink(root, b"f%d" % name)
    for name in range(1, 40, 3):
        source.write(source.lookup(root, b"f%d" % name), 0, b"two")
    slave.close()
    seen: set[int] = set()

    def check(fs: WritableFS) -> None:
        tid = fs.pfs.get(1).sync_end_tid
        seen.add(tid)
        assert contents(fs, tid) == want.setdefault(tid, contents(source, tid))

    assert cut(target, round_into, check) > CUTS
    assert seen == set(ends)
    source.close()
