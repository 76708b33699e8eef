"""Deduplication: equal data is stored once, nothing else changes, and what is shared can change and go again."""

from __future__ import annotations

import json
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
from tests.golden import GoldenStore
from tests.maint.lab import Here, entry_texts, trees, verb, whole
from tools import cmd_dedup
from tools.cli import main
from tools.fsck.check import check

Out = pytest.CaptureFixture[str]


def deduped(fs: WritableFS, *, simulate: bool = False) -> Any:
    return cmd_dedup.Deduper(Here(fs), simulate=simulate).run("/")


def data(fs: WritableFS) -> list[LeafElm]:
    return [elm for elm in scan(fs.tree, KEY_MIN, KEY_MAX) if elm.rec_type == RECTYPE_DATA]


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "LISTED", 37)
    monkeypatch.setattr(dedup, "CHANGED", 5)
    monkeypatch.setattr(cmd_dedup, "_PAIRS", 8)


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
    totals = cmd_dedup.Deduper(session, simulate=False).run("/")
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
