from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hammerfs.const import (
    BTREE_TYPE_DELETED,
    BTREE_TYPE_INTERNAL,
    BTREE_TYPE_LEAF,
    FIFO_TYPE_DUMMY,
    FIFO_TYPE_PAD,
    FIFO_TYPE_REDO,
    FIFO_TYPE_UNDO,
    NODE_SIZE,
    REDO_TRUNC,
    REDO_WRITE,
    VOL_HEADER_SIZE,
)
from hammerfs.crc import CrcRule
from hammerfs.errors import CorruptError, CrcError
from hammerfs.ondisk import fifo, mirror
from hammerfs.ondisk.blockmap import Layer1, Layer2, ZoneDesc
from hammerfs.ondisk.node import BaseElm, InternalElm, LeafElm, NodeHead, NodeOndisk, decode_keys, verify_node
from hammerfs.ondisk.records import (
    CONFIG_SIZE,
    INODE_SIZE,
    DirentryData,
    InodeData,
    PfsData,
    SnapshotData,
    decode_config,
    encode_config,
    id_uuid,
    payload_crc,
    payload_crc_ok,
    unix_id,
)
from hammerfs.ondisk.volume import VolumeOndisk

RULES = [CrcRule(6), CrcRule(7)]


def raw(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


@given(raw(VOL_HEADER_SIZE))
def test_any_volume_header_survives(data: bytes) -> None:
    assert VolumeOndisk.decode(data).encode() == data


@given(raw(40), raw(32), raw(16))
def test_any_blockmap_entry_survives(zone: bytes, layer1: bytes, layer2: bytes) -> None:
    assert ZoneDesc.decode(zone).encode() == zone
    assert Layer1.decode(layer1).encode() == layer1
    assert Layer2.decode(layer2).encode() == layer2


@given(raw(64))
def test_any_element_survives(data: bytes) -> None:
    assert LeafElm.decode(data).encode() == data
    assert InternalElm.decode(data).encode() == data
    assert BaseElm.decode(data).encode() == data[:40]
    assert LeafElm.decode(data).base.encode() == data[:40]
    assert LeafElm.decode(data).sort_key == InternalElm.decode(data).sort_key == decode_keys(data)[0]
    # The three reserved bytes of a node head are kept too.
    assert NodeHead.decode(data).encode() == data


@given(raw(INODE_SIZE))
def test_any_inode_survives(data: bytes) -> None:
    assert InodeData.decode(data).encode() == data


@given(raw(292), raw(128))
def test_any_pfs_and_snapshot_survive(pfs: bytes, snapshot: bytes) -> None:
    assert PfsData.decode(pfs).encode() == pfs
    assert SnapshotData.decode(snapshot).encode() == snapshot


@given(st.binary(min_size=17, max_size=271))
def test_any_directory_entry_survives(data: bytes) -> None:
    assert DirentryData.decode(data).encode() == data


def test_short_structures_are_refused() -> None:
    with pytest.raises(CorruptError, match="volume header has 100 bytes"):
        VolumeOndisk.decode(bytes(100))
    with pytest.raises(CorruptError, match="inode payload has 127 bytes"):
        InodeData.decode(bytes(127))
    with pytest.raises(CorruptError, match="name of 0 bytes"):
        DirentryData.decode(bytes(16))
    with pytest.raises(CorruptError, match="name of 256 bytes"):
        DirentryData.decode(bytes(272))
    with pytest.raises(CorruptError, match="snapshot payload"):
        SnapshotData.decode(bytes(127))


def test_a_short_pfs_record_is_padded() -> None:
    data = PfsData.decode(struct.pack("<QQQ", 1, 2, 3))
    assert (data.sync_low_tid, data.sync_beg_tid, data.sync_end_tid, data.prune_min) == (1, 2, 3, 0)


def test_unix_ids_in_uuids() -> None:
    assert unix_id(id_uuid(65534)) == 65534
    assert id_uuid(1) == b"\0" * 12 + b"\1\0\0\0"


def test_config_text() -> None:
    text = b"snapshots 1d 60d\n"
    assert len(encode_config(text)) == CONFIG_SIZE
    assert decode_config(encode_config(text)) == text
    with pytest.raises(CorruptError, match="does not fit"):
        encode_config(b"x" * CONFIG_SIZE)


@pytest.mark.parametrize("rule", RULES, ids=["crc32", "crc32c"])
def test_sealing_makes_checksums_right(rule: CrcRule) -> None:
    header = VolumeOndisk(vol_label=b"x")
    assert not header.crc_ok(rule)
    header.seal(rule)
    assert header.crc_ok(rule)
    assert VolumeOndisk.decode(header.encode()).crc_ok(rule)
    for entry in (ZoneDesc(1, 2, 3, 4, 0, 0), Layer1(1, 2, 0, 0, 0), Layer2(8, 0, 0, 16, -5, 0)):
        assert not entry.crc_ok(rule)
        assert entry.sealed(rule).crc_ok(rule)


def test_an_empty_descriptor_needs_no_checksum() -> None:
    assert ZoneDesc(0, 0, 0, 0, 0, 0).crc_ok(CrcRule(7))


def test_inode_times_are_outside_the_checksum() -> None:
    rule, data = CrcRule(7), bytes(range(128))
    crc = payload_crc(1, data, rule)
    assert payload_crc_ok(1, data[:112] + bytes(16), crc, rule)
    assert not payload_crc_ok(0x10, data[:112] + bytes(16), crc, rule)
    assert payload_crc(0x10, b"", rule) == 0
    assert payload_crc_ok(0x10, b"", 0, rule)
    assert not payload_crc_ok(0x10, b"", 1, rule)


def leaf(obj_id: int) -> LeafElm:
    return LeafElm(obj_id, 0, 1, 0, 1, 1, 0x52, 1, 0, 0, 0, 0, 0)


def test_node_round_trip_with_stale_elements() -> None:
    node = NodeOndisk(NodeHead(0, 0, 0, 2, BTREE_TYPE_LEAF, b"", b"", 5), [leaf(1), leaf(2)], b"\xaa" * 64)
    data = node.seal(CrcRule(7))
    assert len(data) == NODE_SIZE
    assert verify_node(data, CrcRule(7)).mirror_tid == 5
    again = NodeOndisk.decode(data)
    assert again.elms == node.elms
    assert again.stale[:64] == b"\xaa" * 64
    assert again.encode() == data


def test_node_damage_is_told_with_its_place() -> None:
    data = bytearray(NodeOndisk(NodeHead(0, 0, 0, 0, BTREE_TYPE_LEAF, b"", b"", 0), [], b"").seal(CrcRule(7)))
    data[4000] ^= 1
    with pytest.raises(CrcError, match=r"0x8000000000001000.*B-Tree node: bad CRC"):
        verify_node(bytes(data), CrcRule(7), 0x8000000000001000)


IMPOSSIBLE = [
    (BTREE_TYPE_LEAF, 64),
    (BTREE_TYPE_LEAF, -1),
    (BTREE_TYPE_INTERNAL, 0),
    (BTREE_TYPE_INTERNAL, 63),
    (BTREE_TYPE_DELETED, 0),
    (0, 0),
]


@pytest.mark.parametrize(("btype", "count"), IMPOSSIBLE)
def test_impossible_nodes(btype: int, count: int) -> None:
    data = bytearray(NODE_SIZE)
    data[:64] = NodeHead(0, 0, 0, count, btype, b"", b"", 0).encode()
    data[:4] = CrcRule(7).of(data[4:]).to_bytes(4, "little")
    with pytest.raises(CorruptError, match="B-Tree node"):
        verify_node(bytes(data), CrcRule(7))
    with pytest.raises(CorruptError, match="B-Tree node"):
        NodeOndisk.decode(bytes(data))


@pytest.mark.parametrize("rule", RULES, ids=["crc32", "crc32c"])
@given(data=st.binary(max_size=440), seq=st.integers(0, 0xFFFFFFFF), pos=st.integers(0, 31))
def test_fifo_records_survive(rule: CrcRule, data: bytes, seq: int, pos: int) -> None:
    undo = fifo.UndoRecord(0x2000000000001000, data)
    redo = fifo.RedoRecord(5, 1 << 40, len(data), REDO_WRITE, 0x30000, 123, data)
    trunc = fifo.RedoRecord(5, 7, 0, REDO_TRUNC, 0x30000, 123, b"")
    start = pos * 512
    for record in (
        fifo.encode_undo(undo, seq, rule),
        fifo.encode_redo(redo, seq, rule),
        fifo.encode_redo(trunc, seq, rule),
        fifo.encode_dummy(seq, rule),
    ):
        buf = bytes(start) + record + bytes(16384 - start - len(record))
        head = fifo.decode_head(buf, start, rule)
        assert (head.size, head.seq) == (len(record), seq)
        assert fifo.size_before(buf, start + head.size) == head.size
        if head.type == FIFO_TYPE_UNDO:
            assert fifo.decode_undo(buf, start, head.size) == undo
        elif head.type == FIFO_TYPE_REDO:
            assert fifo.decode_redo(buf, start, head.size) in (redo, trunc)
        else:
            assert head.type == FIFO_TYPE_DUMMY


@pytest.mark.parametrize("size", [8, 16, 24, 504])
def test_pads(size: int) -> None:
    buf = fifo.encode_pad(size).ljust(16384, b"\0")
    head = fifo.decode_head(buf, 0, CrcRule(7))
    assert (head.type, head.size) == (FIFO_TYPE_PAD, size)
    assert fifo.size_before(buf, size) == size


def broken(offset: int, value: int) -> bytes:
    data = bytearray(fifo.encode_undo(fifo.UndoRecord(0x2000000000000000, b"12345678"), 9, CrcRule(7)))
    data[offset] = value
    return bytes(data).ljust(16384, b"\0")


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [(0, 0, "signature"), (2, 0x99, "type"), (4, 7, "size"), (7, 0x80, "size"), (36, 1, "CRC"), (48 - 8, 0, "tail")],
)
def test_damaged_fifo_records(offset: int, value: int, text: str) -> None:
    with pytest.raises(CorruptError, match=text):
        fifo.decode_head(broken(offset, value), 0, CrcRule(7))


def test_fifo_bodies_that_claim_too_much() -> None:
    undo = struct.pack("<QiI", 0, 400, 0)
    with pytest.raises(CorruptError, match="claims 400 bytes"):
        fifo.decode_undo(bytes(16) + undo + bytes(100), 0, 48)
    with pytest.raises(CorruptError, match="size 24"):
        fifo.decode_undo(bytes(100), 0, 24)
    redo = struct.pack("<qqiIIIQ", 0, 0, -1, REDO_WRITE, 0, 0, 0)
    with pytest.raises(CorruptError, match="claims -1 bytes"):
        fifo.decode_redo(bytes(16) + redo + bytes(100), 0, 72)
    with pytest.raises(CorruptError, match="size 40"):
        fifo.decode_redo(bytes(100), 0, 40)


@given(elm=raw(64), payload=st.binary(max_size=300), tid=st.integers(0, 2**64 - 1))
def test_mirror_records_survive(elm: bytes, payload: bytes, tid: int) -> None:
    records = [
        mirror.MirrorRecord(mirror.MREC_REC, mirror.MREC_CRC_ERROR, leaf=LeafElm.decode(elm), data=payload),
        mirror.MirrorRecord(mirror.MREC_PASS, leaf=LeafElm.decode(elm)),
        mirror.MirrorRecord(mirror.MREC_UPDATE, tid=tid),
        mirror.MirrorRecord(mirror.MREC_PFSD, pfsd=PfsData(sync_end_tid=tid)),
        mirror.MirrorRecord(mirror.MREC_SKIP, skip_beg=BaseElm.decode(elm), skip_end=BaseElm.decode(elm, 24)),
        mirror.MirrorRecord(mirror.MREC_SYNC, body=bytes(8)),
        mirror.MirrorRecord(mirror.MREC_IDLE, body=bytes(8)),
        mirror.MirrorRecord(mirror.MREC_TERM, body=bytes(8)),
    ]
    stream = b"".join(r.encode() + bytes(-len(r.encode()) % 8) for r in records)
    assert [record for _, record in mirror.decode_stream(stream)] == records


def test_damaged_mirror_records() -> None:
    good = mirror.MirrorRecord(mirror.MREC_UPDATE, tid=7).encode()
    with pytest.raises(CorruptError, match="ends inside"):
        mirror.decode_record(good[:20])
    with pytest.raises(CorruptError, match="ends inside"):
        mirror.decode_record(good[:10])
    with pytest.raises(CrcError):
        mirror.decode_record(good[:-1] + b"\1")
    with pytest.raises(CorruptError, match="signature"):
        mirror.decode_record(bytes(24))
    with pytest.raises(CorruptError, match="other byte order"):
        mirror.decode_record(good[3::-1] + good[4:])
    with pytest.raises(CorruptError, match="type 99"):
        mirror.decode_record(good[:12] + bytes([99, 0, 0, 0]) + good[16:])
    with pytest.raises(CorruptError, match="has size 8"):
        mirror.decode_record(good[:8] + bytes([8, 0, 0, 0]) + good[12:])
    with pytest.raises(CorruptError, match="0x0000000000000018"):
        mirror.decode_stream(good + bytes(24))
