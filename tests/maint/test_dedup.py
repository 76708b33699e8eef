"""Deduplication: equal data is stored once, nothing else changes, and what is shared can change and go again."""

from __future__ import annotations

import gc
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from hammerfs.btree.iterate import scan
from hammerfs.const import RECTYPE_DATA
from hammerfs.errors import InvalidError, RefCountError
from hammerfs.keys import KEY_MAX, KEY_MIN
from hammerfs.maint import dedup
from hammerfs.maint.sweep import key_text
from hammerfs.ondisk.node import LeafElm
from hammerfs.rw import WritableFS
from tests.enginelab import assert_same, assert_sound, fresh, mount, tree
from tests.fuse.rwlab import make_image
from tests.golden import GoldenStore
from tests.maint.lab import Here, entry_texts, trees, verb, whole
from tools import dedupe
from tools.cli import main
from tools.fsck.check import check

Out = pytest.CaptureFixture[str]


def deduped(fs: WritableFS, *, simulate: bool = False) -> Any:
    return dedupe.Deduper(Here(fs), simulate=simulate).run("/")


def data(fs: WritableFS) -> list[LeafElm]:
    return [elm for elm in scan(fs.tree, KEY_MIN, KEY_MAX) if elm.rec_type == RECTYPE_DATA]


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "LISTED", 37)
    monkeypatch.setattr(dedup, "CHANGED", 5)
    monkeypatch.setattr(dedupe, "_PAIRS", 8)


def test_equal_blocks_are_stored_once(small_steps: None) -> None:
    media = fresh()
    fs = mount(media)
    contents = [bytes([n]) * 70_000 + bytes(1000) for n in range(3)]
    tids = []
    for name in range(12):
        fs.write(fs.create(fs.root(), b"f%d" % name), 0, contents[name % 3])
        fs.write(fs.create(fs.root(), b"small%d" % name), 0, b"small" * 100)
        tids.append(fs.sync())
    want = trees(fs, [None, *tids])
    before = data(fs)
    simulated = deduped(fs, simulate=True)
    assert data(fs) == before
    totals = deduped(fs)
    after = data(fs)
    assert [elm._replace(data_offset=0) for elm in after] == [elm._replace(data_offset=0) for elm in before]
    assert len({elm.data_offset for elm in after}) == len({(e.data_crc, e.data_len) for e in before}) < 12
    assert totals.records == len(after) - len({elm.data_offset for elm in after}) == simulated.records
    assert totals.nbytes == simulated.nbytes == totals.referenced - totals.allocated
    assert trees(fs, [None, *tids]) == want
    assert deduped(fs).records == 0
    fs.close()
    assert_sound(media)
    fs = mount(media)
    fs.write(fs.lookup(fs.root(), b"f0"), 0, b"changed")
    for name in range(1, 9):
        fs.unlink(fs.root(), b"f%d" % name)
    fs.sync()
    now = tree(fs)
    whole(fs, "prune", path="/", everything=True)
    assert_same(tree(fs), now)
    whole(fs, "reblock", path="/")
    assert_same(tree(fs), now)
    fs.close()
    assert_sound(media)


def test_bytes_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    media = fresh()
    fs = mount(media)
    for name in (b"a", b"b", b"c", b"d"):
        fs.write(fs.create(fs.root(), name), 0, (b"one" if name in {b"a", b"c"} else b"two") * 4000)
    fs.sync()
    want, elms = tree(fs), data(fs)
    scanned = verb(fs, "dedup-scan", path="/")

    def same_checksums(name: str, path: str | None = None, **args: Any) -> Any:
        if name != "dedup-scan":
            return verb(fs, name, **args)
        return {**scanned, "extents": [[key, 1, length, off] for key, _, length, off in scanned["extents"]]}

    session = Here(fs)
    monkeypatch.setattr(session, "run", same_checksums)
    totals = dedupe.Deduper(session, simulate=False).run("/")
    assert totals.records == len(elms) // 2
    assert totals.crc_collisions >= 2
    assert_same(tree(fs), want)
    fs.close()
    assert_sound(media)


def test_pairs_that_can_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = mount(fresh())
    fs.write(fs.create(fs.root(), b"a"), 0, b"x" * 100)
    fs.write(fs.create(fs.root(), b"b"), 0, b"x" * 100)
    fs.write(fs.create(fs.root(), b"c"), 0, b"x" * 40_000)
    fs.sync()
    a, b, c, *_ = (key_text(elm.sort_key) for elm in data(fs))
    gone = key_text((2, 99, RECTYPE_DATA, 0, 1))

    def outcome(one: str | None, other: str | None) -> str:
        return str(verb(fs, "dedup", pairs=[[one, other]])["outcomes"][0])

    assert outcome(a, c) == "different"
    assert outcome(a, gone) == outcome(gone, a) == "gone"

    def full(off: int, nbytes: int) -> None:
        raise RefCountError("no more", offset=off)

    with monkeypatch.context() as patch:
        patch.setattr(fs.alloc, "add_ref", full)
        assert outcome(a, b) == "full"
    assert outcome(a, b) == "done"
    assert outcome(a, b) == "shared"
    fs.close()


def test_old_versions_share_nothing() -> None:
    fs = mount(fresh(4))
    with pytest.raises(InvalidError, match="shared extents"):
        verb(fs, "dedup", pairs=[])
    fs.close()


# Memory


class Listed:
    """A session on a file system that is a list of extents, and on which equal checksums are equal bytes.

    Args:
        rows: Key, checksum, length and address of each.
    """

    place = "listed"

    def __init__(self, rows: list[tuple[str, int, int, int]]) -> None:
        self.offs = {key: off for key, _, _, off in rows}
        self.rows = rows
        self.scans = 0

    def run(self, verb: str, path: str | None = None, **args: Any) -> Any:
        if verb == "dedup":
            for one, other in args["pairs"]:
                self.offs[other] = self.offs[one]
            return {"outcomes": ["done"] * len(args["pairs"])}
        beg = int(args["start"] or 0)
        self.scans += beg == 0
        part = self.rows[beg : beg + 500]
        found = [
            (key.encode().decode(), crc, length, self.offs[key])  # a text of its own, as from a socket
            for key, crc, length, _ in part
            if args["least"] <= crc <= args["most"]
        ]
        return {"extents": found, "next": None if beg + 500 >= len(self.rows) else str(beg + 500)}


def extents_at_random(count: int, kinds: int) -> Listed:
    rng = random.Random(count)
    crcs = [rng.randrange(1 << 32) for _ in range(kinds)]
    zone = 0xA << 60
    return Listed([(f"20002:{n:x}:10:4000:100000000", rng.choice(crcs), 16384, zone + n * 16384) for n in range(count)])


@pytest.mark.parametrize(
    ("count", "kinds", "memory"),
    [(8000, 8000, 1 << 20), (12_000, 3000, 1 << 20), (12_000, 3, 1 << 20), (12_000, 1, 1 << 20)],
)
@pytest.mark.parametrize("simulate", [False, True])
def test_memory_is_limited_and_the_outcome_the_same(count: int, kinds: int, memory: int, simulate: bool) -> None:
    want, got = (extents_at_random(count, min(kinds, count)) for _ in range(2))
    once = dedupe.Deduper(want, simulate=simulate)
    totals = once.run("/")
    assert once.passes == want.scans == 1
    often = dedupe.Deduper(got, simulate=simulate, memory=memory)
    gc.collect()
    tracemalloc.start()
    try:
        assert often.run("/") == totals
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert often.is_complete
    assert (often.passes > 1) == (kinds > 1)
    assert often.passes == got.scans
    assert got.offs == want.offs
    assert totals.referenced == count * 16384
    assert totals.records == count - len({crc for _, crc, _, _ in want.rows})
    assert peak < memory * 1.1


def test_several_passes_over_a_file_system(small_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    contents = [rng.randbytes(20_000) for _ in range(15)]
    offs, found = [], []
    for memory in (1 << 30, 9000):
        media = fresh()
        fs = mount(media)
        for name in range(60):
            fs.write(fs.create(fs.root(), b"f%d" % name), 0, contents[name * 7 % 15])
        fs.sync()
        want = tree(fs)
        deduper = dedupe.Deduper(Here(fs), simulate=False, memory=memory)
        found.append(deduper.run("/"))
        offs.append([elm.data_offset for elm in data(fs)])
        assert (deduper.passes > 3) == (memory < 1 << 30)
        assert_same(tree(fs), want)
        fs.close()
        assert_sound(media)
    assert found[0] == found[1]
    assert found[0].records == 60 * 2 - len(set(offs[0]))
    assert offs[0] == offs[1]


def test_no_time_and_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("tools.dedupe.time.monotonic", lambda: clock[0])
    session = extents_at_random(4000, 40)
    run = session.run

    def slow(verb: str, path: str | None = None, **args: Any) -> Any:
        clock[0] += 1
        return run(verb, path, **args)

    monkeypatch.setattr(session, "run", slow)
    none = dedupe.Deduper(session, simulate=False)
    assert none.run("/", 0) == dedupe.Totals()
    assert not none.is_complete
    some = dedupe.Deduper(session, simulate=False)
    assert 0 < some.run("/", 6).records < 3960
    assert not some.is_complete
    assert clock[0] < 9
    rest = dedupe.Deduper(session, simulate=False)
    rest.run("/", 1000)
    assert rest.is_complete
    assert len(set(session.offs.values())) == 40


def test_the_command_has_a_limit(tmp_path: Path, capsys: Out) -> None:
    disk = str(make_image(tmp_path))
    assert main(["-m", "1m", "-f", disk, "--json", "dedup", "/"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True
    assert main(["-t", "0", "-f", disk, "dedup", "/"]) == 0
    assert "Dedup / interrupted by timer\n" in capsys.readouterr().out
    for text in ("1023k", "much"):
        with pytest.raises(SystemExit, match="2"):
            main(["-m", text, "-f", disk, "dedup", "/"])
        assert capsys.readouterr().err.startswith(f"hammer: argument -m: '{text}' is ")


@pytest.mark.golden
def test_an_image_that_the_original_deduplicated(golden: GoldenStore, capsys: Out) -> None:
    image = golden.copy("dedup")
    assert main(["-f", image.spec, "dedup", "/"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Dedup running\nDedup / succeeded\nDedup ratio = ")
    assert "           0 CRC collisions\n" in text
    assert [f for f in check(image.spec, data=True) if f.is_error] == []
    assert main(["-f", image.spec, "--json", "dedup-simulate", "/"]) == 0
    left = json.loads(capsys.readouterr().out)
    assert left["records"] == 0, "all that can be shared is"
    assert left["ratio"] > 2
    assert main(["-f", image.spec, "manifest"]) == 0
    assert entry_texts(json.loads(capsys.readouterr().out)["trees"]["/"]) == entry_texts(image.manifest["trees"]["/"])
