"""Streams between mounted file systems that go on while programs write."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.mounts import PATIENCE_S, mount_in
from tests.fuse.rwlab import live, make_image, run_hammer
from tests.fuse.test_maint_mount import assert_copied
from tools.mirrorlink import RSH_VARIABLE

pytestmark = [pytest.mark.mount]


@contextmanager
def streaming(*words: object) -> Iterator[subprocess.Popen[str]]:
    """`hammer mirror-stream`, which tells of each round."""
    command = [sys.executable, "-m", "tools.cli", "-v", "-i", "0", "mirror-stream", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as stream:
        try:
            yield stream
        finally:
            stream.kill()


def next_round(stream: subprocess.Popen[str]) -> str:
    assert stream.stderr is not None
    line = stream.stderr.readline()
    assert line.startswith("hammer: mirror-stream: 0x"), line
    return line


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What leads to another host, which is this one."""
    script = tmp_path / "rsh"
    script.write_text(f'#!/bin/sh\neval "set -- $2"; shift\nexec {shlex.quote(sys.executable)} -m tools.cli "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv(RSH_VARIABLE, str(script))
    return "host:"


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_slave_follows(tmp_path: Path, remote: str, is_remote: bool) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    image, other = make_image(tmp_path), make_image(folder)
    with live(tmp_path, image) as source, live(folder, other) as target:
        master, slave = source.root / "m", target.root / "s"
        run_hammer("pfs-master", master)
        (master / "first").write_bytes(b"1" * 100_000)
        with streaming(master, f"{remote if is_remote else ''}{slave}") as stream:
            next_round(stream)
            assert_copied(master, slave)
            for name in ("second", "third"):
                (master / name).write_bytes(os.urandom(200_000))
                (master / "first").unlink(missing_ok=True)
                run_hammer("synctid", master)
                next_round(stream)
                assert_copied(master, slave)
            (source.root / "elsewhere").write_bytes(b"not in the PFS")
            run_hammer("synctid", source.root)
            stream.send_signal(signal.SIGINT)
            _, said = stream.communicate(timeout=PATIENCE_S)
            end = json.loads(run_hammer("--json", "pfs-status", slave))[0]["sync_end_tid"]
        assert stream.returncode == 130
        assert said == f"hammer: mirror-stream: interrupted by SIGINT; the slave is complete up to {end}\n"


def test_a_source_that_is_unmounted_ends_the_stream(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    image, other = make_image(tmp_path), make_image(folder)
    with live(folder, other) as target, mount_in(tmp_path, image, "rw") as source:
        run_hammer("pfs-master", source.root / "m")
        (source.root / "m" / "file").write_bytes(b"x" * 100_000)
        with streaming(source.root / "m", target.root / "s") as stream:
            next_round(stream)
            assert_copied(source.root / "m", target.root / "s")
            assert source.unmount() == 0
            _, said = stream.communicate(timeout=PATIENCE_S)
        assert stream.returncode == 1
        assert said == f"hammer: mirror-stream: the daemon of {source.root} has gone away\n"
        assert (target.root / "s" / "file").read_bytes() == b"x" * 100_000
