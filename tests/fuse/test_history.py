"""The past on a mount: versions, deleted, diff, log, history, undo, restore and find, by the paths a user sees."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.mounts import Mount, control_socket, mount_in
from tests.fuse.rwlab import Entry, check, live, run_hammer, run_undo, tree_of
from tests.golden import GoldenStore

pytestmark = [pytest.mark.mount]
HOSTILE = [
    b"plain",
    b"line\nbreak",
    b"\x1b[31mred",
    b"\xff\xfe",
    b"n" * 255,
    b"a@@b",
    b"; touch x",
    b"$(x)",
    b"-rf",
    b" ",
]


def ask(*args: object) -> Any:
    return json.loads(run_hammer("--json", *args))


def point(mount: Mount) -> str:
    return run_hammer("synctid", mount.root).strip()


def test_versions_diff_log_and_undo(mount: Mount) -> None:
    folder = mount.root / "folder"
    folder.mkdir()
    notes = folder / "notes"
    notes.write_text("one\n")
    first = point(mount)
    notes.write_text("one\ntwo\n")
    notes.chmod(0o600)
    (folder / "other").write_text("x")
    second = point(mount)
    assert [row["size"] for row in ask("versions", notes)][-1] == 8
    assert ask("versions", f"{notes}@@{first}")[-1]["size"] == 4
    changes = ask("diff", first, second, folder)
    assert [(row["change"], row["path"]) for row in changes] == [
        ("modified", "/folder/notes"), ("added", "/folder/other"),
    ]  # fmt: skip
    assert run_hammer("diff", first, "now", notes) == f"M  {notes}\n"
    lines = run_hammer("log", folder).splitlines()
    assert lines[-1].endswith(f"A  {folder}") or lines[-2].endswith(f"A  {folder}")
    assert any(line.endswith(f"M  {notes}") for line in lines)
    [history] = ask("history", notes)
    assert history["history"][0]["tid"] <= first < history["history"][-1]["tid"]
    assert run_undo("-t", first, notes) == "one\n"
    assert run_undo("-d", "-t", first, notes).splitlines()[-1] == "+two"
    assert f"\t{history['history'][-1]['tid']} " in run_undo("-i", notes)


def test_undo_of_a_deleted_file(mount: Mount) -> None:
    notes = mount.root / "notes"
    notes.write_text("kept in mind\n")
    point(mount)
    notes.unlink()
    assert run_undo(notes) == "kept in mind\n"
    assert run_undo("-i", notes).endswith(" file-deleted\n")
    assert "No UNDO history found" in run_undo(mount.root / "never", code=1)


def test_undo_on_a_mount_that_is_read_only(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "rw") as mount:
        for i in range(3):
            (mount.root / "f").write_text(f"{i}\n" * (i + 1))
            point(mount)
        (mount.root / "gone").write_text("was here\n")
        point(mount)
        (mount.root / "gone").unlink()
    with mount_in(tmp_path, image, "ro") as mount:
        assert run_undo("-t", "1", mount.root / "f") == "1\n1\n"
        assert run_undo("-D", mount.root / "f").startswith("diff -N -r -u ")
        assert run_undo(mount.root / "gone") == "was here\n"
        assert run_undo("-i", mount.root / "gone").endswith(" file-deleted\n")
        assert run_undo("-t", "now", mount.root / "f") == "2\n2\n2\n"
        path = control_socket(mount.root)
        assert path is not None
        path.unlink()  # without it the virtual directories tell nearly as much
        assert run_undo("-t", "1", mount.root / "f") == "1\n1\n"
        assert run_undo(mount.root / "gone") == "was here\n"
        assert run_undo("-i", mount.root / "gone").endswith("at some time since file-deleted\n")
        assert len(run_undo("-i", mount.root / "f").splitlines()) >= 4
        assert "-t is 0x" in run_undo("-t", "1 hour ago", mount.root / "f", code=2)
        assert "No UNDO history found" in run_undo(mount.root / "never", code=1)


@pytest.mark.golden
def test_a_recorded_history_on_a_mount(golden: GoldenStore, tmp_path: Path) -> None:
    image = golden.copy("history")
    offline = ask("-f", image.spec, "deleted", "-r", "/")
    log = ask("-f", image.spec, "log")
    with mount_in(tmp_path, image.spec, "rw") as mount:
        rows = ask("deleted", "-r", mount.root)
        assert rows == [
            {**row, "path": f"{mount.root}{row['path']}", "restore": f"{mount.root}{row['restore']}"} for row in offline
        ]
        assert ask("log", mount.root) == log
        files = [row for row in rows if not row["lives_on"] and row["type"] == "file"]
        [folder] = [row for row in rows if row["type"] == "dir"]
        contents = {row["path"]: Path(row["restore"]).read_bytes() for row in files}
        run_hammer("restore", "-r", mount.root)
        late = {row["path"] for row in files if row["deleted_ts"] == folder["deleted_ts"]}
        assert 10 < len(late) < len(files)
        for row in files:
            path = Path(row["path"])
            if row["path"] not in late:  # from a directory that was deleted ten minutes later
                assert not path.exists()
                assert run_hammer("restore", row["restore"]) == "1 restored\n"
            assert path.read_bytes() == contents[row["path"]]
    check(image.volumes[0])


def make_tree(top: Path) -> None:
    (top / "sub").mkdir(parents=True, mode=0o750)
    for name in HOSTILE:
        Path(os.fsdecode(os.path.join(os.fsencode(top), name))).write_bytes(name)
    (top / "sub" / "file").write_bytes(b"contents" * 5000)
    os.link(top / "sub" / "file", top / "sub" / "again")
    os.symlink("file", top / "sub" / "link")
    os.mkfifo(top / "sub" / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as found, contextlib.chdir(top):
        found.bind("socket")
    with (top / "holes").open("wb") as out:
        out.seek(5 << 20)
        out.write(b"end")
        out.truncate(8 << 20)
    (top / "sub" / "file").chmod(0o4711)
    if os.geteuid() == 0:
        os.chown(top / "plain", 1234, 4321)
        os.chown(top / "sub" / "link", 55, 66, follow_symlinks=False)


def without_times(tree: dict[str, Entry]) -> dict[str, Entry]:
    return {path: entry._replace(mtime_ns=0, ctime_ns=0) for path, entry in tree.items()}


def remove(top: Path) -> None:
    for folder, dirs, files in os.walk(os.fsencode(top), topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in dirs:
            path = os.path.join(folder, name)
            (os.unlink if stat.S_ISLNK(os.lstat(path).st_mode) else os.rmdir)(path)
    os.rmdir(top)


@pytest.mark.parametrize("how", ["mount", "image"])
def test_a_deleted_tree_comes_back(tmp_path: Path, image: Path, how: str) -> None:
    with live(tmp_path, image) as mount:
        top = mount.root / "top"
        make_tree(top)
        (top / "long ago").write_text("not part of the tree any more")
        point(mount)
        (top / "long ago").unlink()
        before = tree_of(top)
        point(mount)
        remove(top)
        assert not top.exists()
        names = {row["path"] for row in ask("deleted", mount.root)}
        assert names == {str(top)}
        if how == "mount":
            assert run_hammer("restore", "-r", top).endswith(" restored\n")
            # what went less than a minute before the rest counts as part of it
            (top / "long ago").unlink()
            after = tree_of(top)
            assert without_times(after) == without_times(before)
            for name in ("sub/file", "plain", "sub"):
                assert after[name].mtime_ns == pytest.approx(before[name].ctime_ns, abs=60_000_000_000)
    if how == "image":
        run_hammer("-f", image, "restore", "-r", "/top")
        with live(tmp_path, image) as mount:
            (mount.root / "top" / "long ago").unlink()
            assert without_times(tree_of(mount.root / "top")) == without_times(before)


def test_nothing_is_overwritten_unless_asked(mount: Mount) -> None:
    target = mount.root / "f"
    target.write_text("old\n")
    first = point(mount)
    target.write_text("new, and longer\n")
    os.link(target, mount.root / "linked")
    point(mount)
    assert "is there: --force replaces it" in run_hammer("restore", target, code=2)
    assert run_hammer("restore", f"{target}@@{first}") == "0 restored, 1 there already (--force replaces them)\n"
    assert target.read_text() == "new, and longer\n"
    beside = mount.root / "beside"
    beside.mkdir()
    assert run_hammer("restore", "--to", beside, f"{target}@@{first}") == "1 restored\n"
    assert (beside / "f").read_text() == "old\n"
    second = point(mount)
    assert run_hammer("restore", "--force", f"{target}@@{first}") == "1 restored\n"
    assert target.read_text() == "old\n"
    assert (mount.root / "linked").read_text() == "new, and longer\n"
    assert run_hammer("restore", "--force", f"{target}@@{second}") == "1 restored\n"  # even that is undone
    assert target.read_text() == "new, and longer\n"
    (beside / "f").unlink()
    (beside / "f").mkdir()
    assert "a directory is there" in run_hammer("restore", "--force", "--to", beside, f"{target}@@{first}", code=1)
    point(mount)
    target.unlink()
    target.mkdir()
    assert "-r restores" in run_hammer("restore", f"{beside}@@{second}", code=1)
    assert "that is the present" in run_hammer("restore", "--force", f"{beside}@@-1", "-r", code=2)
    assert "no TID (0x...)" in run_hammer("restore", f"{target}@@never", code=1)
    assert "never held" in run_hammer("restore", mount.root / "nothing", code=1)


def test_labels_and_times_on_a_mount(mount: Mount) -> None:
    target = mount.root / "f"
    target.write_text("labelled\n")
    run_hammer("snapq", mount.root, "good state")
    target.write_text("spoilt\n")
    point(mount)
    assert ask("diff", "good state", "now", mount.root)[0]["path"] == "/f"
    assert run_hammer("restore", "--force", f"{target}@@good state") == "1 restored\n"
    assert target.read_text() == "labelled\n"
    assert "before the first moment recorded" in run_hammer("diff", "5 weeks ago", "now", mount.root, code=1)
    assert run_undo("-t", "good state", target) == "labelled\n"


def test_hostile_names(mount: Mount, capfd: pytest.CaptureFixture[str]) -> None:
    top = mount.root / "top"
    top.mkdir()
    paths = [os.path.join(os.fsencode(top), name) for name in HOSTILE]
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(b"1\n")
    first = point(mount)
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(b"2\n3\n")
    point(mount)
    texts = [run_hammer("diff", first, "now", top), run_hammer("log", top)]
    for path in paths:
        name = os.fsdecode(path)
        texts += [run_hammer("versions", name), run_hammer("history", name), run_undo("-i", name), run_undo("-d", name)]
        assert run_undo("-t", first, name) == "1\n"
        assert [row["size"] for row in ask("versions", name)].count(2) >= 1
        os.unlink(path)
    point(mount)
    texts += [run_hammer("deleted", "-r", top), run_hammer("deleted", mount.root)]
    assert len(ask("deleted", top)) == len(HOSTILE)
    for path in paths:
        texts.append(run_hammer("restore", os.fsdecode(path)))
        assert Path(os.fsdecode(path)).read_bytes() == b"2\n3\n"
    for text in texts:
        assert all(char.isprintable() or char in "\n\t" for char in text), text
    assert not capfd.readouterr().out


def test_find(mount: Mount) -> None:
    top = mount.root / "top"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "report.tex").write_text("here\n")
    first = point(mount)
    (top / "sub" / "report.tex").unlink()
    (top / "sub").rename(top / "moved")
    point(mount)
    found = run_hammer("find", "--between", first, "now", "--name", "*.tex", mount.root).splitlines()
    assert len(found) == 2  # by the name its directory had, and by the one it has
    assert [Path(path).read_text() for path in found] == ["here\n"] * 2
    assert ask("find", "--asof", "now", "--type", "file", top) == []
    for line in run_hammer("find", "--asof", first, top).splitlines():
        assert Path(line).exists()
    assert [row["path"] for row in ask("find", "--asof", first, top)] == [
        f"{top}/sub", f"{top}/sub/report.tex",
    ]  # fmt: skip


def test_who_is_no_mount(tmp_path: Path) -> None:
    for verb in ("versions", "deleted", "log", "restore"):
        assert "is not on a mounted HAMMER file system" in run_hammer(verb, tmp_path / "x", code=2)
    assert "is not on a mounted HAMMER file system" in run_undo(tmp_path / "x", code=2)


@pytest.mark.parametrize("count", [1000])
def test_a_thousand_deleted_files(mount: Mount, count: int) -> None:
    top = mount.root / "top"
    top.mkdir()
    for i in range(count):
        (top / f"f{i:04d}").write_text(f"file {i}\n" * 20)
    before = tree_of(top)
    point(mount)
    for i in range(count):
        (top / f"f{i:04d}").unlink()
    point(mount)
    beg = time.monotonic()
    assert run_hammer("restore", "-r", top) == f"{count} restored\n"
    print(f"restored {count} files in {time.monotonic() - beg:.1f} s")
    after = tree_of(top)
    assert without_times(before) == without_times(after)
