"""Every tree of every golden image reads as its manifest says: types, modes, owners, links, sizes, times, contents."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from hammerfs.fs import HammerFS
from hammerfs.manifest import entries, manifest
from tests.golden import GoldenStore, golden_names

pytestmark = pytest.mark.golden
RO_MOUNT = "ro-mount-of-dirty-image:"
TIMES = {"mtime_us", "ctime_us", "st_mtime_us"}


def comparable(tree: list[dict[str, Any]], drop: set[str]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key not in drop} for entry in tree]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("name", golden_names())
def test_trees(golden: GoldenStore, name: str) -> None:
    image = golden[name]
    if not image.has_manifest:  # fresh ones and the 2009 one: no tree was recorded, every byte must still read well
        with HammerFS.open(list(image.volumes)) as fs:
            assert next(entry["type"] for entry in entries(fs, b"/")) == "dir"
        return
    drop = {"atime_us"} | (TIMES if name.startswith("crash-") else set())
    compared = 0
    for root, want in image.manifest["trees"].items():
        recover, path = ("undo", root.removeprefix(RO_MOUNT)) if root.startswith(RO_MOUNT) else ("full", root)
        with HammerFS.open(list(image.volumes), recover=recover, cache_bytes=4 << 20) as fs:  # type: ignore[arg-type]
            got = list(entries(fs, path.encode()))
        assert comparable(got, drop) == comparable(want, drop), root
        compared += len(want)
    assert compared


@pytest.mark.parametrize("name", golden_names("fresh-"))
def test_fresh_images_hold_an_empty_root(golden: GoldenStore, name: str) -> None:
    image = golden[name]
    with HammerFS.open(list(reversed(image.volumes))) as fs:
        (root,) = entries(fs, b"/")
        assert (root["type"], root["mode"], root["nlink"]) == ("dir", "0755", 1)
        assert fs.volumes.notes == []
        assert fs.recovery is not None
        assert not fs.recovery.is_dirty


@pytest.mark.parametrize("name", golden_names("crash-"))
@pytest.mark.parametrize("recover", ["full", "undo", "raw"])
def test_opening_a_dirty_image_writes_nothing(golden: GoldenStore, name: str, recover: str) -> None:
    image = golden.copy(name)
    before = [digest(path) for path in image.volumes]
    for path in image.volumes:
        path.chmod(0o444)
    with HammerFS.open(list(image.volumes), recover=recover) as fs:  # type: ignore[arg-type]
        if recover == "raw":
            assert fs.recovery is None
        else:
            assert fs.recovery is not None
            assert fs.recovery.is_dirty
            list(entries(fs, b"/"))
    assert [digest(path) for path in image.volumes] == before


def test_default_roots_are_all_pfss(golden: GoldenStore) -> None:
    image = golden["pfs-mirror"]
    with HammerFS.open(image.spec) as fs:
        whole = manifest(fs)
    want = image.manifest
    assert whole["volumes"] == want["volumes"]
    assert whole["next_tid"] == want["next_tid"]
    assert list(whole["trees"]) == ["/", "/@@-1:00001", "/@@-1:00002", "/@@0x00000001000381f0:00003"]
    assert len(whole["trees"]["/@@-1:00001"]) == len(want["trees"]["/m1/"])


def test_a_small_cache_changes_nothing_but_time(golden: GoldenStore) -> None:
    image = golden["fuzz-4"]
    with HammerFS.open(image.spec, cache_bytes=0) as fs:
        got = list(entries(fs, b"/"))
        assert fs.cache.evictions
        assert fs.cache.used_bytes <= fs.cache.limit_bytes
    assert comparable(got, {"atime_us"}) == comparable(image.manifest["trees"]["/"], {"atime_us"})
