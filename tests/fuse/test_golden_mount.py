"""Every golden image through a real mount is what its manifest says: at the head, in the past, in every PFS."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.conftest import Mount, Mounter
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


def _is_slave(image: GoldenImage, root: str) -> bool:
    """Whether a path leads through the softlink of a slave, which is seen at its sync point."""
    links = {entry["path"]: entry.get("target", "") for entry in image.manifest["trees"]["/"]}
    return "@@0x" in str(links.get(root.rstrip("/"), ""))
