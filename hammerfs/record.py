"""Records: leaf elements found in the tree, and their payloads, verified."""

from __future__ import annotations

from collections.abc import Iterator

from hammerfs.btree.iterate import leaves_asof, scan, scan_asof
from hammerfs.btree.search import BTree
from hammerfs.cache import BufferCache
from hammerfs.const import (
    BUFSIZE,
    MAX_TID,
    XBUFSIZE,
    ZONE_LARGE_DATA,
    ZONE_META,
    ZONE_SHIFT,
    ZONE_SMALL_DATA,
)
from hammerfs.errors import CorruptError, CrcError, RecordPlace
from hammerfs.keys import MAX_INT64, MIN_INT64, Key
from hammerfs.ondisk.node import LeafElm
from hammerfs.ondisk.records import payload_crc, payload_crc_ok
from hammerfs.volumes import Volumes

_PAYLOAD_ZONES = frozenset({ZONE_META, ZONE_LARGE_DATA, ZONE_SMALL_DATA})


class Records:
    """The records of a file system.

    Args:
        volumes: The set.
        cache: Its buffers.
        tree: Its tree.
    """

    __slots__ = ("cache", "tree", "volumes")

    def __init__(self, volumes: Volumes, cache: BufferCache, tree: BTree) -> None:
        self.volumes = volumes
        self.cache = cache
        self.tree = tree

    def lookup(self, localization: int, obj_id: int, rec_type: int, key: int, asof: int) -> LeafElm | None:
        """The visible generation of a record slot; see `BTree.lookup`."""
        return self.tree.lookup(localization, obj_id, rec_type, key, asof)

    def of_type(self, localization: int, obj_id: int, rec_type: int, asof: int) -> Iterator[LeafElm]:
        """Visible records of one type of an object, by key."""
        beg, end = key_range(localization, obj_id, rec_type)
        return scan_asof(self.tree, beg, end, asof)

    def visible(self, beg: Key, end: Key) -> Iterator[LeafElm]:
        """Live records with beg <= sort key < end."""
        return scan_asof(self.tree, beg, end, MAX_TID)

    def between(
        self, localization: int, obj_id: int, rec_type: int, first: int, last: int, asof: int
    ) -> Iterator[list[LeafElm]]:
        """Visible records of one type of an object with first <= key <= last, leaf by leaf."""
        beg, end = key_range(localization, obj_id, rec_type, first, last)
        return leaves_asof(self.tree, beg, end, asof)

    def generations(
        self, localization: int, obj_id: int, rec_type: int, first: int = MIN_INT64, last: int = MAX_INT64
    ) -> Iterator[LeafElm]:
        """All generations of such records, by key and create_tid."""
        beg, end = key_range(localization, obj_id, rec_type, first, last)
        return scan(self.tree, beg, end)

    def payload(self, elm: LeafElm) -> memoryview:
        """Payload of a record that fits one buffer, checksum verified.

        Returns:
            A read-only view, good until the next call that may bring another buffer in.

        Raises:
            CorruptError: The payload can't be where the element says, or its checksum is wrong.
            BufferMiss: As `BufferCache.bread`.
        """
        check_payload_address(elm)
        if elm.data_len > BUFSIZE:
            raise CorruptError(f"payload of {elm.data_len} bytes", **place_of(elm))
        view = self.cache.view(elm.data_offset, elm.data_len) if elm.data_len else memoryview(b"")
        self.verify_payload(elm, view)
        return view

    def verify_payload(self, elm: LeafElm, payload: memoryview) -> None:
        """Check a payload against the checksum in its element.

        Raises:
            CrcError: It does not match.
        """
        rule = self.volumes.rule
        if not payload_crc_ok(elm.rec_type, payload, elm.data_crc, rule):
            found = payload_crc(elm.rec_type, payload, rule)
            raise CrcError(
                f"payload of record type {elm.rec_type:02x}", want=elm.data_crc, found=found, **place_of(elm)
            )


def check_payload_address(elm: LeafElm) -> None:
    """Check length and zone of an element's payload.

    Raises:
        CorruptError: They can't be.
    """
    if not 0 <= elm.data_len <= XBUFSIZE:
        raise CorruptError(f"payload of {elm.data_len} bytes", **place_of(elm))
    if elm.data_len and elm.data_offset >> ZONE_SHIFT not in _PAYLOAD_ZONES:
        raise CorruptError(f"payload in zone {elm.data_offset >> ZONE_SHIFT}", **place_of(elm))


def place_of(elm: LeafElm) -> RecordPlace:
    """Where an element's payload is, as keyword arguments of an error."""
    return {"offset": elm.data_offset, "obj_id": elm.obj_id, "localization": elm.localization}


def key_range(
    localization: int, obj_id: int, rec_type: int, first: int = MIN_INT64, last: int = MAX_INT64
) -> tuple[Key, Key]:
    """Sort keys of the range first <= key <= last, all generations: inclusive begin and exclusive end."""
    end: Key = (localization, obj_id, rec_type, last + 1, 0)
    return (localization, obj_id, rec_type, first, 0), end
