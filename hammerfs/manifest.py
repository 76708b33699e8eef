"""Manifests: everything a tree holds, as plain values that become JSON; what two file systems are compared by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from hammerfs.addr import tid_text
from hammerfs.const import (
    MAX_TID,
    OBJTYPE_BDEV,
    OBJTYPE_CDEV,
    OBJTYPE_DBFILE,
    OBJTYPE_DIRECTORY,
    OBJTYPE_FIFO,
    OBJTYPE_REGFILE,
    OBJTYPE_SOCKET,
    OBJTYPE_SOFTLINK,
)
from hammerfs.dirent import Dirent
from hammerfs.errors import HammerError, NotFound
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from hammerfs.nametext import name_text
from hammerfs.ondisk.records import unix_id

Entry = dict[str, Any]
TYPE_NAMES = {
    OBJTYPE_DIRECTORY: "dir",
    OBJTYPE_REGFILE: "file",
    OBJTYPE_DBFILE: "file",
    OBJTYPE_FIFO: "fifo",
    OBJTYPE_CDEV: "cdev",
    OBJTYPE_BDEV: "bdev",
    OBJTYPE_SOFTLINK: "symlink",
    OBJTYPE_SOCKET: "sock",
}
GIANT = 64 << 20
"""Files larger than this are hashed at both ends only."""
_EDGE = 65536
_CHUNK = 1 << 20


def manifest(fs: HammerFS, roots: Iterable[bytes] | None = None) -> dict[str, Any]:
    """A whole manifest.

    Args:
        fs: The file system.
        roots: Directories to list, as paths (``/``, ``/@@0x…``, ``/m1/``, ``/@@0x…:00003``); by default the head of
            every PFS that has a root.

    Raises:
        NotFound: A root does not exist.
        HammerError: The file system is damaged where no entry can tell.
    """
    return {
        "volumes": [name_text(os.fsencode(name_of(volume.dev.name))) for volume in fs.volumes],
        "next_tid": tid_text(fs.volumes.superblock.vol0_next_tid),
        "trees": {name_text(root): list(entries(fs, root)) for root in (default_roots(fs) if roots is None else roots)},
    }


def default_roots(fs: HammerFS) -> list[bytes]:
    """Paths to the roots of all PFSs as they are normally seen; a slave that was never mirrored to has none."""
    roots = []
    for pfs_id, data in fs.pfs_list():
        try:
            fs.root(pfs_id)
        except NotFound:
            continue
        tid = tid_text(data.sync_end_tid) if data.is_slave else "-1"
        roots.append(b"/@@%s:%05d" % (tid.encode(), pfs_id) if pfs_id else b"/")
    return roots


def entries(fs: HammerFS, root: bytes) -> Iterator[Entry]:
    """Entries of a tree in depth-first order, a directory before what it holds, names in key order.

    Raises:
        NotFound: The root does not exist.
        HammerError: A directory is damaged.
    """
    visited: set[tuple[int, int]] = set()
    stack: list[tuple[bytes, Inode | Dirent]] = [(b"/", fs.resolve(root))]
    asof = MAX_TID
    while stack:
        path, found = stack.pop()
        if isinstance(found, Inode):
            inode, asof = found, found.asof
        else:
            try:
                inode = fs.iget(found.pfs_id, found.obj_id, asof)
            except HammerError as err:
                yield _unreadable(path, found, err)
                continue
        yield entry(fs, path, inode)
        if inode.is_dir and (inode.pfs_id, inode.obj_id) not in visited:
            visited.add((inode.pfs_id, inode.obj_id))
            prefix = path if path == b"/" else path + b"/"
            below: list[tuple[bytes, Inode | Dirent]] = [(prefix + name.name, name) for name in fs.readdir(inode)]
            stack.extend(reversed(below))


def _unreadable(path: bytes, name: Dirent, err: HammerError) -> Entry:
    return {
        "path": name_text(path),
        "type": TYPE_NAMES.get(name.obj_type, "unknown"),
        "ino": tid_text(name.obj_id),
        "pfs": name.pfs_id,
        "error": err.errno,
    }


def entry(fs: HammerFS, path: bytes, inode: Inode) -> Entry:
    """One entry. What can't be read of it is told by an ``error`` (errno) in place of the hash or target."""
    data, attr = inode.data, inode.attr()
    found: Entry = {
        "path": name_text(path),
        "type": TYPE_NAMES[data.obj_type],
        "mode": f"{data.mode & 0o7777:04o}",
        "uid": _signed(unix_id(data.uid)),
        "gid": _signed(unix_id(data.gid)),
        "nlink": attr.nlink,
        "size": inode.size,
        "ino": tid_text(inode.obj_id),
        "pfs": inode.pfs_id,
        "uflags": data.uflags,
        "mtime_us": data.mtime if inode.dirty is None else max(data.mtime, inode.dirty.mtime),
        "ctime_us": data.ctime,
        "atime_us": data.atime,
        "st_mtime_us": data.ctime,
    }
    try:
        if inode.is_dir:
            found["parent_ino"] = tid_text(data.parent_obj_id)
            found["cap_flags"] = data.cap_flags
        elif inode.is_symlink:
            found["target"] = name_text(fs.readlink(inode))
        elif inode.is_file:
            found.update(hashes(fs, inode))
        elif data.obj_type in {OBJTYPE_CDEV, OBJTYPE_BDEV}:
            found["rmajor"] = data.rmajor
            found["rminor"] = data.rminor
    except HammerError as err:
        found["error"] = err.errno
    return found


def hashes(fs: HammerFS, inode: Inode) -> dict[str, str]:
    """SHA-256 of a file's contents; of a giant (mostly sparse) one of its first and last 64 KiB.

    Raises:
        HammerError: It can't be read.
    """
    size = inode.size
    if size > GIANT:
        return {
            "sha256_first64k": hashlib.sha256(fs.read(inode, 0, _EDGE)).hexdigest(),
            "sha256_last64k": hashlib.sha256(fs.read(inode, size - _EDGE, _EDGE)).hexdigest(),
        }
    digest = hashlib.sha256()
    with memoryview(bytearray(min(size, _CHUNK))) as buf:
        for offset in range(0, size, _CHUNK):
            n = fs.readinto(inode, offset, buf)
            digest.update(buf[:n])
    return {"sha256": digest.hexdigest()}


def _signed(unix: int) -> int:
    return unix - (1 << 32) if unix >> 31 else unix


def name_of(device: str) -> str:
    """The last part of a device's name."""
    return device.rsplit("/", 1)[-1]
