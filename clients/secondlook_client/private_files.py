"""Files that secondlook keeps on this disk: for this user only, and never outside of their folder.

Names and hashes that are read back, from a server, a manifest or a folder, become parts of paths.
They are checked here first: nothing in them is a path by itself.
"""

import os
import re
from pathlib import Path
from typing import IO

from secondlook_client.errors import Damaged

FOLDER_MODE, FILE_MODE = 0o700, 0o600
"""Images and labels show people and places: nobody else on the machine may read them."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)


def is_sha256(text: str) -> bool:
    """Whether it is a SHA-256 in 64 lower-case hexadecimal digits."""
    return _SHA256.fullmatch(text) is not None


def is_plain_name(text: str) -> bool:
    """Whether it is the name of a file and of nothing else: no separator, no ``..``, not hidden."""
    return _PLAIN_NAME.fullmatch(text) is not None


def checked_sha256(text: str, what: str) -> str:
    """``text`` if it is a SHA-256. Raises ``Damaged``, which says that ``what`` came with it."""
    if not is_sha256(text):
        raise Damaged(
            f"{what} came with {text[:80]!a} where a SHA-256 belongs; run `secondlook check` where "
            "the server's store is, or use a server that you trust"
        )
    return text


def make_private_folder(folder: Path) -> None:
    """Create a folder and its parents, where they are missing, for this user only.

    One that exists keeps its rights: whoever made it may share it on purpose. Raises ``OSError``.
    """
    if not folder.is_dir():
        if folder.parent != folder:
            make_private_folder(folder.parent)
        folder.mkdir(FOLDER_MODE, exist_ok=True)


def open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a file to write bytes (``wb``, ``ab``); a new one is for this user only.

    A link in its place is not followed. Raises ``OSError``.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), FILE_MODE)

    return open(path, mode, opener=opener)
