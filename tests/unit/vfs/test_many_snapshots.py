"""Ten thousand snapshots: listing them costs what they cost, not what the trees in them hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hammerfs.fs import HammerFS
from hammerfs.vfs.vfs import Look, Vfs
from tests.cli.test_raw import image_file
from tests.imagebuilder import FIRST_TID, ImageBuilder
from tools.cli import main

COUNT = 10_000
FILES = 3_000


def scene(files: int, snapshots: int) -> ImageBuilder:
    b = ImageBuilder(free_blocks=8)
    b.mkdir(b"/d")
    for number in range(files):
        b.file(b"/d/%06d" % number)
    for number in range(snapshots):
        b.snapshot(FIRST_TID + 16 * number, b"number %d" % number)
    return b


def by_tool(fs: HammerFS) -> int:
    return len(fs.snapshots())


def by_directory(fs: HammerFS) -> int:
    vfs = Vfs(fs, Look())
    folder = vfs.lookup(vfs.lookup(vfs.root, b".hammer"), b"snapshots")
    return sum(vfs.getattr(entry.node).size == 0 for entry in vfs.list_dir(folder))


def reads(builder: ImageBuilder, listing: Callable[[HammerFS], int], want: int) -> int:
    """Buffers read for a listing."""
    with HammerFS([builder.build()]) as fs:
        before = fs.cache.misses
        assert listing(fs) == want
        return fs.cache.misses - before


@pytest.mark.parametrize("listing", [by_tool, by_directory])
def test_what_a_listing_reads(listing: Callable[[HammerFS], int]) -> None:
    few, many = (reads(scene(files, COUNT), listing, COUNT) for files in (1, FILES))
    half = reads(scene(FILES, COUNT // 2), listing, COUNT // 2)
    assert many <= few + 8, "inner nodes at most: the trees are not looked at"
    assert half < 0.6 * many, "the cost follows the snapshots"
    assert many < COUNT / 20


def test_they_are_listed_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = image_file(tmp_path, scene(1, COUNT))
    assert main(["-f", os.fspath(image), "--json", "snapls"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in rows] == [f"number {number}" for number in range(COUNT)]
    assert main(["-f", os.fspath(image), "snapls"]) == 0
    assert capsys.readouterr().out.count("\n") == COUNT + 2
