"""The view of a mount: numbers, virtual names and directories, positions of listings."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import pytest

from hammerfs.const import MAX_TID, OBJID_ROOT, OBJTYPE_REGFILE
from hammerfs.errors import NotADirectory, NotFound
from hammerfs.fs import HammerFS
from hammerfs.ondisk.records import PfsData
from hammerfs.vfs.attrs import Ownership
from hammerfs.vfs.node import Node, ObjectNode, VirtualDir
from hammerfs.vfs.vfs import Look, Vfs
from tests.imagebuilder import FIRST_TID, FSID, ImageBuilder

OLD, NEW = FIRST_TID + 0x10, FIRST_TID + 0x20


def scene() -> ImageBuilder:
    """/dir/file with two versions, /gone removed, PFS 1 behind /pfs, snapshots with equal and impossible labels."""
    b = ImageBuilder()
    file = b.new_obj_id()
    directory = b.mkdir(b"/dir")
    b.direntry(directory, b"file", file, OBJTYPE_REGFILE)
    b.direntry(OBJID_ROOT, b"link", file, OBJTYPE_REGFILE)
    b.inode(file, OBJTYPE_REGFILE, size=3, nlinks=2, delete_tid=NEW)
    b.inode(file, OBJTYPE_REGFILE, size=5, nlinks=2, tid=NEW)
    b.data(file, 0, b"old".ljust(16, b"\0"), delete_tid=NEW)
    b.data(file, 0, b"newer".ljust(16, b"\0"), tid=NEW)
    gone = b.new_obj_id()
    b.inode(gone, OBJTYPE_REGFILE, delete_tid=NEW)
    b.direntry(OBJID_ROOT, b"gone", gone, OBJTYPE_REGFILE, delete_tid=NEW)
    b.pfs(1, PfsData(sync_beg_tid=1, sync_end_tid=1, shared_uuid=FSID, unique_uuid=FSID, label=b"one"))
    b.pfs_root(1)
    b.file(b"/inside", b"x", pfs=1)
    b.symlink(b"/pfs", b"@@PFS00001")
    for tid, label in ((OLD, b"same"), (OLD + 1, b"a/b"), (NEW, b"same"), (NEW + 1, b""), (NEW + 2, b"..")):
        b.snapshot(tid, label)
    return b


@pytest.fixture
def fs() -> Iterator[HammerFS]:
    with HammerFS([scene().build()]) as opened:
        yield opened


def walk(vfs: Vfs, path: bytes, start: Node | None = None) -> Node:
    node = start or vfs.root
    for name in path.split(b"/"):
        if name:
            node = vfs.lookup(node, name)
    return node


def names(vfs: Vfs, node: Node) -> list[bytes]:
    return [entry.name for entry in vfs.list_dir(node)]


def contents(vfs: Vfs, node: Node) -> bytes:
    assert isinstance(node, ObjectNode)
    return vfs.fs.read(vfs.inode(node), 0, 100)


def test_the_own_tree_shows_object_ids(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look())
    assert vfs.root.number == 1
    for path in (b"/dir", b"/dir/file", b"/pfs"):
        node = walk(vfs, path)
        assert isinstance(node, ObjectNode)
        assert node.number == node.obj_id == fs.resolve(path, follow=False).obj_id


def test_numbers_differ_for_every_pfs_and_moment_and_are_the_same_every_time(fs: HammerFS) -> None:
    paths = [b"/", b"/@@-1", b"/@@-1:00001", b"/@@0x%016x" % OLD, b"/@@0x%016x" % NEW, b"/dir", b"/dir@@0x%016x" % OLD]
    paths += [
        b"/dir/file",
        b"/dir/file@@0x%016x" % OLD,
        b"/@@0x%016x/@@0x%016x" % (OLD, OLD),
        b"/.hammer",
        b"/dir/file@@",
    ]
    numbers = [walk(Vfs(fs, Look()), path).number for path in paths]
    assert len(set(numbers)) == len(paths)
    assert numbers == [walk(Vfs(fs, Look()), path).number for path in paths]
    assert all(0 < number < 1 << 64 for number in numbers)


def test_links_of_a_file_have_one_number_whatever_the_way(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look())
    assert walk(vfs, b"/link").number == walk(vfs, b"/dir/file").number == walk(vfs, b"/@@-1/dir/file").number
    old = {walk(vfs, path % OLD).number for path in (b"/@@0x%016x/link", b"/link@@0x%016x", b"/dir@@0x%016x/file")}
    assert len(old) == 1


def test_no_directory_is_its_own_ancestor(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look())
    jump = b"@@0x%016x" % OLD
    seen: set[int] = set()
    node: Node = vfs.root
    for name in (jump, jump, b"@@-1", b"dir", b"@@-1", jump, b".@@-1"):
        node = vfs.lookup(node, name)
        assert node.number not in seen
        seen.add(node.number)


def test_past_and_present_contents(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look())
    assert contents(vfs, walk(vfs, b"/dir/file")) == b"newer"
    assert contents(vfs, walk(vfs, b"/dir/file@@0x%016x" % OLD)) == b"old"
    assert contents(vfs, walk(vfs, b"/@@0x%016x/link" % OLD)) == b"old"
    with pytest.raises(NotFound):
        walk(vfs, b"/gone")
    assert walk(vfs, b"/gone@@0x%016x" % OLD).number >> 63


def test_a_pfs_through_its_softlink(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look())
    assert vfs.readlink(walk(vfs, b"/pfs")) == b"@@-1:00001"
    root = walk(vfs, b"/@@-1:00001")
    assert names(vfs, root) == [b"inside"]
    assert b"by-time" in names(vfs, walk(vfs, b".hammer", root))
    own = Vfs(fs, Look(pfs_id=1))
    assert own.root.number == 1
    assert walk(own, b"/inside").number == fs.resolve(b"/@@-1:00001/inside").obj_id


def test_snapshots_by_label_and_time(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look())
    where = walk(vfs, b"/.hammer/snapshots")
    listed = names(vfs, where)
    stamp = b"2014-05-13T16:53:20Z"
    assert listed == [
        b"same-0x%016x" % OLD, b"a_b", b"same-0x%016x" % NEW, *(b"%s-0x%016x" % (stamp, NEW + n) for n in (1, 2))
    ]  # fmt: skip
    assert contents(vfs, walk(vfs, listed[0] + b"/dir/file", where)) == b"old"
    assert contents(vfs, walk(vfs, listed[2] + b"/dir/file", where)) == b"newer"
    latest = walk(vfs, b"/.hammer/latest")
    assert vfs.readlink(latest) == b"snapshots/" + listed[-1]
    with pytest.raises(NotFound):
        vfs.lookup(where, b"same")


def test_moments_by_tid(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look())
    where = walk(vfs, b"/.hammer/tid")
    assert names(vfs, where) == [b"0x%016x" % tid for tid in (OLD, OLD + 1, NEW, NEW + 1, NEW + 2)]
    assert contents(vfs, walk(vfs, b"0x%016x/dir/file" % (NEW - 1), where)) == b"old"
    for name in (b"0x12", b"today", b"0x%016x" % 1):
        with pytest.raises(NotFound):
            vfs.lookup(where, name)


def test_moments_by_time(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look())
    days = walk(vfs, b"/.hammer/by-time")
    assert names(vfs, days) == [b"2014-05-13"]
    day = vfs.lookup(days, b"2014-05-13")
    listed = names(vfs, day)
    assert listed == sorted(listed)
    assert b"16:53:20-0x%016x" % NEW in listed
    for later in (b"16:53:20", b"16:53", b"23:59:59"):
        assert contents(vfs, walk(vfs, later + b"/dir/file", day)) == b"newer"
    assert contents(vfs, walk(vfs, b"16:53:20-0x%016x/dir/file" % OLD, day)) == b"old"
    assert contents(vfs, walk(vfs, b"2020-02-29/00:00/link", days)) == b"newer"
    for name in (b"16:53:19", b"25:00:00", b"16:53:20-0x%016x" % (OLD + 5), b"noon"):
        with pytest.raises(NotFound):
            vfs.lookup(day, name)
    for name in (b"2014-05-12", b"2014-13-01", b"20140513"):
        with pytest.raises(NotFound):
            vfs.lookup(days, name)


def test_versions_of_a_name(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look())
    versions = walk(vfs, b"/dir/file@@")
    listed = names(vfs, versions)
    assert listed == [b"0x%016x-2014-05-13T16:53:20Z" % tid for tid in (FIRST_TID, NEW)]
    assert [contents(vfs, vfs.lookup(versions, name)) for name in listed] == [b"old", b"newer"]
    assert contents(vfs, vfs.lookup(versions, listed[0][:18])) == b"old"
    assert len(names(vfs, walk(vfs, b"/gone@@"))) == 1
    past = walk(vfs, b"/@@0x%016x/dir/file@@" % OLD)
    assert len(names(vfs, past)) == 1
    for name in (b"never@@", b"@@", b"dir/file@@@@"):
        with pytest.raises(NotFound):
            walk(vfs, name)


@pytest.mark.parametrize(("mode", "listed", "found"), [("hidden", 0, 1), ("visible", 1, 1), ("disabled", 0, 0)])
def test_where_the_directory_of_snapshots_is(fs: HammerFS, mode: str, listed: int, found: int) -> None:
    vfs = Vfs(fs, Look(snapdir=mode, snapdir_name=b".snap"))  # type: ignore[arg-type]
    assert names(vfs, vfs.root).count(b".snap") == listed
    for path, there in ((b"/.snap", found), (b"/dir/.snap", 0), (b"/@@0x%016x/.snap" % OLD, 0), (b"/.hammer", 0)):
        if there:
            assert isinstance(walk(vfs, path), VirtualDir)
        else:
            with pytest.raises(NotFound):
                walk(vfs, path)


def test_a_stored_name_goes_before_a_virtual_one() -> None:
    b = scene()
    b.file(b"/.hammer", b"mine")
    b.file(b"/link@@", b"mine too")
    with HammerFS([b.build()]) as fs:
        vfs = Vfs(fs, Look(snapdir="visible"))
        assert contents(vfs, walk(vfs, b"/.hammer")) == b"mine"
        assert contents(vfs, walk(vfs, b"/link@@")) == b"mine too"
        assert names(vfs, vfs.root).count(b".hammer") == 1


def test_listing_goes_on_at_every_position(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look(snapdir="visible"))
    for path in (b"/", b"/dir", b"/.hammer", b"/.hammer/snapshots", b"/dir/file@@"):
        node = walk(vfs, path)
        whole = list(vfs.list_dir(node))
        assert [entry.next for entry in whole] == sorted({entry.next for entry in whole})
        for i, entry in enumerate(whole):
            rest = [later.name for later in vfs.list_dir(node, entry.next)]
            assert rest == [later.name for later in whole[i + 1 :]]
    with pytest.raises(NotADirectory):
        list(vfs.list_dir(walk(vfs, b"/link")))


def test_what_stat_shows(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look(ownership=Ownership(1000, 100, 0o027)))
    shown = vfs.getattr(walk(vfs, b"/link"))
    assert (shown.mode, shown.uid, shown.gid, shown.nlink, shown.size, shown.blocks) == (0o100640, 1000, 100, 2, 5, 1)
    snapdir = vfs.getattr(walk(vfs, b"/.hammer"))
    assert (snapdir.mode, snapdir.uid, snapdir.nlink) == (stat.S_IFDIR | 0o550, 1000, 1)
    link = vfs.getattr(walk(vfs, b"/.hammer/latest"))
    assert stat.S_ISLNK(link.mode)
    assert link.size == len(vfs.readlink(walk(vfs, b"/.hammer/latest")))


def test_a_mount_of_the_past(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look(asof=OLD))
    assert vfs.root.number == 1
    assert contents(vfs, walk(vfs, b"/link")) == b"old"
    assert walk(vfs, b"/gone").number == fs.resolve(b"/gone@@0x%016x" % OLD).obj_id
    assert contents(vfs, walk(vfs, b"/.hammer/by-time/2014-05-13/23:59/link")) == b"old"
    assert names(vfs, walk(vfs, b"/.hammer/snapshots")) == [b"same"]
    with pytest.raises(NotFound):
        Vfs(fs, Look(pfs_id=7))
    assert fs.asof == MAX_TID


def test_parents(fs: HammerFS) -> None:
    vfs = Vfs(fs, Look())
    directory = walk(vfs, b"/dir")
    assert isinstance(directory, ObjectNode)
    assert vfs.parent(directory).number == vfs.root.number
    assert vfs.by_number(directory.number).obj_id == directory.obj_id
    with pytest.raises(NotFound):
        vfs.by_number(0x7FFF)
