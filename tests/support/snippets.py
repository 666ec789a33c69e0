"""The code blocks of a Markdown page, for tests that run every one of them as it stands."""

import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^( *)```+ *(\w*) *$")


@dataclass(frozen=True)
class Snippet:
    """One block."""

    page: str
    """Name of its file."""
    line: int
    """Of its first line in the page, from 1."""
    language: str
    """Behind the fence; empty for a block of commands."""
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """Each line as the words of a command; comments and empty lines are left out."""
        for line in self.code.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def snippets(page: Path, *languages: str) -> list[Snippet]:
    """The blocks of a page in order; with ``languages``, only those."""
    found: list[Snippet] = []
    opened: tuple[int, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, lines = (number + 1, fence[2]), []
        elif opened is not None and fence and not fence[2]:
            code = textwrap.dedent("\n".join(lines)) + "\n"
            found.append(Snippet(page.name, opened[0], opened[1], code))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, f"{page.name}: the block of line {opened[0]} is not closed"
    return [one for one in found if not languages or one.language in languages]


class Rewrites:
    """What a test puts in place of a page's words; ``unused`` keeps the table from going stale."""

    def __init__(self, table: Mapping[str, str]) -> None:
        self._table = dict(table)
        self.unused = set(table)

    def __call__(self, text: str) -> str:
        for written, here in self._table.items():
            if written in text:
                self.unused.discard(written)
                text = text.replace(written, here)
        return text
