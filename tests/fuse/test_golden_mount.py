"""Every golden image through a real mount is what its manifest says: at the head, in the past, in every PFS."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.mounts import Mount, Mounter
from tests.golden import GoldenImage, GoldenStore, golden_names

pytestmark = [pytest.mark.golden, pytest.mark.mount]
RO_MOUNT = "ro-mount-of-dirty-image:"
KINDS = {
    stat.S_IFDIR: "dir",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "sock",
    stat.S_IFCHR: "cdev",
    stat.S_IFBLK: "bdev",
}
BIG = 64 << 20
"""A file beyond this is mostly hole: its contents are compared at its ends."""


def walk(top: Path) -> Iterator[tuple[str, os.stat_result, Path]]:
    """Paths below `top` as manifests write them, by os.scandir."""
    stack = [(b"/", os.fsencode(top))]
    while stack:
        name, real = stack.pop()
        found = os.lstat(real) if name != b"/" else os.stat(real)
        yield name.decode("utf-8", "backslashreplace"), found, Path(os.fsdecode(real))
        if stat.S_ISDIR(found.st_mode):
            prefix = name if name == b"/" else name + b"/"
            with os.scandir(real) as entries:
                stack.extend((prefix + entry.name, entry.path) for entry in entries)


def content(path: Path, entry: dict[str, Any]) -> str | None:
    if entry["size"] > BIG:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare(top: Path, want: list[dict[str, Any]], *, head: bool, numbers: bool, times: bool) -> None:
    """Compare a mounted tree with one of a manifest."""
    left = {entry["path"]: entry for entry in want}
    for name, found, path in walk(top):
        entry = left.pop(name)
        kind = KINDS[stat.S_IFMT(found.st_mode)]
        assert kind == entry["type"], name
        assert f"{stat.S_IMODE(found.st_mode):04o}" == entry["mode"], name
        ids = entry["uid"] & 0xFFFFFFFF, entry["gid"] & 0xFFFFFFFF
        assert (found.st_uid, found.st_gid, found.st_nlink) == (*ids, entry["nlink"]), name
        if "rmajor" in entry:  # FUSE carries 20 bits of a minor number
            device = entry["rmajor"], entry["rminor"] & 0xFFFFF
            assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == device, name
        if kind != "symlink":
            assert found.st_size == entry["size"], name
        if times:
            assert found.st_mtime_ns // 1000 == entry["mtime_us" if head else "st_mtime_us"], name
            assert found.st_ctime_ns // 1000 == entry["ctime_us"], name
        if numbers:
            assert found.st_ino == int(entry["ino"], 16), name
        try:
            if kind == "symlink":
                assert os.readlink(path) == entry.get("target"), name
            if kind == "file":
                assert content(path, entry) in {entry.get("sha256"), None}, name
        except OSError as err:
            assert err.errno == entry.get("error"), name
    assert not left, sorted(left)[:5]


def tree_path(mount: Mount, root: str) -> Path:
    return mount.root / root.strip("/")


def trees(image: GoldenImage) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trees of the recovered image, and of the read-only mount of a dirty one."""
    recorded = image.manifest["trees"]
    undone = {root.removeprefix(RO_MOUNT): tree for root, tree in recorded.items() if root.startswith(RO_MOUNT)}
    return {root: tree for root, tree in recorded.items() if not root.startswith(RO_MOUNT)}, undone


@pytest.mark.parametrize("name", golden_names())
def test_every_tree(golden: GoldenStore, mounted: Mounter, name: str) -> None:
    image = golden[name]
    times = not name.startswith("crash-")
    if not image.has_manifest:
        with mounted(image.spec) as mount:
            assert all(path.is_symlink() or path.lstat() for _, _, path in walk(mount.root))
        return
    recovered, undone = trees(image)
    for options, some in (("ro", recovered), ("ro,skip_redo", undone)):
        if not some:
            continue
        with mounted(image.spec, options) as mount:
            for root, tree in some.items():
                past = "@@0x" in root
                slave = tree[0]["pfs"] != 0 and not past and _is_slave(image, root)
                head = not past and not slave
                compare(tree_path(mount, root), tree, head=head, numbers=root == "/", times=times)


OTHER_TREES = [name for name in golden_names() if not name.startswith(("crash-", "fresh-", "dragonfly-"))]


@pytest.mark.parametrize("name", OTHER_TREES)
def test_every_tree_mounted_itself(golden: GoldenStore, mounted: Mounter, name: str) -> None:
    """A past or a PFS that is the mount's own tree shows object ids as inode numbers."""
    image = golden[name]
    for root, tree in trees(image)[0].items():
        match = re.search(r"/@@(0x[0-9a-f]{16})(:\d{5})?\Z", root)
        pfs_id = tree[0]["pfs"]
        if root == "/":
            continue
        words = ["ro"] + ([f"pfs={pfs_id}"] if pfs_id else []) + ([f"asof={match[1]}"] if match else [])
        head = match is None and not _is_slave(image, root)
        with mounted(image.spec, ",".join(words)) as mount:
            compare(mount.root, tree, head=head, numbers=True, times=True)


_ELM = re.compile(
    r"ELM +\d+ R lo=(\w{4})\w{4} objid=(\w{16}) rt=10 key=\w{16} tid=\w{16}\n +. del=0{16} .*?dataoff=\w{16}/(\d+)"
)


@pytest.mark.parametrize("name", ["basic-v1", "basic-v7", "pfs-mirror", "nohistory"])
def test_blocks_are_what_the_recorded_show_lists(golden: GoldenStore, mounted: Mounter, name: str) -> None:
    image = golden[name]
    shown = image.text("show")
    assert shown is not None
    held: dict[int, int] = defaultdict(int)
    for pfs, obj_id, nbytes in _ELM.findall(shown):
        if pfs == "0000":
            held[int(obj_id, 16)] += int(nbytes)
    assert held
    with mounted(image.spec) as mount:
        files = [found for _, found, _ in walk(mount.root) if stat.S_ISREG(found.st_mode)]
        assert {found.st_ino: found.st_blocks for found in files} == {
            found.st_ino: -(-held[found.st_ino] // 512) for found in files
        }


def _is_slave(image: GoldenImage, root: str) -> bool:
    """Whether a path leads through the softlink of a slave, which is seen at its sync point."""
    links = {entry["path"]: entry.get("target", "") for entry in image.manifest["trees"]["/"]}
    return "@@0x" in str(links.get(root.rstrip("/"), ""))
