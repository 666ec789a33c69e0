"""A socket in a private folder: for programs of the server's own user, without TLS or token.

Whoever may open it may read the store's files as well. Trainings that the server starts, and
commands that start a server for themselves, use it.
"""

import os
import shutil
import socket
import stat
import tempfile
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

MAX_FOLDER = 60
"""Bytes of the folder's parent: the path of a socket has at most 107."""
PREFIX, NAME = "secondlook-socket-", "socket"
"""What folders are called, with random letters behind, and the one file in each."""
STARTING_S = 60.0
"""A folder is that old before it can be a dead server's: one that starts does not accept yet."""
MAX_ENTRIES = 20_000
"""Of the folder's parent, which are looked at."""


class OwnSocket:
    """The folder and the address of one socket, until it is closed."""

    def __init__(self) -> None:
        parent = _parent()
        remove_dead_sockets(Path(parent))
        self._folder = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
        self.address = f"unix:{self._folder}/{NAME}"
        """As gRPC's servers and clients take it."""

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def own_address() -> str:
    """The address of a running server of this user, the one that was started last; or empty."""
    folders = sorted(Path(_parent()).glob(f"{PREFIX}*/{NAME}"), key=_started_at, reverse=True)
    own = (path for path in folders if _is_own(path.parent) and not _is_dead(path))
    return next((f"unix:{path}" for path in own), "")


def _parent() -> str:
    """Where the folders of sockets are."""
    parent = tempfile.gettempdir()
    return parent if len(os.fsencode(parent)) <= MAX_FOLDER else "/tmp"


def _started_at(path: Path) -> float:
    with suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def _is_own(folder: Path) -> bool:
    """Whether it is this user's and closed to others: another may have put a socket there."""
    with suppress(OSError):
        found = folder.lstat()
        private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == stat.S_IRWXU
        return private and found.st_uid == os.geteuid()
    return False


def remove_dead_sockets(parent: Path) -> None:
    """Remove the folders that servers of this user left in ``parent`` when they were killed.

    A server is dead where nobody accepts a connection to its socket: that is true in a container
    with process ids of its own, too. Only a socket and its folder are ever removed, of this user's
    and closed to others.
    """
    with suppress(OSError), os.scandir(parent) as entries:
        names = [one.name for one in islice(entries, MAX_ENTRIES) if one.name.startswith(PREFIX)]
        for name in names:
            with suppress(OSError):
                _remove_dead(parent / name)


def _remove_dead(folder: Path) -> None:
    starting = time.time() - folder.lstat().st_mtime < STARTING_S
    if starting or not _is_own(folder):
        return
    path = folder / NAME
    if path.exists():
        if not path.is_socket() or not _is_dead(path):
            return
        path.unlink()
    folder.rmdir()  # fails where there is anything else


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a server whose queue is full is alive
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
