"""The volume set of one file system, 1..256 volumes given in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hammerfs.const import (
    BIGBLOCK_MASK,
    BIGBLOCK_SIZE,
    BUFSIZE,
    LAYER1_ENTRIES,
    LAYER1_PER_VOLUME,
    MAX_UNDO_BIGBLOCKS,
    MAX_VOLUMES,
    OFF_BAD,
    OFF_SHORT_MASK,
    ROOT_VOLUME,
    VERSION_MAX,
    VERSION_MIN,
    VOL_SHIFT,
    ZONE_BTREE,
    ZONE_FREEMAP,
    ZONE_RAW_BUFFER,
    ZONE_RAW_VOLUME,
    ZONE_SHIFT,
    ZONE_UNAVAIL,
    ZONE_UNDO,
)
from hammerfs.crc import CrcRule
from hammerfs.device.base import Device
from hammerfs.errors import CorruptError, DeviceError, VersionError, VolumeSetError
from hammerfs.ondisk.blockmap import LAYER1_SIZE, Layer1
from hammerfs.ondisk.volume import VolumeOndisk
from hammerfs.volume import Volume

_BUFFER_ZONES = frozenset({ZONE_RAW_BUFFER, ZONE_FREEMAP, *range(ZONE_BTREE, ZONE_UNAVAIL)})


class Volumes:
    """All volumes of a file system; the root volume's header is its superblock.

    Args:
        devices: One for each volume. They stay the caller's until the set is complete, then `close` closes them.

    Raises:
        VolumeSetError: A volume is missing, there twice, foreign or not HAMMER; the message names it.
        VersionError: Not one of the versions 1..7.
        CorruptError: A header that can't be.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        if not 1 <= len(devices) <= MAX_VOLUMES:
            raise VolumeSetError(f"{len(devices)} volumes given, a file system has 1..{MAX_VOLUMES}")
        self.by_number: dict[int, Volume] = {}
        self.order = [Volume(dev) for dev in devices]
        """In the order given."""
        for volume in self.order:
            self._add(volume)
        self.root = self._find_root()
        version = self.root.ondisk.vol_version
        if not VERSION_MIN <= version <= VERSION_MAX:
            raise VersionError(
                f"volume version {version} is not one of {VERSION_MIN}..{VERSION_MAX}", volume=self.root.dev.name
            )
        self.rule = CrcRule(version)
        self.notes = list(self._header_notes())
        """Harmless oddities found while opening, one line each."""

    def __iter__(self) -> Iterator[Volume]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def superblock(self) -> VolumeOndisk:
        """Header of the root volume, with the global state."""
        return self.root.ondisk

    @property
    def version(self) -> int:
        """Volume version, 1..7."""
        return self.root.ondisk.vol_version

    def locate(self, off: int, nbytes: int) -> tuple[Volume, int]:
        """Where `nbytes` at address `off` are.

        Returns:
            The volume and the byte offset in it.

        Raises:
            CorruptError: No such zone or volume, or the range leaves the volume, or it crosses a boundary it may not
                cross: of a 16 KiB buffer when it is that small, else of a big-block.
        """
        zone = off >> ZONE_SHIFT
        volume = self.by_number.get(off >> VOL_SHIFT & 0xFF)
        short = off & OFF_SHORT_MASK
        if zone == ZONE_UNDO:
            return self.locate(self.undo_address(off), nbytes)
        limit = 0 if volume is None else volume.dev.size if zone == ZONE_RAW_VOLUME else volume.buf_size
        if volume is None or short + nbytes > limit:
            raise CorruptError("address outside the volume set", offset=off)
        if zone == ZONE_RAW_VOLUME:
            return volume, short
        if zone not in _BUFFER_ZONES:
            raise CorruptError(f"address in zone {zone}", offset=off)
        unit = BUFSIZE if nbytes <= BUFSIZE else BIGBLOCK_SIZE
        if nbytes and short // unit != (short + nbytes - 1) // unit:
            raise CorruptError(f"range of {nbytes} bytes crosses a boundary", offset=off)
        return volume, volume.buf_beg + short

    def undo_address(self, off: int) -> int:
        """Zone-2 address of a byte of the FIFO (zone 3).

        Raises:
            CorruptError: Outside the FIFO, or the header's table holds no sane address for it.
        """
        short = off & OFF_SHORT_MASK
        index = short // BIGBLOCK_SIZE
        base = self.superblock.vol0_undo_array[index] if index < MAX_UNDO_BIGBLOCKS else 0
        if base >> ZONE_SHIFT != ZONE_RAW_BUFFER or base & BIGBLOCK_MASK or base >> VOL_SHIFT & 0xFF != ROOT_VOLUME:
            raise CorruptError(f"FIFO big-block {index} has address {base:016x}", offset=off)
        return base + (short & BIGBLOCK_MASK)

    def join(self, volume: Volume) -> None:
        """A volume becomes part of the open set, which closes it from now on.

        Raises:
            VolumeSetError: It is foreign, or there is one of its number.
        """
        self._add(volume)
        self.order.append(volume)

    def part(self, volume: Volume) -> None:
        """A volume is no part of the open set any more; it is the caller's to close."""
        self.order.remove(volume)
        del self.by_number[volume.vol_no]

    def reload(self) -> None:
        """Read all headers again after recovery changed them."""
        for volume in self.order:
            volume.reload()
        self.rule = CrcRule(self.root.ondisk.vol_version)

    def close(self) -> None:
        """Close the devices."""
        for volume in self.order:
            volume.dev.close()

    def _add(self, volume: Volume) -> None:
        first = self.order[0]
        if volume.ondisk.vol_fsid != first.ondisk.vol_fsid:
            raise VolumeSetError(
                f"belongs to file system {volume.ondisk.fsid}, {first.dev.name} to {first.ondisk.fsid}",
                volume=volume.dev.name,
            )
        other = self.by_number.setdefault(volume.vol_no, volume)
        if other is not volume:
            raise VolumeSetError(f"is volume {volume.vol_no}, as is {other.dev.name}", volume=volume.dev.name)

    def _find_root(self) -> Volume:
        root = self.by_number.get(ROOT_VOLUME)
        if root is None:
            given = ", ".join(f"{v.dev.name} is number {v.vol_no}" for v in self.order)
            raise VolumeSetError(f"the root volume (number 0) is missing: {given}")
        want = root.ondisk.vol_count
        if want != len(self.order):
            raise VolumeSetError(self._count_text(root, want), volume=root.dev.name)
        return root

    def _count_text(self, root: Volume, want: int) -> str:
        text = f"the file system has {want} volumes, {len(self.order)} given"
        known = _numbers(root)
        if len(known) != want:  # no freemap to go by: numbers have no gaps unless volumes were removed
            known = set(range(min(want, MAX_VOLUMES)))
        absent = ", ".join(str(number) for number in sorted(known - self.by_number.keys()))
        others = ", ".join(
            f"{volume.dev.name} (number {volume.vol_no})" for volume in self.order if volume.vol_no not in known
        )
        return (
            text
            + (f": missing number {absent}" if absent else "")
            + (f": not one of them is {others}" if others else "")
        )

    def _header_notes(self) -> Iterator[str]:
        for volume in self.order:
            if volume.ondisk.vol_crc and not volume.ondisk.crc_ok(self.rule):
                yield f"volume {volume.dev.name}: header has a stale or bad CRC"
        if self.root.ondisk.vol_crc:
            for zone, desc in enumerate(self.root.ondisk.vol0_blockmap):
                if not desc.crc_ok(self.rule):
                    yield f"volume {self.root.dev.name}: descriptor of zone {zone} has a stale or bad CRC"


def _numbers(root: Volume) -> set[int]:
    """Numbers of the volumes that have space by the freemap of the root volume; none where it has no freemap."""
    table = root.ondisk.vol0_blockmap[ZONE_FREEMAP].phys_offset
    if table >> VOL_SHIFT != ZONE_RAW_BUFFER << 8 or table & BIGBLOCK_MASK:
        return set()
    try:
        entries = [
            Layer1.decode(root.dev.pread(root.buf_beg + (table & OFF_SHORT_MASK) + at, LAYER1_SIZE))
            for at in range(0, LAYER1_ENTRIES * LAYER1_SIZE, LAYER1_PER_VOLUME * LAYER1_SIZE)
        ]
    except DeviceError:
        return set()
    return {number for number, entry in enumerate(entries) if entry.phys_offset != OFF_BAD}
