"""Reading the tables of mounts and of disks made of files, as each host prints them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hammerfs.device import media, mounts
from hammerfs.device.mounts import MountEntry, mount_table, parse_md_list, parse_mount_p, parse_mountinfo, use_of

MOUNTINFO = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
31 22 8:1 /sub /mnt/a\040b rw shared:1 master:2 - ext4 /dev/sda1 rw,errors=continue
40 22 0:50 / /h rw - fuse.hammer /data/a.img:/data/b\134c.img ro
broken
"""
MOUNT_P = """/dev/serno/1234.s1d\t/\thammer\trw\t1 1
/dev/da0:/dev/da1\t/big\\040disk\thammer\trw\t2 2
procfs\t/proc\tprocfs\trw\t0 0
"""
MDCONFIG = """md0\tvnode\t   64M\t/root/my disk.img\t
md1\tswap\t  128M
md2\tvnode\t  1.0G\t/x.img
"""


def test_linux_table() -> None:
    assert parse_mountinfo(MOUNTINFO) == [
        MountEntry("0:21", "proc", "/proc", "proc"),
        MountEntry("8:1", "/dev/sda1", "/mnt/a b", "ext4"),
        MountEntry("0:50", "/data/a.img:/data/b\\c.img", "/h", "fuse.hammer"),
    ]


def test_bsd_tables() -> None:
    assert parse_mount_p(MOUNT_P) == [
        MountEntry("", "/dev/serno/1234.s1d", "/", "hammer"),
        MountEntry("", "/dev/da0:/dev/da1", "/big disk", "hammer"),
        MountEntry("", "procfs", "/proc", "procfs"),
    ]
    assert parse_md_list(MDCONFIG) == [("/dev/md0", "/root/my disk.img"), ("/dev/md2", "/x.img")]


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="not Linux")
def test_this_host() -> None:
    assert any(entry.mountpoint == "/" for entry in mount_table())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "b:c.img"
    path.touch()
    return path


def test_volumes_in_the_source_of_a_mount(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of several volumes, a slice of one, and by another name of it."""
    other = image.with_name("other")
    other.hardlink_to(image)
    assert use_of(str(image)) is None
    for source in (f"/x.img:{image}", f"{image}@s1d", f"{other}:/y", f"/nowhere:{image}@offset=32k"):
        table = [MountEntry("0:9", source, "/h", "fuse.hammer")]
        monkeypatch.setattr(mounts, "mount_table", lambda table=table: table)
        assert use_of(str(image)) == "is mounted on /h"
    for source in ("hammer", f"{image}x", "", ":", "/a::b", "/"):
        table = [MountEntry("0:9", source, "/h", "fuse.hammer")]
        monkeypatch.setattr(mounts, "mount_table", lambda table=table: table)
        assert use_of(str(image)) is None
        assert use_of(str(image.parent)) is None
    assert use_of("/no/such/file") is None


def test_a_disk_made_of_a_file_on_a_bsd(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = image.with_name("md0")
    node.touch()
    monkeypatch.setattr(media, "IS_LINUX", False)
    monkeypatch.setattr(
        mounts,
        "_output",
        lambda *argv: f"md0\tvnode\t1M\t{image}\n" if "mdconfig" in argv[0] else f"{node} /m ufs rw\n",
    )
    monkeypatch.setattr(mounts, "parse_md_list", lambda text: [(str(node), row[1]) for row in parse_md_list(text)])
    assert use_of(str(image)) == f"is mounted on /m, by {node}"
    assert use_of(str(node)) == "is mounted on /m"


def test_a_host_that_says_nothing(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_SYS_BLOCK", image.parent / "absent")
    monkeypatch.setattr(mounts, "_read", lambda _path: "")
    assert use_of(str(image)) is None
    monkeypatch.setattr(media, "IS_LINUX", False)
    assert use_of(str(image)) is None  # neither mount -p nor mdconfig as a BSD has them
