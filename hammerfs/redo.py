"""REDO records: which logged file operations recovery has to carry out again, in order (hammer_redo.c).

The range begins at the address of the newest SYNC record. It may reach back beyond the start of the undone range; an
operation there was already put into the tree when a later TERM record in that older part covers it. TERM records
inside the undone range say nothing any more: the metadata they speak of has been rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hammerfs.const import FIFO_TYPE_REDO, REDO_TERM_TRUNC, REDO_TERM_WRITE, REDO_TRUNC, REDO_WRITE
from hammerfs.errors import CorruptError
from hammerfs.ondisk.fifo import RedoRecord
from hammerfs.recover import RecoveryScan
from hammerfs.undo import UndoFifo

_SEQ_MASK = 0xFFFFFFFF


class _Term(NamedTuple):
    position: int
    offset: int
    length: int


class _Terms:
    """TERM records of the older part, by object and kind; positions count records."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int, int], list[_Term]] = {}

    def add(self, redo: RedoRecord, position: int) -> None:
        """Remember a TERM record."""
        ident = (redo.obj_id, redo.localization, redo.flags)
        self._found.setdefault(ident, []).append(_Term(position, redo.offset, redo.data_bytes))

    def committed(self, redo: RedoRecord, position: int) -> bool:
        """Whether a later TERM record says that an operation has reached the tree."""
        kind = REDO_TERM_WRITE if redo.flags == REDO_WRITE else REDO_TERM_TRUNC
        terms = self._found.get((redo.obj_id, redo.localization, kind), ())
        if kind == REDO_TERM_TRUNC:
            return any(term.position > position for term in terms)
        return any(
            term.position > position and term.offset <= redo.offset < term.offset + term.length for term in terms
        )


def operations(fifo: UndoFifo, scan: RecoveryScan, redo_from: int) -> Iterator[RedoRecord]:
    """WRITE and TRUNC records to carry out again, oldest first.

    Args:
        fifo: The FIFO.
        scan: Its active range.
        redo_from: Address in the newest SYNC record.

    Raises:
        CorruptError: A damaged record, or the older part of the range has been overwritten.
    """
    outside = fifo.distance(redo_from, scan.first)
    if fifo.distance(scan.first, redo_from) < scan.length:
        outside = 0
    terms = _Terms()
    if outside:
        _check_older(fifo, scan, redo_from)
        for position, redo in _records(fifo, redo_from, outside):
            if redo.flags in {REDO_TERM_WRITE, REDO_TERM_TRUNC}:
                terms.add(redo, position)
    length = fifo.distance(redo_from, scan.last)
    for position, redo in _records(fifo, redo_from, length):
        if redo.flags in {REDO_WRITE, REDO_TRUNC} and not (position < outside and terms.committed(redo, position)):
            yield redo


def logged(fifo: UndoFifo, oldest: int, last: int) -> Iterator[RedoRecord]:
    """WRITE and TRUNC records between two positions, oldest first: what a writer has logged itself.

    Raises:
        CorruptError: A damaged record.
        DeviceError: The root volume failed.
    """
    for _, redo in _records(fifo, oldest, fifo.distance(oldest, last)):
        if redo.flags in {REDO_WRITE, REDO_TRUNC}:
            yield redo


def _records(fifo: UndoFifo, first: int, length: int) -> Iterator[tuple[int, RedoRecord]]:
    """REDO records of `length` bytes from `first`, each with its distance from there."""
    off, walked = first, 0
    while walked < length:
        record, off = fifo.step_forward(off)
        if record.type == FIFO_TYPE_REDO:
            yield walked, record.redo()
        walked += record.size


def _check_older(fifo: UndoFifo, scan: RecoveryScan, redo_from: int) -> None:
    """The part before the undone range must be whole: numbers without a gap back to its start."""
    off, seq = scan.first, (scan.first_seq - 1) & _SEQ_MASK
    walked, length = 0, fifo.distance(redo_from, scan.first)
    while walked < length:
        record = fifo.step_back(off)
        off = record.off
        walked += record.size
        if record.is_pad:
            continue
        if record.seq != seq:
            raise CorruptError("REDO records that are needed have been overwritten", offset=off)
        seq = (seq - 1) & _SEQ_MASK
