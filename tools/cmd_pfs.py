"""`hammer pfs-status pfs-master pfs-slave pfs-update pfs-upgrade pfs-downgrade pfs-destroy`, on a mount or an image."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from hammerfs.errors import UsageError
from hammerfs.ondisk.records import PfsData
from tools.output import print_json, safe_name
from tools.passes import PassResult, place_text, run_pass
from tools.pfs_text import pfs_json, print_pfs
from tools.session import Session, open_session
from tools.target import open_fs, parse_pfs_or_path

OPTIONS = (
    *("sync-beg-tid", "sync-end-tid", "shared-uuid", "unique-uuid"),
    *("label", "snapshots", "snapshots-clear", "prune-min"),
)
"""What of a PFS's record can be set."""
_COUNTDOWN = 5


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    status = verbs.add_parser("pfs-status", help="the record of PFSs (of an image by default: all)")
    status.add_argument(
        "pfs_args", nargs="*", metavar="N|LABEL|PATH", help="what is in it; of an image number or label"
    )
    status.set_defaults(run=run_status)
    for verb, slave in (("pfs-master", False), ("pfs-slave", True)):
        parser = verbs.add_parser(verb, help=f"make a {verb[4:]} PFS and a softlink to it")
        parser.add_argument("path", metavar="LINK", help="the softlink to make, in PFS 0")
        parser.add_argument("options", nargs="*", metavar="OPTION=VALUE", help=f"of {', '.join(OPTIONS)}")
        parser.set_defaults(run=run_create, slave=slave)
    update = verbs.add_parser("pfs-update", help="change the record of a PFS")
    update.add_argument("path", metavar="PFS", help="anything in it")
    update.add_argument("options", nargs="+", metavar="OPTION=VALUE", help=f"of {', '.join(OPTIONS)}")
    update.set_defaults(run=run_update)
    upgrade = verbs.add_parser("pfs-upgrade", help="make a slave a master, as of its last synchronisation")
    upgrade.add_argument("path", metavar="PFS", help="anything in it, or its softlink")
    upgrade.set_defaults(run=run_upgrade)
    downgrade = verbs.add_parser("pfs-downgrade", help="make a master a slave")
    downgrade.add_argument("path", metavar="PFS", help="anything in it")
    downgrade.set_defaults(run=run_downgrade)
    destroy = verbs.add_parser("pfs-destroy", help="destroy a PFS with all it holds, and its softlink")
    destroy.add_argument("path", metavar="LINK", help="its softlink")
    destroy.set_defaults(run=run_destroy)


def run_status(args: argparse.Namespace) -> int:
    """Print the record of each PFS asked for."""
    rows: list[tuple[bytes, int, PfsData, int]] = []
    if args.volumes:
        with open_fs(args) as fs:
            wanted = {parse_pfs_or_path(fs, text) for text in args.pfs_args}
            head = fs.volumes.superblock
            found = [row for row in fs.pfs_list() if not wanted or row[0] in wanted]
            rows = [(head.label, pfs_id, pfs, head.vol_version) for pfs_id, pfs in found]
    else:
        for path in args.pfs_args or ["."]:
            with open_session(args, path) as session:
                rows.append(_row(path, session.run("pfs-status", path)))
    if args.json:
        print_json([pfs_json(pfs_id, pfs) for _, pfs_id, pfs, _ in rows])
        return 0
    for row in rows:
        print_pfs(*row)
    return 0


def run_create(args: argparse.Namespace) -> int:
    """Make a PFS."""
    folder = _folder_of(args.path, on_image=bool(args.volumes))
    with open_session(args, folder) as session:
        reply = make_pfs(session, args.path, args.options, slave=args.slave, on_image=bool(args.volumes))
    row = _row(args.path, reply)
    if args.json:
        print_json(pfs_json(row[1], row[2]))
        return 0
    print(f"Creating PFS#{row[1]}\tsucceeded!")
    print_pfs(*row)
    return 0


def make_pfs(session: Session, path: str, options: list[str], *, slave: bool, on_image: bool) -> dict[str, Any]:
    """Make a PFS and a softlink to it; on a mount the kernel makes the link, as it would not notice another one.

    Args:
        session: Where the file system is.
        path: The softlink.
        options: ``OPTION=VALUE`` for its record.
        slave: Whether it is one.
        on_image: Whether the path is inside an image.

    Returns:
        What the verb replies.

    Raises:
        UsageError: The softlink can't be made.
        HammerError: What the verb raises.
    """
    folder, name = _folder_of(path, on_image=on_image), os.path.basename(path.rstrip("/"))
    if not name:
        raise UsageError(f"'{path}' is no name for a softlink")
    words = {"options": options, "slave": slave, "uid": os.getuid(), "gid": os.getgid()}
    reply: dict[str, Any]
    if on_image:
        reply = session.run("pfs-create", folder, link=name, **words)
        return reply
    pfs_id = session.run("pfs-next", folder)["pfs"]
    try:
        os.symlink(f"@@PFS{pfs_id:05d}", path)
    except OSError as err:
        raise UsageError(f"{path}: {err.strerror}") from None
    try:
        reply = session.run("pfs-create", folder, pfs=pfs_id, **words)
    except BaseException:
        os.unlink(path)
        raise
    return reply


def _folder_of(path: str, *, on_image: bool) -> str:
    return os.path.dirname(path.rstrip("/")) or ("/" if on_image else ".")


def run_update(args: argparse.Namespace) -> int:
    """Change the record of a PFS."""
    with open_session(args, args.path) as session:
        row = _row(args.path, session.run("pfs-update", args.path, options=args.options))
    if args.json:
        print_json(pfs_json(row[1], row[2]))
    else:
        print_pfs(*row)
    return 0


def run_downgrade(args: argparse.Namespace) -> int:
    """Make a master a slave."""
    with open_session(args, args.path) as session:
        row = _row(args.path, session.run("pfs-downgrade", args.path))
    if args.json:
        print_json(pfs_json(row[1], row[2]))
    else:
        print(f"pfs-downgrade of PFS#{row[1]} ({safe_name(row[2].label_text)}) succeeded")
    return 0


def run_upgrade(args: argparse.Namespace) -> int:
    """Make a slave a master."""
    with open_session(args, _parent_of_link(args)) as session:
        done = run_pass(session, args, "pfs-upgrade", args.path)
    label = safe_name(os.fsencode(done.reply["label"]))
    return _finished(args, done, f"pfs-upgrade of PFS#{done.reply['pfs']} ({label})", "succeeded")


def run_destroy(args: argparse.Namespace) -> int:
    """Destroy a PFS."""
    with open_session(args, _parent_of_link(args)) as session:
        if not args.yes:
            _ask(args.path)
        done = run_pass(session, args, "pfs-destroy", args.path, unlink=bool(args.volumes), pfs=None)
        if done.stopped_at is None and not args.volumes and os.path.islink(args.path):
            os.unlink(args.path)
    return _finished(args, done, f"pfs-destroy of PFS#{done.reply['pfs']}", "succeeded!")


def _parent_of_link(args: argparse.Namespace) -> str:
    """Where to ask: a softlink to a slave leads nowhere before the first mirroring."""
    return args.path if args.volumes else os.path.dirname(args.path.rstrip("/")) or "."


def _ask(path: str) -> None:
    """Have the user confirm, and give them time to think again.

    Raises:
        UsageError: They do not.
    """
    print(
        f"You have requested that {safe_name(os.fsencode(path))} be destroyed, with everything in it and its history."
    )
    print("Do you really want to do this? ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise UsageError("no: nothing was destroyed")
    for left in range(_COUNTDOWN, 0, -1):
        print(f"Destroying in {left}", flush=True)
        time.sleep(1)


def _finished(args: argparse.Namespace, done: PassResult, what: str, succeeded: str) -> int:
    if args.json:
        print_json({"pfs": done.reply["pfs"], **done.stats, "stopped_at": done.stopped_at})
    elif done.stopped_at is None:
        print(f"{what} {succeeded}")
    if done.stopped_at is not None:
        print(f"hammer: {args.verb}: interrupted by {done.by} at {place_text(done.stopped_at)}", file=sys.stderr)
        return 1
    return 0


def _row(place: str, reply: dict[str, Any]) -> tuple[bytes, int, PfsData, int]:
    return os.fsencode(place), reply["pfs"], PfsData.decode(bytes.fromhex(reply["data"])), reply["version"]
