"""Both layers of the freemap, and the space that is counted anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hammerfs.const import (
    BIGBLOCK_SIZE,
    LAYER1_ENTRIES,
    OFF_BAD,
    RECTYPE_CONFIG,
    RECTYPE_DATA,
    ZONE_BTREE,
    ZONE_FREE,
    ZONE_FREEMAP,
    ZONE_LARGE_DATA,
    ZONE_META,
    ZONE_UNDO,
)
from hammerfs.device.file import open_file
from hammerfs.ondisk.blockmap import LAYER1_SIZE, LAYER2_SIZE
from hammerfs.ondisk.node import LeafElm
from hammerfs.ondisk.volume import VolumeOndisk
from tests.enginelab import fresh, mount
from tests.fsck.edit import Edit, base, is_type
from tests.golden import GoldenStore
from tests.imagebuilder import BUF_BEG
from tools.fsck import check

Damage = Callable[[Edit], object]
LAYER2 = BUF_BEG + BIGBLOCK_SIZE


def layer1(index: int = 0, **fields: Any) -> Damage:
    return lambda edit: edit.layer1(index, **fields)


def layer2(owner: int, /, **fields: Any) -> Damage:
    return lambda edit: edit.layer2(owner, **fields)


def flip(byte_off: int) -> Damage:
    return lambda edit: edit.flip(byte_off)


def free_lists_agree(edit: Edit) -> None:
    """A free big-block is handed to a zone, and all counters follow: nothing but the missing use tells."""
    index = edit.layer2(ZONE_FREE, zone=ZONE_META, append_off=4096, bytes_free=BIGBLOCK_SIZE - 4096)
    assert index
    edit.layer1(blocks_free=edit.header.vol0_stat_freebigblocks - 1)
    edit.header.vol0_stat_freebigblocks -= 1
    edit.put_header()


def moved_table(short: int) -> Damage:
    def damage(edit: Edit) -> None:
        desc = edit.header.vol0_blockmap[ZONE_FREEMAP]
        edit.header.vol0_blockmap[ZONE_FREEMAP] = desc._replace(phys_offset=2 << 60 | short).sealed(edit.rule)
        edit.put_header()

    return damage


def payload_in_a_free_block(edit: Edit) -> None:
    """A record points into a big-block that is free."""
    index = next(i for i, entry in enumerate(edit.layer2_entries()) if entry.zone == ZONE_FREE)
    elm = edit.leaf_with(is_type(RECTYPE_CONFIG))[3]
    raw = edit.payload(elm)
    edit.edit(is_type(RECTYPE_CONFIG), data_offset=ZONE_META << 60 | index * BIGBLOCK_SIZE)
    edit.dev.pwrite(BUF_BEG + index * BIGBLOCK_SIZE, raw)


def overlap(edit: Edit) -> None:
    """The last payload of the zone says it lies on the one before."""
    last = max(
        (elm for _, node in edit.nodes() for elm in node.elms if isinstance(elm, LeafElm)),
        key=lambda e: e.data_offset if e.data_offset >> 60 == ZONE_META else 0,
    )
    edit.edit(last.__eq__, data_offset=last.data_offset - 16)


CASES: dict[str, tuple[Damage, dict[str, int]]] = {
    "layer 1 checksum": (flip(BUF_BEG), {"layer1-crc": 1}),
    "layer 1 stored checksum": (flip(BUF_BEG + 28), {"layer1-crc": 1}),
    "layer 1 of an absent span": (flip(BUF_BEG + 700 * LAYER1_SIZE + 5), {"layer1-crc": 1}),
    "last entry of layer 1": (flip(BUF_BEG + LAYER1_ENTRIES * LAYER1_SIZE - 12), {"layer1-crc": 1}),
    "no table": (layer1(phys_offset=OFF_BAD), {"layer1-field": 1}),
    "table nowhere": (layer1(phys_offset=5), {"layer1-field": 1}),
    "table without span": (layer1(3, phys_offset=2 << 60), {"layer1-field": 1}),
    "free blocks without span": (layer1(3, blocks_free=2), {"layer1-field": 1}),
    "free blocks of a span": (layer1(blocks_free=2), {"layer1-free": 1}),
    "layer 1 nowhere": (moved_table(1 << 50), {"freemap-table": 1}),
    "layer 1 elsewhere": (moved_table(2 * BIGBLOCK_SIZE), {"freemap-table": 1}),
    "layer 2 elsewhere": (layer1(phys_offset=2 << 60 | 2 * BIGBLOCK_SIZE), {"freemap-table": 1}),
    "layer 2 checksum": (flip(LAYER2 + 3 * LAYER2_SIZE + 8), {"layer2-crc": 1}),
    "layer 2 of a free big-block": (lambda e: e.layer2(ZONE_FREE, seal=False, append_off=16), {"layer2-crc": 1}),
    "layer 2 behind the end": (flip(LAYER2 + 300_000 * LAYER2_SIZE), {"layer2-crc": 1}),
    "unknown zone": (layer2(ZONE_META, zone=7), {"layer2-field": 1}),
    "too much free": (layer2(ZONE_META, bytes_free=BIGBLOCK_SIZE + 16), {"layer2-field": 1}),
    "free and in use": (layer2(ZONE_FREE, bytes_free=100), {"layer2-field": 1}),
    "FIFO with free bytes": (layer2(ZONE_UNDO, bytes_free=100), {"layer2-field": 1}),
    "append point": (layer2(ZONE_BTREE, append_off=BIGBLOCK_SIZE + 1), {"layer2-field": 1}),
    "bytes free": (layer2(ZONE_META, bytes_free=160), {"bigblock-free": 1}),
    "bytes free by dedup": (layer2(ZONE_LARGE_DATA, bytes_free=-160), {"bigblock-free": 1}),
    "behind the append point": (layer2(ZONE_BTREE, append_off=4096), {"bigblock-append": 1}),
    "overlap": (overlap, {"bigblock-overlap": 1, "payload-crc": 1}),
    "another zone": (layer2(ZONE_META, zone=ZONE_LARGE_DATA), {"bigblock-zone": 1}),
    "orphan": (free_lists_agree, {"bigblock-orphan": 1}),
    "free, and in use": (payload_in_a_free_block, {"bigblock-zone": 1, "bigblock-free": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_freemap(name: str) -> None:
    damage, expected = CASES[name]
    edit = Edit(base())
    damage(edit)
    assert edit.codes() == expected


def test_negative_free_bytes_need_dedup() -> None:
    edit = Edit(base(4))
    edit.layer2(ZONE_LARGE_DATA, bytes_free=-160)
    assert edit.codes() == {"layer2-field": 1}


@pytest.mark.parametrize("at", [300_000 * LAYER2_SIZE, 300_000 * LAYER2_SIZE + 7])
def test_idle_entries_can_be_left_out(at: int) -> None:
    edit = Edit(base())
    edit.flip(LAYER2 + at)
    assert edit.codes(idle=False) == {}


def test_file_data_is_verified_on_demand() -> None:
    edit = Edit(base())
    _, _, _, elm = edit.leaf_with(lambda e: e.rec_type == RECTYPE_DATA and e.data_len > 16000)
    edit.flip(BUF_BEG + elm.data_offset % (1 << 52) + 5000)
    assert edit.codes() == {}
    [finding] = edit.check(data=True)
    assert (finding.code, finding.offset, finding.obj_id) == ("payload-crc", elm.data_offset, elm.obj_id)


@pytest.mark.golden
def test_tables_of_added_volumes_may_count_as_usable(golden: GoldenStore) -> None:
    image = golden.copy("vol2-spread")
    edit = Edit()
    with open_file(image.volumes[0], readonly=False) as device:
        edit.header = VolumeOndisk.decode(device.pread(0, 16384))
        edit.header.vol0_stat_bigblocks += 1
        edit.header.seal(edit.rule)
        device.pwrite(0, edit.header.encode())
    assert {finding.code for finding in check(image.spec)} == {"header-crc-unset", "stat-bigblocks-tables"}


def test_a_volume_that_was_being_added_or_removed_is_a_note() -> None:
    media = fresh(volumes=2)
    fs = mount(media)
    assert fs.host.call(fs.flusher.transact(lambda _tid: fs.spans.detach(fs.volumes.by_number[1])))
    fs.close()
    fresh_notes = {"header-crc-unset", "node-mirror-tid-fresh"}
    findings = {finding.code: finding.is_error for finding in check(media)}
    assert findings == {**dict.fromkeys(fresh_notes, False), "volume-bare": False}
    mount(media).close()
    assert {finding.code for finding in check(media)} == {*fresh_notes, "stat-bigblocks-tables"}
    fs = mount(media)
    with fs.cache.section():
        assert fs.spans.used(fs.volumes.by_number[1]) == {}
    fs.write(fs.create(fs.root(), b"there"), 0, b"t" * 100_000)
    fs.close()
    assert not [finding for finding in check(media, data=True) if finding.is_error]
