"""`python -m hammerfs COMMAND ...`: the commands, where they are not on the path."""

from __future__ import annotations

import importlib
import sys

_COMMANDS = {
    "fsck": "tools.fsck.cli",
    "hammer": "tools.cli",
    "mount": "tools.mount_hammer",
    "newfs": "mkfs.cli",
}


def main(argv: list[str]) -> int:
    """Run a command; return its exit code, 2 if there is no such command."""
    if not argv or argv[0] not in _COMMANDS:
        print(f"hammerfs: give a command: {', '.join(_COMMANDS)}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(_COMMANDS[argv[0]]).main(argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
