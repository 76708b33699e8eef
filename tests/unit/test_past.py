"""Differences between two TIDs, the log of a file system, deleted names, versions, and times as people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import pytest

from hammerfs.btree.node import Node
from hammerfs.btree.search import BTree
from hammerfs.changes import WriteOptions
from hammerfs.const import MAX_TID
from hammerfs.errors import BufferMiss, NotFound, UsageError
from hammerfs.filewrite import SetAttr
from hammerfs.inode import Inode
from hammerfs.maint import snapshots, verbs_history
from hammerfs.maint.verbs_history import QUESTIONS, Past
from hammerfs.reports import (
    asof_path,
    deleted_rows,
    diff_rows,
    held_rows,
    log_rows,
    plain_path,
    tree_path,
    version_rows,
)
from hammerfs.rw import WritableFS
from hammerfs.treediff import Change, by_path, changed_elements, changes_back, diff
from hammerfs.viewspec import parse_asof
from tests.enginelab import NEWFS_US, Clock, fresh, mount
from tests.maint.lab import churn, history, verb

HOUR_US = 3_600_000_000


class Lab:
    """A file system whose clock a test turns."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.fs: WritableFS = mount(fresh(), WriteOptions(clock=self.clock))

    def point(self, hours: int = 1) -> int:
        """Everything so far as of a TID; the clock goes on behind it."""
        tid = self.fs.sync()
        self.clock.now += hours * HOUR_US
        return tid

    def file(self, directory: Inode, name: bytes, data: bytes = b"x") -> Inode:
        inode = self.fs.create(directory, name)
        self.fs.write(inode, 0, data)
        return inode


@pytest.fixture
def lab() -> Iterator[Lab]:
    found = Lab()
    with found.fs:
        yield found


def brief(changes: Iterable[Change]) -> list[tuple[str, bytes, bytes | None]]:
    return [(change.kind, change.path, change.old_path) for change in sorted(changes, key=by_path)]


def test_every_kind_of_difference(lab: Lab) -> None:
    fs, root = lab.fs, lab.fs.root()
    folder, other = fs.mkdir(root, b"folder"), fs.mkdir(root, b"other")
    for name in (b"kept", b"changed", b"chmodded", b"gone", b"moved", b"replaced"):
        lab.file(folder, name)
    first = lab.point()
    fs.write(fs.lookup(folder, b"changed"), 0, b"yy")
    fs.setattr(fs.lookup(folder, b"chmodded"), SetAttr(mode=0o600))
    fs.setattr(other, SetAttr(mode=0o700))
    fs.unlink(folder, b"gone")
    fs.rename(folder, b"moved", other, b"there")
    lab.file(folder, b"replacement")
    fs.rename(folder, b"replacement", folder, b"replaced")
    fs.unlink(folder, b"replaced")
    lab.file(folder, b"replaced", b"anew")
    lab.file(other, b"new")
    last = lab.point()
    wanted = [
        ("modified", b"/folder/changed", None),
        ("modified", b"/folder/chmodded", None),
        ("removed", b"/folder/gone", None),
        ("modified", b"/folder/replaced", None),
        ("modified", b"/other", None),
        ("added", b"/other/new", None),
        ("renamed", b"/other/there", b"/folder/moved"),
    ]
    assert brief(diff(fs, 0, first, last)) == wanted
    assert brief(diff(fs, 0, first, MAX_TID)) == wanted
    assert not brief(diff(fs, 0, last, MAX_TID))
    assert not brief(diff(fs, 0, first, first + 1))
    below = diff_rows(diff(fs, 0, first, last), b"/other")
    assert [(row["change"], row["path"]) for row in below] == [
        ("modified", "/other"), ("added", "/other/new"), ("renamed", "/other/there"),
    ]  # fmt: skip


def test_a_tree_that_came_and_went_and_one_that_moved(lab: Lab) -> None:
    fs, root = lab.fs, lab.fs.root()
    outer = fs.mkdir(root, b"outer")
    inner = fs.mkdir(outer, b"inner")
    lab.file(inner, b"deep")
    first = lab.point()
    fs.rename(root, b"outer", root, b"renamed")
    brief_life = fs.mkdir(root, b"brief")
    lab.file(brief_life, b"f")
    middle = lab.point()
    fs.unlink(brief_life, b"f")
    fs.rmdir(root, b"brief")
    fs.write(fs.lookup(inner, b"deep"), 0, b"more")
    last = lab.point()
    assert brief(diff(fs, 0, first, middle)) == [
        ("added", b"/brief", None), ("added", b"/brief/f", None), ("renamed", b"/renamed", b"/outer"),
    ]  # fmt: skip
    assert brief(diff(fs, 0, middle, last)) == [
        ("removed", b"/brief", None), ("removed", b"/brief/f", None), ("modified", b"/renamed/inner/deep", None),
    ]  # fmt: skip
    assert brief(diff(fs, 0, first, last)) == [
        ("renamed", b"/renamed", b"/outer"), ("modified", b"/renamed/inner/deep", b"/outer/inner/deep"),
    ]  # fmt: skip


def test_a_tree_that_was_deleted_and_restored_is_modified(lab: Lab) -> None:
    fs, root = lab.fs, lab.fs.root()
    folder = fs.mkdir(root, b"folder")
    lab.file(folder, b"f")
    first = lab.point()
    fs.unlink(folder, b"f")
    fs.rmdir(root, b"folder")
    lab.point()
    lab.file(fs.mkdir(root, b"folder"), b"f")
    lab.point()
    assert brief(diff(fs, 0, first, MAX_TID)) == [("modified", b"/folder", None), ("modified", b"/folder/f", None)]


def test_links(lab: Lab) -> None:
    fs, root = lab.fs, lab.fs.root()
    inode = lab.file(root, b"one")
    first = lab.point()
    fs.link(inode, root, b"two")
    second = lab.point()
    fs.unlink(root, b"one")
    third = lab.point()
    kinds = {(kind, path) for kind, path, _ in brief(diff(fs, 0, first, second))}
    assert ("added", b"/two") in kinds
    assert kinds <= {("added", b"/two"), ("modified", b"/one")}
    assert ("removed", b"/one") in {(kind, path) for kind, path, _ in brief(diff(fs, 0, second, third))}
    [row] = deleted_rows(fs, root, b"/")[0]
    assert row["path"] == "/one"
    assert row["lives_on"]


def test_a_difference_visits_what_changed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tree of many nodes the few below which something happened are read."""
    fs = lab.fs
    history(fs, 12, per_round=200)
    before = fs.sync()
    fs.write(fs.resolve(b"/d7/f20"), 0, b"changed")
    after = fs.sync()
    read: list[int] = []
    child = BTree.child

    def counting(tree: BTree, node: Node, index: int) -> Node:
        read.append(index)
        return child(tree, node, index)

    monkeypatch.setattr(BTree, "child", counting)
    assert len(list(changed_elements(fs.tree, 0, before, after))) in range(2, 8)
    few = len(read)
    read.clear()
    assert len(list(changed_elements(fs.tree, 0, 0, after))) > 4000
    assert few * 20 < len(read)


def test_the_log_is_all_differences_one_after_the_other(lab: Lab) -> None:
    fs = lab.fs
    history(fs, 4)
    churn(fs, 3)
    tids = []
    for tid, _, changes in changes_back(fs, 0):
        tids.append(tid)
        assert {change.tid for change in changes} <= {tid}
        assert brief(changes) == brief(diff(fs, 0, tid - 1, tid))
    assert tids == sorted(set(tids), reverse=True)
    every = {elm.create_tid for elm in changed_elements(fs.tree, 0, 0, MAX_TID)}
    assert set(tids) <= every | {elm.delete_tid for elm in changed_elements(fs.tree, 0, 0, MAX_TID)}
    rows = [row for row in log_rows(fs, 0) if row]
    added = {row["path"] for row in rows if row["change"] == "added"}
    assert added >= {f"/d{i}/f{j}" for i in range(4) for j in range(40)}
    assert [row for row in log_rows(fs, 0, most=7) if row] == rows[:7]
    assert [row for row in log_rows(fs, 0, b"/d1/f3") if row] == [row for row in rows if row["path"] == "/d1/f3"]


def test_versions_fold_what_is_alike(lab: Lab) -> None:
    fs, root = lab.fs, lab.fs.root()
    inode = lab.file(root, b"f", b"one")
    lab.point()
    for change in (b"two", b"two"):
        fs.write(inode, 0, change)
        lab.point()
    fs.setattr(inode, SetAttr(mode=0o600, uid=7))
    lab.point()
    fs.unlink(root, b"f")
    lab.point()
    lab.file(root, b"f", b"again")
    lab.point()
    rows = version_rows(fs, root, b"f")
    assert [row["changed"] for row in rows] == [
        ["created"], ["contents"], ["mode", "owner"], ["deleted"], ["created"], ["contents"],
    ]  # fmt: skip
    assert [row["folded"] for row in rows] == [0, 1, 0, 0, 0, 0]
    assert [row["size"] for row in rows] == [3, 3, 3, None, 0, 5]
    every = version_rows(fs, root, b"f", fold=False)
    assert [row["changed"] for row in every][2] == ["times"]
    assert len(every) == len(rows) + 1
    folder = fs.mkdir(root, b"folder")
    lab.point()
    lab.file(folder, b"f")
    lab.point()
    assert ["names"] in [row["changed"] for row in version_rows(fs, root, b"folder")]
    with pytest.raises(NotFound, match="never held 'g'"):
        version_rows(fs, root, b"g")


def test_deleted_names_lead_back(lab: Lab) -> None:
    fs, root = lab.fs, lab.fs.root()
    folder = fs.mkdir(root, b"folder")
    names = [b"plain", b"with@@at", b"line\nbreak", b"\xff\x1b[31m", b"n" * 255, b"x@@-1y", b"..."]
    for name in names:
        lab.file(folder, name, name)
    lab.file(folder, b"moved")
    lab.point()
    for name in names:
        fs.unlink(folder, name)
        lab.point()
    fs.rename(folder, b"moved", root, b"elsewhere")
    lab.point()
    rows, below = deleted_rows(fs, folder, b"/folder")
    assert not below
    found = {row["path"].encode("utf-8", "surrogateescape"): row for row in rows}
    assert found.keys() == {b"/folder/" + name for name in (*names, b"moved")}
    assert [path for path, row in found.items() if row["lives_on"]] == [b"/folder/moved"]
    for name in names:
        inode = fs.resolve(found[b"/folder/" + name]["restore"].encode("utf-8", "surrogateescape"))
        assert fs.read(inode, 0, 300) == name
    fs.rmdir(root, b"folder")
    lab.point()
    [row], below = deleted_rows(fs, root, b"/")
    assert (row["path"], row["type"], row["lives_on"]) == ("/folder", "dir", False)
    way = row["restore"].encode()
    assert [folder["path"].encode() for folder in below] == [way]
    again, _ = deleted_rows(fs, fs.resolve(way), way)
    assert {row["path"] for row in again} == {row["path"] for row in rows}
    for row in again:
        if not row["lives_on"] and row["path"] != "/folder/moved":
            assert fs.resolve(row["restore"].encode("utf-8", "surrogateescape")).is_file


def test_names_held_at_any_time_between(lab: Lab) -> None:
    fs, root = lab.fs, lab.fs.root()
    folder = fs.mkdir(root, b"folder")
    lab.file(folder, b"early")
    tids = [lab.point()]
    fs.unlink(folder, b"early")
    lab.file(folder, b"brief@@name")
    tids.append(lab.point())
    fs.unlink(folder, b"brief@@name")
    lab.file(folder, b"late")
    tids.append(lab.point())

    def names(first: int, last: int) -> dict[str, bytes]:
        rows, _ = held_rows(fs, folder, b"/folder", first, last)
        assert all(fs.resolve(row["asof"].encode()).is_file for row in rows)
        return {row["path"]: row["asof"].encode() for row in rows}

    assert names(tids[0], tids[0]).keys() == {"/folder/early"}
    assert names(tids[1], tids[1]).keys() == {"/folder/brief@@name"}
    assert names(tids[0], tids[1]).keys() == {"/folder/early", "/folder/brief@@name"}
    assert names(tids[2], MAX_TID) == {"/folder/late": b"/folder/late"}
    assert len(names(tids[0], MAX_TID)) == 3
    assert names(1, 2) == {}
    [row], below = held_rows(fs, root, b"/", tids[0], tids[1])
    assert row["asof"] == f"/folder@@0x{tids[1]:016x}"
    assert [folder["path"] for folder in below] == [row["asof"]]


def test_paths_with_points_in_time() -> None:
    tid = 0x100008020
    assert asof_path(b"/a", b"b", tid) == b"/a/b@@0x0000000100008020"
    assert asof_path(b"/", b"b@@c", tid) == b"/@@0x0000000100008020/b@@c"
    assert asof_path(b"/a@@0x0000000100009999/b", b"c", tid) == b"/a@@0x0000000100008020/b/c"
    assert plain_path(b"/a@@0x0000000100009999/b@@x") == b"/a/b@@x/"
    assert plain_path(b"/@@0x0000000100009999/b") == b"/b/"
    assert plain_path(b"/") == b"/"
    assert plain_path(b"a/@@-1") == b"a/"
    assert plain_path(b"/@@-1:00001/a@@-1") == b"/@@-1:00001/a/"
    assert asof_path(b"/@@-1:00001", b"b", tid) == b"/@@0x0000000100008020:00001/b"
    assert tree_path(b"/a/b", tid) == b"/@@0x0000000100008020/a/b"
    assert tree_path(b"/@@-1:00001/b", tid) == b"/@@0x0000000100008020:00001/b"
    assert tree_path(b"/b", MAX_TID) == b"/@@-1/b"


def test_times(lab: Lab) -> None:
    fs, root = lab.fs, lab.fs.root()
    start = (NEWFS_US + 1_000_000_000) // 1_000_000
    lab.file(root, b"a")
    one = lab.point()
    lab.file(root, b"b")
    two = lab.point()

    def at(seconds: int) -> str:
        return datetime.fromtimestamp(start + seconds, UTC).isoformat()

    def names(text: str) -> list[bytes]:
        return sorted(entry.name for entry in fs.readdir(fs.root(0, parse_asof(fs, 0, text))))

    assert names(at(1800)) == [b"a"]
    assert names(datetime.fromtimestamp(start + 1800).isoformat()) == [b"a"]  # local
    assert names(f"0x{one:016x}") == [b"a"]
    assert names(f"0x{two:x}") == [b"a", b"b"]
    assert parse_asof(fs, 0, "now") == parse_asof(fs, 0, "-1") == MAX_TID
    for text in ("1 second ago", "2 hours ago", "3 days ago", "1 week ago", "10minutes ago"):
        assert names(text) == [b"a", b"b"]
    with pytest.raises(NotFound, match=r"before the first moment recorded in PFS 0, 0x[0-9a-f]{16} \(2014-"):
        parse_asof(fs, 0, "2001-02-03T04:05")
    with pytest.raises(NotFound, match="before the first moment"):
        parse_asof(fs, 0, "999999999 weeks ago")
    with pytest.raises(NotFound, match=r"behind the last moment recorded in PFS 0, 0x[0-9a-f]{16} \(2014-"):
        parse_asof(fs, 0, "2099-01-01T00:00:00+02:00")
    first = "0x0000000100000001"
    with pytest.raises(NotFound, match=re.escape(f"0x0000000000000001 is before the first state of PFS 0, {first}")):
        parse_asof(fs, 0, "0x1")
    with pytest.raises(NotFound, match="behind the newest state, 0x"):
        parse_asof(fs, 0, "0x7fffffffffffffff")
    for text in ("", "yesterday-ish", "-5 days ago", "1 hour ago\n", "0x", "\x1b[31m", "1e5 days ago", "9999-99-99"):
        with pytest.raises(NotFound, match="is no TID"):
            parse_asof(fs, 0, text)


def test_labels(lab: Lab) -> None:
    fs = lab.fs
    taken: list[int] = []
    for label in (b"release", b"twice", b"twice"):
        lab.file(fs.root(), label + b"%d" % len(taken))
        taken.append(fs.host.call(snapshots.take(fs, 0, label)).tid)
    assert parse_asof(fs, 0, "release") == taken[0]
    with pytest.raises(UsageError, match=f"2 snapshots have the label 'twice': name one of 0x{taken[1]:016x}, "):
        parse_asof(fs, 0, "twice")
    with pytest.raises(NotFound, match=r"; did you mean 'release'\?"):
        parse_asof(fs, 0, "relaese")


def test_a_long_answer_lets_others_have_their_turn(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off after each step, and with something flushed in between, it is the same."""
    fs = lab.fs
    history(fs, 3)
    monkeypatch.setattr(verbs_history, "SLICE_SECONDS", 0)
    for name, args in (
        ("log", {"path": "/d1", "most": 1000}),
        ("diff", {"path": "/", "older": "0x100000001", "newer": "now"}),
    ):
        wanted = QUESTIONS[name](Past(fs, fs.root()), **args)
        assert len(wanted) > 20
        past, turns = Past(fs, fs.root(), patient=True), 0
        while True:
            try:
                assert QUESTIONS[name](past, **args) == wanted
                break
            except BufferMiss:
                turns += 1
        assert turns > 20
        assert verb(fs, name, **args) == wanted
    past = Past(fs, fs.root(), patient=True)
    with pytest.raises(BufferMiss):
        QUESTIONS["log"](past, path="/", most=10_000)
    lab.file(fs.root(), b"late")
    fs.sync()
    rows = QUESTIONS["log"](past, path="/", most=10_000)
    assert rows == QUESTIONS["log"](Past(fs, fs.root()), path="/", most=10_000)
    assert rows[0]["path"] == "/late"
