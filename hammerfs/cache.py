"""The buffer cache: 16 KiB buffers of all volumes in arena memory, bounded in bytes.

A sweep in order of arrival gives every buffer that was used since the last sweep a second chance (CLOCK): an access
costs one attribute store. Decoded B-Tree nodes hang on their buffer and count against the same limit.

Two ways to meet a buffer that is not there. *Inline* (tools, tests, mutations): it is read at once. *Mounted*
(`inline=False`): the host's page cache is tried without waiting; else `BufferMiss` tells the caller, who brings the
buffers in (`prepare`, read, `Fill.commit`) and runs the operation again.

A change to the tree is an atomic section (`section`): misses in it are read at once, and nothing is evicted until its
end, so nodes and views stay good throughout. What it changes is marked dirty and stays until it has been written.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from hammerfs.buffer import Buffer, DirtyClass
from hammerfs.const import BUFMASK, BUFSIZE, OFF_LONG_MASK, ZONE_RAW_BUFFER, ZONE_SHIFT
from hammerfs.errors import BufferMiss, HammerError
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes
from kernelcore.arena import Arena

MIN_CACHE_BYTES = 64 * BUFSIZE
DEFAULT_CACHE_BYTES = 48 << 20
_BUFSHIFT = BUFSIZE.bit_length() - 1
_ZEROS = bytes(BUFSIZE)


class BufferCache:
    """Buffers of a volume set.

    Args:
        volumes: The set.
        limit_bytes: Most memory for buffers and the nodes decoded from them; raised to 1 MiB if it is less.
        inline: Whether a miss is read at once; may be changed at any time (an atomic section sets it).
    """

    def __init__(self, volumes: Volumes, limit_bytes: int = DEFAULT_CACHE_BYTES, *, inline: bool = True) -> None:
        self._volumes = volumes
        self.limit_bytes = max(limit_bytes, MIN_CACHE_BYTES)
        self.inline = inline
        self._memory = Arena(2 * self.limit_bytes, name="buffers")  # the second half for sections, touched by them only
        self._sections = 0
        self._bufs: OrderedDict[int, Buffer] = OrderedDict()
        self._filling: dict[int, Fill] = {}
        """Buffers on their way in."""
        self._dirty: dict[DirtyClass, dict[int, Buffer]] = {cls: {} for cls in DirtyClass if cls}
        self._node_bytes = 0
        self.hits = 0
        """Sampled by `stats` only: hits are not counted on the hot path, misses and evictions are."""
        self.misses = 0
        self.evictions = 0

    @property
    def used_bytes(self) -> int:
        """Memory in use: buffers and their decoded nodes."""
        return len(self._bufs) * BUFSIZE + self._node_bytes

    def bread(self, off: int) -> Buffer:
        """The buffer that holds the address `off` of zone 2, 4 or 8..15.

        Raises:
            BufferMiss: Not cached and not to be had without waiting (mounted).
            CorruptError: The address lies outside the volume set.
            DeviceError: The device failed.
        """
        buf = self._bufs.get((off & OFF_LONG_MASK) >> _BUFSHIFT)
        if buf is not None:
            buf.used = True
            return buf
        return self._read(off)

    def view(self, off: int, nbytes: int) -> memoryview:
        """Read-only view of bytes inside one buffer, good until the next call that may bring another buffer in.

        Raises:
            CorruptError: The range crosses the end of its buffer, or lies outside the volume set.
            BufferMiss: As `bread`.
            DeviceError: As `bread`.
        """
        start = off & BUFMASK
        if start + nbytes > BUFSIZE:
            self._volumes.locate(off, nbytes)
        return self.bread(off).ro[start : start + nbytes]

    def charge(self, buf: Buffer, cost: int) -> None:
        """Count `cost` more bytes of decoded nodes that hang on `buf`, and make room for them."""
        buf.cost += cost
        self._node_bytes += cost
        if self.used_bytes > self.limit_bytes:
            buf.refs += 1
            try:
                self._shrink(self.limit_bytes)
            finally:
                buf.refs -= 1

    @contextmanager
    def section(self) -> Iterator[None]:
        """An atomic section: misses are read at once, nothing is evicted; at its end the limit holds again."""
        inline, self.inline = self.inline, True
        self._sections += 1
        try:
            yield
        finally:
            self._sections -= 1
            self.inline = inline
            self._shrink(self.limit_bytes)

    def bnew(self, off: int) -> Buffer:
        """The buffer at `off`, which is about to be filled for the first time: zeros, the media is not read.

        Raises:
            CorruptError: The address lies outside the volume set.
        """
        buf = self._bufs.get((off & OFF_LONG_MASK) >> _BUFSHIFT)
        if buf is None:
            buf = self._new(off)
            self._bufs[buf.key] = buf
        buf.used = True
        buf.mem.mv[:] = _ZEROS
        self._drop_nodes(buf)
        return buf

    def invalidate(self, off: int, nbytes: int) -> None:
        """Bytes have been written to the media behind the cache: forget the buffers that hold them."""
        first = (off & OFF_LONG_MASK) >> _BUFSHIFT
        last = (off + nbytes - 1 & OFF_LONG_MASK) >> _BUFSHIFT
        for key in range(first, last + 1):
            buf = self._bufs.get(key)
            if buf is not None:
                self._evict(buf)
            elif key in self._filling:
                self._filling[key].is_stale = True

    def forget_volume(self, volume: Volume) -> None:
        """A volume leaves the set: forget all that is cached of it; nothing of it is dirty."""
        for buf in [buf for buf in self._bufs.values() if buf.volume is volume]:
            self._evict(buf)
        for fill in self._filling.values():
            fill.is_stale |= fill.volume is volume

    def discard_dirty(self) -> None:
        """Forget all changes that have not been written: the media's state counts again."""
        for buffers in self._dirty.values():
            for buf in list(buffers.values()):
                self.mark_clean(buf)
                self._evict(buf)

    def mark_dirty(self, buf: Buffer, dirty: DirtyClass) -> None:
        """Keep a changed buffer until `mark_clean`; a buffer is of one class at a time."""
        if buf.dirty and buf.dirty != dirty:
            del self._dirty[buf.dirty][buf.key]
        buf.dirty = dirty
        self._dirty[dirty][buf.key] = buf

    def mark_clean(self, buf: Buffer) -> None:
        """The buffer has been written."""
        if buf.dirty:
            del self._dirty[buf.dirty][buf.key]
            buf.dirty = DirtyClass.CLEAN

    def dirty(self, cls: DirtyClass) -> list[Buffer]:
        """Changed buffers of a class in address order, as they are written."""
        found = self._dirty[cls]
        return [found[key] for key in sorted(found)]

    def prepare(self, miss: BufferMiss) -> list[Fill]:
        """Memory for the buffers a miss asks for; those that have come in meanwhile are left out."""
        fills = []
        for vol_no, byte_off, _ in miss.wanted:
            volume = self._volumes.by_number.get(vol_no)
            if volume is None:  # it has left the set: the call finds out when it is run again
                continue
            off = ZONE_RAW_BUFFER << ZONE_SHIFT | vol_no << 52 | (byte_off - volume.buf_beg)
            if (off & OFF_LONG_MASK) >> _BUFSHIFT not in self._bufs:
                buf = self._new(off)
                fills.append(Fill(self, buf))
                self._filling[buf.key] = fills[-1]
        return fills

    def insert(self, buf: Buffer, *, is_stale: bool) -> Buffer:
        """Take a filled buffer in; the one that is there already wins, and one whose bytes are old stays out."""
        self._filling.pop(buf.key, None)
        present = self._bufs.get(buf.key)
        if present is not None or is_stale:
            self._memory.free(buf.mem)
            return present or buf
        self._bufs[buf.key] = buf
        return buf

    def give_back(self, buf: Buffer) -> None:
        """Free the memory of a buffer that never joined the cache."""
        self._filling.pop(buf.key, None)
        self._memory.free(buf.mem)

    def drop(self) -> None:
        """Forget all clean buffers that nobody holds."""
        for key in list(self._bufs):
            buf = self._bufs[key]
            if not buf.refs and not buf.dirty:
                self._evict(buf)

    def _read(self, off: int) -> Buffer:
        self.misses += 1
        buf = self._new(off)
        try:
            if self.inline:
                buf.volume.dev.preadv(buf.byte_off, [buf.mem.mv])
            elif buf.volume.dev.preadv_nowait(buf.byte_off, [buf.mem.mv]) is None:
                raise BufferMiss([(buf.volume.vol_no, buf.byte_off, BUFSIZE)])
        except BaseException:
            self._memory.free(buf.mem)
            raise
        self._bufs[buf.key] = buf
        return buf

    def _new(self, off: int) -> Buffer:
        volume, byte_off = self._volumes.locate(off & ~BUFMASK, BUFSIZE)
        self._shrink(self.limit_bytes - BUFSIZE)
        mem = self._memory.alloc()
        if mem is None:
            raise HammerError(f"all {len(self._bufs)} buffers of the cache are in use")
        return Buffer((off & OFF_LONG_MASK) >> _BUFSHIFT, volume, byte_off, mem)

    def _shrink(self, target: int) -> None:
        """Evict until `target` bytes are in use, or nothing that may go is left."""
        if self._sections:
            return
        chances = 2 * len(self._bufs)
        while self.used_bytes > target and chances > 0:
            chances -= 1
            key, buf = next(iter(self._bufs.items()))
            if buf.used or buf.refs or buf.dirty:
                buf.used = False
                self._bufs.move_to_end(key)
            else:
                self._evict(buf)

    def _evict(self, buf: Buffer) -> None:
        del self._bufs[buf.key]
        if buf.key in self._filling:
            self._filling[buf.key].is_stale = True
        self.evictions += 1
        self._drop_nodes(buf)
        self._memory.free(buf.mem)

    def _drop_nodes(self, buf: Buffer) -> None:
        self._node_bytes -= buf.cost
        buf.cost = 0
        if buf.nodes:
            for node in buf.nodes.values():
                node.detach()
            buf.nodes = None


class Fill:
    """A buffer on its way in: memory to read into, not yet part of the cache.

    Args:
        cache: The cache it will join.
        buf: The buffer.
    """

    __slots__ = ("_buf", "_cache", "byte_off", "is_stale", "view", "volume")

    def __init__(self, cache: BufferCache, buf: Buffer) -> None:
        self.is_stale = False
        """The media has been written meanwhile: what comes in may be older."""
        self._cache = cache
        self._buf = buf
        self.volume = buf.volume
        self.byte_off = buf.byte_off
        """Byte offset in the volume."""
        self.view = buf.mem.mv
        """The 16 KiB to fill."""

    def commit(self) -> None:
        """The bytes are there: the buffer joins the cache, unless they are old, and is held until `release`."""
        self._buf = self._cache.insert(self._buf, is_stale=self.is_stale)
        self._buf.refs += 1

    def release(self) -> None:
        """The operation has run again: the buffer may go when it is not used."""
        self._buf.refs -= 1

    def abort(self) -> None:
        """The read failed: give the memory back."""
        self._cache.give_back(self._buf)
