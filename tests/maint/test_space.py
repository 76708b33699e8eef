"""Prune and reblock: what stays is exact, what goes is gone, and the results are those of DragonFly's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hammerfs.btree.iterate import scan
from hammerfs.errors import CrcError, NoSpace, NotFound, UsageError
from hammerfs.filewrite import SetAttr
from hammerfs.keys import KEY_MAX, KEY_MIN
from hammerfs.maint import prune, reblock, sweep
from hammerfs.maint.prune import PruneRange, prune_ranges
from hammerfs.maint.sweep import key_text, parse_key
from hammerfs.ondisk.node import LeafElm
from hammerfs.rw import WritableFS
from tests.enginelab import abandon, assert_same, assert_sound, fresh, mount, tree
from tests.golden import GoldenImage, GoldenStore
from tests.maint.lab import churn, entry_texts, history, trees, verb, whole
from tools.cli import main
from tools.fsck.check import check

Out = pytest.CaptureFixture[str]
SHOWN = ("/@@0x0000000100010030", "/@@0x0000000100010110", "/@@0x0000000100010230")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes that need many steps for a small file system."""
    for module in (prune, reblock):
        monkeypatch.setattr(module, "SCANNED", 100)
        monkeypatch.setattr(module, "CHANGED", 17)
    monkeypatch.setattr(reblock, "MOVED_BYTES", 60_000)


def elements(fs: WritableFS) -> list[LeafElm]:
    return list(scan(fs.tree, KEY_MIN, KEY_MAX))


def manifest(image: GoldenImage, roots: list[str], out: Out) -> dict[str, list[str]]:
    """Trees of an image as sets of JSON texts."""
    words = [word for root in roots for word in ("--root", root)]
    assert main(["-f", image.spec, "manifest", *words]) == 0
    return comparable(json.loads(out.readouterr().out)["trees"])


def comparable(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    return {root: entry_texts(entries) for root, entries in found.items()}


def tree_text(text: str) -> list[str]:
    """The B-Tree of a `show` text, without the header and what follows."""
    return [line for line in text.split("==== BLOCKMAP", maxsplit=1)[0].splitlines()[16 + 16 :] if "zone" not in line]


# Results of DragonFly's own code


@pytest.mark.golden
def test_prune_leaves_the_recorded_tree_node_by_node(golden: GoldenStore, capsys: Out) -> None:
    image, want = golden.copy("maint-base"), golden["softpruned"]
    assert main(["-f", image.spec, "prune", "/"]) == 0
    lines = capsys.readouterr().out.splitlines()
    recorded = want.manifest["output"]
    assert [line.removeprefix("TID ").replace(" - ", "-") for line in lines if line.startswith("TID")] == [
        line.removeprefix("prune elm ") for line in recorded[:-1]
    ]
    assert "Prune /: 3 snapshots" in lines
    assert "Prune / succeeded" in lines
    assert lines[-1].lower() == recorded[-1].replace("dirs", "directory entries").replace(") ", ") and ")
    assert manifest(image, list(want.manifest["trees"]), capsys) == comparable(want.manifest["trees"])
    assert main(["-f", image.spec, "show"]) == 0
    recorded_show = want.text("show")
    assert recorded_show is not None
    shown = tree_text(capsys.readouterr().out)
    assert len(shown) > 1000
    assert shown == tree_text(recorded_show)
    assert [f for f in check(image.spec, data=True) if f.is_error] == []


@pytest.mark.golden
def test_exact_prune_leaves_what_a_snapshot_shows(golden: GoldenStore, capsys: Out) -> None:
    image = golden.copy("maint-base")
    assert main(["-f", image.spec, "prune", "--exact", "/"]) == 0
    capsys.readouterr()
    trees = {root: entries for root, entries in image.manifest["trees"].items() if root in {"/", *SHOWN}}
    assert manifest(image, list(trees), capsys) == comparable(trees)
    assert [f for f in check(image.spec, data=True) if f.is_error] == []


@pytest.mark.golden
def test_reblock_moves_what_the_original_moved(golden: GoldenStore, capsys: Out) -> None:
    image, want = golden.copy("softpruned"), golden["reblocked"].manifest
    assert main(["-f", image.spec, "reblock", "/"]) == 0
    text = capsys.readouterr().out
    assert "Reblock / succeeded" in text
    assert "    26/26 B-Tree nodes\n" in text
    assert "    873/873 data elements\n    2713022/2713022 data bytes\n" in text
    assert want["output"][0] == "reblock: btree 26/26 data 873/873 bytes 2713022/2713022"
    assert manifest(image, list(want["trees"]), capsys) == comparable(want["trees"])
    assert [f for f in check(image.spec, data=True) if f.is_error] == []
    assert main(["-f", image.spec, "--json", "reblock", "/", "50"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes_moved"] == 0, "full big-blocks stay"


@pytest.mark.golden
def test_prune_everything_leaves_the_present(golden: GoldenStore, capsys: Out) -> None:
    image, want = golden.copy("maint-base"), golden["prune-everything"].manifest
    assert main(["-f", image.spec, "--json", "prune-everything", "/"]) == 0
    done = json.loads(capsys.readouterr().out)
    line = f"pruned {done['records']}/{done['scanned']} records ({done['entries']} dirs) {done['nbytes']} bytes"
    assert line == want["output"][0]
    assert manifest(image, ["/"], capsys) == comparable(want["trees"])
    assert main(["-f", image.spec, "--json", "snapls"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert [f for f in check(image.spec, data=True) if f.is_error] == []


# The policy


def test_ranges_begin_at_the_newest_snapshot_and_end_at_the_beginning() -> None:
    assert prune_ranges([], 0, 100.0) == []
    assert prune_ranges([(50, 1.0)], 0, 100.0) == []
    snaps = [(50, 1.0), (90, 3.0), (70, 2.0), (70, 2.5)]
    assert prune_ranges(snaps, 0, 100.0) == [PruneRange(70, 90), PruneRange(50, 70), PruneRange(1, 50)]


def test_recent_history_is_kept_by_prune_min() -> None:
    snaps = [(10, 0.0), (20, 10.0), (30, 20.0), (40, 30.0)]
    assert prune_ranges(snaps, 15, 40.0) == prune_ranges(snaps[:3], 0, 40.0)
    assert prune_ranges(snaps, 1000, 40.0) == []


def test_what_a_range_takes() -> None:
    ranges = [PruneRange(50, 70), PruneRange(1, 50)]

    def elm(create: int, delete: int) -> LeafElm:
        return LeafElm(1, 0, create, delete, 1, 1, 0x52, 1, 0, 0, 0, 0, 0)

    assert prune.is_prunable(elm(51, 69), ranges)
    assert prune.is_prunable(elm(50, 60), ranges)
    assert not prune.is_prunable(elm(50, 60), ranges, exact=True), "the snapshot at 50 shows it"
    assert prune.is_prunable(elm(49, 49), ranges, exact=True)
    assert not prune.is_prunable(elm(51, 70), ranges), "it ends where the next snapshot is taken"
    assert not prune.is_prunable(elm(51, 71), ranges)
    assert not prune.is_prunable(elm(40, 60), ranges), "the snapshot at 50 shows it"
    assert prune.is_prunable(elm(2, 49), ranges)
    assert not prune.is_prunable(elm(51, 0), ranges)
    assert prune.is_prunable(elm(71, 72), None)


# On images made here


def test_snapshots_stay_exact_and_everything_between_goes(small_steps: None) -> None:
    media = fresh()
    fs = mount(media)
    history(fs, 3)
    first = int(verb(fs, "snap", path="/")["tid"], 16)
    churn(fs, 4)
    second = int(verb(fs, "snap", path="/")["tid"], 16)
    newest = churn(fs, 2)
    points: list[int | None] = [None, first, second, *newest]
    want = trees(fs, points)
    before = elements(fs)
    stats = whole(fs, "prune", path="/")
    after = elements(fs)
    assert stats["scanned"] == len(before)
    assert stats["records"] + stats["entries"] == len(before) - len(after) > 50

    def stays(elm: LeafElm) -> bool:
        """A snapshot shows it, or what is newer than all; one that ended just where a snapshot was taken stays too."""
        return not elm.delete_tid or elm.delete_tid >= second or elm.create_tid <= first <= elm.delete_tid

    assert after == [elm for elm in before if stays(elm)]
    assert trees(fs, points) == want
    fs.close()
    assert_sound(media)
    again = mount(media)
    assert trees(again, points) == want
    again.close()


@pytest.mark.parametrize("how", ["folder", "named", "elsewhere"])
def test_softlinks_are_snapshots(how: str) -> None:
    """Below version 3 they are the only ones: in the PFS's own directory, one that is named, or anywhere else."""
    media = fresh(2)
    fs = mount(media)
    tids = history(fs, 2)
    first = fs.tids.alloc()
    tids += churn(fs, 3)
    second = fs.tids.alloc()
    churn(fs, 1)
    targets = [f"/mnt/@@0x{first:016x}", f"/mnt/@@0x{second:016x}:00000", f"/mnt/@@0x{tids[3]:016x}:00007", "/etc"]
    words: dict[str, Any] = {}
    if how == "elsewhere":
        words = {"targets": targets, "times": [1.0] * len(targets)}
    else:
        name = b"snapshots" if how == "folder" else b"links"
        folder = fs.mkdir(fs.root(), name)
        for number, target in enumerate(targets):
            fs.symlink(folder, b"snap%d" % number, target.encode())
        if how == "named":
            words = {"directory": "/links"}
    fs.sync()
    want = trees(fs, [None, first, second])
    stats = whole(fs, "prune", path="/", **words)
    assert stats["records"] > 50
    reply = verb(fs, "prune", path="/", **words)
    assert reply["ranges"] == [[f"0x{first:016x}", f"0x{second:016x}"], [f"0x{1:016x}", f"0x{first:016x}"]]
    assert trees(fs, [None, first, second]) == want
    fs.close()
    assert_sound(media)


def test_a_pass_is_resumed_by_its_key_after_a_crash(small_steps: None) -> None:
    media = fresh()
    fs = mount(media)
    tids = history(fs, 4)
    want = tree(fs)
    reply = verb(fs, "prune", path="/", everything=True, seconds=0)
    assert reply["next"] is not None
    total = len(elements(fs))
    abandon(fs)
    again = mount(media)
    assert len(elements(again)) == total, "steps are durable"
    whole_stats = whole(again, "prune", path="/", everything=True)
    assert all(not elm.delete_tid for elm in elements(again))
    assert whole_stats["records"]
    assert_same(tree(again), want)
    with pytest.raises(NotFound):
        tree(again, tids[0])
    again.close()
    assert_sound(media)


def test_everything_moves_while_files_change(small_steps: None) -> None:
    media = fresh()
    fs = mount(media)
    tids = history(fs, 4)
    want = trees(fs, tids)
    held = fs.lookup(fs.lookup(fs.root(), b"d3"), b"f5")
    text = fs.read(held, 0, 100_000)
    before = {elm.sort_key: elm for elm in elements(fs)}
    start, rounds = None, 0
    while True:
        fs.write(held, 0, b"%06d" % rounds)  # what is in memory refers to what moves
        reply = verb(fs, "reblock", path="/", start=start, seconds=0)
        rounds += 1
        start = reply["next"]
        assert fs.read(held, 0, 100_000) == b"%06d" % (rounds - 1) + text[6:]
        if start is None:
            break
    assert rounds > 10
    fs.setattr(held, SetAttr(mtime_us=5, atime_us=6))
    fs.sync()
    for key, elm in before.items():
        if elm.data_len:
            now = next(iter(scan(fs.tree, key, sweep.after(key))))
            assert now.data_offset != elm.data_offset
            assert now._replace(data_offset=0, delete_tid=0, delete_ts=0) == elm._replace(
                data_offset=0, delete_tid=0, delete_ts=0
            )
    assert trees(fs, tids) == want
    fs.close()
    assert_sound(media)
    again = mount(media)
    assert again.lookup(again.lookup(again.root(), b"d3"), b"f5").data.mtime == 5
    again.close()


def test_reblock_frees_big_blocks() -> None:
    media = fresh()
    fs = mount(media)
    root = fs.root()
    for name in range(60):
        fs.write(fs.create(root, b"f%d" % name), 0, bytes([name]) * 1_000_000)
    for name in range(60):
        if name % 4:
            fs.unlink(root, b"f%d" % name)
    fs.sync()
    whole(fs, "prune", path="/", everything=True)
    want, before = tree(fs), fs.alloc.free_bigblocks
    stats = whole(fs, "reblock", path="/", what=["data"], percent=80)
    assert 0 < stats["payloads_moved"] <= stats["payloads"]
    assert stats["nodes"] == 0
    assert fs.alloc.free_bigblocks >= before + 4
    assert_same(tree(fs), want)
    fs.close()
    assert_sound(media)


def test_a_damaged_payload_stays_where_it_is() -> None:
    media = fresh()
    fs = mount(media)
    inode = fs.create(fs.root(), b"f")
    fs.write(inode, 0, b"x" * 50_000)
    fs.sync()
    elm = next(elm for elm in elements(fs) if elm.data_len == 16384)
    volume, byte_off = fs.volumes.locate(elm.data_offset, 1)
    volume.dev.pwrite(byte_off, b"?")
    stats = whole(fs, "reblock", path="/")
    assert stats["damaged"] == 1
    assert elm in elements(fs)
    with pytest.raises(CrcError):
        fs.read(fs.lookup(fs.root(), b"f"), 0, 50_000)
    fs.close()


def test_what_fails_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    media = fresh()
    fs = mount(media)
    history(fs, 2)
    want, before = tree(fs), elements(fs)
    calls = []

    def alloc(zone: int, nbytes: int) -> int:
        calls.append(zone)
        if len(calls) == 30:
            raise NoSpace("no more")
        return type(fs.alloc).alloc(fs.alloc, zone, nbytes)

    monkeypatch.setattr(fs.alloc, "alloc", alloc)
    with pytest.raises(NoSpace):
        verb(fs, "reblock", path="/")
    monkeypatch.undo()
    assert elements(fs) == before
    assert_same(tree(fs), want)
    fs.write(fs.create(fs.root(), b"afterwards"), 0, b"it goes on")
    fs.sync()
    fs.close()
    assert_sound(media)


def test_objects_without_a_name_go_with_a_prune() -> None:
    media = fresh()
    fs = mount(media)
    inode = fs.create(fs.root(), b"open")
    fs.write(inode, 0, b"data" * 1000)
    fs.hold(inode)
    fs.sync()
    fs.unlink(fs.root(), b"open")
    fs.sync()
    whole(fs, "prune", path="/", everything=True)
    assert fs.read(inode, 0, 4) == b"data", "somebody has it open"
    assert any(elm.obj_id == inode.obj_id for elm in elements(fs))
    inode.opens = 0  # as if the power had gone: nobody told
    fs.backend.orphans.clear()
    whole(fs, "prune", path="/", everything=True)
    whole(fs, "prune", path="/", everything=True)
    assert not any(elm.obj_id == inode.obj_id for elm in elements(fs))
    fs.close()
    assert_sound(media)


def test_keys_as_text() -> None:
    key = (0x10002, -5, 0x11, -(1 << 63), 1 << 64)
    text = key_text(key)
    assert text is not None
    assert parse_key(text) == key
    for bad in ("", "1:2:3", "x:1:1:1:1", "1:2:3:4:5:6"):
        with pytest.raises(UsageError):
            parse_key(bad)


def test_wrong_calls(tmp_path: Path, capsys: Out) -> None:
    fs = mount(fresh())
    for args in ({"percent": 101}, {"what": ["nodes"]}, {"start": "nonsense"}):
        with pytest.raises(UsageError):
            verb(fs, "reblock", path="/", **args)
    with pytest.raises(NotFound):
        verb(fs, "prune", path="/nothing")
    fs.close()
    with pytest.raises(SystemExit):
        main(["-f", str(tmp_path / "x"), "reblock", "/", "101"])
    assert "percent" in capsys.readouterr().err


def test_what_goes_by_itself_while_a_prune_rests_is_none_of_its_business() -> None:
    media = fresh()
    fs = mount(media)
    history(fs, 1)
    inode = fs.create(fs.root(), b"removed while open")
    fs.hold(inode)
    fs.unlink(fs.root(), b"removed while open")
    fs.sync()
    work = prune.Prune(fs, 0, None)
    with fs.cache.section():
        work._step(work.start)
    fs.release(inode)
    fs.sync()
    assert fs.host.call(work.run(work.start, 0)) is None
    fs.close()
    assert_sound(media)
