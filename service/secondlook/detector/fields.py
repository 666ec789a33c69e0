"""Fields of JSON from anybody, each read with its type, length and range, or refused by name."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from secondlook.errors import Damaged

MAX_LINE = 200
"""Characters of a name."""
_WORD = re.compile(r"[a-z0-9_]{1,40}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)
"""No folder, no leading dot: nothing that leads out of the folder it is joined to."""


class Fields:
    """Reads one JSON object; every method raises ``Damaged`` when the field is not as it says."""

    def __init__(self, plain: Mapping[str, Any], what: str = "the manifest") -> None:
        self._plain = plain
        self._what = what
        self._read: set[str] = set()

    def text(self, name: str, most: int) -> str:
        """Up to ``most`` characters, over several lines."""
        value = self._get(name)
        if not isinstance(value, str) or len(value) > most or not _encodable(value):
            raise self._bad(name, f"a text of at most {most:,} characters")
        return value

    def line(self, name: str, empty: bool = False) -> str:
        """One line of printable characters, at most ``MAX_LINE``; empty only where allowed."""
        value = self._get(name)
        if not _is_line(value) or (not value and not empty):
            raise self._bad(name, f"one line of at most {MAX_LINE} printable characters")
        return str(value)

    def word(self, name: str) -> str:
        """Lower-case letters, digits and underscores."""
        return self._matching(name, _WORD, "a word in lower case")

    def digest(self, name: str) -> str:
        """A SHA-256, 64 hex digits."""
        return self._matching(name, _DIGEST, "64 hex digits")

    def names(self, name: str, most: int) -> tuple[str, ...]:
        """1 to ``most`` different lines."""
        values = self._list(name)
        lines = [value for value in values if _is_line(value) and value.strip()]
        if not 1 <= len(values) <= most or len(lines) < len(values):
            raise self._bad(name, f"1 to {most:,} names of one line each")
        if len(set(lines)) < len(lines):
            raise self._bad(name, "different names")
        return tuple(lines)

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""
        return _whole(self._get(name), low, high, self._bad(name, f"from {low} to {high}"))

    def wholes(self, name: str, count: int, low: int, high: int) -> tuple[int, ...]:
        """``count`` whole numbers, each from ``low`` to ``high``."""
        bad = self._bad(name, f"{count} whole numbers from {low} to {high}")
        values = self._list(name)
        if len(values) != count:
            raise bad
        return tuple(_whole(value, low, high, bad) for value in values)

    def number(self, name: str, low: float, high: float) -> float:
        """A finite number from ``low`` to ``high``."""
        return _number(self._get(name), low, high, self._bad(name, f"from {low:g} to {high:g}"))

    def numbers(self, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """``count`` numbers, each from ``low`` to ``high``."""
        bad = self._bad(name, f"{count} numbers from {low:g} to {high:g}, one a class")
        values = self._list(name)
        if len(values) != count:
            raise bad
        return tuple(_number(value, low, high, bad) for value in values)

    def pairs(
        self, name: str, count: int, low: float, high: float
    ) -> tuple[tuple[float, float], ...]:
        """``count`` pairs of numbers, each from ``low`` to ``high``."""
        bad = self._bad(name, f"{count} pairs of numbers, one a class")
        values = self._list(name)
        if len(values) != count or not all(isinstance(v, list) and len(v) == 2 for v in values):
            raise bad
        return tuple((_number(a, low, high, bad), _number(b, low, high, bad)) for a, b in values)

    def figures(self, name: str, most: int) -> Mapping[str, float]:
        """Up to ``most`` finite numbers by name."""
        bad = self._bad(name, f"at most {most:,} numbers by name")
        values = self._get(name)
        if not isinstance(values, dict) or len(values) > most:
            raise bad
        if not all(key and _is_line(key) for key in values):
            raise bad
        return {key: _number(value, -1e15, 1e15, bad) for key, value in values.items()}

    def entries(self, name: str, most: int) -> Iterator[tuple[str, "Fields"]]:
        """Up to ``most`` objects by the plain name of a file; each is read to its end."""
        values = self._get(name)
        if not isinstance(values, dict) or len(values) > most:
            raise self._bad(name, f"at most {most} files")
        for key, value in values.items():
            if not _PLAIN_FILE.fullmatch(key) or not isinstance(value, dict):
                raise self._bad(name, "files by plain name, each with sha256 and size")
            entry = Fields(value, f"a file of {self._what}")
            yield key, entry
            entry.nothing_else()

    def nothing_else(self) -> None:
        """Refuse fields that were not read: their hash would be part of no digest."""
        if unknown := set(self._plain) - self._read:
            raise Damaged(
                f"{self._what} has {len(unknown)} field(s) that this version does not know"
            )

    def _matching(self, name: str, pattern: re.Pattern[str], wanted: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self._bad(name, wanted)
        return value

    def _list(self, name: str) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list):
            raise self._bad(name, "a list")
        return value

    def _get(self, name: str) -> Any:
        if name not in self._plain:
            raise Damaged(f"{self._what} has no {name}")
        self._read.add(name)
        return self._plain[name]

    def _bad(self, name: str, wanted: str) -> Damaged:
        return Damaged(f"{name} of {self._what} is not as it must be: {wanted}")


def _whole(value: object, low: int, high: int, bad: Damaged) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad
    return value


def _number(value: object, low: float, high: float, bad: Damaged) -> float:
    """Python compares whole numbers of any length with floats exactly, so huge ones are safe."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad
    if not low <= value <= high or not math.isfinite(value):
        raise bad
    return float(value)


def _is_line(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_LINE and value.isprintable()


def _encodable(text: str) -> bool:
    """JSON can spell halves of a surrogate pair, which no file or message can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
