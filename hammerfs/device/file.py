"""Regular files and disk devices of the host."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from hammerfs.device import lock, media
from hammerfs.device.base import Buffer, Device
from hammerfs.device.sparse import data_extents
from hammerfs.errors import DeviceError

IOV_MAX = os.sysconf("SC_IOV_MAX") if "SC_IOV_MAX" in os.sysconf_names else 1024
_RWF_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class FileDevice(Device):
    """A regular file, or a block device of the host; made by `open_file`.

    Args:
        fd: Open descriptor; the device owns it from now on.
        name: Its path.
        size: Bytes of it.
        readonly: Whether the descriptor is open for reading only.
        sector: Bytes of a sector.
        identity: Equal for two devices if and only if they are the same file or disk.
    """

    def __init__(
        self, fd: int, name: str, size: int, *, readonly: bool, sector: int, identity: tuple[int, int, int]
    ) -> None:
        super().__init__(name, size, readonly=readonly, sector=sector)
        self.identity = identity
        self._fd = fd
        self._can_nowait = _RWF_NOWAIT != 0

    def _preadv(self, off: int, views: Sequence[memoryview], n: int) -> None:
        done = 0
        while done < n:
            left = views if done == 0 and len(views) <= IOV_MAX else _rest(views, done)
            try:
                got = os.preadv(self._fd, left, off + done)
            except OSError as err:
                raise self._failed("read", off + done, err) from None
            if got == 0:
                raise DeviceError("device ends early: it has shrunk", volume=self.name, offset=off + done)
            done += got

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        if not self._can_nowait or len(views) > IOV_MAX:
            return False
        try:
            return os.preadv(self._fd, views, off, _RWF_NOWAIT) == n
        except BlockingIOError:
            return False
        except OSError as err:
            if err.errno in {errno.EOPNOTSUPP, errno.EINVAL}:  # this file system, or this kernel, can't
                self._can_nowait = False
                return False
            raise self._failed("read", off, err) from None

    def _pwritev(self, off: int, buffers: Sequence[Buffer], n: int) -> None:
        done = 0
        while done < n:
            left = buffers if done == 0 and len(buffers) <= IOV_MAX else _rest(buffers, done)
            try:
                put = os.pwritev(self._fd, left, off + done)
            except OSError as err:
                raise self._failed("write", off + done, err) from None
            if put == 0:
                raise DeviceError("device takes no more bytes", volume=self.name, offset=off + done)
            done += put

    def _flush(self) -> None:
        try:
            media.make_durable(self._fd)
        except OSError as err:
            raise self._failed("flush", None, err) from None

    def _discard(self, off: int, n: int) -> bool:
        try:
            return media.discard(self._fd, off, n)
        except OSError as err:
            raise self._failed("discard", off, err) from None

    def _will_need(self, off: int, n: int) -> None:
        if hasattr(os, "posix_fadvise"):
            try:
                os.posix_fadvise(self._fd, off, n, os.POSIX_FADV_WILLNEED)
            except OSError:  # a hint: a device that knows none reads as well without
                return

    def _extents(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        try:
            yield from data_extents(self._fd, begin, end)
        except OSError as err:
            raise self._failed("look for data", begin, err) from None

    def remake(self, size: int) -> None:
        """Drop all contents of a regular file and give it `size` bytes of zeros (a hole), under the lock it holds.

        Only for its first user, before anybody has taken note of its size.

        Raises:
            DeviceError: The host can't, or this is no regular file.
            ReadOnlyError: It was opened for reading.
        """
        self._check_write(0, 0)
        try:
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, size)
        except OSError as err:
            raise host_error(f"can't be made {size} bytes long", self.name, err) from None
        self.size = size

    def _close(self) -> None:
        os.close(self._fd)

    def _failed(self, what: str, off: int | None, err: OSError) -> DeviceError:
        return host_error(f"{what} failed", self.name, err, off)


class SectorDevice(FileDevice):
    """A raw disk device that moves whole sectors only (character devices of the BSDs).

    An access that is not aligned goes through a buffer of whole sectors. Two threads must not write into one sector at
    the same time; the file system writes aligned buffers of 16 KiB, so it never does.
    """

    def _preadv(self, off: int, views: Sequence[memoryview], n: int) -> None:
        if off % self.sector == 0 and all(view.nbytes % self.sector == 0 for view in views):
            super()._preadv(off, views, n)
            return
        begin, end = self._whole(off, n)
        whole = memoryview(bytearray(end - begin))
        super()._preadv(begin, (whole,), end - begin)
        at = off - begin
        for view in views:
            flat = view.cast("B")
            flat[:] = whole[at : at + flat.nbytes]
            at += flat.nbytes

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        return False

    def _pwritev(self, off: int, buffers: Sequence[Buffer], n: int) -> None:
        if off % self.sector == 0 and all(memoryview(b).nbytes % self.sector == 0 for b in buffers):
            super()._pwritev(off, buffers, n)
            return
        begin, end = self._whole(off, n)
        whole = memoryview(bytearray(end - begin))
        super()._preadv(begin, (whole,), end - begin)
        whole[off - begin : off - begin + n] = b"".join(buffers)
        super()._pwritev(begin, (whole,), end - begin)

    def _whole(self, off: int, n: int) -> tuple[int, int]:
        return off - off % self.sector, min(-(-(off + n) // self.sector) * self.sector, self.size)


def open_file(
    path: str | os.PathLike[str], *, readonly: bool = True, warn: Callable[[str], None] | None = None
) -> FileDevice:
    """Open a regular file or disk device.

    Args:
        path: Where it is.
        readonly: False claims it for writing, against everybody else.
        warn: Told when it is opened for reading while somebody writes to it; the answer may be a mixture of states.

    Raises:
        BusyError: It is claimed for writing by somebody else, or by this process.
        DeviceError: It can't be opened, or is neither a regular file nor a disk device.
    """
    name = os.fspath(path)
    try:
        mode = os.stat(name).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not media.IS_LINUX)):
            raise DeviceError("is neither a regular file nor a disk device", volume=name)
        is_block = stat.S_ISBLK(mode) and media.IS_LINUX
        flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC
        fd = lock.open_exclusive(name, flags) if is_block and not readonly else os.open(name, flags)
    except OSError as err:
        raise host_error("can't be opened", name, err) from None
    try:
        if not readonly and not is_block:
            lock.claim(fd, name)
        elif readonly and warn is not None and (lock.has_exclusive_opener(name) if is_block else lock.has_writer(fd)):
            warn(f"{name} is open for writing: what is read may be a mixture of states")
        return _wrap(fd, name, readonly=readonly)
    except BaseException:
        os.close(fd)
        raise


def _wrap(fd: int, name: str, *, readonly: bool) -> FileDevice:
    try:
        size = media.media_size(fd)
        sector = media.sector_size(fd)
        st = os.fstat(fd)
    except OSError as err:
        raise host_error("the host does not tell its size", name, err) from None
    kind = SectorDevice if stat.S_ISCHR(st.st_mode) else FileDevice
    return kind(fd, name, size, readonly=readonly, sector=sector, identity=identity_of(st))


def identity_of(st: os.stat_result) -> tuple[int, int, int]:
    """Equal for two names if and only if they mean the same file, or the same disk."""
    if stat.S_ISREG(st.st_mode):
        return 0, st.st_dev, st.st_ino
    return stat.S_IFMT(st.st_mode), st.st_rdev, 0


def host_error(what: str, name: str, err: OSError, off: int | None = None) -> DeviceError:
    """A failure of the host as an error of ours: its reason as text, its number as `errno`."""
    error = DeviceError(f"{what}: {err.strerror or err}", volume=name, offset=off)
    error.errno = err.errno or errno.EIO
    return error


def _rest(buffers: Sequence[Buffer], done: int) -> list[memoryview]:
    """The next IOV_MAX pieces of what follows the first `done` bytes."""
    left = []
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        if done >= view.nbytes:
            done -= view.nbytes
            continue
        left.append(view[done:])
        done = 0
        if len(left) == IOV_MAX:
            break
    return left
