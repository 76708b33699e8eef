"""B-Tree nodes and their elements (hammer_btree.h): 4096 bytes, a 64-byte head and 63 elements of 64 bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from hammerfs.const import (
    BTREE_TYPE_INTERNAL,
    BTREE_TYPE_LEAF,
    ELM_SIZE,
    INT_ELMS,
    LEAF_ELMS,
    NODE_HEADER,
    NODE_SIZE,
    TID_INFINITE,
)
from hammerfs.crc import CrcRule, Data
from hammerfs.errors import CorruptError, CrcError
from hammerfs.keys import Key

NODE_HEAD = struct.Struct("<IIQiB3s32sQ")
LEAF_ELM = struct.Struct("<qqQQHBBIIIQiI")
INTERNAL_ELM = struct.Struct("<qqQQHBBIQQQ")
BASE_ELM = struct.Struct("<qqQQHBBI")
assert NODE_HEAD.size == NODE_HEADER
assert LEAF_ELM.size == ELM_SIZE
assert INTERNAL_ELM.size == ELM_SIZE
assert BASE_ELM.size == 40


class BaseElm(NamedTuple):
    """The 40 bytes that open every element: a record's key, or a boundary."""

    obj_id: int
    key: int
    create_tid: int
    delete_tid: int
    rec_type: int
    obj_type: int
    btype: int
    localization: int

    @classmethod
    def decode(cls, buf: Data, offset: int = 0) -> BaseElm:
        """The base at `offset` of `buf`."""
        return cls._make(BASE_ELM.unpack_from(buf, offset))

    def encode(self) -> bytes:
        """The 40 bytes."""
        return BASE_ELM.pack(*self)

    @property
    def sort_key(self) -> Key:
        """Key tuple in tree order."""
        return self.localization, self.obj_id, self.rec_type, self.key, self.create_tid or TID_INFINITE


ROOT_LEFT = BaseElm(-(1 << 63), -(1 << 63), 1, 1, 0, 0, 0, 0)
"""Left boundary of the whole tree, as a root stores it."""
ROOT_RIGHT = BaseElm((1 << 63) - 1, (1 << 63) - 1, (1 << 64) - 1, 0, 0xFFFF, 0, 0, 0xFFFFFFFF)
"""Right boundary of the whole tree, exclusive."""


class InternalElm(NamedTuple):
    """Element of an internal node: a left boundary and the child right of it."""

    obj_id: int
    key: int
    create_tid: int
    delete_tid: int
    rec_type: int
    obj_type: int
    btype: int
    """Type of the child, ``I`` or ``L``; not significant in a right boundary."""
    localization: int
    mirror_tid: int
    """Upper bound of the TIDs below."""
    subtree_offset: int
    """Zone-8 address of the child."""
    reserved: int = 0

    @classmethod
    def decode(cls, buf: Data, offset: int = 0) -> InternalElm:
        """The element at `offset` of `buf`."""
        return cls._make(INTERNAL_ELM.unpack_from(buf, offset))

    def encode(self) -> bytes:
        """The 64 bytes."""
        return INTERNAL_ELM.pack(*self)

    @property
    def base(self) -> BaseElm:
        """The boundary."""
        return BaseElm._make(self[:8])

    @property
    def sort_key(self) -> Key:
        """Key tuple of the boundary in tree order."""
        return self.localization, self.obj_id, self.rec_type, self.key, self.create_tid or TID_INFINITE


class LeafElm(NamedTuple):
    """A record: its key, its life time and where its payload is."""

    obj_id: int
    key: int
    create_tid: int
    delete_tid: int
    """0 while the record lives."""
    rec_type: int
    obj_type: int
    btype: int
    localization: int
    create_ts: int
    """Unix seconds."""
    delete_ts: int
    """Unix seconds."""
    data_offset: int
    """Tagged address of the payload, 0 without payload."""
    data_len: int
    """Bytes of payload, not rounded."""
    data_crc: int

    @classmethod
    def decode(cls, buf: Data, offset: int = 0) -> LeafElm:
        """The element at `offset` of `buf`."""
        return cls._make(LEAF_ELM.unpack_from(buf, offset))

    def encode(self) -> bytes:
        """The 64 bytes."""
        return LEAF_ELM.pack(*self)

    @property
    def base(self) -> BaseElm:
        """The key part."""
        return BaseElm._make(self[:8])

    @property
    def sort_key(self) -> Key:
        """Key tuple in tree order."""
        return self.localization, self.obj_id, self.rec_type, self.key, self.create_tid or TID_INFINITE


class NodeHead(NamedTuple):
    """The 64 bytes that open a node."""

    crc: int
    reserved0: int
    """0; early releases stored a signature here."""
    parent: int
    """Zone-8 address of the parent, 0 for the root."""
    count: int  # type: ignore[assignment]  # the field of the format hides tuple.count
    """Elements, without an internal node's right boundary."""
    type: int
    reserved1: bytes
    reserved2: bytes
    mirror_tid: int

    @classmethod
    def decode(cls, buf: Data, offset: int = 0) -> NodeHead:
        """The head at `offset` of `buf`."""
        return cls._make(NODE_HEAD.unpack_from(buf, offset))

    def encode(self) -> bytes:
        """The 64 bytes."""
        return NODE_HEAD.pack(*self)


@dataclass(slots=True)
class NodeOndisk:
    """A whole node with all elements decoded: for tools and writers; searching works on `decode_keys`."""

    head: NodeHead
    elms: list[LeafElm] | list[InternalElm]
    """Elements in use; the last one of an internal node is its right boundary."""
    stale: bytes
    """What lies behind them, meaningless but covered by the checksum."""

    @classmethod
    def decode(cls, buf: Data) -> NodeOndisk:
        """Decode 4096 bytes; the count and the type are checked, nothing else.

        Raises:
            CorruptError: Impossible type or count.
        """
        head = NodeHead.decode(buf)
        used = used_slots(head)
        body = memoryview(buf)[NODE_HEADER : NODE_HEADER + used * ELM_SIZE]
        stale = bytes(memoryview(buf)[NODE_HEADER + used * ELM_SIZE : NODE_SIZE])
        if head.type == BTREE_TYPE_INTERNAL:
            return cls(head, [InternalElm._make(fields) for fields in INTERNAL_ELM.iter_unpack(body)], stale)
        return cls(head, [LeafElm._make(fields) for fields in LEAF_ELM.iter_unpack(body)], stale)

    def encode(self) -> bytes:
        """The 4096 bytes, checksum as it stands; `stale` is cut or zero-padded to fit."""
        raw = self.head.encode() + b"".join(elm.encode() for elm in self.elms)
        return (raw + self.stale[: NODE_SIZE - len(raw)]).ljust(NODE_SIZE, b"\0")

    def seal(self, rule: CrcRule) -> bytes:
        """Set the checksum and return the encoded node."""
        raw = self.encode()
        self.head = self.head._replace(crc=rule.of(raw[4:]))
        return self.head.encode()[:4] + raw[4:]


def used_slots(head: NodeHead) -> int:
    """Element slots in use, an internal node's right boundary included.

    Raises:
        CorruptError: Impossible type or count.
    """
    if head.type == BTREE_TYPE_LEAF:
        if 0 <= head.count <= LEAF_ELMS:
            return head.count
    elif head.type == BTREE_TYPE_INTERNAL:
        if 1 <= head.count <= INT_ELMS:
            return head.count + 1
    else:
        raise CorruptError(f"B-Tree node has type 0x{head.type:02x}")
    raise CorruptError(f"B-Tree node of type {chr(head.type)} has {head.count} elements")


def verify_node(buf: Data, rule: CrcRule, offset: int | None = None) -> NodeHead:
    """Check the checksum, type and count of 4096 bytes.

    Args:
        buf: The node.
        rule: Checksums of the volume version.
        offset: Address of the node, for the message.

    Raises:
        CrcError: Checksum wrong.
        CorruptError: Impossible type or count.
    """
    view = memoryview(buf)
    head = NodeHead.decode(view)
    if not rule.matches(head.crc, view[4:NODE_SIZE]):
        raise CrcError("B-Tree node", want=head.crc, found=rule.of(view[4:NODE_SIZE]), offset=offset)
    try:
        used_slots(head)
    except CorruptError as err:
        raise CorruptError(err.what, offset=offset) from None
    return head


def decode_keys(body: Data) -> list[Key]:
    """Sort keys of the elements whose bytes are `body` (a multiple of 64)."""
    return [
        (lo, obj_id, rec_type, key, create_tid or TID_INFINITE)
        for obj_id, key, create_tid, _, rec_type, _, _, lo, _, _, _, _, _ in LEAF_ELM.iter_unpack(body)
    ]
