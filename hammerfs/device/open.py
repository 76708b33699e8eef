"""From what a user writes to open devices: `a.img:b.img`, `/dev/sdb`, `disk.img@s1d`, `disk.img@offset=32k`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hammerfs.const import MAX_VOLUMES
from hammerfs.device.base import Device
from hammerfs.device.file import FileDevice, identity_of, open_file
from hammerfs.device.label import find_part, is_part_name
from hammerfs.device.slice import SliceDevice
from hammerfs.errors import DeviceError, UsageError, VolumeSetError

_OFFSET = re.compile(r"offset=(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})([kmgtKMGT]?)\Z", re.ASCII)
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}

Warn = Callable[[str], None]
Spec = str | os.PathLike[str]


class DeviceSpec(NamedTuple):
    """One volume as a user named it.

    Attributes:
        text: What was written.
        path: The file or disk.
        part: Name of a slice or partition in it, or None.
        offset: First byte in it, or None.
    """

    text: str
    path: str
    part: str | None = None
    offset: int | None = None


def parse_spec(text: str) -> DeviceSpec:
    """Take one volume name apart. A file whose own name holds the `@` wins, if it is there."""
    path, at, suffix = text.rpartition("@")
    if not at or not path or os.path.lexists(text):
        return DeviceSpec(text, text)
    match = _OFFSET.match(suffix)
    if match is not None:
        return DeviceSpec(
            text, path, offset=int(match[1], 0 if "x" in match[1].lower() else 10) << _SHIFT[match[2].lower()]
        )
    if is_part_name(suffix):
        return DeviceSpec(text, path, part=suffix)
    return DeviceSpec(text, text)


def split_volumes(text: str) -> list[str]:
    """Split a colon list of volumes. A name that holds colons itself is kept whole where such a file is there.

    Raises:
        UsageError: A name between two colons is empty.
    """
    words = text.split(":")
    names: list[str] = []
    at = 0
    while at < len(words):
        end = next((end for end in range(len(words), at + 1, -1) if _is_there(":".join(words[at:end]))), at + 1)
        name = ":".join(words[at:end])
        if not name:
            raise UsageError(f"an empty volume name in '{text}'")
        names.append(name)
        at = end
    return names


def open_devices(specs: Spec | Sequence[Spec], *, readonly: bool = True, warn: Warn | None = None) -> list[Device]:
    """Open the volumes of a set, in the order given.

    Args:
        specs: A colon list, or several names; a text may be a colon list, a path object is one volume.
        readonly: False claims each file or disk for writing, against everybody else.
        warn: Told about a volume that somebody else writes to.

    Returns:
        One device for each name. Parts of one disk share its descriptor, which is closed with the last of them.

    Raises:
        UsageError: No volumes, too many, or an empty name.
        VolumeSetError: One volume is named twice.
        BusyError: One is claimed for writing by somebody else.
        DeviceError: One can't be opened, or has no such slice; all that were opened are closed again.
    """
    opener = _Opener(readonly, warn)
    try:
        for text in _names(specs):
            opener.add(parse_spec(text))
    except BaseException:
        opener.close()
        raise
    return opener.devices


def open_device(spec: Spec, *, readonly: bool = True, warn: Warn | None = None) -> Device:
    """Open one volume; a colon in a text belongs to the name. See `open_devices` for arguments and errors."""
    opener = _Opener(readonly, warn)
    try:
        opener.add(parse_spec(os.fspath(spec)))
    except BaseException:
        opener.close()
        raise
    return opener.devices[0]


def is_same_place(one: Device, other: Device) -> bool:
    """Whether two devices begin at the same byte of the same file or disk."""
    return _place(one) == _place(other)


def _place(device: Device) -> tuple[object, int]:
    begin = 0
    while isinstance(device, SliceDevice):
        begin += device.begin
        device = device.parent
    return device.identity if isinstance(device, FileDevice) else id(device), begin


def _names(specs: Spec | Sequence[Spec]) -> list[str]:
    several = [specs] if isinstance(specs, str | os.PathLike) else specs
    names: list[str] = []
    for spec in several:
        names += split_volumes(spec) if isinstance(spec, str) else [os.fspath(spec)]
    if not names:
        raise UsageError("no volumes given")
    if len(names) > MAX_VOLUMES:
        raise UsageError(f"{len(names)} volumes given: a file system has at most {MAX_VOLUMES}")
    return names


def _is_there(text: str) -> bool:
    return os.path.lexists(text) or os.path.lexists(parse_spec(text).path)


class _Whole:
    """An open file or disk with the devices that are parts of it."""

    def __init__(self, device: FileDevice) -> None:
        self.device = device
        self.users = 0
        self.taken: list[tuple[int, int, str]] = []

    def take(self, begin: int, end: int, name: str) -> None:
        """Note that a volume uses bytes [begin, end)."""
        for taken_begin, taken_end, taken_name in self.taken:
            if begin < taken_end and taken_begin < end:
                raise VolumeSetError(f"is the same volume as {taken_name}, or overlaps it", volume=name)
        self.taken.append((begin, end, name))
        self.users += 1

    def release(self) -> None:
        """One volume has been closed; the last one closes the disk."""
        self.users -= 1
        if self.users == 0:
            self.device.close()


class _Opener:
    """Opens one volume after the other and knows which disk has been opened already."""

    def __init__(self, readonly: bool, warn: Warn | None) -> None:
        self.devices: list[Device] = []
        self._readonly = readonly
        self._warn = warn
        self._wholes: list[_Whole] = []

    def add(self, spec: DeviceSpec) -> None:
        whole = self._whole(spec.path)
        disk = whole.device
        if spec.part is None and spec.offset is None:
            whole.take(0, max(disk.size, 1), spec.text)
            self.devices.append(disk)
            return
        if spec.part is not None:
            part = find_part(disk, spec.part)
            begin, size = part.begin, part.size
            whole.take(begin, begin + size, spec.text)
        else:
            begin = spec.offset or 0
            if begin >= disk.size:
                raise DeviceError(f"offset {begin} is beyond its {disk.size} bytes", volume=spec.text)
            size = disk.size - begin
            # How much of the rest is this volume's only its header knows: two offsets are two volumes.
            whole.take(begin, begin + 1, spec.text)
        self.devices.append(SliceDevice(disk, begin, size, spec.text, on_close=whole.release))

    def close(self) -> None:
        for whole in self._wholes:
            whole.device.close()

    def _whole(self, path: str) -> _Whole:
        """The disk at a path: opened now, or already when another part of it was named."""
        identity = None
        if os.path.exists(path):
            identity = identity_of(os.stat(path))
        for whole in self._wholes:
            if whole.device.identity == identity:
                return whole
        self._wholes.append(_Whole(open_file(path, readonly=self._readonly, warn=self._warn)))
        return self._wholes[-1]
