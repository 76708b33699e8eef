"""Golden images written to: dirty ones are recovered on the media to what they hold, clean ones keep all they held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from hammerfs.changes import WriteOptions
from hammerfs.device.base import Device
from hammerfs.device.open import open_devices
from hammerfs.device.overlay import OverlayDevice
from hammerfs.errors import NoSpace, NotFound, ReadOnlyError
from hammerfs.filewrite import SetAttr
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from hammerfs.manifest import default_roots, entries
from hammerfs.rw import WritableFS
from kernelcore.host.up import UpHost
from tests.enginelab import Clock, assert_sound, mount, plugged
from tests.fsmodel import contents
from tests.golden import GoldenImage, GoldenStore, golden_names

pytestmark = pytest.mark.golden
RO_MOUNT = "ro-mount-of-dirty-image:"
TIMES = {"mtime_us", "ctime_us", "st_mtime_us"}
DIRTY = golden_names("crash-")
SMALLEST = "fresh-min-u8m"
"""It has no room for data."""
CLEAN = sorted(set(golden_names()) - {*DIRTY, SMALLEST})
SIZES = (0, 1, 8192, 8193, 100_000, 1_100_000)
Entries = list[dict[str, Any]]
SCRIPT = b"written by a test"
"""Name of the directory that the script of writes makes in the root of each PFS."""


@contextmanager
def media_of(image: GoldenImage) -> Iterator[list[Device]]:
    """The volumes; what is written to them stays in memory."""
    lower = open_devices(list(image.volumes), readonly=True)
    yield [OverlayDevice(device, owns_lower=False) for device in lower]
    for device in lower:
        device.close()


def without(tree: Entries, drop: set[str]) -> Entries:
    return [{key: value for key, value in entry.items() if key not in drop} for entry in tree]


@pytest.mark.parametrize("name", DIRTY)
def test_a_dirty_image_is_recovered_on_the_media(golden: GoldenStore, name: str) -> None:
    image = golden[name]
    with media_of(image) as media:
        with HammerFS(plugged(media), recover="undo") as fs:
            before = {entry["path"]: entry for entry in entries(fs, b"/")}
        with HammerFS(plugged(media)) as fs:
            redone = {inode.obj_id for inode in fs.inodes if inode.dirty is not None}
        mount(media).close()
        with HammerFS(plugged(media), recover="raw") as fs:
            for root, want in image.manifest["trees"].items():
                if not root.startswith(RO_MOUNT):
                    got = list(entries(fs, root.encode()))
                    assert without(got, {"atime_us"} | TIMES) == without(want, {"atime_us"} | TIMES)
            for entry in entries(fs, b"/"):
                if int(entry["ino"], 16) not in redone:
                    assert entry == before[entry["path"]]
        with HammerFS(plugged(media)) as fs:
            assert fs.recovery is not None
            assert not fs.recovery.is_dirty
        assert_sound(media)


@pytest.mark.parametrize("name", DIRTY)
def test_a_recovery_that_was_interrupted_is_done_again(golden: GoldenStore, name: str) -> None:
    """Before its commit nothing is lost, however often it begins."""
    image = golden[name]
    with media_of(image) as media:
        with HammerFS(plugged(media)) as fs:
            want = without(list(entries(fs, b"/")), TIMES)
        for _ in range(3):
            idle = UpHost(name="idle")
            HammerFS.close(WritableFS(plugged(media), WriteOptions(clock=Clock()), host=idle))
            with HammerFS(plugged(media)) as reader:
                assert without(list(entries(reader, b"/")), TIMES) == want


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_image_keeps_its_past(golden: GoldenStore, name: str) -> None:
    image = golden[name]
    with media_of(image) as media:
        with HammerFS(plugged(media)) as fs:
            asof = b"@@0x%016x" % max(fs.newest_tid, 0x10000000F)
            slaves = [pfs_id for pfs_id, data in fs.pfs_list() if data.is_slave]
            masters = [pfs_id for pfs_id, data in fs.pfs_list() if not data.is_slave] or [0]
            heads = {root: list(entries(fs, root)) for root in default_roots(fs)}
        fs = mount(media)
        for pfs_id in slaves:
            with pytest.raises((ReadOnlyError, NotFound)):  # one that was never mirrored to has no root
                fs.create(fs.root(pfs_id), b"refused")
        for pfs_id in masters:
            write_script(fs, fs.root(pfs_id))
        fs.close()
        with HammerFS(plugged(media)) as fs:
            for root, want in heads.items():
                past = root.replace(b"@@-1", asof) if root != b"/" else b"/" + asof
                assert as_past(list(entries(fs, past))) == as_past(want)
            trees = image.manifest["trees"] if image.has_manifest else {}
            for root, want in trees.items():
                if "@@0x" in root:
                    assert without(list(entries(fs, root.encode())), {"atime_us"}) == without(want, {"atime_us"})
            for pfs_id in masters:
                check_script(fs, fs.root(pfs_id))
        assert_sound(media)


def as_past(tree: Entries) -> Entries:
    """Without what differs between a head and a point in time: there the links of PFSs are not expanded."""
    links = {entry["path"] for entry in tree if entry.get("target", "").startswith("@@")}
    return [entry if entry["path"] not in links else {**entry, "target": "@@"} for entry in without(tree, {"atime_us"})]


def write_script(fs: WritableFS, root: Inode) -> None:
    """New objects, and changes of what is there and may be changed."""
    rng = Random(1)
    top = fs.mkdir(root, SCRIPT)
    for number, size in enumerate(SIZES):
        inode = fs.create(top, b"file%d" % number)
        fs.write(inode, 0, contents(rng, size))
    fs.symlink(top, b"long", b"t" * 100)
    fs.sync()
    fs.rename(top, b"file1", top, b"moved")
    fs.link(fs.lookup(top, b"file2"), top, b"linked")
    fs.truncate(fs.lookup(top, b"file4"), 50_001)
    fs.unlink(top, b"file3")
    for entry in list(fs.readdir(root)):
        inode = fs.iget(entry.pfs_id, entry.obj_id)
        if entry.name == SCRIPT or inode.data.uflags or root.data.uflags:
            continue
        if inode.is_symlink and fs.readlink(inode).startswith(b"@@"):
            continue  # it leads to a PFS
        if inode.is_file and inode.size < 1 << 24:
            fs.write(inode, inode.size // 2, b"over the old")
            fs.truncate(inode, inode.size // 3)
        fs.setattr(inode, SetAttr(mode=0o700, mtime_us=1))
        if not inode.is_dir:
            fs.unlink(root, entry.name)
    fs.sync()


def check_script(fs: HammerFS, root: Inode) -> None:
    """What the script has left."""
    top = fs.lookup(root, SCRIPT)
    names = [b"file0", b"file2", b"file4", b"file5", b"linked", b"long", b"moved"]
    assert sorted(entry.name for entry in fs.readdir(top)) == names
    sizes = [fs.lookup(top, name).size for name in names]
    assert sizes == [0, 8192, 50_001, 1_100_000, 8192, 100, 1]
    assert fs.lookup(top, b"linked").attr().nlink == 2


def test_the_smallest_volume_takes_names_but_not_much_data(golden: GoldenStore) -> None:
    with media_of(golden[SMALLEST]) as media:
        fs = mount(media)
        for n in range(100):
            fs.create(fs.root(), b"file%d" % n)
        inode = fs.lookup(fs.root(), b"file0")
        with pytest.raises(NoSpace):
            fs.write(inode, 0, bytes(20 << 20))
        with pytest.raises(NoSpace):
            for n in range(200):
                fs.write(fs.lookup(fs.root(), b"file%d" % (n % 100)), n << 14, bytes(20_000))
                fs.sync()
        for n in range(100):
            fs.unlink(fs.root(), b"file%d" % n)
        fs.sync()
        assert list(fs.readdir(fs.root())) == []
        fs.close()
        assert_sound(media)
