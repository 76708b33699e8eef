"""Changing the tree beside the same keys in a sorted Python list: ``python -m tests.perf.bench_btree``.

Prints a table, or with ``--json`` a list of objects with the keys operation, measured, against, ratio, target, pass.
Processor time in microseconds a record, UNDO and media left out; best of five rounds.
"""

from __future__ import annotations

import argparse
import gc
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from random import Random

from hammerfs.btree.modify import TreeWriter
from hammerfs.keys import Key
from hammerfs.ondisk.node import LeafElm
from tests.perf.table import Row, show
from tests.treelab import TreeLab, record

RECORDS, ROUNDS = 20000, 5
CACHE_BYTES = 128 << 20
TID = 0x100000010
TARGETS = {"insert, sorted": 12.0, "insert": 4.0, "mark deleted": 8.0, "destroy, sorted": 8.0, "destroy": 4.0}
"""How many times the list's work each may take."""


class NoUndo:
    """Saves nothing."""

    span = 0

    def save(self, off: int, old: memoryview, /) -> None:
        """Nothing."""

    def save_field(self, name: str, /) -> None:
        """Nothing."""


def each(act: Callable[[LeafElm], object], elms: Iterable[LeafElm]) -> float:
    """Microseconds a record."""
    began = time.process_time()
    for elm in elms:
        act(elm)
    return (time.process_time() - began) * 1e6 / RECORDS


def one_round() -> Iterator[tuple[str, float, float]]:
    """(operation, in the tree, in the list)."""
    lab = TreeLab.fresh(limit_bytes=CACHE_BYTES)
    writer = TreeWriter(lab.volumes, lab.tree, lab.space, NoUndo())
    keys: list[Key] = []
    even = [record(obj_id) for obj_id in range(1000, 1000 + 2 * RECORDS, 2)]
    odd = [record(elm.obj_id + 1) for elm in even]
    Random(0).shuffle(odd)

    def remove(elm: LeafElm) -> None:
        del keys[bisect_left(keys, elm.sort_key)]

    with lab.cache.section():
        yield "insert, sorted", each(writer.insert, even), each(lambda elm: insort(keys, elm.sort_key), even)
        yield "insert", each(writer.insert, odd), each(lambda elm: insort(keys, elm.sort_key), odd)
        took = each(lambda elm: writer.mark_deleted(elm.sort_key, TID + 16, 1), odd)
        yield "mark deleted", took, each(lambda elm: bisect_left(keys, elm.sort_key), odd)
        yield "destroy", each(lambda elm: writer.destroy(elm.sort_key), odd), each(remove, odd)
        yield "destroy, sorted", each(lambda elm: writer.destroy(elm.sort_key), even), each(remove, even)
        writer.seal()


def rows() -> list[Row]:
    """All operations."""
    best: dict[str, tuple[float, float]] = {}
    gc.disable()
    for _ in range(ROUNDS):
        for name, tree, plain in one_round():
            former = best.get(name, (tree, plain))
            best[name] = (min(former[0], tree), min(former[1], plain))
        gc.collect()
    gc.enable()
    return [
        Row(f"{name}, us a record", round(tree, 2), round(plain, 2), round(tree / plain, 2), f"<= {target:g}", ok)
        for name, (tree, plain) in best.items()
        for target in (TARGETS[name],)
        for ok in (tree / plain <= target,)
    ]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="bench_btree", description="The changing tree beside a sorted list.")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    show(rows(), as_json=parser.parse_args().json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
