"""XML of strangers: plain, shallow elements, whole or one after the other.

A text that declares a document type or entities is refused: a short file of that kind explodes in
memory, and no annotation needs it.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from secondlook_client.errors import InvalidInput, NotFound

MAX_DEPTH, MAX_ELEMENTS = 16, 100_000
"""Of a text, or of one child of the root where they are read one after the other."""
MAX_STREAMED = 1 << 31
"""Bytes of a file that is read so."""
_PART = 1 << 18
"""Bytes that are read at a time."""


def parse_xml(text: str) -> ElementTree.Element:
    """The root of an XML text. Raises ``ValueError`` for anything but plain, shallow elements."""
    builder = _Builder(depth=1)
    builder.parse(text.encode(), True)
    (root,) = builder.finished
    return root


def children_of_root(file: Path, root: str) -> Iterator[ElementTree.Element]:
    """The children of the root of an XML file, one after the other, whatever its size.

    Raises ``NotFound``, and ``InvalidInput`` for a file that is no XML with that ``root``, or not
    plain and shallow.
    """
    builder, size = _Builder(depth=2), 0
    try:
        with file.open("rb") as stream:
            while True:
                part = stream.read(_PART)
                size += len(part)
                if size > MAX_STREAMED:
                    raise ValueError(f"it has more than {MAX_STREAMED >> 30} GiB")
                builder.parse(part, not part)
                if builder.root not in ("", root):
                    raise ValueError(f"expected <{root}>, got <{builder.root:.40}>")
                yield from builder.finished
                builder.finished.clear()
                if not part:
                    return
    except ValueError as cause:
        raise InvalidInput(f"{file} cannot be read: {cause}") from None
    except OSError as failure:
        raise NotFound(f"{file} cannot be read: {failure.strerror}") from None


class _Builder:
    """Makes elements of all that is at ``depth`` (the root is at 1), and forgets what is above."""

    def __init__(self, depth: int) -> None:
        self.finished: list[ElementTree.Element] = []
        self.root = ""
        """The name of the root; empty until it is read."""
        self._wanted, self._depth, self._count = depth, 0, 0
        self._builder: ElementTree.TreeBuilder | None = None
        self._parser = expat.ParserCreate("utf-8")  # whatever a text says of itself
        self._parser.StartElementHandler, self._parser.EndElementHandler = self._start, self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._refuse

    def parse(self, part: bytes, last: bool) -> None:
        """Raises ``ValueError``."""
        try:
            self._parser.Parse(part, last)
        except expat.ExpatError as cause:
            raise ValueError(f"it is not XML ({cause})") from None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self.root = self.root or name
        if self._depth == self._wanted:
            self._builder, self._count = ElementTree.TreeBuilder(), 0
        self._count += 1
        if self._depth > MAX_DEPTH or (self._builder and self._count > MAX_ELEMENTS):
            raise ValueError("it has too many elements, or they are nested too deep")
        if self._builder:
            self._builder.start(name, attributes)

    def _end(self, name: str) -> None:
        if self._builder:
            self._builder.end(name)
            if self._depth == self._wanted:
                self.finished.append(self._builder.close())
                self._builder = None
        self._depth -= 1

    def _text(self, text: str) -> None:
        if self._builder:
            self._builder.data(text)

    def _refuse(self, *_: object) -> None:
        raise ValueError("it declares a document type, which annotations do not have; remove it")
