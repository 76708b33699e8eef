"""What a mount keeps others from."""

from __future__ import annotations

import pytest

from mkfs.cli import main as newfs
from tests.fuse.mounts import Mounter
from tests.golden import GoldenStore

pytestmark = [pytest.mark.mount, pytest.mark.golden]


def test_a_mounted_file_system_is_never_formatted(
    golden: GoldenStore, mounted: Mounter, capsys: pytest.CaptureFixture[str]
) -> None:
    """A read-only mount holds no lock, and is seen all the same; each of its volumes is safe."""
    image = golden.copy("fresh-two")
    before = [path.stat().st_mtime_ns for path in image.volumes]
    with mounted(image.spec) as mount:
        for path in image.volumes:
            assert newfs(["-f", "-u", "8m", "-L", "T", str(path)]) == 1
            assert capsys.readouterr().err.endswith(
                f"newfs_hammer: volume {path}: is mounted on {mount.root}: it can't be formatted\n"
            )
    assert [path.stat().st_mtime_ns for path in image.volumes] == before
    assert newfs(["-f", "-u", "8m", "-L", "T", str(image.volumes[0])]) == 0
