"""What else is recorded beside the golden images: histories, as-of names, snapshots, PFSs, the volume of 2009."""

from __future__ import annotations

import hashlib
import re

import pytest

from hammerfs import dirent, history
from hammerfs.const import MAX_TID
from hammerfs.errors import HammerError, NotFound
from hammerfs.fs import HammerFS
from hammerfs.viewspec import parse_asof
from tests.golden import GoldenStore

pytestmark = pytest.mark.golden
TEST_OBJ = 0x10061AAC0


def test_the_live_tree_of_2009(golden: GoldenStore) -> None:
    with HammerFS.open(golden["dragonfly-v1-2009"].spec) as fs:
        assert fs.volumes.version == 1
        assert fs.read(fs.resolve(b"/test"), 0, 1000) == b"Hello\nWorld\n"
        assert fs.read(fs.resolve(b"/a/b/c/bar"), 0, 1000) == b"foo\n"
        assert sorted(entry.name for entry in fs.readdir(fs.root())) == [b"a", b"test"]
        assert [pfs_id for pfs_id, _ in fs.pfs_list()] == [0]
        assert fs.pfs_list()[0][1].shared_uuid == fs.volumes.superblock.vol_fsid


def test_the_history_of_2009(golden: GoldenStore) -> None:
    with HammerFS.open(golden["dragonfly-v1-2009"].spec) as fs:
        inode = fs.resolve(b"/test")
        assert inode.obj_id == TEST_OBJ
        assert fs.read(fs.resolve(b"/test@@0x00000001007a1520"), 0, 100) == b"Hello\n"
        assert fs.read(fs.resolve(b"/@@0x00000001007a1580/test"), 0, 100) == b"Hello\nWorld\n"
        assert {0x1007A1520, 0x1007A1580} <= {moment.tid for moment in fs.history(inode)}


def test_deleted_files_of_2009(golden: GoldenStore) -> None:
    with HammerFS.open(golden["dragonfly-v1-2009"].spec) as fs:
        gone = list(history.deleted_entries(fs.records, fs.root()))
        names = [entry.name for entry in gone]
        assert {b"foo", b"a", b"snap"} <= set(names)
        assert len({entry.obj_id for entry in gone if entry.name == b"foo"}) == 3
        for entry in gone:
            there = fs.resolve(b"/%s@@0x%016x" % (entry.name, entry.delete_tid - 1), follow=False)
            assert there.obj_id == entry.obj_id
            with pytest.raises(NotFound):
                fs.resolve(b"/%s@@0x%016x" % (entry.name, entry.create_tid - 1))
        snap = next(entry for entry in gone if entry.name == b"snap")
        link = fs.iget(0, snap.obj_id, snap.delete_tid - 1)
        assert fs.readlink(link) == b"/mnt/@@0x00000001007a15c0"
        assert len(fs.readlink(link)) == link.size == 25
        tree = next(entry for entry in gone if entry.name == b"a")
        old = fs.iget(0, tree.obj_id, tree.delete_tid - 1)
        assert fs.resolve(b"b/c", old).is_dir


def test_recorded_history_output(golden: GoldenStore) -> None:
    image = golden["history"]
    groups: list[list[tuple[int, int]]] = [[]]
    for line in image.manifest["history_output"]:
        match = re.match(r"hist ([0-9a-f]{16}) time (\d+)", line)
        if match:
            groups[-1].append((int(match[1], 16), int(match[2])))
        else:
            groups.append([])
    with HammerFS.open(image.spec) as fs:
        renamed = fs.resolve(b"/h/alink@@0x00000001000205d0").obj_id
        directory = fs.resolve(b"/h").obj_id
        assert history.inode_history(fs.records, 0, renamed) == groups[0]
        assert history.inode_history(fs.records, 0, directory) == groups[1]
        assert history.data_history(fs.records, 0, renamed, 0x4000, 1) == groups[2]


def test_recorded_asof_forms(golden: GoldenStore) -> None:
    image = golden["history"]
    checked = 0
    with HammerFS.open(image.spec) as fs:
        for line in image.manifest["asof_forms"]:
            words = line.split()
            if line.startswith("ok(expected error 2)"):
                with pytest.raises(NotFound):
                    fs.resolve(words[-1].encode())
            elif words[0] == "read":
                inode = fs.resolve(words[1].encode())
                data = fs.read(inode, 0, inode.size)
                assert (len(data), hashlib.sha256(data).hexdigest()) == (int(words[3]), words[5])
            else:
                inode = fs.resolve(words[1].encode())
                fields = dict(zip(words[2::2], words[3::2], strict=False))
                assert inode.obj_id == int(fields["ino"], 16)
                assert inode.asof == int(fields["asof"], 16)
            checked += 1
    assert checked == len(image.manifest["asof_forms"]) > 5


def test_tids_by_time(golden: GoldenStore) -> None:
    with HammerFS.open(golden["history"].spec) as fs:
        assert parse_asof(fs, 0, "2014-05-13T16:54:20+00:00") == 0x100018040
        assert parse_asof(fs, 0, "2014-05-13T16:56:19+00:00") == 0x100018080
        with pytest.raises(NotFound):
            parse_asof(fs, 0, "1970-01-01T00:00:01+00:00")


def test_recorded_snapshots_and_config(golden: GoldenStore) -> None:
    image = golden["snapshots"]
    with HammerFS.open(image.spec) as fs:
        lines = [f"snap 0x{s.tid:016x} ts {s.ts_us} label {s.label.decode()}" for s in fs.snapshots()]
        assert lines == image.manifest["snapls"]
        text = fs.config()
        assert text is not None
        assert text.decode().rstrip("\n") == image.manifest["config"][0][1].rstrip("\n")
        assert fs.config(7) is None


def test_recorded_pfs_data(golden: GoldenStore) -> None:
    image = golden["pfs-mirror"]
    with HammerFS.open(image.spec) as fs:
        table = dict(fs.pfs_list())
        assert sorted(table) == [0, 1, 2, 3]
        for line in image.manifest["output"]:
            match = re.match(r"pfs (\d+) beg 0x([0-9a-f]+) end 0x([0-9a-f]+) flags (\d+) label (.*) shared=(\S+)", line)
            if match:
                data = table[int(match[1])]
                assert (data.sync_beg_tid, data.mirror_flags) == (int(match[2], 16), int(match[4]))
                assert (data.label_text.decode(), str(data.shared)) == (match[5].strip(), match[6])
        assert table[3].is_slave
        assert fs.readlink(fs.resolve(b"/m1", follow=False)) == b"@@-1:00001"
        assert fs.readlink(fs.resolve(b"/s1", follow=False)) == b"@@0x00000001000381f0:00003"
        assert fs.root(3).asof == 0x1000381F0
        assert fs.root(1).asof == MAX_TID
        with pytest.raises(NotFound, match="PFS 9"):
            fs.root(9)
        assert fs.resolve(b"/m1/").pfs_id == 1
        assert fs.resolve(b"/m1/../rootfile").obj_id == fs.resolve(b"/rootfile").obj_id


def test_names_that_collide_are_told_apart(golden: GoldenStore) -> None:
    for name in ("basic-v1", "basic-v4", "basic-v7"):
        with HammerFS.open(golden[name].spec) as fs:
            directory = fs.resolve(b"/collide")
            found = list(fs.readdir(directory))
            assert len(found) > 20
            assert len({entry.key for entry in found}) == len(found)
            for entry in found:
                assert dirent.lookup(fs.records, directory, entry.name).obj_id == entry.obj_id


def test_readdir_goes_on_behind_any_entry(golden: GoldenStore) -> None:
    with HammerFS.open(golden["basic-v7"].spec) as fs:
        directory = next(
            inode
            for entry in fs.readdir(fs.root())
            if (inode := fs.iget(entry.pfs_id, entry.obj_id)).is_dir and sum(1 for _ in fs.readdir(inode)) >= 3000
        )
        names = list(fs.readdir(directory))
        for i in (0, 1, 62, 63, 1500, len(names) - 1):
            assert list(fs.readdir(directory, names[i].key)) == names[i + 1 :]


def test_links_without_their_target_record_are_enoent(golden: GoldenStore) -> None:
    image = golden["fuzz-4"]
    missing = [e for e in image.manifest["trees"]["/@@0x00000001001f8c40"] if e.get("error")]
    assert missing
    with HammerFS.open(image.spec) as fs:
        for entry in missing:
            link = fs.iget(0, int(entry["ino"], 16), 0x1001F8C40)
            with pytest.raises(HammerError, match="not recorded"):
                fs.readlink(link)
