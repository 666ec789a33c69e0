"""The files of the page: built from ``clients/web``, and part of the wheel."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secondlook_client.errors import NotFound

FOLDER = Path(__file__).resolve().parent.parent / "web"
"""Where the built files lie."""
INDEX = "index.html"
TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".map": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""Content types by suffix; files of other suffixes are not served."""


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent."""

    content: bytes
    content_type: str

    @property
    def etag(self) -> str:
        """Changes with the content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


class PageFiles:
    """The files of one folder. What is asked for is looked up in a list of its files, and never
    joined to a path."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._known: dict[str, Path] = {}

    def get(self, path: str) -> PageFile:
        """The file at ``path``, e.g. ``/app.js``; ``/`` is the index. Raises ``NotFound``."""
        name = path.removeprefix("/") or INDEX
        if name not in self._known:
            self._known = self._listed()
        try:
            found = self._known[name]
            return PageFile(found.read_bytes(), TYPES[found.suffix])
        except (KeyError, OSError):
            if name == INDEX:
                raise NotFound(
                    "the page is not part of this installation; build it with `make page`, or "
                    "install the wheel"
                ) from None
            raise NotFound(f"there is no '{name:.100}' here") from None

    def _listed(self) -> dict[str, Path]:
        return {
            path.relative_to(self._folder).as_posix(): path
            for path in self._folder.rglob("*")
            if path.suffix in TYPES and path.is_file() and not path.is_symlink()
        }
