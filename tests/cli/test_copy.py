"""`hammer cp`, `extract`, `tar`: what comes out equals the manifest, and nothing goes anywhere else."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hammerfs.const import OBJID_ROOT, OBJTYPE_DIRECTORY, OBJTYPE_REGFILE
from tests.golden import GoldenImage, GoldenStore, golden_names
from tests.imagebuilder import ImageBuilder
from tools.cli import main

KINDS = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
         stat.S_IFSOCK: "sock", stat.S_IFCHR: "cdev", stat.S_IFBLK: "bdev"}  # fmt: skip
TOO_MUCH_FOR_THE_HOST = {"/sparse/max", "/types/bigdev"}
BIG = 64 << 20
Out = pytest.CaptureFixture[str]


def hammer(*args: object) -> list[str]:
    return [sys.executable, "-m", "tools.cli", *map(str, args)]


def wanted(image: GoldenImage, root: str = "/") -> dict[str, dict[str, Any]]:
    if not image.has_manifest:
        return {}
    return {entry["path"]: entry for entry in image.manifest["trees"][root] if "error" not in entry}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare(top: Path, want: dict[str, dict[str, Any]], *, mtime: str, times: bool = True) -> None:
    left = dict(want)
    for directory, dirs, files in os.walk(os.fsencode(top)):
        for name in [b".", *dirs, *files]:
            path = Path(os.fsdecode(os.path.join(directory, name)))
            key = "/" + os.fsencode(path.relative_to(top)).decode("utf-8", "backslashreplace")
            key = "/" if key == "/." else key
            entry = left.pop(key, None)
            if entry is None:
                assert name == b"." or key in want, key
                continue
            found = path.lstat()
            assert KINDS[stat.S_IFMT(found.st_mode)] == entry["type"]
            if entry["type"] == "symlink":
                assert os.readlink(path) == entry["target"]
            else:
                assert f"{stat.S_IMODE(found.st_mode):04o}" == entry["mode"], key
            if times:
                assert found.st_mtime_ns // 1000 == entry[mtime], key
            if os.geteuid() == 0:
                assert (found.st_uid, found.st_gid) == (entry["uid"] & 0xFFFFFFFF, entry["gid"] & 0xFFFFFFFF), key
            if entry["type"] == "file":
                assert found.st_size == entry["size"]
                assert found.st_size > BIG or digest(path) == entry["sha256"], key
                assert found.st_nlink == sum(other["ino"] == entry["ino"] for other in want.values()), key
    assert set(left) <= TOO_MUCH_FOR_THE_HOST, left.keys()


@pytest.mark.golden
@pytest.mark.root
@pytest.mark.parametrize("name", golden_names())
def test_extract_equals_the_manifest(golden: GoldenStore, tmp_path: Path, capsys: Out, name: str) -> None:
    image = golden[name]
    want = wanted(image)
    code = main(["-f", image.spec, "extract", str(tmp_path / "out")])
    complaints = capsys.readouterr().err.splitlines()
    assert code == (len(complaints) > 0)
    assert len(complaints) == len(TOO_MUCH_FOR_THE_HOST & want.keys())
    if want:
        compare(tmp_path / "out", want, mtime="mtime_us", times=not name.startswith("crash-"))


@pytest.mark.golden
@pytest.mark.root
@pytest.mark.parametrize("name", [*golden_names("history"), *golden_names("snapshots"), *golden_names("vol2")])
def test_the_past_and_its_times(golden: GoldenStore, tmp_path: Path, name: str) -> None:
    image = golden[name]
    for root in image.manifest["trees"]:
        if "@@0x" in root and ":" not in root:
            out = tmp_path / root.replace("/", "_")
            assert main(["-f", image.spec, "extract", root, str(out)]) == 0
            compare(out, wanted(image, root), mtime="st_mtime_us")
            again = tmp_path / ("asof" + root.replace("/", "_"))
            assert main(["-f", image.spec, "extract", "--asof", root.strip("/@"), str(again)]) == 0
            compare(again, wanted(image, root), mtime="st_mtime_us")


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names())
def test_tar_equals_the_manifest(golden: GoldenStore, tmp_path: Path, name: str) -> None:
    image = golden[name]
    want = wanted(image)
    archive = tmp_path / "all.tar"
    with archive.open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "tools.cli", "-f", image.spec, "tar"], stdout=out, stderr=-1, check=False
        )
    lost = {path for path, entry in want.items() if entry["type"] == "sock" or path == "/types/bigdev"}
    assert (done.returncode, done.stderr.count(b"\n")) == (bool(lost), len(lost))
    assert archive.stat().st_size % tarfile.RECORDSIZE == 0
    seen: dict[str, str] = {}
    inodes: dict[str, str] = {}
    with tarfile.open(archive, encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            raw = member.name.encode("utf-8", "surrogateescape")
            path = "/" if raw == b"." else "/" + raw.decode("utf-8", "backslashreplace")
            seen[path] = path
            if not want:
                continue
            entry = want[path]
            if not name.startswith("crash-"):
                assert round(float(member.pax_headers.get("mtime", member.mtime)) * 1e6) == entry["mtime_us"]
            assert (f"{member.mode:04o}", member.uid, member.gid) == (
                entry["mode"], entry["uid"] & 0xFFFFFFFF, entry["gid"] & 0xFFFFFFFF
            )  # fmt: skip
            if member.islnk():
                assert inodes[member.linkname] == entry["ino"]
                continue
            inodes[member.name] = entry["ino"]
            if entry["type"] == "symlink":
                assert member.linkname == entry["target"]
            elif entry["type"] == "file":
                assert member.size == entry["size"]
                if member.size <= BIG:
                    body = tar.extractfile(member)
                    assert body is not None
                    assert hashlib.file_digest(body, "sha256").hexdigest() == entry["sha256"]  # type: ignore[arg-type]
    if want:
        assert seen.keys() == want.keys() - lost


@pytest.mark.golden
def test_gnu_tar_makes_holes_again(golden: GoldenStore, tmp_path: Path) -> None:
    archive = tmp_path / "sparse.tar"
    with archive.open("wb") as out:
        subprocess.run(hammer("-f", golden["basic-v7"].spec, "tar", "/sparse/big"), stdout=out, check=True)
    assert archive.stat().st_size < 1 << 20
    subprocess.run(["tar", "-xf", str(archive), "-C", str(tmp_path)], check=True)
    found = (tmp_path / "big").stat()
    assert found.st_size == wanted(golden["basic-v7"])["/sparse/big"]["size"]
    assert found.st_blocks * 512 < 1 << 20


def image_of(builder: ImageBuilder, path: Path) -> str:
    dev = builder.build()
    path.write_bytes(dev.pread(0, dev.size))
    return str(path)


def test_nothing_is_overwritten_without_force(tmp_path: Path, capsys: Out) -> None:
    b = ImageBuilder()
    b.file(b"/a", b"new")
    b.file(b"/d/b", b"deep")
    image = image_of(b, tmp_path / "x.img")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_bytes(b"old")
    assert main(["-f", image, "extract", str(out)]) == 1
    assert capsys.readouterr().err == "hammer: extract: a: File exists\n"
    assert (out / "a").read_bytes() == b"old"
    assert (out / "d" / "b").read_bytes() == b"deep"
    assert main(["-f", image, "cp", "--force", "/a", str(out / "a")]) == 0
    assert (out / "a").read_bytes() == b"new"


def test_forms_of_cp(tmp_path: Path, capsys: Out) -> None:
    b = ImageBuilder()
    b.file(b"/a", b"A")
    b.file(b"/d/b", b"B")
    image = image_of(b, tmp_path / "x.img")
    out = tmp_path / "out"
    out.mkdir()
    assert main(["-f", image, "cp", "/a", str(out)]) == 0
    assert main(["-f", image, "cp", "/a@@-1", str(out / "renamed")]) == 0
    assert main(["-f", image, "--json", "cp", "-r", "/d", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {"copied": 2, "failed": 0}
    assert sorted(path.name for path in out.rglob("*")) == ["a", "b", "d", "renamed"]
    assert main(["-f", image, "cp", "/d", str(out)]) == 2
    assert main(["-f", image, "cp", "/a", "/d", str(out / "a")]) == 2
    assert main(["-f", image, "cp", "/none", str(out)]) == 1
    assert main(["-f", image, "extract", str(tmp_path / "no" / "where")]) == 1


def test_hostile_names_stay_inside(tmp_path: Path, capsys: Out) -> None:
    """A link out of the target, and a directory of the same name with a file in it: the file goes nowhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    b = ImageBuilder()
    b.symlink(b"/trap", bytes(outside))
    trap = b.new_obj_id()
    b.inode(trap, OBJTYPE_DIRECTORY, mode=0o755)
    b.direntry(OBJID_ROOT, b"trap", trap, OBJTYPE_DIRECTORY)
    evil = b.new_obj_id()
    b.inode(evil, OBJTYPE_REGFILE)
    b.direntry(trap, b"evil", evil, OBJTYPE_REGFILE)
    for name in (b"new\nline", b"esc\x1b[31m", b"\xff\xfe", b"x" * 255, b"-rf", b" "):
        b.file(b"/" + name, name)
    image = image_of(b, tmp_path / "x.img")
    out = tmp_path / "out"
    assert main(["-f", image, "extract", str(out)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(outside) == []
    assert (os.fsencode(out) + b"/\xff\xfe").decode("utf-8", "surrogateescape") in {str(path) for path in out.iterdir()}
    assert main(["-f", image, "ls"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.count("\n") == 8


def test_a_damaged_file_is_named_and_the_rest_comes_out(tmp_path: Path, capsys: Out) -> None:
    b = ImageBuilder()
    b.file(b"/good", b"fine")
    b.file(b"/bad", b"unlucky contents")
    image = Path(image_of(b, tmp_path / "x.img"))
    raw = bytearray(image.read_bytes())
    at = raw.index(b"unlucky")
    raw[at] ^= 1
    image.write_bytes(raw)
    out = tmp_path / "out"
    assert main(["-f", str(image), "extract", str(out)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("hammer: extract: bad: ")
    assert "bad CRC" in err
    assert [path.name for path in out.iterdir()] == ["good"]
    with (tmp_path / "t.tar").open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "tools.cli", "-f", str(image), "tar"], stdout=file, stderr=-1, check=False
        )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    with tarfile.open(tmp_path / "t.tar") as tar:
        assert sorted(tar.getnames()) == [".", "bad", "good"]
