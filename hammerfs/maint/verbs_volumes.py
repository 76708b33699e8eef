"""The verbs that concern the volumes as a whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hammerfs.device.base import Device
from hammerfs.device.mounts import use_of
from hammerfs.device.open import is_same_place, open_device, parse_spec
from hammerfs.errors import BusyError, NotFound
from hammerfs.maint.facts import facts
from hammerfs.maint.sweep import SLICE_SECONDS, key_text, parse_key
from hammerfs.maint.upgrade import upgrade
from hammerfs.maint.verb import Context, Verb
from hammerfs.maint.volume_ops import Removal, add_volume
from hammerfs.rw import WritableFS
from hammerfs.volume import Volume


async def _upgrade(ctx: Context, version: int) -> dict[str, Any]:
    """Make the volumes a later version."""
    before = await upgrade(ctx.fs, version)
    return {"before": before, "version": ctx.fs.volumes.version}


async def _info(ctx: Context) -> dict[str, Any]:
    """What there is to know of the file system as a whole."""
    with ctx.reader.cache.section():
        return facts(ctx.reader)


async def _add(ctx: Context, device: str, force: bool = False) -> dict[str, Any]:
    """Make a device one more volume."""
    fs = ctx.fs
    member = await fs.flusher.disks.submit(_member, fs, device)
    if member is not None:
        raise BusyError(f"is volume {member.vol_no} of this file system already", volume=device)
    dev = await fs.flusher.disks.submit(_open_unused, device)
    try:
        volume = await add_volume(fs, dev, force=force)
    except BaseException:
        if all(volume.dev is not dev for volume in fs.volumes):
            dev.close()
        raise
    return {"number": volume.vol_no, "name": dev.name, "bigblocks": volume.bigblocks}


async def _del(
    ctx: Context, device: str, start: str | None = None, seconds: float = SLICE_SECONDS, stop: bool = False
) -> dict[str, Any]:
    """Take a volume out of the set.

    Args:
        ctx: The file system.
        device: The volume.
        start: Where to go on.
        seconds: For how long.
        stop: Use the volume again instead.
    """
    fs = ctx.fs
    volume = await fs.flusher.disks.submit(_member, fs, device)
    if volume is None:
        raise NotFound("is no volume of this file system", volume=device)
    removal = Removal(fs, volume)
    if stop:
        removal.give_up()
        return {"number": volume.vol_no}
    at, stats = await removal.run(None if start is None else parse_key(start), seconds)
    return {"number": volume.vol_no, "name": volume.dev.name, "next": key_text(at), "stats": asdict(stats)}


def _member(fs: WritableFS, device: str) -> Volume | None:
    """The volume of a set that somebody means by a name: as it was opened, or what is there."""
    for volume in fs.volumes:
        if volume.dev.name == device:
            return volume
    with open_device(device) as found:
        return next((volume for volume in fs.volumes if is_same_place(volume.dev, found)), None)


def _open_unused(device: str) -> Device:
    use = use_of(parse_spec(device).path)
    if use is not None:
        raise BusyError(f"{use}: it can't be added", volume=device)
    return open_device(device, readonly=False)


VERBS = {
    "volume-add": Verb(_add),
    "volume-del": Verb(_del),
    "version-upgrade": Verb(_upgrade),
    "info": Verb(_info, needs_owner=False),
}
