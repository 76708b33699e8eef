"""Fixtures of the tests that mount: a fresh image, a mount of it, and mounts of anything."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.mounts import Mount, Mounter, mount_in
from tests.fuse.rwlab import live, make_image


@pytest.fixture
def mounted(tmp_path: Path) -> Mounter:
    """``with mounted(spec, "ro,asof=0x…") as mount``; see `mount_in`."""
    return functools.partial(mount_in, tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A freshly formatted image."""
    return make_image(tmp_path)


@pytest.fixture
def mount(tmp_path: Path, image: Path) -> Iterator[Mount]:
    """A read-write mount of it; see `live` for what is checked in the end."""
    with live(tmp_path, image) as found:
        yield found
