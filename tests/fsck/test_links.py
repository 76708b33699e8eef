"""Entries, link counts, parents, loops and slaves: exactly what was broken is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from hammerfs.const import OBJID_ROOT, OBJTYPE_DIRECTORY, OBJTYPE_FIFO, OBJTYPE_REGFILE
from tests.fsck.edit import LATER_TID, SLAVE, Edit, base, builder, is_inode, place
from tests.fuzz.bases import base_image, crashed
from tests.imagebuilder import ImageBuilder
from tools.fsck import check

Damage = Callable[[Edit], object]


def entry(name: bytes, /, **fields: object) -> Damage:
    """Change the payload of an entry."""
    return lambda edit: edit.edit_entry(edit.entry(name), **fields)


def element(name: bytes, /, **fields: object) -> Damage:
    """Change the element of an entry."""
    return lambda edit: edit.edit(edit.entry(name), **fields)


def inode(name: bytes, **fields: object) -> Damage:
    return lambda edit: edit.edit_inode(edit.inode_of(name), **fields)


CASES: dict[str, tuple[Damage, dict[str, int]]] = {
    "too many links": (inode(b"linked", nlinks=3), {"link-count": 1}),
    "too few links": (inode(b"linked", nlinks=1), {"link-count": 1}),
    "links of a directory": (inode(b"d1", nlinks=2), {"link-count": 1}),
    "links of the root": (lambda e: e.edit_inode(is_inode(OBJID_ROOT), nlinks=2), {"link-count": 1}),
    "target gone": (entry(b"holes", obj_id=999), {"dirent-dangling": 1, "inode-orphan": 1}),
    "target elsewhere": (entry(b"holes", localization=1 << 16), {"dirent-field": 1}),
    "name with a slash": (entry(b"holes", name=b"ho/es"), {"dirent-field": 1}),
    "dead name with NUL": (entry(b"dead", name=b"de\0d"), {"dirent-field": 1}),
    "hash": (entry(b"holes", name=b"halos"), {"dirent-hash": 1}),
    "hash of a dead entry": (entry(b"dead", name=b"deaf"), {"dirent-hash": 1}),
    "key": (element(b"again", key=5), {"dirent-hash": 1}),
    "type": (element(b"holes", obj_type=OBJTYPE_FIFO), {"dirent-type": 1}),
    "class": (inode(b"d1", cap_flags=1), {"record-place": 1}),
    "parent": (inode(b"e", parent_obj_id=OBJID_ROOT), {"directory-parent": 1}),
    "parent of a file is a hint": (inode(b"linked", parent_obj_id=5), {}),
    "owner no directory": (inode(b"d1", obj_type=OBJTYPE_DIRECTORY), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_links(name: str) -> None:
    damage, expected = CASES[name]
    edit = Edit(base())
    damage(edit)
    assert edit.codes() == expected


def built(add: Callable[[ImageBuilder], object], version: int = 7) -> dict[str, int]:
    """What is found in a sound image to which something has been added."""
    b = builder(version)
    add(b)
    return dict(Counter(finding.code for finding in check([b.build()])))


@pytest.mark.parametrize(("nlinks", "code"), [(1, "inode-orphan"), (0, "inode-unlinked")])
def test_no_entry(nlinks: int, code: str) -> None:
    """With a link count of 0 it is what a crash leaves of a file that was removed while it was open."""
    assert built(lambda b: b.inode(b.new_obj_id(), OBJTYPE_REGFILE, nlinks=nlinks)) == {code: 1}


def test_a_name_twice() -> None:
    def twice(b: ImageBuilder) -> None:
        obj_id = b.new_obj_id()
        b.inode(obj_id, OBJTYPE_REGFILE, nlinks=2)
        b.direntry(OBJID_ROOT, b"twin", obj_id, OBJTYPE_REGFILE)
        b.direntry(OBJID_ROOT, b"twin", obj_id, OBJTYPE_REGFILE)

    assert built(twice) == {"dirent-twice": 1}
    assert built(twice, 1) == {"dirent-twice": 1}


def test_colliding_names_are_sound() -> None:
    """`a.b` and `b.a` have the same upper half of the key with algorithm 1; probing puts them side by side."""
    assert built(lambda b: [b.file(name, b"x") for name in (b"/a.b", b"/b.a", b"/a-b", b"/a_b")]) == {}


def test_a_directory_below_itself() -> None:
    def loop(b: ImageBuilder) -> None:
        one, two = b.new_obj_id(), b.new_obj_id()
        for here, there, name in ((one, two, b"two"), (two, one, b"one")):
            b.inode(here, OBJTYPE_DIRECTORY, parent=there)
            b.direntry(here, name, there, OBJTYPE_DIRECTORY)

    assert built(loop) == {"directory-loop": 1}


def test_a_directory_with_two_entries() -> None:
    def two(b: ImageBuilder) -> None:
        b.direntry(OBJID_ROOT, b"again", b.mkdir(b"/d1/e"), OBJTYPE_DIRECTORY)

    assert built(two) == {"link-count": 1}


def test_a_slave_counts_as_of_its_last_synchronisation() -> None:
    """What a mirror run that was cut off left there is newer, and no fault; on a master it is one."""

    def half_mirrored(pfs: int) -> Callable[[ImageBuilder], object]:
        return lambda b: b.direntry(OBJID_ROOT, b"new", 12345, OBJTYPE_REGFILE, pfs=pfs, tid=LATER_TID)

    assert built(half_mirrored(SLAVE)) == {}
    assert built(half_mirrored(1)) == {"dirent-dangling": 1}


@pytest.mark.parametrize(("pfs", "code"), [(SLAVE, "record-generations-mirrored"), (1, "record-generations")])
def test_generations_of_a_master_without_history(pfs: int, code: str) -> None:
    """The master destroyed the older one at once; the slave ends it with the synchronisation, which is later."""

    def overlapping(b: ImageBuilder) -> None:
        obj_id = b.new_obj_id()
        b.direntry(OBJID_ROOT, b"new", obj_id, OBJTYPE_REGFILE, pfs=pfs, tid=LATER_TID)
        b.inode(obj_id, OBJTYPE_REGFILE, pfs=pfs, tid=LATER_TID, delete_tid=LATER_TID + 32)
        b.inode(obj_id, OBJTYPE_REGFILE, pfs=pfs, tid=LATER_TID + 16)

    assert built(overlapping) == {code: 1}


def test_a_target_that_had_not_been_flushed() -> None:
    sound, edit = Edit(base_image(0)), Edit(crashed(7))
    wanted = sound.inode_of(b"short")
    sound.edit_inode(wanted, size=100)
    leaf, node, _, elm = sound.leaf_with(wanted)
    edit.put_node(leaf, node)
    edit.dev.pwrite(place(elm.data_offset), sound.payload(elm))
    assert edit.codes() == {"dirty": 1, "symlink-unflushed": 1}


def test_old_versions_have_no_snapshots() -> None:
    assert built(lambda b: b.snapshot(LATER_TID, b"snap"), 2) == {"record-type": 1}


def test_findings_say_where() -> None:
    edit = Edit(base())
    obj_id = edit.obj_id(b"file04")
    edit.edit_inode(edit.inode_of(b"file04"), nlinks=7)
    [finding] = edit.check()
    assert finding.path == b"/d1/e/file04"
    assert finding.obj_id == obj_id
    assert (finding.zone, finding.volume, finding.pfs_id) == (9, 0, 0)
    assert finding.volume_offset == 557056 + (finding.offset or 0) % (1 << 52)
    assert str(finding).endswith(f"object 0x{obj_id:016x}, /d1/e/file04: 7 links, 1 entries")
