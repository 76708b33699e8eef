"""The slab: kmalloc and kfree.

Memory comes in zones of 128 KiB, each cut into chunks of one of 72 sizes and owned by one CPU, which alone allocates
from it: no lock. Whoever else frees a chunk leaves it on the zone's remote list, and the owner finds it there when the
zone runs dry. Only then is the zone off its class's list, and only then must a freer tell the owner, by a passive IPI.
A zone that is free altogether goes to its CPU's free zones, unless it is the only one of its class; more than 32 of
those are given back to the host, by a malloc that may block, never by a free, which may run in an IPI function.

`kmalloc` and `kfree` are plain and never block. `kmalloc_wait` is for who rather waits than does without.

One order of steps carries the remote free. The freer adds the chunk and then reads `z_rsignal`; the owner, about to
unlink a dry zone, sets it and then looks at the list again: whatever the interleaving, one of them sees the other.
"""

from __future__ import annotations

from typing import Any, Final

from kernelcore.globaldata import cpu, mycpu
from kernelcore.ipiq import send_ipiq, send_ipiq_passive
from kernelcore.ipisync import synchronize_ipiqs
from kernelcore.malloctype import M_NULLOK, M_POWEROF2, M_RNOWAIT, M_WAITOK, M_ZERO, MallocType, TypeUse
from kernelcore.panic import KernelPanic, LimitExceeded, thread_label
from kernelcore.sched import assert_can_block
from kernelcore.slabcpu import ODD, SlabCpu
from kernelcore.sleep import sleep_until
from kernelcore.zone import (
    CHUNK_LIMIT,
    ZERO_CHUNK,
    Chunk,
    Pages,
    Zone,
    check_poison,
    chunk_bytes,
    poison,
    zoneindex,
)

_M_WILLWAIT: Final = 0x4000  # from kmalloc_wait: it sleeps where the type is at its limit
_M_AGAIN: Final = 0x8000  # from kmalloc_wait: refused before, and counted then
_ZEROS: Final = bytes(CHUNK_LIMIT)


# -------------------------------------------------------------------- kmalloc


def kmalloc(size: int, mtype: MallocType, flags: int = M_WAITOK) -> Chunk | None:
    """Allocate at least `size` bytes, with any content; never blocks.

    Args:
        size: In bytes; 0 gives an empty chunk.
        mtype: What for.
        flags: M_WAITOK, the caller may block, so that free zones may be given back here; M_RNOWAIT, None where memory
            is exhausted; M_NULLOK, None also where the type is at its limit; M_ZERO, zero-filled; M_POWEROF2, rounded
            up to a power of two; M_USE_RESERVE, the last zones may be taken.

    Raises:
        LimitExceeded: The type is at its limit, or memory exhausted, and the flags do not say that None will do.
        KernelPanic: A negative size; a type of another domain; debug: the chunk was written to after it was freed.
    """
    sc: SlabCpu = cpu.gd.gd_slab
    try:
        use = sc.use[mtype]
        zone = sc.by_size[size][-1]
    except (LookupError, AttributeError):
        return _kmalloc_odd(size, mtype, flags)
    if flags & sc.attend:
        return _kmalloc_odd(size, mtype, flags)
    csize = zone.z_chunksize
    left = use.left - csize
    if left < 0:
        if not mtype.grow(use, csize):
            return _over_limit(mtype, use, csize, flags)
        left = use.left - csize
    use.left = left
    use.memuse += csize
    use.calls += 1
    free = zone.z_lchunks
    chunk = free.pop() if free else zone.bump()
    if sc.debug:
        _check_handed_out(chunk)
    chunk.c_type = mtype
    if not free and not zone.z_unused:
        zone.run_dry()
    return chunk


async def kmalloc_wait(size: int, mtype: MallocType, flags: int = 0) -> Chunk:
    """Like `kmalloc`, but sleep until there is memory and the type is below its limit. M_NULLOK means nothing here.

    Raises:
        LimitExceeded: The request exceeds the limit of its type by itself; debug: the type is at its limit.
        WrongContext: The caller may not sleep.
    """
    assert_can_block(mycpu(), f"kmalloc_wait({mtype.ks_shortdesc})")
    slab = mtype.ks_slab
    flags = flags & ~M_NULLOK | M_WAITOK | M_RNOWAIT
    nbytes = chunk_bytes(_power_of_2(size) if flags & M_POWEROF2 else size)
    if not slab.debug and nbytes <= mtype.ks_limit:
        flags |= _M_WILLWAIT
    chunk = kmalloc(size, mtype, flags)
    if chunk is not None:
        return chunk

    def attempt() -> Chunk | None:
        for sc in slab.cpus:
            sc.wanted = True
            sc.attend_free = True
        if mtype.ks_memuse + nbytes <= mtype.ks_limit:  # so it is memory that is missing
            for sc in slab.cpus:
                send_ipiq(sc.gd, _give_back, sc)
        return kmalloc(size, mtype, flags | _M_AGAIN)

    return await sleep_until(slab, attempt, mtype.ks_shortdesc)


def _kmalloc_odd(size: int, mtype: MallocType, flags: int) -> Chunk | None:
    """Whatever is out of the ordinary: a size for the first time, no bytes, too many, zeros; a class without a zone."""
    sc: SlabCpu | None = cpu.gd.gd_slab
    if sc is None or mtype not in sc.use:
        raise _foreign(mtype) from None
    if flags & M_WAITOK & sc.attend:
        sc.release()
    if size <= 0:
        if size < 0:
            raise KernelPanic(f"kmalloc of {size} bytes of type '{mtype.ks_shortdesc}'") from None
        return ZERO_CHUNK
    if flags & M_POWEROF2:
        size = _power_of_2(size)
    if size > CHUNK_LIMIT:
        return _kmalloc_big(sc, size, mtype, flags)
    zi, _csize = zoneindex(size)
    zones = sc.by_size[size] = sc.zone_ary[zi]
    if not zones and not sc.new_zone(zi, flags):
        return _exhausted(mtype, size, flags)
    chunk = kmalloc(size, mtype, flags & ~ODD)
    if chunk is not None and flags & M_ZERO:
        chunk.mv[:] = _ZEROS[: len(chunk.mv)]
    return chunk


def _kmalloc_big(sc: SlabCpu, size: int, mtype: MallocType, flags: int) -> Chunk | None:
    nbytes = chunk_bytes(size)
    use = sc.use[mtype]
    if use.left < nbytes and not mtype.grow(use, nbytes):
        return _over_limit(mtype, use, nbytes, flags)
    try:
        pages = Pages(nbytes)
    except (OSError, OverflowError):
        return _exhausted(mtype, size, flags)
    chunk = Chunk(pages, 0, pages.whole())
    use.left -= nbytes
    use.memuse += nbytes
    use.calls += 1
    chunk.c_type = mtype
    sc.slab.big[chunk] = None
    return chunk


def _power_of_2(nbytes: int) -> int:
    return 1 << max(nbytes - 1, 0).bit_length()


def _over_limit(mtype: MallocType, use: TypeUse, nbytes: int, flags: int) -> Chunk | None:
    if not flags & _M_AGAIN:
        use.blocked += 1
    if flags & (M_NULLOK | _M_WILLWAIT):
        return None
    in_use = f"{mtype.ks_memuse} of {mtype.ks_limit} bytes are in use"
    text = f"malloc limit exceeded: {nbytes} bytes of type '{mtype.ks_shortdesc}', {in_use}"
    raise LimitExceeded(text) from None


def _exhausted(mtype: MallocType, nbytes: int, flags: int) -> Chunk | None:
    if flags & (M_RNOWAIT | M_NULLOK):
        return None
    what = f"{nbytes} bytes of type '{mtype.ks_shortdesc}'"
    raise LimitExceeded(f"no memory left for {what}: wait for it (kmalloc_wait), or do without (M_NOWAIT)") from None


def _foreign(mtype: MallocType) -> KernelPanic:
    return KernelPanic(f"malloc type '{mtype.ks_shortdesc}' used on {cpu.gd!r}, which does not know it")


# ---------------------------------------------------------------------- kfree


def kfree(chunk: Chunk, mtype: MallocType) -> None:
    """Give `chunk` back, on any CPU, also in an IPI function.

    Raises:
        KernelPanic: It is free already, of another type, or of another domain; somebody holds a view of a part of an
            oversized one.
    """
    if chunk.c_type is not mtype:
        _refuse_free(chunk, mtype)
        return
    sc: SlabCpu = cpu.gd.gd_slab
    try:
        use = sc.use[mtype]
    except (KeyError, AttributeError):
        raise _foreign(mtype) from None
    zone = chunk.c_zone
    csize = zone.z_chunksize
    use.left += csize
    use.memuse -= csize
    use.frees += 1
    if sc.attend_free:
        _attend_free(sc, chunk, mtype)
    chunk.c_type = None
    if zone.z_cpu is sc:
        free = zone.z_lchunks
        free.append(chunk)
        if zone.z_rsignal:
            zone.relink()
        elif len(zone.z_class) > 1 and len(free) == len(zone.z_chunks):
            sc.retire(zone)
    elif isinstance(zone, Pages):
        chunk.c_last = mtype
        _free_big(sc, zone, chunk)
    else:
        _free_remote(zone, chunk)


def _attend_free(sc: SlabCpu, chunk: Chunk, mtype: MallocType) -> None:
    """Wake who sleeps for memory: the accounts show it already, and no thread of this CPU runs before it is free.

    Debug: fill what is freed with the pattern; pages of its own go away, and cannot be written to.
    """
    if sc.wanted:
        sc.wake()
    if sc.debug:
        chunk.c_last = mtype
        if not isinstance(chunk.c_zone, Pages):
            poison(chunk.mv)


def _free_remote(zone: Zone, chunk: Chunk) -> None:
    """Leave a chunk to the zone's owner; tell it only if the zone is off its list, so that it would not look."""
    owner = zone.z_cpu
    assert owner is not None
    zone.z_rcount.append(None)  # from here on the zone may not be retired
    zone.z_rchunks.append(chunk)
    if zone.z_rsignal:
        if zone.z_notice.setdefault(0, chunk) is chunk:
            send_ipiq_passive(owner.gd, _kfree_remote, zone)  # takes the count along
            return
        zone.z_rcount.pop()
        return
    zone.z_rcount.pop()
    if owner.due.setdefault(0, chunk) is chunk:
        send_ipiq_passive(owner.gd, _arm_cleanup, owner)


def _kfree_remote(zone: Any, _arg2: int) -> None:
    """On the owner: chunks of a zone that had run dry have been freed elsewhere."""
    sc: SlabCpu = cpu.gd.gd_slab
    zone.z_notice.pop(0, None)  # first: who frees from now on sends his own
    if zone.collect() and zone.z_rsignal:
        zone.relink()
    zone.z_rcount.pop()
    if zone.z_nfree == zone.z_nmax:
        sc.retire(zone)
    if sc.wanted:
        sc.wake()


def _free_big(sc: SlabCpu, pages: Pages, chunk: Chunk) -> None:
    del sc.slab.big[chunk]
    if sc.gd.gd_intr_nesting_level:
        sc.parked.append(chunk)
        sc.attend |= M_WAITOK
    else:
        pages.unmap(chunk)


def _refuse_free(chunk: Chunk, mtype: MallocType) -> None:
    """Say what is wrong; nothing is, with the chunk of no bytes."""
    if chunk is ZERO_CHUNK:
        return
    by = f"as type '{mtype.ks_shortdesc}' by {thread_label(mycpu().gd_curthread)}"
    if chunk.c_type is None:
        raise KernelPanic(f"double free of {chunk!r} {by}")
    raise KernelPanic(f"kfree of {chunk!r} {by}")


# -------------------------------------------------------------------- cleanup


def slab_cleanup() -> None:
    """Do now, for the running CPU, what is done some time after a remote free: retire zones freed by others."""
    mycpu().gd_slab.cleanup()


def _arm_cleanup(sc: Any, _arg2: int) -> None:
    sc.callout.reset(sc.slab.cleanup_s)


def _give_back(sc: Any, _arg2: int) -> None:
    sc.give_back()


async def malloc_uninit(mtype: MallocType) -> None:
    """Destroy a type, once every IPI sent so far has been run.

    Raises:
        KernelPanic: Something of it is still in use.
    """
    await synchronize_ipiqs("malloc_uninit")
    if mtype.ks_inuse:
        inuse = f"{mtype.ks_inuse} chunks, {mtype.ks_memuse} bytes"
        raise KernelPanic(f"malloc_uninit of type '{mtype.ks_shortdesc}' with {inuse} in use")
    mtype.ks_slab.remove_type(mtype)


def _check_handed_out(chunk: Chunk) -> None:
    """Debug: a chunk from a free list is free, and as it was left."""
    if chunk.c_type is not None:
        raise KernelPanic(f"allocated twice: {chunk!r}")
    check_poison(chunk)
