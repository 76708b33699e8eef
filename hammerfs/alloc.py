"""Handing out space: where new nodes, payloads and file data go, and what becomes of space that is given back.

Space is owned by big-blocks of 8 MiB. Each zone appends to one big-block after the other, wherever it finds one that
is free or its own; what is freed counts in the big-block, and only one that has become free as a whole is used again,
and not before a crash can no longer bring back what pointed into it.

Changes gather in memory, one record for each big-block, and reach the freemap's buffers once a flush (`settle`). File
data is written before its record exists: its space is *reserved*, which the freemap does not know of, and committed
in the section that puts the record into the tree.
"""

from __future__ import annotations

from collections.abc import Mapping

from hammerfs.addr import encode, round16, short_of, vol_of, zone_of
from hammerfs.bigblock import Block, Cursor, Hold, bigblock_index
from hammerfs.buffer import DirtyClass
from hammerfs.cache import BufferCache
from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_MASK,
    BIGBLOCK_SIZE,
    BUFMASK,
    BUFSIZE,
    LAYER1_SHIFT,
    LAYER1_SPAN,
    OFF_BAD,
    VERSION_DEDUP,
    VOL_SHIFT,
    XBUFSIZE,
    ZONE_FREE,
    ZONE_RAW_BUFFER,
    ZONE_SHIFT,
    ZONES_MAPPED,
)
from hammerfs.errors import CorruptError, InvalidError, NoSpace, RefCountError
from hammerfs.freemap import Freemap, volume_spans
from hammerfs.ondisk.blockmap import LAYER2_SIZE, Layer2
from hammerfs.undo_writer import UndoWriter
from hammerfs.volumes import Volumes

_BUFSHIFT = BUFSIZE.bit_length() - 1
_SPAN_BITS = LAYER1_SHIFT - BIGBLOCK_BITS
_MIN_BYTES_FREE = -(1 << 31) + (16 << 20)


class Allocator:
    """Allocates, reserves and frees space of the zones 8..11. Sizes are bytes, rounded up to 16.

    Args:
        volumes: The set; counters of its superblock are kept up to date in memory.
        cache: Buffers of the freemap.
        freemap: Reads them.
        undo: Takes the old bytes of what changes.
    """

    def __init__(self, volumes: Volumes, cache: BufferCache, freemap: Freemap, undo: UndoWriter) -> None:
        self._volumes = volumes
        self._cache = cache
        self._freemap = freemap
        self._undo = undo
        zones = volumes.superblock.vol0_blockmap
        self._cursors = {zone: Cursor(zone, zones[zone].next_offset) for zone in sorted(ZONES_MAPPED)}
        self._blocks: dict[int, Block] = {}
        self._holds: dict[int, Hold] = {}
        self._span_free: dict[int, int] = {}
        """Change of a span's number of free big-blocks since the last settle, by layer-1 index."""
        self._stat_free = 0
        """The same of all spans together."""
        self._commits: list[tuple[int, int]] = []
        """Reservations committed since the last settle."""
        self._fresh: set[int] = set()
        """Big-blocks that became free since the last settle."""
        self._delayed: set[int] = set()
        """Those that did before, and are not to be reused yet."""
        self._closed: set[int] = set()
        """Numbers of the volumes on which nothing is handed out."""

    @property
    def free_bigblocks(self) -> int:
        """Free big-blocks, those with delayed reuse included."""
        return self._volumes.superblock.vol0_stat_freebigblocks + self._stat_free

    @property
    def delayed_bigblocks(self) -> int:
        """Free big-blocks that may not be used yet."""
        return len(self._delayed | self._fresh)

    @property
    def closed_bigblocks(self) -> int:
        """Free big-blocks of closed volumes.

        Raises:
            BufferMiss: As `reserve`.
            CorruptError: As `reserve`.
            DeviceError: As `reserve`.
        """
        return sum(
            self._freemap.layer1(span << LAYER1_SHIFT).blocks_free + self._span_free.get(span, 0)
            for vol_no in self._closed
            for span in volume_spans(vol_no, self._volumes.by_number[vol_no].bigblocks)
        )

    @property
    def closed_size(self) -> int:
        """All big-blocks of closed volumes."""
        return sum(self._volumes.by_number[vol_no].bigblocks for vol_no in self._closed)

    def close_volume(self, vol_no: int) -> None:
        """Hand out nothing on a volume any more. What is reserved there stays so until the next flush."""
        self._closed.add(vol_no)
        for cursor in self._cursors.values():
            if vol_of(cursor.next) == vol_no:
                cursor.block = None
                cursor.next = self._next_volume(cursor.zone, vol_no)

    def open_volume(self, vol_no: int) -> None:
        """Undo `close_volume`."""
        self._closed.discard(vol_no)

    def is_closed(self, vol_no: int) -> bool:
        """Whether nothing is handed out on a volume."""
        return vol_no in self._closed

    def is_reserved(self, vol_no: int) -> bool:
        """Whether space of a volume is kept for somebody, or may not be reused yet."""
        return any(index >> VOL_SHIFT - BIGBLOCK_BITS == vol_no for index in self._holds)

    def has_space(self, needs: Mapping[int, int], slop_bigblocks: int) -> bool:
        """Whether space is left when something is taken and so many big-blocks stay free.

        Args:
            needs: Bytes to be taken, by zone.
            slop_bigblocks: Big-blocks that stay free.

        Raises:
            BufferMiss: As `reserve`.
            CorruptError: As `reserve`.
            DeviceError: As `reserve`.
        """
        free = self.free_bigblocks - self.delayed_bigblocks - self.closed_bigblocks - slop_bigblocks
        if free - len(self._holds) >= len(needs) + (sum(needs.values()) >> BIGBLOCK_BITS):
            return True
        for index, hold in self._holds.items():
            if not hold.delayed and not self._peek(index).zone:
                free -= 1
        return free >= sum(-(-max(0, nbytes - self._room(zone)) // BIGBLOCK_SIZE) for zone, nbytes in needs.items())

    def _room(self, zone: int) -> int:
        """Bytes left in the big-block where a zone goes on, if that one is for it."""
        pos = self._cursors[zone].next
        if not pos & BIGBLOCK_MASK or self._freemap.find_layer2(pos) is None:
            return 0
        return BIGBLOCK_SIZE - max(pos & BIGBLOCK_MASK, self._peek(bigblock_index(pos)).used_by(zone))

    def bytes_free(self, off: int) -> int:
        """Bytes of the big-block that holds an address that nothing refers to; below 0 where extents are shared."""
        return self._peek(bigblock_index(off)).free

    def is_current(self, off: int) -> bool:
        """Whether the zone of an address hands out space in its big-block now."""
        cursor = self._cursors[zone_of(off)]
        return bigblock_index(cursor.next) == bigblock_index(off)

    def alloc(self, zone: int, nbytes: int) -> int:
        """Allocate, inside a section.

        Args:
            zone: 8..11.
            nbytes: 1..65536. Up to 16 KiB lie in one buffer, more in one big-block.

        Returns:
            The address.

        Raises:
            NoSpace: No big-block is left, and none of the zone has room.
            CorruptError: The freemap is damaged.
            DeviceError: A volume failed.
        """
        nbytes = nbytes + 15 & ~15
        cursor = self._cursors[zone]
        block, pos = self._place(cursor, nbytes)
        end = pos + nbytes
        if not block.zone:
            self._own(block, zone)
        block.dirty = True
        block.free -= nbytes
        block.append = (end - 1 & BIGBLOCK_MASK) + 1
        cursor.next = end
        return pos

    def reserve(self, zone: int, nbytes: int) -> int:
        """Take space for data whose record comes later; in memory only.

        Args:
            zone: 8..11.
            nbytes: As for `alloc`.

        Returns:
            The address.

        Raises:
            NoSpace: As `alloc`.
            BufferMiss: A buffer of the freemap is needed; nothing has changed.
            CorruptError: The freemap is damaged.
            DeviceError: A volume failed.
        """
        nbytes = nbytes + 15 & ~15
        cursor = self._cursors[zone]
        block, pos = self._place(cursor, nbytes)
        end = pos + nbytes
        hold = block.hold or self._hold(block.index, zone)
        hold.nbytes += nbytes
        hold.mark = (end - 1 & BIGBLOCK_MASK) + 1
        cursor.next = end
        return pos

    def commit_reserved(self, off: int, nbytes: int) -> None:
        """A reserved extent gets its record in this section.

        Raises:
            InvalidError: It is not reserved.
            CorruptError: The big-block belongs to another zone meanwhile, or the freemap is damaged.
            DeviceError: A volume failed.
        """
        nbytes = round16(nbytes)
        index = bigblock_index(off)
        block = self._block(index)
        zone = zone_of(off)
        if block.zone not in {ZONE_FREE, zone}:
            raise CorruptError(f"reserved big-block belongs to zone {block.zone}", offset=off)
        self._release(off, nbytes)
        self._commits.append((off, nbytes))
        if not block.zone:
            self._own(block, zone)
        block.dirty = True
        block.free -= nbytes
        block.append = max(block.append, (off & BIGBLOCK_MASK) + nbytes)

    def abandon(self, off: int, nbytes: int) -> None:
        """A reserved extent will never get a record.

        Raises:
            InvalidError: It is not reserved.
        """
        self._release(off, round16(nbytes))

    def add_ref(self, off: int, nbytes: int) -> None:
        """One more record refers to an extent that has records already, inside a section.

        Raises:
            InvalidError: The volume version (below 5) has no shared extents.
            RefCountError: The big-block has as many references as can be counted.
            CorruptError: It does not belong to the zone, or the freemap is damaged.
            DeviceError: A volume failed.
        """
        if self._volumes.version < VERSION_DEDUP:
            raise InvalidError(f"volume version {self._volumes.version} has no shared extents", offset=off)
        nbytes = round16(nbytes)
        block = self._owned(off)
        if block.free - nbytes < _MIN_BYTES_FREE:
            raise RefCountError("too many references into one big-block", offset=off)
        block.free -= nbytes
        block.dirty = True

    def free(self, off: int, nbytes: int) -> None:
        """Drop a reference to an extent, inside a section.

        Raises:
            CorruptError: The big-block does not belong to the zone, or more is freed than was in use.
            DeviceError: A volume failed.
        """
        nbytes = round16(nbytes)
        block = self._owned(off)
        if block.free + nbytes > BIGBLOCK_SIZE:
            raise CorruptError(f"{nbytes} bytes freed where {BIGBLOCK_SIZE - block.free} are in use", offset=off)
        block.free += nbytes
        block.dirty = True
        if block.free == BIGBLOCK_SIZE:
            hold = self._hold(block.index, block.zone)
            hold.mark = BIGBLOCK_SIZE
            hold.delayed = True
            self._fresh.add(block.index)
            block.append = 0
            block.give(ZONE_FREE)
            block.attach(hold)
            self._count(block.index, 1)

    def settle(self) -> None:
        """Put what has gathered into the freemap's buffers and the superblock, old bytes saved: the end of a section.

        Raises:
            FifoFull: No room for the old bytes. The section has failed then.
            CorruptError: The freemap is damaged.
            DeviceError: A volume failed.
        """
        rule = self._volumes.rule
        for block in self._blocks.values():
            if block.dirty:
                block.dirty = False
                entry = block.old._replace(zone=block.zone, append_off=block.append, bytes_free=block.free).sealed(rule)
                if entry != block.old:
                    self.put(block.where, block.old.encode(), entry.encode())
                    block.old = entry
        for span, change in self._span_free.items():
            if change:
                layer1, where = self._freemap.find_layer1(span << LAYER1_SHIFT)
                changed = layer1._replace(blocks_free=layer1.blocks_free + change).sealed(rule)
                self.put(where, layer1.encode(), changed.encode())
        self._settle_head()
        self._span_free.clear()
        self._commits.clear()
        self._delayed |= self._fresh
        self._fresh.clear()
        current = [cursor.block for cursor in self._cursors.values() if cursor.block is not None]
        self._blocks = {block.index: block for block in current}

    def committed(self) -> None:
        """What the newest settled flush would have rolled back has been dropped on the media: its space is free."""
        for index in self._delayed:
            self._holds[index].delayed = False
            self._drop_hold(index)
        self._delayed.clear()

    def reset(self) -> None:
        """A section has failed: forget what has not been settled; the freemap's buffers count again.

        Reservations stand as they did before the section, those that it had committed included.
        """
        for index in self._fresh - self._delayed:
            self._holds[index].delayed = False
        self._blocks.clear()
        for cursor in self._cursors.values():
            cursor.block = None
        for off, nbytes in self._commits:
            hold = self._hold(bigblock_index(off), zone_of(off))
            hold.nbytes += nbytes
            hold.mark = max(hold.mark, (off & BIGBLOCK_MASK) + nbytes)
        for index in self._fresh:
            self._drop_hold(index)
        self._fresh.clear()
        self._commits.clear()
        self._span_free.clear()
        self._stat_free = 0

    # Finding space

    def _place(self, cursor: Cursor, nbytes: int) -> tuple[Block, int]:
        """Where a zone has room, and the big-block, which is then the cursor's."""
        pos = cursor.next
        end = pos + nbytes
        block = cursor.block
        if (
            block is None
            or block.user != cursor.zone
            or end > cursor.stop
            or ((pos ^ end - 1) >> _BUFSHIFT and nbytes <= BUFSIZE)
            or not 0 < nbytes <= XBUFSIZE
        ):
            return self._scan(cursor, nbytes)
        return block, pos

    def _scan(self, cursor: Cursor, nbytes: int) -> tuple[Block, int]:
        """The next place from the cursor on, through all volumes and once around."""
        if not 0 < nbytes <= XBUFSIZE:
            raise InvalidError(f"{nbytes} bytes asked for, an extent has 1..{XBUFSIZE}")
        zone, pos = cursor.zone, cursor.next
        unit = BUFSIZE if nbytes <= BUFSIZE else BIGBLOCK_SIZE
        wraps = 0
        while True:
            if pos >> ZONE_SHIFT != zone:
                wraps += 1
                if wraps == 2:
                    raise NoSpace(f"no big-block is left for zone {zone}")
                pos = zone << ZONE_SHIFT
            last = pos + nbytes - 1
            if pos // unit != last // unit:
                pos = last // unit * unit
                continue
            better = self._candidate(zone, pos)
            if better != pos:
                pos = better
                continue
            index = bigblock_index(pos)
            block = self._peek(index)
            used = block.used_by(zone)
            if pos & BIGBLOCK_MASK < used:
                pos = (pos & ~BIGBLOCK_MASK) + used
                continue
            self._blocks[index] = block
            cursor.block = block
            cursor.next = pos
            cursor.stop = (pos | BIGBLOCK_MASK) + 1
            return block, pos

    def _candidate(self, zone: int, pos: int) -> int:
        """`pos`, or a later position when no big-block between the two has room for the zone."""
        vol_no = vol_of(pos)
        volume = self._volumes.by_number.get(vol_no)
        if volume is None or vol_no in self._closed or short_of(pos) >> BIGBLOCK_BITS >= volume.bigblocks:
            return self._next_volume(zone, vol_no)
        if pos & BIGBLOCK_MASK:
            return pos
        layer1 = self._freemap.layer1(pos)
        if layer1.phys_offset == OFF_BAD:
            return self._next_volume(zone, vol_no)
        if not layer1.blocks_free:
            return (pos | LAYER1_SPAN - 1) + 1
        raw = self._freemap.raw_layer2(layer1, pos)
        owners = bytes(raw[::LAYER2_SIZE])
        free = owners.find(ZONE_FREE)
        limit = len(owners) if free < 0 else free
        own = owners.find(zone, 0, limit)
        while own >= 0:
            if Layer2.decode(raw, own * LAYER2_SIZE).append_off < BIGBLOCK_SIZE:
                limit = own
                break
            own = owners.find(zone, own + 1, limit)
        return pos + (limit << BIGBLOCK_BITS)

    def _next_volume(self, zone: int, vol_no: int) -> int:
        """First address of the next volume; that of the next zone behind the last one."""
        following = [number for number in self._volumes.by_number if number > vol_no and number not in self._closed]
        return encode(zone, min(following), 0) if following else zone + 1 << ZONE_SHIFT

    # Big-blocks

    def _peek(self, index: int) -> Block:
        """A big-block as it will be; it is not remembered."""
        block = self._blocks.get(index)
        if block is not None:
            return block
        off = index << BIGBLOCK_BITS | ZONE_RAW_BUFFER << ZONE_SHIFT
        found = self._freemap.find_layer2(off)
        if found is None:
            raise CorruptError("address in a span that does not exist", offset=off)
        entry, where = found
        if entry.append_off > BIGBLOCK_SIZE or entry.bytes_free > BIGBLOCK_SIZE:
            raise CorruptError(
                f"freemap layer 2 entry: append point {entry.append_off}, {entry.bytes_free} bytes free", offset=where
            )
        return Block(index, entry, where, self._holds.get(index))

    def _block(self, index: int) -> Block:
        """A big-block that is about to change."""
        block = self._blocks[index] = self._peek(index)
        return block

    def _owned(self, off: int) -> Block:
        """The big-block of an extent in use."""
        block = self._block(bigblock_index(off))
        if block.zone != zone_of(off):
            raise CorruptError(f"big-block belongs to zone {block.zone}", offset=off)
        return block

    def _own(self, block: Block, zone: int) -> None:
        """A zone takes a free big-block."""
        block.give(zone)
        self._count(block.index, -1)

    def _count(self, index: int, change: int) -> None:
        """The number of free big-blocks changes."""
        span = index >> _SPAN_BITS
        self._span_free[span] = self._span_free.get(span, 0) + change
        self._stat_free += change

    def _hold(self, index: int, zone: int) -> Hold:
        """The hold on a big-block, which is made if there is none."""
        hold = self._holds.get(index)
        if hold is None:
            hold = self._holds[index] = Hold(zone)
            block = self._blocks.get(index)
            if block is not None:
                block.attach(hold)
        return hold

    def _drop_hold(self, index: int) -> None:
        """A reason for a hold is gone: so is the hold, if it was the last one."""
        hold: Hold | None = self._holds[index]
        if hold is not None and not hold.delayed and not hold.nbytes:
            del self._holds[index]
            hold = None
        block = self._blocks.get(index)
        if block is not None:
            block.attach(hold)

    def _release(self, off: int, nbytes: int) -> None:
        """A reservation ends."""
        index = bigblock_index(off)
        hold = self._holds.get(index)
        if hold is None or hold.nbytes < nbytes:
            raise InvalidError(f"{nbytes} bytes are not reserved", offset=off)
        hold.nbytes -= nbytes
        self._drop_hold(index)

    # Settling

    def put(self, where: int, old: bytes, new: bytes) -> None:
        """Change an entry of the freemap, inside a section.

        Raises:
            FifoFull: No room for the old bytes.
            DeviceError: A volume failed.
        """
        self._undo.save(where, old)
        buf = self._cache.bread(where)
        at = where & BUFMASK
        buf.mem.mv[at : at + len(new)] = new
        self._cache.mark_dirty(buf, DirtyClass.META)

    def _settle_head(self) -> None:
        """Counters and cursors go into the superblock."""
        head = self._volumes.superblock
        if self._stat_free:
            self._undo.save_field("vol0_stat_freebigblocks")
            head.vol0_stat_freebigblocks += self._stat_free
            self._stat_free = 0
        zones = head.vol0_blockmap
        moved = [cursor for cursor in self._cursors.values() if cursor.next != zones[cursor.zone].next_offset]
        if moved:
            self._undo.save_field("vol0_blockmap")
            for cursor in moved:
                zones[cursor.zone] = zones[cursor.zone]._replace(next_offset=cursor.next)
