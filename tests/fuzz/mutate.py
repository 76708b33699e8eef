"""Changing an image: a structure is picked, a few of its bytes changed, and half of the time its checksum made right.

Random bytes anywhere would mostly meet checksums. Here the changes reach what lies behind them.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from hammerfs.addr import zone_of
from hammerfs.const import (
    BIGBLOCK_SIZE,
    BTREE_TYPE_INTERNAL,
    ELM_SIZE,
    NODE_HEADER,
    NODE_SIZE,
    RECTYPE_DATA,
    RECTYPE_INODE,
    VOL_HEADER_SIZE,
    ZONE_BTREE,
)
from hammerfs.crc import CrcRule
from hammerfs.device.overlay import OverlayDevice
from hammerfs.errors import HammerError
from hammerfs.ondisk.blockmap import LAYER1_SIZE, LAYER2_SIZE
from hammerfs.ondisk.node import InternalElm, LeafElm, NodeOndisk
from hammerfs.ondisk.volume import VolumeOndisk, header_crc
from tests.fuzz.bases import KINDS, base_image
from tests.imagebuilder import BUF_BEG, FIRST_TID

INTERESTING = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
WIDE = [*INTERESTING, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0x8000000000000000 | 1 << 52, FIRST_TID]
ZONE_DESCS, ZONE_DESC = 264, 40


class Strict(OverlayDevice):
    """Counts accesses that would leave the device, and makes readers wait where it is told to."""

    strays = 0
    is_cold = False
    """Nothing of it is in the host's memory."""

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        return not self.is_cold and super()._preadv_nowait(off, views, n)

    def _check(self, off: int, n: int) -> None:
        if off < 0 or n < 0 or off + n > self.size:
            self.strays += 1
        super()._check(off, n)


class Mutant:
    """A changed image.

    Args:
        seed: Says which image and which changes; the same seed makes the same mutant.
    """

    def __init__(self, seed: int) -> None:
        self._rng = rng = random.Random(seed)
        self.seed = seed
        self.device = Strict(base_image(rng.randrange(KINDS)), owns_lower=False)
        self._header = VolumeOndisk.decode(self.device.pread(0, VOL_HEADER_SIZE))
        self._rule = CrcRule(self._header.vol_version)
        self.changes: list[str] = []
        """What was changed, for whoever looks at a failure."""
        kinds = [self._node, self._node, self._payload, self._volume, self._freemap, self._fifo, self._anywhere]
        for _ in range(rng.randrange(1, 5)):
            rng.choice(kinds)()

    @property
    def may_change_fifo(self) -> bool:
        """Whether a change may be in the FIFO, or in what says where it is."""
        return any(change.startswith(("FIFO", "volume", "anything")) for change in self.changes)

    def _change(self, raw: bytearray, beg: int, end: int) -> None:
        """Change something in raw[beg:end]."""
        rng = self._rng
        at = rng.randrange(beg, end)
        how = rng.randrange(4)
        if how == 0:
            raw[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            raw[at] = rng.choice(INTERESTING[:6])
        else:
            width, form = rng.choice([(2, "<H"), (4, "<I"), (8, "<Q")])
            at -= at % width
            if at + width <= end:
                value = rng.choice(WIDE) if how == 2 else rng.getrandbits(64)
                struct.pack_into(form, raw, at, value & (1 << 8 * width) - 1)

    def _several(self, raw: bytearray, beg: int, end: int) -> None:
        for _ in range(self._rng.randrange(1, 4)):
            self._change(raw, beg, end)

    def _put(self, what: str, byte_off: int, raw: bytes | bytearray) -> None:
        self.changes.append(f"{what} at {byte_off}")
        self.device.pwrite(byte_off, raw)

    def _fix(self) -> bool:
        return self._rng.random() < 0.6

    # Kinds of structures

    def _node_place(self) -> int | None:
        """Byte offset of a node, found by going down at random."""
        off = self._header.vol0_btree_root
        for _ in range(self._rng.randrange(6)):
            try:
                node = NodeOndisk.decode(self.device.pread(self._byte(off), NODE_SIZE))
            except HammerError:
                return None
            if node.head.type != BTREE_TYPE_INTERNAL or not node.head.count:
                break
            elm = self._rng.choice(node.elms[: node.head.count])
            if not isinstance(elm, InternalElm) or zone_of(elm.subtree_offset) != ZONE_BTREE:
                break
            off = elm.subtree_offset
        place = self._byte(off)
        return place if 0 <= place <= self.device.size - NODE_SIZE else None

    def _byte(self, off: int) -> int:
        return BUF_BEG + (off & (1 << 52) - 1)

    def _node(self) -> None:
        place = self._node_place()
        if place is None:
            return
        raw = bytearray(self.device.pread(place, NODE_SIZE))
        count = min(max(raw[16], 1), 62)
        if self._rng.random() < 0.2:
            self._several(raw, 4, NODE_HEADER)
        else:
            elm = NODE_HEADER + self._rng.randrange(count + 1) * ELM_SIZE
            self._several(raw, elm, min(elm + ELM_SIZE, NODE_SIZE))
        if self._fix():
            raw[:4] = self._rule.of(bytes(raw[4:])).to_bytes(4, "little")
        self._put("node", place, raw)

    def _payload(self) -> None:
        place = self._node_place()
        if place is None:
            return
        try:
            node = NodeOndisk.decode(self.device.pread(place, NODE_SIZE))
        except HammerError:
            return
        leaves = [(i, elm) for i, elm in enumerate(node.elms) if isinstance(elm, LeafElm) and 0 < elm.data_len <= 65536]
        if not leaves:
            return
        i, elm = self._rng.choice(leaves)
        at = self._byte(elm.data_offset)
        if at + elm.data_len > self.device.size:
            return
        raw = bytearray(self.device.pread(at, elm.data_len))
        self._several(raw, 0, len(raw))
        self._put(f"payload of type {elm.rec_type:02x}", at, raw)
        if elm.rec_type != RECTYPE_DATA and self._fix():
            covered = bytes(raw[:112]) if elm.rec_type == RECTYPE_INODE else bytes(raw)
            node.elms[i] = elm._replace(data_crc=self._rule.of(covered))  # type: ignore[call-overload]
            self.device.pwrite(place, node.seal(self._rule))

    def _volume(self) -> None:
        raw = bytearray(self.device.pread(0, VOL_HEADER_SIZE))
        if self._rng.random() < 0.5:
            start = ZONE_DESCS + self._rng.choice([3, 4, 8, 9, 10, 11]) * ZONE_DESC
            self._several(raw, start, start + ZONE_DESC)
        else:
            self._several(raw, 8, ZONE_DESCS)
        if self._fix():
            struct.pack_into("<I", raw, 156, header_crc(bytes(raw), self._rule))
        self._put("volume header", 0, raw)

    def _freemap(self) -> None:
        layer = self._rng.randrange(2)
        size = (LAYER1_SIZE, LAYER2_SIZE)[layer]
        place = BUF_BEG + layer * BIGBLOCK_SIZE + self._rng.randrange(4) * size
        raw = bytearray(self.device.pread(place, size))
        self._several(raw, 0, size - 4)
        if self._fix():
            raw[-4:] = self._rule.of(bytes(raw[:-4])).to_bytes(4, "little")
        self._put(f"layer {layer + 1}", place, raw)

    def _fifo(self) -> None:
        place = BUF_BEG + 2 * BIGBLOCK_SIZE + self._rng.randrange(64) * 512
        raw = bytearray(self.device.pread(place, 512))
        self._several(raw, 0, self._rng.choice([16, 56, 512]))
        if self._fix():
            crc = self._rule.of(bytes(raw[:12]), bytes(raw[16:]))
            raw[12:16] = crc.to_bytes(4, "little")
        self._put("FIFO", place, raw)

    def _anywhere(self) -> None:
        place = self._rng.randrange(self.device.size - 64)
        raw = bytearray(self.device.pread(place, 64))
        self._several(raw, 0, 64)
        self._put("anything", place, raw)
