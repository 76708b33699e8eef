"""Snapshots of an image with a softlink in it: relative ones, as nobody knows where it will be mounted."""

from __future__ import annotations

import os
from typing import Any

from hammerfs.errors import ExistsError, NotADirectory, NotFound, UsageError
from hammerfs.inode import Inode
from hammerfs.maint.verb import Context
from hammerfs.maint.verbs import run_verb
from hammerfs.maint.verbs_history import Past
from hammerfs.namespace import Owner
from hammerfs.rw import WritableFS
from tools.softlinks import DEFAULT_NAME, expanded


class ImageSnap:
    """Takes snapshots of an image, each with a link to it.

    Args:
        fs: The image.
    """

    def __init__(self, fs: WritableFS) -> None:
        self._fs = fs
        self._past = Past(fs, fs.root())

    def place(self, path: str, *, is_template: bool) -> tuple[str, str]:
        """Directory and name of a link to be made, by what the user has named: a directory, or the link itself.

        Args:
            path: What the user has named.
            is_template: Whether the link's own name may hold strftime forms.

        Raises:
            ExistsError: It is there already.
            NotFound: The directory is not there.
            UsageError: It is in the past.
        """
        folder, last = path, expanded(DEFAULT_NAME)
        if not self._is_dir(path):
            folder, last = os.path.split(path.rstrip("/"))
            folder = folder or "/"
            last = expanded(last) if is_template else last
        directory = self._past.find(folder, follow=True)
        if not directory.is_dir:
            raise NotADirectory(f"{folder} is no directory")
        if not directory.is_head:
            raise UsageError(f"{folder} is in the past: no link can be made there")
        try:
            self._fs.lookup(directory, os.fsencode(last))
        except NotFound:
            return folder, last
        raise ExistsError(f"{os.path.join(folder, last)} is there already")

    def take(self, folder: str, name: str, note: str, *, where: str | None, rooted: bool) -> tuple[dict[str, Any], str]:
        """Take a snapshot and make the link.

        Args:
            folder: Its directory.
            name: Its name.
            note: Label of the snapshot.
            where: What it is taken of; None: the PFS of the directory.
            rooted: Whether the link leads to the root of the PFS, or to the directory it is in; `where` goes before it.

        Returns:
            What the verb has replied, and the link's target.

        Raises:
            UsageError: No relative link leads from the one to the other.
            HammerError: As the verb; or the link can't be made.
        """
        directory = self._past.find(folder, follow=True)
        way = self._way(directory, folder, where) if rooted or where is not None else ""
        words = {"path": folder if where is None else where, "label": note, "linked": True}
        taken: dict[str, Any] = self._fs.host.call(run_verb(Context(self._fs), "snap", words))
        target = f"{way}@@{taken['tid']}"
        self._fs.symlink(directory, os.fsencode(name), os.fsencode(target), Owner())
        self._fs.sync()
        return taken, target

    def _way(self, directory: Inode, folder: str, where: str | None) -> str:
        """From a directory to what a snapshot is taken of, with a slash behind it."""
        pfs_id, path = self._past.place(folder)
        up = "../" * len([part for part in path.split(b"/") if part])
        if where is None:
            return up
        other, inside = self._past.place(where)
        if other == pfs_id:
            down = os.fsdecode(inside).strip("/")
        elif not directory.pfs_id:
            down = os.path.normpath(f"/{where.lstrip('/')}").strip("/")
        else:
            raise UsageError(f"no link leads out of PFS {pfs_id} to {where}, wherever it is mounted")
        return up + (f"{down}/" if down else "")

    def _is_dir(self, path: str) -> bool:
        try:
            return self._past.find(path, follow=True).is_dir
        except (NotFound, NotADirectory):
            return False
