"""Hosts for examples: one whose clock jumps over idle times, and the simulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kernelcore.globaldata import cpu
from kernelcore.host.sim import SimHost
from kernelcore.host.up import UpHost


class JumpHost(UpHost):
    """UpHost in debug mode; nothing sleeps for real, so what a timer does can be told to the second."""

    def __init__(self, ncpus: int = 1) -> None:
        self.now = 0.0
        super().__init__(ncpus, clock=lambda: self.now, debug=True, name="example")

    def _idle(self, seconds: float | None) -> None:
        assert seconds is not None
        self.now += seconds


def _given(host: Any) -> Iterator[Any]:
    before = cpu.gd
    yield host
    host.stop()
    cpu.gd = before


@pytest.fixture
def up() -> Iterator[JumpHost]:
    """One CPU."""
    yield from _given(JumpHost())


@pytest.fixture
def smp() -> Iterator[JumpHost]:
    """Two CPUs on one OS thread."""
    yield from _given(JumpHost(2))


@pytest.fixture
def sim() -> Iterator[SimHost]:
    """Two CPUs that run side by side."""
    yield from _given(SimHost(2, seed=1))
