"""The past of images: what the original recorded, images made here, text and JSON, hostile names, damage."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hammerfs.changes import WriteOptions
from hammerfs.filewrite import SetAttr
from hammerfs.inode import Inode
from hammerfs.namespace import Owner
from hammerfs.rw import WritableFS
from tests.enginelab import Clock
from tests.fuse.rwlab import check, make_image, run_hammer, run_undo
from tests.golden import GoldenImage, GoldenStore, golden_names
from tools.cli import build_parser, main
from tools.contentdiff import write_diff
from tools.undo import build_parser as build_undo_parser

MINUTE_US = 60_000_000
HOSTILE = (
    b"line\nbreak",
    b"\x1b[31mred",
    b"\xff\xfe",
    b"n" * 255,
    b"a@@b",
    b"; touch x",
    b"-rf",
    b"%s%n",
    b"..x",
    b" ",
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path)


class Writer:
    """Changes an image and remembers its points in time."""

    def __init__(self, fs: WritableFS, clock: Clock) -> None:
        self.fs = fs
        self.clock = clock

    def file(self, directory: Inode, name: bytes, data: bytes) -> Inode:
        inode = self.fs.create(directory, name)
        self.fs.write(inode, 0, data)
        return inode

    def point(self) -> str:
        tid = self.fs.sync()
        self.clock.now += 10 * MINUTE_US
        return f"0x{tid:016x}"


@contextlib.contextmanager
def writing(image: Path) -> Iterator[Writer]:
    clock = Clock()
    clock.now += 86400 * 1_000_000
    with WritableFS.open_rw([str(image)], WriteOptions(clock=clock, commit_seconds=1_000_000)) as fs:
        yield Writer(fs, clock)


def ask(image: object, *args: object) -> Any:
    return json.loads(run_hammer("-f", image, "--json", *args))


# What the original recorded


def times_of(image: GoldenImage) -> list[str]:
    """Roots of PFS 0 whose trees are recorded, oldest first."""
    return [*sorted(root for root in image.manifest["trees"] if root.startswith("/@@0x") and ":" not in root), "/"]


def recorded(image: GoldenImage, root: str) -> dict[str, tuple[object, ...]]:
    """What a difference tells of each object: paths, identities, contents; of directories only what is their own."""
    found = {}
    for entry in image.manifest["trees"][root]:
        own = (entry.get("sha256"), entry.get("size")) if entry.get("type") == "file" else ()
        found[entry["path"]] = (entry.get("ino"), entry.get("mode"), entry.get("uid"), entry.get("gid"), *own)
    return found


def is_below(path: str, told: set[str]) -> bool:
    """Whether a path is one of those told, or below one: a directory that moved takes all in it along."""
    return any(path == other or path.startswith(other + "/") for other in told)


@pytest.mark.golden
@pytest.mark.parametrize("name", [name for name in golden_names() if name in {"history", "snapshots", "softpruned"}])
def test_differences_equal_those_of_recorded_trees(golden: GoldenStore, name: str) -> None:
    image = golden[name]
    roots = times_of(image)
    compared = 0
    for older, newer in pairwise(roots):
        before, after = recorded(image, older), recorded(image, newer)
        texts = [older[3:], "now" if newer == "/" else newer[3:]]
        rows = ask(image.spec, "diff", *texts)
        told = {row["path"] for row in rows}
        came = {row["path"] for row in rows if row["change"] in {"added", "renamed"}}
        went = {row["path"] for row in rows if row["change"] == "removed"} | {
            row["from"] for row in rows if "from" in row
        }
        assert all(is_below(path, came) for path in after.keys() - before.keys())
        assert all(is_below(path, went) for path in before.keys() - after.keys())
        for path in before.keys() & after.keys():
            if before[path] != after[path]:
                assert path in told, path
        compared += len(rows)
    assert compared or name != "history"


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names())
def test_every_question_has_an_answer_on_every_image(golden: GoldenStore, name: str) -> None:
    image = golden[name]
    for verb in (["deleted", "-r", "/"], ["log", "-n", "50"], ["find", "--asof", "now"]):
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            assert main(["-f", image.spec, "--json", *verb]) in {0, 1}


@pytest.mark.golden
def test_deleted_names_of_a_recorded_history_come_back(golden: GoldenStore) -> None:
    image = golden.copy("history")
    rows = [row for row in ask(image.spec, "deleted", "-r", "/") if row["type"] == "file" and not row["lives_on"]]
    assert rows
    for row in rows:
        if "%" not in row["path"] and "\\" not in row["path"]:
            wanted = run_hammer("-f", image.spec, "cat", row["restore"])
            assert run_hammer("-f", image.spec, "restore", "--to", "/", row["restore"]) == "1 restored\n"
            name = "/" + row["path"].rpartition("/")[2]
            assert run_hammer("-f", image.spec, "cat", name) == wanted
            break
    check(image.volumes[0])


@pytest.mark.golden
def test_another_pfs_is_reached_by_its_path(golden: GoldenStore) -> None:
    image = golden.copy("pfs-mirror")
    path = "/m1"
    rows = ask(image.spec, "log", path)
    assert rows
    assert all(row["path"].startswith("/@@-1:00001") for row in rows)
    kept = next(row["path"] for row in rows if row["change"] == "added")
    assert ask(image.spec, "versions", kept)
    tid = rows[-1]["tid"]
    assert ask(image.spec, "diff", tid, "now", path) or len(rows) == 1
    for row in ask(image.spec, "deleted", "-r", path):
        assert ":00001" in row["restore"] or row["restore"].startswith(path)


# Images made here


def test_text_and_json(image: Path) -> None:
    with writing(image) as w:
        root = w.fs.root()
        folder = w.fs.mkdir(root, b"d")
        inode = w.file(folder, b"f", b"one\n")
        first = w.point()
        w.fs.write(inode, 0, b"two\n")
        w.fs.setattr(inode, SetAttr(mode=0o600))
        second = w.point()
        w.fs.rename(folder, b"f", root, b"g")
        third = w.point()
        w.fs.unlink(root, b"g")
        fourth = w.point()
    versions = ask(image, "versions", "/d/f")
    assert [set(row) for row in versions] == [{"tid", "ts", "ino", "type", "size", "mode", "changed", "folded"}] * 3
    assert [row["changed"] for row in versions] == [["created"], ["contents", "mode"], ["moved"]]
    assert [row["tid"] for row in versions] == [first, second, third]
    text = run_hammer("-f", image, "versions", "/d/f").splitlines()
    assert text[1].startswith(f"{second}  2014-05-14 ")
    assert text[1].endswith("           4  0600  contents, mode")
    assert run_hammer("-f", image, "diff", first, second) == "M  /d/f\n"
    assert run_hammer("-f", image, "diff", second, third) == "R  /d/f -> /g\n"
    shown = run_hammer("-f", image, "diff", "--contents", first, "now").splitlines()
    assert shown == ["D  /d/f", f"--- /@@{first}/d/f", "+++ /@@-1/d/f", "@@ -1 +0,0 @@", "-one"]
    [row] = ask(image, "diff", "--contents", first, second)
    assert row["contents"].endswith("\n-one\n+two\n")
    [row] = ask(image, "diff", second, third)
    assert row == {"change": "renamed", "path": "/g", "from": "/d/f", "ino": row["ino"], "tid": third}
    assert ask(image, "diff", third, "now", "/g")[0]["change"] == "removed"
    log = ask(image, "log")
    assert [row["change"] for row in log] == ["removed", "renamed", "modified", "added", "added"]
    assert all(set(row) - {"from"} == {"change", "path", "ino", "tid", "ts"} for row in log)
    assert [line.split("  ")[2:] for line in run_hammer("-f", image, "log", "-n", "2", "/").splitlines()] == [
        ["D", "/g"], ["R", "/d/f -> /g"],
    ]  # fmt: skip
    deleted = ask(image, "deleted", "/")
    assert [set(row) for row in deleted] == [
        {"path", "type", "ino", "deleted_tid", "deleted_ts", "lives_on", "restore"}
    ]
    assert deleted[0]["deleted_tid"] == fourth
    assert run_hammer("-f", image, "deleted", "/").endswith(f"  file      {deleted[0]['restore']}\n")
    found = ask(image, "find", "--between", first, "now", "--type", "file")
    assert [(row["path"], set(row)) for row in found] == [
        ("/g", {"path", "asof", "type", "ino"}), ("/d/f", {"path", "asof", "type", "ino"}),
    ]  # fmt: skip
    assert run_hammer("-f", image, "find", "--asof", second, "/d") == f"/d/f@@{second}\n"
    assert run_hammer("-f", image, "find", "--asof", "now", "--name", "[a-f]", "/") == "/d\n"
    assert "not before" in run_hammer("-f", image, "diff", third, first, code=2)
    assert "at least one" in run_hammer("-f", image, "log", "-n", "0", code=2)
    assert "no file: a range" in run_hammer("-f", image, "history", "/d@0,4", code=2)


def test_restore_on_an_image(image: Path) -> None:
    with writing(image) as w:
        root = w.fs.root()
        folder = w.fs.mkdir(root, b"d")
        for name in HOSTILE:
            w.file(folder, name, name)
        big = w.file(folder, b"big", bytes(range(256)) * 4096)
        w.fs.setattr(big, SetAttr(mode=0o4711, uid=12, gid=34, uflags=1))
        w.fs.link(big, folder, b"linked")
        w.fs.symlink(folder, b"link", b"/nowhere")
        w.fs.truncate(w.file(folder, b"holes", b"x"), 9 << 20)
        w.point()
        for entry in list(w.fs.readdir(folder)):
            w.fs.unlink(folder, entry.name)
        w.point()
    total = len(HOSTILE) + 4
    assert len(ask(image, "deleted", "/d")) == total
    assert run_hammer("-f", image, "restore", "-r", "/d") == f"{total} restored\n"
    assert run_hammer("-f", image, "restore", "-r", "/d") == "0 restored\n"
    check(image)
    with WritableFS.open_rw([str(image)]) as fs:
        folder = fs.resolve(b"/d")
        for name in HOSTILE:
            assert fs.read(fs.lookup(folder, name), 0, 300) == name
        attr = fs.lookup(folder, b"big").attr()
        assert (attr.mode, attr.uid, attr.gid, attr.uflags, attr.nlink) == (0o104711, 12, 34, 1, 2)
        assert fs.lookup(folder, b"linked").obj_id == attr.obj_id
        assert fs.read(fs.lookup(folder, b"big"), 0, 1 << 20) == bytes(range(256)) * 4096
        assert fs.readlink(fs.lookup(folder, b"link")) == b"/nowhere"
        holes = fs.lookup(folder, b"holes")
        assert (holes.size, fs.data_bytes(holes) < 1 << 16) == (9 << 20, True)
    with writing(image) as w:
        folder = w.fs.mkdir(w.fs.resolve(b"/d"), b"sub", Owner(mode=0o710))
        w.file(folder, b"deep", b"deep\n")
        w.point()
        w.fs.unlink(folder, b"deep")
    shown = run_hammer("-f", image, "-v", "restore", "-r", "--to", "/new/place", "d").splitlines()
    assert shown == ["/new/place/sub/deep", "1 restored"]
    assert run_hammer("-f", image, "cat", "/new/place/sub/deep") == "deep\n"
    assert run_hammer("-f", image, "ls", "-l", "/new/place").startswith("drwx--x--- ")
    for text in ("/d/big@@now", "/d/big@@-1"):
        assert "that is the present" in run_hammer("-f", image, "restore", "--force", text, code=2)
    again = ask(image, "versions", "/d/big")[-1]["tid"]
    assert ask(image, "restore", f"/d/big@@{again}") == {"restored": 0, "kept": 1, "failed": 0}


def test_undo_of_images(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(image) as w:
        root = w.fs.root()
        inode = w.file(root, b"f", b"one\n")
        tids = [w.point()]
        w.fs.write(inode, 4, b"two\n")
        tids.append(w.point())
        w.fs.unlink(root, b"f")
        tids.append(w.point())
        w.file(root, b"f", b"other\n")
        tids.append(w.point())
    listed = run_undo("-f", image, "-i", "/f").splitlines()
    assert listed[0] == "/f: ITERATE ENTIRE HISTORY"
    assert [line.split()[0] for line in listed[1:4]] == tids[:3]
    assert listed[1] == f"\t{tids[0]} 14-May-2014 16:53:22" or listed[1].startswith(f"\t{tids[0]} ")
    assert listed[3].endswith(" file-deleted")
    assert listed[4].endswith(" inode-change")
    assert run_undo("-f", image, "-t", tids[1], "/f") == "one\ntwo\n"
    assert run_undo("-f", image, "-t", "0", "/f") == "other\n"
    every = run_undo("-f", image, "-a", "/f")
    assert f"\n>>> /f 0001 {tids[1]} " in every
    assert every.endswith("\n\nother\n")
    forward = run_undo("-f", image, "-t", tids[0], "-t", tids[1], "/f").splitlines()
    assert forward[0].startswith(f"diff -N -r -u /f@@{tids[0]} /f@@{tids[1]} (to 14-May-2014 ")
    assert forward[1:] == [f"--- /f@@{tids[0]}", f"+++ /f@@{tids[1]}", "@@ -1 +1,2 @@", " one", "+two"]
    assert run_undo("-f", image, "-D", "-t", tids[0], "-t", tids[1], "/f").splitlines()[-1] == "-two"
    [row] = json.loads(run_undo("-f", image, "--json", "-t", tids[1], "/f"))
    assert base64.b64decode(row["contents_base64"]) == b"one\ntwo\n"
    [row] = json.loads(run_undo("-f", image, "--json", "-d", "-t", tids[0], "-t", tids[1], "/f"))
    assert row.keys() == {"path", "from", "to", "diff"}
    monkeypatch.chdir(tmp_path)
    run_undo("-f", image, "-a", "-u", "/f")
    assert {path.name for path in tmp_path.glob("f.undo.*")} == {"f.undo.0000", "f.undo.0001", "f.undo.0003"}
    assert (tmp_path / "f.undo.0001").read_bytes() == b"one\ntwo\n"
    run_undo("-f", image, "-o", tmp_path / "out", "-t", tids[0], "/f")
    assert (tmp_path / "out").read_bytes() == b"one\n"
    assert "needs one %s" in run_undo("-f", image, "-o", "x", "/f", "/f", code=2)
    assert "twice at most" in run_undo("-f", image, "-t", "0", "-t", "0", "-t", "0", "/f", code=2)
    assert "has 4 versions" in run_undo("-f", image, "-t", "77", "/f", code=2)
    assert "was not there" in run_undo("-f", image, "-t", tids[2], "/f", code=2)
    assert "before its first version" in run_undo("-f", image, "-t", "0x0000000100000002", "/f", code=2)
    assert run_undo("-f", image, "/nothing", code=1) == "/nothing: No UNDO history found\n"


def test_undo_after_pruning(image: Path) -> None:
    with writing(image) as w:
        root = w.fs.root()
        inode = w.file(root, b"f", b"one\n")
        first = w.point()
        w.fs.write(inode, 0, b"two\n")
        w.point()
        w.file(root, b"g", b"")  # another generation of the directory
        w.point()
    run_hammer("-f", image, "prune-everything", "/")
    assert run_undo("-f", image, "-t", "0", "/f") == "two\n"
    assert "before its first version" in run_undo("-f", image, "-t", first, "/f", code=2)
    check(image)


def test_a_terminal_gets_colours_and_nothing_that_steers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"--- a\n+++ b\n@@ -1 +1 @@\n-\x1b]0;title\x07\n+\tnew \xff\n"
    ends = os.openpty()
    try:
        for wanted in (True, False):
            monkeypatch.delenv("NO_COLOR", raising=False)
            if not wanted:
                monkeypatch.setenv("NO_COLOR", "")
            with os.fdopen(os.dup(ends[1]), "wb", buffering=0) as out:
                write_diff(out, text)
            shown = os.read(ends[0], 4096).replace(b"\r\n", b"\n")
            assert (b"\x1b[32m+\tnew \\xff\x1b[0m" in shown) == wanted
            assert b"-\\x1b]0;title\\x07" in shown
    finally:
        for end in ends:
            os.close(end)
    plain = io.BytesIO()
    write_diff(plain, text)
    assert plain.getvalue() == text


def test_the_log_goes_through_a_pager_on_a_terminal(image: Path, tmp_path: Path) -> None:
    with writing(image) as w:
        w.file(w.fs.root(), b"f", b"x")
        w.point()
    seen = tmp_path / "seen"
    ends = os.openpty()
    try:
        command = [sys.executable, "-m", "tools.cli", "-f", str(image), "log"]
        env = {**os.environ, "PAGER": f"tee {seen}"}
        subprocess.run(command, stdout=ends[1], env=env, check=True, timeout=60)
    finally:
        for end in ends:
            os.close(end)
    assert seen.read_text().endswith("A  /f\n")


def test_hostile_names_in_json_and_text(image: Path) -> None:
    with writing(image) as w:
        root = w.fs.root()
        first = w.point()
        for name in HOSTILE:
            w.file(root, name, b"x")
        w.point()
        for name in HOSTILE:
            w.fs.unlink(root, name)
        w.point()
    texts = [
        run_hammer("-f", image, *verb)
        for verb in (["log"], ["deleted", "/"], ["find", "--between", first, "now"], ["diff", first, "now"])
    ]
    for text in texts:
        assert all(char.isprintable() or char == "\n" for char in text)
    assert len(texts[1].splitlines()) == len(HOSTILE)
    for path in ("/\x1b[31m", "/\udcff\n"):
        for text in (
            run_hammer("-f", image, "versions", path, code=1),
            run_hammer("-f", image, "diff", path, "now", code=1),
            run_hammer("-f", image, "restore", path + "@@0x0000000100000001", code=1),
            run_undo("-f", image, path, code=1),
            run_undo("-f", image, "-t", path, "/", code=2),
        ):
            assert all(char.isprintable() or char == "\n" for char in text), text
    rows = ask(image, "deleted", "/")
    assert len({row["path"] for row in rows}) == len(HOSTILE)
    assert {"/%FF%FE", "/line\nbreak", "/a@@b", "/%s%n"} < {row["path"] for row in rows}


def test_the_commands_of_the_page_exist() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "history.md"
    commands = [shlex.split(line[2:]) for line in page.read_text(encoding="utf-8").splitlines() if line[:2] == "$ "]
    for command in commands:
        parser = {"hammer": build_parser, "undo": build_undo_parser}.get(command[0])
        if parser is not None:
            parser().parse_args(command[1:])
    verbs = {command[1] for command in commands if command[0] == "hammer"}
    assert verbs >= {"log", "versions", "deleted", "restore", "diff", "find"}
