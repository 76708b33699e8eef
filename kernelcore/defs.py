"""Numbers shared by all kernel services: priorities, thread flags, request flags, traps, sleep flags.

Hot code uses these as plain integers; `TDPRI` exists for readers and for `ps`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class TDPRI(IntEnum):
    """LWKT priorities, 0..31; a higher number runs first."""

    IDLE = 0
    IDLE_WORK = 1
    USER_SCHEDULER = 2
    USER_IDLE = 4
    USER_NORM = 6
    USER_REAL = 8
    KERN_LPSCHED = 9
    KERN_USER = 10
    KERN_DAEMON = 12
    SOFT_NORM = 14
    SOFT_TIMER = 16
    EXITING = 19
    INT_SUPPORT = 20
    INT_LOW = 27
    INT_MED = 28
    INT_HIGH = 29
    MAX = 31


NPRI: Final = 32
KERN_DAEMON: Final = int(TDPRI.KERN_DAEMON)
KERN_LPSCHED: Final = int(TDPRI.KERN_LPSCHED)

# td_flags: written by the owning CPU only. A thread runs if it is its CPU's gd_curthread.
TDF_RUNQ: Final = 0x0002  # linked on its CPU's run queue (a running thread normally is, too)
TDF_TSLEEPQ: Final = 0x0004  # hooked on a sleep queue, perhaps still executing
TDF_TSLEEP_DESCHEDULED: Final = 0x0008  # truly asleep in tsleep
TDF_BLOCKED: Final = 0x0010  # asleep in lwkt_sleep: woken only by lwkt_schedule
TDF_MIGRATING: Final = 0x0020  # between two CPUs: may not be enqueued anywhere
TDF_EXITING: Final = 0x0040  # its body has ended
TDF_NOSTART: Final = 0x0080  # created, not yet scheduled
TDF_IDLE: Final = 0x0100  # the idle thread of a CPU: stands for "no thread"
TDF_FIXEDCPU: Final = 0x0200  # may not migrate
TDF_SINTR: Final = 0x0400  # the present sleep may be interrupted (PCATCH)
TDF_SYSCALL: Final = 0x0800  # a borrowed structure: a request of the host
TDF_TIMEOUT: Final = 0x1000  # the sleep's timer fired
TDF_DEAD: Final = 0x2000  # fully exited: off every list

# Request flags of a CPU (gd_reqflags), written by the owning CPU only; what other CPUs
# ask for stands in gd_ipimask, which takes atomic single-item updates.
RQF_INTPEND: Final = 0x01  # deferred work waits in gd_intpend
RQF_TIMER: Final = 0x02  # a callout may have expired

# What a thread's coroutine yields to the run loop.
TRAP_SWITCH: Final = 0  # run the best ready thread
TRAP_YIELD: Final = 1  # go behind the equals, then switch
TRAP_MIGRATE: Final = 2  # continue on td_migrate_gd
TRAP_BLOCK: Final = 4  # deschedule me, then switch
TRAP_PREEMPT: Final = 3  # an interleaving point of the simulator: tokens stay held

# Flags of tsleep.
PCATCH: Final = 0x0100  # a signal ends the sleep
PINTERLOCKED: Final = 0x0400  # tsleep_interlock has been done

MAXTOKENS: Final = 32
TOKEN_POOL_SIZE: Final = 4001
LWKT_SPIN_LOOPS: Final = 10
