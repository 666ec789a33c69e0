"""One server at a time on a data folder, also after one was killed."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from secondlook.errors import AlreadyExists, BadSetting


class Hold:
    """A lock on a file, which the system lets go of when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises ``AlreadyExists`` when another process has it."""
        try:
            self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as failure:
            raise BadSetting(
                f"{path.parent} cannot be written ({os.strerror(failure.errno or 0)}); give a "
                "folder of your own with --data"
            ) from failure
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            if failure.errno in (errno.EWOULDBLOCK, errno.EACCES):
                holder = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip()
                os.close(self._handle)
                raise AlreadyExists(
                    f"{path.parent} is in use by another server (process {holder or 'unknown'}); "
                    "stop that one, or give another --data"
                ) from None
            # A file system without locks: better unguarded than not at all.
        with suppress(OSError):  # a full disk: the number is only for the message above
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go; once is enough."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
