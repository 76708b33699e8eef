"""Disk images with partition tables, laid out byte by byte from the format facts (no code of the reader is used)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

DRAGONFLY_HAMMER_GUID = bytes.fromhex("ac63dc61386edc11851301301bb8a9f5")


def put(image: bytearray, off: int, data: bytes) -> None:
    assert 0 <= off <= off + len(data) <= len(image)
    image[off : off + len(data)] = data


def mbr(image: bytearray, entries: Sequence[tuple[int, int, int]], at: int = 0, sector: int = 512) -> None:
    """Write a boot record in sector `at`: up to four (type, first sector, sectors)."""
    for i, (kind, first, count) in enumerate(entries):
        row = bytes([0x80 if i == 0 else 0, 1, 1, 0, kind, 0xFE, 0xFF, 0xFF]) + struct.pack("<II", first, count)
        put(image, at * sector + 446 + 16 * i, row)
    put(image, at * sector + 510, b"\x55\xaa")


def gpt(
    image: bytearray,
    entries: Mapping[int, tuple[int, int, str]],
    sector: int = 512,
    *,
    slots: int = 128,
    entry_size: int = 128,
    type_guid: bytes = DRAGONFLY_HAMMER_GUID,
) -> None:
    """Write a protective MBR, both headers and both tables; entries: slot -> (first sector, last sector, name)."""
    total = len(image) // sector
    table_sectors = -(-slots * entry_size // sector)
    mbr(image, [(0xEE, 1, total - 1)], sector=sector)
    table = bytearray(slots * entry_size)
    for slot, (first, last, name) in entries.items():
        text = name.encode("utf-16-le").ljust(72, b"\0")
        row = type_guid + bytes([slot]) * 16 + struct.pack("<QQQ", first, last, 0) + text
        table[slot * entry_size : slot * entry_size + len(row)] = row
    for here, there, table_at in ((1, total - 1, 2), (total - 1, 1, total - 1 - table_sectors)):
        head = bytearray(92)
        struct.pack_into("<8sIIII", head, 0, b"EFI PART", 0x00010000, 92, 0, 0)
        struct.pack_into("<QQQQ", head, 24, here, there, 2 + table_sectors, total - 2 - table_sectors)
        struct.pack_into("<16sQIII", head, 56, b"disk guid bytes!", table_at, slots, entry_size, zlib.crc32(table))
        struct.pack_into("<I", head, 16, zlib.crc32(head))
        put(image, here * sector, bytes(head))
        put(image, table_at * sector, bytes(table))


def disklabel64(
    image: bytearray, begin: int, size: int, parts: Mapping[str, tuple[int, int]], *, count: int = 16
) -> None:
    """Write a disklabel64 at the start of a slice; parts: letter -> (offset in the slice, bytes)."""
    label = bytearray(200 + 64 * count)
    struct.pack_into("<IIII16s", label, 0, 0xC4464C59, 0, 4096, count, b"label uuid bytes")
    struct.pack_into("<QQQQQ", label, 32, size, 4096, 1 << 20, size - 4096, size - 4096)
    label[72:80] = b"packname"
    for letter, (off, length) in parts.items():
        struct.pack_into("<QQB", label, 200 + 64 * (ord(letter) - ord("a")), off, length, 22)
    struct.pack_into("<I", label, 4, zlib.crc32(label))
    put(image, begin + 512, bytes(label))


def disklabel32(
    image: bytearray,
    begin: int,
    size: int,
    parts: Mapping[str, tuple[int, int]],
    *,
    sector: int = 512,
    at: int = 0,
    base: int | None = None,
    count: int = 16,
) -> None:
    """Write a disklabel32 in sector 1 of a slice; parts: letter -> (offset in the slice, bytes).

    Stored offsets count from the start of the disk, which `base` says (in bytes; by default the slice's own place).
    """
    label = bytearray(148 + 16 * count)
    struct.pack_into("<IHH16s16sI", label, 0, 0x82564557, 4, 0, b"SCSI", b"fictitious", sector)
    struct.pack_into("<I", label, 132, 0x82564557)
    struct.pack_into("<HHII", label, 136, 0, count, 8192, 8192)
    origin = begin if base is None else base
    for letter, (off, length) in {"c": (0, size), **parts}.items():
        row = struct.pack("<IIIBBH", length // sector, (origin + off) // sector, 0, 22, 0, 0)
        put(label, 148 + 16 * (ord(letter) - ord("a")), row)
    total = 0
    for (word,) in struct.iter_unpack("<H", bytes(label)):
        total ^= word
    struct.pack_into("<H", label, 136, total)
    put(image, begin + sector + at, bytes(label))
