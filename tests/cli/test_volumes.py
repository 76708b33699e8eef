"""`hammer volume-add` and `volume-del` on images: what they print, and what they refuse in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hammerfs.rw import WritableFS
from mkfs.cli import main as newfs
from tests.golden import GoldenStore
from tests.maint.lab import entry_texts
from tools.cli import main
from tools.fsck.check import check

Out = pytest.CaptureFixture[str]


def make(path: Path, size: str = "200m") -> Path:
    """A freshly formatted image."""
    assert newfs(["-f", "-u", "8m", "-L", "T", "--size", size, "--quiet", str(path)]) == 0
    return path


def blank(path: Path, size: int = 200 << 20) -> Path:
    """A file of zeros."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def said(capsys: Out, code: int, *argv: object) -> str:
    """What a command prints, on stderr where it fails."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == code
    out, err = capsys.readouterr()
    assert not (out and code), out
    return err if code else out


def trees_of(spec: str, roots: list[str], capsys: Out) -> dict[str, list[str]]:
    words = [word for root in roots for word in ("--root", root)]
    found = json.loads(said(capsys, 0, "-f", spec, "manifest", *words))["trees"]
    return {root: entry_texts(entries) for root, entries in found.items()}


@pytest.mark.golden
def test_all_of_a_volume_of_the_original_moves_to_a_new_one(golden: GoldenStore, tmp_path: Path, capsys: Out) -> None:
    image = golden.copy("vol2-spread")
    root, other = image.volumes
    new = blank(tmp_path / "new")
    want = {name: entry_texts(entries) for name, entries in image.manifest["trees"].items()}
    full = f"hammer: volume-del: volume {other}: can't be removed: it holds 5 big-blocks of 8 MiB, the other volumes "
    assert said(capsys, 1, "-f", image.spec, "volume-del", other) == f"{full}have 0 left\n"
    text = said(capsys, 0, "-f", image.spec, "volume-add", new)
    assert text == f"hammer volume-add: {new} is volume 2, 24 big-blocks\n"
    assert trees_of(f"{image.spec}:{new}", list(want), capsys) == want
    text = said(capsys, 0, "-f", f"{image.spec}:{new}", "volume-del", other)
    assert text.startswith(f"hammer volume-del: {other} is no longer volume 1\n    ")
    assert "    0 B-Tree nodes and 0 data bytes moved\n" not in text
    assert trees_of(f"{root}:{new}", list(want), capsys) == want
    assert [finding for finding in check(f"{root}:{new}", data=True) if finding.is_error] == []


def test_the_verbs_that_tell_of_volumes_tell_of_the_new_one(tmp_path: Path, capsys: Out) -> None:
    one, two = make(tmp_path / "one"), blank(tmp_path / "two")
    added = json.loads(said(capsys, 0, "-f", one, "volume-add", "--json", two))
    assert added == {"number": 1, "name": str(two), "bigblocks": 24}
    spec = f"{two}:{one}"
    assert said(capsys, 0, "-f", spec, "volume-list", "-v") == f"0\t{one} (Root Volume)\n1\t{two}\n"
    assert said(capsys, 0, "-f", spec, "volume-blkdevs") == f"{one}:{two}\n"
    assert json.loads(said(capsys, 0, "-f", spec, "--json", "info"))["bigblocks"] == {
        "total": 48,
        "used": 3,
        "reserved": 3,
        "free": 42,
    }
    removed = json.loads(said(capsys, 0, "-f", spec, "--json", "volume-del", two))
    assert (removed["number"], removed["name"], removed["stopped_by"]) == (1, str(two), None)
    assert said(capsys, 0, "-f", one, "volume-list") == f"{one}\n"


def test_what_is_refused_is_told_in_a_line(tmp_path: Path, capsys: Out) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    before = other.read_bytes()[:16384]
    refused = {
        one: f"volume {one}: is volume 0 of this file system already",
        other: f"volume {other}: holds a HAMMER volume: --force overwrites it",
        blank(tmp_path / "small", 5 << 20): f"volume {tmp_path}/small: is too small: 5242880 bytes hold no big-block",
        tmp_path / "absent": f"volume {tmp_path}/absent: can't be opened: No such file or directory",
        tmp_path: f"volume {tmp_path}: is neither a regular file nor a disk device",
    }
    for path, text in refused.items():
        assert said(capsys, 1, "-f", one, "volume-add", path) == f"hammer: volume-add: {text}\n"
    assert other.read_bytes()[:16384] == before
    text = f"hammer: volume-del: volume {one}: is the root volume, which can't be removed\n"
    assert said(capsys, 1, "-f", one, "volume-del", one) == text
    text = f"hammer: volume-del: volume {other}: is no volume of this file system\n"
    assert said(capsys, 1, "-f", one, "volume-del", other) == text
    assert "1 big-blocks" not in said(capsys, 0, "-f", one, "volume-add", "--force", other)


def test_a_volume_that_others_use_or_have_mounted_is_refused(tmp_path: Path, capsys: Out) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    with WritableFS.open_rw(str(other)) as fs:
        fs.sync()
        text = f"hammer: volume-add: volume {other}: is open for writing already\n"
        assert said(capsys, 1, "-f", one, "volume-add", "--force", other) == text
    assert [finding for finding in check(f"{other}", data=True) if finding.is_error] == []


def test_names_that_steer_a_terminal_are_printed_safely(tmp_path: Path, capsys: Out) -> None:
    one, two = make(tmp_path / "one"), blank(tmp_path / "t\n\x1b[31mwo")
    text = said(capsys, 0, "-f", one, "volume-add", two)
    assert text.count("\n") == 1
    assert "\x1b" not in text
    text = said(capsys, 1, "-f", one, "-f", two, "volume-del", "/no\nsuch\x1bthing")
    assert text.count("\n") == 1
    assert "\x1b" not in text
