"""What all phases share: the open file system, its buffers, what is used of each big-block, and the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hammerfs.addr import encode
from hammerfs.const import BIGBLOCK_BITS, BUFMASK, BUFSIZE, OFF_LONG_MASK, ZONE_RAW_VOLUME
from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.ondisk.volume import FIELD_OFFSETS
from hammerfs.volumes import Volumes
from tools.fsck.findings import Report

Progress = Callable[[str, int, int], None]
"""Told the phase, how much of it is done, and of how much."""
_BUFSHIFT = BUFSIZE.bit_length() - 1
_KEPT = 1024
"""Buffers kept: 16 MiB."""


class Buffers:
    """Buffers of 16 KiB as plain bytes, the newest kept; phases look into `kept` before they call `load`.

    Args:
        volumes: The set.
    """

    __slots__ = ("_volumes", "kept")

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self.kept: dict[int, bytes] = {}
        """By address without its zone, divided by 16384."""

    def load(self, off: int) -> bytes:
        """The buffer that holds an address.

        Raises:
            CorruptError: It lies outside the volume set.
            DeviceError: The device failed.
        """
        index = (off & OFF_LONG_MASK) >> _BUFSHIFT
        buf = self.kept.get(index)
        if buf is None:
            volume, byte_off = self._volumes.locate(off & ~BUFMASK, BUFSIZE)
            buf = volume.dev.pread(byte_off, BUFSIZE)
            if len(self.kept) >= _KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[index] = buf
        return buf

    def read(self, off: int, nbytes: int) -> bytes:
        """Bytes of one extent or table, past the kept buffers.

        Raises:
            CorruptError: It lies outside the volume set or crosses the end of its big-block.
            DeviceError: The device failed.
        """
        volume, byte_off = self._volumes.locate(off, nbytes)
        return volume.dev.pread(byte_off, nbytes)


class Usage:
    """Bytes referred to in each big-block, by the zone that the references name."""

    __slots__ = ("_volumes", "blocks")

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self.blocks: dict[int, list[int]] = {}
        """Tagged address divided by 8 MiB -> [bytes, end of the highest one]."""

    def open(self, block: int) -> list[int] | None:
        """The counters of a big-block (tagged address divided by 8 MiB); None where no volume has one."""
        found = self.blocks.get(block)
        if found is None:
            off = block << BIGBLOCK_BITS
            volume = self._volumes.by_number.get(off >> 52 & 0xFF)
            if volume is None or (off & (1 << 52) - 1) >> BIGBLOCK_BITS >= volume.bigblocks:
                return None
            found = self.blocks[block] = [0, 0]
        return found

    def take(self, off: int, nbytes: int) -> None:
        """Count bytes at a tagged address that lies in a volume."""
        found = self.open(off >> BIGBLOCK_BITS)
        if found is not None:
            found[0] += nbytes
            found[1] = max(found[1], (off & (1 << BIGBLOCK_BITS) - 1) + nbytes)


@dataclass(slots=True)
class Context:
    """One check."""

    fs: HammerFS
    """As recovered."""
    report: Report
    data: bool
    """Verify checksums of file data."""
    idle: bool
    """Look at what nothing uses now: old records of the FIFO, freemap entries of absent volumes and spans."""
    dirty: bool
    """Not closed cleanly: what is looked at has been recovered in memory."""
    progress: Progress
    buffers: Buffers = field(init=False)
    usage: Usage = field(init=False)
    freemap: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """Untagged address divided by 8 MiB -> (zone, append_off, bytes_free) of the big-blocks that are not free."""
    lost_spans: set[int] = field(default_factory=set)
    """Layer-1 indices whose layer-2 table can't be read."""
    untrusted_blocks: set[int] = field(default_factory=set)
    """Keys of `freemap` whose entries are damaged: a finding has told so already."""
    master_ids: set[int] = field(default_factory=set)
    """Low four bits of the TIDs seen: one value where all mounts tagged their TIDs for mirroring."""
    mirror_faults: list[tuple[str, int]] = field(default_factory=list)
    """mirror_tids that are too low: what, and the node; told when all `master_ids` are known."""
    records: int = 0
    nodes: int = 0

    def __post_init__(self) -> None:
        self.buffers = Buffers(self.fs.volumes)
        self.usage = Usage(self.fs.volumes)

    @property
    def volumes(self) -> Volumes:
        """The volume set, as recovered."""
        return self.fs.volumes

    def read(self, code: str, off: int, nbytes: int) -> bytes | None:
        """Bytes of a table, or None and a finding of `code`."""
        try:
            return self.buffers.read(off, nbytes)
        except HammerError as err:
            self.report.add(code, err.what, offset=off)
            return None

    def add_mirror_fault(self, what: str, off: int) -> None:
        """A mirror_tid is below a TID underneath."""
        if len(self.mirror_faults) < self.report.limit:
            self.mirror_faults.append((what, off))


def header_address(field: str, vol_no: int = 0) -> int:
    """Zone-1 address of a header field."""
    return encode(ZONE_RAW_VOLUME, vol_no, FIELD_OFFSETS[field])
