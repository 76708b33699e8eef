"""Every call that changes or asks something, through the kernel, on a mount that is checked in the end."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.mounts import PATIENCE_S, Mount, mount_in
from tests.fuse.rwlab import live, make_image, run, run_hammer

pytestmark = [pytest.mark.mount]
BLOCK = 16384
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
_libc = ctypes.CDLL(None, use_errno=True)
as_root = pytest.mark.root


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    folder = tmp_path_factory.mktemp("basics")
    with live(folder, make_image(folder)) as found:
        yield found


@pytest.fixture
def place(mount: Mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own for each test; what is left in it is compared after the remount."""
    folder: Path = mount.root / request.node.name
    folder.mkdir()
    return folder


def code_of(call: object, *args: object, **more: object) -> int:
    """errno of a call that must fail."""
    with pytest.raises(OSError) as caught:
        call(*args, **more)  # type: ignore[operator]
    assert caught.value.errno is not None
    return caught.value.errno


def rename_with(old: Path, new: Path, flags: int) -> int:
    """renameat2(2); errno, 0 for success."""
    done = _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)
    return 0 if done == 0 else ctypes.get_errno()


# Names


def test_create_and_its_refusals(place: Path) -> None:
    with open(place / "new", "xb") as stream:
        stream.write(b"contents")
    assert (place / "new").read_bytes() == b"contents"
    assert code_of(open, place / "new", "xb") == errno.EEXIST
    assert code_of(open, place / "none" / "x", "wb") == errno.ENOENT
    assert code_of(open, place / "new" / "x", "wb") == errno.ENOTDIR
    assert code_of(open, place, "wb") == errno.EISDIR
    (place / ("n" * 255)).touch()
    assert code_of((place / ("n" * 256)).touch) == errno.ENAMETOOLONG
    odd = os.fsencode(place) + b"/\xff\xfe \n"
    os.close(os.open(odd, os.O_CREAT | os.O_WRONLY))
    assert b"\xff\xfe \n" in os.listdir(os.fsencode(place))


def test_umask_and_mode_of_what_is_made(place: Path) -> None:
    before = os.umask(0o027)
    try:
        os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(place / "dir", 0o777)
        os.mkfifo(place / "fifo", 0o666)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((place / name).stat().st_mode) for name in ("file", "dir", "fifo")]
    assert modes == [0o640, 0o750, 0o640]


def test_directories(place: Path) -> None:
    (place / "a" / "b").mkdir(parents=True)
    assert code_of((place / "a").mkdir) == errno.EEXIST
    assert code_of((place / "a").rmdir) == errno.ENOTEMPTY
    assert code_of(os.unlink, place / "a") in {errno.EISDIR, errno.EPERM}
    (place / "file").touch()
    assert code_of((place / "file").rmdir) == errno.ENOTDIR
    assert (place / "a").stat().st_nlink == 1
    (place / "a" / "b").rmdir()
    (place / "a").rmdir()
    assert code_of(os.listdir, place / "a") == errno.ENOENT


def test_fifos_and_sockets(place: Path) -> None:
    os.mkfifo(place / "fifo", 0o600)
    reader = os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(place / "fifo", os.O_WRONLY)
    assert os.write(writer, b"through") == 7
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    os.close(writer)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        cwd = os.getcwd()
        os.chdir(place)  # the path of a socket must be short
        try:
            server.bind("sock")
            server.listen(1)
            client.connect("sock")
        finally:
            os.chdir(cwd)
    assert stat.S_ISSOCK((place / "sock").stat().st_mode)
    assert stat.S_ISFIFO((place / "fifo").stat().st_mode)


@as_root
def test_devices(place: Path) -> None:
    for name, kind, number in (
        ("zero", stat.S_IFCHR, (1, 5)),
        ("disk", stat.S_IFBLK, (8, 17)),
        ("large", stat.S_IFCHR, (4095, 1_048_575)),
    ):
        os.mknod(place / name, kind | 0o600, os.makedev(*number))
        st = (place / name).stat()
        assert stat.S_IFMT(st.st_mode) == kind
        assert (os.major(st.st_rdev), os.minor(st.st_rdev)) == number


def test_hard_links(place: Path) -> None:
    (place / "one").write_bytes(b"x")
    (place / "sub").mkdir()
    os.link(place / "one", place / "sub" / "two")
    assert (place / "one").stat().st_nlink == 2
    assert (place / "one").stat().st_ino == (place / "sub" / "two").stat().st_ino
    (place / "sub" / "two").write_bytes(b"longer")
    assert (place / "one").read_bytes() == b"longer"
    assert code_of(os.link, place / "one", place / "sub" / "two") == errno.EEXIST
    assert code_of(os.link, place / "sub", place / "dirlink") == errno.EPERM
    os.unlink(place / "one")
    assert (place / "sub" / "two").stat().st_nlink == 1


def test_symbolic_links(place: Path) -> None:
    for target in ("x", "../" * 40 + "deep", "t" * 1000, "@@0x0000000000000001/x"):
        os.symlink(target, place / "link")
        assert os.readlink(place / "link") == target
        assert (place / "link").lstat().st_size == len(target)
        os.unlink(place / "link")
    os.symlink("file", place / "link")
    assert code_of(open, place / "link", "rb") == errno.ENOENT
    (place / "file").write_bytes(b"through the link")
    assert (place / "link").read_bytes() == b"through the link"
    os.symlink("loop", place / "loop")
    assert code_of(open, place / "loop", "rb") == errno.ELOOP


def test_rename(place: Path) -> None:
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    with open(place / "b", "rb") as replaced:
        os.rename(place / "a", place / "b")
        assert replaced.read() == b"b"
    assert (place / "b").read_bytes() == b"a"
    assert not (place / "a").exists()
    (place / "d" / "e").mkdir(parents=True)
    assert code_of(os.rename, place / "d", place / "d" / "e" / "f") == errno.EINVAL
    assert code_of(os.rename, place / "b", place / "d") == errno.EISDIR
    assert code_of(os.rename, place / "d", place / "b") == errno.ENOTDIR
    (place / "full" / "x").mkdir(parents=True)
    assert code_of(os.rename, place / "d", place / "full") in {errno.ENOTEMPTY, errno.EEXIST}
    (place / "empty").mkdir()
    os.rename(place / "d", place / "empty")
    assert os.listdir(place / "empty") == ["e"]
    assert os.path.samefile(place / "empty" / "e" / "..", place / "empty")
    os.rename(place / "empty" / "e", place / "moved")
    assert os.path.samefile(place / "moved" / "..", place)


def test_rename_flags(place: Path) -> None:
    for name in ("a", "b"):
        (place / name).write_text(name, encoding="ascii")
    assert rename_with(place / "a", place / "b", RENAME_NOREPLACE) == errno.EEXIST
    assert rename_with(place / "a", place / "c", RENAME_NOREPLACE) == 0
    assert rename_with(place / "c", place / "b", RENAME_EXCHANGE) == 0
    assert [(place / name).read_text(encoding="ascii") for name in ("b", "c")] == ["a", "b"]
    assert rename_with(place / "c", place / "none", RENAME_EXCHANGE) == errno.ENOENT
    (place / "d").mkdir()
    (place / "d" / "inside").touch()
    assert rename_with(place / "d", place / "b", RENAME_EXCHANGE) == 0
    assert (place / "b").is_dir()
    assert (place / "b" / "inside").exists()
    assert (place / "d").read_text(encoding="ascii") == "a"
    assert rename_with(place / "d", place / "w", RENAME_WHITEOUT) == errno.EINVAL


def test_open_and_unlinked(place: Path) -> None:
    fd = os.open(place / "gone", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"before")
    os.unlink(place / "gone")
    assert os.fstat(fd).st_nlink == 0
    os.pwrite(fd, b"after it", 100_000)
    os.fsync(fd)
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, 100_004)
    (place / "gone").write_bytes(b"another")
    assert os.pread(fd, 6, 0) == b"before"
    assert os.pread(fd, 10, 100_000) == b"afte"
    os.close(fd)
    assert (place / "gone").read_bytes() == b"another"


def test_an_unlinked_directory_that_is_open(place: Path) -> None:
    (place / "dir").mkdir()
    fd = os.open(place / "dir", os.O_RDONLY)
    (place / "dir").rmdir()
    assert os.listdir(fd) == []
    assert code_of(os.open, "new", os.O_CREAT | os.O_WRONLY, dir_fd=fd) == errno.ENOENT
    os.close(fd)


# Attributes


@as_root
def test_chmod_chown_and_set_id(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"x")
    os.chmod(path, 0o4755)
    os.chown(path, 1000, 2000)
    st = path.stat()
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (1000, 2000, 0o755)
    os.chown(path, -1, 3000)
    assert (path.stat().st_uid, path.stat().st_gid) == (1000, 3000)
    os.chmod(path, 0o6777)
    as_nobody = (
        "import os,sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); open(sys.argv[1],'r+b').write(b'y')"
    )
    os.chmod(place, 0o755)
    if os.access("/usr/bin/python3", os.X_OK) and _reachable_by_others(place):
        run("/usr/bin/python3", "-c", as_nobody, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o777
    os.symlink("file", place / "link")
    os.chown(place / "link", 7, 8, follow_symlinks=False)
    assert ((place / "link").lstat().st_uid, path.stat().st_uid) == (7, 1000)


def _reachable_by_others(path: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)


@as_root
def test_below_a_set_gid_directory(place: Path) -> None:
    os.chown(place, 0, 4242)
    os.chmod(place, 0o2775)
    (place / "dir").mkdir()
    (place / "file").touch()
    assert ((place / "dir").stat().st_gid, (place / "file").stat().st_gid) == (4242, 4242)
    assert (place / "dir").stat().st_mode & stat.S_ISGID
    assert not (place / "file").stat().st_mode & stat.S_ISGID


def test_times(place: Path) -> None:
    path = place / "file"
    path.touch()
    os.utime(path, ns=(1_000_000_123_456_000, 2_000_000_654_321_000))
    st = path.stat()
    assert (st.st_atime_ns, st.st_mtime_ns) == (1_000_000_123_456_000, 2_000_000_654_321_000)
    os.utime(path, (0, 0))
    assert path.stat().st_mtime == 0
    os.utime(path, ns=(7_258_118_400_000_000_000, 7_258_118_400_000_000_000))  # the year 2200
    assert path.stat().st_mtime_ns == 7_258_118_400_000_000_000
    os.utime(path, ns=(0, 111))
    os.close(os.open(path, os.O_RDONLY))
    before = place.stat().st_mtime_ns
    time.sleep(0.01)
    (place / "another").touch()
    assert place.stat().st_mtime_ns > before
    changed = path.stat().st_ctime_ns
    time.sleep(0.01)
    os.chmod(path, 0o600)
    assert path.stat().st_ctime_ns > changed


def test_times_that_can_not_be_stored(tmp_path: Path) -> None:
    """Microseconds are all the kernel knows; what is before 1970 it shows until it forgets the file."""
    image = make_image(tmp_path)
    with mount_in(tmp_path, image, "rw") as mount:
        for name, ns in (("fine", 1_000_000_000_123_456_789), ("early", -5_000_000_000)):
            (mount.root / name).touch()
            os.utime(mount.root / name, ns=(ns, ns))
            assert (mount.root / name).stat().st_mtime_ns == ns // 1000 * 1000
    with mount_in(tmp_path, image, "ro") as mount:
        stored = [(mount.root / name).stat().st_mtime_ns for name in ("fine", "early")]
    assert stored == [1_000_000_000_123_456_000, 0]


# Contents


def test_truncate(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"0123456789" * 10_000)
    os.truncate(path, 12)
    assert path.read_bytes() == b"012345678901"
    os.truncate(path, 40_000)
    assert path.read_bytes() == b"012345678901" + bytes(40_000 - 12)
    with open(path, "r+b") as stream:
        stream.truncate(0)
        stream.write(b"new")
    assert path.read_bytes() == b"new"
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert (path.stat().st_size, path.read_bytes()) == (0, b"")
    assert code_of(os.truncate, place, 0) == errno.EISDIR
    time.sleep(0.02)
    os.truncate(path, 0)  # the size it has: no time changes, here or on the media


def test_append(place: Path) -> None:
    path = place / "log"
    first = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    second = os.open(path, os.O_WRONLY | os.O_APPEND)
    for i in range(200):
        os.write((first, second)[i % 2], b"%03d\n" % i)
    os.close(first)
    os.close(second)
    assert path.read_bytes() == b"".join(b"%03d\n" % i for i in range(200))


@pytest.mark.parametrize("flag", ["O_SYNC", "O_DSYNC"])
def test_synchronous_writes(place: Path, flag: str) -> None:
    fd = os.open(place / "file", os.O_CREAT | os.O_RDWR | getattr(os, flag))
    for i in range(5):
        assert os.pwrite(fd, bytes([i]) * 5000, i * 5000) == 5000
    os.close(fd)
    assert (place / "file").read_bytes() == b"".join(bytes([i]) * 5000 for i in range(5))


def test_direct(place: Path) -> None:
    path = place / "file"
    path.write_bytes(bytes(8 * BLOCK))
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, 2 * BLOCK) as buf:
        buf[:] = bytes(i % 251 for i in range(2 * BLOCK))
        assert os.pwrite(fd, buf, 4096) == 2 * BLOCK
        back = mmap.mmap(-1, 2 * BLOCK)
        assert os.preadv(fd, [back], 4096) == 2 * BLOCK
        assert back[:] == buf[:]
        assert os.preadv(fd, [back], 7 * BLOCK) == BLOCK
        back.close()
        assert path.read_bytes()[4096 : 4096 + 2 * BLOCK] == buf[:]
    os.close(fd)


def test_shared_mapping(place: Path) -> None:
    path = place / "file"
    path.write_bytes(bytes(100_000))
    with open(path, "r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapped:
        mapped[70_000:70_005] = b"hello"
        assert os.pread(stream.fileno(), 5, 70_000) == b"hello"
        os.pwrite(stream.fileno(), b"world", 10)
        assert mapped[10:15] == b"world"
        mapped.flush()
    data = path.read_bytes()
    assert (data[10:15], data[70_000:70_005], len(data)) == (b"world", b"hello", 100_000)


def test_sparse_files(place: Path) -> None:
    path = place / "sparse"
    with open(path, "wb") as stream:
        stream.write(b"head")
        stream.seek(1 << 40)
        stream.write(b"tail")
        os.fsync(stream.fileno())
    st = path.stat()
    assert st.st_size == (1 << 40) + 4
    assert 0 < st.st_blocks * 512 <= 4 * BLOCK
    with open(path, "rb") as stream:
        stream.seek((1 << 40) - 10)
        assert stream.read() == bytes(10) + b"tail"
        stream.seek(123_456_789)
        assert stream.read(4096) == bytes(4096)
    os.truncate(path, 1 << 20)  # a terabyte of zeros takes too long to compare
    dense = place / "dense"
    dense.write_bytes(b"x" * (1 << 20))
    with open(dense, "rb") as stream:
        os.fsync(stream.fileno())
    assert dense.stat().st_blocks * 512 >= 1 << 20


def test_largest_size(place: Path) -> None:
    path = place / "file"
    path.touch()
    os.truncate(path, 999_999_999_999_999)
    assert path.stat().st_size == 999_999_999_999_999
    os.truncate(path, 0)


def test_vectors_and_copies(place: Path) -> None:
    path = place / "file"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    assert os.pwritev(fd, [b"abc", b"", b"defg"], 1) == 7
    assert os.pread(fd, 100, 0) == b"\0abcdefg"
    out = os.open(place / "copy", os.O_CREAT | os.O_WRONLY)
    assert os.copy_file_range(fd, out, 8, 0, 0) == 8
    os.lseek(out, 8, os.SEEK_SET)
    assert os.sendfile(out, fd, 0, 8) == 8
    os.close(out)
    os.close(fd)
    assert (place / "copy").read_bytes() == b"\0abcdefg" * 2


def test_locks_of_two_processes(place: Path) -> None:
    path = place / "file"
    path.touch()
    with open(path, "r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        fcntl.lockf(stream, fcntl.LOCK_EX)
        for tried in ("fcntl.flock(f, fcntl.LOCK_EX|fcntl.LOCK_NB)", "fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB)"):
            done = subprocess.run(
                ["/usr/bin/env", "python3", "-c", f"import fcntl; f=open({str(path)!r},'r+b'); {tried}"],
                check=False,
                capture_output=True,
                text=True,
            )
            assert "BlockingIOError" in done.stderr


def test_no_space_is_reserved(place: Path) -> None:
    """posix_fallocate(3) falls back to writing; fallocate(2) itself is not there."""
    with open(place / "file", "w+b") as stream:
        assert _libc.fallocate(stream.fileno(), 0, 0, ctypes.c_long(100_000)) == -1
        assert ctypes.get_errno() in {errno.EOPNOTSUPP, errno.ENOSYS}
        os.posix_fallocate(stream.fileno(), 0, 100_000)
        assert os.fstat(stream.fileno()).st_size == 100_000


# Directories


def test_listing_while_it_changes(place: Path) -> None:
    """What stays is listed once, whatever is added and removed meanwhile."""
    stay = {f"stay{i:04d}" for i in range(600)}
    for name in stay:
        (place / name).touch()
    for i in range(300):
        (place / f"go{i:03d}").touch()
    seen = []
    with os.scandir(place) as entries:
        for i, entry in enumerate(entries):
            seen.append(entry.name)
            if i < 300:
                (place / f"go{i:03d}").unlink()
                (place / f"come{i:03d}").touch()
    assert len(seen) == len(set(seen))
    assert stay <= set(seen)
    assert set(os.listdir(place)) == stay | {f"come{i:03d}" for i in range(300)}


def test_telldir_and_seekdir(place: Path) -> None:
    for i in range(500):
        (place / f"entry{i:03d}").touch()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.readdir.argtypes = libc.telldir.argtypes = libc.closedir.argtypes = [ctypes.c_void_p]
    libc.telldir.restype = ctypes.c_long
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    stream = libc.opendir(os.fsencode(place))

    def following() -> bytes | None:
        entry = libc.readdir(stream)
        return ctypes.string_at(entry + 19) if entry else None  # d_name of a struct dirent with 64-bit offsets

    places = []
    while True:
        at = libc.telldir(stream)
        name = following()
        if name is None:
            break
        places.append((at, name))
    assert len(places) == 502
    assert {places[0][1], places[1][1]} == {b".", b".."}
    for at, name in reversed(places[::7]):
        libc.seekdir(stream, at)
        assert following() == name
    libc.closedir(stream)


def test_removing_while_listing(place: Path) -> None:
    for i in range(1500):
        (place / f"f{i}").touch()
    run("rm", "-r", place)
    place.mkdir()


def test_fsync_of_files_and_directories(mount: Mount, place: Path) -> None:
    (place / "file").write_bytes(b"durable")
    for path in (place / "file", place, mount.root):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.fdatasync(fd)
        os.close(fd)
    os.sync()


def test_statfs(mount: Mount, place: Path) -> None:
    run_hammer("synctid", place)
    before = os.statvfs(place)
    assert before.f_namemax == 255
    assert 0 < before.f_bavail <= before.f_blocks
    assert before.f_blocks * before.f_frsize <= 512 << 20
    files = before.f_files
    for i in range(20):
        (place / f"f{i}").write_bytes(os.urandom(1 << 20))
    run_hammer("synctid", place)
    after = os.statvfs(mount.root)
    assert after.f_files == files + 20
    assert before.f_bavail - after.f_bavail >= (16 << 20) // before.f_frsize  # by big-blocks of 8 MiB


def test_times_have_microseconds_at_once(place: Path) -> None:
    path = place / "file"
    for step in (lambda: path.write_bytes(b"x"), lambda: path.chmod(0o600), (place / "folder").mkdir):
        step()
        for found in (path.stat(), place.stat()):
            assert not any(ns % 1000 for ns in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns))
    os.utime(path, ns=(1234567891_123456789, 1234567892_987654321))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (1234567891_123456000, 1234567892_987654000)


# What HAMMER has not, and the past


def test_no_extended_attributes(place: Path) -> None:
    path = place / "file"
    path.touch()
    refusals = {errno.EOPNOTSUPP, errno.ENOSYS}
    assert code_of(os.setxattr, path, "user.colour", b"red") in refusals
    assert code_of(os.getxattr, path, "user.colour") in refusals
    assert code_of(os.listxattr, path) in refusals
    run("cp", "-a", path, place / "copy")


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="setfacl is not installed")
def test_no_access_control_lists(place: Path) -> None:
    path = place / "file"
    path.touch()
    before = stat.S_IMODE(path.stat().st_mode)
    done = subprocess.run(
        ["setfacl", "-m", "u:1:rw", str(path)], capture_output=True, text=True, check=False, env={"LC_ALL": "C"}
    )
    assert done.returncode != 0
    assert "Operation not supported" in done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == before


def test_the_past_is_read_only(mount: Mount, place: Path) -> None:
    (place / "file").write_bytes(b"first")
    run_hammer("synctid", place)
    then = next(
        mount.root / ".hammer" / "by-time" / day / name
        for day in sorted(os.listdir(mount.root / ".hammer" / "by-time"), reverse=True)
        for name in sorted(os.listdir(mount.root / ".hammer" / "by-time" / day), reverse=True)
        if (mount.root / ".hammer" / "by-time" / day / name / place.name / "file").exists()
    )
    old = then / place.name / "file"
    assert old.read_bytes() == b"first"
    for call, args in (
        (open, (old, "wb")),
        (open, (old, "ab")),
        (os.truncate, (old, 0)),
        (os.unlink, (old,)),
        (os.mkdir, (then / "new",)),
        (os.rename, (old, then / "other")),
        (os.chmod, (old, 0o600)),
        (os.utime, (old,)),
        (os.link, (old, place / "restored")),
        (os.link, (place / "file", then / "new")),
        (os.symlink, ("x", then / "new")),
        (os.rename, (place / "file", then / "new")),
        (os.rename, (old, place / "file")),
        (os.mkfifo, (then / "new",)),
        (os.mkdir, (mount.root / ".hammer" / "new",)),
    ):
        assert code_of(call, *args) in {errno.EROFS, errno.EXDEV}, (call, args)
    shutil.copy(old, place / "restored")
    assert (place / "restored").read_bytes() == b"first"


# File handles of NFS servers


class _Handle(ctypes.Structure):
    _fields_ = (("nbytes", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128))


@as_root
def test_file_handles(mount: Mount, place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"by handle")
    handle, mount_id = _Handle(128), ctypes.c_int()
    assert _libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount_id), 0) == 0
    root = os.open(mount.root, os.O_RDONLY)
    fd = _libc.open_by_handle_at(root, ctypes.byref(handle), os.O_RDONLY)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    assert os.read(fd, 100) == b"by handle"
    os.close(fd)
    path.unlink()
    deadline = time.monotonic() + PATIENCE_S
    while (fd := _libc.open_by_handle_at(root, ctypes.byref(handle), os.O_RDONLY)) != -1:
        os.close(fd)  # the kernel holds the object until the daemon has answered the release
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ctypes.get_errno() == errno.ESTALE
    os.close(root)


def test_mounted_read_only_nothing_changes(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    with mount_in(tmp_path, image, "ro") as mount:
        assert code_of((mount.root / "new").touch) == errno.EROFS
        assert code_of(os.mkdir, mount.root / "new") == errno.EROFS


def test_a_writer_that_is_killed(place: Path) -> None:
    for i in range(3):
        writer = subprocess.Popen(["/bin/sh", "-c", f"while :; do echo x >> '{place}/f{i}'; done"])
        time.sleep(0.1)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        (place / f"f{i}").unlink()  # its times may have died on the way
