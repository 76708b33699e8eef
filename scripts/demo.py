"""`make demo`: the main job on a real image file, shown step by step; nothing is left mounted.

Formats an image, mounts it, writes, takes a snapshot, changes and deletes, browses the past, restores a file with plain
cp, unmounts and checks. Every command is printed as it is run, with what it says.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
PATIENCE_S = 60
PROMPT = "\x1b[1;32m$\x1b[0m" if sys.stdout.isatty() else "$"


def step(title: str) -> None:
    """Print a heading."""
    print(f"\n=== {title}", flush=True)


def show(command: str, cwd: Path, *, lines: int | None = None) -> str:
    """Run a shell command with this project's commands on its path, print it and what it says, cut to `lines`.

    Raises:
        CalledProcessError: It failed.
    """
    print(f"{PROMPT} {command}", flush=True)
    path = f"{BIN}:/usr/sbin:/sbin:{os.environ.get('PATH', '')}"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=cwd,
        env={**os.environ, "PATH": path, "TZ": "UTC"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    said = done.stdout.splitlines()
    for line in said[:lines]:
        print(line)
    if lines is not None and len(said) > lines:
        print(f"... {len(said) - lines} more lines")
    done.check_returncode()
    return done.stdout


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount disk.img on mnt; whatever happens, nothing stays mounted."""
    (folder / "mnt").mkdir()
    show("mount_hammer -o rw disk.img mnt", folder)
    unmount = "umount mnt" if os.geteuid() == 0 else "fusermount3 -u mnt"
    try:
        yield
        step("Unmount: everything that was written is on the media")
        show(unmount, folder)
    finally:
        if os.path.ismount(folder / "mnt"):
            subprocess.run(shlex.split(unmount), cwd=folder, check=False)
        _wait_for_daemon(folder / "disk.img")


def _wait_for_daemon(image: Path) -> None:
    """umount(2) returns before the daemon has ended: wait until it lets go of the image."""
    import fcntl

    deadline = time.monotonic() + PATIENCE_S
    with image.open("rb") as stream:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                return


def tour(folder: Path) -> None:
    """The demonstration, in an empty folder."""
    step("Format an image: a HAMMER volume as DragonFly's newfs_hammer makes it")
    show("newfs_hammer -f -u 8m -L DEMO --size 512m --quiet disk.img && hammer -f disk.img info", folder, lines=6)

    step("Mount it, and write")
    with mounted(folder):
        show(
            "mkdir mnt/letters && echo 'Dear Ann,' > mnt/letters/ann && cp -r /usr/share/doc/mount mnt/doc || true",
            folder,
        )
        show("echo 'the first draft' > mnt/thesis && ls -l mnt", folder)

        step("A snapshot, and then life goes on")
        show("hammer snapq mnt 'before the edit'", folder)
        show("echo 'the second draft, much worse' > mnt/thesis && rm -r mnt/letters && hammer synctid mnt", folder)
        show("cat mnt/thesis; ls mnt", folder)

        step("The past is a directory: by snapshot, by time, by version")
        show("hammer snapls mnt", folder)
        show("ls mnt/.hammer mnt/.hammer/snapshots", folder)
        show("cat 'mnt/.hammer/snapshots/before the edit/thesis'", folder)
        show("ls mnt/thesis@@/", folder)
        show("diff -r 'mnt/.hammer/snapshots/before the edit' mnt || true", folder)

        step("Restore what was deleted, with plain cp")
        show("cp -r 'mnt/.hammer/snapshots/before the edit/letters' mnt/ && cat mnt/letters/ann", folder)

    step("Check every structure and every checksum")
    show("fsck.hammer -n --data disk.img", folder)

    step("The image can be read without a mount as well, at any point of its history")
    show("hammer -f disk.img ls -l --asof 'before the edit' /letters", folder)
    show("hammer -f disk.img history /thesis", folder)

    step("The kernel below: two threads, one token, two CPUs")
    show("python -m kernelcore sim token --seed 3", folder, lines=12)


def main() -> int:
    """Run the demonstration; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="hammerfs-demo-") as folder:
        try:
            tour(Path(folder))
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as err:
            print(f"demo: {err}", file=sys.stderr)
            return 1
    print("\nThat was it. Nothing is left mounted, the image is gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
