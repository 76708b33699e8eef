"""Which parts a disk image has, and the one that a name like `s1d` means.

Names as DragonFly gives them: slice `sN` (on an MBR disk entries from 1, logical partitions from 5; on a GPT disk the
index from 0), partition letters `a` to `p` of the label inside; `s0` is also the whole of a disk that has a label but
no slices. `pN` is the GPT or MBR entry counted from 1, as other systems count them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hammerfs.device.base import Device
from hammerfs.device.disklabel import LabelResult, read_disklabel
from hammerfs.device.gpt import read_gpt
from hammerfs.device.mbr import read_mbr
from hammerfs.errors import DeviceError

_NAME = re.compile(r"(?:([sp])([0-9]{1,4}))?([a-p])?\Z", re.ASCII)


class Part(NamedTuple):
    """A part of a disk.

    Attributes:
        name: As DragonFly calls it after the disk's name: `s1`, `s1d`, `d`.
        begin: First byte.
        size: Bytes.
        kind: What describes it: "GPT", "MBR", "disklabel64", "disklabel32".
        number: Entry counted from 1 (the N of `pN`); 0 for a partition of a label on the whole disk.
    """

    name: str
    begin: int
    size: int
    kind: str
    number: int


class DiskTable(NamedTuple):
    """All parts of a disk, slices before the partitions inside them; and what was damaged."""

    parts: list[Part]
    problems: list[str]


def is_part_name(name: str) -> bool:
    """Whether this could name a part of a disk: `s1`, `s1d`, `p2`, `p2a`, `d`."""
    return bool(name) and _NAME.match(name) is not None


def read_parts(disk: Device) -> DiskTable:
    """Find the parts of a disk: a label on the whole disk, GPT (else MBR) entries, and labels inside those.

    Raises:
        DeviceError: The disk can't be read.
    """
    parts: list[Part] = []
    problems: list[str] = []
    if disk.size < 512:
        return DiskTable(parts, problems)
    _add_label(parts, problems, Part("", 0, disk.size, "", 0), read_disklabel(disk, 0, disk.size))
    gpt = read_gpt(disk)
    problems += gpt.problems
    if gpt.table is not None:
        slices = [Part(f"s{e.slot}", e.begin, e.size, "GPT", e.slot + 1) for e in gpt.table.entries]
        if gpt.table.is_backup:
            problems.append("the primary GPT is damaged: the backup is used")
    else:
        mbr = read_mbr(disk)
        problems += mbr.problems
        slices = [Part(f"s{e.number}", e.begin, e.size, "MBR", e.number) for e in mbr.entries]
    for part in slices:
        parts.append(part)
        if part.begin:  # a slice that starts the disk has the label of the disk
            _add_label(parts, problems, part, read_disklabel(disk, part.begin, part.size))
    return DiskTable(parts, problems)


def find_part(disk: Device, name: str) -> Part:
    """The part that a name means. A letter alone is that partition of the only label that has one.

    Raises:
        DeviceError: There is none, or several; the message lists what was found.
    """
    table = read_parts(disk)
    match = _NAME.match(name)
    if not name or match is None:
        raise DeviceError(
            f"'{name}' is no name of a slice or partition (s1, s1d, d, p2, offset=BYTES)", volume=disk.name
        )
    kind, number, letter = match.groups()
    found = [part for part in table.parts if _matches(part, kind, number, letter)]
    if kind is None and len(found) > 1 and any(part.number == 0 for part in found):
        found = [part for part in found if part.number == 0]
    if len(found) == 1:
        return found[0]
    problem = f"; damaged: {'; '.join(table.problems)}" if table.problems else ""
    if found:
        names = ", ".join(part.name for part in found)
        raise DeviceError(f"'{name}' could be any of {names}: name the slice too", volume=disk.name)
    raise DeviceError(f"no slice or partition '{name}'; found: {_listing(table.parts)}{problem}", volume=disk.name)


def _matches(part: Part, kind: str | None, number: str | None, letter: str | None) -> bool:
    is_letter = part.kind.startswith("disklabel")
    if is_letter != (letter is not None) or (letter is not None and part.name[-1] != letter):
        return False
    if kind is None or number is None:
        return True
    if kind == "p":
        return part.number == int(number)
    return (part.name.rstrip("abcdefghijklmnop") or "s0") == f"s{int(number)}"


def _listing(parts: list[Part]) -> str:
    return ", ".join(f"{part.name} ({part.kind}, {part.size} bytes at {part.begin})" for part in parts) or "nothing"


def _add_label(parts: list[Part], problems: list[str], where: Part, result: LabelResult) -> None:
    prefix = f"{where.name}: " if where.name else ""
    problems += [prefix + problem for problem in result.problems]
    if result.label is None:
        return
    problems += [prefix + problem for problem in result.label.problems]
    for part in result.label.parts:
        name = where.name + part.letter
        parts.append(Part(name, where.begin + part.begin, part.size, result.label.kind, where.number))
