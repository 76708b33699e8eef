"""Which state of a directory a listing is of: names that come or go meanwhile make it stale."""

from __future__ import annotations

_KEPT = 20_000
"""Directories whose last change is remembered; a forgotten one counts as changed once more."""


class Stamps:
    """When the names in each directory changed last, counted."""

    __slots__ = ("_newest", "_oldest", "_stamps")

    def __init__(self) -> None:
        self._stamps: dict[int, int] = {}
        self._newest = self._oldest = 0

    def of(self, number: int) -> int:
        """The stamp of a directory; equal ones mean that no name came or went in between."""
        return self._stamps.get(number, self._oldest)

    def changed(self, number: int) -> None:
        """Names in a directory came or went."""
        if len(self._stamps) >= _KEPT:
            self._stamps.clear()
            self._oldest = self._newest + 1
            self._newest += 1
        self._newest += 1
        self._stamps[number] = self._newest
