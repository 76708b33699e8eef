"""The other end of a mirror exchange: bytes to it and from it, on pipes or through ssh, without ever waiting in vain.

Every wait ends when the bytes come, the other end goes away, a signal arrives, or the time that was given is over. So
nothing here blocks: descriptors are asked first, and no write is larger than what a pipe that has room takes at once.
"""

from __future__ import annotations

import itertools
import os
import select
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from hammerfs.errors import HammerError, UsageError
from tools.output import safe_line
from tools.stop import Stop

RSH_VARIABLE = "HAMMER_RSH"
"""Names the command that takes a host and a command line instead of ssh."""
_SSH = ("ssh", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=4")
"""A network that has gone away is noticed within two minutes."""
_ATOMIC = 4096
"""Bytes a pipe that is ready for writing takes without waiting, on every host."""
_READ = 1 << 16
_PATIENCE_S = 10.0
"""How long a program that has closed its pipes may take to end."""


class Program:
    """A program that runs at the other end; what it says on its standard error is passed on.

    The last line is kept back: it is the reason should the program fail.

    Args:
        name: What it is called in messages.
        words: Its command line.
        fds: Its standard input and output, which this process gives away.
        say: Takes what it says.
    """

    def __init__(self, name: str, words: Sequence[str], fds: tuple[int, int], say: Callable[[str], None]) -> None:
        self.name = name
        self._say = say
        self._held = ""
        self._part = b""
        try:
            self._process = subprocess.Popen(words, stdin=fds[0], stdout=fds[1], stderr=subprocess.PIPE, bufsize=0)
        except OSError as err:
            raise UsageError(f"{words[0]}: {err.strerror}") from None
        finally:
            for fd in fds:
                os.close(fd)
        assert self._process.stderr is not None
        self._stderr = self._process.stderr
        self.listens = True
        """Whether it may still say something."""

    @property
    def stderr(self) -> int:
        """The descriptor on which it says something."""
        return self._stderr.fileno()

    def hear(self) -> None:
        """Take what it says now."""
        got = os.read(self.stderr, _READ)
        self.listens = bool(got)
        *lines, self._part = (self._part + got).split(b"\n")
        if not got and self._part:
            lines.append(self._part)
        for line in filter(None, (safe_line(line.decode("utf-8", "surrogateescape").strip()) for line in lines)):
            if self._held:
                self._say(f"{self.name}: {self._held}")
            self._held = line.removeprefix("hammer: ")

    def failure(self) -> HammerError:
        """Why it has gone away: what it said last, or how it ended."""
        code = self._ended()
        return HammerError(f"{self.name}: {self._held or f'the other end has gone away (exit code {code})'}")

    def finish(self) -> None:
        """See it end well.

        Raises:
            HammerError: It does not.
        """
        if self._ended():
            raise self.failure()
        if self._held:
            self._say(f"{self.name}: {self._held}")

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.terminate()
            self._ended()
        self._stderr.close()

    def _ended(self) -> int:
        """Its exit code, once it has ended; it is made to if it takes too long."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.listens and select.select([self.stderr], [], [], max(deadline - time.monotonic(), 0))[0]:
            self.hear()
        try:
            return self._process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class Link:
    """Bytes to the other end, and from it.

    Args:
        name: What it is called in messages.
        stop: What ends every wait.
        rfd: Where bytes come from.
        wfd: Where they go.
        program: What runs there, if this process has started it.
    """

    def __init__(self, name: str, stop: Stop, rfd: int | None, wfd: int | None, program: Program | None = None) -> None:
        self.name = name
        self._stop = stop
        self._rfd = rfd
        self._wfd = wfd
        self._program = program
        self._got = b""

    def read(self, nbytes: int = -1, /) -> bytes:
        """Up to so many bytes; none when the other end has closed.

        Raises:
            Stopped: A signal has come, or the time is over.
            HammerError: The host fails.
        """
        assert self._rfd is not None
        if not self._got:
            self._wait(self._rfd, select.POLLIN)
            try:
                self._got = os.read(self._rfd, _READ)
            except ConnectionResetError:
                return b""
            except OSError as err:
                raise HammerError(f"{self.name}: {err.strerror}") from None
        if nbytes < 0:
            nbytes = len(self._got)
        data, self._got = self._got[:nbytes], self._got[nbytes:]
        return data

    def write(self, data: bytes, /) -> int:
        """Write all of it.

        Raises:
            Stopped: A signal has come, or the time is over.
            HammerError: The other end has gone away, or the host fails.
        """
        assert self._wfd is not None
        left = memoryview(data)
        while left:
            self._wait(self._wfd, select.POLLOUT)
            try:
                left = left[os.write(self._wfd, left[:_ATOMIC]) :]
            except (BrokenPipeError, ConnectionResetError):
                raise self.gone() from None
            except OSError as err:
                raise HammerError(f"{self.name}: {err.strerror}") from None
        return len(data)

    def gone(self) -> HammerError:
        """What to tell when the other end has closed though it should not have."""
        if self._program is not None:
            return self._program.failure()
        return HammerError(f"{self.name}: the other end has gone away")

    def pause(self, seconds: float) -> bool:
        """Wait for a while, or until the other end says something; whether it does.

        Raises:
            Stopped: A signal has come, or the time is over.
            HammerError: The other end has gone away.
        """
        deadline = time.monotonic() + seconds
        fds = {} if self._rfd is None else {self._rfd: select.POLLIN}
        while not self._got:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._rfd in self._poll(fds, left):
                self._got = self.read()
                if not self._got:
                    raise self.gone()
        return True

    def _wait(self, fd: int, events: int) -> None:
        while fd not in self._poll({fd: events}):
            continue

    def _poll(self, wanted: dict[int, int], seconds: float | None = None) -> dict[int, int]:
        program = self._program
        if program is not None and program.listens:
            wanted = {**wanted, program.stderr: select.POLLIN}
        ready = self._stop.wait(wanted, seconds)
        if program is not None and ready.pop(program.stderr, 0):
            program.hear()
        return ready


class Remote(NamedTuple):
    """``[USER@]HOST:PATH``."""

    host: str
    path: str


def parse_remote(text: str) -> Remote | None:
    """The host and path of ``[USER@]HOST:PATH``; None for a path here: one without a colon before the first slash.

    Raises:
        UsageError: The host can't be one.
    """
    host, colon, path = text.partition(":")
    if not colon or "/" in host:
        return None
    if not host or host.startswith("-") or not path:
        raise UsageError(f"'{text}' is no [USER@]HOST:PATH")
    return Remote(host, path)


def remote_command(host: str, options: Sequence[str], words: Sequence[str]) -> list[str]:
    """The command line that runs hammer(8) on a host.

    Args:
        host: With the user, if need be.
        options: For ssh.
        words: For hammer.
    """
    given = os.environ.get(RSH_VARIABLE, "")
    try:
        shell = shlex.split(given) or list(_SSH)
    except ValueError as err:
        raise UsageError(f"{RSH_VARIABLE}: {err}") from None
    return [*shell, *options, host, shlex.join(["hammer", *words])]


@contextmanager
def linked(name: str, words: Sequence[str], stop: Stop, say: Callable[[str], None]) -> Iterator[tuple[Link, Program]]:
    """Run a program and talk to it; it ends with this at the latest.

    Raises:
        UsageError: It can't be started.
    """
    with _pipes() as (to_us, from_us):
        program = Program(name, words, (from_us.pop(0), to_us.pop()), say)
        try:
            yield Link(name, stop, to_us[0], from_us[0], program), program
        finally:
            program.close()


def join(programs: Sequence[tuple[str, Sequence[str]]], stop: Stop, say: Callable[[str], None]) -> None:
    """Run two programs that talk to each other, until both have ended.

    Args:
        programs: Name and command line of each.
        stop: What ends them early.
        say: Takes what they say.

    Raises:
        Stopped: They were ended.
        HammerError: One failed.
    """
    running: list[Program] = []
    try:
        with _pipes() as (left, right):
            for (name, words), (back, forth) in zip(programs, ((left, right), (right, left)), strict=True):
                running.append(Program(name, words, (back.pop(0), forth.pop()), say))
        ended: list[Program] = []
        while wanted := {one.stderr: one for one in running if one.listens}:
            for fd in stop.wait(dict.fromkeys(wanted, select.POLLIN)):
                wanted[fd].hear()
            ended += [one for one in running if not one.listens and one not in ended]
        for one in ended:  # what fails first is the reason why the other one fails
            one.finish()
    finally:
        for one in running:
            one.close()


@contextmanager
def _pipes() -> Iterator[tuple[list[int], list[int]]]:
    """Two pipes: what is still in their lists in the end is closed then."""
    pipes = list(os.pipe()), list(os.pipe())
    try:
        yield pipes
    finally:
        for fd in itertools.chain(*pipes):
            os.close(fd)
