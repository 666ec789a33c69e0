"""Files: written atomically, with the system's errors explained, and their names as text.

A file's name is bytes, and Python shows those that are not UTF-8 as lone surrogates, which no
database and no message takes. As text such a byte is written ``\\xff``, and a backslash twice, so
that no two names become one; all other names stay as they are.

What strangers may name or rename beneath a folder is reached through a ``FolderRoot`` only.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath, PurePosixPath

from secondlook_client.errors import InvalidInput, NotAllowed, StorageFull

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EROFS)
IMPOSSIBLE_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
"""Nobody can write there."""
MAX_SWAPS = 10
"""Times that a way is gone anew because something on it was replaced meanwhile."""
STATS_AT_ONCE = 256
# Only passed through, never read: a folder on the way need not be readable.
_STEP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
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


def check_can_write(path: Path) -> None:
    """Raises ``InvalidInput`` where a file or folder ``path`` cannot be made; makes nothing.

    To be asked before long work whose result is written there.
    """
    path = path.absolute()
    place = next(part for part in (path, *path.parents) if os.path.lexists(part))
    with explain_write_errors(path):
        if place != path and not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "", str(path))
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "", str(path))


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


def one_line(text: str) -> str:
    """``text`` with a question mark for each character that is not printable."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _unescaped(found: re.Match[str]) -> str:
    escaped = found[1]
    if escaped == "\\":
        return escaped
    return bytes.fromhex(escaped[1:]).decode("utf-8", "surrogateescape")


def is_below(name: str) -> bool:
    """Whether ``name``, which a server or file gave, is a path below the folder it belongs to.

    Links are another matter: see ``FolderRoot``.
    """
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or ".." in path.parts
    return bool(path.name) and not leads_out and "\0" not in name


class FolderRoot:
    """Reaches what lies beneath a folder, and nothing else, whatever is renamed meanwhile.

    Every step is taken from the folder before it and follows no link, so a folder that is swapped
    with a link between two steps is refused. Links to something beneath the root are followed all
    the same: ``realpath`` says where they lead, and the way there is then gone without links.
    Whoever swaps something in between gains an error. (``openat2`` does this in one call, on Linux
    only; this works everywhere.)
    """

    def __init__(self, path: Path) -> None:
        """``path`` is absolute and resolved: a link on the way to it is refused.

        Nothing is opened yet.
        """
        self.path = path

    def resolve(self, name: str) -> PurePath:
        """Where ``name`` leads at present, relative to the root. Raises ``NotAllowed``."""
        if "\0" in name:
            raise NotAllowed("no file has a name with a null character")
        real = Path(os.path.realpath(self.path / name))
        if not real.is_relative_to(self.path):
            raise NotAllowed("a link that leads out of the folder is not followed")
        return real.relative_to(self.path)

    def open(self, name: str) -> int:
        """A descriptor to read the file ``name`` by; it never waits for a pipe.

        Raises ``NotAllowed`` for what lies outside, and ``OSError``.
        """
        for _ in range(MAX_SWAPS):
            place = self.resolve(name)
            try:
                with self._opened(place.parent) as folder:
                    return os.open(place.name, _READ, dir_fd=folder)
            except OSError as failure:
                if failure.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                    raise
                cause = failure
        raise cause

    def names(self, place: PurePath) -> list[str]:
        """What a folder at a resolved place holds, sorted. Raises ``OSError``."""
        with self._opened(place, _LIST) as folder:
            return sorted(os.listdir(folder))  # noqa: PTH208 (of a descriptor)

    def stats(self, place: PurePath, names: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
        """What ``names`` in a folder are, links themselves; those that are gone are left out.

        Nothing stays open in between: folders nest deeper than a process may have files open.
        Raises ``OSError``.
        """
        for start in range(0, len(names), STATS_AT_ONCE):
            found = []
            with self._opened(place) as folder:
                for name in names[start : start + STATS_AT_ONCE]:
                    with suppress(FileNotFoundError):
                        found.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
            yield from found

    @contextmanager
    def _opened(self, place: PurePath, flags: int = _STEP) -> Iterator[int]:
        """A descriptor of a folder, reached from ``/`` without following a link."""
        way = self.path / place
        handle = os.open(way.anchor, _STEP if way.name else flags)
        try:
            for number, part in enumerate(way.parts[1:], start=2):
                step = os.open(part, flags if number == len(way.parts) else _STEP, dir_fd=handle)
                os.close(handle)
                handle = step
            yield handle
        finally:
            os.close(handle)
