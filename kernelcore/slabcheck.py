"""Checks of the slab's invariants (L1 to L8), for the tests and the simulator.

They hold between two operations: no CPU may be in the middle of one. What is under way may be remote: chunks on the
remote lists of zones, notifications in IPI queues.
"""

from __future__ import annotations

from collections import Counter

from kernelcore.malloctype import MallocType
from kernelcore.panic import KernelPanic
from kernelcore.slabcpu import Slab, SlabCpu
from kernelcore.zone import Chunk, Zone


def check_slab(slab: Slab) -> None:
    """Check all zones, free zones, accounts and notifications.

    Raises:
        KernelPanic: The first rule found broken.
    """
    inuse: Counter[MallocType] = Counter()
    memuse: Counter[MallocType] = Counter()
    for chunk in slab.big:
        if chunk.c_type is None:
            raise KernelPanic(f"L4: {chunk!r} is listed as in use")
        inuse[chunk.c_type] += 1
        memuse[chunk.c_type] += chunk.c_zone.z_chunksize
    for sc in slab.cpus:
        for zone in sc.zones:
            for chunk in _check_zone(sc, zone):
                assert chunk.c_type is not None
                inuse[chunk.c_type] += 1
                memuse[chunk.c_type] += zone.z_chunksize
        _check_lists(sc)
        _check_notifications(sc)
    _check_memory(slab)
    for mtype in slab.types:
        if (mtype.ks_inuse, mtype.ks_memuse) != (inuse[mtype], memuse[mtype]):
            live = f"{inuse[mtype]} chunks of {memuse[mtype]} bytes are"
            raise KernelPanic(f"L4: {mtype!r} counts {mtype.ks_inuse} chunks of {mtype.ks_memuse} bytes, {live}")


def _check_zone(sc: SlabCpu, zone: Zone) -> list[Chunk]:
    """L1 to L3 in one zone; returns its live chunks."""
    if zone.z_cpu is not sc or zone.z_buf is None:
        raise KernelPanic(f"L1: {zone!r} is not a zone of cpu {sc.gd.gd_cpuid}")
    size = zone.z_chunksize
    indices = [chunk.c_index for chunk in zone.z_chunks]
    if len(set(indices)) != len(indices) or not all(0 <= i < zone.z_nmax for i in indices):
        raise KernelPanic(f"L1: {zone!r} has the chunks {sorted(indices)}")
    if zone.z_unused != zone.z_nmax - len(indices):
        raise KernelPanic(f"L1: {zone!r} counts {zone.z_unused} unused chunks")
    for chunk in zone.z_chunks:
        if chunk.c_zone is not zone or len(chunk.mv) != size:
            raise KernelPanic(f"L1: {chunk!r} does not belong to {zone!r}")
    free = [*zone.z_lchunks, *zone.z_rchunks]
    if len(set(free)) != len(free):
        raise KernelPanic(f"L3: a chunk is twice among the free ones of {zone!r}")
    for chunk in free:
        if chunk.c_type is not None or chunk.c_zone is not zone:
            raise KernelPanic(f"L3: {chunk!r} is among the free ones of {zone!r}")
    live = [chunk for chunk in zone.z_chunks if chunk.c_type is not None]
    if zone.z_nfree != zone.z_nmax - len(live) - len(zone.z_rchunks):
        raise KernelPanic(f"L2: {zone!r} has {len(live)} live and {len(zone.z_rchunks)} remote chunks")
    return live


def _check_lists(sc: SlabCpu) -> None:
    """L8: a zone is on the list of its class if, and only if, it has free chunks; none is forgotten."""
    listed: Counter[Zone] = Counter()
    for zones in sc.zone_ary:
        listed.update(zones)
        for zone in zones:
            if zone not in sc.zones or zone.z_class is not zones:
                raise KernelPanic(f"L8: {zone!r} is on a list of cpu {sc.gd.gd_cpuid} and is none of its zones")
    for zone in sc.zones:
        if listed[zone] != (1 if zone.z_nfree else 0):
            raise KernelPanic(f"L8: {zone!r} is on the list of its class {listed[zone]} times")
        if zone.z_rsignal == bool(listed[zone]):
            raise KernelPanic(f"L8: {zone!r} is listed and asks to be told of frees, or neither")
        if zone.z_rsignal and zone.z_rchunks and not zone.z_rcount:
            raise KernelPanic(f"L8: {zone!r} has run dry, and nobody tells it of {len(zone.z_rchunks)} freed chunks")
        if zone.z_rchunks and not zone.z_rcount and not zone.z_rsignal and not sc.due:
            raise KernelPanic(f"L8: no cleanup will look for the {len(zone.z_rchunks)} chunks freed to {zone!r}")


def _check_notifications(sc: SlabCpu) -> None:
    """L6: every zone that is told of is one of its owner's, and counts as many notifications as are under way."""
    told: Counter[Zone] = Counter()
    for source in sc.gd.gd_domain.gds:
        for _fn, arg, _arg2 in tuple(source.gd_ipiq[sc.gd.gd_cpuid].fifo):
            if isinstance(arg, Zone):
                told[arg] += 1
                if arg not in sc.zones:
                    raise KernelPanic(f"L6: {arg!r} was retired while it was told of a remote free")
    for zone in sc.zones:
        if len(zone.z_rcount) != told[zone]:
            raise KernelPanic(f"L6: {zone!r} counts {len(zone.z_rcount)} notifications, {told[zone]} are under way")


def _check_memory(slab: Slab) -> None:
    """L1: no memory belongs to two zones, or to none."""
    bufs = [zone.z_buf.index for sc in slab.cpus for zone in sc.zones if zone.z_buf is not None]
    bufs += [buf.index for sc in slab.cpus for buf in sc.free_zones]
    if len(set(bufs)) != len(bufs):
        raise KernelPanic("L1: two zones have the same memory")
    if slab.arena.stats().in_use != len(bufs):
        raise KernelPanic(f"L1: the arena has handed out {slab.arena.stats().in_use} zones, {len(bufs)} are known")
