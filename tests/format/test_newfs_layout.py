"""newfs: laid out by us, every byte equals what newfs_hammer(8) wrote with the same uuid and time."""

from __future__ import annotations

import os
import shlex
import uuid
from pathlib import Path

import pytest

from hammerfs.const import BIGBLOCK_SIZE, LAYER1_SPAN, OFF_LONG_MASK, ZONE_FREE
from hammerfs.errors import InvalidError, UsageError
from hammerfs.ondisk.blockmap import decode_layer1_table, decode_layer2_table
from hammerfs.ondisk.records import InodeData
from hammerfs.ondisk.volume import VolumeOndisk
from mkfs.layout import Layout, Params, default_undo_size, plan
from tests.golden import GoldenImage, GoldenStore, golden_names

MIB = 1 << 20
FSID = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")


def recorded_params(image: GoldenImage) -> Params:
    """The parameters of the recorded command line, with uuid and time read from the image."""
    command = image.text("cmd")
    assert command is not None
    words = shlex.split(command.splitlines()[0])
    options = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-u", "-V", "-L")}
    with image.volumes[0].open("rb") as stream:
        header = VolumeOndisk.decode(stream.read(2048))
        node = header.vol_buf_beg + (header.vol0_btree_root & OFF_LONG_MASK)
        stream.seek(node + BIGBLOCK_SIZE)
        inode = InodeData.decode(stream.read(128))
    return Params(
        label=options["-L"].encode(),
        volume_sizes=tuple(path.stat().st_size for path in image.volumes),
        fsid=header.fsid,
        now_us=inode.ctime,
        version=int(options.get("-V", "7")),
        undo_size=int(options["-u"].rstrip("M")) * MIB,
    )


def data_ranges(path: Path) -> list[tuple[int, bytes]]:
    """The parts of a sparse file that are no holes."""
    out: list[tuple[int, bytes]] = []
    with path.open("rb") as stream:
        fd, pos = stream.fileno(), 0
        while True:
            try:
                start = os.lseek(fd, pos, os.SEEK_DATA)
            except OSError:
                return out
            pos = os.lseek(fd, start, os.SEEK_HOLE)
            out.append((start, os.pread(fd, pos - start, start)))


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names("fresh-"))
def test_equal_byte_for_byte(golden: GoldenStore, name: str) -> None:
    image = golden[name]
    written = {vol_no: data_ranges(path) for vol_no, path in enumerate(image.volumes)}
    rest = {vol_no: [(start, bytearray(data)) for start, data in ranges] for vol_no, ranges in written.items()}
    for extent in plan(recorded_params(image)).extents():
        with image.volumes[extent.vol_no].open("rb") as stream:
            stream.seek(extent.offset)
            assert stream.read(len(extent.data)) == extent.data, (extent.vol_no, extent.offset)
        for start, data in rest[extent.vol_no]:
            low = max(extent.offset, start)
            high = min(extent.offset + len(extent.data), start + len(data))
            if low < high:
                data[low - start : high - start] = bytes(high - low)
    assert not any(any(data) for ranges in rest.values() for _start, data in ranges), "newfs_hammer wrote more"


def make(*sizes: int, **kwargs: int) -> Layout:
    return plan(Params(b"T", sizes, FSID, 1_700_000_000_000_000, **{"undo_size": 8 * MIB, **kwargs}))


def test_more_than_one_span_each() -> None:
    """Volumes over 4 TiB have several layer-2 tables, and the totals count every free big-block once."""
    layout = make(LAYER1_SPAN + 100 * BIGBLOCK_SIZE, LAYER1_SPAN * 2 + 40 * BIGBLOCK_SIZE)
    assert [len(spans) for spans in layout.spans] == [2, 3]
    root = layout.headers[0]
    assert root.vol0_stat_freebigblocks == sum(entry.blocks_free for entry in layout.layer1)
    tables = [extent for extent in layout.extents() if len(extent.data) == BIGBLOCK_SIZE]
    layer1 = decode_layer1_table(tables[0].data)
    assert [i for i, entry in enumerate(layer1) if entry.phys_offset != (1 << 64) - 1] == [0, 1, 1024, 1025, 1026]
    free = sum(e.zone == ZONE_FREE for table in tables[1:6] for e in decode_layer2_table(table.data))
    assert free == root.vol0_stat_freebigblocks
    assert all(entry.crc_ok(layout.rule) for entry in layer1)


def test_default_fifo() -> None:
    assert default_undo_size(10 << 30) == 512 * MIB
    assert default_undo_size(700 << 30) == 720 * MIB  # 716.8 MiB in whole big-blocks
    assert default_undo_size(10 << 40) == 1 << 30


def test_smallest_volume() -> None:
    """Freemap (2), FIFO (1) and root directory (2): five big-blocks, and not a buffer less."""
    smallest = 557056 + 5 * BIGBLOCK_SIZE
    assert make(smallest).headers[0].vol0_stat_freebigblocks == 0
    with pytest.raises(InvalidError, match="volume 0: is too small"):
        make(smallest - 16384)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"boot_area": 16384}, "boot area"),
        ({"boot_area": 32768 + 512}, "boot area"),
        ({"memory_log": 1 << 40}, "memory log"),
        ({"undo_size": 2 << 30}, "UNDO FIFO"),
        ({"version": 8}, "version 8"),
    ],
)
def test_bad_parameters(bad: dict[str, int], message: str) -> None:
    with pytest.raises(Exception, match=message):
        make(256 * MIB, **bad)


@pytest.mark.parametrize("label", [b"", b"x" * 64, b"a\0b"])
def test_bad_labels(label: bytes) -> None:
    with pytest.raises(UsageError, match="label"):
        plan(Params(label, (256 * MIB,), FSID, 0))


def test_headers_come_last() -> None:
    """An interrupted format leaves nothing that looks like a volume."""
    extents = list(make(64 * MIB, 48 * MIB).extents())
    assert [(extent.vol_no, extent.offset) for extent in extents[-2:]] == [(0, 0), (1, 0)]
    assert all(extent.offset for extent in extents[:-2])
