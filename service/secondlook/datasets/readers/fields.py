"""Text, numbers and rows of dataset files as the world writes them: one rule for every reader.

A number may be written ``0``, ``0.0`` or ``"0"``; not-a-number, infinity, truth values and words
are none. A row that cannot be read costs that row: ``RowChecks`` counts it and names the first few.
A file of which most rows cannot be read is refused. The functions raise ``ValueError`` with what
was expected; who calls them knows the file and the line.
"""

import codecs
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secondlook.core.written_yaml import YamlProblem, parse_yaml
from secondlook_client.errors import InvalidInput, NotFound

MAX_COORDINATE = 1e9
"""Pixels; also excludes numbers of JSON that a float cannot hold."""
MAX_BAD_ROWS = 0.5
"""Share of a file's rows that may be bad; with more it is another format, or damaged."""
NAMED = 3
"""Rows that a summary names."""
MAX_DEPTH = 16
"""Of nested YAML."""
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PLAIN_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,29})(?:\.0*)?")
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no", "")


def number(value: Any) -> float:
    """A finite number of a usual size, from a number or a text that is one.

    Raises ``ValueError`` for anything else, such as ``true``, ``null``, ``"nan"`` and 1e400.
    """
    # Python also reads "1_000" and digits of other scripts as numbers.
    if isinstance(value, str) and value.isascii() and "_" not in value and len(value) < 100:
        value = _float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {shown(value)}")
    if not -MAX_COORDINATE < value < MAX_COORDINATE:
        raise ValueError(f"expected a finite number of usual size, got {shown(value)}")
    return float(value)


def whole_number(value: Any) -> int:
    """A whole number, also as ``0.0`` or ``"0"``. Raises ``ValueError``."""
    found = number(value)
    if found != int(found):
        raise ValueError(f"expected a whole number, got {shown(value)}")
    return int(found)


def identifier(value: Any) -> int | str:
    """An id, the same for ``1``, ``1.0`` and ``"1"``; a text that is no such number stays text.

    ``"01"`` is another id than ``"1"``: names may be told apart by it. Raises ``ValueError`` for
    what cannot be an id.
    """
    if isinstance(value, str):
        plain = _PLAIN_NUMBER.fullmatch(value.strip())
        return int(plain[1]) if plain else value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    raise ValueError(f"expected a number or text as id, got {shown(value)}")


def flag(value: Any) -> bool:
    """0 or 1 in any spelling; null and an empty text are 0. Raises ``ValueError`` otherwise."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    try:
        found = number(value)
    except ValueError:
        found = -1
    if found not in (0, 1):
        raise ValueError(f"expected 0 or 1, got {shown(value)}")
    return found == 1


def side(value: Any) -> int | None:
    """Width or height of an image; None where it is missing or cannot be one (0, "", null, -1)."""
    try:
        found = whole_number(value)
    except ValueError:
        return None
    return found if found > 0 else None


def split_row(line: str) -> list[str]:
    """The fields of a line, separated by blanks and tabs, by commas or by semicolons.

    Raises ``ValueError`` where blanks and commas both separate: ``0,5 0,5`` may be two numbers or
    four.
    """
    line = line.strip()
    for separator in ";,":
        if separator in line:
            fields = [field.strip() for field in line.split(separator)]
            if any(len(field.split()) != 1 for field in fields):
                raise ValueError(
                    f"fields are separated by blanks and by '{separator}', so it is not clear "
                    f"which numbers are meant: {shown(line)}"
                )
            return fields
    return line.split()


def shown(value: Any) -> str:
    """A value of a file, in short and on one line, for a message."""
    if isinstance(value, int) and abs(value) > 10**20:
        return "a number of more than 20 digits"  # Python refuses to write very long ones
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_bytes(file: Path, most: int) -> bytes:
    """A file of at most ``most`` bytes. Raises ``NotFound`` and ``InvalidInput``, naming it."""
    try:
        with file.open("rb") as stream:
            content = stream.read(most + 1)
    except FileNotFoundError:
        raise NotFound(f"{file} does not exist") from None
    except (OSError, ValueError) as failure:
        cause = getattr(failure, "strerror", None) or "its name is not valid"
        raise InvalidInput(f"{file} cannot be read: {cause}") from None
    if len(content) > most:
        size = f"{most >> 20:,} MiB" if most >= 1 << 20 else f"{most >> 10:,} KiB"
        raise InvalidInput(f"{file} has more than {size}; it is not a label file")
    return content


def read_text(file: Path, most: int, notes: list[str] | None = None) -> str:
    """The text of a file in UTF-8 or UTF-16, or else Windows-1252, which is told in ``notes``.

    A byte order mark is left out, and every line ends with ``\\n``. Raises as ``read_bytes`` does,
    and ``InvalidInput`` for a file that is not text.
    """
    content = read_bytes(file, most)
    text, sure = _decoded(content)
    if text is None or "\0" in text:
        raise InvalidInput(f"{file} cannot be read: it is not text in UTF-8 or UTF-16")
    if not sure and notes is not None:
        notes.append(
            f"{file} is not UTF-8 text and is read as Windows-1252; if its names come out wrong, "
            "save it as UTF-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _decoded(content: bytes) -> tuple[str | None, bool]:
    """The text, if it is one, and whether its encoding is certain."""
    marked = (found for found in _BOMS if content.startswith(found[0]))
    mark, encoding = next(marked, (b"", _without_mark(content)))
    for attempt in (encoding, "cp1252"):
        try:
            return content[len(mark) :].decode(attempt), attempt == encoding
        except UnicodeDecodeError:
            if mark:
                break
    return None, False


def _without_mark(content: bytes) -> str:
    """Text of these formats begins with a character of ASCII: half of its UTF-16 is zero."""
    if len(content) >= 2 and len(content) % 2 == 0:
        if content[1] == 0 and content[0]:
            return "utf-16-le"
        if content[0] == 0 and content[1]:
            return "utf-16-be"
    return "utf-8"


def _float(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def read_yaml(file: Path, most: int, notes: list[str] | None = None) -> dict[str, Any]:
    """The mapping in a YAML file: texts, lists and mappings, every scalar as it is written.

    Raises as ``read_text`` does, and ``InvalidInput`` for anything but a mapping.
    """
    text = read_text(file, most, notes)
    try:
        config = parse_yaml(text, MAX_DEPTH)
    except YamlProblem as problem:
        raise InvalidInput(f"{file} is not YAML{problem.where}: {problem}") from None
    if not isinstance(config, dict):
        raise InvalidInput(f"{file}: expected entries such as train and names")
    return config


class RowChecks:
    """Counts the rows of a file, or of the label files of one dataset, and those that are bad."""

    def __init__(self, what: str = "rows") -> None:
        """``what``: what the rows are called, for a person."""
        self._what = what
        self._read = 0
        self._bad = 0
        self._first: list[str] = []

    def good(self, rows: int = 1) -> None:
        """Count rows that were read."""
        self._read += rows

    def bad(self, where: str, cause: object) -> None:
        """Count a row that is left out: where it stands, and why."""
        self._bad += 1
        if len(self._first) < NAMED:
            self._first.append(f"{where}: {cause}")

    def check(self, file: Path) -> None:
        """Raises ``InvalidInput`` when most of the rows of ``file`` are bad."""
        if self._bad > MAX_BAD_ROWS * (self._bad + self._read):
            raise InvalidInput(
                f"{file}: {self._bad:,} of {self._bad + self._read:,} {self._what} cannot be read: "
                f"{self._summary()}; correct them, or check that it is the format it seems to be"
            )

    def warnings(self) -> Iterator[str]:
        """One sentence, if there are bad rows."""
        if self._bad:
            yield (
                f"{self._bad:,} of {self._bad + self._read:,} {self._what} cannot be read and are "
                f"left out: {self._summary()}"
            )

    def _summary(self) -> str:
        more = self._bad - len(self._first)
        return "; ".join(self._first) + (f"; and {more:,} more" if more else "")
