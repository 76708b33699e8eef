"""Mirroring: streams equal to the recorded ones, slaves equal to their masters at every point in time."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hammerfs.const import RECTYPE_INODE
from hammerfs.errors import CorruptError, InvalidError, NotFound, UsageError
from hammerfs.fs import HammerFS
from hammerfs.maint import mirror_read, mirror_write
from hammerfs.maint.mirror_read import read_piece
from hammerfs.ondisk.mirror import MREC_REC, MREC_SKIP, decode_stream, padded
from hammerfs.ondisk.records import INODE_CRC_SIZE
from hammerfs.rw import WritableFS
from mkfs.cli import main as newfs
from tests.enginelab import Tree, assert_same, assert_sound, fresh, mount, node_of
from tests.golden import GoldenStore
from tests.maint.lab import entry_texts, verb, whole
from tools.cli import main
from tools.fsck.check import check
from tools.mirrorstream import head_record, round_end

Out = pytest.CaptureFixture[str]
STREAMS = {
    "stream1": (0x1, 0x1000200B0),
    "stream2": (0x1000200B0, 0x1000381F0),
    "stream-full": (0x1, 0x100038200),
}
"""Of the recorded streams: the TIDs they were read with."""


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mirror_read, mirror_write):
        for name, value in (
            ("VISITED", 30),
            ("SCANNED", 40),
            ("CHANGED", 13),
            ("MOVED_BYTES", 50_000),
            ("APPLIED", 17),
            ("UNDO_BYTES", 30_000),
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A new file system."""
    image = tmp_path / "slave.img"
    with contextlib.redirect_stdout(io.StringIO()):
        assert newfs(["-f", "-u", "8m", "-L", "S", "--size", "512m", "--quiet", str(image)]) == 0
    yield image
    assert [f for f in check(str(image), data=True) if f.is_error] == []


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    class Stdin:
        buffer = io.BytesIO(data)

    monkeypatch.setattr(sys, "stdin", Stdin())


def stream_of(fs: HammerFS, pfs_id: int, beg: int, end: int, nbytes: int) -> bytes:
    out, at = b"", None
    while True:
        with fs.cache.section():
            data, at = read_piece(fs, pfs_id, beg, end, at, nbytes)
        out += data
        if at is None:
            return out


def timeless(stream: bytes) -> list[Any]:
    """Records without what a later look at the master shows otherwise: times rewritten in place, later deletions."""
    found = []
    for _, record in decode_stream(stream):
        if record.leaf is not None and not record.leaf.delete_tid:
            record.leaf = record.leaf._replace(delete_ts=0)
        if record.type == MREC_REC and record.leaf is not None and record.leaf.rec_type == RECTYPE_INODE:
            record.data = record.data[:INODE_CRC_SIZE]
        found.append(record)
    return found


# Streams of the original


@pytest.mark.golden
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("nbytes", [700, 1 << 30])
def test_reading_gives_the_recorded_stream(golden: GoldenStore, name: str, nbytes: int) -> None:
    image = golden["pfs-mirror"]
    recorded = image.data(name)
    beg, end = STREAMS[name]
    with HammerFS.open(image.spec) as fs:
        stream = stream_of(fs, 1, beg, end, nbytes)
        pfs = fs.pfs.get(1)
    pfs.sync_end_tid = end
    whole_stream = 2 * head_record(pfs) + stream + round_end(has_work=True)
    assert len(whole_stream) == len(recorded)
    if name == "stream2":
        assert whole_stream == recorded, "byte by byte"
    assert timeless(whole_stream) == timeless(recorded)


@pytest.mark.golden
def test_writing_gives_the_recorded_slave(
    golden: GoldenStore, disk: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch, small_steps: None
) -> None:
    source, want = golden["pfs-mirror"], golden["pfs-target"].manifest["trees"]["/copy/"]
    for name in ("stream1", "stream2"):
        feed(monkeypatch, source.data(name))
        assert main(["-f", str(disk), "--json", "mirror-write", "/copy"]) == 0
        assert json.loads(capsys.readouterr().out)["sync_end_tid"] == f"0x{STREAMS[name][1]:016x}"
    assert main(["-f", str(disk), "manifest", "--root", "/copy/"]) == 0
    got = json.loads(capsys.readouterr().out)["trees"]["/copy/"]
    assert entry_texts(got) == entry_texts(want)
    assert [f for f in check(str(disk), data=True) if f.is_error] == []


@pytest.mark.golden
def test_the_commands_end_to_end(
    golden: GoldenStore,
    disk: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = golden.copy("pfs-mirror")
    assert main(["-f", image.spec, "mirror-read", "/m1"]) == 0
    plain = capsysbinary.readouterr().out
    assert main(["-f", image.spec, "mirror-read", "--compress", "lz4", "/m1"]) == 0
    packed = capsysbinary.readouterr().out
    assert len(packed) < len(plain) * 3 // 4
    for stream in (plain, packed):
        feed(monkeypatch, stream)
        assert main(["mirror-dump"]) == 0
        lines = capsysbinary.readouterr().out.splitlines()
        assert lines[0].startswith(b"0000000000 PFSD   beg=0000000000000001 end=")
        assert lines[-1].endswith(b" SYNC")
        assert len(lines) == len(decode_stream(plain))
    feed(monkeypatch, packed)
    assert main(["-f", str(disk), "mirror-write", "/a"]) == 0
    assert main(["-f", image.spec, "mirror-copy", "--to", str(disk), "/m1", "/b"]) == 0
    assert b"to PFS#2 succeeded" in capsysbinary.readouterr().out
    with HammerFS.open(str(disk)) as fs:
        assert_same(tree_of(fs, 1), tree_of(fs, 2))
        assert len(tree_of(fs, 1)) > 50
    assert main(["-f", image.spec, "mirror-copy", "/m2", "/fresh"]) == 0
    with HammerFS.open(image.spec) as fs:
        assert_same(tree_of(fs, 4), tree_of(fs, 2))
    assert [f for f in check(image.spec, data=True) if f.is_error] == []


def tree_of(fs: HammerFS, pfs_id: int, asof: int | None = None) -> Tree:
    """A PFS as a user sees it."""
    root = fs.root(pfs_id, asof if asof is not None else fs.pfs.asof(pfs_id))
    found = {b"": node_of(fs, root)}
    todo = [(b"", root)]
    while todo:
        path, directory = todo.pop()
        for entry in fs.readdir(directory):
            inode = fs.iget(entry.pfs_id, entry.obj_id, directory.asof)
            found[path + b"/" + entry.name] = node_of(fs, inode)
            if inode.is_dir:
                todo.append((path + b"/" + entry.name, inode))
    return found


# Between file systems made here


class Pair:
    """A master and a slave of it in another file system."""

    def __init__(self, versions: tuple[int, int] = (7, 7)) -> None:
        self.media = [fresh(version) for version in versions]
        self.master, self.slave = (mount(media) for media in self.media)
        verb(self.master, "pfs-create", path="/", link="m", slave=False, options=[])
        shared = self.master.pfs.get(1)
        verb(self.slave, "pfs-create", path="/", link="s", slave=True, options=[f"shared-uuid={shared.shared}"])

    def round(self, *, pieces: int | None = None, piece: int = 20_000) -> tuple[int, bytes]:
        """Bring the slave up to date, or only some pieces; the TID and the stream."""
        reply = verb(self.master, "mirror-source", path="/m")
        pfs = self.master.pfs.get(1).__class__.decode(bytes.fromhex(reply["data"]))
        beg, end = self.slave.pfs.get(1).sync_end_tid + 1, pfs.sync_end_tid
        words = {"pfs": 1, "tid_beg": f"0x{beg:x}", "tid_end": f"0x{end:x}"}
        target = {**words, "tid_beg": "0x1", "shared_uuid": pfs.shared_uuid.hex()}
        start, at, stream, count = None, None, b"", 0
        while pieces is None or count < pieces:
            read = verb(self.master, "mirror-read", start=start, nbytes=piece, **words)
            stream += base64.b64decode(read["data"])
            if read["data"]:
                at = verb(self.slave, "mirror-write", data=read["data"], start=at, **target)["next"]
            start, count = read["next"], count + 1
            if start is None:
                verb(self.slave, "mirror-synced", pfs=1, shared_uuid=pfs.shared_uuid.hex(), tid=f"0x{end:x}")
                break
        return end, stream

    def close(self) -> None:
        for fs, media in zip((self.master, self.slave), self.media, strict=True):
            fs.close()
            assert_sound(media)


def change(fs: WritableFS, rng: random.Random, count: int) -> None:
    """Names and contents of PFS 1 change at random."""
    root = fs.root(1)
    for _ in range(count):
        name = b"f%d" % rng.randrange(60)
        try:
            inode = fs.lookup(root, name)
        except NotFound:
            inode = fs.create(root, name)
        what = rng.randrange(4)
        if what == 0:
            fs.unlink(root, name)
        elif what == 1:
            fs.truncate(inode, rng.randrange(30_000))
        else:
            fs.write(inode, rng.randrange(20_000), rng.randbytes(rng.choice((10, 3000, 40_000))))


def test_every_round_is_visible_for_ever(small_steps: None) -> None:
    pair, rng = Pair(), random.Random(5)
    ends = []
    for _ in range(5):
        change(pair.master, rng, 40)
        pair.master.sync()
        change(pair.master, rng, 20)
        ends.append(pair.round()[0])
    for end in ends:
        assert_same(tree_of(pair.slave, 1, end), tree_of(pair.master, 1, end))
    assert_same(tree_of(pair.slave, 1), tree_of(pair.master, 1))
    whole(pair.slave, "pfs-upgrade", path="/s")
    change(pair.slave, rng, 30)
    pair.close()


def test_unchanged_subtrees_are_skipped() -> None:
    pair = Pair()
    root = pair.master.root(1)
    for name in range(1500):
        pair.master.write(pair.master.create(root, b"n%d" % name), 0, b"x" * 100)
    _, everything = pair.round(piece=400_000)
    pair.master.write(pair.master.lookup(root, b"n700"), 0, b"changed")
    end, news = pair.round()
    assert len(news) < len(everything) // 10
    assert sum(record.type == MREC_SKIP for _, record in decode_stream(news)) >= 2
    assert_same(tree_of(pair.slave, 1, end), tree_of(pair.master, 1, end))
    pair.close()


def test_what_was_pruned_before_it_was_mirrored_goes(small_steps: None) -> None:
    pair = Pair()
    root = pair.master.root(1)
    for name in range(30):
        pair.master.write(pair.master.create(root, b"f%d" % name), 0, b"x" * 5000)
    first, _ = pair.round()
    before = tree_of(pair.slave, 1)
    for name in range(0, 30, 2):
        pair.master.unlink(root, b"f%d" % name)
    pair.master.sync()
    whole(pair.master, "prune", path="/m", everything=True)
    pair.round()
    assert_same(tree_of(pair.slave, 1), tree_of(pair.master, 1))
    assert_same(tree_of(pair.slave, 1, first), before)
    pair.close()


def test_a_round_that_breaks_off_shows_nothing_and_is_repaired(small_steps: None) -> None:
    pair, rng = Pair(), random.Random(8)
    change(pair.master, rng, 40)
    pair.round()
    want = tree_of(pair.slave, 1)
    change(pair.master, rng, 60)
    pair.round(pieces=3)
    assert_same(tree_of(pair.slave, 1), want)
    pair.slave.close()
    assert_sound(pair.media[1])
    pair.slave = mount(pair.media[1])
    assert_same(tree_of(pair.slave, 1), want)
    change(pair.master, rng, 10)
    pair.round()
    assert_same(tree_of(pair.slave, 1), tree_of(pair.master, 1))
    pair.close()


@pytest.mark.parametrize("versions", [(6, 7), (2, 7), (7, 7), (4, 6)])
def test_newer_volumes_take_older_streams(versions: tuple[int, int]) -> None:
    pair = Pair(versions)
    change(pair.master, random.Random(1), 40)
    pair.round()
    assert_same(tree_of(pair.slave, 1), tree_of(pair.master, 1))
    pair.close()


def test_checksums_that_a_version_lacks_are_refused() -> None:
    pair = Pair((7, 6))
    change(pair.master, random.Random(1), 10)
    with pytest.raises(InvalidError, match="checksum"):
        pair.round()
    assert pair.slave.changes.failed is None
    pair.close()


def test_masters_and_strangers_take_no_stream() -> None:
    pair = Pair()
    words = {"data": "", "tid_beg": "0x1", "tid_end": "0x2"}
    with pytest.raises(InvalidError, match="differ"):
        verb(pair.slave, "mirror-write", pfs=1, shared_uuid="00" * 16, **words)
    with pytest.raises(InvalidError, match="master"):
        verb(pair.master, "mirror-write", pfs=1, shared_uuid="00" * 16, **words)
    with pytest.raises(NotFound):
        verb(pair.master, "mirror-write", pfs=9, shared_uuid="00" * 16, **words)
    pair.close()


def test_copying_into_a_master_is_refused(disk: Path, capsys: Out) -> None:
    for target in ("/", "/m"):
        assert main(["-f", str(disk), "pfs-master", "/m"]) == (0 if target == "/" else 1)
        capsys.readouterr()
        assert main(["-f", str(disk), "mirror-copy", "/", target]) == 1
        assert "is a master: it takes no stream" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mirror-read", "/", "xyz"], "argument TID: 'xyz' is no TID"),
        (["reblock", "/", "200"], "argument percent: '200' is no percentage: 0 to 100"),
        (["reblock", "/", "all"], "argument percent: 'all' is no percentage: 0 to 100"),
    ],
)
def test_wrong_words_of_the_command_line(disk: Path, capsys: Out, words: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["-f", str(disk), *words])
    assert capsys.readouterr().err == f"hammer {words[0]}: {said}\n"


def test_arguments_that_make_no_sense() -> None:
    pair = Pair()
    good: dict[str, Any] = {"pfs": 1, "shared_uuid": "00" * 16, "data": "", "tid_beg": "0x1", "tid_end": "0x2"}
    for name, value in (("shared_uuid", "xy"), ("tid_beg", "one"), ("tid_end", "-1"), ("start", "1:2")):
        if name == "shared_uuid":
            words = {**good, name: value}
        else:
            words = {**good, "shared_uuid": pair.slave.pfs.get(1).shared_uuid.hex(), name: value}
        with pytest.raises(UsageError):
            verb(pair.slave, "mirror-write", **words)
    with pytest.raises(UsageError):
        verb(pair.slave, "mirror-write", **{**words, "start": None, "data": "%%%"})
    for name, args in (
        ("prune", {"path": "/", "ranges": [["0x1"]]}),
        ("prune", {"path": "/", "ranges": [["0x1", "zz"]]}),
        ("dedup", {"pairs": [["1:1:1:1:1"]]}),
        ("snaprm", {"path": "/", "tids": ["first"]}),
    ):
        with pytest.raises(UsageError):
            verb(pair.master, name, **args)
    pair.close()


def test_payloads_that_do_not_fit_their_record_are_refused() -> None:
    pair = Pair()
    change(pair.master, random.Random(1), 10)
    _, stream = pair.round()
    record = next(r for _, r in decode_stream(stream) if r.leaf is not None and r.data)
    assert record.leaf is not None
    shared = pair.slave.pfs.get(1).shared_uuid.hex()
    for data in (record.data[:-1], record.data + b"x", bytes(len(record.data))):
        record.data = data
        record.leaf = record.leaf._replace(create_tid=0x200000000)
        raw = base64.b64encode(padded(record)).decode()
        with pytest.raises(InvalidError):
            verb(pair.slave, "mirror-write", pfs=1, shared_uuid=shared, data=raw, tid_beg="0x1", tid_end="0x300000000")
    pair.close()


@pytest.mark.golden
def test_damaged_streams_are_told_where(
    golden: GoldenStore, disk: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = golden["pfs-mirror"].data("stream1")
    rng = random.Random(3)
    cases = [b"", b"nonsense" * 10, stream[:-24], stream[:1000], stream[640:], b"\x04\x22\x4d\x18" + stream]
    for _ in range(20):
        at = rng.randrange(len(stream))
        cases.append(stream[:at] + bytes([stream[at] ^ 1 << rng.randrange(8)]) + stream[at + 1 :])
    for case in cases:
        feed(monkeypatch, case)
        code = main(["-f", str(disk), "mirror-write", "/c"])
        err = capsys.readouterr().err
        if code:
            assert code in {1, 2}
            assert err.count("\n") == 1
            assert "Traceback" not in err


def test_a_stream_that_ends_in_a_record() -> None:
    with pytest.raises(CorruptError):
        decode_stream(b"\x72\x72\xd9\x4d" + bytes(8))
