"""Slaves and streams of the original: taken over, continued and passed on."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hammerfs.fs import HammerFS
from hammerfs.ondisk.mirror import MREC_PASS, MREC_REC, decode_stream
from tests.enginelab import assert_same
from tests.fuse.rwlab import make_image
from tests.golden import GoldenImage, GoldenStore
from tests.maint.lab import entry_texts
from tests.maint.test_mirror import Out, feed, tree_of
from tools.cli import main
from tools.fsck.check import check

pytestmark = [pytest.mark.golden]
_ELSEWHERE = frozenset({"atime_us", "mtime_us", "ino", "parent_ino", "pfs"})
"""What a slave shows otherwise: the number of its PFS, and times that were rewritten after they had been mirrored."""


def shown(spec: str, root: str, capsys: Out) -> list[dict[str, Any]]:
    """The tree of a root, as a manifest has it; the image is sound."""
    assert [f for f in check(spec, data=True) if f.is_error] == []
    assert main(["-f", spec, "manifest", "--root", root]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["trees"][root]
    return found


def assert_shows_master(spec: str, root: str, source: GoldenImage, capsys: Out, tree: str = "/m1/") -> None:
    want = entry_texts(source.manifest["trees"][tree], _ELSEWHERE)
    assert entry_texts(shown(spec, root, capsys), _ELSEWHERE) == want
    assert len(want) > 20


def copy_to(spec: str, path: str, source: GoldenImage, capsys: Out, name: str = "/m1") -> dict[str, Any]:
    assert main(["-f", source.spec, "--json", "mirror-copy", "--to", spec, name, path]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_the_full_stream_gives_what_the_master_shows(
    golden: GoldenStore, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, disk = golden["pfs-mirror"], make_image(tmp_path)
    recorded = source.data("stream-full")
    feed(monkeypatch, recorded)
    assert main(["-f", str(disk), "--json", "mirror-write", "/s"]) == 0
    report = json.loads(capsys.readouterr().out)
    records = [record for _, record in decode_stream(recorded)]
    assert report["created"] == report["records"] == sum(record.type == MREC_REC for record in records)
    assert report["rounds"] == 1
    at_end = "/@@0x00000001000381f0:00001"
    assert_shows_master(str(disk), "/s/", source, capsys, at_end)
    for text in ("stream-full", "stream2"):  # again, and one that is older than the slave
        feed(monkeypatch, source.data(text))
        code = main(["-f", str(disk), "--json", "mirror-write", "/s"])
        captured = capsys.readouterr()
        if text == "stream2":
            assert (code, captured.err.count("\n")) == (1, 1)
            assert "complete up to a later TID" in captured.err
        else:
            assert (code, json.loads(captured.out)["created"]) == (0, 0)
        assert_shows_master(str(disk), "/s/", source, capsys, at_end)


def test_both_streams_and_the_full_one_give_one_slave(
    golden: GoldenStore, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, disk = golden["pfs-mirror"], make_image(tmp_path)
    for path, names in (("/two", ("stream1", "stream2", "stream-full")), ("/one", ("stream-full",))):
        for name in names:
            feed(monkeypatch, source.data(name))
            assert main(["-f", str(disk), "mirror-write", path]) == 0
    tids = [int(tid, 16) for tid in source.manifest["slave_sync_tids"]]
    with HammerFS.open(str(disk)) as fs:
        for tid in (None, *tids):
            assert_same(tree_of(fs, 1, tid), tree_of(fs, 2, tid))
        assert len(tree_of(fs, 1)) > 20


@pytest.mark.parametrize("rounds", ["one", "many"])
def test_a_slave_of_the_original_is_continued(golden: GoldenStore, capsys: Out, rounds: str) -> None:
    source, target = golden.copy("pfs-mirror"), golden.copy("pfs-target")
    before = shown(target.spec, "/copy/", capsys)
    assert entry_texts(before) == entry_texts(target.manifest["trees"]["/copy/"])
    split = ["-S", "1"] if rounds == "many" else []
    assert main([*split, "-f", source.spec, "--json", "mirror-copy", "--to", target.spec, "/m1", "/copy"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["created"] < 30, "what the master has got since"
    assert_shows_master(target.spec, "/copy/", source, capsys)
    again = copy_to(target.spec, "/copy", source, capsys)
    assert (again["created"], again["deleted"]) == (0, 0)


def test_a_slave_beside_its_master_is_continued(golden: GoldenStore, capsys: Out) -> None:
    image = golden.copy("pfs-mirror")
    assert main(["-f", image.spec, "mirror-copy", "/m1", "/s1"]) == 0
    assert "to PFS#3 succeeded" in capsys.readouterr().out
    assert_shows_master(image.spec, "/s1/", image, capsys)
    for tid in image.manifest["slave_sync_tids"]:
        with HammerFS.open(image.spec) as fs:
            assert_same(tree_of(fs, 3, int(tid, 16)), tree_of(fs, 1, int(tid, 16)))


@pytest.mark.parametrize(("name", "path"), [("pfs-target", "/copy"), ("pfs-slave-v7-from-v6", "/s")])
def test_slaves_are_passed_on(golden: GoldenStore, tmp_path: Path, capsys: Out, name: str, path: str) -> None:
    source, disk = golden.copy(name), make_image(tmp_path)
    report = copy_to(str(disk), "/again", source, capsys, path)
    with HammerFS.open(source.spec) as fs:
        assert report["sync_end_tid"] == f"0x{fs.pfs.get(1).sync_end_tid:016x}"
    want = entry_texts(source.manifest["trees"][f"{path}/"])
    assert entry_texts(shown(str(disk), "/again/", capsys)) == want
    assert len(want) > 3


def test_what_a_slave_says_of_itself_is_what_it_was_told(
    golden: GoldenStore, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    source, target = golden["pfs-mirror"], golden.copy("pfs-target")
    assert main(["-f", target.spec, "mirror-read", "/copy"]) == 0
    said = records_of(capsysbinary.readouterr().out)
    told = records_of(source.data("stream1")) | records_of(source.data("stream2"))
    assert said == told


def records_of(stream: bytes) -> dict[tuple[int, ...], tuple[int, int]]:
    """Of each record: object, type, key and creation; length of its data and deletion; without localization."""
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    for _, record in decode_stream(stream):
        if record.leaf is not None and record.type in {MREC_REC, MREC_PASS}:
            leaf = record.leaf
            key = leaf.localization & 0xFFFF, leaf.obj_id, leaf.rec_type, leaf.key, leaf.create_tid
            found[key] = leaf.data_len, leaf.delete_tid
    return found


def test_streams_are_dumped(golden: GoldenStore, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(golden["pfs-mirror"].data("stream2"))

    monkeypatch.setattr(sys, "stdin", Stdin())
    assert main(["--json", "mirror-dump"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [rows[0]["type"], rows[1]["type"], rows[-1]["type"]] == ["PFSD", "PFSD", "SYNC"]
    assert rows[1]["offset"] == 320, "records are padded to 8 bytes"
    assert {row["type"] for row in rows} == {"PFSD", "PASS", "REC", "SYNC"}
