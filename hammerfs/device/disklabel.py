"""DragonFly's labels inside a slice or on a whole disk: disklabel64 and disklabel32.

A disklabel64 (struct disklabel64 of sys/disklabel64.h) starts at byte 0 of its slice, its magic at byte 512; offsets
are bytes relative to the slice, the CRC-32 covers the magic to the last partition with the CRC field as zero. A
disklabel32 (struct disklabel32) lies in sector 1, at a multiple of 8 bytes; its partitions count sectors from the
start of the disk, and partition `c` is the slice itself: so the distance to `c` is the offset in the slice, also when
the slice has been copied elsewhere.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from hammerfs.device.base import Device

MAX_PARTITIONS = 16
MAGIC64 = 0xC4464C59
MAGIC32 = 0x82564557
_HEAD64 = struct.Struct("<IIII16sQQQQQ64s64x")  # from byte 512: magic crc align npartitions uuid total ... packname
_PART64 = struct.Struct("<QQB15x32x")
_HEAD64_AT = 512
_PART32 = struct.Struct("<IIIBBH")
_RAW_PART = 2
_SECSIZE_AT = 40
_MAGIC2_AT = 132
_NPARTITIONS_AT = 138
_PARTS32_AT = 148
assert _HEAD64.size == 200
assert _PART64.size == 64


class LabelPart(NamedTuple):
    """A used partition: its letter, first byte relative to the slice, bytes, and fstype byte."""

    letter: str
    begin: int
    size: int
    fstype: int


class Disklabel(NamedTuple):
    """A label that is whole.

    Attributes:
        kind: "disklabel64" or "disklabel32".
        parts: Used partitions that lie inside the slice.
        problems: What was wrong with others.
    """

    kind: str
    parts: list[LabelPart]
    problems: list[str]


class LabelResult(NamedTuple):
    """What a slice holds: a label or none, and why a damaged one was not taken."""

    label: Disklabel | None
    problems: list[str]


def read_disklabel(disk: Device, begin: int, size: int) -> LabelResult:
    """Read the label of the slice of `size` bytes at byte `begin` of a disk, if it has one.

    Raises:
        DeviceError: The disk can't be read.
    """
    problems: list[str] = []
    label = _read64(disk, begin, size, problems) or _read32(disk, begin, size, problems)
    return LabelResult(label, problems)


def _read64(disk: Device, begin: int, size: int, problems: list[str]) -> Disklabel | None:
    whole = _HEAD64_AT + _HEAD64.size + MAX_PARTITIONS * _PART64.size
    if size < whole:
        return None
    raw = disk.pread(begin, whole)[_HEAD64_AT:]
    magic, crc, _, count, *_ = _HEAD64.unpack_from(raw)
    if magic != MAGIC64:
        return None
    if count > MAX_PARTITIONS:
        problems.append(f"disklabel64: impossible number of partitions {count}")
        return None
    covered = raw[: _HEAD64.size + count * _PART64.size]
    if zlib.crc32(covered[:4] + bytes(4) + covered[8:]) != crc:
        problems.append("disklabel64: bad CRC")
        return None
    label = Disklabel("disklabel64", [], [])
    for i in range(count):
        part_begin, part_size, fstype = _PART64.unpack_from(raw, _HEAD64.size + i * _PART64.size)
        _take(label, size, LabelPart(chr(ord("a") + i), part_begin, part_size, fstype))
    return label


def _read32(disk: Device, begin: int, size: int, problems: list[str]) -> Disklabel | None:
    whole = _PARTS32_AT + MAX_PARTITIONS * _PART32.size
    for sector in sorted({512, disk.sector, 4096}):
        if size < 2 * sector:
            continue
        raw = disk.pread(begin + sector, sector)
        for at in range(0, sector - whole + 1, 8):
            magic, magic2 = (int.from_bytes(raw[at + x : at + x + 4], "little") for x in (0, _MAGIC2_AT))
            if magic == magic2 == MAGIC32:
                return _parse32(raw[at : at + whole], sector, size, problems)
    return None


def _parse32(raw: bytes, sector: int, size: int, problems: list[str]) -> Disklabel | None:
    (count,) = struct.unpack_from("<H", raw, _NPARTITIONS_AT)
    (secsize,) = struct.unpack_from("<I", raw, _SECSIZE_AT)
    if count > MAX_PARTITIONS:
        problems.append(f"disklabel32: impossible number of partitions {count}")
        return None
    total = 0
    for (word,) in struct.iter_unpack("<H", raw[: _PARTS32_AT + count * _PART32.size]):
        total ^= word
    if total != 0:
        problems.append("disklabel32: bad checksum")
        return None
    if secsize != sector:
        problems.append(f"disklabel32: lies in sector 1 of {sector} bytes, but counts sectors of {secsize}")
        return None
    rows = [_PART32.unpack_from(raw, _PARTS32_AT + i * _PART32.size) for i in range(count)]
    base = rows[_RAW_PART][1] if count > _RAW_PART else 0
    label = Disklabel("disklabel32", [], [])
    for i, (sectors, first, _, fstype, _, _) in enumerate(rows):
        letter = chr(ord("a") + i)
        _take(label, size, LabelPart(letter, (first - base) * sector, sectors * sector, fstype))
    return label


def _take(label: Disklabel, slice_size: int, part: LabelPart) -> None:
    if part.size == 0:
        return
    if part.begin < 0 or part.begin + part.size > slice_size:
        label.problems.append(f"partition {part.letter}: {part.size} bytes from {part.begin} on leave the slice")
        return
    label.parts.append(part)
