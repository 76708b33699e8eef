"""The whole check: opens the volumes, recovers in memory, runs the phases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

from hammerfs.const import BIGBLOCK_SIZE, NODE_SIZE, ZONE_BTREE
from hammerfs.device.base import Device
from hammerfs.device.open import Spec, open_devices
from hammerfs.device.overlay import OverlayDevice
from hammerfs.errors import CorruptError, DeviceError
from hammerfs.fs import HammerFS, Recover
from hammerfs.volumes import Volumes
from tools.fsck import phase_fifo, phase_freemap, phase_space, phase_volumes
from tools.fsck.context import Context, Progress, header_address
from tools.fsck.findings import Finding, Report
from tools.fsck.paths import add_paths
from tools.fsck.phase_btree import TreeWalk
from tools.fsck.phase_pfs import PfsChecks
from tools.fsck.phase_records import RecordCheck

What = HammerFS | Spec | Sequence[Spec] | Sequence[Device]
_CACHE_BYTES = 8 << 20


class Summary:
    """What a check came to.

    Args:
        findings: The findings, in the order of the phases.
        errors: How many errors there are; more than are listed when one code came up very often.
        notes: How many notes.
        records: Records of the tree.
        nodes: Nodes of the tree.
    """

    __slots__ = ("errors", "findings", "nodes", "notes", "records")

    def __init__(self, findings: list[Finding], errors: int, notes: int, records: int, nodes: int) -> None:
        self.findings = findings
        self.errors = errors
        self.notes = notes
        self.records = records
        self.nodes = nodes


def check(
    what: What,
    *,
    data: bool = False,
    idle: bool = True,
    limit: int = 1000,
    progress: Progress | None = None,
) -> list[Finding]:
    """Check a file system as it is on its media; nothing is written.

    Args:
        what: Names of volumes (a colon list, or several), open devices (left open), or a file system whose volumes
            are looked at behind its back: what it has not written yet does not count.
        data: Verify the checksums of file data, too.
        idle: Look at what nothing uses now, too: FIFO records outside the active range, freemap entries of big-blocks
            and volumes that do not exist. Without it a check of a small file system takes milliseconds.
        limit: Most findings of one code.
        progress: Told the phase, how much of it is done, and of how much.

    Returns:
        The findings. The file system is sound when none of them `is_error`.

    Raises:
        VolumeSetError: These are no volumes of one HAMMER file system, or some are missing.
        DeviceError: A volume can't be opened.
    """
    return run(what, data=data, idle=idle, limit=limit, progress=progress).findings


def run(
    what: What,
    *,
    data: bool = False,
    idle: bool = True,
    limit: int = 1000,
    progress: Progress | None = None,
) -> Summary:
    """As `check`, with the totals."""
    devices, opened = _devices(what)
    try:
        return _Check(devices, data, idle, limit, progress or _no_progress).run()
    finally:
        for device in opened:
            device.close()


class _Check:
    """One check of open devices."""

    def __init__(self, devices: list[Device], data: bool, idle: bool, limit: int, progress: Progress) -> None:
        self._devices = devices
        self._data = data
        self._idle = idle
        self._report = Report(limit)
        self._progress = progress

    def run(self) -> Summary:
        """Run all phases."""
        report = self._report
        try:
            volumes = Volumes(self._views())
        except CorruptError as err:
            report.add_error("header-damaged", err)
            return self._summary(None)
        report.volumes = volumes
        fs = self._recovered()
        dirty = fs.undone is not None
        phase_volumes.run(report, list(volumes), dirty=dirty)
        if self._idle:
            phase_fifo.run(report, volumes, self._progress)
        report.volumes = fs.volumes
        ctx = Context(fs, report, self._data, self._idle, dirty, self._progress)
        phase_freemap.run(ctx)
        self._tree(ctx)
        return self._summary(ctx)

    def _views(self) -> list[Device]:
        """The devices, not to be written to and not to be closed."""
        return [OverlayDevice(device, readonly=True, owns_lower=False) for device in self._devices]

    def _recovered(self) -> HammerFS:
        """The file system as recovered in memory; without REDO, or as it is on the media, where that fails."""
        modes: tuple[Recover, ...] = ("full", "undo")
        fs = next((fs for fs in map(self._open, modes) if fs is not None), None)
        if fs is None:
            return HammerFS(self._views(), recover="raw", cache_bytes=_CACHE_BYTES)
        if fs.undone is not None:
            redo = "" if fs.undone.redo_from is None else " and REDO records carried out"
            what = f"not closed cleanly: checked with {fs.undone.records} UNDO records rolled back{redo}"
            self._report.add("dirty", what)
        return fs

    def _open(self, recover: Recover) -> HammerFS | None:
        try:
            return HammerFS(self._views(), recover=recover, cache_bytes=_CACHE_BYTES)
        except (CorruptError, DeviceError) as err:
            if recover == "full":
                self._report.add_error("recovery-failed", err)
            return None

    def _tree(self, ctx: Context) -> None:
        """The tree and all that depends on having seen it whole."""
        report = ctx.report
        pfss = PfsChecks(ctx)
        nodes = sum(BIGBLOCK_SIZE - free for zone, _, free in ctx.freemap.values() if zone == ZONE_BTREE) // NODE_SIZE
        walk = TreeWalk(ctx, RecordCheck(ctx, pfss), nodes)
        walk.run()
        pfss.finish()
        for what, off in ctx.mirror_faults:
            report.add("node-mirror-tid" if len(ctx.master_ids) <= 1 else "node-mirror-tid-nomirror", what, offset=off)
        if not walk.complete:
            report.add("tree-incomplete", "parts of the tree can't be read: links and space were not counted")
            return
        head = ctx.volumes.superblock
        if head.vol0_stat_inodes != pfss.live_inodes:
            what = f"{head.vol0_stat_inodes} inodes, counted {pfss.live_inodes}"
            report.add("stat-inodes", what, offset=header_address("vol0_stat_inodes"))
        phase_space.run(ctx)

    def _summary(self, ctx: Context | None) -> Summary:
        report = self._report
        findings = report.findings if ctx is None else add_paths(ctx.fs, report.findings)
        records, nodes = (ctx.records, ctx.nodes) if ctx is not None else (0, 0)
        return Summary(findings, report.total("error"), report.total("note"), records, nodes)


def _devices(what: What) -> tuple[list[Device], list[Device]]:
    """The devices to look at, and those of them that have been opened here."""
    if isinstance(what, HammerFS):
        devices = [volume.dev for volume in what.volumes]
        if what.undone is not None:  # a reader keeps in overlays what it recovered
            devices = [dev.lower if isinstance(dev, OverlayDevice) and dev.readonly else dev for dev in devices]
        return devices, []
    if not isinstance(what, (str, os.PathLike)) and all(isinstance(item, Device) for item in what):
        return list(cast("Sequence[Device]", what)), []
    opened = open_devices(cast("Spec | Sequence[Spec]", what))
    return opened, opened


def _no_progress(_phase: str, _done: int, _total: int) -> None:
    """Nobody wants to know."""
