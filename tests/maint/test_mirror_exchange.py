"""Mirroring between two programs: the words they say, rounds, ends that die, and interrupts."""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hammerfs.device.sparse import copy_sparse
from hammerfs.errors import HammerError, InvalidError, UsageError
from hammerfs.fs import HammerFS
from hammerfs.ondisk.mirror import MREC_IDLE, MREC_PFSD, MREC_SYNC, MREC_TERM, MREC_UPDATE
from hammerfs.ondisk.records import PfsData
from hammerfs.rw import WritableFS
from tests.enginelab import assert_same, fresh, mount
from tests.fuse.rwlab import make_image
from tests.maint.lab import Here, verb
from tests.maint.test_mirror import Out, tree_of
from tools import mirrorsource
from tools.cli import main
from tools.fsck.check import check
from tools.mirrorlink import RSH_VARIABLE, Link, Remote, parse_remote, remote_command
from tools.mirrorsource import MirrorSource, Round, Sending, send
from tools.mirrorstream import Found, head_record, last_record, records, round_end
from tools.mirrortarget import OneWay, TwoWay
from tools.parser import byte_count
from tools.stop import Stop, Stopped

PATIENCE_S = 60
FILES = 40


def grow(image: Path, step: int) -> None:
    """Files of PFS 1 change, at many TIDs."""
    with WritableFS.open_rw([str(image)]) as fs:
        for number in range(FILES):
            name = b"f%d" % number
            if step:
                fs.unlink(fs.root(1), name)
            fs.write(fs.create(fs.root(1), name), 0, b"%d of step %d" % (number, step) * 900)
            if number % 5 == 0:
                fs.sync()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image that has a master, and an empty one."""
    folder = tmp_path_factory.mktemp("made")
    images = [make_image(folder, name) for name in ("master.img", "slave.img")]
    with WritableFS.open_rw([str(images[0])]) as fs:
        verb(fs, "pfs-create", path="/", link="m", slave=False, options=[])
    grow(images[0], 0)
    return folder


@pytest.fixture
def disks(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it; both are sound in the end."""
    for image in made.iterdir():
        copy_sparse(image, tmp_path / image.name)
    yield tmp_path
    for image in tmp_path.glob("*.img"):
        assert [f for f in check(str(image), data=True) if f.is_error] == []


@pytest.fixture
def hosts(disks: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Other hosts: their names are those of images."""
    script = disks / "rsh"
    script.write_text(
        '#!/bin/sh\nimage=$1; eval "set -- $2"; shift\n'
        f'exec {shlex.quote(sys.executable)} -m tools.cli -f {shlex.quote(str(disks))}/"$image.img" "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(RSH_VARIABLE, str(script))
    return disks


def assert_mirrored(folder: Path) -> None:
    """The slave shows what the master does, now and at the last TIDs before it was complete."""
    with HammerFS.open(str(folder / "master.img")) as master, HammerFS.open(str(folder / "slave.img")) as slave:
        tids = sorted({entry.create_tid for entry in master.readdir(master.root(1))})[-5:]
        for tid in (*tids, slave.pfs.get(1).sync_end_tid):
            assert_same(tree_of(slave, 1, tid), tree_of(master, 1, tid))
        assert len(tree_of(slave, 1)) == FILES + 1


# By way of another host


@pytest.mark.parametrize(
    ("local", "words"),
    [
        ("master.img", ["/m", "slave:/s"]),
        ("slave.img", ["master:/m", "/s"]),
        ("", ["master:/m", "slave:/s"]),
    ],
)
def test_either_end_may_be_elsewhere(hosts: Path, capsys: Out, local: str, words: list[str]) -> None:
    here = ["-f", str(hosts / local)] if local else []
    for step in range(2):
        if step:
            grow(hosts / "master.img", step)
        assert main([*here, "mirror-copy", *words]) == 0, capsys.readouterr().err
        captured = capsys.readouterr()
        assert captured.out.startswith("mirror-copy ")
        assert captured.out.endswith(" succeeded\n")
        assert captured.err == ""
        assert_mirrored(hosts)
    assert main([*here, "--json", "mirror-copy", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    if local:
        assert report["pfs"] == (1 if local == "slave.img" else None)
        assert report["rounds"] == 1
    else:
        assert report == {"source": "master:/m", "slave": "slave:/s"}


def test_only_what_is_new_is_sent(hosts: Path, capsys: Out, tmp_path: Path) -> None:
    words = ["-f", str(hosts / "master.img"), "-c", str(tmp_path / "cycle"), "--json", "mirror-copy", "/m", "slave:/s"]
    sent = []
    for step in range(3):
        if step == 1:
            with WritableFS.open_rw([str(hosts / "master.img")]) as fs:
                fs.write(fs.create(fs.root(1), b"one"), 0, b"more")
        assert main(words) == 0
        done = json.loads(capsys.readouterr().out)
        sent.append(done["nbytes"])
        assert (tmp_path / "cycle").read_text() == done["sync_end_tid"] + "\n"
    assert sent[2] <= sent[1] < sent[0] // 2


def test_rounds_by_size(disks: Path, capsys: Out) -> None:
    master, slave = str(disks / "master.img"), str(disks / "slave.img")
    assert main(["-v", "-S", "100k", "-f", master, "--json", "mirror-copy", "--to", slave, "/m", "/s"]) == 0
    captured = capsys.readouterr()
    rounds = json.loads(captured.out)["rounds"]
    assert 4 <= rounds <= 9
    told = [line.split()[2:5:2] for line in captured.err.splitlines()]
    assert len(told) == rounds
    for (_, end), (begin, _) in itertools.pairwise(told):
        assert int(begin, 16) == int(end.rstrip(":"), 16) + 1
    assert_mirrored(disks)
    assert main(["-B", "-S", "100k", "-f", master, "--json", "mirror-copy", "--to", slave, "/m", "/whole"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == 1
    with HammerFS.open(slave) as fs:
        assert_same(tree_of(fs, 1), tree_of(fs, 2))


# Other ends that fail


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "host: the other end has gone away (exit code 3)"),
        ("echo 'disk on fire' >&2; exit 1", "host: disk on fire"),
        ("exec <&- >&-; printf 'a\\033[1mb' >&2", r"host: a\x1b[1mb"),
        ("exec >&-; exit 0", "host: the other end has gone away (exit code 0)"),
        ("kill -9 $$", "host: the other end has gone away (exit code -9)"),
    ],
)
def test_a_host_that_dies_is_one_line(
    disks: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    monkeypatch.setenv(RSH_VARIABLE, f"sh -c {shlex.quote(script)}")
    for words in (["/m", "host:/s"], ["host:/m", "/m2"], ["host:/m", "host:/s"]):
        code = main(["-f", str(disks / "master.img"), "mirror-copy", *words])
        said_now = capsys.readouterr().err
        if code or words[1] == "/m2" or words[0] == "/m":  # two that both end well are believed
            assert (code, said_now) == (1, f"hammer: mirror-copy: {said}\n")


@pytest.mark.parametrize("words", [["/m", "host:/s"], ["host:/m", "/m2"]])
def test_a_host_that_says_something_else(
    disks: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv(RSH_VARIABLE, "sh -c 'echo Welcome to this host, which has rules; exec sleep 1000'")
    assert main(["-f", str(disks / "master.img"), "mirror-copy", *words]) == 1
    err = capsys.readouterr().err
    assert err == "hammer: mirror-copy: host: offset 0x0000000000000000: mirror record has signature 636c6557\n"


def test_errors_of_the_other_host_are_told(hosts: Path, capsys: Out) -> None:
    master = str(hosts / "master.img")
    for words, said in (
        (["/m", "slave:/no/such"], "slave: mirror-write: "),
        (["/m", "slave:/"], "slave: mirror-write: PFS 0 is a master: it takes no stream"),
        (["master:/m", "slave:/no/such"], "slave: mirror-write: "),
        (["master:/gone", "slave:/s"], "master: mirror-read: "),
    ):
        here = [] if words[0].startswith("master:") else ["-f", master]
        assert main([*here, "mirror-copy", *words]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"hammer: mirror-copy: {said}")
        assert err.count("\n") == 1


def test_a_stream_that_breaks_off_leaves_the_slave_as_it_was(
    hosts: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    slave = str(hosts / "slave.img")
    assert main(["-f", slave, "mirror-copy", "master:/m", "/s"]) == 0
    with HammerFS.open(slave) as fs:
        before, end = tree_of(fs, 1), fs.pfs.get(1).sync_end_tid
    grow(hosts / "master.img", 1)
    script = hosts / "cut"
    script.write_text(
        f"#!{sys.executable}\nimport os, subprocess, sys\nleft = 60000\n"
        f"with subprocess.Popen([{str(hosts / 'rsh')!r}, *sys.argv[1:]], stdout=subprocess.PIPE) as source:\n"
        "    while left:\n        left -= os.write(1, os.read(source.stdout.fileno(), left))\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv(RSH_VARIABLE, str(script))
    assert main(["-f", slave, "mirror-copy", "master:/m", "/s"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with HammerFS.open(slave) as fs:
        assert fs.pfs.get(1).sync_end_tid == end
        assert_same(tree_of(fs, 1), before)
    monkeypatch.setenv(RSH_VARIABLE, str(hosts / "rsh"))
    assert main(["-f", slave, "mirror-copy", "master:/m", "/s"]) == 0
    assert_mirrored(hosts)


def test_nobody_waits_for_an_end_that_has_closed() -> None:
    ours, theirs = socket.socketpair()
    with Stop() as stop, ours:
        target = TwoWay(Link("host", stop, ours.fileno(), ours.fileno()))
        theirs.close()
        with pytest.raises(HammerError, match="host: the other end has gone away"):
            target.pause(1e6)
        with pytest.raises(HammerError, match="host: the other end has gone away"):
            target.greet(PfsData())


def test_waiting_ends_with_a_signal_or_the_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with Stop(0.01) as stop, pytest.raises(Stopped, match="timer") as told:
            Link("host", stop, ours.fileno(), ours.fileno()).read()
        assert told.value.exit_code == 0
        for number in (signal.SIGINT, signal.SIGTERM):
            with Stop() as stop:
                link = Link("host", stop, ours.fileno(), ours.fileno())
                os.kill(os.getpid(), number)
                with pytest.raises(Stopped, match=number.name) as told:
                    link.write(bytes(1 << 22))
                assert told.value.exit_code == 130


# The words of the exchange


def program(*words: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tools.cli", *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_what_a_source_says(disks: Path) -> None:
    with HammerFS.open(str(disks / "master.img")) as fs:
        slave = PfsData(shared_uuid=fs.pfs.get(1).shared_uuid, mirror_flags=1, sync_end_tid=1)
    with program("-2", "-S", "200k", "-f", disks / "master.img", "mirror-read", "/m") as source:
        assert source.stdin is not None
        assert source.stdout is not None
        said: list[Found] = []
        rounds = []
        for one in records(source.stdout):
            said.append(one)
            types = [found.type for found in said]
            if types == [MREC_PFSD]:
                answer = head_record(slave)
            elif one.type == MREC_SYNC:
                assert types[:2] == [MREC_PFSD, MREC_PFSD]
                begin, end = slave.sync_end_tid + 1, end_of(said[1])
                for found in said:
                    leaf = found.record.leaf
                    assert leaf is None or leaf.create_tid <= end
                rounds.append((begin, end))
                slave.sync_end_tid = end
                answer = update(end)
                said = []
            else:
                continue
            source.stdin.write(answer)
            source.stdin.flush()
        assert [found.type for found in said] == [MREC_TERM]
        assert source.wait(PATIENCE_S) == 0
    assert len(rounds) > 1


def end_of(found: Found) -> int:
    assert found.record.pfsd is not None
    return found.record.pfsd.sync_end_tid


def update(tid: int) -> bytes:
    from tools.mirrorstream import update_record

    return update_record(tid)


@pytest.mark.parametrize("what", ["stranger", "master", "wrong", "end", "nonsense", "late"])
def test_slaves_that_do_not_fit_are_refused(disks: Path, what: str) -> None:
    with HammerFS.open(str(disks / "master.img")) as fs:
        shared = fs.pfs.get(1).shared_uuid
    answers = {
        "stranger": (head_record(PfsData(shared_uuid=bytes(16), mirror_flags=1)), "is a slave of another master"),
        "master": (head_record(PfsData(shared_uuid=shared)), "is a master: it takes no stream"),
        "wrong": (update(7), "does not tell what the slave is"),
        "end": (last_record(), "has ended the exchange"),
        "nonsense": (bytes(400), "has signature 00000000"),
        "late": (head_record(PfsData(shared_uuid=shared, mirror_flags=1)) + update(7), "does not confirm"),
    }
    answer, said = answers[what]
    with program("-2", "-f", disks / "master.img", "mirror-read", "/m") as source:
        _, err = source.communicate(answer, PATIENCE_S)
    assert source.returncode == 1
    assert err.startswith(b"hammer: mirror-read: standard input and output")
    assert said.encode() in err
    assert err.count(b"\n") == 1


def test_what_a_slave_says(disks: Path) -> None:
    with WritableFS.open_rw([str(disks / "master.img")]) as fs:
        source = MirrorSource(Here(fs), "/m")
        pfs = source.status()
        data = b"".join(source.pieces(1, pfs.sync_end_tid, 50_000))
    with program("-2", "-f", disks / "slave.img", "mirror-write", "/s") as slave:
        assert slave.stdin is not None
        assert slave.stdout is not None
        heard = records(slave.stdout)
        for has_work in (True, False):
            slave.stdin.write(head_record(pfs))
            slave.stdin.flush()
            status = next(heard).record.pfsd
            assert status is not None
            assert status.is_slave
            assert status.shared_uuid == pfs.shared_uuid
            assert status.sync_end_tid == (1 if has_work else pfs.sync_end_tid)
            slave.stdin.write(head_record(pfs) + (data if has_work else b"") + round_end(has_work=has_work))
            slave.stdin.flush()
            answer = next(heard).record
            assert (answer.type, answer.tid) == (MREC_UPDATE, pfs.sync_end_tid)
        out, err = slave.communicate(last_record(), PATIENCE_S)
        assert (slave.returncode, out, err) == (0, b"", b"")
    assert_mirrored(disks)


# Streams that go on


def test_a_stream_goes_on_until_it_is_interrupted(disks: Path) -> None:
    master, slave = disks / "master.img", disks / "slave.img"
    words = ("-v", "-S", "100k", "-b", "400k", "-f", master, "mirror-stream", "--to", slave, "/m", "/s")
    with program(*words) as stream:
        assert stream.stderr is not None
        first = stream.stderr.readline().decode().split()
        stream.send_signal(signal.SIGTERM)
        _, err = stream.communicate(timeout=PATIENCE_S)
    assert stream.returncode == 130
    last = err.decode().splitlines()[-1]
    end = int(last.rpartition("0x")[2], 16)
    assert last == f"hammer: mirror-stream: interrupted by SIGTERM; the slave is complete up to 0x{end:016x}"
    assert end >= int(first[4].rstrip(":"), 16)
    with HammerFS.open(str(master)) as source, HammerFS.open(str(slave)) as fs:
        assert fs.pfs.get(1).sync_end_tid == end
        assert_same(tree_of(fs, 1), tree_of(source, 1, end))
    assert main(["-f", str(master), "mirror-copy", "--to", str(slave), "/m", "/s"]) == 0
    assert_mirrored(disks)


def test_a_stream_that_is_killed_goes_on_from_the_last_round(disks: Path, capsys: Out) -> None:
    master, slave = disks / "master.img", disks / "slave.img"
    words = ("-v", "-S", "100k", "-b", "400k", "-f", master, "mirror-copy", "--to", slave, "/m", "/s")
    with program(*words) as copy:
        assert copy.stderr is not None
        first = int(copy.stderr.readline().decode().split()[4].rstrip(":"), 16)
        copy.kill()
    with HammerFS.open(str(master)) as source, HammerFS.open(str(slave)) as fs:
        end = fs.pfs.get(1).sync_end_tid
        assert first <= end
        assert_same(tree_of(fs, 1), tree_of(source, 1, end))
    assert main(["-v", "-f", str(master), "mirror-copy", "--to", str(slave), "/m", "/s"]) == 0
    said = capsys.readouterr().err
    assert not said or said.startswith(f"hammer: mirror-copy: 0x{end + 1:016x} to 0x"), "nothing if it was too fast"
    assert_mirrored(disks)


def test_a_stream_to_another_host_is_interrupted(hosts: Path) -> None:
    words = ("-v", "-i", "0", "-f", hosts / "master.img", "mirror-stream", "/m", "slave:/s")
    with program(*words) as stream:
        assert stream.stderr is not None
        assert b" to 0x" in stream.stderr.readline()
        stream.send_signal(signal.SIGINT)
        _, err = stream.communicate(timeout=PATIENCE_S)
    assert stream.returncode == 130
    assert b"interrupted by SIGINT; the slave is complete up to 0x" in err
    assert_mirrored(hosts)


def test_a_stream_in_one_direction_goes_on(disks: Path) -> None:
    with program("-i", "0", "-f", disks / "master.img", "mirror-read-stream", "/m") as source:
        assert source.stdout is not None
        raw = b""
        for one in records(source.stdout):
            raw += one.raw
            if one.type == MREC_SYNC:
                break
        source.send_signal(signal.SIGTERM)
        rest, err = source.communicate(timeout=PATIENCE_S)
    assert (source.returncode, rest) == (130, b"")
    assert err == b"hammer: mirror-read-stream: interrupted by SIGTERM\n"
    with program("-f", disks / "slave.img", "mirror-write", "/s") as slave:
        assert slave.communicate(raw, PATIENCE_S) == (b"", b"")
    assert_mirrored(disks)


def test_the_time_that_was_given(disks: Path, capsys: Out) -> None:
    words = ["-f", str(disks / "master.img"), "mirror-copy", "--to", str(disks / "slave.img"), "/m", "/s"]
    assert main(["-t", "0", *words]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "hammer: mirror-copy: interrupted by timer; the slave is complete up to 0x0000000000000001\n"
    )
    assert main(words) == 0
    assert_mirrored(disks)


class Heard:
    """A slave that notes what it is given, and on which time passes.

    Args:
        changes: What happens at the source in each pause, one after the other; then it is over.
        sync_end_tid: How far it is.
    """

    def __init__(self, changes: list[object] | None = None, sync_end_tid: int = 1) -> None:
        self.changes = changes or []
        self.synced: int | None = sync_end_tid
        self.rounds: list[tuple[int, bool]] = []
        self.nbytes = 0
        self.paused = 0.0
        self.end_tid = 0

    def greet(self, master: PfsData) -> int:
        assert self.synced is not None
        return self.synced + 1

    def begin(self, pfs: PfsData) -> None:
        self.end_tid = pfs.sync_end_tid

    def add(self, data: bytes) -> None:
        self.nbytes += len(data)

    def end(self, *, has_work: bool) -> None:
        self.rounds.append((self.end_tid, has_work))
        self.synced = self.end_tid

    def close(self) -> None:
        self.rounds.append((0, False))

    def pause(self, seconds: float) -> None:
        self.paused += seconds
        if not self.changes:
            raise Stopped("enough", 0)
        change = self.changes.pop(0)
        if callable(change):
            change()

    def report(self) -> dict[str, object]:
        return {}


def master_in_memory() -> WritableFS:
    fs = mount(fresh())
    verb(fs, "pfs-create", path="/", link="m", slave=False, options=[])
    for number in range(20):
        fs.write(fs.create(fs.root(1), b"f%d" % number), 0, b"x" * 50_000)
        fs.sync()
    return fs


def nothing(_done: Round | None = None) -> None:
    """What is not of interest."""


def test_rounds_follow_news() -> None:
    fs = master_in_memory()

    def elsewhere() -> None:
        fs.write(fs.create(fs.root(), b"not in the PFS"), 0, b"x")
        fs.sync()

    def news() -> None:
        fs.write(fs.create(fs.root(1), b"news"), 0, b"x")
        fs.sync()

    def gone() -> None:
        fs.unlink(fs.root(1), b"news")
        fs.sync()

    target = Heard([None, elsewhere, None, news, None, None, gone, None])
    with pytest.raises(Stopped):
        send(MirrorSource(Here(fs), "/m"), target, Sending(delay=7.0), nothing, nothing)
    assert [has_work for _, has_work in target.rounds] == [True, True, True]
    assert target.paused == 9 * 7.0
    fs.close()


def test_a_slave_as_a_source_has_news_when_it_is_complete() -> None:
    fs = master_in_memory()
    shared = fs.pfs.get(1).shared_uuid.hex()
    verb(fs, "pfs-create", path="/", link="s", slave=True, options=[f"shared-uuid={fs.pfs.get(1).shared}"])
    source = MirrorSource(Here(fs), "/m")
    end = source.status().sync_end_tid
    data = b"".join(source.pieces(1, end, 1 << 20))
    words = {"pfs": 2, "shared_uuid": shared}

    def fill() -> None:
        text = base64.b64encode(data).decode()
        verb(fs, "mirror-write", data=text, tid_beg="0x1", tid_end=f"0x{end:x}", **words)

    def complete() -> None:
        verb(fs, "mirror-synced", tid=f"0x{end:x}", **words)

    target = Heard([None, fill, None, complete, None])
    with pytest.raises(Stopped):
        send(MirrorSource(Here(fs), "/s"), target, Sending(delay=5.0), nothing, nothing)
    assert target.rounds == [(1, False), (end, True)]
    fs.close()


@pytest.mark.parametrize("split", [1, 60_000, 300_000, 1 << 40])
def test_rounds_are_about_as_large_as_asked_for(split: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrorsource, "_MOST_TIDS", 16)
    fs = master_in_memory()
    done: list[Round] = []
    target = Heard()
    send(MirrorSource(Here(fs), "/m"), target, Sending(split=split), nothing, done.append)
    assert target.rounds[-1] == (0, False), "the exchange is ended"
    assert done[-1].tid_end == fs.newest_tid
    for before, later in itertools.pairwise(done):
        assert later.tid_beg == before.tid_end + 1 < later.tid_end
    least, most = {1: (10, 25), 60_000: (10, 25), 300_000: (4, 8), 1 << 40: (1, 1)}[split]
    assert least <= len(done) <= most
    fs.close()


def test_no_more_than_the_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = master_in_memory()
    target = Heard()
    monkeypatch.setattr(target, "pause", lambda seconds: setattr(target, "paused", target.paused + seconds))
    monkeypatch.setattr("tools.mirrorsource.time.monotonic", lambda: target.paused)
    send(MirrorSource(Here(fs), "/m"), target, Sending(bandwidth=100_000), nothing, nothing)
    assert target.nbytes > 1_000_000
    assert target.paused == pytest.approx(target.nbytes / 100_000)
    fs.close()


def test_streams_in_one_direction_hold_rounds_too(disks: Path, capsys: Out, tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    with stream.open("wb") as out:
        code = subprocess.run(
            [sys.executable, "-m", "tools.cli", "-S", "200k", "-f", disks / "master.img", "mirror-read", "/m"],
            stdout=out,
            check=False,
        ).returncode
    assert code == 0
    with stream.open("rb") as data:
        assert sum(one.type == MREC_SYNC for one in records(data)) > 1
    with stream.open("rb") as data:
        subprocess.run(
            [sys.executable, "-m", "tools.cli", "-f", disks / "slave.img", "mirror-write", "/s"],
            stdin=data,
            check=True,
        )
    assert_mirrored(disks)


def test_the_file_of_the_last_synchronisation_is_where_a_stream_begins(disks: Path, tmp_path: Path) -> None:
    with HammerFS.open(str(disks / "master.img")) as fs:
        newest = fs.newest_tid
    cycle = tmp_path / "cycle"
    command = [sys.executable, "-m", "tools.cli", "-c", str(cycle), "-f", str(disks / "master.img"), "mirror-read"]
    everything = subprocess.run([*command, "/m"], stdout=subprocess.PIPE, check=True).stdout
    assert not cycle.exists(), "nobody has confirmed anything"
    cycle.write_text(f"0x{newest:016x}\n")
    rest = subprocess.run([*command, "/m"], stdout=subprocess.PIPE, check=True).stdout
    assert len(rest) < len(everything) // 10
    assert [one.type for one in records(io.BytesIO(rest))][-1] in {MREC_IDLE, MREC_SYNC}
    assert subprocess.run([*command, "/m", "0x1"], stdout=subprocess.PIPE, check=True).stdout == everything


def test_a_reader_that_goes_away(disks: Path) -> None:
    with program("-f", disks / "master.img", "mirror-read", "/m") as source:
        assert source.stdout is not None
        source.stdout.close()
        assert source.stderr is not None
        assert source.stderr.read() == b"hammer: mirror-read: standard output: the other end has gone away\n"
        assert source.wait(PATIENCE_S) == 1


# Command line


def test_where_a_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_remote("host:/pfs") == Remote("host", "/pfs")
    assert parse_remote("me@host:pfs/a:b") == Remote("me@host", "pfs/a:b")
    for path in ("/pfs", "/a:b", "./a:b", "pfs", "."):
        assert parse_remote(path) is None
    for text in (":/pfs", "-oProxyCommand=x:/pfs", "host:"):
        with pytest.raises(UsageError):
            parse_remote(text)
    monkeypatch.delenv(RSH_VARIABLE, raising=False)
    command = remote_command("me@host", ["-p", "22", "-C"], ["-2", "mirror-read", "/a b';x"])
    assert command[0] == "ssh"
    assert command[-4:] == ["22", "-C", "me@host", "hammer -2 mirror-read '/a b'\"'\"';x'"]
    assert shlex.split(command[-1])[-1] == "/a b';x"
    monkeypatch.setenv(RSH_VARIABLE, "'")
    with pytest.raises(UsageError, match=RSH_VARIABLE):
        remote_command("host", [], [])


def test_options_are_passed_on(disks: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RSH_VARIABLE, "sh -c 'echo \"$@\" >&2; exit 1' sh")
    options = ["-y", "-p", "2222", "-X", "-B", "-S", "1m", "-b", "2k", "-i", "3", "-f", str(disks / "slave.img")]
    assert main([*options, "mirror-stream", "host:/m x", "/s"]) == 1
    said = "-p 2222 -C host hammer -2 -B -S 1048576 -b 2048 -i 3 mirror-read-stream '/m x'\n"
    assert capsys.readouterr().err == f"hammer: mirror-stream: host: {said}"
    assert main(["-y", "-f", str(disks / "master.img"), "mirror-copy", "/m", "host:/s"]) == 1
    assert capsys.readouterr().err == "hammer: mirror-copy: host: host hammer -2 -y mirror-write /s\n"


@pytest.mark.parametrize("text", ["", "k", "0", "-1", "1.5g", "1e3", "9223372036854775808", "9999999t", "1kk", "٣"])
def test_no_number_of_bytes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no"):
        byte_count(text)


def test_numbers_of_bytes() -> None:
    assert [byte_count(text) for text in ("1", "512", "2k", "3M", "4g", "1t")] == [
        1, 512, 2 << 10, 3 << 20, 4 << 30, 1 << 40
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-S", "x", "mirror-copy", "a", "b"], "argument -S: 'x' is no number of bytes"),
        (["-i", "-1", "mirror-copy", "a", "b"], "argument -i: "),
        (["-p", "0", "mirror-copy", "a", "b"], "argument -p: '0' is no port"),
        (["-2", "mirror-read", "--compress", "lz4", "a"], "--compress is for streams in one direction"),
        (["mirror-copy", "--to", "x", "a", "h:b"], "--to names volumes here"),
        (["mirror-copy", "-h:/a", "b"], ""),
    ],
)
def test_wrong_calls(capsys: Out, words: list[str], said: str) -> None:
    try:
        code = main(words)
    except SystemExit as err:
        code = int(str(err.code))
    captured = capsys.readouterr()
    if said:
        assert code == 2
        assert said in captured.err
        assert captured.err.count("\n") == 1


def test_one_way_targets_know_nothing_of_the_slave() -> None:
    out = io.BytesIO()
    target = OneWay(out, nothing)  # type: ignore[arg-type]
    fs = master_in_memory()
    send(MirrorSource(Here(fs), "/m"), target, Sending(begin=fs.newest_tid), nothing, nothing)
    out.seek(0)
    assert [one.type for one in records(out)] == [MREC_PFSD, MREC_PFSD, MREC_IDLE]
    assert target.synced is None
    with pytest.raises(InvalidError, match="master"):
        verb(fs, "mirror-target", path="/m", shared_uuid="00" * 16)
    fs.close()
