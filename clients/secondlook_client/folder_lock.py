"""A folder for one process at a time."""

import os
from pathlib import Path

from secondlook_client.errors import SecondlookError


def lock_folder(folder: Path, refusal: SecondlookError) -> int | None:
    """Lock a folder until the handle is closed or the process ends, however it ends.

    None on a system without POSIX locks. Raises ``refusal`` when another process has the lock,
    and ``OSError``.
    """
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise refusal from None
    return handle
