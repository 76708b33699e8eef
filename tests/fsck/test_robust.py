"""A check of media that can't be read everywhere, or that point anywhere, ends with findings or one clear error."""

from __future__ import annotations

import pytest

from hammerfs.const import OBJID_ROOT, OBJTYPE_REGFILE
from hammerfs.device.faulty import Faults, FaultyDevice
from hammerfs.errors import DeviceError
from hammerfs.fs import HammerFS
from tests.fsck.edit import Edit, base, builder, place
from tests.fuzz.bases import crashed
from tools.fsck import check, paths
from tools.fsck.check import run


@pytest.mark.parametrize("nth", [*range(1, 20), 40, 80, 160, 700])
def test_any_read_may_fail(nth: int) -> None:
    faulty = FaultyDevice(Edit().dev, Faults(reads={nth}))
    try:
        found = check([faulty], data=True, idle=nth >= 20)
    except DeviceError as err:
        assert "\n" not in str(err)
        assert nth < 3  # the headers: without them nothing can be said
    else:
        assert all(finding.is_error for finding in found if finding.code != "tree-incomplete")


def test_a_payload_that_can_not_be_read() -> None:
    edit = Edit()
    elm = edit.leaf_with(edit.inode_of(b"linked"))[3]
    at = place(elm.data_offset)
    found = check([FaultyDevice(edit.dev, Faults(bad=[(at, at + 128)]))])
    assert {finding.code for finding in found if finding.is_error} == {"payload-address"}
    assert {finding.obj_id for finding in found} >= {elm.obj_id}


def test_findings_of_one_code_are_limited_and_counted() -> None:
    edit = Edit()
    edit.header.vol0_next_tid = 5
    edit.put_header()
    summary = run([edit.dev], limit=3)
    assert [finding.code for finding in summary.findings] == ["record-tid"] * 3
    assert summary.errors > 3


def test_an_open_file_system_is_checked_on_its_media() -> None:
    edit = Edit()
    edit.edit_inode(edit.inode_of(b"linked"), nlinks=9)
    with HammerFS([edit.dev]) as fs:
        assert [finding.code for finding in check(fs)] == ["link-count"]
        assert fs.resolve(b"/linked").data.nlinks == 9


def test_a_dirty_file_system_that_is_open_is_checked_as_if_it_were_not() -> None:
    device = crashed(7)
    with HammerFS([device]) as fs:
        assert fs.undone is not None
        assert [finding.code for finding in check(fs)] == ["dirty"]


def test_header_damage_says_where() -> None:
    edit = Edit()
    edit.header.vol_no = 999
    edit.put_header()
    [finding] = edit.check()
    assert (finding.code, finding.volume_offset, finding.offset) == ("header-damaged", 0, None)
    assert str(finding) == "error header-damaged: byte 0: built.img: volume number 999"


def test_devices_stay_open() -> None:
    device = base()
    assert check([device]) == []
    assert not device.is_closed


def test_paths_are_looked_for_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_BUDGET", 5)
    b = builder()
    for i in range(20):
        b.file(b"/many%d" % i, b"x")
    b.inode(b.new_obj_id(), OBJTYPE_REGFILE, parent=OBJID_ROOT, nlinks=1)
    [finding] = check([b.build()])
    assert (finding.code, finding.path) == ("inode-orphan", None)
