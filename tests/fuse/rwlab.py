"""Read-write mounts for tests: fresh images, what a tree holds, and the check every such test ends with."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mkfs.cli import main as newfs
from tests.fuse.mounts import Mount, mount_in
from tools.cli import main as hammer
from tools.fsck.cli import main as fsck
from tools.undo import main as undo

PATIENCE_S = 240
HASHED = 64 << 20
"""Bytes of a file that are compared: the holes of huge ones would take for ever."""


class Entry(NamedTuple):
    """What must survive a remount of one object."""

    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_ns: int
    ctime_ns: int
    contents: str


def make_image(folder: Path, name: str = "disk.img", size: str = "512m") -> Path:
    """A freshly formatted image."""
    image = folder / name
    with contextlib.redirect_stdout(io.StringIO()):
        assert newfs(["-f", "-u", "8m", "-L", "T", "--size", size, "--quiet", str(image)]) == 0
    return image


def check(image: Path) -> None:
    """Every structure and every checksum of an image is right."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = fsck(["-n", "--data", str(image)])
    assert code == 0, out.getvalue()


def tree_of(root: Path) -> dict[str, Entry]:
    """Everything below a directory, by its path there."""
    found = {".": _entry(root)}
    for folder, dirs, files in os.walk(root):
        for name in (*dirs, *files):
            path = Path(folder, name)
            found[str(path.relative_to(root))] = _entry(path)
    return found


def difference(before: dict[str, Entry], after: dict[str, Entry]) -> dict[str, tuple[Entry | None, Entry | None]]:
    """What of two trees is not the same."""
    both = before.keys() | after.keys()
    return {path: (before.get(path), after.get(path)) for path in both if before.get(path) != after.get(path)}


def _entry(path: Path) -> Entry:
    st = path.lstat()
    contents = ""
    if stat.S_ISREG(st.st_mode):
        contents = digest(path)
    elif stat.S_ISLNK(st.st_mode):
        contents = os.readlink(path)
    times = st.st_mtime_ns, st.st_ctime_ns
    return Entry(st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size, *times, contents)


def digest(path: Path) -> str:
    """SHA-256 of a file's contents."""
    found, left = hashlib.sha256(), HASHED
    with path.open("rb") as stream:
        while left > 0 and (data := stream.read(min(left, 1 << 20))):
            found.update(data)
            left -= len(data)
    return found.hexdigest()


@contextlib.contextmanager
def live(folder: Path, image: Path, options: str = "rw", *, quiet: bool = True) -> Iterator[Mount]:
    """A read-write mount; in the end it is unmounted, the image checked, and a remount shows the same tree."""
    with mount_in(folder, image, options, quiet=quiet) as mount:
        yield mount
        before = tree_of(mount.root)
    check(image)
    with mount_in(folder, image, "ro") as again:
        changed = difference(before, tree_of(again.root))
    assert not changed, changed


def run(*args: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a program prints; it must succeed."""
    done = subprocess.run(
        [str(arg) for arg in args],
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
    return done.stdout


def run_hammer(*args: object, code: int = 0) -> str:
    """What `hammer` prints, on stderr when it is to fail."""
    return _printed(hammer, args, code)


def run_undo(*args: object, code: int = 0) -> str:
    """What `undo` prints, on stderr when it is to fail."""
    return _printed(undo, args, code)


def _printed(main: Callable[[list[str]], int], args: Sequence[object], code: int) -> str:
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([str(arg) for arg in args]) == code, err.getvalue()
    out.seek(0)
    return err.getvalue() if code else out.read()
