"""Hostile names, labels and targets on a mount: the verbs by the paths a user sees, virtual directories, links."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.mounts import Mount
from tests.fuse.rwlab import run_hammer, run_undo
from tests.hostile import NAMES, TARGETS, assert_one_line, assert_safe, label_of, name_of, parsed

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("nothing_executed")]


def said(*args: object, code: int = 0) -> str:
    text = run_hammer(*args, code=code)
    assert_safe(text)
    return text


def ask(*args: object) -> Any:
    return parsed(run_hammer("--json", *args))


def below(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))


def test_files_through_every_verb(mount: Mount) -> None:
    top, links = mount.root / "top", mount.root / "links"
    top.mkdir()
    links.mkdir()
    for number, target in enumerate(TARGETS):
        os.symlink(target, os.fsencode(links / f"{number:03d}"))
    for name in NAMES:
        below(top, name).write_bytes(b"one\n")
    first = said("synctid", mount.root).strip()
    for name in NAMES:
        below(top, name).write_bytes(b"two\n")
    said("synctid", mount.root)
    place = os.fsencode(top)
    for name in NAMES:
        path = below(top, name)
        said("history", path)
        said("versions", path)
        assert name_of(ask("history", path)[0]["path"]) == name_of(ask("lsflags", path)[0]["path"]) == os.fsencode(path)
        assert run_undo("-t", first, path) == "one\n"
        assert_safe(run_undo("-d", path))
        said("chflags", "nodump", path)
        path.unlink()
    said("synctid", mount.root)
    for words in (
        ["diff", first, "now", top],
        ["diff", "--contents", first, "now", top],
        ["log", top],
        ["find", "--asof", first, mount.root],
        ["deleted", "-r", mount.root],
    ):
        said(*words)
    rows = ask("deleted", top)
    assert {name_of(row["path"]) for row in rows} == {os.path.join(place, name) for name in NAMES}
    for row in rows:
        assert Path(os.fsdecode(name_of(row["restore"]))).read_bytes() == b"two\n"
    found = ask("find", "--asof", first, links)
    assert len(found) == len(TARGETS)
    said("-v", "restore", "-r", top)
    assert set(os.listdir(place)) == set(NAMES)
    for name in NAMES[1:12]:
        assert_one_line(said("restore", below(top, name), code=2))
        assert_one_line(said("versions", below(mount.root / "none", name), code=1))
        assert_one_line(said("snapls", below(mount.root / "none", name), code=1))
        assert_one_line(said("sysctl", mount.root, os.fsdecode(b"x" + name), code=2 if b"=" in name else 1))


def test_labels_are_names_of_directories(mount: Mount) -> None:
    (mount.root / "f").write_text("then\n")
    labels = [label_of(name) for name in (*NAMES, b"../../etc", b"/", b"a/b", b".", b"..")]
    for label in labels:
        path = said("snapq", "--", mount.root, os.fsdecode(label))
        assert Path(path.removesuffix("\n"), "f").read_text() == "then\n"
    said("snapls", mount.root)
    assert [name_of(row["label"]) for row in ask("snapls", mount.root)] == labels
    shown = os.fsencode(mount.root / ".hammer" / "snapshots")
    names = os.listdir(shown)
    assert len(set(names)) == len(labels)
    assert {label for label in labels if b"/" not in label and label not in {b".", b".."}} <= set(names)
    for name in names:
        assert Path(os.fsdecode(os.path.join(shown, name)), "f").read_text() == "then\n"


def test_links_and_pfss(mount: Mount) -> None:
    (mount.root / "f").write_text("then\n")
    for name in (b"line\nbreak", b"\x1b[31m", b"\xff\xfe", b"a@@b", b"n" * 255, b" ", b"$(touch pwned)", b"-rf"):
        path = below(mount.root, name)
        printed = said("snapshot", mount.root, path)
        assert (path / "f").read_text() == "then\n"
        assert "\\x" in printed or printed == f"{path}\n"
        row = ask("snapshot", mount.root, os.fsdecode(os.fsencode(path)[:-1] + b"X"), "note")
        assert name_of(row["link"]) == os.fsencode(path)[:-1] + b"X"
        said("snaprm", path)
        label = os.fsdecode(label_of(name))
        assert "Creating PFS#" in said("pfs-master", path, f"label={label}")
        (path / "f").write_text("inside\n")
        [row] = ask("pfs-status", path)
        assert name_of(row["label"]) == label_of(name)
        for words in (
            ["pfs-status", path],
            ["snapq", path, "note"],
            ["snapls", path],
            ["prune", path],
            ["config", path, "/dev/null"],
            ["pfs-downgrade", path],
            ["pfs-upgrade", path],
            ["mirror-copy", path, f"{path.parent}/{path.name[:200]}\x1b"],
        ):
            said(*words)
        copy = f"{path.parent}/{path.name[:200]}\x1b"
        assert Path(copy, "f").read_text() == "inside\n"
        said("-y", "pfs-destroy", copy)
        said("-y", "pfs-destroy", path)
        assert not os.path.lexists(path)
    assert os.listdir(mount.root / ".hammer" / "snapshots") != []
    said("info", mount.root)


def test_nothing_is_restored_through_a_link(mount: Mount, tmp_path: Path) -> None:
    top, outside = mount.root / "top", tmp_path / "outside"
    outside.mkdir()
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "f").write_text("inside\n")
    said("synctid", mount.root)
    (top / "sub" / "f").unlink()
    (top / "sub").rmdir()
    os.symlink(outside, top / "sub")
    first = said("synctid", mount.root)
    said("restore", "-r", top)
    assert_one_line(said("restore", "-r", "--force", top / "sub", code=1))
    target = tmp_path / "target"
    target.mkdir()
    os.symlink(outside, target / "top")
    assert_one_line(said("restore", "-r", "--to", target, f"{top}@@{first.strip()}", code=1))
    assert os.listdir(outside) == []
