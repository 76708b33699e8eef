"""Cleanup: what the configuration says is done when it is due, and only then."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pytest

from hammerfs.btree.iterate import scan
from hammerfs.errors import UsageError
from hammerfs.maint.sweep import pfs_keys
from hammerfs.rw import WritableFS
from tests.enginelab import assert_sound, fresh, mount, tree
from tests.golden import GoldenStore
from tests.maint.lab import Here, churn, history, verb
from tools import cleanup
from tools.cleanup import DEFAULT, Cleanup, Line, is_due, parse_config
from tools.cli import main
from tools.fsck.check import check

DAY = 86400


def test_the_default_text() -> None:
    assert parse_config(DEFAULT) == [
        Line("snapshots", DAY, 60 * DAY),
        Line("prune", DAY, 300),
        Line("rebalance", DAY, 300),
        Line("reblock", DAY, 300),
        Line("recopy", 30 * DAY, 600),
    ]
    assert parse_config(cleanup.default_config("/tmp"))[0] == Line("snapshots", 0, 0)
    assert parse_config("# nothing\n\n  dedup 1h 90s # now and then") == [Line("dedup", 3600, 90)]


@pytest.mark.parametrize("line", ["prune", "prune 1d", "prune 1d 5m 6m", "prune 1x 5m", "prune d 5m", "sweep 1d 5m"])
def test_lines_that_make_no_sense(line: str) -> None:
    with pytest.raises(UsageError, match=r"line 2: "):
        parse_config(f"snapshots 1d 60d\n{line}\n")


def test_periods_count_by_whole_days_hours_minutes() -> None:
    noon = time.mktime((2014, 5, 20, 12, 0, 0, 0, 0, -1))
    assert is_due(DAY, None, noon)
    assert is_due(DAY, noon - 12 * 3600 - 1, noon), "yesterday, if only just"
    assert not is_due(DAY, noon - 12 * 3600, noon)
    assert is_due(3600, noon - 1, noon)
    assert not is_due(3600, noon, noon + 3599)
    assert not is_due(90, noon, noon + 89)
    assert is_due(90, noon, noon + 90)
    assert is_due(0, noon, noon)


def clean(fs: WritableFS, folder: Path, path: str = "/", *, force: bool = False) -> list[str]:
    """Run a cleanup of a PFS; what it says."""
    said: list[str] = []
    args = argparse.Namespace(force=force)
    assert Cleanup(Here(fs), args, path, said.append, folder).run()
    return [line.strip() for line in said]


def test_what_is_due_is_done_once(tmp_path: Path) -> None:
    media = fresh()
    fs = mount(media)
    history(fs, 3)
    want = tree(fs)
    folder = tmp_path / "root"
    first = clean(fs, tmp_path)
    assert first[0].endswith(f"handle PFS #0 using {folder}")
    names = ["snapshots", "prune", "rebalance", "reblock", "recopy"]
    assert first[1:] == [f"{name} - run" for name in names]
    assert verb(fs, "config", path="/")["config"] == DEFAULT
    assert clean(fs, tmp_path)[1:] == [f"{name} - skip" for name in names]
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} == {f".{n}.period" for n in names}
    (link,) = [path for path in folder.iterdir() if path.is_symlink()]
    assert [str(link.readlink())] == [f"here/@@{snap['tid']}" for snap in verb(fs, "snapls", path="/")["snapshots"]]
    assert tree(fs) == want
    fs.close()
    assert_sound(media)


def test_snapshots_expire(tmp_path: Path) -> None:
    media = fresh()
    fs = mount(media)  # the clock of the file system stands in 2014
    history(fs, 1)
    verb(fs, "config", path="/", text="snapshots 1d 60d\n")
    old = verb(fs, "snap", path="/")["tid"]
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "snap-20140513-1653").symlink_to(f"here/@@{old}")
    (folder / "mine").symlink_to(f"here/@@{old}")
    assert clean(fs, tmp_path)[1:] == ["snapshots - run (1 expired)"]
    left = [snap["tid"] for snap in verb(fs, "snapls", path="/")["snapshots"]]
    assert len(left) == 1
    assert old not in left
    assert not (folder / "snap-20140513-1653").is_symlink()
    assert (folder / "mine").is_symlink()
    fs.close()
    assert_sound(media)


def test_snapshots_of_a_slave_expire_and_it_takes_none(tmp_path: Path) -> None:
    source, media = mount(fresh()), fresh()
    verb(source, "pfs-create", path="/", link="m", slave=False, options=[])
    source.create(source.root(1), b"f")
    taken = [verb(source, "snap", path="/m", label=f"{number}")["tid"] for number in range(3)]
    fs = mount(media)
    shared = source.pfs.get(1).shared_uuid
    verb(fs, "pfs-create", path="/", link="s", slave=True, options=[f"shared-uuid={source.pfs.get(1).shared}"])

    def bring() -> None:
        beg, end = f"0x{fs.pfs.get(1).sync_end_tid + 1:x}", f"0x{source.sync():x}"
        read = verb(source, "mirror-read", pfs=1, tid_beg=beg, tid_end=end)
        words = {"shared_uuid": shared.hex(), "tid_beg": "0x1", "tid_end": end}
        verb(fs, "mirror-write", pfs=1, data=read["data"], **words)
        verb(fs, "mirror-synced", pfs=1, shared_uuid=shared.hex(), tid=end)

    bring()
    assert [snap["tid"] for snap in verb(fs, "snapls", path="/s")["snapshots"]] == taken
    want = tree(source, int(taken[1], 16))
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "snap-20140513-1653").symlink_to(f"here/@@{taken[0]}:00001")
    (folder / "config").write_text("snapshots 1d 60d\nprune 1d 5m\n")
    assert clean(fs, tmp_path, path="/s")[1:] == ["snapshots - run (3 expired)", "prune - run"], "the year is 2014"
    assert verb(fs, "snapls", path="/s")["snapshots"] == []
    assert not (folder / "snap-20140513-1653").is_symlink()
    assert clean(fs, tmp_path, path="/s", force=True)[1] == "snapshots - run (0 expired)"
    source.create(source.root(1), b"later")
    late = verb(source, "snap", path="/m")["tid"]
    bring()
    assert [snap["tid"] for snap in verb(fs, "snapls", path="/s")["snapshots"]] == [late], "those removed stay away"
    assert sorted(entry.name for entry in fs.readdir(fs.root(1))) == [b"f", b"later"]
    assert tree(source, int(taken[1], 16)) == want
    fs.close()
    assert_sound(media)
    source.close()


def test_without_snapshots_all_history_goes(tmp_path: Path) -> None:
    fs = mount(fresh())
    tids = history(fs, 3)
    verb(fs, "config", path="/", text="snapshots 0d 0d\nprune 1d 5m\ndedup 1d 5m\n")
    said = clean(fs, tmp_path)
    assert said[1:] == ["snapshots - disabled", "prune - run", "dedup - run (0 shared)"]
    assert not verb(fs, "snapls", path="/")["snapshots"]
    reply = verb(fs, "prune", path="/", everything=True)
    assert reply["stats"]["records"] == 0
    assert tids
    fs.close()


def test_a_command_that_fails_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = mount(fresh())
    verb(fs, "config", path="/", text="prune 1d 5m\nrebalance 1d 5m\n")

    def fail(_self: Cleanup, _line: Line) -> str:
        raise UsageError("not today")

    monkeypatch.setitem(cleanup.COMMANDS, "prune", fail)
    said: list[str] = []
    assert not Cleanup(Here(fs), argparse.Namespace(force=False), "/", said.append, tmp_path).run()
    assert [line.strip() for line in said[1:]] == ["prune - failed", "rebalance - run"]
    assert capsys.readouterr().err == "hammer: cleanup: /: prune: not today\n"
    monkeypatch.undo()
    assert clean(fs, tmp_path)[1:] == ["prune - run", "rebalance - skip"]
    assert clean(fs, tmp_path, force=True)[1:] == ["prune - run", "rebalance - run"]
    fs.close()


@pytest.mark.parametrize("version", [2, 7])
def test_prune_keeps_what_softlinks_in_the_directory_show(tmp_path: Path, version: int) -> None:
    """Those of a file system from before version 3 above all; the directory need not be in it."""
    media = fresh(version)
    fs = mount(media)
    history(fs, 2)
    kept = [fs.tids.alloc()]
    churn(fs, 3)
    kept.append(fs.tids.alloc())
    churn(fs, 2)
    folder = tmp_path / "state"
    folder.mkdir()
    for number, tid in enumerate(kept):
        (folder / f"mine {number}").symlink_to(f"/mnt/@@0x{tid:016x}")
    with tempfile.TemporaryDirectory(prefix="hmr", dir="/tmp") as name:
        short = Path(name, "s")
        short.symlink_to(folder)
        verb(fs, "pfs-update", path="/", options=[f"snapshots={short}"])
        (folder / "config").write_text("prune 1d 5m\n")
        want = [tree(fs, tid) for tid in (*kept, None)]
        before = len(list(scan(fs.tree, *pfs_keys(0))))
        assert clean(fs, tmp_path)[1:] == ["prune - run"]
    assert [tree(fs, tid) for tid in (*kept, None)] == want
    assert len(list(scan(fs.tree, *pfs_keys(0)))) < before - 20, "what none shows has gone"
    fs.close()
    assert_sound(media)


def test_below_version_3_the_text_is_a_file_and_a_snapshot_a_softlink() -> None:
    fs = mount(fresh(2))
    with tempfile.TemporaryDirectory(prefix="hmr", dir="/tmp") as name:
        folder = Path(name)
        verb(fs, "pfs-update", path="/", options=[f"snapshots={folder}"])
        (folder / "config").write_text("snapshots 1d 60d\nrebalance 1d 5m\n")
        assert clean(fs, folder)[1:] == ["snapshots - run", "rebalance - run"]
        (link,) = [path for path in folder.iterdir() if path.is_symlink()]
        assert str(link.readlink()).startswith("here/@@0x")
        (folder / "config").write_text("snapshots 1d 1s\n")
        time.sleep(1.1)
        assert clean(fs, folder, force=True)[1:] == ["snapshots - run (1 expired)"]
    fs.close()


@pytest.mark.golden
@pytest.mark.parametrize("where", ["0", "/"])
def test_the_text_of_an_image_is_set_from_a_file(
    golden: GoldenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    image, text = golden.copy("snapshots"), tmp_path / "text"
    text.write_text("prune 1d 5m\n")
    assert main(["-f", image.spec, "config", where, str(text)]) == 0
    assert main(["-f", image.spec, "config", where]) == 0
    assert capsys.readouterr().out == "prune 1d 5m\n"
    assert main(["-f", image.spec, "config", where, str(tmp_path / "nothing")]) == 2
    assert main(["-f", image.spec, "cleanup"]) == 2
    assert [f for f in check(image.spec, data=True) if f.is_error] == []
