"""Hostile names, labels, targets and texts on images: printed safely, nothing lost, nothing executed or overwritten."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hammerfs.changes import WriteOptions
from hammerfs.namespace import Owner
from hammerfs.rw import WritableFS
from mkfs.cli import main as newfs
from tests.cli.test_raw import image_file
from tests.enginelab import Clock
from tests.fuse.rwlab import check, run_hammer, run_undo
from tests.hostile import NAMES, TARGETS, assert_one_line, assert_safe, label_of, name_of, parsed
from tests.imagebuilder import ImageBuilder
from tools.cli import main as hammer
from tools.fsck.cli import main as fsck
from tools.fstyp import main as fstyp

pytestmark = [pytest.mark.usefixtures("nothing_executed")]

VOLUME_LABEL = b"\x1b[7m\xff\n"
CONFIG = b"# \x1b[31m\xff\x9b\nprune 1d 5m\n\tsnapshots 1d 60d\n"


class Made:
    """An image full of them, written once.

    Attributes:
        path: The image, whose name is one as well.
        first: TID at which all is there.
        last: TID at which all that is in `/d` has changed, and all that is in `/gone` is deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / os.fsdecode(b"im\x1b[31mage\xff.img")
        with contextlib.redirect_stdout(io.StringIO()):
            words = ["-f", "-u", "8m", "--size", "512m", "--quiet", "-L", os.fsdecode(VOLUME_LABEL)]
            assert newfs([*words, str(self.path)]) == 0
        options = WriteOptions(clock=Clock(), commit_seconds=1_000_000)
        with WritableFS.open_rw([str(self.path)], options) as fs:
            self._fill(fs)

    def _fill(self, fs: WritableFS) -> None:
        root = fs.root()
        folders = [fs.mkdir(root, name) for name in (b"d", b"gone")]
        dirs, links = fs.mkdir(root, b"dirs"), fs.mkdir(root, b"links")
        for name in NAMES:
            for folder in folders:
                fs.write(fs.create(folder, name), 0, b"one\n" + name)
            fs.create(fs.mkdir(dirs, name), b"in it")
        for number, target in enumerate(TARGETS):
            fs.symlink(links, b"%03d" % number, target, Owner())
        self.first = f"0x{fs.sync():016x}"
        for name in NAMES:
            fs.write(fs.lookup(folders[0], name), 0, b"two\n")
            fs.unlink(folders[1], name)
        self.last = f"0x{fs.sync():016x}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """An image of a test's own."""
    return Made(tmp_path).path


def said(image: object, *args: object, code: int = 0) -> str:
    """What `hammer` prints, which is safe."""
    text = run_hammer("-f", image, *args, code=code)
    assert_safe(text)
    return text


def ask(image: object, *args: object) -> Any:
    return parsed(run_hammer("-f", image, "--json", *args))


def below(folder: bytes, names: tuple[bytes, ...] = NAMES) -> set[bytes]:
    return {folder + b"/" + name for name in names}


# Looking


def test_listing(made: Made) -> None:
    for words in (["ls", "-R", "/"], ["ls", "-l", "/d"], ["ls", "-l", "/links"], ["ls", "/dirs", "/d"]):
        said(made.path, *words)
    assert len(set(said(made.path, "ls", "/d").splitlines())) == len(NAMES), "no two print alike"
    rows = ask(made.path, "ls", "-R", "/")
    paths = {name_of(row["path"]) for row in rows}
    assert below(b"/d") | below(b"/dirs") <= paths
    links = {name_of(row["path"]): name_of(row["target"]) for row in rows if row["target"] is not None}
    assert links == {b"/links/%03d" % number: target for number, target in enumerate(TARGETS)}


def test_manifest(made: Made) -> None:
    [tree] = ask(made.path, "manifest")["trees"].values()
    assert below(b"/d") | below(b"/dirs") <= {name_of(entry["path"]) for entry in tree}
    targets = [name_of(entry["target"]) for entry in tree if "target" in entry]
    assert sorted(targets) == sorted(TARGETS)


def test_questions_about_the_past(made: Made) -> None:
    span = made.first, made.last
    for verb in (
        ["deleted", "-r", "/"],
        ["diff", *span],
        ["log"],
        ["find", "--between", *span],
        ["find", "--asof", made.first, "/d"],
    ):
        said(made.path, *verb)
    lines = run_hammer("-f", made.path, "diff", "--contents", *span, "/gone").splitlines()
    for line in lines:
        if line.startswith(("D ", "--- ", "+++ ")):
            assert_safe(line)
    assert sum(line.startswith("--- /") for line in lines) == len(NAMES)
    assert {name_of(row["path"]) for row in ask(made.path, "deleted", "/gone")} == below(b"/gone")
    for row in ask(made.path, "deleted", "/gone"):
        shown = os.fsdecode(name_of(row["restore"]))
        wanted = b"one\n" + name_of(row["path"]).removeprefix(b"/gone/")
        assert output(made.path, "cat", shown) == wanted
    changes = {name_of(row["path"]): row["change"] for row in ask(made.path, "diff", *span)}
    assert {path for path, change in changes.items() if change == "modified"} >= below(b"/d")
    assert {path for path, change in changes.items() if change == "removed"} == below(b"/gone")
    assert {name_of(row["path"]) for row in ask(made.path, "log")} >= below(b"/d") | below(b"/gone") | below(b"/dirs")
    found = ask(made.path, "find", "--asof", made.first, "/dirs", "--type", "dir")
    assert {name_of(row["path"]) for row in found} == below(b"/dirs")
    contents = ask(made.path, "diff", "--contents", *span, "/d")
    assert all(b"+two\n" in name_of(row["contents"]) for row in contents if row["contents"])


def output(image: Path, *args: str) -> bytes:
    """What a command prints as it is."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out):
        assert hammer(["-f", str(image), *args]) == 0
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return out.buffer.getvalue()


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_as_arguments(made: Made, name: bytes) -> None:
    path = os.fsdecode(b"/d/" + name)
    assert output(made.path, "cat", path) == b"two\n" + name
    assert output(made.path, "cat", os.fsdecode(b"/@@%s/d/%s" % (made.first.encode(), name))) == b"one\n" + name
    for verb in ("ls", "history", "versions", "deleted"):
        said(made.path, verb, os.fsdecode(b"/dirs/" + name) if verb == "deleted" else path)
    [row] = ask(made.path, "history", path)
    assert name_of(row["path"]) == b"/d/" + name
    assert len(ask(made.path, "versions", path)) == 2
    for words in ([path], ["-i", path], ["-a", path], ["-d", path], ["-D", path]):
        assert_safe(run_undo("-f", made.path, *words).replace(os.fsdecode(name), ""))
    [row] = parsed(run_undo("-f", made.path, "--json", "-d", path))
    assert name_of(row["path"]) == b"/d/" + name
    assert b"+two\n" in name_of(row["diff"])
    [row] = ask(made.path, "lsflags", path)
    assert name_of(row["path"]) == b"/d/" + name
    assert said(made.path, "lsflags", path).startswith("-\t/d/")
    for verb in ("namekey1", "namekey2", "namekey32"):
        assert name_of(ask(made.path, verb, "--", os.fsdecode(name))["name"]) == name


@pytest.mark.parametrize("name", [NAMES[i] for i in (1, 3, 5, 8, 10, 14, 22, 26)], ids=repr)
def test_in_errors(made: Made, name: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = os.fsdecode(b"/none/" + name)
    for words in (
        ["ls", lost],
        ["cat", lost],
        ["cp", lost, str(tmp_path / "x")],
        ["tar", lost],
        ["extract", lost, str(tmp_path / "x")],
        ["manifest", lost],
        ["history", lost],
        ["versions", lost],
        ["deleted", lost],
        ["diff", os.fsdecode(b"never " + name), "now"],
        ["diff", made.first, "now", lost],
        ["find", "--asof", os.fsdecode(b"never " + name)],
        ["log", lost],
        ["restore", lost],
        ["snapls", lost],
        ["snapls", "--pfs", os.fsdecode(b"x" + name)],
        ["snapq", lost],
        ["snaprm", lost],
        ["config", lost],
        ["pfs-status", os.fsdecode(b"x" + name)],
        ["pfs-master", lost],
        ["pfs-update", "/", os.fsdecode(b"x" + name)],
        ["pfs-upgrade", lost],
        ["pfs-downgrade", lost],
        ["-y", "pfs-destroy", lost],
        ["mirror-copy", lost, "/x"],
        ["prune", lost],
        ["reblock", lost],
        ["show", os.fsdecode(b"x" + name)],
        ["chflags", os.fsdecode(b"x" + name), "/d"],
        ["lsflags", lost],
        ["unpack", os.fsdecode(b"./" + name), str(tmp_path / "x")],
        ["version-upgrade", "/", os.fsdecode(b"x" + name)],
        [os.fsdecode(b"x" + name)],
        ["ls", os.fsdecode(b"--x" + name)],
    ):
        with contextlib.suppress(SystemExit):
            assert hammer(["-f", str(made.path), *words]) in {1, 2}, words
        assert_one_line(capsys.readouterr().err)
    with contextlib.suppress(SystemExit):
        assert hammer(["-f", os.fsdecode(b"./" + name), "info"]) == 1
    assert_one_line(capsys.readouterr().err)
    for program in (fstyp, fsck, newfs):
        words = ["-L", "x"] if program is newfs else []
        with contextlib.suppress(SystemExit):
            assert program([*words, os.fsdecode(b"./" + name)]) != 0
        assert_one_line(capsys.readouterr().err)


def test_facts_of_the_volumes(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    raw = os.fsencode(made.path)
    for verb in ("info", "version", "volume-list", "volume-blkdevs", "pfs-status", "snapls", "checkmap"):
        said(made.path, verb)
    assert name_of(ask(made.path, "info")["label"]) == VOLUME_LABEL
    assert name_of(ask(made.path, "volume-list")[0]["name"]) == raw
    assert [name_of(name) for name in ask(made.path, "volume-blkdevs")] == [raw]
    ask(made.path, "show")
    for words in ([], ["--json"]):
        for program, options in ((fstyp, ["-l"]), (fsck, ["-n"]), (fsck, ["-p"])):
            assert program([*options, *words, str(made.path)]) == 0
            assert_safe(capsys.readouterr().out)
    assert fstyp(["--json", str(made.path)]) == 0
    assert name_of(parsed(capsys.readouterr().out)["label"]) == VOLUME_LABEL


def test_a_terminal_sees_no_raw_name_in_show(made: Made) -> None:
    for verb in ("show", "blockmap"):
        ends = os.openpty()
        command = [sys.executable, "-m", "tools.cli", "-f", str(made.path), verb]
        root = Path(__file__).resolve().parents[2]
        with subprocess.Popen(command, cwd=root, stdout=ends[1]) as process:
            os.close(ends[1])
            shown = b""
            with contextlib.suppress(OSError):  # how a terminal tells that nobody writes any more
                while data := os.read(ends[0], 65536):
                    shown += data
        os.close(ends[0])
        assert process.returncode == 0
        assert_safe(shown.decode().replace("\r\n", "\n"))


# Copying out


def names_in(folder: Path) -> set[bytes]:
    return set(os.listdir(os.fsencode(folder)))


def test_copies_keep_names_and_stay_inside(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "inside" / "target"
    target.parent.mkdir()
    said(made.path, "extract", "/", target)
    assert names_in(target / "d") == names_in(target / "dirs") == set(NAMES)
    for number, link in enumerate(TARGETS):
        assert os.readlink(os.fsencode(target / "links" / f"{number:03d}")) == link
    assert names_in(target) == {b"d", b"gone", b"dirs", b"links"}
    into = tmp_path / "inside" / "into"
    into.mkdir()
    said(made.path, "cp", "-r", *(os.fsdecode(b"/dirs/" + name) for name in NAMES if b"@@" not in name), into)
    assert names_in(into) == {name for name in NAMES if b"@@" not in name}
    assert names_in(tmp_path / "inside") == {b"target", b"into"}
    with tarfile.open(fileobj=io.BytesIO(output(made.path, "tar", "/")), errors="surrogateescape") as tar:
        stored = {os.fsencode(member.name): os.fsencode(member.linkname) for member in tar}
    assert {path.removeprefix(b"/") for path in below(b"/d") | below(b"/dirs")} <= stored.keys()
    assert {path: link for path, link in stored.items() if link} == {
        b"links/%03d" % number: target for number, target in enumerate(TARGETS)
    }


def test_a_link_and_a_directory_of_one_name_lead_nowhere(tmp_path: Path) -> None:
    """What no file system would hold, an image can: the link first, then a directory to be filled through it."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    for first, second in ((0, 1), (1, 0)):
        builder = ImageBuilder()
        makers: list[Callable[[], object]] = [
            lambda b=builder: b.symlink(b"/same", os.fsencode(outside)),  # type: ignore[misc]
            lambda b=builder: (b.mkdir(b"/same"), b.file(b"/same/evil", b"x")),  # type: ignore[misc]
        ]
        makers[first]()
        with contextlib.suppress(KeyError):
            makers[second]()
        image = image_file(tmp_path, builder)
        for words in ([], ["--force"]):
            with contextlib.redirect_stderr(io.StringIO()):
                hammer(["-f", str(image), "extract", *words, "/", str(target)])
            assert os.listdir(outside) == []


def test_packed_sets_keep_names(made: Made, tmp_path: Path) -> None:
    packed = tmp_path / os.fsdecode(b"pack\x1b\xff")
    assert name_of(ask(made.path, "pack", packed)["file"]) == os.fsencode(packed)
    assert_safe(run_hammer("unpack", "--list", packed))
    rows = parsed(run_hammer("--json", "unpack", packed, tmp_path / "out"))
    assert name_of(rows["volumes"][0]["name"]) == os.fsencode(made.path.name)
    assert name_of(rows["files"][0]) == os.fsencode(tmp_path / "out" / made.path.name)
    assert_one_line(run_hammer("unpack", packed, tmp_path / "out", code=1))
    assert os.listdir(tmp_path / "out") == [made.path.name]


# Changing


def test_restoring(private: Path) -> None:
    said(private, "-v", "restore", "-r", "/gone")
    assert {name_of(row["path"]) for row in ask(private, "ls", "/gone")} == below(b"/gone")
    for name in NAMES:
        assert output(private, "cat", os.fsdecode(b"/gone/" + name)) == b"one\n" + name
        said(private, "restore", "--force", os.fsdecode(b"/d/" + name))
        assert output(private, "cat", os.fsdecode(b"/d/" + name)) == b"one\n" + name
    check(private)


def test_labels(private: Path) -> None:
    for name in NAMES:
        said(private, "snapq", "--", "/", os.fsdecode(label_of(name)))
    said(private, "snapls")
    rows = ask(private, "snapls")
    assert [name_of(row["label"]) for row in rows] == [label_of(name) for name in NAMES]
    for row in rows:
        label = os.fsdecode(name_of(row["label"]))
        assert_one_line(said(private, "ls", f"--asof={label}", "/none", code=1))
        assert ask(private, "diff", "--", label, "now") == []
    assert_safe(run_hammer("-f", private, "diff", "--", "plai", "now", code=1))
    said(private, "snaprm", rows[0]["tid"])
    check(private)


def test_pfs_names_and_labels(private: Path) -> None:
    links = [b"-rf", b"line\nbreak", b"\x1b[31m", b"\xff\xfe", b"a@@b", b"n" * 255, b"..x"]
    for link in links:
        label = os.fsdecode(label_of(link))
        path = os.fsdecode(b"/" + link)
        assert "Creating PFS#" in said(private, "pfs-master", path, f"label={label}", f"snapshots=/{label[:60]}")
        said(private, "pfs-status", path)
        [row] = ask(private, "pfs-status", path)
        assert (name_of(row["label"]), name_of(row["snapshots"])) == (label_of(link), b"/" + link[:60])
        said(private, "pfs-downgrade", path)
        said(private, "pfs-upgrade", path)
        said(private, "pfs-update", path, "label=" + "\udcfe" + label[:60])
        assert len(ask(private, "snapls", path)) == 0
        said(private, "snapq", path)
        said(private, "prune", path)
    said(private, "pfs-status")
    said(private, "info")
    assert len(ask(private, "info")["pfs"]) == len(links) + 1
    for link in links:
        said(private, "-y", "pfs-destroy", os.fsdecode(b"/" + link))
    check(private)


def test_configuration_texts(private: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(CONFIG)
    said(private, "config", "/", text)
    assert name_of(ask(private, "config")["config"]) == CONFIG
    assert said(private, "config") == "# \\x1b[31m\\xff\\x9b\nprune 1d 5m\n\tsnapshots 1d 60d\n"


def test_mirrors_keep_names(private: Path, tmp_path: Path) -> None:
    with WritableFS.open_rw([str(private)]) as fs:
        fs.sync()
    said(private, "pfs-master", "/m")
    with WritableFS.open_rw([str(private)]) as fs:
        root = fs.root(1)
        for name in NAMES:
            fs.create(root, name)
        fs.sync()
    said(private, "mirror-copy", "/m", "/s\x1b[31m")
    assert {name_of(row["path"]).rpartition(b"/")[2] for row in ask(private, "ls", "/s\x1b[31m/")} == set(NAMES)
    check(private)
