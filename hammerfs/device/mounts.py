"""What of this host uses a file or disk without holding its lock: mounts, and devices made of files.

Linux says it in /proc/self/mountinfo and /sys/block, the BSDs by mount(8) (which prints getmntinfo(3)) and mdconfig(8).
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hammerfs.device import lock, media
from hammerfs.device.file import identity_of
from hammerfs.device.open import parse_spec, split_volumes
from hammerfs.errors import UsageError

_ESCAPE = re.compile(r"\\([0-7]{3})")
_SYS_BLOCK = Path("/sys/block")
_MD_ROW = re.compile(r"(md\d+)\s+vnode\s+\S+\s+(/.*\S)")

Identity = tuple[int, int, int]


class MountEntry(NamedTuple):
    """A mounted file system.

    Attributes:
        number: `major:minor` of what is mounted on Linux, else empty.
        source: What was mounted: a device, a colon list of volumes, or a mere name.
        mountpoint: Where.
        fstype: Its type.
    """

    number: str
    source: str
    mountpoint: str
    fstype: str


def mount_table() -> list[MountEntry]:
    """All mounts of this host, in the order they were made; empty where it does not say."""
    if media.IS_LINUX:
        return parse_mountinfo(_read("/proc/self/mountinfo"))
    return parse_mount_p(_output("/sbin/mount", "-p"))


def parse_mountinfo(text: str) -> list[MountEntry]:
    """Read the text of /proc/self/mountinfo."""
    entries = []
    for line in text.splitlines():
        fields = line.split(" ")
        if "-" in fields[6:]:
            fstype, source = fields[fields.index("-", 6) + 1 :][:2]
            entries.append(MountEntry(fields[2], _unescape(source), _unescape(fields[4]), fstype))
    return entries


def parse_mount_p(text: str) -> list[MountEntry]:
    """Read what `mount -p` prints on a BSD: lines as in fstab(5)."""
    rows = [line.split() for line in text.splitlines()]
    return [MountEntry("", _unescape(row[0]), _unescape(row[1]), row[2]) for row in rows if len(row) >= 3]


def parse_md_list(text: str) -> list[tuple[str, str]]:
    """Read what `mdconfig -lv` prints on a BSD: (device, file) of the memory disks made of files."""
    return [(f"/dev/{match[1]}", match[2]) for match in map(_MD_ROW.match, text.splitlines()) if match]


def use_of(path: str) -> str | None:
    """How this host uses a file or disk: `is mounted on /mnt`, `is attached to /dev/loop0`; None if it does not.

    A disk that holds a mounted one (a partition, a volume of LVM) is not noticed here: opening it for writing is.
    """
    try:
        st = os.stat(path)
    except OSError:
        return None
    if stat.S_ISDIR(st.st_mode):
        return None
    wanted = identity_of(st)
    table = mount_table()
    where = _mounted_on(wanted, table)
    if where is not None:
        return f"is mounted on {where}"
    for node, backing in _file_disks():
        try:
            node_identity, file_identity = identity_of(os.stat(node)), identity_of(os.stat(backing))
        except OSError:
            continue
        if wanted == file_identity:
            where = _mounted_on(node_identity, table)
            return f"is attached to {node}" if where is None else f"is mounted on {where}, by {node}"
        if wanted == node_identity:
            where = _mounted_on(file_identity, table)
            if where is not None:
                return f"is made of {backing}, which is mounted on {where}"
            if _has_writer(backing):
                return f"is made of {backing}, which is open for writing"
    return None


def _mounted_on(wanted: Identity, table: Iterable[MountEntry]) -> str | None:
    is_file, number = wanted[0] == 0, wanted[1]
    for entry in table:
        if not is_file and entry.number == f"{os.major(number)}:{os.minor(number)}":
            return entry.mountpoint
        if any(identity == wanted for identity in _sources(entry.source)):
            return entry.mountpoint
    return None


def _sources(source: str) -> Iterator[Identity]:
    """The files and disks that a mount's source names; a name that is no path names none."""
    if not source.startswith("/"):
        return
    try:
        names = split_volumes(source)
    except UsageError:
        names = [source]
    for name in names:
        try:
            yield identity_of(os.stat(parse_spec(name).path))
        except OSError:
            continue


def _file_disks() -> list[tuple[str, str]]:
    """(device, file) of the disks that are made of files."""
    if not media.IS_LINUX:
        return parse_md_list(_output("/sbin/mdconfig", "-lv"))
    found = []
    for node in _SYS_BLOCK.glob("loop*"):
        backing = _read(node / "loop" / "backing_file").rstrip("\n")
        if backing:
            found.append((f"/dev/{node.name}", backing))
    return sorted(found)


def _has_writer(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return lock.has_writer(fd)
    finally:
        os.close(fd)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
