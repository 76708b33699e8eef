"""The volumes to be formatted: opened and claimed, checked for what must not be lost, made, or given up again."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hammerfs.const import BUFSIZE, MAX_VOLUMES
from hammerfs.device.base import Device
from hammerfs.device.file import FileDevice, host_error
from hammerfs.device.mounts import use_of
from hammerfs.device.open import open_devices, parse_spec
from hammerfs.errors import BusyError, ExistsError, InvalidError, NotFound, UsageError
from hammerfs.signatures import Found, find_signatures, kinds_text

NEW_FILE_MODE = 0o666


class Target:
    """One volume.

    Attributes:
        name: As the user wrote it.
        path: The file or disk it is on.
        is_new: Whether it is a file that has yet to be made.
        size: Bytes it has, or will have.
        found: Signatures of what it holds.
    """

    def __init__(self, name: str, size: int | None) -> None:
        self.name = name
        self.path = name if size is not None else parse_spec(name).path
        self.is_new = size is not None and not os.path.exists(name)
        self.size = size or 0
        self.found: list[Found] = []
        self.opened: Device | None = None

    @property
    def device(self) -> Device:
        """The open volume; only after it has been opened or made."""
        assert self.opened is not None, self.name
        return self.opened

    @property
    def kind(self) -> str:
        """DEVICE or REGFILE, as newfs_hammer(8) calls them."""
        return "REGFILE" if self.is_new or os.path.isfile(self.path) else "DEVICE"


class Targets:
    """All volumes of the file system to be, in order of their numbers.

    Entering checks and claims them without changing anything; `make` then makes and empties files. Leaving gives them
    back, and removes the files that were made unless `keep` has been called.

    Args:
        names: What the user wrote.
        size: Bytes of image files to be made (or made anew), or None for volumes that are there.
        force: Whether what they hold may be overwritten.
    """

    def __init__(self, names: Sequence[str], *, size: int | None, force: bool) -> None:
        if len(names) > MAX_VOLUMES:
            raise UsageError(f"{len(names)} volumes given: a file system has at most {MAX_VOLUMES}")
        self.all = [Target(name, size) for name in names]
        self._size = size
        self._force = force
        self._made: list[str] = []

    def __enter__(self) -> Self:
        try:
            for target in self.all:
                self._check_unused(target)
            there = [target for target in self.all if not target.is_new]
            if there:
                self._open(there)
            for target in there:
                self._check_contents(target)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in self._made:  # while their locks are held: nobody else has begun to use them
            Path(path).unlink(missing_ok=True)
        self._close()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each volume."""
        return tuple(target.size for target in self.all)

    @property
    def devices(self) -> list[Device]:
        """The volumes, by number."""
        return [target.device for target in self.all]

    def make(self) -> None:
        """Make the files that are not there, and give those that are to be made anew their size.

        Raises:
            HammerError: One can't be made. What was made so far is removed on leaving.
        """
        if self._size is None:
            return
        new = [target for target in self.all if target.is_new]
        for target in new:
            try:
                os.close(os.open(target.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_FILE_MODE))
            except FileExistsError:
                raise ExistsError("is there already, or named twice", volume=target.name) from None
            except OSError as err:
                raise host_error("can't be made", target.name, err) from None
            self._made.append(target.path)
        if new:
            self._open(new)
        for target in self.all:
            assert isinstance(target.device, FileDevice)
            target.device.remake(self._size)

    def keep(self) -> None:
        """The file system is complete: whatever happens from now on, files that were made stay."""
        self._made.clear()

    def _open(self, targets: Sequence[Target]) -> None:
        # a path object is one volume: a colon in its name separates nothing
        for target, device in zip(
            targets, open_devices([Path(target.name) for target in targets], readonly=False), strict=True
        ):
            target.opened = device
            if self._size is None:
                target.size = device.size

    def _check_unused(self, target: Target) -> None:
        if target.is_new:
            return
        try:
            mode = os.stat(target.path).st_mode
        except FileNotFoundError:
            raise NotFound("is not there; --size makes an image file", volume=target.name) from None
        except OSError as err:
            raise host_error("can't be opened", target.name, err) from None
        if self._size is not None and not stat.S_ISREG(mode):
            raise InvalidError("is no regular file: --size makes image files", volume=target.name)
        if self._size is not None and not self._force:
            raise ExistsError("is there already: leave --size out, or give -f to make it anew", volume=target.name)
        use = use_of(target.path)
        if use is not None:
            raise BusyError(f"{use}: it can't be formatted", volume=target.name)

    def _check_contents(self, target: Target) -> None:
        if target.device.sector > BUFSIZE:
            raise InvalidError(f"has sectors of {target.device.sector} bytes, over {BUFSIZE}", volume=target.name)
        target.found = find_signatures(target.device)
        if target.found and not self._force:
            raise ExistsError(f"holds {kinds_text(target.found)}: -f overwrites it", volume=target.name)

    def _close(self) -> None:
        for target in self.all:
            if target.opened is not None:
                target.opened.close()
