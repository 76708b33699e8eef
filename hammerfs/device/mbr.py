"""MBR partition tables with extended and logical partitions (struct dos_partition of sys/diskmbr.h).

Slices 1 to 4 are the entries of the first sector, 5 and up the logical partitions in the order of the chain.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hammerfs.device.base import Device

TYPE_DRAGONFLY = 0x6C
TYPE_386BSD = 0xA5
TYPE_GPT_PROTECTIVE = 0xEE
TYPES_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_ENTRY = struct.Struct("<4xB3xII")
_TABLE_OFFSET = 446
_MAX_LOGICAL = 128
_DEDICATED = [(0, 0, 0), (0, 0, 0), (0, 0, 0), (TYPE_386BSD, 0, 50000)]
"""What the boot sector of a disk without slices ("dangerously dedicated") holds: not a table."""


class MbrEntry(NamedTuple):
    """One used entry: its slice number (from 1), type byte, first byte and bytes."""

    number: int
    type: int
    begin: int
    size: int


class MbrResult(NamedTuple):
    """The entries (containers of logical partitions left out), and what was wrong with others."""

    entries: list[MbrEntry]
    problems: list[str]


def read_mbr(disk: Device) -> MbrResult:
    """Read the partitions of a disk, in sectors as the disk has them; without a table there are none.

    Raises:
        DeviceError: The disk can't be read.
    """
    result = MbrResult([], [])
    table = _table(disk, 0)
    if table is None or table == _DEDICATED:
        return result
    for number, (kind, start, count) in enumerate(table, 1):
        if kind == TYPE_GPT_PROTECTIVE:
            result.problems.append("a protective MBR, but no intact GPT")
        elif kind and kind not in TYPES_EXTENDED:
            _take(disk, result, MbrEntry(number, kind, start * disk.sector, count * disk.sector))
    next_number = 5
    for kind, start, _ in table:
        if kind in TYPES_EXTENDED:
            next_number = _logical(disk, result, start, next_number)
    return result


def _logical(disk: Device, result: MbrResult, base: int, number: int) -> int:
    """Follow a chain of extended boot records from sector `base`; returns the next free slice number."""
    at = base
    seen: set[int] = set()
    while len(seen) < _MAX_LOGICAL:
        if at in seen:
            result.problems.append(f"logical partitions: the chain loops at sector {at}")
            return number
        seen.add(at)
        table = _table(disk, at)
        if table is None:
            result.problems.append(f"logical partitions: no boot record in sector {at}")
            return number
        following = None
        for kind, start, count in table:
            if kind in TYPES_EXTENDED:
                following = base + start if following is None else following
            elif kind:
                begin = (at + start) * disk.sector
                number += _take(disk, result, MbrEntry(number, kind, begin, count * disk.sector))
        if following is None:
            return number
        at = following
    result.problems.append(f"logical partitions: more than {_MAX_LOGICAL}")
    return number


def _take(disk: Device, result: MbrResult, entry: MbrEntry) -> bool:
    if entry.size == 0:
        return False
    if entry.begin >= disk.size:
        result.problems.append(f"slice {entry.number}: starts beyond the end of the disk")
        return False
    if entry.begin + entry.size > disk.size:
        result.problems.append(f"slice {entry.number}: ends beyond the end of the disk, cut there")
        entry = entry._replace(size=disk.size - entry.begin)
    result.entries.append(entry)
    return True


def _table(disk: Device, sector: int) -> list[tuple[int, int, int]] | None:
    """(type, first sector, sectors) of the four entries of a boot record; None where there is none."""
    off = sector * disk.sector
    if off + 512 > disk.size:
        return None
    raw = disk.pread(off, 512)
    if raw[510:512] != b"\x55\xaa":
        return None
    return [_ENTRY.unpack_from(raw, _TABLE_OFFSET + i * 16) for i in range(4)]
