"""Stamps of directories: one that was not told of a change says so, also when many have been forgotten."""

from __future__ import annotations

import pytest

from hammerfs.fuse import stamps
from hammerfs.fuse.stamps import Stamps


def test_a_change_is_seen_in_its_directory_only() -> None:
    found = Stamps()
    before = found.of(1), found.of(2)
    found.changed(1)
    assert found.of(1) != before[0]
    assert found.of(2) == before[1]
    found.changed(1)
    assert found.of(1) not in {before[0], before[1]}


def test_what_is_forgotten_counts_as_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "_KEPT", 3)
    found = Stamps()
    seen: dict[int, set[int]] = {number: {found.of(number)} for number in range(8)}
    for round_ in range(5):
        for number in range(8):
            found.changed(number)
            assert found.of(number) not in seen[number], (round_, number)
            seen[number].add(found.of(number))
    untouched = found.of(99)
    for number in range(8):
        found.changed(number)
    assert found.of(99) != untouched
