"""`fsck.hammer`: is a HAMMER file system sound? `check` is the library's entry, `cli` the command."""

from tools.fsck.check import check
from tools.fsck.findings import CODES, Finding

__all__ = ["CODES", "Finding", "check"]
