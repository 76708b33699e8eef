"""Phase: checksums of file data: the extents of a leaf are read in address order, neighbours in one piece."""

from __future__ import annotations

from hammerfs.const import BIGBLOCK_BITS, BUFMASK, BUFSIZE
from hammerfs.errors import HammerError
from tools.fsck.context import Context
from tools.fsck.phase_pfs import Elm

_PIECE = 1 << 20
"""Most bytes of one read."""


class DataCheck:
    """Verifies extents.

    Args:
        ctx: The check.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._rule = ctx.volumes.rule
        self._waiting: list[tuple[int, Elm]] = []

    def add(self, elm: Elm) -> None:
        """Take a DATA element whose address is sane."""
        self._waiting.append((elm[10], elm))

    def flush(self) -> None:
        """Read and verify what has been taken."""
        waiting = sorted(self._waiting)
        self._waiting = []
        first = 0
        while first < len(waiting):
            beg = waiting[first][0] & ~BUFMASK
            end, last = beg, first
            while last < len(waiting):
                off, elm = waiting[last]
                if off > end + BUFSIZE or off + elm[11] - beg > _PIECE or (off ^ beg) >> BIGBLOCK_BITS:
                    break
                end, last = max(end, off + elm[11]), last + 1
            self._verify(beg, (end - beg + BUFMASK) & ~BUFMASK, waiting[first:last])
            first = last

    def _verify(self, beg: int, nbytes: int, extents: list[tuple[int, Elm]]) -> None:
        try:
            piece = memoryview(self._ctx.buffers.read(beg, nbytes))
        except HammerError as err:
            for off, elm in extents:
                self._add("payload-address", err.what, off, elm)
            return
        compute, rule = self._rule.compute, self._rule
        for off, elm in extents:
            payload = piece[off - beg : off - beg + elm[11]]
            if compute(payload, 0) != elm[12] and not rule.matches(elm[12], payload):
                what = f"file offset {elm[1] - elm[11]}: stored {elm[12]:08x}, computed {compute(payload, 0):08x}"
                self._add("payload-crc", what, off, elm)

    def _add(self, code: str, what: str, off: int, elm: Elm) -> None:
        self._ctx.report.add(code, what, offset=off, obj_id=elm[0], pfs_id=elm[7] >> 16)
