"""What every verb prints as JSON is what `docs/json.md` tells, on images and on mounts."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mkfs.cli import main as newfs
from tests.fuse.mounts import Mount, mount_in
from tests.fuse.rwlab import live, make_image, run_hammer, run_undo
from tests.golden import GoldenStore
from tests.jsonshapes import PAGE, mismatch, shapes
from tools.cli import build_parser
from tools.fsck.cli import main as fsck
from tools.fstyp import main as fstyp

OTHERS = {"fstyp_hammer", "fsck.hammer", "newfs_hammer", "undo"}
NO_JSON = {"cat", "tar", "mirror-read", "mirror-read-stream", "viconfig"}
INTERACTIVE = {"mirror-stream"}
"""Goes on until it is interrupted; what it prints is what mirror-copy does."""


class Held:
    """Holds what commands print against the page, and remembers which."""

    def __init__(self) -> None:
        self.shapes = shapes()
        self.seen: set[str] = set()

    def hold(self, name: str, value: Any) -> Any:
        self.seen.add(name)
        assert mismatch(value, self.shapes[name]) is None, name
        return value

    def verb(self, *words: object, shape: str | None = None, code: int = 0) -> Any:
        """Run a verb (options before it may be among the words) and hold it."""
        verbs = self.verbs()
        name = shape or next(str(word) for word in words if str(word) in verbs)
        return self.hold(name, json.loads(run_hammer("--json", *words, code=code)))

    @staticmethod
    def verbs() -> set[str]:
        (found,) = [a.choices for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
        return set(found)

    def program(self, name: str, main: Callable[[Sequence[str]], int], *words: object) -> None:
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        with contextlib.redirect_stdout(out):
            assert main([str(word) for word in words]) == 0
        out.seek(0)
        self.hold(name, json.loads(out.read()))


def test_the_page_tells_of_every_verb() -> None:
    told = {head.split()[0] for head in shapes()}
    assert told == (Held.verbs() - NO_JSON) | OTHERS
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{verb}`" in text for verb in NO_JSON)


def test_a_shape_finds_what_differs() -> None:
    shape = {"a": "int", "b?": ["name|null"], "c": {"*": "tid"}}
    good = {"a": 1, "b": ["x", None], "c": {"x": "0x0000000000000001"}}
    assert mismatch(good, shape) is None
    assert mismatch({"a": 1, "c": {}}, shape) is None
    wrongs: tuple[object, ...] = (
        {"a": 1},
        {**good, "a": True},
        {**good, "a": "1"},
        {**good, "b": [1]},
        {**good, "c": {"x": "0x1"}},
        {**good, "d": 1},
        [],
    )
    for wrong in wrongs:
        assert mismatch(wrong, shape) is not None, wrong


def fill(mount: Mount) -> str:
    root = mount.root
    (root / "f").write_bytes(b"one\n" * 9000)
    (root / "g").write_text("one\n")
    (root / "dir").mkdir()
    os.symlink("f", root / "dir" / "link")
    first = run_hammer("synctid", root).strip()
    run_hammer("snapq", root, "first")
    (root / "f").write_bytes(b"two\n" * 9000)
    (root / "g").unlink()
    (root / "dir").rename(root / "moved")
    run_hammer("synctid", root)
    return first


@pytest.mark.mount
def test_on_a_mount_and_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, image = Held(), make_image(tmp_path)
    short = Path("/tmp") / f"hammer-json-{os.getpid()}"
    short.symlink_to(tmp_path)
    try:
        with live(tmp_path, image) as mount:
            on_a_mount(held, mount, short)
    finally:
        short.unlink()
    on_an_image(held, image, tmp_path, monkeypatch)
    with mount_in(tmp_path, image, "ro") as mount:
        for verb in ("iostats", "bstats", "stats", "sysctl", "info", "snapls", "pfs-status", "log", "df"):
            held.verb(verb, mount.root)
        held.hold("undo -i", json.loads(run_undo("--json", "-i", mount.root / "f")))
    assert held.shapes.keys() - held.seen == INTERACTIVE


def on_a_mount(held: Held, mount: Mount, short: Path) -> None:
    root = mount.root
    first = fill(mount)
    for verb in ("info", "version", "volume-list", "volume-blkdevs", "df", "pfs-status", "snapls", "synctid"):
        held.verb(verb, root)
    held.verb("df", "--history", root, shape="df --history")
    for verb in ("ps", "vmstat", "tokens", "iostats", "bstats", "stats", "sysctl"):
        held.verb(verb, root)
    for words in (
        ["history", root / "f", root],
        ["versions", root / "f"],
        ["versions", root / "g"],
        ["deleted", "-r", root],
        ["diff", first, "now", root],
        ["find", "--asof", first, root],
        ["log", root],
        ["chflags", "nodump", root / "moved"],
        ["lsflags", root / "f", root],
        ["restore", root / "g"],
        ["snap", root / "s1"],
        ["snaplo", root / "s2"],
        ["snapshot", root, root / "s3", "note"],
        ["snapq", root],
        ["snaprm", root / "s1", root / "s2"],
        ["pfs-master", root / "m", "label=x"],
        ["pfs-update", root / "m", "label=y"],
        ["mirror-copy", root / "m", root / "s"],
        ["pfs-downgrade", root / "m"],
        ["pfs-upgrade", root / "m"],
        ["-y", "pfs-destroy", root / "s"],
        ["prune", root],
        ["dedup-simulate", root],
        ["dedup", root],
        ["rebalance", root],
        ["reblock", root, "50"],
    ):
        held.verb(*words)
    shared = held.verb("pfs-status", root / "m")[0]["shared_uuid"]
    held.verb("pfs-slave", root / "s", f"shared-uuid={shared}")
    assert held.verb("diff", "--contents", first, "now", root)[0]["contents"]
    run_hammer("pfs-update", root, f"snapshots={short}/state")
    held.verb("cleanup", root)
    held.verb("config", root)
    held.verb("version-upgrade", root, 7)
    held.hold("undo", json.loads(run_undo("--json", root / "f")))
    held.hold("undo -d", json.loads(run_undo("--json", "-d", root / "f")))
    held.hold("undo -i", json.loads(run_undo("--json", "-i", root / "f")))


def on_an_image(held: Held, image: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = held.verb("-f", image, "snapls")[0]["tid"]
    held.hold("undo", json.loads(run_undo("-f", image, "--json", "-t", "0", "/f")))
    for verb in ("info", "version", "volume-list", "volume-blkdevs", "df", "pfs-status", "ls", "manifest", "log"):
        held.verb("-f", image, verb)
    for verb in ("show", "blockmap", "checkmap", "show-undo", "config"):
        held.verb("-f", image, verb)
    held.verb("-f", image, "df", "--history", shape="df --history")
    for words in (
        ["ls", "-lR", "/"],
        ["history", "/f"],
        ["versions", "/g"],
        ["deleted", "/"],
        ["diff", first, "now"],
        ["find", "--between", first, "now"],
        ["cp", "/f", folder / "copied"],
        ["extract", "/moved", folder / "extracted"],
        ["pack", folder / "packed"],
        ["snapq", "/"],
        ["prune-everything", "/"],
        ["synctid", "/"],
        *(["reblock-" + name, "/"] for name in ("btree", "inodes", "dirs", "data")),
    ):
        held.verb("-f", image, *words)
    held.verb("unpack", folder / "packed", folder / "out")
    for verb in ("namekey1", "namekey2", "namekey32"):
        held.verb(verb, "name")
    held.verb("completion", "bash")
    stream = io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(stream):
        from tools.cli import main

        assert main(["-f", str(image), "mirror-read", "/m"]) == 0
    data = stream.buffer
    assert isinstance(data, io.BytesIO)
    for words in (["mirror-dump"], ["-f", image, "mirror-write", "/t"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.getvalue())))
        held.verb(*words)
    held.program("fstyp_hammer", fstyp, "--json", image)
    held.program("fsck.hammer", fsck, "--json", image)
    held.program(
        "newfs_hammer", newfs, "--json", "--dry-run", "-f", "-u", "8m", "-L", "x", "--size", "512m", folder / "dry.img"
    )
    second = folder / "second.img"
    with second.open("wb") as out:
        out.truncate(256 << 20)
    grown = folder / "grown.img"
    shutil.copy(image, grown)
    held.verb("-f", grown, "volume-add", second, "/")
    held.verb("-f", f"{grown}:{second}", "volume-del", second, "/")
    held.verb("completion", "moments", "--", "hammer", "-f", image, "ls", "--asof", "", shape="completion WORDS")


@pytest.mark.golden
@pytest.mark.parametrize("name", ["basic-v7", "snapshots", "pfs-mirror", "history", "crash-redo", "dragonfly-v1-2009"])
def test_on_images_of_the_original(golden: GoldenStore, name: str) -> None:
    held, image = Held(), golden[name].spec
    for words in (
        *(["info"], ["version"], ["volume-list"], ["pfs-status"], ["snapls"], ["config"], ["df"]),
        *(["ls", "-R"], ["manifest"], ["log", "-n", "20"], ["deleted", "-r", "/"], ["find", "--asof", "now"]),
        *(["show"], ["blockmap"], ["show-undo"]),
    ):
        held.verb("-f", image, *words)
    held.verb("-f", image, "df", "--history", shape="df --history")
