"""Regular files and block devices as devices."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hammerfs.device import file as file_module
from hammerfs.device import media
from hammerfs.device.base import Buffer, Device, ZeroDevice
from hammerfs.device.file import FileDevice, SectorDevice, identity_of, open_file
from hammerfs.errors import ClosedError, DeviceError, ReadOnlyError

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "vol.img"
    target.write_bytes(bytes(i * 7 & 0xFF for i in range(4096)) * (SIZE // 4096))
    return target


def _views(*sizes: int) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


def test_reads_what_the_file_holds(path: Path) -> None:
    content = path.read_bytes()
    with open_file(path) as device:
        assert (device.size, device.readonly, device.name, device.sector) == (SIZE, True, str(path), 512)
        assert device.pread(0, 16) == content[:16]
        assert device.pread(SIZE - 3, 3) == content[-3:]
        assert device.pread(5, 0) == b""
        views = _views(10, 0, 4096, 7)
        assert device.preadv(4090, views) == 4113
        assert b"".join(views) == content[4090 : 4090 + 4113]


def test_nowait_reads_all_or_says_none(path: Path) -> None:
    content = path.read_bytes()
    with open_file(path) as device:
        device.pread(0, SIZE)
        views = _views(4096, 4096)
        answer = device.preadv_nowait(8192, views)
        if answer is not None:
            assert answer == 8192
            assert b"".join(views) == content[8192:16384]


def test_nowait_that_would_block_or_is_unknown_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [errno.EAGAIN, errno.EOPNOTSUPP]
    calls: list[int] = []

    def preadv(fd: int, views: list[memoryview], off: int, flags: int = 0) -> int:
        calls.append(flags)
        raise OSError(codes[len(calls) - 1], "no")

    with open_file(path) as device:
        monkeypatch.setattr(file_module, "_RWF_NOWAIT", 8)
        device._can_nowait = True
        monkeypatch.setattr(os, "preadv", preadv)
        assert device.preadv_nowait(0, _views(512)) is None
        assert device.preadv_nowait(0, _views(512)) is None
        assert device.preadv_nowait(0, _views(512)) is None  # the host was asked twice, and believed
        assert calls == [8, 8]


def test_partial_nowait_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_file(path) as device:
        device._can_nowait = True
        monkeypatch.setattr(os, "preadv", lambda fd, views, off, flags=0: 100)
        assert device.preadv_nowait(0, _views(512)) is None


@pytest.mark.parametrize(("off", "n"), [(-1, 1), (SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (1 << 62, 1)])
def test_access_outside_names_device_and_offset(path: Path, off: int, n: int) -> None:
    with open_file(path, readonly=False) as device:
        with pytest.raises(DeviceError, match=r"leaves the device") as caught:
            device.pread(off, n)
        assert caught.value.volume == str(path)
        assert caught.value.offset == off
        for refused in (
            lambda: device.preadv(off, _views(n) if n < SIZE else [memoryview(bytearray(SIZE)), memoryview(b"x")]),
            lambda: device.pwrite(off, bytes(n)),
            lambda: device.discard(off, n),
        ):
            with pytest.raises(DeviceError):
                refused()
        assert path.stat().st_size == SIZE


def test_writes_arrive_and_are_in_order(path: Path) -> None:
    expected = bytearray(path.read_bytes())
    with open_file(path, readonly=False) as device:
        device.pwrite(3, b"abc")
        expected[3:6] = b"abc"
        buffers: list[Buffer] = [b"1" * 10, bytearray(b"2" * 5000), memoryview(b"3" * 7), b""]
        assert device.pwritev(5000, buffers) == 5017
        expected[5000:10017] = b"".join(buffers)
        device.flush()
        assert device.pread(0, SIZE) == bytes(expected)
    assert path.read_bytes() == bytes(expected)


def test_more_buffers_than_the_host_takes_at_once(path: Path) -> None:
    many = [bytes([i & 0xFF]) * 3 for i in range(2 * file_module.IOV_MAX + 5)]
    with open_file(path, readonly=False) as device:
        assert device.pwritev(7, many) == 3 * len(many)
        views = _views(*[3] * len(many))
        assert device.preadv(7, views) == 3 * len(many)
        assert [bytes(view) for view in views] == many
        assert device.preadv_nowait(7, views) is None


def test_short_reads_and_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_read, real_write = os.preadv, os.pwritev

    def short_read(fd: int, views: list[memoryview], off: int, flags: int = 0) -> int:
        return real_read(fd, [memoryview(views[0])[:5]], off, flags)

    def short_write(fd: int, views: list[memoryview], off: int) -> int:
        return real_write(fd, [memoryview(views[0])[:3]], off)

    monkeypatch.setattr(os, "preadv", short_read)
    monkeypatch.setattr(os, "pwritev", short_write)
    with open_file(path, readonly=False) as device:
        assert device.pwritev(100, [b"hello ", b"", b"world"]) == 11
        views = _views(4, 7)
        assert device.preadv(100, views) == 11
        assert b"".join(views) == b"hello world"


def test_shrunk_file_is_an_error_not_a_loop(path: Path) -> None:
    with open_file(path) as device:
        os.truncate(path, 1000)
        with pytest.raises(DeviceError, match="ends early") as caught:
            device.pread(900, 200)
        assert caught.value.offset == 1000


def test_host_failures_carry_reason_place_and_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_file(path, readonly=False) as device:
        for name in ("preadv", "pwritev", "fdatasync"):
            monkeypatch.setattr(os, name, broken)
        for action, text in (
            (lambda: device.pread(512, 4), "read failed: No space"),
            (lambda: device.pwrite(512, b"abcd"), "write failed: No space"),
        ):
            with pytest.raises(DeviceError, match=text) as caught:
                action()
            assert (caught.value.volume, caught.value.offset, caught.value.errno) == (str(path), 512, errno.ENOSPC)
        with pytest.raises(DeviceError, match="flush failed"):
            device.flush()


def test_readonly_refuses_writes(path: Path) -> None:
    with open_file(path) as device:
        device.flush()
        for action in (lambda: device.pwrite(0, b"x"), lambda: device.discard(0, 512)):
            with pytest.raises(ReadOnlyError):
                action()


def test_closed_device_says_so(path: Path) -> None:
    device = open_file(path)
    device.close()
    device.close()
    assert device.is_closed
    device.will_need(0, 512)
    for action in (lambda: device.pread(0, 1), device.flush, lambda: device.extents(0, 1)):
        with pytest.raises(ClosedError):
            action()


def test_discard_makes_a_hole_or_leaves_the_bytes(path: Path) -> None:
    before = path.read_bytes()
    with open_file(path, readonly=False) as device:
        done = device.discard(65536, 131072)
        device.will_need(0, SIZE)
        found = device.pread(65536, 131072)
        assert found == (bytes(131072) if done else before[65536:196608])
        if done:
            assert list(device.extents(65536, 131072)) == []
            assert list(device.extents(0, SIZE)) == [(0, 65536), (196608, SIZE)]
        assert device.discard(0, 0) is False


def test_extents_of_a_sparse_file(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(1 << 30)
        stream.seek(256 << 20)
        stream.write(b"x" * 65536)
    with open_file(path) as device:
        extents = list(device.extents(0, device.size))
        assert sum(end - begin for begin, end in extents) < 1 << 20
        assert any(begin <= 256 << 20 < end for begin, end in extents)
        assert list(device.extents(256 << 20, 10)) == [(256 << 20, (256 << 20) + 10)]


@pytest.mark.parametrize("kind", ["directory", "fifo", "missing", "zero"])
def test_what_is_no_volume_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero") if kind == "zero" else tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(DeviceError) as caught:
        open_file(path)
    assert caught.value.volume == str(path)
    assert "\n" not in str(caught.value)


def test_identity_tells_files_apart(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.hardlink_to(path)
    other = tmp_path / "other"
    other.write_bytes(b"")
    with open_file(path) as one, open_file(link) as two, open_file(other) as three:
        assert one.identity == two.identity == identity_of(path.stat())
        assert one.identity != three.identity
        assert three.size == 0


def test_sector_device_moves_whole_sectors_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A raw device of 4096-byte sectors, played by a file whose every access is checked."""
    expected = bytearray(path.read_bytes())
    real_read, real_write = os.preadv, os.pwritev

    def check(views: list[memoryview], off: int) -> None:
        assert off % 4096 == 0
        assert sum(len(view) for view in views) % 4096 == 0

    def read(fd: int, views: list[memoryview], off: int, flags: int = 0) -> int:
        check(views, off)
        return real_read(fd, views, off, flags)

    def write(fd: int, views: list[memoryview], off: int) -> int:
        check(views, off)
        return real_write(fd, views, off)

    fd = os.open(path, os.O_RDWR)
    with SectorDevice(fd, str(path), SIZE, readonly=False, sector=4096, identity=(0, 0, 0)) as device:
        monkeypatch.setattr(os, "preadv", read)
        monkeypatch.setattr(os, "pwritev", write)
        device.pwrite(5000, b"unaligned" * 1000)
        expected[5000:14000] = b"unaligned" * 1000
        device.pwritev(8192, [b"A" * 4096, b"B" * 4096])
        expected[8192:16384] = b"A" * 4096 + b"B" * 4096
        device.pwrite(SIZE - 1, b"!")
        expected[-1:] = b"!"
        views = _views(100, 5000)
        assert device.preadv(4000, views) == 5100
        assert b"".join(views) == bytes(expected[4000:9100])
        assert device.pread(SIZE - 5, 5) == bytes(expected[-5:])
        assert device.preadv_nowait(0, views) is None
    assert path.read_bytes() == bytes(expected)


def test_media_questions_have_answers_for_files(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        assert media.media_size(fd) == SIZE
        assert media.sector_size(fd) == 512
        media.make_durable(fd)
    finally:
        os.close(fd)


def test_zero_device() -> None:
    with ZeroDevice(1 << 40) as device:
        assert device.pread((1 << 40) - 4, 4) == bytes(4)
        view = memoryview(bytearray(b"dirty"))
        assert device.preadv_nowait(0, [view]) == 5
        assert bytes(view) == bytes(5)
        assert list(device.extents(0, 1 << 40)) == []
        with pytest.raises(ReadOnlyError):
            device.pwrite(0, b"x")
        assert repr(device) == "<ZeroDevice 'zero' 1099511627776 bytes ro>"


@pytest.mark.root
def test_block_device(loop: str) -> None:
    with open_file(loop, readonly=False) as device:
        assert isinstance(device, FileDevice)
        assert (device.size, device.sector) == (8 << 20, 512)
        device.pwrite(12345, b"through the loop")
        device.flush()
        assert device.pread(12345, 16) == b"through the loop"
        device.discard(1 << 20, 1 << 20)
        assert list(device.extents(0, 100)) == [(0, 100)]
    with open_file(loop) as again:
        assert again.pread(12345, 16) == b"through the loop"
        assert isinstance(again, Device)
