"""Damaging an image on purpose: a structure is changed, with its checksum made right or left alone."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from hammerfs.const import (
    BIGBLOCK_SIZE,
    BTREE_TYPE_INTERNAL,
    NODE_SIZE,
    OBJID_ROOT,
    OBJTYPE_DIRECTORY,
    OBJTYPE_REGFILE,
    PFS_SLAVE,
    RECTYPE_DIRENTRY,
    RECTYPE_INODE,
    VOL_HEADER_SIZE,
)
from hammerfs.crc import CrcRule
from hammerfs.device.base import Device
from hammerfs.device.overlay import OverlayDevice
from hammerfs.ondisk.blockmap import LAYER1_SIZE, LAYER2_SIZE, Layer1, Layer2
from hammerfs.ondisk.node import InternalElm, LeafElm, NodeOndisk
from hammerfs.ondisk.records import DirentryData, InodeData, PfsData, payload_crc
from hammerfs.ondisk.volume import VolumeOndisk
from tests.imagebuilder import BUF_BEG, FIRST_TID, FSID, ImageBuilder
from tools.fsck import Finding, check

LATER_TID = FIRST_TID + 32
SLAVE, GONE = 2, 3
"""PFS ids: 1 is a master."""


def builder(version: int = 7) -> ImageBuilder:
    """Some 150 records of every type, on three levels of nodes."""
    b = ImageBuilder(version, fill=6, free_blocks=3)
    for i in range(10):
        b.file(b"/d%d/e/file%02d" % (i % 3, i), b"contents %d " % i * (i * 40))
    b.file(b"/big", bytes(range(256)) * 500)
    b.file(b"/holes", b"", size=5 << 20)
    b.symlink(b"/short", b"d0/e")
    b.symlink(b"/long", b"x" * 200)
    linked = b.file(b"/linked", b"two names")
    b.inode(linked, OBJTYPE_REGFILE, nlinks=2, size=9, tid=LATER_TID)
    retire(b, linked)
    b.direntry(b.mkdir(b"/d0"), b"again", linked, OBJTYPE_REGFILE, tid=LATER_TID)
    old = b.file(b"/old", b"first")
    b.data(old, 0, b"second".ljust(16, b"\0"), tid=LATER_TID)
    b.inode(old, OBJTYPE_REGFILE, size=6, tid=LATER_TID)
    retire(b, old)
    dead = b.new_obj_id()
    b.inode(dead, OBJTYPE_REGFILE, delete_tid=LATER_TID)
    b.direntry(OBJID_ROOT, b"dead", dead, OBJTYPE_REGFILE, delete_tid=LATER_TID)
    b.pfs(1, PfsData(sync_end_tid=FIRST_TID, shared_uuid=FSID, unique_uuid=FSID, label=b"one"))
    b.pfs_root(1)
    b.file(b"/inside", b"x" * 100, pfs=1)
    b.pfs(SLAVE, PfsData(sync_end_tid=FIRST_TID, shared_uuid=FSID, unique_uuid=FSID, mirror_flags=PFS_SLAVE))
    b.pfs_root(SLAVE)
    b.file(b"/mirrored", b"y" * 100, pfs=SLAVE)
    b.pfs(GONE, PfsData(mirror_flags=1 << 31))
    if version >= 3:
        b.snapshot(FIRST_TID + 16, b"snap")
        b.config(b"snapshots 1d 60d\n")
    return b


def retire(b: ImageBuilder, obj_id: int) -> None:
    """The older generations of an object's inode and data end where the newer ones begin."""
    for i, (elm, payload) in enumerate(b.records):
        if elm.obj_id == obj_id and elm.create_tid == FIRST_TID and elm.rec_type in {RECTYPE_INODE, 0x10}:
            newer = any(e.sort_key[:4] == elm.sort_key[:4] and e.create_tid > FIRST_TID for e, _ in b.records)
            if newer and not elm.delete_tid:
                b.records[i] = elm._replace(delete_tid=LATER_TID), payload
                b.inodes -= elm.rec_type == RECTYPE_INODE


@cache
def base(version: int = 7) -> Device:
    """A sound image; never changed."""
    return builder(version).build()


class Edit:
    """A private copy of a sound image, to be damaged.

    Args:
        lower: The sound image.
    """

    def __init__(self, lower: Device | None = None) -> None:
        self.dev = OverlayDevice(lower or base(), owns_lower=False)
        self.header = VolumeOndisk.decode(self.dev.pread(0, VOL_HEADER_SIZE))
        self.rule = CrcRule(self.header.vol_version)

    def check(self, **options: Any) -> list[Finding]:
        """What fsck finds."""
        return check([self.dev], **options)

    def codes(self, **options: Any) -> dict[str, int]:
        """How often it finds what."""
        return dict(Counter(finding.code for finding in self.check(**options)))

    def flip(self, byte_off: int) -> None:
        """Invert a bit."""
        self.dev.pwrite(byte_off, bytes([self.dev.pread(byte_off, 1)[0] ^ 1]))

    def put_header(self) -> None:
        """Write the header with a right checksum."""
        self.header.seal(self.rule)
        self.dev.pwrite(0, self.header.encode())

    # Nodes

    def node(self, off: int) -> NodeOndisk:
        """A node, decoded."""
        return NodeOndisk.decode(self.dev.pread(place(off), NODE_SIZE))

    def put_node(self, off: int, node: NodeOndisk) -> None:
        """Write a node with a right checksum."""
        self.dev.pwrite(place(off), node.seal(self.rule))

    def nodes(self) -> Iterator[tuple[int, NodeOndisk]]:
        """All nodes in key order, parents first."""
        stack = [self.header.vol0_btree_root]
        while stack:
            off = stack.pop()
            node = self.node(off)
            yield off, node
            if node.head.type == BTREE_TYPE_INTERNAL:
                stack += [elm.subtree_offset for elm in reversed(node.elms[:-1]) if isinstance(elm, InternalElm)]

    def leaf_with(self, wanted: Callable[[LeafElm], bool]) -> tuple[int, NodeOndisk, int, LeafElm]:
        """The first element that is wanted: its leaf's address, the leaf, its index, itself."""
        for off, node in self.nodes():
            for i, elm in enumerate(node.elms):
                if isinstance(elm, LeafElm) and wanted(elm):
                    return off, node, i, elm
        raise LookupError("no such element")

    def edit(self, wanted: Callable[[LeafElm], bool], **fields: Any) -> LeafElm:
        """Change fields of the first element that is wanted; the node's checksum is right again."""
        off, node, i, elm = self.leaf_with(wanted)
        node.elms[i] = elm._replace(**fields)  # type: ignore[call-overload]
        self.put_node(off, node)
        return elm

    def payload(self, elm: LeafElm) -> bytes:
        """Payload of an element."""
        return self.dev.pread(place(elm.data_offset), elm.data_len)

    def put_payload(self, wanted: Callable[[LeafElm], bool], payload: bytes) -> LeafElm:
        """Another payload of the same length for the first element that is wanted, checksums right."""
        _, _, _, elm = self.leaf_with(wanted)
        self.dev.pwrite(place(elm.data_offset), payload)
        return self.edit(lambda e: e == elm, data_crc=payload_crc(elm.rec_type, payload, self.rule))

    def edit_inode(self, wanted: Callable[[LeafElm], bool], **fields: Any) -> None:
        """Change fields of an inode, checksums right."""
        inode = InodeData.decode(self.payload(self.leaf_with(wanted)[3]))
        self.put_payload(wanted, replace(inode, **fields).encode())

    def edit_entry(self, wanted: Callable[[LeafElm], bool], **fields: Any) -> None:
        """Change fields of a directory entry, checksums right."""
        entry = DirentryData.decode(self.payload(self.leaf_with(wanted)[3]))
        self.put_payload(wanted, entry._replace(**fields).encode())

    def entry(self, name: bytes) -> Callable[[LeafElm], bool]:
        """Selects the entry with a name."""
        return lambda e: e.rec_type == RECTYPE_DIRENTRY and self.payload(e)[16:] == name

    def obj_id(self, name: bytes) -> int:
        """Object that the first entry with a name leads to."""
        return DirentryData.decode(self.payload(self.leaf_with(self.entry(name))[3])).obj_id

    def inode_of(self, name: bytes) -> Callable[[LeafElm], bool]:
        """Selects the live inode of a name."""
        obj_id = self.obj_id(name)
        return lambda e: e.rec_type == RECTYPE_INODE and e.obj_id == obj_id and not e.delete_tid

    # Freemap

    def layer1(self, index: int = 0, *, seal: bool = True, **fields: Any) -> None:
        """Change fields of a layer-1 entry."""
        at = BUF_BEG + index * LAYER1_SIZE
        entry = Layer1.decode(self.dev.pread(at, LAYER1_SIZE))._replace(**fields)
        self.dev.pwrite(at, (entry.sealed(self.rule) if seal else entry).encode())

    def layer2(self, owner: int, /, *, seal: bool = True, **fields: Any) -> int:
        """Change fields of the first layer-2 entry of a zone; its index."""
        index, entry = next((i, e) for i, e in enumerate(self.layer2_entries()) if e.zone == owner)
        entry = entry._replace(**fields)
        at = BUF_BEG + BIGBLOCK_SIZE + index * LAYER2_SIZE
        self.dev.pwrite(at, (entry.sealed(self.rule) if seal else entry).encode())
        return index

    def layer2_entries(self) -> Iterator[Layer2]:
        """The entries of the volume's big-blocks and some behind them."""
        raw = self.dev.pread(BUF_BEG + BIGBLOCK_SIZE, 64 * LAYER2_SIZE)
        return (Layer2.decode(raw, i * LAYER2_SIZE) for i in range(64))

    # FIFO

    def fifo(self, off: int, raw: bytes | None = None) -> bytes:
        """A sector of the FIFO, written when one is given."""
        at = BUF_BEG + 2 * BIGBLOCK_SIZE + off
        if raw is not None:
            self.dev.pwrite(at, raw)
        return self.dev.pread(at, 512)

    def put_u32(self, byte_off: int, value: int) -> None:
        """Store a number."""
        self.dev.pwrite(byte_off, struct.pack("<I", value))


def place(off: int) -> int:
    """Byte offset in the built volume of an address."""
    return BUF_BEG + (off & (1 << 52) - 1)


def is_inode(obj_id: int, pfs: int = 0) -> Callable[[LeafElm], bool]:
    """Selects the live inode of an object."""
    return lambda e: (
        e.rec_type == RECTYPE_INODE and e.obj_id == obj_id and e.localization >> 16 == pfs and not e.delete_tid
    )


def is_type(rec_type: int, pfs: int = 0, *, live: bool = True) -> Callable[[LeafElm], bool]:
    """Selects records of a type."""
    return lambda e: e.rec_type == rec_type and e.localization >> 16 == pfs and bool(e.delete_tid) != live


def is_directory(e: LeafElm) -> bool:
    """Selects live inodes of directories other than the root."""
    return (
        e.rec_type == RECTYPE_INODE
        and e.obj_type == OBJTYPE_DIRECTORY
        and e.obj_id != OBJID_ROOT
        and not e.delete_tid
        and e.localization >> 16 == 0
    )
