from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hammerfs import addr
from hammerfs.const import MAX_TID, TID_INFINITE
from hammerfs.errors import CorruptError
from hammerfs.keys import compare, make_key, namekey0, namekey1, namekey_range, visible

NAMES = [
    (b"a", 0x68B7BE4300000000, 0x68B7BE4356F40000),
    (b"foo", 0x0C73652100000000, 0x0C736521E9520000),
    (b"README", 0x77CD417500000000, 0x77CD417536B80000),
    (b"hello.txt", 0x1260CEBB00000000, 0x524805CBDCDB0000),
    (b"hello.txt.tmp", 0x7501CB7500000000, 0x7F378313BE740000),
    (b".profile", 0x15E5DA7C00000000, 0x0157AA0F4F990000),
    (b"a-b_c.d~", 0x051A10C400000000, 0x7A0DD87795DE0000),
    (b"x" * 255, 0x3D66E3D900000000, 0x3D66E3D9DEBF0000),
    (b"file0001", 0x19B4638700000000, 0x19B463877A330000),
    (b"...", 0x1A43B61B00000000, 0x00000001AC580000),
]
FIELD = st.tuples(
    st.integers(0, 3), st.integers(-2, 2), st.integers(0, 3), st.integers(-2, 2), st.sampled_from([0, 1, 2, 5])
)


def test_addresses_come_apart_and_together() -> None:
    off = addr.encode(10, 7, 0x123456789)
    assert off == 0xA070000123456789
    assert (addr.zone_of(off), addr.vol_of(off), addr.short_of(off)) == (10, 7, 0x123456789)
    assert addr.zone2_of(off) == 0x2070000123456789
    assert addr.retag(off, 4) == 0x4070000123456789
    assert addr.bigblock_base(off) == 0xA070000123000000


def test_small_helpers() -> None:
    assert [addr.round16(n) for n in (0, 1, 16, 17)] == [0, 16, 16, 32]
    assert addr.block_size_at((1 << 20) - 1) == 16384
    assert addr.block_size_at(1 << 20) == 65536
    assert addr.localize(3, 2) == 0x30002
    assert (addr.pfs_of(0x30002), addr.class_of(0x30002)) == (3, 2)
    assert addr.tid_text(0x100000400) == "0x0000000100000400"


@pytest.mark.parametrize(("name", "alg0", "alg1"), NAMES, ids=lambda v: v.decode()[:12] if isinstance(v, bytes) else "")
def test_directory_hashes(name: bytes, alg0: int, alg1: int) -> None:
    assert namekey0(name) == alg0
    assert namekey1(name) == alg1


@given(st.binary(min_size=1, max_size=255))
def test_name_keys_are_positive_and_above_the_synthetic_ones(name: bytes) -> None:
    for key in (namekey0(name), namekey1(name)):
        assert 1 << 32 <= key < 1 << 63


def test_name_key_ranges() -> None:
    assert namekey_range(b"a", 0) == (0x68B7BE4300000000, 0x68B7BE43FFFFFFFF)
    assert namekey_range(b"a", 5) == (0x68B7BE4356F40000, 0x68B7BE4357F3FFFF)
    with pytest.raises(CorruptError, match="hash algorithm 3"):
        namekey_range(b"a", 3)


@given(FIELD, FIELD)
def test_compare_agrees_with_tuple_order(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    ka, kb = make_key(*a), make_key(*b)
    result = compare(ka, kb)
    assert (result > 0, result < 0) == (ka > kb, ka < kb)
    assert compare(kb, ka) == -result
    assert (abs(result) <= 1) == (ka[:4] == kb[:4])


def test_create_tid_zero_is_infinity() -> None:
    assert make_key(1, 1, 1, 1, 0)[4] == TID_INFINITE
    assert make_key(1, 1, 1, 1, 0) > make_key(1, 1, 1, 1, MAX_TID)


def test_visibility() -> None:
    assert visible(10, 20, 10)
    assert visible(10, 20, 19)
    assert not visible(10, 20, 20)
    assert not visible(10, 20, 9)
    assert visible(10, 0, MAX_TID)
    assert visible(10, 0, 0)
    assert not visible(10, 20, MAX_TID)
    assert not visible(10, 20, 0)
