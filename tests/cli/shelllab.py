"""A shell on a terminal of its own that completes: keys go in, and a stand-in for the command tells what it got."""

from __future__ import annotations

import os
import pty
import select
import signal
import stat
import time
from pathlib import Path

PATIENCE_S = 60
READY = b"<ready>"
STAND_IN = """#!/bin/sh
if [ "$1" = completion ]; then cat "{folder}/words"; exit; fi
for word in "$@"; do printf '%s\\0' "$word"; done >"{folder}/given.new"
mv "{folder}/given.new" "{folder}/given"
"""
"""Answers the shell's questions from a file, and writes down its arguments when it is called otherwise."""


class Shell:
    """An interactive shell with the completions loaded.

    Args:
        argv: How it is started.
        setup: What it is told first.
        folder: Where it works, with the stand-in in `bin`.
        commands: What the stand-in is called.
    """

    def __init__(self, argv: list[str], setup: str, folder: Path, commands: tuple[str, ...] = ("hammer",)) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name in commands:
            stand_in = folder / "bin" / name
            stand_in.write_text(STAND_IN.format(folder=folder), encoding="utf-8")
            stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
        self.offer()
        env = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(folder))
        env |= {"TERM": "dumb", "LC_ALL": "C.UTF-8", "PATH": f"{folder}/bin:{os.environ['PATH']}"}
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.execvpe(argv[0], argv, env)
        self._seen = b""
        self.type(f"{setup}\nprintf '<%s>' ready\n".encode())
        self._until(READY)

    def offer(self, *words: str) -> None:
        """What the file system knows from now on."""
        (self.folder / "words").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._terminal, keys)

    def given(self, keys: str) -> list[str]:
        """The arguments the command gets when these keys are pressed, and then Return."""
        result = self.folder / "given"
        result.unlink(missing_ok=True)
        self.type(keys.encode() + b"\r")
        deadline = time.monotonic() + PATIENCE_S
        while not result.exists():
            assert time.monotonic() < deadline, self._seen[-2000:]
            self._read(0.02)
        return os.fsdecode(result.read_bytes()).split("\0")[:-1]

    def close(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)

    def _until(self, text: bytes) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self._seen:
            assert time.monotonic() < deadline, self._seen[-2000:]
            self._read(1)

    def _read(self, seconds: float) -> None:
        """Take what it writes, so that it never waits for its terminal."""
        if select.select([self._terminal], [], [], seconds)[0]:
            self._seen += os.read(self._terminal, 1 << 16)
