"""Rebalancing: fewer nodes, the same leaves in the same order, and a tree that goes on growing and shrinking."""

from __future__ import annotations

import random
import re

import pytest

from hammerfs.btree.iterate import scan
from hammerfs.btree.node import Node
from hammerfs.errors import UsageError
from hammerfs.keys import KEY_MAX, KEY_MIN
from hammerfs.rw import WritableFS
from tests.enginelab import assert_same, assert_sound, fresh, mount, tree
from tests.golden import GoldenStore
from tests.maint.lab import verb, whole
from tools.cli import main
from tools.fsck.check import check

Out = pytest.CaptureFixture[str]
_PLACES = re.compile(r"NODE \w+|p=\w+|fill=\S+(?: *\{)?|suboff=\w+|dataoff=\w+|[io]?crc=\w+|mirror=\w+")


def structure(text: str) -> list[str]:
    """A `show` text without what says where things are."""
    lines = text.split("==== BLOCKMAP", maxsplit=1)[0].splitlines()
    first = next(i for i, line in enumerate(lines) if "NODE" in line)
    return [_PLACES.sub("", line).rstrip() for line in lines[first:]]


@pytest.mark.golden
def test_the_nodes_become_those_of_the_original(golden: GoldenStore, capsys: Out) -> None:
    image, want = golden.copy("softpruned"), golden["reblocked"].text("show")
    assert want is not None
    assert main(["-f", image.spec, "rebalance", "/"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "rebalance start 8000000000000000:0000",
        "Rebalance / succeeded",
        "Rebalance:",
        "    25 B-Tree nodes scanned",
        "    8 B-Tree nodes deleted",
        "    0 collision retries",
        "    25 B-Tree nodes rebalanced",
    ]
    assert main(["-f", image.spec, "show"]) == 0
    got = structure(capsys.readouterr().out)
    assert len(got) > 1000
    assert got == structure(want)
    assert [f for f in check(image.spec, data=True) if f.is_error] == []


def leaves_and_inner(fs: WritableFS) -> tuple[list[int], list[int], int]:
    """Element counts of the leaves and of the internal nodes, and the depth."""
    leaves: list[int] = []
    inner: list[int] = []

    def walk(node: Node, depth: int) -> int:
        (leaves if node.is_leaf else inner).append(node.count)
        if node.is_leaf:
            return depth
        return max(walk(fs.tree.child(node, i), depth + 1) for i in range(node.count))

    with fs.cache.section():
        return leaves, inner, walk(fs.tree.root(), 1)


def sparse(fs: WritableFS, count: int) -> None:
    """A deep tree of which most is removed again."""
    root, rng = fs.root(), random.Random(2)
    for name in range(count):
        fs.create(root, b"n%d" % name)
    fs.sync()
    for name in rng.sample(range(count), count * 3 // 4):
        fs.unlink(root, b"n%d" % name)
    fs.sync()
    whole(fs, "prune", path="/", everything=True)


@pytest.mark.parametrize("percent", [50, 85, 100])
def test_a_deep_tree(percent: int) -> None:
    media = fresh()
    fs = mount(media)
    sparse(fs, 12_000)
    want, elms = tree(fs), list(scan(fs.tree, KEY_MIN, KEY_MAX))
    before = leaves_and_inner(fs)
    assert before[2] >= 3
    stats = whole(fs, "rebalance", path="/", percent=percent)
    leaves, inner, _ = leaves_and_inner(fs)
    assert stats["removed"] == len(before[0]) + len(before[1]) - len(leaves) - len(inner)
    assert len(leaves) < len(before[0])
    assert max(leaves) <= max(62 * percent // 100, *before[0])
    assert list(scan(fs.tree, KEY_MIN, KEY_MAX)) == elms
    assert_same(tree(fs), want)
    for _ in range(6):  # nodes that came together may have children to be put together
        if not whole(fs, "rebalance", path="/", percent=percent)["removed"]:
            break
    else:
        raise AssertionError("it never comes to an end")
    root = fs.root()
    for name in range(600):
        fs.create(root, b"again%d" % name)
    for entry in list(fs.readdir(root))[::2]:
        fs.unlink(root, entry.name)
    fs.sync()
    want = tree(fs)
    fs.close()
    assert_sound(media)
    fs = mount(media)
    assert_same(tree(fs), want)
    fs.close()


def test_mirroring_still_finds_what_changed() -> None:
    media = fresh()
    fs = mount(media)
    sparse(fs, 3000)
    whole(fs, "rebalance", path="/")
    tid = fs.sync()
    changed = fs.create(fs.root(), b"news")
    fs.sync()
    reply = verb(fs, "mirror-read", pfs=0, tid_beg=f"0x{tid + 1:x}", tid_end="0xffffffffffffff")
    assert reply["data"]
    found = [elm for elm in scan(fs.tree, KEY_MIN, KEY_MAX) if elm.create_tid > tid]
    assert any(elm.obj_id == changed.obj_id for elm in found)
    fs.close()
    assert_sound(media)  # every mirror_tid bounds what is below


def test_wrong_percentages() -> None:
    fs = mount(fresh())
    for percent in (49, 101):
        with pytest.raises(UsageError):
            verb(fs, "rebalance", path="/", percent=percent)
    assert whole(fs, "rebalance", path="/") == {"nodes": 0, "removed": 0, "rebalanced": 0}
    fs.close()
