"""Files: written atomically, with the system's errors explained, and their names as text.

A file's name is bytes, and Python shows those that are not UTF-8 as lone surrogates, which no
database and no message takes. As text such a byte is written ``\\xff``, and a backslash twice, so
that no two names become one; all other names stay as they are.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secondlook_client.errors import InvalidInput, StorageFull

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EROFS)
IMPOSSIBLE_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
"""Nobody can write there."""
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2})")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file or folder at; it replaces ``path`` at the end.

    On any failure what was written is removed and ``path`` is as before. Raises ``StorageFull``
    when the disk is full.
    """
    part = path.with_name(f"{path.name}.part")
    with explain_write_errors(path):
        remove(part)
        try:
            yield part
            if path.is_dir():
                remove(path)  # a folder cannot be replaced in one step
            part.replace(path)
        except BaseException:
            remove(part)
            raise


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into an error that says what to do."""
    try:
        yield
    except OSError as failure:
        if failure.errno in DISK_FULL:
            raise StorageFull(
                f"the disk is full while writing {path}; what was written before is kept: "
                "make room and run the same command again"
            ) from failure
        if failure.errno in NOT_PERMITTED + IMPOSSIBLE_PATH:
            raise InvalidInput(
                f"{failure.filename or path} cannot be written ({os.strerror(failure.errno)}); "
                "give a folder of your own with --out"
            ) from failure
        raise


def remove(path: Path) -> None:
    """Remove a file, link or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def name_to_text(name: str) -> str:
    """A file's name, as the operating system's functions give it, as plain text."""
    doubled = name.replace("\\", "\\\\")
    return doubled.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def text_to_name(text: str) -> str:
    """The name that ``name_to_text`` was given."""
    return _ESCAPED.sub(_unescaped, text)


def _unescaped(found: re.Match[str]) -> str:
    escaped = found[1]
    if escaped == "\\":
        return escaped
    return bytes.fromhex(escaped[1:]).decode("utf-8", "surrogateescape")
