"""How long the domain's OS thread waits for the interpreter lock after it was asleep.

With nothing else running Python that is what the machine takes to wake a thread, some 60 us. An I/O CPU that runs
bytecode instead of one C call adds up to one switch interval to every wake-up of the domain, and shows here.
"""

from __future__ import annotations

import time
from typing import Final

SLEEP_SECONDS: Final = 20e-6  # long enough for another OS thread to take the lock


class GilProbe:
    """Samples of that time, in seconds: the last one, the longest, their number and sum."""

    __slots__ = ("last", "samples", "total", "worst")

    def __init__(self) -> None:
        self.samples = 0
        self.last = 0.0
        self.worst = 0.0
        self.total = 0.0

    def sample(self) -> float:
        """Give the lock away, sleep, take it again; return by how much that was late. Blocks for about 0.1 ms."""
        began = time.perf_counter()
        time.sleep(SLEEP_SECONDS)
        late = max(0.0, time.perf_counter() - began - SLEEP_SECONDS)
        self.samples += 1
        self.last = late
        self.worst = max(self.worst, late)
        self.total += late
        return late
