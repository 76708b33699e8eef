"""Everyday programs on a mount: the right answers, no wandering into the past, nothing left behind when they die."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuse.mounts import Mount, Mounter, command
from tests.golden import GoldenStore
from tests.imagetools.disks import disklabel64, mbr

pytestmark = [pytest.mark.golden, pytest.mark.mount]


def run(*args: object) -> str:
    done = subprocess.run([str(arg) for arg in args], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def history(golden: GoldenStore, mounted: Mounter) -> Iterator[Mount]:
    with mounted(golden["history"].spec, "ro") as mount:
        yield mount


@pytest.fixture
def basic(golden: GoldenStore, mounted: Mounter) -> Iterator[Mount]:
    with mounted(golden["basic-v7"].spec, "ro") as mount:
        yield mount


def paths(golden: GoldenStore, name: str) -> set[str]:
    return {entry["path"] for entry in golden[name].manifest["trees"]["/"]}


def test_find_and_ls(golden: GoldenStore, basic: Mount) -> None:
    want = paths(golden, "basic-v7")
    found = {line[1:] or "/" for line in _find(basic.root)}
    assert found == want
    listing = run("ls", "-lR", basic.root)
    assert listing.count("\ntotal ") + listing.startswith("total ") == sum(
        entry["type"] == "dir" for entry in golden["basic-v7"].manifest["trees"]["/"]
    )
    assert ".hammer" not in listing


def _find(root: Path) -> list[str]:
    done = subprocess.run(["find", ".", "-print0"], cwd=root, check=True, capture_output=True, timeout=120)
    assert done.stderr == b""
    return [name.decode("utf-8", "backslashreplace") for name in done.stdout.split(b"\0") if name]


def test_find_with_snapshots_in_sight_ends(golden: GoldenStore, mounted: Mounter) -> None:
    with mounted(golden["snapshots"].spec, "ro,snapdir=visible") as mount:
        done = subprocess.run(["find", mount.root], capture_output=True, text=True, timeout=120, check=True)
        assert "loop" not in done.stderr
        assert f"{mount.root}/.hammer/snapshots/first" in done.stdout.splitlines()


def test_tar_out(history: Mount, tmp_path: Path) -> None:
    archive = tmp_path / "all.tar"
    run("tar", "-cf", archive, "-C", history.root, ".")
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile()]
        for member in members:
            body = tar.extractfile(member)
            assert body is not None
            assert body.read() == (history.root / member.name).read_bytes()
    assert len(members) == sum(path.is_file() and not path.is_symlink() for path in history.root.rglob("*"))


def test_copying_everything_out(history: Mount, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if shutil.which("rsync") is None:
        run("cp", "-a", history.root, out)
    else:
        run("rsync", "-a", f"{history.root}/", f"{out}/")
        assert run("rsync", "-anci", f"{history.root}/", f"{out}/") == ""
    assert run("diff", "-r", "--no-dereference", history.root, out) == ""
    for path in history.root.rglob("*"):
        copied, found = out.joinpath(path.relative_to(history.root)).lstat(), path.lstat()
        assert (copied.st_mode, copied.st_mtime_ns) == (found.st_mode, found.st_mtime_ns)


def test_copy_keeps_holes_and_times(basic: Mount, tmp_path: Path) -> None:
    for source in (path for path in basic.root.rglob("*") if path.is_file() and not path.is_symlink()):
        found = source.stat()
        if found.st_size > 1 << 20 and found.st_blocks * 512 < found.st_size // 2 and found.st_size < 1 << 30:
            run("cp", "-p", "--sparse=auto", source, tmp_path / "copy")
            copied = (tmp_path / "copy").stat()
            assert (copied.st_size, copied.st_mtime_ns) == (found.st_size, found.st_mtime_ns)
            assert filecmp.cmp(source, tmp_path / "copy", shallow=False)
            return
    raise AssertionError("the image holds no sparse file")


def test_du_counts_what_is_there(basic: Mount) -> None:
    paths = (os.path.join(top, name) for top, dirs, files in os.walk(basic.root) for name in (*dirs, *files))
    units = {(s.st_ino): s.st_blocks for s in map(os.lstat, paths)}
    assert int(run("du", "-s", "--block-size=512", basic.root).split()[0]) == sum(units.values())


def test_grep(history: Mount) -> None:
    some = next(path for path in sorted(history.root.rglob("*")) if path.is_file() and path.stat().st_size > 8)
    word = hashlib.sha256(some.read_bytes()).hexdigest()
    done = subprocess.run(["grep", "-r", word, history.root], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert run("grep", "-rlc", "", some) != ""


def test_diff_of_two_moments(golden: GoldenStore, history: Mount) -> None:
    recorded = golden["history"].manifest["trees"]
    first, last = (root for i, root in enumerate(sorted(r for r in recorded if "@@0x" in r)) if i in {0, 1})
    done = subprocess.run(
        ["diff", "-rq", "--no-dereference", history.root / first.strip("/"), history.root / last.strip("/")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr
    before = {e["path"]: e.get("sha256") for e in recorded[first] if e["type"] == "file"}
    after = {e["path"]: e.get("sha256") for e in recorded[last] if e["type"] == "file"}
    assert done.stdout.count(" differ\n") == sum(before[path] != after[path] for path in before.keys() & after.keys())


def test_diff_of_two_days_by_time(history: Mount) -> None:
    by_time = history.root / ".hammer" / "by-time"
    moments = [
        day / name for day in map(by_time.joinpath, sorted(os.listdir(by_time))) for name in sorted(os.listdir(day))
    ]
    assert len(moments) > 2
    same = subprocess.run(["diff", "-r", moments[-1], moments[-1]], capture_output=True, timeout=120, check=False)
    assert (same.returncode, same.stderr) == (0, b"")
    other = subprocess.run(["diff", "-rq", moments[0], moments[-1]], capture_output=True, timeout=120, check=False)
    assert other.returncode == 1


def test_stat_and_globs_of_names_in_the_past(golden: GoldenStore, history: Mount) -> None:
    image = golden["history"].manifest
    root = next(root for root in sorted(image["trees"]) if "@@0x" in root)
    now = {entry["path"]: entry["ino"] for entry in image["trees"]["/"]}
    then = {entry["path"]: entry["ino"] for entry in image["trees"][root]}
    files = [
        entry
        for entry in image["trees"][root]
        if entry["type"] == "file" and now.get(directory := os.path.dirname(entry["path"])) == then[directory]
    ]
    assert files
    for entry in files[:50]:
        name = entry["path"].lstrip("/") + root.strip("/")
        assert int(run("stat", "-c", "%s", history.root / name)) == entry["size"]
    globbed = ["sh", "-c", f"echo {root.strip('/')}/*"]
    out = subprocess.run(globbed, cwd=history.root, capture_output=True, text=True, check=True)
    assert len(out.stdout.split()) == sum(entry["path"].count("/") == 1 for entry in image["trees"][root]) - 1
    virtual = subprocess.run(["sh", "-c", "ls -d *@@*"], cwd=history.root, capture_output=True, check=False)
    assert virtual.returncode != 0


def test_fifty_readers(golden: GoldenStore, basic: Mount) -> None:
    files = [e for e in golden["basic-v7"].manifest["trees"]["/"] if e["type"] == "file" and e["size"] < 1 << 20][:200]

    def read(turn: int) -> list[str]:
        order = files[turn * 7 % len(files) :] + files[: turn * 7 % len(files)]
        return [
            entry["path"]
            for entry in order
            if hashlib.sha256((basic.root / entry["path"].lstrip("/")).read_bytes()).hexdigest() != entry["sha256"]
        ]

    with ThreadPoolExecutor(50) as pool:
        assert not [wrong for found in pool.map(read, range(50)) for wrong in found]


def test_a_reader_that_is_killed(basic: Mount) -> None:
    for _ in range(3):
        reader = subprocess.Popen(["grep", "-r", "no such words", str(basic.root)], stdout=subprocess.DEVNULL)
        time.sleep(0.05)
        reader.kill()
        reader.wait()
    assert os.listdir(basic.root)


def test_unmount_while_busy(basic: Mount) -> None:
    with next(path for path in basic.root.rglob("*") if path.is_file()).open("rb"):
        refused = subprocess.run(["umount", str(basic.root)], capture_output=True, text=True, check=False)
        assert refused.returncode != 0
        assert "busy" in refused.stderr
        assert basic.daemon.poll() is None
        assert os.listdir(basic.root)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_mount(golden: GoldenStore, mounted: Mounter, number: signal.Signals) -> None:
    with mounted(golden["history"].spec, "ro", quiet=False) as mount:
        os.listdir(mount.root)
        mount.daemon.send_signal(number)
        assert mount.daemon.wait(30) == 0
        assert not os.path.ismount(mount.root)
        assert mount.said() == f"mount_hammer: ended by {number.name}\n"


def test_a_killed_daemon_is_explained_at_the_next_mount(golden: GoldenStore, mounted: Mounter) -> None:
    spec = golden["history"].spec
    with mounted(spec, "ro") as mount:
        mount.daemon.kill()
        mount.daemon.wait()
        with pytest.raises(OSError, match="not connected"):
            os.listdir(mount.root)
        again = subprocess.run(command("-o", "ro", spec, mount.root), capture_output=True, text=True, check=False)
        assert again.returncode == 32
        assert "has died" in again.stderr
        assert again.stderr.count("\n") == 1


def test_in_the_background(golden: GoldenStore, tmp_path: Path) -> None:
    spec = golden["history"].spec
    root = tmp_path / "mnt"
    root.mkdir()
    done = subprocess.run(command("-o", "ro", spec, root), capture_output=True, text=True, timeout=60, check=False)
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert os.path.ismount(root)
        assert os.listdir(root)
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_volume_in_a_slice_of_a_disk(golden: GoldenStore, mounted: Mounter, tmp_path: Path) -> None:
    source = golden["fresh-min-u8m"].volumes[0]
    begin, size = 2 << 20, source.stat().st_size
    head = bytearray(begin)
    mbr(head, [(0xA5, 2048, (begin + size - (1 << 20)) // 512)])
    disklabel64(head, 1 << 20, begin + size - (1 << 20), {"d": (1 << 20, size)})
    disk = tmp_path / "disk.img"
    disk.write_bytes(head + source.read_bytes())
    for part in ("s1d", "d", "offset=2m"):
        with mounted(f"{disk}@{part}") as mount:
            assert os.stat(mount.root).st_ino == 1
            assert f"{disk}@{part} {mount.root} fuse.hammer ro" in Path("/proc/mounts").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "code", "what"),
    [
        ("ro,shiny", 1, "unknown mount option 'shiny'"),
        ("norecovery", 1, "norecovery needs ro"),
        ("ro,pfs=77", 32, "PFS 77 does not exist"),
        ("ro,asof=yesterday", 32, "'yesterday' is no TID"),
        ("ro,uid=me", 1, "'me' is no id"),
        ("ro,cache=1k", 1, "too little"),
    ],
)
def test_what_can_not_be_mounted(golden: GoldenStore, tmp_path: Path, options: str, code: int, what: str) -> None:
    args = command("-o", options, golden["history"].spec, tmp_path)
    done = subprocess.run(args, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert what in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("mount_hammer: ")


def test_wrong_places(golden: GoldenStore, tmp_path: Path) -> None:
    spec = golden["history"].spec
    file = tmp_path / "file"
    file.write_bytes(b"")
    for volume, place, what in (
        (spec, file, "not a directory"),
        (spec, tmp_path / "none", "No such file"),
        (file, tmp_path, "file"),
        (tmp_path / "none", tmp_path, "none"),
    ):
        done = subprocess.run(
            command("-o", "ro", volume, place), capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr.count("\n")) == (32, 1), done.stderr
        assert what in done.stderr
