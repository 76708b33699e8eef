"""The control socket of a mount: who gets in, what is answered to nonsense, and verbs on mounts and images alike."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hammerfs.vfs.control_proto import MAX_LINE
from tests.fuse.mounts import Mount, control_socket, mount_in
from tests.fuse.rwlab import check, live, make_image, run_hammer

pytestmark = [pytest.mark.mount]
TID = re.compile(r"0x[0-9a-f]{16}\Z")


def socket_of(mount: Mount) -> Path:
    path = control_socket(mount.root)
    assert path is not None
    return path


class Client:
    """One connection to a control socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(120)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rb")

    def send(self, line: bytes) -> None:
        self._socket.sendall(line)

    def reply(self) -> dict[str, Any] | None:
        """The next reply; None when the daemon has hung up."""
        line = self._stream.readline()
        return json.loads(line) if line else None

    def ask(self, verb: str, **args: object) -> Any:
        self.send(json.dumps({"verb": verb, "args": args}).encode() + b"\n")
        return self.reply()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


@contextlib.contextmanager
def connected(mount: Mount) -> Iterator[Client]:
    client = Client(socket_of(mount))
    try:
        yield client
    finally:
        client.close()


def flags(*args: object) -> str:
    return run_hammer(*args).split("\t")[0]


# The socket


def test_the_socket_is_private_and_goes_with_the_mount(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "rw") as mount:
        path = socket_of(mount)
        st = path.stat()
        assert stat.S_ISSOCK(st.st_mode)
        assert stat.S_IMODE(st.st_mode) == 0o600
        assert st.st_uid == os.geteuid()
        assert not stat.S_IMODE(path.parent.stat().st_mode) & 0o022
    if path.exists():  # another mount may have got the device number meanwhile
        now = path.stat()
        assert (now.st_ino, now.st_mtime_ns) != (st.st_ino, st.st_mtime_ns)


@pytest.mark.root
def test_others_may_only_look(mount: Mount) -> None:
    """Even one that is let through to the socket: the daemon asks who is there."""
    path = socket_of(mount)
    os.chmod(path, 0o666)
    os.seteuid(65534)
    try:
        client = Client(path)
    finally:
        os.seteuid(0)
    look = client.ask("snapls", path="/")
    snap = client.ask("snap", path="/")
    chflags = client.ask("chflags", path="/", uflags=2)
    client.close()
    assert look["result"]["snapshots"] == []
    for refused in (snap, chflags):
        assert refused["errno"] == 1
        assert "for root and the owner of the mount" in refused["error"]
    assert flags("lsflags", mount.root) == "-"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"\n", "malformed message"),
        (b"hello\n", "malformed message"),
        (b"[1, 2]\n", "malformed message"),
        (b"\xff\xfe\x00\n", "malformed message"),
        (b'{"verb": "synctid"\n', "malformed message"),
        (b"{}\n", "there is no verb 'None'"),
        (b'{"verb": "format"}\n', "there is no verb 'format'"),
        (b'{"verb": ["snap"]}\n', "there is no verb '['snap']'"),
        (b'{"verb": "snap"}\n', "snap: "),
        (b'{"verb": "snap", "args": {"path": "/", "colour": "red"}}\n', "snap: "),
        (b'{"verb": "snap", "args": [1]}\n', "snap: "),
        (b'{"verb": "snap", "args": {"path": 7}}\n', "snap: "),
        (b'{"verb": "snap", "args": {"path": "/", "label": {}}}\n', "snap: "),
        (b'{"verb": "snapls", "args": {"path": "/none"}}\n', "none"),
        (b'{"verb": "snaprm", "args": {"path": "/", "tids": ["x"]}}\n', "'x' is no TID"),
        (b'{"verb": "snaprm", "args": {"path": "/", "tids": ["0x0000000100000001"]}}\n', "is no snapshot"),
        (b'{"verb": "snaprm", "args": {"path": "/", "tids": [7]}}\n', "snaprm: "),
        (b'{"verb": "chflags", "args": {"path": "/", "uflags": "all"}}\n', "chflags: "),
        (b'{"verb": "snap", "args": {"path": "/", "label": "' + b"x" * 64 + b'"}}\n', "at most 63 bytes"),
        (b"[" * 100_000 + b"\n", "malformed message"),
    ],
)
def test_nonsense_is_answered(shared: Mount, line: bytes, what: str) -> None:
    with connected(shared) as client:
        client.send(line)
        reply = client.reply()
        assert reply is not None
        assert what in reply["error"]
        assert reply["error"].count("\n") == 0
        assert client.ask("snapls", path="/")["result"]["snapshots"] == []


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    folder = tmp_path_factory.mktemp("control")
    with live(folder, make_image(folder)) as found:
        socket_of(found)
        yield found


def test_a_line_without_end_is_hung_up_on(shared: Mount) -> None:
    with connected(shared) as client:
        with contextlib.suppress(ConnectionError):
            client.send(b"x" * (MAX_LINE + 1_000_000))
        with contextlib.suppress(ConnectionError):
            assert client.reply() is None
    with connected(shared) as other:
        assert "result" in other.ask("synctid")


def test_half_a_line_keeps_nobody_waiting(shared: Mount) -> None:
    with connected(shared) as slow, connected(shared) as other:
        slow.send(b'{"verb": "syn')
        assert "result" in other.ask("synctid")
        slow.send(b'ctid"}\n{"verb": "synctid"}\n')
        assert all("result" in (slow.reply() or {}) for _ in range(2))
    with connected(shared) as gone:
        gone.send(b'{"verb": "synctid"}\n')
    with connected(shared) as after:
        assert "result" in after.ask("synctid")


def test_many_clients_at_once(mount: Mount) -> None:
    tids: list[str] = []

    def work(number: int) -> None:
        with connected(mount) as client:
            for i in range(5):
                (mount.root / f"f{number}-{i}").write_bytes(os.urandom(3000))
                tids.append(client.ask("snap", path="/", label=f"{number}-{i}")["result"]["tid"])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(tids)) == 20
    listed = json.loads(run_hammer("--json", "snapls", mount.root))
    assert {row["label"] for row in listed} == {f"{n}-{i}" for n in range(4) for i in range(5)}


# Verbs on a mount


def test_a_snapshot_holds_every_write_that_had_returned(mount: Mount) -> None:
    """Also of a file that is still open, whose data the kernel may not have handed over."""
    path = mount.root / "open"
    with open(path, "wb", buffering=0) as stream:
        for i in range(40):
            stream.write(b"%06d\n" % i * 5000)
            if i % 8 == 7:
                where = Path(run_hammer("snapq", mount.root, f"after {i}").strip())
                assert (where / "open").stat().st_size == (i + 1) * 35_000
                assert (where / "open").read_bytes() == path.read_bytes()
        stream.truncate(12)
        stream.seek(5)
        stream.write(b"end")
        tid = run_hammer("synctid", mount.root).strip()
        assert (mount.root / f"@@{tid}" / "open").read_bytes() == b"00000end0000"
    assert (mount.root / ".hammer" / "snapshots" / "after 7" / "open").stat().st_size == 8 * 35_000


def test_a_snapshot_under_a_writer(mount: Mount) -> None:
    """Records are numbered: each point in time shows all writes that had returned, in their order, and nothing else.

    Of the one write that had not returned the kernel may have handed over the first of two pages.
    """
    path = mount.root / "log"
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with open(path, "ab", buffering=0) as stream:
            while not stop.is_set():
                stream.write(b"%09d\n" % written)
                written += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for i in range(6):
            before = written
            where = Path(run_hammer("snapq", mount.root, str(i)).strip())
            found = (where / "log").read_bytes() if (where / "log").exists() else b""
            assert len(found) >= before * 10
            whole = b"".join(b"%09d\n" % n for n in range(len(found) // 10 + 1))
            assert found == whole[: len(found)]
    finally:
        stop.set()
        thread.join()


def test_synctid(mount: Mount) -> None:
    tids = []
    for i in range(3):
        (mount.root / f"f{i}").write_bytes(b"x")
        tids.append(run_hammer("synctid", mount.root / f"f{i}").strip())
        assert TID.match(tids[-1])
        assert (mount.root / f"@@{tids[-1]}" / f"f{i}").exists()
    assert tids == sorted(set(tids))
    assert not (mount.root / f"@@{tids[0]}" / "f1").exists()
    assert json.loads(run_hammer("--json", "synctid", mount.root)) == {"tid": tids[-1]}


def test_snap_and_snaplo_make_links(mount: Mount) -> None:
    folder = mount.root / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"then")
    run_hammer("snap", folder / "link", "of the root")
    (folder / "other").touch()
    run_hammer("snaplo", folder / "here", "of the folder")
    (folder / "file").write_bytes(b"now")
    assert os.readlink(folder / "link").startswith(f"{mount.root}/@@0x")
    assert (folder / "link" / "a" / "b" / "file").read_bytes() == b"then"
    assert re.fullmatch(rf"{re.escape(str(folder))}@@0x[0-9a-f]{{16}}", os.readlink(folder / "here"))
    assert (folder / "here" / "file").read_bytes() == b"then"
    (folder / "taken").touch()
    assert "is there already" in run_hammer("snap", folder / "taken", code=2)
    assert "is in the past" in run_hammer("snap", folder / "link", code=2)
    listed = json.loads(run_hammer("--json", "snapls", folder))
    assert [row["label"] for row in listed] == ["of the root", "of the folder"]
    run_hammer("snaprm", folder / "link", folder / "here")
    assert not os.path.lexists(folder / "link")
    assert json.loads(run_hammer("--json", "snapls", folder)) == []


def test_snaprm_by_tid(mount: Mount) -> None:
    for name in ("one", "two"):
        (mount.root / name).touch()
        run_hammer("snapq", mount.root, name)
    first, second = (row["tid"] for row in json.loads(run_hammer("--json", "snapls", mount.root)))
    assert "is no snapshot" in run_hammer("snaprm", mount.root, "0x00000001000000ff", code=1)
    run_hammer("snaprm", mount.root, first)
    assert [row["tid"] for row in json.loads(run_hammer("--json", "snapls", mount.root))] == [second]
    assert os.listdir(mount.root / ".hammer" / "snapshots") == ["two"]


def test_flags(mount: Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"fixed")
    assert flags("lsflags", path) == "-"
    run_hammer("chflags", "immutable", path)
    assert flags("lsflags", path) == "uimmutable"
    for refused, args in (
        (os.open, (path, os.O_RDWR)),
        (os.truncate, (path, 0)),
        (os.unlink, (path,)),
        (os.rename, (path, mount.root / "x")),
        (os.link, (path, mount.root / "x")),
    ):
        with pytest.raises(PermissionError):
            refused(*args)
    assert path.read_bytes() == b"fixed"
    run_hammer("chflags", "noimmutable,append", path)
    assert flags("lsflags", path) == "uappend"
    with open(path, "ab") as stream:
        stream.write(b" and more")
    for refused, args in (
        (os.open, (path, os.O_RDWR)),
        (os.truncate, (path, 0)),
        (os.unlink, (path,)),
        (os.open, (path, os.O_WRONLY | os.O_APPEND | os.O_TRUNC)),
    ):
        with pytest.raises(PermissionError):
            refused(*args)
    assert path.read_bytes() == b"fixed and more"
    run_hammer("chflags", "noappend,nohistory", path)
    assert flags("lsflags", path) == "unohistory"
    path.write_bytes(b"free again")
    path.unlink()
    path.touch()
    assert "unknown flag 'shiny'" in run_hammer("chflags", "shiny", path, code=2)


def test_flags_of_links_and_of_the_root(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "rw") as mount:
        (mount.root / "link").symlink_to("/nowhere")
        run_hammer("chflags", "nodump", mount.root / "link", mount.root)
        assert [flags("lsflags", name) for name in (mount.root / "link", mount.root)] == ["nodump", "nodump"]
    check(image)
    assert [flags("-f", image, "lsflags", name) for name in ("/link", "/")] == ["nodump", "nodump"]


def test_verbs_off_a_mount(tmp_path: Path) -> None:
    assert "is not on a mounted HAMMER file system" in run_hammer("synctid", tmp_path, code=2)
    assert "No such file" in run_hammer("synctid", tmp_path / "none", code=1)


def test_a_killed_daemon_is_named(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "rw") as mount:
        path = socket_of(mount)
        mount.daemon.kill()
        mount.daemon.wait()
        said = run_hammer("synctid", mount.root, code=1)
        assert said == f"hammer: synctid: {mount.root}: the daemon of this mount has died; {CLEARED_BY} {mount.root}\n"
        path.unlink()
    check(image)


CLEARED_BY = "clear it by: fusermount3 -u"


# The same on an image


def test_verbs_on_an_image(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "rw") as mount:
        (mount.root / "file").write_bytes(b"contents")
        busy = run_hammer("-f", image, "synctid", "/", code=1)
        assert "is open for writing already" in busy
    first = run_hammer("-f", image, "synctid", "/").strip()
    assert TID.match(first)
    assert re.fullmatch("/@@0x[0-9a-f]{16}", run_hammer("-f", image, "snapq", "/", "off").strip())
    listed = json.loads(run_hammer("--json", "-f", image, "snapls"))
    assert [row["label"] for row in listed] == ["off"]
    run_hammer("-f", image, "snaprm", json.loads(run_hammer("--json", "-f", image, "snap", "/link"))["tid"])
    run_hammer("-f", image, "chflags", "nodump", "/file")
    assert flags("-f", image, "lsflags", "/file") == "nodump"
    check(image)
    with live(tmp_path, image) as mount:
        assert flags("lsflags", mount.root / "file") == "nodump"
        assert (mount.root / ".hammer" / "snapshots" / "off" / "file").read_bytes() == b"contents"
    run_hammer("-f", image, "snaprm", listed[0]["tid"])
    assert json.loads(run_hammer("--json", "-f", image, "snapls")) == []
    check(image)
