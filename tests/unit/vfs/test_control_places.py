"""Where control sockets are looked for: never where somebody else could have put one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hammerfs.vfs import control_proto
from hammerfs.vfs.control_proto import is_private, runtime_dir, socket_name, sockets_for

DEVICE = os.makedev(0, 57)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Root's directory and that of an ordinary user, who is whoever runs the tests."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(control_proto, "_SYSTEM_DIR", tmp_path / "system")
    uid = os.geteuid() or 1000
    monkeypatch.setattr("os.geteuid", lambda: uid)
    mine = runtime_dir(uid)
    mine.mkdir(mode=0o700)
    if not os.getuid():
        os.chown(mine, uid, uid)
    return tmp_path / "system", mine


def test_the_own_directory(places: tuple[Path, Path]) -> None:
    _, mine = places
    assert list(sockets_for(DEVICE)) == [mine / socket_name(DEVICE)]
    assert socket_name(DEVICE) == "0:57.sock"


@pytest.mark.root
def test_roots_directory_comes_first(places: tuple[Path, Path]) -> None:
    system, mine = places
    system.mkdir(mode=0o755)
    assert [path.parent for path in sockets_for(DEVICE)] == [system, mine]
    os.chown(system, 1234, 1234)
    assert [path.parent for path in sockets_for(DEVICE)] == [mine]


def test_directories_others_can_write_to(places: tuple[Path, Path]) -> None:
    _, mine = places
    for mode in (0o770, 0o702, 0o777):
        mine.chmod(mode)
        assert list(sockets_for(DEVICE)) == []
    mine.chmod(0o755)
    assert list(sockets_for(DEVICE)) != []


def test_what_is_no_directory(tmp_path: Path) -> None:
    uid = os.geteuid()
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").touch(0o600)
    assert is_private(tmp_path / "folder", uid)
    assert not any(is_private(tmp_path / name, uid) for name in ("link", "file", "none"))
    assert not is_private(tmp_path / "folder", uid + 1)
