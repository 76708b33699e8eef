"""What a volume to be formatted or added holds already: signatures of file systems, partition tables and archives.

A signature is bytes at a place; what is worth keeping is recognised by them alone, without checksums: a damaged file
system is worth asking for as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from hammerfs.const import BUFSIZE, VOL_SIGNATURE
from hammerfs.device.base import Device
from hammerfs.device.disklabel import MAGIC64, read_disklabel
from hammerfs.packfile import MAGIC as PACK_MAGIC

KIB: Final = 1024


class Found(NamedTuple):
    """One signature: what it stands for, and its bytes on the device."""

    what: str
    offset: int
    size: int


class _Row(NamedTuple):
    """A row of the table: what, the signature, and the places where it can be."""

    what: str
    magic: bytes
    offsets: tuple[int, ...]


def _le32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _either(what: str, magic: bytes, *offsets: int) -> list[_Row]:
    """The same in both byte orders."""
    return [_Row(what, magic, offsets), _Row(what, magic[::-1], offsets)]


_UFS_AT = tuple(block + 1372 for block in (0, 8 * KIB, 64 * KIB, 256 * KIB))
_PAGES = (4, 8, 16, 32, 64)
_HAMMER2_AT = tuple(copy << 31 for copy in range(4))
_MD_MAGIC = _le32(0xA92B4EFC)
_ISO_AT = tuple((32 + 2 * sector) * KIB + 1 for sector in range(8))

_FILE_SYSTEMS = [
    *_either("a HAMMER volume", VOL_SIGNATURE.to_bytes(8, "little"), 0),
    *_either("a HAMMER2 volume", bytes.fromhex("11201705324d4148"), *_HAMMER2_AT),
    _Row("an ext2, ext3 or ext4 file system", b"\x53\xef", (KIB + 56,)),
    _Row("an XFS file system", b"XFSB", (0,)),
    _Row("a btrfs file system", b"_BHRfS_M", (64 * KIB + 64,)),
    _Row("a bcachefs file system", bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"), (4 * KIB + 24,)),
    _Row("a bcache or bcachefs device", bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), (4 * KIB + 24,)),
    *[_Row("a ReiserFS", magic, (8 * KIB + 52, 64 * KIB + 52)) for magic in (b"ReIsErFs", b"ReIsEr2Fs", b"ReIsEr3Fs")],
    _Row("a Reiser4 file system", b"ReIsEr4", (64 * KIB,)),
    _Row("a JFS", b"JFS1", (32 * KIB,)),
    _Row("a NILFS2", b"\x34\x34", (KIB + 6,)),
    _Row("an F2FS", _le32(0xF2F52010), (KIB,)),
    _Row("a GFS2", bytes.fromhex("01161970"), (64 * KIB,)),
    _Row("an OCFS2", b"OCFSV2", tuple(2 * size for size in (512, 1024, 2048, 4096))),
    *_either("a UFS1 file system", _le32(0x00011954), *_UFS_AT),
    *_either("a UFS2 file system", _le32(0x19540119), *_UFS_AT),
    *[
        _Row("a Minix file system", magic, (KIB + 16,))
        for magic in (b"\x7f\x13", b"\x8f\x13", b"\x68\x24", b"\x78\x24")
    ],
    _Row("a Minix file system", b"\x5a\x4d", (KIB + 24,)),
    _Row("an HFS", b"BD", (KIB,)),
    *[_Row("an HFS+ file system", magic, (KIB,)) for magic in (b"H+\0\4", b"HX\0\5")],
    _Row("an APFS container", b"NXSB", (32,)),
    *[_Row("a FAT file system", magic, (54,)) for magic in (b"FAT12   ", b"FAT16   ", b"FAT     ")],
    _Row("a FAT file system", b"FAT32   ", (82,)),
    _Row("an exFAT file system", b"EXFAT   ", (3,)),
    _Row("an NTFS", b"NTFS    ", (3,)),
    _Row("a BitLocker volume", b"-FVE-FS-", (3,)),
    _Row("an ISO 9660 file system", b"CD001", _ISO_AT),
    *[_Row("a UDF", magic, _ISO_AT) for magic in (b"NSR02", b"NSR03")],
    *_either("a squashfs", b"hsqs", 0),
    *_either("a cramfs", _le32(0x28CD3D45), 0),
    _Row("a romfs", b"-rom1fs-", (0,)),
    _Row("an EROFS", _le32(0xE0F5E1E2), (KIB,)),
    *[_Row("swap space", magic, tuple(n * KIB - 10 for n in _PAGES)) for magic in (b"SWAPSPACE2", b"SWAP-SPACE")],
    *[
        _Row("a suspended system", magic, tuple(n * KIB - 10 for n in _PAGES))
        for magic in (b"S1SUSPEND\0", b"S2SUSPEND\0")
    ],
]
_CONTAINERS = [
    _Row("an LVM physical volume", b"LABELONE", (0, 512, 1024, 1536)),
    _Row("a LUKS container", b"LUKS\xba\xbe", (0,)),
    *_either("a Linux RAID member", _MD_MAGIC, 0, 4 * KIB),
    _Row("a GPT", b"EFI PART", (512, 4 * KIB, -512, -4 * KIB)),
    _Row("a disklabel64", _le32(MAGIC64), (512,)),
    _Row("an MBR or boot sector", b"\x55\xaa", (510,)),
    _Row("an Apple partition map", b"PM\0\0", (512,)),
    _Row("a qcow image", b"QFI\xfb", (0,)),
    *[_Row("a VMDK image", magic, (0,)) for magic in (b"KDMV", b"COWD", b"# Disk DescriptorFile")],
    _Row("a VHD image", b"conectix", (0, -512)),
    _Row("a VHDX image", b"vhdxfile", (0,)),
    _Row("a VDI image", _le32(0xBEDA107F), (64,)),
]
_FILES = [
    _Row("a packed HAMMER image", PACK_MAGIC, (0,)),
    *[_Row("a zip archive", magic, (0,)) for magic in (b"PK\3\4", b"PK\5\6", b"PK\7\x08")],
    _Row("gzip data", b"\x1f\x8b\x08", (0,)),
    _Row("bzip2 data", b"BZh", (0,)),
    _Row("xz data", b"\xfd7zXZ\0", (0,)),
    _Row("zstd data", _le32(0xFD2FB528), (0,)),
    _Row("lz4 data", _le32(0x184D2204), (0,)),
    _Row("a 7-Zip archive", b"7z\xbc\xaf\x27\x1c", (0,)),
    _Row("a RAR archive", b"Rar!\x1a\x07", (0,)),
    _Row("a tar archive", b"ustar", (257,)),
    *[_Row("a cpio archive", magic, (0,)) for magic in (b"070701", b"070702", b"070707", b"\xc7\x71")],
    _Row("an ar archive", b"!<arch>\n", (0,)),
    _Row("an SQLite database", b"SQLite format 3\0", (0,)),
    _Row("an ELF program", b"\x7fELF", (0,)),
    _Row("a PDF document", b"%PDF-", (0,)),
    _Row("a script", b"#!", (0,)),
]
TABLE: Final = (*_FILE_SYSTEMS, *_CONTAINERS, *_FILES)

_HEAD_SIZE: Final = 320 * KIB
_ZFS_UBERBLOCK: Final = (0x00BAB10C).to_bytes(8, "little")
_ZFS_RING: Final = range(128 * KIB, 256 * KIB, KIB)


def find_signatures(device: Device) -> list[Found]:
    """Everything known that a device holds, file systems first.

    Raises:
        DeviceError: It can't be read.
    """
    reader = _Reader(device)
    found = [
        Found(row.what, at, len(row.magic))
        for row in TABLE
        for at in map(reader.place, row.offsets)
        if reader.holds(at, row.magic)
    ]
    return [*found, *_zfs(reader), *_linux_raid_at_end(reader), *_disklabel32(device)]


def kinds_text(found: Iterable[Found]) -> str:
    """What signatures stand for, as a list in a sentence."""
    return ", ".join(dict.fromkeys(one.what for one in found))


def wipe(device: Device, found: Iterable[Found]) -> None:
    """Remove what a volume held before: the signatures found, and any header where ours will be.

    What of them lies where nothing is written (a btrfs at 64 KiB, a GPT at the end) would go on to be found.

    Raises:
        DeviceError: It failed.
    """
    for signature in found:
        device.pwrite(signature.offset, bytes(signature.size))
    if any(device.extents(0, BUFSIZE)):
        device.pwrite(0, bytes(BUFSIZE))
    device.flush()


class _Reader:
    """Reads a device's first bytes at once, and the rest where asked."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._head = device.pread(0, min(_HEAD_SIZE, device.size))

    def place(self, offset: int) -> int:
        """An offset from the start; negative ones count from the end in whole sectors."""
        return offset if offset >= 0 else self.device.size // 512 * 512 + offset

    def holds(self, at: int, magic: bytes) -> bool:
        """Whether these bytes are there."""
        end = at + len(magic)
        if at < 0 or end > self.device.size:
            return False
        return (
            self._head.startswith(magic, at) if end <= len(self._head) else self.device.pread(at, len(magic)) == magic
        )


def _zfs(reader: _Reader) -> Iterator[Found]:
    """The ring of uberblocks in the first label of a ZFS device."""
    for magic in (_ZFS_UBERBLOCK, _ZFS_UBERBLOCK[::-1]):
        for at in _ZFS_RING:
            if reader.holds(at, magic):
                yield Found("a ZFS device", at, len(magic))


def _linux_raid_at_end(reader: _Reader) -> Iterator[Found]:
    """Superblocks 0.90 and 1.0 of Linux RAID, in the last 64 KiB and 8 KiB."""
    size = reader.device.size
    for at in ((size & ~0xFFFF) - 0x10000, (size & ~0xFFF) - 0x2000):
        if reader.holds(at, _MD_MAGIC):
            yield Found("a Linux RAID member", at, len(_MD_MAGIC))


def _disklabel32(device: Device) -> Iterator[Found]:
    label = read_disklabel(device, 0, device.size).label
    if label is not None and label.kind == "disklabel32":
        yield Found("a disklabel32", device.sector, 512)
