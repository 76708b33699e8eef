"""The tree against a sorted list of records: any mix of changes in atomic sections, looked up as of any TID, evicted.

Every section is checked by the lab: nodes in memory against their bytes, the media by fsck, and its UNDO.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from hammerfs.btree.iterate import scan, scan_asof, scan_reverse
from hammerfs.btree.modify import TreeWriter
from hammerfs.const import MAX_TID, RECTYPE_DATA, RECTYPE_DIRENTRY, RECTYPE_INODE
from hammerfs.errors import ExistsError, NotFound
from hammerfs.keys import KEY_MAX, KEY_MIN, Key, visible
from hammerfs.ondisk.node import LeafElm
from tests.model.kernelcore.harness import deep, quick
from tests.treelab import TreeLab, record

OBJECTS = 1200
STEP = 16
AT_ONCE = 600
"""Most records of a section: what a cache of the smallest size bears."""
SEEDS = st.integers(0, 2**32)


def new_record(rng: Random, n: int, tid: int) -> LeafElm:
    """One of the records that object `n` of a file system has."""
    obj_id = 1000 + 4 * n
    kind = rng.randrange(4)
    if kind == 0:
        return record(obj_id, tid=tid)
    if kind == 1:
        return record(obj_id, key=rng.randrange(1, 40) << 14, tid=tid, localization=2, rec_type=RECTYPE_DATA)
    if kind == 2:
        return record(1, key=n * 0x9E3779B97F4A7C15 % (1 << 63), tid=tid, rec_type=RECTYPE_DIRENTRY)
    return record(obj_id, tid=tid, localization=0x10001, rec_type=RECTYPE_INODE)


class TreeMachine(RuleBasedStateMachine):
    """The machine."""

    version = 7
    """Of the volume."""

    def __init__(self) -> None:
        super().__init__()
        self.tid = 0x100000010
        self.model: dict[Key, LeafElm] = {}

    @initialize(order=st.sampled_from(["up", "down", "shuffled"]), mirror=st.booleans(), seed=SEEDS)
    def grow(self, order: str, mirror: bool, seed: int) -> None:
        """A tree of three levels."""
        rng = Random(seed)
        self.lab = TreeLab.fresh(self.version, mirror=mirror)
        self.model = {elm.sort_key: elm for elm in self.lab.elements()}
        elms = {elm.sort_key: elm for n in range(OBJECTS) for elm in (new_record(rng, n, self.tid) for _ in range(4))}
        keys = sorted(elms, reverse=order == "down")
        if order == "shuffled":
            rng.shuffle(keys)
        for first in range(0, len(keys), AT_ONCE):
            with self.lab.section() as writer:
                for key in keys[first : first + AT_ONCE]:
                    writer.insert(elms[key])
        self.model |= elms
        self.check()
        root = self.lab.tree.root()
        assert not self.lab.tree.child(root, 0).is_leaf

    @rule(
        plan=st.lists(
            st.tuples(
                st.sampled_from(["insert", "delete", "supersede", "destroy", "raze", "rewrite", "refuse", "move"]),
                st.integers(1, 100),
            ),
            min_size=1,
            max_size=5,
        ),
        in_order=st.booleans(),
        seed=SEEDS,
    )
    def change(self, plan: list[tuple[str, int]], in_order: bool, seed: int) -> None:
        """A section of changes."""
        self.tid += STEP
        rng = Random(seed)
        with self.lab.section() as writer:
            for kind, count in plan:
                act: Callable[[TreeWriter, Random, list[Key]], None] = getattr(self, f"_{kind}")
                act(writer, rng, self.pick(rng, count, in_order=in_order))
        self.check()

    @rule(seed=SEEDS)
    def read(self, seed: int) -> None:
        """Look-ups and scans as of any time."""
        rng = Random(seed)
        keys = sorted(self.model)
        for _ in range(40):
            asof = rng.choice([MAX_TID, rng.randrange(0x100000000, self.tid + STEP)])
            slot = (keys or [KEY_MIN])[rng.randrange(len(keys) or 1)][:4]
            elms = self.slice(keys, (*slot, 0), (*slot, 1 << 65))
            want = [elm for elm in elms if visible(elm.create_tid, elm.delete_tid, asof)]
            assert self.lab.tree.lookup(*slot, asof) == (want[0] if want else None)
        for _ in range(3):
            beg, end = sorted(rng.choice([KEY_MIN, KEY_MAX, *keys]) for _ in range(2))
            want = self.slice(keys, beg, end)
            assert list(scan(self.lab.tree, beg, end)) == want
            assert list(scan_reverse(self.lab.tree, beg, end)) == want[::-1]
            asof = rng.randrange(0x100000000, self.tid + STEP)
            live = [elm for elm in want if visible(elm.create_tid, elm.delete_tid, asof)]
            assert list(scan_asof(self.lab.tree, beg, end, asof)) == live

    @rule()
    def evict(self) -> None:
        """All nodes leave memory."""
        self.lab.cache.drop()
        assert self.lab.cache.used_bytes == 0

    def pick(self, rng: Random, count: int, *, in_order: bool) -> list[Key]:
        """Some of the keys."""
        keys = list(self.model)
        found = rng.sample(keys, min(count, len(keys)))
        return sorted(found) if in_order else found

    def slice(self, keys: list[Key], beg: Key, end: Key) -> list[LeafElm]:
        """The records with beg <= key < end."""
        return [self.model[key] for key in keys[bisect_left(keys, beg) : bisect_left(keys, end)]]

    def check(self) -> None:
        """The tree holds what the model holds."""
        assert self.lab.elements() == [self.model[key] for key in sorted(self.model)]

    def _newest(self, key: Key) -> bool:
        """Whether a record lives and no later generation of its slot is there."""
        keys = sorted(self.model)
        at = bisect_right(keys, key)
        return not self.model[key].delete_tid and key[4] < self.tid and (at == len(keys) or keys[at][:4] != key[:4])

    def _insert(self, writer: TreeWriter, rng: Random, keys: list[Key]) -> None:
        for key in keys:
            n = (key[1] - 1000) // 4 if key[1] >= 1000 else rng.randrange(OBJECTS)
            elm = new_record(rng, n + rng.randrange(3), self.tid)
            slot = elm.sort_key[:4]
            if all(other[:4] != slot for other in self.model):
                writer.insert(elm)
                self.model[elm.sort_key] = elm

    def _delete(self, writer: TreeWriter, _rng: Random, keys: list[Key]) -> None:
        for key in keys:
            if self._newest(key):
                assert writer.mark_deleted(key, self.tid, 5) == self.model[key]
                self.model[key] = self.model[key]._replace(delete_tid=self.tid, delete_ts=5)

    def _supersede(self, writer: TreeWriter, rng: Random, keys: list[Key]) -> None:
        self._delete(writer, rng, keys)
        for key in keys:
            elm = self.model[key]._replace(create_tid=self.tid, delete_tid=0, delete_ts=0)
            if self.model[key].delete_tid == self.tid and elm.sort_key not in self.model:
                writer.insert(elm)
                self.model[elm.sort_key] = elm

    def _destroy(self, writer: TreeWriter, _rng: Random, keys: list[Key]) -> None:
        for key in keys:
            assert writer.destroy(key) == self.model.pop(key)

    def _raze(self, writer: TreeWriter, rng: Random, keys: list[Key]) -> None:
        """Destroy neighbours, so that nodes become empty."""
        if keys:
            every = sorted(self.model)
            at = bisect_left(every, keys[0])
            self._destroy(writer, rng, every[at : at + 5 * len(keys)])

    def _rewrite(self, writer: TreeWriter, rng: Random, keys: list[Key]) -> None:
        for key in keys:
            elm = self.model[key]._replace(
                data_crc=rng.randrange(1 << 32), data_offset=0xB << 60 | rng.randrange(1 << 40)
            )
            writer.replace(key, elm)
            self.model[key] = elm

    def _refuse(self, writer: TreeWriter, _rng: Random, keys: list[Key]) -> None:
        for key in keys:
            with pytest.raises(ExistsError):
                writer.insert(self.model[key])
            absent: Key = (*key[:4], key[4] + 1)
            assert absent not in self.model
            with pytest.raises(NotFound):
                writer.destroy(absent)

    def _move(self, writer: TreeWriter, rng: Random, keys: list[Key]) -> None:
        """Move a few nodes of any level."""
        for _ in keys[:5]:
            node = self.lab.tree.root()
            while not node.is_leaf and rng.random() < 0.7:
                node = self.lab.tree.child(node, rng.randrange(node.count))
            writer.move_node(node.off)


def machine(number: int) -> type[TreeMachine]:
    """The machine for volumes of a version."""

    class Machine(TreeMachine):
        version = number

    return Machine


@pytest.mark.parametrize("version", [1, 3, 6, 7])
def test_tree_machine(version: int) -> None:
    run_state_machine_as_test(machine(version), settings=settings(quick(4), stateful_step_count=15))


@pytest.mark.long
@pytest.mark.parametrize("version", [1, 3, 6, 7])
def test_tree_machine_long(version: int) -> None:
    run_state_machine_as_test(machine(version), settings=settings(deep(50), stateful_step_count=50))
