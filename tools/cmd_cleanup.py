"""`hammer cleanup config viconfig`: the regular care of mounted file systems, and the text it follows."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from hammerfs.errors import HammerError, UsageError
from tools.cleanup import Cleanup, default_config, parse_config
from tools.output import complain, json_name, print_json, safe_line, safe_name
from tools.session import Session, open_session
from tools.target import open_fs, parse_pfs_or_path

_FUSE_TYPE = "fuse.hammer"


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    cleanup = verbs.add_parser("cleanup", help="do what the configuration of PFSs says, where it is due")
    cleanup.add_argument("paths", nargs="*", metavar="PFS", help="anything in it (default: all mounted file systems)")
    cleanup.add_argument("-F", dest="force", action="store_true", help="whether it is due or not")
    cleanup.set_defaults(run=run_cleanup)
    config = verbs.add_parser("config", help="show the configuration text of a PFS, or set it from a file")
    config.add_argument("where", nargs="?", default="0", metavar="N|LABEL|PATH", help="which PFS (default 0)")
    config.add_argument("file", nargs="?", metavar="FILE", help="the new text; - for standard input")
    config.add_argument("--pfs", metavar="N|LABEL", help="which PFS of an image")
    config.set_defaults(run=run_config)
    viconfig = verbs.add_parser("viconfig", help="edit the configuration text of a PFS")
    viconfig.add_argument("where", metavar="PATH", help="anything in it")
    viconfig.set_defaults(run=run_viconfig)


def run_cleanup(args: argparse.Namespace) -> int:
    """Clean up PFSs."""
    if args.volumes:
        raise UsageError("cleanup is for mounted file systems")
    seen, good = set(), True
    say = (lambda _text: None) if args.quiet or args.json else print
    rows = []
    for path in args.paths or _mounted():
        try:
            with open_session(args, path) as session:
                cleanup = Cleanup(session, args, path, say)
                if cleanup.unique not in seen:
                    seen.add(cleanup.unique)
                    good &= cleanup.run()
                    names = {"path": json_name(path), "folder": json_name(str(cleanup.folder))}
                    rows.append({"pfs": cleanup.pfs_id, **names, "done": cleanup.done})
        except HammerError as err:
            if len(args.paths) == 1:
                raise
            complain("hammer: cleanup", f"{path}: {err}")
            good = False
    if args.json:
        print_json(rows)
    return 0 if good else 1


def _mounted() -> list[str]:
    """Mounted file systems, and the softlinks to PFSs in their roots."""
    found: list[str] = []
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return found
    for line in lines:
        _, place, kind, *_ = line.split(" ")
        if kind == _FUSE_TYPE:
            place = place.encode("latin-1", "backslashreplace").decode("unicode_escape")
            found.append(place)
            with os.scandir(place) as entries:
                found += [e.path for e in entries if e.is_symlink() and os.readlink(e.path).startswith("@@")]
    return found


def run_config(args: argparse.Namespace) -> int:
    """Print the configuration text, or set it; none is an error, as there is nothing to print."""
    if args.file is not None:
        text = sys.stdin.read() if args.file == "-" else _read(args.file)
        parse_config(text)
        where = "/" if args.volumes and args.where == "0" else args.where
        with open_session(args, where) as session:
            session.run("config", where, text=text)
        return 0
    if args.volumes:
        with open_fs(args) as fs:
            pfs_id = parse_pfs_or_path(fs, args.pfs or args.where)
            found = fs.config(pfs_id)
    else:
        where = "." if args.where == "0" else args.where
        with open_session(args, where) as session:
            reply = session.run("config", where)
        pfs_id, found = reply["pfs"], None if reply["config"] is None else os.fsencode(reply["config"])
    if args.json:
        print_json({"pfs": pfs_id, "config": None if found is None else json_name(found)})
    elif found is None:
        print(f"hammer: config: PFS {pfs_id} has no configuration", file=sys.stderr)
        return 1
    else:
        lines = found.decode("utf-8", "surrogateescape").split("\n")
        sys.stdout.write("\n".join("\t".join(safe_line(word) for word in line.split("\t")) for line in lines))
    return 0


def run_viconfig(args: argparse.Namespace) -> int:
    """Have the user edit the configuration text."""
    with open_session(args, args.where) as session:
        text: str | None = session.run("config", args.where)["config"]
        _edit(session, args.where, default_config(args.where) if text is None else text)
    return 0


def _edit(session: Session, where: str, before: str) -> None:
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="hammer-") as folder:
        path = Path(folder, "config")
        path.write_text(before, encoding="utf-8", errors="surrogateescape")
        try:
            done = subprocess.run([*editor, str(path)], check=False)
        except OSError as err:
            raise UsageError(f"{safe_name(os.fsencode(editor[0]))}: {err.strerror}") from None
        if done.returncode:
            raise UsageError(f"{editor[0]} ended with code {done.returncode}: nothing was changed")
        after = path.read_text(encoding="utf-8", errors="surrogateescape")
    parse_config(after)
    session.run("config", where, text=after)


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as err:
        raise UsageError(f"{name}: {err.strerror}") from None
