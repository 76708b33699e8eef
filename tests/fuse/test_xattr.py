"""`-o xattr`: what HAMMER knows of an object as extended attributes, of which only the flags can be set."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.mounts import Mount, mount_in
from tests.fuse.rwlab import live, run_hammer

pytestmark = [pytest.mark.mount]
NAMES = {f"user.hammer.{name}" for name in ("objid", "pfs", "uflags", "tid", "versions")}


@pytest.fixture
def mount(tmp_path: Path, image: Path) -> Iterator[Mount]:
    with live(tmp_path, image, "rw,xattr") as found:
        yield found


def get(path: Path | str, name: str) -> str:
    return os.getxattr(path, f"user.hammer.{name}").decode()


def code_of(call: Callable[..., Any], *args: Any) -> int:
    with pytest.raises(OSError) as caught:
        call(*args)
    assert caught.value.errno is not None
    return caught.value.errno


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_is_known_of_a_file(mount: Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"one")
    first = run_hammer("synctid", mount.root).strip()
    assert set(os.listxattr(path)) == NAMES
    assert get(path, "objid") == f"0x{path.stat().st_ino:016x}"
    assert (get(path, "pfs"), get(path, "uflags"), get(path, "versions")) == ("0", "", "1")
    path.write_bytes(b"another")
    run_hammer("synctid", mount.root)
    assert int(get(path, "versions")) >= 2
    assert get(path, "tid") > first >= get(f"{path}@@{first}", "tid")
    assert get(f"{path}@@{first}", "versions") == "1"
    assert get(mount.root, "objid") == "0x0000000000000001"


def test_only_flags_can_be_set(mount: Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"one")
    os.setxattr(path, "user.hammer.uflags", b"nodump,nohistory")
    assert get(path, "uflags") == "nodump,unohistory"
    assert run_hammer("lsflags", path).startswith("nodump,unohistory\t")
    os.setxattr(path, "user.hammer.uflags", b"uchg")
    assert get(path, "uflags") == "uimmutable"
    assert code_of(path.write_bytes, b"two") == errno.EPERM
    os.setxattr(path, "user.hammer.uflags", b"")
    path.write_bytes(b"two")
    assert code_of(os.setxattr, path, "user.hammer.uflags", b"shiny") == errno.EINVAL
    for name in ("user.hammer.tid", "user.colour", "user.hammer.other"):
        assert code_of(os.setxattr, path, name, b"x") == errno.EOPNOTSUPP
        assert code_of(os.removexattr, path, name) == errno.EOPNOTSUPP
    assert code_of(os.removexattr, path, "user.hammer.uflags") == errno.EOPNOTSUPP
    assert code_of(os.getxattr, path, "user.colour") == errno.ENODATA
    assert code_of(os.getxattr, path, "user.hammer.other") == errno.ENODATA


@pytest.mark.root
def test_only_the_owner_sets_flags_and_only_root_its_own(mount: Mount) -> None:
    mount.root.chmod(0o777)
    mine, theirs = mount.root / "mine", mount.root / "theirs"
    for path in (mine, theirs):
        path.touch()
        path.chmod(0o666)
    os.chown(theirs, 65534, 65534)
    with open(mine, "rb") as first, open(theirs, "rb") as second, as_nobody():  # the way there may not be open to them
        assert code_of(os.setxattr, first.fileno(), "user.hammer.uflags", b"nodump") == errno.EPERM
        assert code_of(os.setxattr, second.fileno(), "user.hammer.uflags", b"simmutable") == errno.EPERM
        os.setxattr(second.fileno(), "user.hammer.uflags", b"nodump")
    os.setxattr(theirs, "user.hammer.uflags", b"arch")
    with open(theirs, "rb") as second, as_nobody():
        assert code_of(os.setxattr, second.fileno(), "user.hammer.uflags", b"") == errno.EPERM
    assert get(theirs, "uflags") == "arch"


def test_the_past_and_what_is_virtual(mount: Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"one")
    tid = run_hammer("synctid", mount.root).strip()
    assert code_of(os.setxattr, f"{path}@@{tid}", "user.hammer.uflags", b"nodump") == errno.EROFS
    assert os.listxattr(mount.root / ".hammer") == []
    assert code_of(os.getxattr, mount.root / ".hammer", "user.hammer.tid") == errno.ENODATA


def test_on_a_reader(tmp_path: Path, image: Path) -> None:
    with live(tmp_path, image) as mount:
        (mount.root / "file").write_bytes(b"one")
    with mount_in(tmp_path, image, "ro,xattr") as mount:
        assert set(os.listxattr(mount.root / "file")) == NAMES
        assert code_of(os.setxattr, mount.root / "file", "user.hammer.uflags", b"nodump") == errno.EROFS
    with mount_in(tmp_path, image, "ro") as mount:
        assert code_of(os.listxattr, mount.root / "file") == errno.EOPNOTSUPP
