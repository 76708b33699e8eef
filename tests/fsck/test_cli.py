"""`fsck.hammer` as a user and as a boot script calls it: output, options, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hammerfs.device.base import Device
from tests.fsck.edit import Edit
from tests.fuzz.bases import crashed
from tools.fsck import cli
from tools.fsck.findings import CODES

KEYS = {"code", "severity", "what", "volume", "volume_offset", "offset", "zone", "object", "pfs", "path"}


def save(device: Device, path: Path) -> str:
    """A device as a sparse file."""
    with path.open("wb") as file:
        file.truncate(device.size)
        for beg, end in device.extents(0, device.size):
            file.seek(beg)
            file.write(device.pread(beg, end - beg))
    return str(path)


@pytest.fixture
def sound(tmp_path: Path) -> str:
    return save(Edit().dev, tmp_path / "sound.img")


@pytest.fixture
def damaged(tmp_path: Path) -> str:
    """One error about an object, and one note."""
    edit = Edit()
    edit.edit_inode(edit.inode_of(b"linked"), nlinks=5)
    edit.put_u32(156, 0)
    return save(edit.dev, tmp_path / "damaged.img")


@pytest.fixture
def dirty(tmp_path: Path) -> str:
    return save(crashed(7), tmp_path / "dirty.img")


def test_sound(sound: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(sound).read_bytes()
    for options in ([], ["-n"], ["-f"], ["-n", "--data"], ["-f", "-y"], ["-f", "-a"]):
        assert cli.main([*options, sound]) == 0
        assert re.fullmatch(r"\d+ records in \d+ nodes: sound \(\d+\.\d s\)\n", capsys.readouterr().out)
    assert Path(sound).read_bytes() == before


def test_damaged(damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([damaged]) == 4
    note, error, total = capsys.readouterr().out.splitlines()
    assert note.startswith("note header-crc-unset: volume 0+156, offset 0x100000000000009c: ")
    assert error.startswith("error link-count: volume 0+")
    assert error.endswith("/linked: 5 links, 2 entries")
    assert "1 errors, 1 notes" in total
    assert cli.main(["-q", damaged]) == 4
    assert "note" not in capsys.readouterr().out.splitlines()[0]


def test_json(damaged: str, dirty: str, capsys: pytest.CaptureFixture[str]) -> None:
    for image, code, expected in ((damaged, 4, ["header-crc-unset", "link-count"]), (dirty, 0, ["dirty"])):
        assert cli.main(["--json", image]) == code
        shown = json.loads(capsys.readouterr().out)
        assert [finding["code"] for finding in shown["findings"]] == expected
        assert shown["errors"] == (1 if code else 0)
        assert shown["notes"] == 1
        assert shown["records"] > 50
        assert shown["nodes"] > 5
        for finding in shown["findings"]:
            assert finding.keys() == KEYS
            assert finding["severity"] == CODES[finding["code"]]
            assert finding["what"]
    assert cli.main(["--json", damaged]) == 4
    finding = json.loads(capsys.readouterr().out)["findings"][1]
    assert finding["path"] == "/linked"
    assert re.fullmatch(r"0x[0-9a-f]{16}", finding["object"])
    assert re.fullmatch(r"0x90[0-9a-f]{14}", finding["offset"])
    assert (finding["zone"], finding["volume"], finding["pfs"]) == (9, 0, 0)
    assert isinstance(finding["volume_offset"], int)


def test_boot_scripts(sound: str, damaged: str, dirty: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With -a, -p and -y only headers are looked at: what lies in the tree is no reason to stop a boot."""
    for letter in "apy":
        for image, text in (
            (sound, "BUILT: clean\n"),
            (damaged, "BUILT: clean\n"),
            (dirty, "BUILT: not closed cleanly, the next mount recovers it\n"),
        ):
            assert cli.main([f"-{letter}", image]) == 0
            assert capsys.readouterr().out == text
    assert cli.main(["-a", "--json", dirty]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == 0


def test_boot_scripts_stop_at_a_header_that_can_not_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit = Edit()
    edit.header.vol_buf_end = 1 << 40
    edit.put_header()
    image = save(edit.dev, tmp_path / "a.img")
    assert cli.main(["-a", image]) == 4
    assert image in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [[], ["-z", "x"], ["-a", "-n", "x"], ["-a", "-y", "x"], ["-C", "x"], ["-C", "99", "x"], ["--limit", "0", "x"]],
)
def test_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = cli.main(argv)
    except SystemExit as stop:
        code = stop.code
    assert code == 16
    err = capsys.readouterr().err
    assert err.startswith("fsck.hammer: ")
    assert err.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: fsck.hammer ")
    assert "Exit code: 0 sound, 4 errors" in out


def test_operational(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zeros").write_bytes(bytes(1 << 20))
    for image in (tmp_path / "none", tmp_path / "zeros", tmp_path):
        for option in ("-n", "-a"):
            assert cli.main([option, str(image)]) == 8
            shown = capsys.readouterr()
            assert shown.err.count("\n") == 1
            assert str(image) in shown.err


def test_cancelled(sound: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert cli.main([sound]) == 32
    assert capsys.readouterr().err == "fsck.hammer: interrupted\n"


def test_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit = Edit()
    edit.header.vol0_next_tid = 5
    edit.put_header()
    image = save(edit.dev, tmp_path / "a.img")
    assert cli.main(["--limit", "2", image]) == 4
    *listed, more, total = capsys.readouterr().out.splitlines()
    assert len(listed) == 2
    assert re.fullmatch(r"\d+ more findings of the same codes", more)
    assert f"{2 + int(more.split()[0])} errors" in total


def test_progress_lines(sound: str) -> None:
    """`-C FD` tells on a descriptor of the caller: phase, done, total."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "tools.fsck.cli", "-C", str(writing), sound]
    done = subprocess.run(command, check=False, pass_fds=[writing], capture_output=True, text=True)
    os.close(writing)
    with os.fdopen(reading) as lines:
        shown = lines.read().splitlines()
    assert done.returncode == 0
    assert done.stderr == ""
    assert shown
    assert all(re.fullmatch(r"\w+ \d+ \d+", line) for line in shown)
    assert {line.split()[0] for line in shown} == {"FIFO", "tree", "links"}


def test_progress_bar(sound: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-C", "0", sound]) == 0
    err = capsys.readouterr().err
    assert "FIFO" in err
    assert err.endswith(" \r")
    assert cli.main([sound]) == 0
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_is_no_traceback(damaged: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "tools.fsck.cli", damaged]
    done = subprocess.run(command, check=False, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 8
    assert done.stderr == ""
