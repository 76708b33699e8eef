"""The golden fixture itself: every archive unpacks, copies are private, equal and sparse."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.golden import GoldenStore, golden_names


def _sha(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@pytest.mark.golden
def test_names_are_what_the_folder_holds() -> None:
    names = golden_names()
    assert "basic-v7" in names
    assert golden_names("fresh-v") == [f"fresh-v{i}" for i in range(1, 8)]


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names())
def test_every_archive_has_volumes(golden: GoldenStore, name: str) -> None:
    image = golden[name]
    assert image.volumes
    for path in image.volumes:
        assert path.stat().st_size >= 32 << 20
    if image.has_manifest:
        assert image.manifest["name"] == name
    assert golden[name] == image


@pytest.mark.golden
def test_copy_is_private_equal_and_sparse(golden: GoldenStore) -> None:
    shared = golden["vol2-spread"]
    private = golden.copy("vol2-spread")
    assert [path.name for path in private.volumes] == [path.name for path in shared.volumes]
    for mine, theirs in zip(private.volumes, shared.volumes, strict=True):
        assert _sha(mine) == _sha(theirs)
        assert mine.stat().st_blocks * 512 <= theirs.stat().st_blocks * 512 + (1 << 20)
    with private.volumes[0].open("r+b") as stream:
        stream.write(b"mine")
    assert _sha(private.volumes[0]) != _sha(shared.volumes[0])
    assert golden.copy("vol2-spread").volumes[0] != private.volumes[0]


@pytest.mark.golden
def test_recorded_texts(golden: GoldenStore) -> None:
    image = golden["fresh-two"]
    command = image.text("cmd")
    assert command is not None
    assert "newfs_hammer" in command
    assert image.text("nothing") is None
    assert image.spec.count(":") == 1
