"""`newfs_hammer` overwrites nothing worth keeping unasked, and nothing in use ever."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import sqlite3
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hammerfs.device.file import open_file
from hammerfs.signatures import find_signatures
from mkfs.cli import main
from tests.imagetools.disks import disklabel32, disklabel64, gpt, mbr
from tools.fstyp import main as fstyp

MIB = 1 << 20
SIZE = 64 * MIB
SMALL = ["-u", "8m", "-L", "T", "--quiet"]
PLAIN = ["-u", "512m", "-L", "T", "--quiet"]
Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def image() -> Path:
    path = Path("x.img")
    with path.open("wb") as stream:
        stream.truncate(SIZE)
    return path


def put(path: Path, off: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(off if off >= 0 else SIZE + off)
        stream.write(data)


def digest(path: Path) -> str:
    """Of size and contents, without reading holes."""
    with open_file(path) as device:
        found = hashlib.sha1(str(device.size).encode())
        blocks = {at >> 16 for begin, end in device.extents(0, device.size) for at in range(begin & -65536, end, 65536)}
        for block in sorted(blocks):
            data = device.pread(block << 16, min(65536, device.size - (block << 16)))
            if any(data):
                found.update(b"%d" % block + data)
    return found.hexdigest()


def refused(path: Path, what: str, capsys: Out, *words: str) -> None:
    """Without -f it is refused in one line with the place, and not touched."""
    before = digest(path)
    assert main([*PLAIN, *words, str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"newfs_hammer: volume {path}: holds ")
    assert err.endswith(": -f overwrites it\n")
    assert err.count("\n") == 1
    assert what in err
    assert digest(path) == before


def forced(path: Path) -> None:
    """With -f it becomes HAMMER and nothing else any more."""
    assert main(["-f", *SMALL, str(path)]) == 0
    with open_file(path) as device:
        assert {found.what for found in find_signatures(device)} == {"a HAMMER volume"}
    assert fstyp([str(path)]) == 0


def label_of(kind: Callable[..., None]) -> Callable[[bytearray], None]:
    return lambda raw: kind(raw, 0, len(raw), {"d": (1 << 20, 2 << 20)})


@pytest.mark.parametrize(
    ("what", "off", "magic"),
    [
        ("an ext2, ext3 or ext4", 0x438, bytes.fromhex("53ef")),
        ("an XFS", 0, b"XFSB"),
        ("a btrfs", 0x10040, b"_BHRfS_M"),
        ("a ReiserFS", 0x10034, b"ReIsEr2Fs"),
        ("a JFS", 0x8000, b"JFS1"),
        ("a NILFS2", 0x406, b"44"),
        ("an F2FS", 0x400, bytes.fromhex("1020f5f2")),
        ("an EROFS", 0x400, bytes.fromhex("e2e1f5e0")),
        ("a FAT", 0x36, b"FAT16   "),
        ("a FAT", 0x52, b"FAT32   "),
        ("an exFAT", 3, b"EXFAT   "),
        ("an NTFS", 3, b"NTFS    "),
        ("a BitLocker", 3, b"-FVE-FS-"),
        ("an ISO 9660", 0x8001, b"CD001"),
        ("a UDF", 0x8801, b"NSR02"),
        ("an HFS+", 0x400, bytes.fromhex("482b0004")),
        ("an APFS", 0x20, b"NXSB"),
        ("a UFS1", 0x2000 + 0x55C, bytes.fromhex("54190100")),
        ("a UFS2", 0x10000 + 0x55C, bytes.fromhex("19015419")),
        ("a UFS2", 0x40000 + 0x55C, bytes.fromhex("19540119")),
        ("a ZFS", 0x20000 + 1024 * 7, bytes.fromhex("0cb1ba0000000000")),
        ("a ZFS", 0x20000, bytes.fromhex("0000000000bab10c")),
        ("a squashfs", 0, b"hsqs"),
        ("a cramfs", 0, bytes.fromhex("453dcd28")),
        ("a romfs", 0, b"-rom1fs-"),
        ("swap space", 4086, b"SWAPSPACE2"),
        ("swap space", 65526, b"SWAPSPACE2"),
        ("an LVM", 512, b"LABELONE"),
        ("a LUKS", 0, bytes.fromhex("4c554b53babe0002")),
        ("a Linux RAID", 4096, bytes.fromhex("fc4e2ba9")),
        ("a Linux RAID", -0x10000, bytes.fromhex("fc4e2ba9")),
        ("a Linux RAID", -0x2000, bytes.fromhex("fc4e2ba9")),
        ("a bcache", 0x1018, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
        ("a GPT", -512, b"EFI PART"),
        ("an MBR", 510, bytes.fromhex("55aa")),
        ("a VHD", -512, b"conectix"),
        ("a qcow", 0, b"QFI\xfb"),
        ("a HAMMER2", 0, bytes.fromhex("1120170532 4d4148".replace(" ", ""))),
        ("a packed HAMMER", 0, b"HAMMERPK"),
        ("zstd", 0, bytes.fromhex("28b52ffd")),
        ("lz4", 0, bytes.fromhex("04224d18")),
        ("a 7-Zip", 0, bytes.fromhex("377abcaf271c")),
        ("an ELF", 0, b"\x7fELF"),
        ("a PDF", 0, b"%PDF-1.7"),
    ],
)
def test_signatures(image: Path, what: str, off: int, magic: bytes, capsys: Out) -> None:
    put(image, off, magic)
    refused(image, what, capsys)
    forced(image)


@pytest.mark.parametrize(
    ("what", "write"),
    [
        ("a GPT", lambda raw: gpt(raw, {0: (2048, 4095, "data")})),
        ("a GPT", lambda raw: gpt(raw, {0: (256, 511, "data")}, sector=4096)),
        ("an MBR", lambda raw: mbr(raw, [(0x6C, 2048, 4096)])),
        ("a disklabel64", label_of(disklabel64)),
        ("a disklabel32", label_of(disklabel32)),
    ],
)
def test_partition_tables(image: Path, what: str, write: Callable[[bytearray], None], capsys: Out) -> None:
    raw = bytearray(SIZE)
    write(raw)
    image.write_bytes(raw)
    refused(image, what, capsys)
    forced(image)


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", "b")
    return out.getvalue()


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return out.getvalue()


def _database() -> bytes:
    with sqlite3.connect("x.db") as db:
        db.execute("create table t (a)")
    db.close()
    return Path("x.db").read_bytes()


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("gzip data", lambda: gzip.compress(b"a")),
        ("bzip2 data", lambda: bz2.compress(b"a")),
        ("xz data", lambda: lzma.compress(b"a")),
        ("a zip archive", _zip),
        ("a tar archive", _tar),
        ("an SQLite database", _database),
        ("a script", lambda: b"#!/bin/sh\n"),
    ],
)
def test_files_that_are_no_disks(what: str, make: Callable[[], bytes], capsys: Out) -> None:
    path = Path("precious")
    path.write_bytes(make())
    refused(path, what, capsys)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["mkfs.ext4", "-q", "-F"], "an ext2, ext3 or ext4 file system"),
        (["mkfs.minix"], "a Minix file system"),
        (["mkfs.xfs", "-q"], "an XFS file system"),
        (["mkfs.btrfs", "-q"], "a btrfs file system"),
        (["mkfs.vfat"], "a FAT file system"),
        (["mkfs.ntfs", "-q", "-F"], "an NTFS"),
        (["mkswap"], "swap space"),
    ],
)
def test_what_other_tools_make(image: Path, command: list[str], what: str, capsys: Out) -> None:
    program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    os.truncate(image, 320 * MIB)  # what XFS needs
    made = subprocess.run([program, *command[1:], str(image)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"{command[0]} makes nothing of this size: {made.stderr.strip()}")
    refused(image, what, capsys)
    forced(image)


def test_a_hammer_volume_is_not_formatted_twice(image: Path, capsys: Out) -> None:
    forced(image)
    capsys.readouterr()
    refused(image, "a HAMMER volume", capsys)
    forced(image)


def test_one_bad_volume_stops_all(image: Path, capsys: Out) -> None:
    """Nothing is written to the first volume when a later one is refused."""
    other = Path("y.img")
    other.write_bytes(gzip.compress(b"a") + bytes(SIZE))
    before = digest(image)
    assert main([*PLAIN, str(image), str(other)]) == 1
    assert capsys.readouterr().err == "newfs_hammer: volume y.img: holds gzip data: -f overwrites it\n"
    assert digest(image) == before
    assert main(["-f", *SMALL, "--size", "64m", "new.img", str(image), "no/such/directory.img"]) == 1
    assert "volume no/such/directory.img: can't be made: No such file" in capsys.readouterr().err
    assert sorted(os.listdir(".")) == ["x.img", "y.img"]
    assert main(["-f", *SMALL, str(image), "absent.img"]) == 1
    assert capsys.readouterr().err.endswith("volume absent.img: is not there; --size makes an image file\n")
    assert digest(image) == before


def test_names_that_will_not_do(image: Path, capsys: Out) -> None:
    os.symlink("nowhere", "dangling")
    for words, message in (
        (["."], "volume .: is neither a regular file nor a disk device"),
        (["/dev/null"], "volume /dev/null: is neither a regular file nor a disk device"),
        (["x.img", "x.img"], "volume x.img: is the same volume as x.img, or overlaps it"),
        (["x.img", "./x.img"], "volume x.img: is the same volume as x.img, or overlaps it"),
        (["x.img@s1"], "volume x.img: no slice or partition 's1'; found: nothing"),
        (["--size", "64m", "/dev/null"], "volume /dev/null: is no regular file: --size makes image files"),
        (["--size", "64m", "."], "volume .: is no regular file: --size makes image files"),
        (["--size", "64m", "new.img", "new.img"], "volume new.img: is there already, or named twice"),
        (["--size", "64m", "dangling"], "volume dangling: is there already, or named twice"),
    ):
        before = digest(image)
        assert main(["-f", *SMALL, *words]) == 1, words
        assert capsys.readouterr().err.splitlines()[-1] == f"newfs_hammer: {message}"
        assert digest(image) == before
        assert sorted(os.listdir(".")) == ["dangling", "x.img"]


def test_size_and_an_image_that_is_there(image: Path, capsys: Out) -> None:
    put(image, 60 * MIB, b"data")
    before = digest(image)
    assert main([*PLAIN, "--size", "12g", str(image)]) == 1
    assert capsys.readouterr().err == (
        "newfs_hammer: volume x.img: is there already: leave --size out, or give -f to make it anew\n"
    )
    assert digest(image) == before
    assert main(["-f", *SMALL, "--size", "96m", str(image)]) == 0
    assert image.stat().st_size == 96 * MIB
    with image.open("rb") as stream:
        stream.seek(60 * MIB)
        assert stream.read(4) == bytes(4)


def test_an_image_made_anew_may_be_smaller(image: Path) -> None:
    put(image, -512, b"EFI PART")
    assert main(["-f", *SMALL, "--size", "48m", str(image)]) == 0
    assert image.stat().st_size == 48 * MIB
    assert fstyp([str(image)]) == 0


def test_small_volumes_and_fifos_need_f(image: Path, capsys: Out) -> None:
    before = digest(image)
    for words, message in (
        (["-L", "T", "-u", "511m", "x.img"], "an UNDO/REDO FIFO of 535822336 bytes is below 512 MiB: -f allows it"),
        (["-L", "T", "--size", "10485759k", "y.img"], "the volumes have 10737417216 bytes: less than 10 GiB needs -f"),
        (
            ["-f", "-L", "T", "x.img"],
            "volume x.img: is too small: freemap, FIFO and root directory need 570982400 bytes, it has 67108864",
        ),
        (["-f", "-L", "T", "--size", "8m", "y.img"], "volume y.img: is too small: 8388608 bytes hold no big-block"),
        (
            ["-L", "T", "--size", "5000t", "y.img"],
            "volume y.img: is too large: a volume has at most 4503599627370496 bytes",
        ),
        (["-f", "-L", "T", "--size", "8m", "x.img"], "volume x.img: is too small: 8388608 bytes hold no big-block"),
    ):
        assert main(words) == 1, words
        assert capsys.readouterr().err == f"newfs_hammer: {message}\n"
        assert digest(image) == before
        assert os.listdir(".") == ["x.img"]


def test_empty_file(capsys: Out) -> None:
    Path("empty").touch()
    assert main(["-f", *SMALL, "empty"]) == 1
    assert capsys.readouterr().err.endswith("volume empty: is too small: 0 bytes hold no big-block\n")


def test_an_open_volume_is_never_formatted(image: Path, capsys: Out) -> None:
    with open_file(image, readonly=False):
        for words in (["-f"], [], ["-f", "--size", "64m"], ["-f", "--dry-run"]):
            size = PLAIN if "-f" not in words else SMALL
            assert main([*words, *size, str(image)]) == 1
            message = capsys.readouterr().err
            if words:
                assert message.splitlines()[-1] == "newfs_hammer: volume x.img: is open for writing already"
    assert image.stat().st_blocks == 0


def test_a_slice_of_a_disk(capsys: Out) -> None:
    """Only the slice is written; the table of the disk is no hindrance, what is in the slice is."""
    raw = bytearray(SIZE)
    gpt(raw, {0: (2048, SIZE // 512 - 2048, "data")})
    disk = Path("disk.img")
    disk.write_bytes(raw)
    put(disk, 2048 * 512, b"XFSB")
    assert main([*PLAIN, "disk.img@s0"]) == 1
    assert capsys.readouterr().err.endswith("volume disk.img@s0: holds an XFS file system: -f overwrites it\n")
    assert main(["-f", *SMALL, "disk.img@s0"]) == 0
    assert fstyp(["disk.img@s0"]) == 0
    after = disk.read_bytes()
    assert after[: 2048 * 512] == raw[: 2048 * 512]
    assert after[-1024 * 512 :] == raw[-1024 * 512 :]


# Mounted, and attached to devices.


@pytest.fixture
def loop(image: Path) -> Iterator[str]:
    made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"losetup: {made.stderr.strip()}")
    node = made.stdout.strip()
    yield node
    subprocess.run(["losetup", "--detach", node], check=True)


@pytest.mark.root
def test_a_block_device(loop: str, image: Path, capsys: Out) -> None:
    assert main(["-f", "-E", "-u", "8m", "-L", "T", loop]) == 0
    out = capsys.readouterr().out
    assert f"Volume 0 DEVICE {loop:<15} size  64.00MB\n" in out
    assert fstyp([loop]) == 0
    os.sync()
    assert fstyp([str(image)]) == 0


@pytest.mark.root
def test_the_file_behind_a_loop_device(loop: str, image: Path, capsys: Out) -> None:
    assert main(["-f", *SMALL, str(image)]) == 1
    assert capsys.readouterr().err.endswith(f"volume x.img: is attached to {loop}: it can't be formatted\n")
    with open_file(image, readonly=False):
        assert main(["-f", *SMALL, loop]) == 1
    err = capsys.readouterr().err
    assert f"volume {loop}: is made of {image.resolve()}, which is open for writing: it can't be formatted\n" in err


@pytest.mark.root
def test_a_mounted_loop_device(loop: str, image: Path, tmp_path: Path, capsys: Out) -> None:
    mkfs = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if mkfs is None:
        pytest.skip("mkfs.ext4 is not installed")
    place = tmp_path / "a place"
    place.mkdir()
    subprocess.run([mkfs, "-q", "-F", loop], check=True)
    mounted = subprocess.run(["mount", "-o", "ro", loop, place], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mount: {mounted.stderr.strip()}")
    try:
        before = digest(image)
        for words in (["-f"], ["-f", "--dry-run"]):
            assert main([*words, *SMALL, loop]) == 1
            assert f"volume {loop}: is mounted on {place}: it can't" in capsys.readouterr().err
            assert main([*words, *SMALL, str(image)]) == 1
            assert f"volume x.img: is mounted on {place}, by {loop}: it can't" in capsys.readouterr().err
        assert digest(image) == before
    finally:
        subprocess.run(["umount", place], check=True)
