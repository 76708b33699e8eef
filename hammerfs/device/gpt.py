"""GUID partition tables: the primary one, or the backup at the end of the disk when that is damaged.

Layout as UEFI has it: one header sector (signature "EFI PART", 92 bytes or more, CRC-32 over itself with its CRC field
zero) and a table of entries of 128 bytes or more (CRC-32 in the header). All numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from hammerfs.device.base import Device

SIGNATURE = b"EFI PART"
SECTOR_SIZES = (512, 4096)
MAX_ENTRIES = 1024
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_MAX_TABLE = 1 << 20
_UNUSED = bytes(16)


class GptEntry(NamedTuple):
    """One used entry: its place in the table (from 0), first byte, bytes, type (16 raw bytes) and name."""

    slot: int
    begin: int
    size: int
    type_guid: bytes
    name: str


class GptTable(NamedTuple):
    """A table that is whole: its entries, the sector size it counts in, and whether it is the backup."""

    entries: list[GptEntry]
    sector: int
    is_backup: bool


class GptResult(NamedTuple):
    """What was found: a table, or none; and what was wrong with damaged ones."""

    table: GptTable | None
    problems: list[str]


def read_gpt(disk: Device) -> GptResult:
    """Look for a GPT in sectors of 512 and 4096 bytes, the primary before the backup.

    Raises:
        DeviceError: The disk can't be read.
    """
    problems: list[str] = []
    for is_backup in (False, True):
        for sector in SECTOR_SIZES:
            lba = disk.size // sector - 1 if is_backup else 1
            if lba < 1 or (lba + 1) * sector > disk.size:
                continue
            entries = _table_at(disk, sector, lba, problems)
            if entries is not None:
                return GptResult(GptTable(entries, sector, is_backup), problems)
    return GptResult(None, problems)


def _table_at(disk: Device, sector: int, lba: int, problems: list[str]) -> list[GptEntry] | None:
    raw = disk.pread(lba * sector, sector)
    if not raw.startswith(SIGNATURE):
        return None
    where = f"GPT header in sector {lba} of {sector} bytes"
    head = _HEADER.unpack_from(raw)
    _, _, header_size, header_crc, _, lba_self, _, _, _, _, table_lba, count, entry_size, table_crc = head
    if not _HEADER.size <= header_size <= sector:
        problems.append(f"{where}: impossible header size {header_size}")
        return None
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:header_size]) != header_crc:
        problems.append(f"{where}: bad CRC")
        return None
    if lba_self != lba:
        problems.append(f"{where}: says it is sector {lba_self}")
        return None
    table_bytes = count * entry_size
    if entry_size < _ENTRY.size or entry_size % 8 or count > MAX_ENTRIES or table_bytes > _MAX_TABLE:
        problems.append(f"{where}: impossible table of {count} entries of {entry_size} bytes")
        return None
    if table_lba * sector + table_bytes > disk.size:
        problems.append(f"{where}: table leaves the disk")
        return None
    table = disk.pread(table_lba * sector, table_bytes)
    if zlib.crc32(table) != table_crc:
        problems.append(f"{where}: bad CRC of the table in sector {table_lba}")
        return None
    return list(_entries(table, entry_size, sector, disk.size, problems))


def _entries(table: bytes, entry_size: int, sector: int, disk_size: int, problems: list[str]) -> list[GptEntry]:
    found = []
    for index in range(len(table) // entry_size):
        type_guid, _, first, last, _, name = _ENTRY.unpack_from(table, index * entry_size)
        if type_guid == _UNUSED:
            continue
        if first > last or (last + 1) * sector > disk_size:
            problems.append(f"GPT entry {index}: sectors {first} to {last} leave the disk")
            continue
        text = name.decode("utf-16-le", "replace").split("\0", 1)[0]
        found.append(GptEntry(index, first * sector, (last + 1 - first) * sector, type_guid, text))
    return found
