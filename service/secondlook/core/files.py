"""Files and folders that appear whole or not at all; a full disk as an error of our own."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secondlook.core.errors import InvalidInput, StorageFull

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
"""Nothing can be written there, whoever tries."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file or folder at; it takes ``path``'s place at the end.

    On any failure what was written is removed and ``path`` is as before. Raises ``StorageFull``
    when the disk is full.
    """
    part = path.with_name(f"{path.name}.part")
    with explaining(path):
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
def explaining(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into an error with a way out."""
    try:
        yield
    except OSError as failure:
        if failure.errno in FULL:
            raise StorageFull(
                f"the disk is full while writing {path}; what was written before is kept: "
                "make room and run the same command again"
            ) from failure
        if failure.errno in REFUSED + NO_PLACE:
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


# File names as text that every database and message can hold, and back again.
#
# A name of a file is bytes, and Python shows those that are not UTF-8 as halves of characters,
# which no database takes. Such a byte is written ``\\xff`` here, and a backslash twice, so that no
# two names become one; all other names stay as they are.

_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2})")


def to_text(name: str) -> str:
    """A file's name, as the operating system's functions give it, as plain text."""
    doubled = name.replace("\\", "\\\\")
    return doubled.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    """The name that ``to_text`` was given."""
    return _ESCAPED.sub(_unescaped, text)


def _unescaped(found: re.Match[str]) -> str:
    escaped = found[1]
    if escaped == "\\":
        return escaped
    return bytes.fromhex(escaped[1:]).decode("utf-8", "surrogateescape")
