"""`hammer show`: the B-Tree as it is on the media, every node, element and record, with what is wrong with each.

Nothing is trusted: a node is shown once however often it is pointed to, counts are cut to what a node can hold, and a
payload that can't be where it should be is an error on its line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from hammerfs.addr import short_of, vol_of, zone_of
from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_MASK,
    BIGBLOCK_SIZE,
    BTREE_TYPE_INTERNAL,
    BTREE_TYPE_LEAF,
    BTREE_TYPE_RECORD,
    BUFSIZE,
    ELM_SIZE,
    FIXKEY_SYMLINK,
    INT_ELMS,
    LAYER1_SHIFT,
    LAYER2_ENTRIES,
    LEAF_ELMS,
    MAX_DEPTH,
    MAX_TID,
    NODE_HEADER,
    NODE_SIZE,
    OBJTYPE_SOFTLINK,
    RECTYPE_DIRENTRY,
    RECTYPE_FIX,
    RECTYPE_INODE,
    RECTYPE_PFS,
    RECTYPE_SNAPSHOT,
    XBUFSIZE,
    ZONE_SHIFT,
    ZONES_MAPPED,
)
from hammerfs.crc import CrcKind, Data
from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.keys import KEY_MAX, KEY_MIN, Key
from hammerfs.ondisk.node import InternalElm, LeafElm, NodeHead
from hammerfs.ondisk.records import (
    INODE_SIZE,
    INODE_SYMLINK_MAX,
    DirentryData,
    InodeData,
    PfsData,
    SnapshotData,
    payload_crc_bytes,
)

_INDENT = " " * 17
_U64 = 0xFFFFFFFFFFFFFFFF
_NUL = b"\0"
_SYMLINK = INODE_SIZE - 16 - INODE_SYMLINK_MAX
"""Where an inode record keeps its target."""
_SHOWN_TYPES = {BTREE_TYPE_INTERNAL: "I", BTREE_TYPE_LEAF: "L"}


class Task(NamedTuple):
    """A node to show, and what its parent says of it."""

    off: int
    mirror_tid: int
    left: Key
    right: Key
    depth: int


@dataclass(slots=True)
class Bad:
    """How much was found to be wrong."""

    nodes: int = 0
    elms: int = 0
    records: int = 0

    def lines(self) -> Iterator[str]:
        """The closing lines; none where all is well."""
        for count, what in ((self.nodes, "nodes"), (self.elms, "elms"), (self.records, "records")):
            if count:
                yield f"{count} bad {what}"


class Shower:
    """One walk over the tree.

    Args:
        fs: Opened raw.
        quiet: 1: less of inodes; 2: no contents of records; 3: no fill ratios, mirror TIDs and payload checksums.
        first: Show only elements from this key on.
        last: And only those up to this one.
        name: Turns a stored name into text.
    """

    def __init__(
        self, fs: HammerFS, quiet: int, first: Key = KEY_MIN, last: Key = KEY_MAX, *, name: Callable[[bytes], str]
    ) -> None:
        self._fs = fs
        self._quiet = quiet
        self._first = first
        self._last = last
        self._name = name
        self._seen: dict[int, bytearray] = {}
        self._fills: dict[int, int | None] = {}
        self.bad = Bad()

    def run(self, emit: Callable[[str], object], node: Callable[[dict[str, Any]], object] | None = None) -> None:
        """Walk the whole tree, depth first.

        Args:
            emit: Takes each line of text.
            node: Takes each node as plain values instead.
        """
        root = self._fs.volumes.superblock.vol0_btree_root
        stack = [Task(root, _U64, KEY_MIN, KEY_MAX, 0)]
        while stack:
            shown = NodeView(self, stack.pop())
            if node is None:
                for line in shown.lines():
                    emit(line)
            else:
                node(shown.as_json())
            stack.extend(reversed(shown.children))

    def seen(self, off: int) -> bool:
        """Whether a node was shown before; one bit for each."""
        block, index = off >> BIGBLOCK_BITS, (off & BIGBLOCK_MASK) // NODE_SIZE
        bits = self._seen.setdefault(block, bytearray(BIGBLOCK_SIZE // NODE_SIZE // 8))
        was = bits[index >> 3] >> (index & 7) & 1
        bits[index >> 3] |= 1 << (index & 7)
        return bool(was)

    def wanted(self, key: Key) -> bool:
        """Whether an element is to be shown."""
        return self._first <= key <= self._last

    def meets(self, left: Key, right: Key) -> bool:
        """Whether a subtree may hold elements to be shown."""
        return left <= self._last and right > self._first

    def fill(self, off: int) -> str:
        """Where an address is, and how full its big-block."""
        if self._quiet >= 3:
            return ""
        block = off >> BIGBLOCK_BITS
        if block not in self._fills:
            if len(self._fills) > 65536:
                self._fills.clear()
            self._fills[block] = self._percent(off)
        percent = self._fills[block]
        short = short_of(off)
        place = f"z{zone_of(off)}:v{vol_of(off)}:{short >> LAYER1_SHIFT}:"
        place += f"{short >> BIGBLOCK_BITS & LAYER2_ENTRIES - 1}:{short & BIGBLOCK_MASK}"
        return f" fill={place}={'?' if percent is None else percent}%"

    def _percent(self, off: int) -> int | None:
        try:
            layer2 = self._fs.freemap.layer2(off)
        except HammerError:
            return None
        return None if layer2 is None else 100 - int(layer2.bytes_free * 100 / BIGBLOCK_SIZE)

    @property
    def quiet(self) -> int:
        """How little is shown."""
        return self._quiet

    def name(self, raw: bytes) -> str:
        """A name as the original's ``%*.*s`` prints it: up to its NUL, padded on the left to its length."""
        text = self._name(raw.split(b"\0", 1)[0])
        return text if b"\0" not in raw else text.rjust(len(raw))

    def read(self, off: int, nbytes: int) -> bytes:
        """Bytes of the media.

        Raises:
            HammerError: They can't be there, or can't be read.
        """
        volume, byte_off = self._fs.volumes.locate(off, nbytes)
        if nbytes > BUFSIZE:
            return volume.dev.pread(byte_off, nbytes)
        return bytes(self._fs.cache.view(off, nbytes))

    def crc_kind(self, want: int, raw: Data) -> CrcKind:
        """Which checksum matches by the rules of the volume, if any."""
        return self._fs.volumes.rule.kind(want, raw)


class NodeView:
    """One node, read and judged.

    Args:
        shower: The walk it is part of.
        task: Which node.
    """

    def __init__(self, shower: Shower, task: Task) -> None:
        self._shower = shower
        self._task = task
        self.children: list[Task] = []
        self._reason = " "
        self._raw = b""
        self._head = NodeHead(0, 0, 0, 0, 0, b"", b"", 0)
        self._read()
        if self._reason != " ":
            shower.bad.nodes += 1
        self._count = 0 if not self._raw else max(0, min(self._head.count, self._limit()))
        self._keys = [self._elm(i).sort_key for i in range(self._count)]

    def _read(self) -> None:
        task, shower = self._task, self._shower
        try:
            if zone_of(task.off) not in ZONES_MAPPED or task.off & NODE_SIZE - 1:
                raise HammerError("no node address")
            self._raw = shower.read(task.off, NODE_SIZE)
        except HammerError:
            self._reason = "I"
            return
        self._head = NodeHead.decode(self._raw)
        if shower.seen(task.off) or task.depth > MAX_DEPTH:
            self._raw, self._reason = b"", "L"
        elif not shower.crc_kind(self._head.crc, self._raw[4:]):
            self._reason = "U"
        elif self._head.mirror_tid > task.mirror_tid:
            self._reason = "M"

    def _limit(self) -> int:
        if self._head.type == BTREE_TYPE_INTERNAL:
            return INT_ELMS
        return LEAF_ELMS if self._head.type == BTREE_TYPE_LEAF else 0

    @property
    def _is_internal(self) -> bool:
        return self._head.type == BTREE_TYPE_INTERNAL

    def _elm(self, i: int) -> InternalElm | LeafElm:
        kind: type[InternalElm | LeafElm] = InternalElm if self._is_internal else LeafElm
        return kind.decode(self._raw, NODE_HEADER + i * ELM_SIZE)

    def lines(self) -> Iterator[str]:
        """The node, its elements, and the children to show next."""
        head, task, shower = self._head, self._task, self._shower
        flag = "B" if self._reason != " " else " "
        mirror = "" if shower.quiet >= 3 else f" mirror={head.mirror_tid:016x}"
        yield (
            f"{flag}{self._reason}   NODE {task.off & _U64:016x} cnt={head.count:02d} p={head.parent:016x} "
            f"type={_SHOWN_TYPES.get(head.type, '?')} depth={task.depth}{mirror}{shower.fill(task.off)} {{"
        )
        for i in range(self._count):
            elm = self._elm(i)
            flags = self._flags(i, elm)
            if isinstance(elm, InternalElm):
                self._descend(i, elm)
            if isinstance(elm, InternalElm) or shower.wanted(elm.sort_key):
                yield from self._elm_lines(i, elm, flags, "ELM")
        if self._is_internal and self._raw and 0 <= self._head.count <= INT_ELMS:
            last = self._elm(self._count)
            yield from self._elm_lines(self._count, last, self._boundary_flags(last), "RBN")
        yield "     }"

    def as_json(self) -> dict[str, Any]:
        """The node as plain values."""
        head, task = self._head, self._task
        elms = []
        for i in range(self._count):
            elm = self._elm(i)
            flags = self._flags(i, elm)
            if isinstance(elm, InternalElm):
                self._descend(i, elm)
            elif not self._shower.wanted(elm.sort_key):
                continue
            else:
                flags += self._payload(elm)[1].strip().replace("error=", " ")
            elms.append({**{k: v for k, v in elm._asdict().items() if isinstance(v, int)}, "flags": flags})
        return {
            "node": f"0x{task.off & _U64:016x}",
            "parent": f"0x{head.parent:016x}",
            "type": _SHOWN_TYPES.get(head.type, "?"),
            "depth": task.depth,
            "count": head.count,
            "mirror_tid": f"0x{head.mirror_tid:016x}",
            "bad": self._reason.strip(),
            "elements": elms,
        }

    def _right_of(self, i: int) -> Key:
        if i + 1 < self._count:
            return self._keys[i + 1]
        return self._elm(self._count).sort_key

    def _descend(self, i: int, elm: InternalElm) -> None:
        left, right = elm.sort_key, self._right_of(i)
        if elm.subtree_offset and self._shower.meets(left, right):
            self.children.append(Task(elm.subtree_offset, elm.mirror_tid, left, right, self._task.depth + 1))

    def _flags(self, i: int, elm: InternalElm | LeafElm) -> str:
        """The seven columns before an element."""
        task, key, mirror = self._task, self._keys[i], self._head.mirror_tid
        right = key > task.right if self._is_internal else key >= task.right
        if isinstance(elm, InternalElm):
            bad_type = elm.btype not in _SHOWN_TYPES
            bad_child = self._child_is_bad(elm)
            bad_mirror = elm.mirror_tid > mirror
        else:
            bad_type = elm.btype != BTREE_TYPE_RECORD
            bad_child = False
            bad_mirror = bool(mirror) and elm.create_tid > mirror
        return self._columns(key < task.left, right, bad_type, bad_child, bad_mirror)

    def _boundary_flags(self, elm: InternalElm | LeafElm) -> str:
        """A right boundary leads nowhere: a type in it is left over from a split, and counts as wrong."""
        return self._columns(False, elm.sort_key > self._task.right, bool(elm.btype), False, False)

    def _columns(self, *bad: bool) -> str:
        flags = "".join(letter if is_bad else "-" for letter, is_bad in zip("LRTCM", bad, strict=True))
        if any(bad):
            self._shower.bad.elms += 1
        return f"{'B' if any(bad) else 'G'}-{flags}"

    def _child_is_bad(self, elm: InternalElm) -> bool:
        try:
            head = NodeHead.decode(self._shower.read(elm.subtree_offset, NODE_SIZE))
        except HammerError:
            return True
        return head.parent != self._task.off

    def _elm_lines(self, i: int, elm: InternalElm | LeafElm, flags: str, kind: str) -> Iterator[str]:
        yield (
            f"{flags} {kind} {i:2d} {chr(elm.btype) if 32 < elm.btype < 127 else '*'} lo={elm.localization:08x} "
            f"objid={elm.obj_id & _U64:016x} rt={elm.rec_type:02x} key={elm.key & _U64:016x} tid={elm.create_tid:016x}"
        )
        if elm.delete_tid == 1:  # the left boundary of all
            mark = ">"
        elif elm.create_tid == MAX_TID:
            mark = "<"
        else:
            mark = "d" if elm.delete_tid else " "
        second = f"{_INDENT[2:]}{mark} del={elm.delete_tid:016x} ot={elm.obj_type:02x}"
        if isinstance(elm, InternalElm):
            mirror = "" if self._shower.quiet >= 3 else f" mirror={elm.mirror_tid:016x}"
            yield f"{second} suboff={elm.subtree_offset:016x}{mirror}"
            return
        raw, state = self._payload(elm)
        yield (
            f"{second} dataoff={elm.data_offset:016x}/{elm.data_len} "
            f"{state.format(crc=f'crc={elm.data_crc:08x}')}{self._shower.fill(elm.data_offset)}"
        )
        if raw is not None and self._shower.quiet < 2:
            yield from (_INDENT + line for line in self._contents(elm, raw))

    def _payload(self, elm: LeafElm) -> tuple[bytes | None, str]:
        """The payload, and what its checksum is worth: a pattern for the text."""
        shower = self._shower
        if shower.quiet >= 3:
            return None, "{crc}"
        if not elm.data_offset:
            if elm.data_len:
                shower.bad.records += 1
                return None, "{crc} error=ZO"
            return None, "{crc}"
        try:
            if not 0 <= elm.data_len <= XBUFSIZE or elm.data_offset >> ZONE_SHIFT not in ZONES_MAPPED:
                raise HammerError("no payload address")
            raw = shower.read(elm.data_offset, elm.data_len)
        except HammerError:
            shower.bad.records += 1
            return None, "{crc} error=BO"
        if elm.rec_type == RECTYPE_INODE and len(raw) != 128:
            shower.bad.records += 1
            return None, "{crc} error=BI"
        kind = shower.crc_kind(elm.data_crc, payload_crc_bytes(elm.rec_type, raw))
        shower.bad.records += not kind
        return raw, f"{kind}{{crc}}" if kind else "{crc} error=BX"

    def _contents(self, elm: LeafElm, raw: bytes) -> Iterator[str]:
        try:
            yield from self._record(elm, raw)
        except HammerError as err:
            yield f"({err.what})"

    def _record(self, elm: LeafElm, raw: bytes) -> Iterator[str]:
        name = self._shower.name
        if elm.rec_type == RECTYPE_INODE:
            yield from self._inode(InodeData.decode(raw), raw)
        elif elm.rec_type == RECTYPE_DIRENTRY:
            entry = DirentryData.decode(raw)
            yield f'dir-entry objid={entry.obj_id & _U64:016x} lo={entry.localization:08x} name="{name(entry.name)}"'
        elif elm.rec_type == RECTYPE_FIX and elm.key == FIXKEY_SYMLINK:
            yield f'fix-symlink name="{name(raw)}"'
        elif elm.rec_type == RECTYPE_PFS:
            pfs = PfsData.decode(raw)
            yield f"pfs sync_beg_tid={pfs.sync_beg_tid:016x} sync_end_tid={pfs.sync_end_tid:016x}"
            yield f"    shared_uuid={pfs.shared}"
            yield f"    unique_uuid={pfs.unique}"
            where = f' snapshots="{name(pfs.snapshots_path)}"' if pfs.snapshots_path else ""
            yield f'    mirror_flags={pfs.mirror_flags & 0xFFFFFFFF:08x} label="{name(pfs.label_text)}"{where}'
        elif elm.rec_type == RECTYPE_SNAPSHOT:
            snap = SnapshotData.decode(raw)
            yield f'snapshot tid={snap.tid:016x} label="{name(snap.label_text)}"'

    def _inode(self, inode: InodeData, raw: bytes) -> Iterator[str]:
        yield (
            f"inode size={inode.size} nlinks={inode.nlinks} mode={inode.mode:05o} uflags={inode.uflags:08x} "
            f"caps={inode.cap_flags:02x} pobjid={inode.parent_obj_id & _U64:016x} ot={inode.obj_type:02x}"
        )
        if self._shower.quiet:
            return
        link = ""
        if inode.obj_type == OBJTYPE_SOFTLINK and inode.symlink[0]:
            # A target of all 24 bytes has no NUL: the original prints what follows it as well, up to one.
            link = f' symlink="{self._shower.name(raw[_SYMLINK:].split(_NUL, 1)[0])}"'
        yield f"      ctime={inode.ctime:016x} mtime={inode.mtime:016x} atime={inode.atime:016x}{link}"
