"""Adding a volume to an open set, and removing one from it.

A set changes by one write: that of the root header with another number of volumes (`Commit.change_set`). What a new
volume needs is on it by then, and what an old one held is elsewhere, each step a group of its own. So a power cut
anywhere leaves one set or the other, whole; `spans` tells what becomes of a volume that was cut off in between.
"""

from __future__ import annotations

from hammerfs.changes import SLOP_REBLOCK
from hammerfs.commit import Step, Write
from hammerfs.const import BIGBLOCK_SIZE, BUFSIZE, MAX_VOLUMES, ROOT_VOLUME
from hammerfs.crc import CrcRule
from hammerfs.device.base import Device
from hammerfs.errors import BusyError, ExistsError, HammerError, InvalidError, NoSpace
from hammerfs.keys import Key
from hammerfs.maint.reblock import Reblock, ReblockStats, What
from hammerfs.maint.sweep import forget_places
from hammerfs.ondisk.volume import VolumeOndisk, new_header
from hammerfs.rw import WritableFS
from hammerfs.signatures import find_signatures, kinds_text, wipe
from hammerfs.spans import write_tables
from hammerfs.volume import Volume


async def add_volume(fs: WritableFS, dev: Device, *, force: bool = False) -> Volume:
    """Make a device a volume of the set, durably. A kernel coroutine.

    Args:
        fs: The file system; it closes the device from now on, unless this raises.
        dev: The device, open for writing and used by nobody else.
        force: Whether what it holds may be overwritten.

    Returns:
        The new volume.

    Raises:
        InvalidError: It is too small or too large, or there are as many volumes as there can be.
        ExistsError: It holds something already.
        ReadOnlyError: Nothing may be written since a failure.
        HammerError: A device failed.
    """
    volumes, root = fs.volumes, fs.volumes.superblock
    fs.changes.check_sound()
    if len(volumes) >= MAX_VOLUMES:
        raise InvalidError(
            f"can't be added: the file system has {MAX_VOLUMES} volumes, the most there can be", volume=dev.name
        )
    if dev.sector > BUFSIZE:
        raise InvalidError(f"has sectors of {dev.sector} bytes, over {BUFSIZE}", volume=dev.name)
    header = _header_for(fs, dev)
    header.vol_fsid, header.vol_label = root.vol_fsid, root.vol_label
    header.vol_count, header.vol_version = root.vol_count + 1, root.vol_version
    await fs.flusher.disks.submit(_format, dev, header, volumes.rule, force)
    volume = Volume(dev)
    fs.flusher.disks.add(volume)
    try:
        await fs.flusher.change_set(len(volumes) + 1, lambda: volumes.join(volume))
    finally:
        if volume not in volumes.order:
            await fs.flusher.disks.remove(volume)
    await fs.give_space(volume)
    return volume


def _header_for(fs: WritableFS, dev: Device) -> VolumeOndisk:
    number = next(number for number in range(MAX_VOLUMES) if number not in fs.volumes.by_number)
    try:
        return new_header(number, dev.size)
    except InvalidError as err:
        raise InvalidError(err.what, volume=dev.name) from None


def _format(dev: Device, header: VolumeOndisk, rule: CrcRule, force: bool) -> None:
    """Make a device a volume that no set knows yet; its header comes last."""
    found = find_signatures(dev)
    if found and not force:
        raise ExistsError(f"holds {kinds_text(found)}: --force overwrites it", volume=dev.name)
    wipe(dev, found)
    write_tables(dev, header.vol_no, header.vol_buf_beg, header.buf_size // BIGBLOCK_SIZE, rule)
    header.seal(rule)
    dev.pwrite(0, header.encode().ljust(BUFSIZE, b"\0"))
    dev.flush()


class Removal:
    """Takes a volume out of the set, piece by piece.

    Args:
        fs: The file system.
        volume: The volume.

    Raises:
        InvalidError: It is the root volume.
    """

    def __init__(self, fs: WritableFS, volume: Volume) -> None:
        if volume.vol_no == ROOT_VOLUME:
            raise InvalidError("is the root volume, which can't be removed", volume=volume.dev.name)
        self._fs = fs
        self._volume = volume

    async def run(self, start: Key | None, seconds: float) -> tuple[Key | None, ReblockStats]:
        """Go on for a while: nothing new goes to the volume, what is there moves away; at the end it leaves the set.

        When this raises, the volume is used as before; what has moved stays where it is.

        Returns:
            Where to go on, and what has moved. None: the volume is no part of the set any more, and closed.

        Raises:
            NoSpace: The others have no room for what is on it.
            BusyError: Something can't be moved: its checksum is wrong.
            ReadOnlyError: Nothing may be written since a failure.
            HammerError: The tree is damaged, or a device failed.
        """
        fs, volume = self._fs, self._volume
        fs.changes.check_sound()
        try:
            if not fs.alloc.is_closed(volume.vol_no):
                await fs.flusher.settle()
                fs.alloc.close_volume(volume.vol_no)
                self._check_room()  # nobody else runs since the flush: what has come meanwhile fits as well
                await fs.flusher.settle()  # what has been placed there gets its records
            reblock = Reblock(fs, None, What.ALL, 100, vol_no=volume.vol_no)
            at = await reblock.run(start, seconds)
            if at is None:
                await self._leave()
        except HammerError:
            self.give_up()
            raise
        return at, reblock.stats

    def give_up(self) -> None:
        """The volume is used again."""
        self._fs.alloc.open_volume(self._volume.vol_no)

    def _check_room(self) -> None:
        """Whether the others have room, also for what waits in memory; by whole big-blocks: each zone fills its own."""
        fs, volume = self._fs, self._volume
        with fs.cache.section():
            needed = sum(-(-nbytes // BIGBLOCK_SIZE) for nbytes in fs.spans.used(volume).values())
            needed += -(-fs.changes.reserved_bytes // BIGBLOCK_SIZE)
            free = fs.alloc.free_bigblocks - fs.alloc.closed_bigblocks - fs.alloc.delayed_bigblocks
        kept = fs.changes.slop_bigblocks(SLOP_REBLOCK)
        if needed > max(0, free - kept):
            raise NoSpace(
                f"can't be removed: it holds {needed} big-blocks of {BIGBLOCK_SIZE >> 20} MiB, "
                f"the other volumes have {max(0, free - kept)} left",
                volume=volume.dev.name,
            )

    async def _leave(self) -> None:
        fs, volume = self._fs, self._volume
        await fs.flusher.settle()
        with fs.cache.section():
            self._check_empty()
        await fs.flusher.transact(lambda _tid: fs.spans.detach(volume))
        await fs.flusher.change_set(len(fs.volumes) - 1, self._part)
        forget_places(fs)
        disks = fs.flusher.disks
        try:
            await disks.step(Step([Write(volume, 0, [bytes(BUFSIZE)])], [volume]))
        except HammerError as err:
            raise HammerError(f"is removed, but its header could not be wiped: {err}", volume=volume.dev.name) from None
        finally:
            await disks.remove(volume)
            await disks.submit(volume.dev.close)  # behind the reads that are under way

    def _part(self) -> None:
        fs, volume = self._fs, self._volume
        fs.alloc.open_volume(volume.vol_no)
        fs.volumes.part(volume)
        fs.cache.forget_volume(volume)

    def _check_empty(self) -> None:
        fs, volume = self._fs, self._volume
        used = fs.spans.used(volume)
        if used or fs.alloc.is_reserved(volume.vol_no):
            zones = ", ".join(f"{nbytes} bytes of zone {zone}" for zone, nbytes in sorted(used.items()))
            raise BusyError(
                f"can't be removed: {zones or 'unfinished writes'} can't be moved; fsck.hammer --data tells why",
                volume=volume.dev.name,
            )
