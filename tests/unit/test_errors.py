from __future__ import annotations

import errno

import pytest

from hammerfs.errors import BufferMiss, CorruptError, CrcError, ExistsError, HammerError, NotFound, UsageError


def test_place_comes_before_the_fact() -> None:
    err = CorruptError("bad thing", volume="a.img", offset=0x80, obj_id=-1, localization=0x10002, path=b"/x\xff")
    assert str(err) == (
        "volume a.img, offset 0x0000000000000080, object 0xffffffffffffffff, localization 00010002, "
        r"path '/x\\xff': bad thing"
    )


def test_without_a_place_only_the_fact() -> None:
    assert str(HammerError("what")) == "what"


def test_crc_error_tells_both_values() -> None:
    err = CrcError("node", want=1, found=2)
    assert str(err) == "node: bad CRC, stored 00000001, computed 00000002"
    assert isinstance(err, CorruptError)


def test_errors_are_builtin_ones_too() -> None:
    with pytest.raises(FileNotFoundError):
        raise NotFound("gone")
    with pytest.raises(FileExistsError):
        raise ExistsError("there")
    assert NotFound("gone", path=b"a").errno == errno.ENOENT


def test_exit_codes() -> None:
    assert HammerError("x").exit_code == 1
    assert UsageError("x").exit_code == 2


def test_a_miss_is_no_hammer_error() -> None:
    assert not issubclass(BufferMiss, HammerError)
