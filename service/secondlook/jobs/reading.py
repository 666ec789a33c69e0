"""From an item of a job to a checked picture whose bytes are kept."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from secondlook.errors import BadImage, InvalidInput, NotAllowed
from secondlook.images import ImageLimits, decode
from secondlook.jobs.faults import Replaced, Unfinished
from secondlook.jobs.listing import item_of, missing
from secondlook.labels import Image
from secondlook.likeness import likeness
from secondlook.runs.folder import Source, read
from secondlook.runs.names import from_text
from secondlook.store.blobs import Blobs
from secondlook.store.pictures import NewPicture
from secondlook.store.queue import Item

STILL_WRITTEN_S = 10.0
"""A file that changed this recently may not be whole yet."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture that can be labelled; its bytes are durable."""

    image: Image
    picture: NewPicture
    likeness: int
    """Difference hash, signed 64 bits."""


class Pictures:
    """Reads the items of one job. Safe for threads."""

    def __init__(self, blobs: Blobs, root: Path | None, limits: ImageLimits) -> None:
        """``root`` is the folder, resolved, of a job that has one."""
        self._blobs = blobs
        self._root = root
        self._limits = limits

    def prepare(self, item: Item) -> Prepared:
        """Read, decode and keep one picture.

        Raises ``InvalidInput`` and ``NotAllowed`` for the picture's own faults, ``Replaced``,
        ``Unfinished``, ``Unavailable`` while the folder is not there, ``NotFound`` and
        ``Damaged`` for bytes that were kept, and ``StoreUnavailable`` and ``StorageFull``.
        """
        if item.sha256:
            return self._prepared(self._blobs.get(item.sha256), item.name)
        source, content = self._from_folder(item)
        try:
            prepared = self._prepared(content, item.name)
        except InvalidInput as failure:
            if time.time() - source.mtime_ns / 1e9 < STILL_WRITTEN_S:
                raise Unfinished(str(failure)) from failure
            raise
        self._blobs.put(content)
        return prepared

    def _prepared(self, content: bytes, name: str) -> Prepared:
        image = decode(content, name, self._limits)
        picture = NewPicture.of(image.sha256, content)
        return Prepared(image, picture, likeness(image.pixels))

    def _from_folder(self, item: Item) -> tuple[Source, bytes]:
        """The file as it stands, when that is how it was listed."""
        root = self._root
        if root is None:
            raise BadImage("the picture was never uploaded; send it again")
        name = from_text(item.name)
        path = Path(os.path.realpath(root / name))
        if not path.is_relative_to(root):
            raise NotAllowed("a link that leads out of the folder is not followed")
        source = self._found(name, path)
        if (source.size, source.mtime_ns) != (item.size, item.changed_ns):
            raise Replaced(item_of(source))
        content = read(source, self._limits.max_bytes)
        if self._found(name, path) != source:
            raise Unfinished("the file changed while it was read")
        return source, content

    def _found(self, name: str, path: Path) -> Source:
        try:
            found = path.stat()
        except OSError as failure:
            if self._root is not None and not self._root.is_dir():
                raise missing(self._root) from None
            cause = (failure.strerror or "it cannot be read").lower()
            raise Unfinished(f"the file cannot be opened: {cause}") from None
        return Source(name, path, found.st_size, found.st_mtime_ns)
