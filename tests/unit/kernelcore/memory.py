"""What the tests of memory share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kernelcore.globaldata import cpu


@contextmanager
def any_cpu() -> Iterator[None]:
    """The test makes hosts and is their CPUs by turns; afterwards the running CPU is what it was."""
    before = cpu.gd
    try:
        yield
    finally:
        cpu.gd = before


@contextmanager
def hasty() -> Iterator[None]:
    """Let the interpreter switch OS threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
