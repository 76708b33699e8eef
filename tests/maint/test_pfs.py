"""PFSs: made, changed, upgraded, downgraded and destroyed; what is in them, and their history, stays what it was."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hammerfs.addr import localize
from hammerfs.btree.iterate import scan
from hammerfs.const import LOCALIZE_INODE, OBJID_ROOT, RECTYPE_INODE
from hammerfs.errors import BusyError, ExistsError, HammerError, InvalidError, NotFound, ReadOnlyError, UsageError
from hammerfs.fs import HammerFS
from hammerfs.inode import DIRTY_ATIME
from hammerfs.maint import pfs_admin
from hammerfs.maint.sweep import pfs_keys
from hammerfs.rw import WritableFS
from tests.enginelab import assert_sound, fresh, mount, tree
from tests.golden import GoldenImage, GoldenStore
from tests.maint.lab import entry_texts, verb, whole
from tools.cli import main
from tools.fsck.check import check

Out = pytest.CaptureFixture[str]
FIRST_SYNC, SECOND_SYNC = "0x00000001000200b0", "0x00000001000381f0"
IGNORED = frozenset({"atime_us", "st_mtime_us"})
"""A slave is seen in the past, where all times are the ctime; the master it becomes is not."""
SHARED = "9ef78e50-ec06-794e-a60b-62dda7d04bde"


def entries(found: list[dict[str, Any]]) -> list[str]:
    return entry_texts(found, IGNORED)


def seen(image: GoldenImage, root: str, out: Out) -> list[str]:
    assert main(["-f", image.spec, "manifest", "--root", root]) == 0
    return entries(json.loads(out.readouterr().out)["trees"][root])


def sound(image: GoldenImage) -> None:
    assert [f for f in check(image.spec, data=True) if f.is_error] == []


def made(fs: WritableFS, name: str, *, slave: bool = False, **options: str) -> int:
    words = [f"{key.replace('_', '-')}={value}" for key, value in options.items()]
    reply = verb(fs, "pfs-create", path="/", link=name, slave=slave, options=words)
    return int(reply["pfs"])


# Images of the original


@pytest.mark.golden
@pytest.mark.parametrize("sync", [FIRST_SYNC, SECOND_SYNC])
def test_an_upgraded_slave_is_what_it_was_at_its_synchronisation_point(
    golden: GoldenStore, capsys: Out, sync: str
) -> None:
    image = golden.copy("pfs-mirror")
    recorded = image.manifest["trees"]
    want = recorded["/s1/"] if sync == SECOND_SYNC else recorded[f"/@@{FIRST_SYNC}:00003"]
    assert main(["-f", image.spec, "pfs-update", "/s1", f"sync-end-tid={sync}"]) == 0
    assert main(["-f", image.spec, "pfs-upgrade", "/s1"]) == 0
    assert "pfs-upgrade of PFS#3 () succeeded\n" in capsys.readouterr().out
    assert seen(image, "/s1/", capsys) == entries(want)
    assert seen(image, f"/@@{FIRST_SYNC}:00003", capsys) == entries(recorded[f"/@@{FIRST_SYNC}:00003"])
    sound(image)
    with WritableFS.open_rw(image.spec) as fs:
        inode = fs.create(fs.root(3), b"written by a master")
        fs.write(inode, 0, b"now")
    sound(image)


@pytest.mark.golden
def test_a_downgraded_master_stays_as_it_is(golden: GoldenStore, capsys: Out) -> None:
    image = golden.copy("pfs-mirror")
    before = seen(image, "/m1/", capsys)
    assert main(["-f", image.spec, "pfs-downgrade", "/m1"]) == 0
    assert capsys.readouterr().out == "pfs-downgrade of PFS#1 (master-one) succeeded\n"
    assert seen(image, "/m1/", capsys) == before
    with WritableFS.open_rw(image.spec) as fs, pytest.raises(ReadOnlyError):
        fs.create(fs.root(1), b"x")
    sound(image)


@pytest.mark.golden
def test_a_destroyed_pfs_leaves_nothing_but_its_record(golden: GoldenStore, capsys: Out) -> None:
    image = golden.copy("pfs-mirror")
    others = {root: seen(image, root, capsys) for root in ("/m2/", "/s1/")}
    free = HammerFS.open(image.spec)
    inodes_before = free.volumes.superblock.vol0_stat_inodes
    free.close()
    assert main(["-f", image.spec, "-y", "pfs-destroy", "/m1"]) == 0
    assert capsys.readouterr().out == "pfs-destroy of PFS#1 succeeded!\n"
    with HammerFS.open(image.spec) as fs:
        assert list(scan(fs.tree, *pfs_keys(1))) == []
        assert fs.volumes.superblock.vol0_stat_inodes < inodes_before
        assert [pfs_id for pfs_id, _ in fs.pfs_list()] == [0, 2, 3]
        with pytest.raises(NotFound):
            fs.resolve(b"/m1", follow=False)
    assert {root: seen(image, root, capsys) for root in others} == others
    sound(image)
    assert main(["-f", image.spec, "--json", "pfs-master", "/again"]) == 0
    assert json.loads(capsys.readouterr().out)["pfs"] == 1
    sound(image)


@pytest.mark.golden
def test_status_of_recorded_pfss(golden: GoldenStore, capsys: Out) -> None:
    image = golden["pfs-mirror"]
    assert main(["-f", image.spec, "pfs-status", "3"]) == 0
    text = capsys.readouterr().out
    assert f"    sync-end-tid={SECOND_SYNC}\n    shared-uuid={SHARED}\n" in text
    assert "    operating as a SLAVE\n" in text


# Images made here


def test_masters_have_trees_of_their_own() -> None:
    media = fresh()
    fs = mount(media)
    one, two = made(fs, "one", label="first"), made(fs, "two")
    assert (one, two) == (1, 2)
    for pfs_id in (one, two):
        root = fs.root(pfs_id)
        assert root.obj_id == OBJID_ROOT
        fs.write(fs.create(root, b"f"), 0, b"in %d" % pfs_id)
    fs.sync()
    assert fs.readlink(fs.resolve(b"/one", follow=False)) == b"@@-1:00001"
    assert fs.read(fs.resolve(b"/two/f"), 0, 10) == b"in 2"
    assert fs.pfs.get(1).label_text == b"first"
    with pytest.raises(ExistsError):
        made(fs, "one")
    fs.close()
    assert_sound(media)
    again = mount(media)
    assert again.read(again.resolve(b"/one/f"), 0, 10) == b"in 1"
    lo = localize(1, LOCALIZE_INODE)
    assert again.records.lookup(lo, OBJID_ROOT, RECTYPE_INODE, 0, 0xFFFFFFFFFFFFFFFF) is not None
    again.close()


def test_a_slave_is_empty_and_takes_no_writes() -> None:
    media = fresh()
    fs = mount(media)
    with pytest.raises(UsageError, match="shared-uuid"):
        made(fs, "s", slave=True)
    pfs_id = made(fs, "s", slave=True, shared_uuid=SHARED)
    data = fs.pfs.get(pfs_id)
    assert (data.is_slave, str(data.shared), data.sync_beg_tid, data.sync_end_tid) == (True, SHARED, 1, 1)
    with pytest.raises(NotFound):
        fs.resolve(b"/s/.")
    assert verb(fs, "pfs-status", path="/s")["pfs"] == pfs_id
    assert fs.readlink(fs.resolve(b"/s", follow=False)) == b"@@0x0000000000000001:00001"
    whole(fs, "pfs-destroy", path="/s", unlink=True)
    with pytest.raises(NotFound):
        fs.pfs.get(pfs_id)
    fs.close()
    assert_sound(media)


def test_down_and_up_again_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pfs_admin, "SCANNED", 50)
    monkeypatch.setattr(pfs_admin, "CHANGED", 9)
    media = fresh()
    fs = mount(media)
    pfs_id = made(fs, "p")
    root = fs.root(pfs_id)
    for name in range(40):
        fs.write(fs.create(root, b"f%d" % name), 0, b"first" * 1000)
    tid = fs.sync()
    for name in range(40):
        if name % 2:
            fs.unlink(root, b"f%d" % name)
        else:
            fs.write(fs.lookup(root, b"f%d" % name), 0, b"later")
        fs.create(root, b"g%d" % name)
    fs.sync()
    names = {entry.name for entry in fs.readdir(fs.root(pfs_id, tid))}
    inodes = fs.volumes.superblock.vol0_stat_inodes
    verb(fs, "pfs-downgrade", path="/p")
    with pytest.raises(ReadOnlyError):
        fs.create(fs.root(pfs_id), b"x")
    with pytest.raises(InvalidError, match="slave already"):
        verb(fs, "pfs-downgrade", path="/p")
    verb(fs, "pfs-update", path="/p", options=[f"sync-end-tid=0x{tid:016x}"])
    stats = whole(fs, "pfs-upgrade", path="/p")
    assert stats["revived"] >= 20 * 3
    assert stats["removed"] >= 40 * 2
    root = fs.root(pfs_id)
    assert {entry.name for entry in fs.readdir(root)} == names == {b"f%d" % name for name in range(40)}
    assert fs.read(fs.lookup(root, b"f2"), 0, 10) == b"firstfirst"
    assert fs.volumes.superblock.vol0_stat_inodes == inodes - 20
    fs.write(fs.create(root, b"new"), 0, b"writable")
    fs.close()
    assert_sound(media)


def test_destroying_goes_on_after_a_pause_and_nobody_writes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pfs_admin, "CHANGED", 9)
    media = fresh()
    fs = mount(media)
    fs.create(fs.root(), b"outside")
    pfs_id = made(fs, "p")
    root = fs.root(pfs_id)
    for name in range(40):
        fs.create(root, b"f%d" % name)
    reply = verb(fs, "pfs-destroy", path="/p", seconds=0)
    assert reply["next"] is not None
    with pytest.raises(HammerError):
        fs.create(root, b"too late")
    fs.close()
    assert_sound(media)
    again = mount(media)
    whole(again, "pfs-destroy", path="/p", unlink=True)
    assert list(scan(again.tree, *pfs_keys(pfs_id))) == []
    assert set(tree(again)) == {b"", b"/outside"}
    again.close()
    assert_sound(media)


@pytest.mark.golden
def test_destroying_anew_after_it_was_broken_off(
    golden: GoldenStore, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = golden.copy("pfs-mirror")
    monkeypatch.setattr(pfs_admin, "CHANGED", 9)
    with WritableFS.open_rw(image.spec) as fs:
        assert verb(fs, "pfs-destroy", path="/m1", seconds=0)["next"] is not None
    with WritableFS.open_rw(image.spec) as fs:
        assert fs.pfs.get(1).is_slave, "nobody writes to what is left"
    assert main(["-f", image.spec, "-y", "pfs-destroy", "/m1"]) == 0
    with WritableFS.open_rw(image.spec) as fs:
        assert fs.pfs.was_destroyed(1)
        fs.symlink(fs.root(), b"left", b"@@PFS00001")
    capsys.readouterr()
    assert main(["-f", image.spec, "-y", "pfs-destroy", "/left"]) == 0, "its softlink was all there was left"
    assert main(["-f", image.spec, "-y", "pfs-destroy", "/left"]) == 1
    assert "left" in capsys.readouterr().err
    sound(image)


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("sync-end-tid=zz", "no TID"),
        ("sync-beg-tid=-1", "no TID"),
        ("shared-uuid=1234", "no UUID"),
        ("label=" + "x" * 64, "at most 63"),
        ("snapshots=relative", "absolute"),
        ("prune-min=1h", "prune-min"),
        ("prune-min=", "prune-min"),
        ("colour=red", "no PFS option"),
        ("label", "OPTION=VALUE"),
    ],
)
@pytest.mark.golden
def test_wrong_options(golden: GoldenStore, capsys: Out, word: str, what: str) -> None:
    image = golden.copy("pfs-mirror")
    assert main(["-f", image.spec, "pfs-update", "/m1", word]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert what in err


@pytest.mark.parametrize(
    ("text", "seconds"), [("3d", 259200), ("3d/01:02:03", 262923), ("00:10:00", 600), ("0d", 0), ("90d", 7776000)]
)
def test_prune_min(text: str, seconds: int) -> None:
    fs = mount(fresh())
    verb(fs, "pfs-update", path="/", options=[f"prune-min={text}", "snapshots=/var/s", "label=l"])
    data = fs.pfs.get(0)
    assert (data.prune_min, data.snapshots_path, data.label_text) == (seconds, b"/var/s", b"l")
    verb(fs, "pfs-update", path="/", options=["snapshots-clear"])
    assert fs.pfs.get(0).snapshots_path == b""
    fs.close()


def test_what_is_refused() -> None:
    fs = mount(fresh())
    made(fs, "p")
    fs.create(fs.root(), b"file")
    fs.sync()
    for name, args, error in (
        ("pfs-destroy", {"path": "/"}, InvalidError),
        ("pfs-destroy", {"path": "/file"}, InvalidError),
        ("pfs-destroy", {"path": "/nothing"}, NotFound),
        ("pfs-downgrade", {"path": "/"}, InvalidError),
        ("pfs-upgrade", {"path": "/p"}, InvalidError),
        ("pfs-create", {"path": "/p", "slave": False, "options": [], "link": "q"}, InvalidError),
        ("pfs-create", {"path": "/", "slave": False, "options": [], "pfs": 1}, ExistsError),
        ("pfs-create", {"path": "/", "slave": False, "options": [], "pfs": 65536}, UsageError),
    ):
        with pytest.raises(error):
            verb(fs, name, **args)
    fs.close()


@pytest.mark.golden
def test_destroying_asks(golden: GoldenStore, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    image = golden.copy("pfs-mirror")

    class No:
        def readline(self) -> str:
            return "n\n"

    monkeypatch.setattr("sys.stdin", No())
    assert main(["-f", image.spec, "pfs-destroy", "/m1"]) == 2
    assert "nothing was destroyed" in capsys.readouterr().err
    assert seen(image, "/m1/", capsys)


def test_what_is_open_keeps_a_pfs_from_being_destroyed() -> None:
    media = fresh()
    fs = mount(media)
    made(fs, "p")
    inode = fs.create(fs.root(1), b"f")
    fs.hold(inode)
    fs.sync()
    fs.unlink(fs.root(1), b"f")
    with pytest.raises(BusyError):
        verb(fs, "pfs-destroy", path="/p")
    assert fs.read(inode, 0, 1) == b""
    fs.release(inode)
    whole(fs, "pfs-destroy", path="/p", unlink=True)
    assert fs.changes.failed is None
    fs.close()
    assert_sound(media)


def test_a_late_look_at_a_destroyed_pfs_harms_nothing() -> None:
    media = fresh()
    fs = mount(media)
    made(fs, "p")
    inode = fs.create(fs.root(1), b"f")
    fs.sync()
    whole(fs, "pfs-destroy", path="/p", unlink=True)
    fs.changes.touch(inode, DIRTY_ATIME)  # somebody who held it has read it
    fs.sync()
    assert fs.changes.failed is None
    fs.close()
    assert_sound(media)
