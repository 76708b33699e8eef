"""`hammer show-undo`: every record of the UNDO/REDO FIFO as it lies on the media, and its active range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from hammerfs.const import (
    FIFO_TYPE_DUMMY,
    FIFO_TYPE_PAD,
    FIFO_TYPE_REDO,
    FIFO_TYPE_UNDO,
    REDO_SYNC,
    REDO_TERM_TRUNC,
    REDO_TERM_WRITE,
    REDO_TRUNC,
    REDO_WRITE,
)
from hammerfs.errors import CorruptError
from hammerfs.fs import HammerFS
from hammerfs.undo import FifoRecord, UndoFifo

_TYPES: Final = {FIFO_TYPE_PAD: "PAD", FIFO_TYPE_DUMMY: "DUMMY", FIFO_TYPE_UNDO: "UNDO", FIFO_TYPE_REDO: "REDO"}
_REDO: Final = {
    REDO_WRITE: "write",
    REDO_TRUNC: "truncate",
    REDO_TERM_WRITE: "term-write",
    REDO_TERM_TRUNC: "term-truncate",
    REDO_SYNC: "sync",
}


def records(fs: HammerFS) -> Iterator[dict[str, Any]]:
    """Each record as plain values; one that can't be read has an ``error``.

    Raises:
        CorruptError: The header describes no possible FIFO.
    """
    for found in UndoFifo(fs.volumes).walk():
        if isinstance(found, CorruptError):
            yield {"offset": found.offset or 0, "error": found.what}
        else:
            yield _record(found)


def _record(found: FifoRecord) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "offset": found.off,
        "type": _TYPES[found.type],
        "size": found.size,
        "seq": found.seq,
    }
    try:
        if found.type == FIFO_TYPE_UNDO:
            undo = found.undo()
            shown |= {"address": undo.undo_offset, "bytes": len(undo.data)}
        elif found.type == FIFO_TYPE_REDO:
            redo = found.redo()
            shown |= {
                "redo": _REDO.get(redo.flags, f"{redo.flags:08x}"),
                "obj_id": redo.obj_id,
                "localization": redo.localization,
                "file_offset": redo.offset,
                "bytes": redo.data_bytes,
            }
    except CorruptError as err:
        shown["error"] = err.what
    return shown


def lines(fs: HammerFS) -> Iterator[str]:
    """The text of the view.

    Raises:
        CorruptError: The header describes no possible FIFO.
    """
    bad = 0
    for record in records(fs):
        bad += "error" in record
        yield _line(record)
    yield f"{bad} places without a valid record"


def _line(record: dict[str, Any]) -> str:
    if "type" not in record:
        return f"B {record['offset']:016x} {record['error']}"
    text = f"  {record['offset']:016x} {record['type']:<5} size={record['size']:<5} seq={record['seq']:08x}"
    if "redo" in record:
        text += f" {record['redo']} obj={record['obj_id']:016x} lo={record['localization']:08x}"
        text += f" off={record['file_offset']} bytes={record['bytes']}"
    elif "address" in record:
        text += f" addr={record['address']:016x} bytes={record['bytes']}"
    return f"B{text[1:]} {record['error']}" if "error" in record else text
