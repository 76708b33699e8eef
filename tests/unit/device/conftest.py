"""What the device tests share: a block device made from a file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "loop.img"
    with path.open("wb") as stream:
        stream.truncate(8 << 20)
    made = subprocess.run(["losetup", "--find", "--show", path], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"losetup: {made.stderr.strip()}")
    node = made.stdout.strip()
    yield node
    subprocess.run(["losetup", "--detach", node], check=True)
