"""`newfs_hammer`: what it writes and prints, its options, reproducibility, and how it ends when it can't go on."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hammerfs.const import BIGBLOCK_SIZE, BUFSIZE
from hammerfs.device.faulty import Journal, RecordingDevice, crash_images
from hammerfs.device.file import open_file
from hammerfs.device.overlay import memory_device
from hammerfs.errors import VolumeSetError
from hammerfs.fs import HammerFS
from hammerfs.ondisk.volume import VolumeOndisk
from hammerfs.signatures import find_signatures, wipe
from hammerfs.volumes import Volumes
from mkfs.cli import main
from mkfs.layout import Params, plan
from mkfs.options import build_parser
from mkfs.write import write_layout
from tests.format.test_newfs_layout import recorded_params
from tests.golden import GoldenStore, golden_names
from tools.cli import main as hammer
from tools.fstyp import main as fstyp

MIB = 1 << 20
UUID = "01234567-89ab-cdef-0123-456789abcdef"
SMALL = ["-f", "-u", "8m", "-L", "T"]
Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sparse(name: str, size: int) -> Path:
    path = Path(name)
    with path.open("wb") as stream:
        stream.truncate(size)
    return path


def header(path: str | Path) -> VolumeOndisk:
    with open_file(path) as device:
        return VolumeOndisk.decode(device.pread(0, 2048))


def data_bytes(path: Path) -> int:
    with open_file(path) as device:
        return sum(end - begin for begin, end in device.extents(0, device.size))


def equal_files(one: Path, other: Path) -> bool:
    with one.open("rb") as a, other.open("rb") as b:
        while True:
            left, right = a.read(4 * MIB), b.read(4 * MIB)
            if left != right:
                return False
            if not left:
                return True


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names("fresh-"))
def test_golden_command_lines(golden: GoldenStore, name: str, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    """The recorded command, run at the recorded time with the recorded uuid: same bytes, same words, no more space."""
    image = golden[name]
    command, printed = image.text("cmd"), image.text("newfs")
    assert command is not None
    assert printed is not None
    params = recorded_params(image)
    words = shlex.split(command.splitlines()[0])[1:]
    volumes = words[-len(image.volumes) :]
    for volume, path in zip(volumes, image.volumes, strict=True):
        sparse(volume, path.stat().st_size)
    monkeypatch.setattr(time, "time_ns", lambda: params.now_us * 1000)
    assert main([*words, "--uuid", str(params.fsid)]) == 0
    for volume, path in zip(volumes, image.volumes, strict=True):
        assert equal_files(Path(volume), path)
        assert data_bytes(Path(volume)) <= data_bytes(path)
    out, err = capsys.readouterr()
    # which version the kernel knows is asked by DragonFly's program only
    assert err + out == "".join(line for line in printed.splitlines(keepends=True) if "VFS not loaded" not in line)


@pytest.mark.parametrize("version", range(1, 8))
def test_what_is_made_can_be_used(version: int, capsys: Out) -> None:
    assert main([*SMALL, "-V", str(version), "--size", "64m", "a.img"]) == 0
    with HammerFS.open("a.img") as fs:
        assert fs.volumes.version == version
        assert fs.volumes.superblock.label == b"T"
        assert list(fs.readdir(fs.root())) == []
    capsys.readouterr()
    assert fstyp(["-l", "a.img"]) == 0
    assert capsys.readouterr().out == "hammer T\n"
    assert hammer(["-f", "a.img", "checkmap"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("0 errors\n")
    assert "(correct)" in text
    assert "(bad)" not in text


def test_several_volumes(capsys: Out) -> None:
    names = ["v0", "v1", "v2", "name:with:colons"]
    assert main([*SMALL, "--size", "64m", *names]) == 0
    heads = [header(name) for name in names]
    assert [head.vol_no for head in heads] == [0, 1, 2, 3]
    assert {(head.vol_fsid, head.vol_count) for head in heads} == {(heads[0].vol_fsid, 4)}
    capsys.readouterr()
    assert hammer(["-f", ":".join(names[:3]), "-f", names[3], "checkmap"]) == 0
    assert capsys.readouterr().out.endswith("0 errors\n")


def test_the_largest_volume(capsys: Out) -> None:
    """Four pebibytes: all 1024 layer-2 tables of it."""
    assert main(["-L", "T", "--size", "4096t", "--dry-run", "--json", "a.img"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["undo_size"] == 1 << 30
    assert report["preallocated"] == (1 + 1024 + 128) * BIGBLOCK_SIZE
    # what the areas in front take is missing from the last table
    assert report["bigblocks"]["usable"] == (1 << 29) - 1 - 1 - 1024 - 128


def test_as_many_volumes_as_there_can_be(capsys: Out) -> None:
    names = [f"v{i}" for i in range(256)]
    assert main([*SMALL, "--size", "64m", "--dry-run", *names]) == 0
    assert "256 volumes total size  16.00GB" in capsys.readouterr().out
    assert main([*SMALL, "--size", "64m", "--dry-run", *names, "v256"]) == 2
    assert capsys.readouterr().err == "newfs_hammer: 257 volumes given: a file system has at most 256\n"
    assert os.listdir(".") == []


def test_areas_and_fifo(capsys: Out) -> None:
    assert main(["-f", "-L", "areas", "-b", "64K", "-m", "1M", "-u", "10m", "--size", "96m", "a.img"]) == 0
    head = header("a.img")
    assert head.vol_mem_beg - head.vol_bot_beg == 64 << 10
    assert head.vol_buf_beg - head.vol_mem_beg == MIB
    out, err = capsys.readouterr()
    assert "boot-area-size:       64.00KB\nmemory-log-size:       1.00MB\nundo-buffer-size:     16.00MB\n" in out
    assert err.startswith("newfs_hammer: WARNING: You have specified an UNDO/REDO FIFO size less than   0.50GB")


def test_default_sizes_of_a_large_image(capsys: Out) -> None:
    """Ten gigabytes need no -f; the image is a hole but for the FIFO and the freemap."""
    assert main(["-L", "big", "--size", "10G", "big.img"]) == 0
    assert "undo-buffer-size:      0.50GB" in capsys.readouterr().out
    st = Path("big.img").stat()
    assert st.st_size == 10 << 30
    assert 512 * MIB <= st.st_blocks * 512 <= 512 * MIB + 3 * BIGBLOCK_SIZE
    os.unlink("big.img")


def test_time_and_uuid_make_it_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name in ("a.img", "b.img"):
        assert main([*SMALL, "--uuid", UUID, "--size", "41m", "--quiet", name]) == 0
    assert equal_files(Path("a.img"), Path("b.img"))
    assert header("a.img").fsid == uuid.UUID(UUID)
    with HammerFS.open("a.img") as fs:
        assert fs.root().data.ctime == 1_700_000_000_000_000
    assert main([*SMALL, "--size", "41m", "--quiet", "c.img"]) == 0
    assert header("c.img").vol_fsid != header("a.img").vol_fsid


@pytest.mark.parametrize("epoch", ["", "yesterday", "-1", "1.5", "4294967296", "\u0663"])
def test_bad_source_date_epoch(epoch: str, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert main([*SMALL, "--size", "41m", "a.img"]) == 2
    assert capsys.readouterr().err.startswith(f"newfs_hammer: SOURCE_DATE_EPOCH is '{epoch}'")
    assert not Path("a.img").exists()


def test_dry_run_writes_nothing(capsys: Out) -> None:
    path = sparse("old.img", 64 * MIB)
    before = path.stat()
    assert main([*SMALL, "--dry-run", "old.img"]) == 0
    dry = capsys.readouterr().out
    after = path.stat()
    assert (after.st_mtime_ns, after.st_blocks) == (before.st_mtime_ns, before.st_blocks)
    assert main([*SMALL, "--size", "64m", "--dry-run", "new.img"]) == 0
    assert not Path("new.img").exists()
    assert main([*SMALL, "old.img"]) == 0
    steps = ("initialize freemap volume 0\n", "initializing the undo map (8 MB)\n")
    real = capsys.readouterr().out.split("---\n")[-1]
    for step in steps:
        assert step not in dry
    fsid = next(line for line in real.splitlines() if line.startswith("fsid:"))
    assert dry.splitlines()[0] == "Volume 0 REGFILE old.img         size  64.00MB"
    assert [line for line in real.splitlines() if line != fsid][:5] == [
        line for line in dry.splitlines() if not line.startswith("fsid:")
    ][2:7]


def test_dry_run_refuses_what_the_real_run_refuses(capsys: Out) -> None:
    Path("a.gz").write_bytes(b"\x1f\x8b\x08" + bytes(64 * MIB))
    assert main(["-L", "T", "-u", "512m", "--dry-run", "a.gz"]) == 1
    assert "holds gzip data" in capsys.readouterr().err


def test_quiet(capsys: Out) -> None:
    assert main([*SMALL, "--size", "41m", "--quiet", "a.img"]) == 0
    assert capsys.readouterr() == ("", "")


SCHEMA: dict[str, type] = {
    "dry_run": bool,
    "label": str,
    "fsid": str,
    "version": int,
    "ctime_us": int,
    "volumes": list,
    "size": int,
    "boot_area": int,
    "memory_log": int,
    "undo_size": int,
    "preallocated": int,
    "bigblocks": dict,
    "warnings": list,
}


@pytest.mark.parametrize("dry", [True, False])
def test_json(dry: bool, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "17")
    with sparse("old.img", 48 * MIB).open("r+b") as stream:
        stream.write(b"\x1f\x8b\x08")
    sparse("b.img", 64 * MIB)
    words = ["--dry-run"] if dry else []
    assert main([*SMALL, "--json", "--uuid", UUID, *words, "old.img", "b.img"]) == 0
    out, err = capsys.readouterr()
    report: dict[str, Any] = json.loads(out)
    assert {key: type(value) for key, value in report.items()} == SCHEMA
    assert report["volumes"] == [
        {"number": 0, "name": "old.img", "type": "REGFILE", "size": 48 * MIB, "overwrites": ["gzip data"]},
        {"number": 1, "name": "b.img", "type": "REGFILE", "size": 64 * MIB, "overwrites": []},
    ]
    assert report["bigblocks"] == {"usable": 8, "free": 6}
    assert (report["dry_run"], report["label"], report["fsid"], report["ctime_us"]) == (dry, "T", UUID, 17_000_000)
    assert report["undo_size"] == 8 * MIB
    assert report["preallocated"] == 24 * MIB
    assert report["warnings"] == [err.removeprefix("newfs_hammer: ").rstrip("\n")]
    if not dry:
        assert header("old.img").vol0_stat_freebigblocks == report["bigblocks"]["free"]


def test_debug_names_every_extent(capsys: Out) -> None:
    assert main([*SMALL, "-d", "--size", "41m", "a.img"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if ": debug: " in line]
    assert lines[0] == "newfs_hammer: debug: volume 0: 8388608 bytes at 557056"
    assert lines[-1] == "newfs_hammer: debug: volume 0: 16384 bytes at 0"
    assert len(lines) == 6  # two tables, the FIFO, node, root directory, header


def test_trim_makes_a_hole_first() -> None:
    path = Path("a.img")
    path.write_bytes(b"old!" * (16 * MIB))
    assert path.stat().st_blocks * 512 >= 64 * MIB
    assert main([*SMALL, "-E", "--quiet", "a.img"]) == 0
    assert path.stat().st_blocks * 512 < 26 * MIB
    assert path.stat().st_size == 64 * MIB
    with path.open("rb") as stream:
        stream.seek(60 * MIB)
        assert not any(stream.read(MIB))


def test_without_trim_free_space_stays_as_it_was() -> None:
    path = Path("a.img")
    path.write_bytes(b"old!" * (16 * MIB))
    assert main([*SMALL, "--quiet", "a.img"]) == 0
    with path.open("rb") as stream:
        stream.seek(60 * MIB)
        assert stream.read(8) == b"old!old!"


@pytest.fixture
def layout_devices() -> Iterator[tuple[Journal, list[RecordingDevice]]]:
    """Two volumes that hold an older HAMMER file system, and record what is done to them."""
    bases = [memory_device(64 * MIB, f"v{i}") for i in range(2)]
    params = Params(b"OLD", (64 * MIB, 64 * MIB), uuid.uuid4(), 0, undo_size=8 * MIB)
    write_layout(plan(params), bases, trace=lambda _text: None)
    journal = Journal()
    yield journal, [RecordingDevice(base, journal) for base in bases]


def test_a_power_cut_never_leaves_half_a_file_system(
    layout_devices: tuple[Journal, list[RecordingDevice]],
) -> None:
    """Before the end neither the old nor the new file system opens; no cut leaves a mixture that does."""
    journal, devices = layout_devices
    for device in devices:
        wipe(device, find_signatures(device))
    journal.mark("wiped")
    params = Params(b"NEW", (64 * MIB, 64 * MIB), uuid.uuid4(), 0, undo_size=8 * MIB)
    write_layout(plan(params), devices, trace=lambda _text: None)
    journal.mark("done")
    wanted = list(plan(params).extents())
    outcomes = {"refused": 0, "whole": 0}
    for image in crash_images(journal, seed=3):
        if "wiped" not in journal.marks(image.cut):
            continue
        try:
            Volumes(image.devices)
        except VolumeSetError:
            outcomes["refused"] += 1
            assert "done" not in journal.marks(image.cut)
            continue
        for extent in wanted:
            assert image.devices[extent.vol_no].pread(extent.offset, len(extent.data)) == extent.data
        outcomes["whole"] += 1
    assert min(outcomes.values()) > 0


def test_cache_size_bounds_what_waits_in_the_host(layout_devices: tuple[Journal, list[RecordingDevice]]) -> None:
    journal, devices = layout_devices
    layout = plan(Params(b"NEW", (64 * MIB, 64 * MIB), uuid.uuid4(), 0, undo_size=24 * MIB))
    write_layout(layout, devices, window=16 * MIB, trace=lambda _text: None)
    waiting = most = 0
    for event in journal.events:
        waiting = 0 if event.kind == "flush" else waiting + len(event.data)
        most = max(most, waiting)
    assert most == 16 * MIB


def test_command_line_of_the_cache() -> None:
    for words in (["-C", "16m"], ["-C", "1048576"], ["-C", "32K:4"]):
        assert main([*SMALL, *words, "--size", "41m", "--quiet", "a.img"]) == 0
        Path("a.img").unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: -L, VOL"),
        (["-L", "T"], "the following arguments are required: VOL"),
        (["a.img"], "the following arguments are required: -L"),
        (["-L", "", "a.img"], "argument -L: a label has 1 to 63 bytes, not 0"),
        (["-L", "\u00e4" * 32, "a.img"], "argument -L: a label has 1 to 63 bytes, not 64"),
        (["-L", "T", "-V", "8", "a.img"], "argument -V: '8' is no version: 1 to 7"),
        (["-L", "T", "-V", "0", "a.img"], "argument -V: '0' is no version: 1 to 7"),
        (["-L", "T", "-V", "\u0663", "a.img"], "argument -V: '\u0663' is no version: 1 to 7"),
        (["-L", "T", "-u", "536870912", "a.img"], "argument -u: '536870912' is no size"),
        (["-L", "T", "-u", "1.5g", "a.img"], "argument -u: '1.5g' is no size"),
        (["-L", "T", "-u", "0m", "a.img"], "argument -u: '0m' is no possible size"),
        (["-L", "T", "-b", "9999999999t", "a.img"], "argument -b: '9999999999t' is no possible size"),
        (["-L", "T", "-m", "-4k", "a.img"], "argument -m: expected one argument"),
        (["-L", "T", "--size", "big", "a.img"], "argument --size: 'big' is no size"),
        (["-L", "T", "--uuid", "1234", "a.img"], "argument --uuid: '1234' is no uuid"),
        (["-L", "T", "-C", "1k", "a.img"], "argument -C: a cache of 1024 bytes holds no buffer of 16384"),
        (["-L", "T", "-C", "4m:x", "a.img"], "argument -C: '4m:x' is no CACHESIZE[:READAHEAD]"),
        (["-L", "T", "--siz", "4m", "a.img"], "unrecognized arguments: --siz"),
        (["-L", "T", "-x", "a.img"], "unrecognized arguments: -x"),
    ],
)
def test_wrong_calls(words: list[str], message: str, capsys: Out) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"newfs_hammer: {message}")
    assert err.count("\n") == 1
    assert os.listdir(".") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-b", "16k"], "the boot area is 16384 bytes; it must be 32768 to 268435456"),
        (["-b", "512m"], "the boot area is 536870912 bytes"),
        (["-m", "40k"], "the memory log is 40960 bytes"),
        (["-m", "1t"], "the memory log is 1099511627776 bytes"),
        (["-u", "2g"], "an UNDO FIFO of 2147483648 bytes is over 1 GiB"),
        (["-u", "17k"], "an UNDO FIFO of 17408 bytes is over 1 GiB or no multiple of 16384"),
    ],
)
def test_sizes_out_of_range(words: list[str], message: str, capsys: Out) -> None:
    assert main(["-f", "-L", "T", *words, "--size", "64m", "a.img"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"newfs_hammer: {message}")
    assert err.count("\n") == 1
    assert os.listdir(".") == []


def test_help_names_every_option(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/sbin/mkfs.hammer"])
    with pytest.raises(SystemExit) as stopped:
        main(["-h"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: mkfs.hammer [-h] -L LABEL [-f]")
    for action in build_parser()._actions:
        assert action.help
        assert all(option in text for option in action.option_strings)


# How it ends when it can't go on.


def run(*words: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkfs.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        **kwargs,
    )


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * MIB, 20 * MIB))


def test_file_size_limit_removes_what_was_made() -> None:
    result = run(*SMALL, "--size", "64m", "a.img", preexec_fn=limit_file_size)
    assert (result.returncode, os.listdir(".")) == (1, [])
    lines = result.stderr.splitlines()
    assert lines[-1] == "newfs_hammer: volume a.img: can't be made 67108864 bytes long: File too large"


def test_host_that_takes_no_more_bytes() -> None:
    """An existing volume that fails in the middle has no header: nothing takes it for a file system."""
    assert main([*SMALL, "--size", "64m", "--quiet", "a.img"]) == 0
    result = run(*SMALL, "a.img", preexec_fn=limit_file_size)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("newfs_hammer: volume a.img, offset 0x00000000")
    assert result.stderr.splitlines()[-1].endswith(": write failed: File too large")
    with open_file("a.img") as device, pytest.raises(VolumeSetError, match="bad signature"):
        Volumes([device])
    with open_file("a.img") as device:
        assert not any(device.pread(0, BUFSIZE))


@pytest.mark.root
def test_full_disk(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        result = run(*SMALL, "--size", "64m", str(place / "a.img"), str(place / "b.img"))
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1].endswith("write failed: No space left on device")
        assert "Traceback" not in result.stderr
        assert os.listdir(place) == []
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def no_nohup() -> Iterator[None]:
    """Programs started get SIGHUP, even if the suite does not."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("no_nohup")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(signum: signal.Signals) -> None:
    words = ["-f", "-d", "-u", "1g", "-L", "T", "--size", "2g", "--quiet", "a.img", "b.img"]
    with subprocess.Popen(
        [sys.executable, "-m", "mkfs.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stderr is not None
        for _ in range(4):
            assert ": debug: volume" in process.stderr.readline()
        process.send_signal(signum)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "newfs_hammer: interrupted"
    assert "Traceback" not in said
    assert os.listdir(".") == []


def test_hangup_under_nohup() -> None:
    """A signal that is ignored stays ignored."""
    command = "trap '' HUP; exec \"$@\""
    words = ["-f", "-d", "-u", "64m", "-L", "T", "--size", "128m", "--quiet", "a.img"]
    with subprocess.Popen(
        ["sh", "-c", command, "sh", sys.executable, "-m", "mkfs.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stderr is not None
        assert ": debug: volume" in process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        process.stderr.read()
    assert process.returncode == 0
    assert fstyp(["a.img"]) == 0


def test_nobody_reads_the_report() -> None:
    read, write = os.pipe()
    os.close(read)
    for words in ([], ["--json"]):
        Path("a.img").unlink(missing_ok=True)
        with os.fdopen(os.dup(write), "w") as gone:
            result = subprocess.run(
                [sys.executable, "-m", "mkfs.cli", *SMALL, *words, "--size", "64m", "a.img"],
                stdout=gone,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            )
        assert result.returncode == 0
        assert result.stderr.count("\n") == 1, "nothing but the warning of a small FIFO"
        with HammerFS.open("a.img") as fs:
            assert fs.volumes.superblock.label == b"T"
    os.close(write)
