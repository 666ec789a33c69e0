"""File names as text that every database and message can hold, and back again.

A name of a file is bytes, and Python shows those that are not UTF-8 as halves of characters, which
no database takes. Such a byte is written ``\\xff`` here, and a backslash twice, so that no two
names become one; all other names stay as they are.
"""

import re

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
