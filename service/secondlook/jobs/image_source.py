"""From an item of a job to a checked image whose bytes are kept."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from secondlook.core.errors import (
    BadImage,
    BadRequest,
    InvalidInput,
    NotAllowed,
    NotFound,
    StorageFull,
    Unavailable,
)
from secondlook.core.files import from_text, to_text
from secondlook.core.image_folder import Selection, Source, read
from secondlook.core.images import ImageLimits, decode, perceptual_hash
from secondlook.core.types import Image
from secondlook.jobs.failures import Replaced, Unfinished, backoff_s
from secondlook.store.blobs import Blobs
from secondlook.store.images import NewImage
from secondlook.store.queue import Item, NewItem, Queue

# The folder of a job, found image by image and put into the queue.

log = logging.getLogger(__name__)

AT_ONCE = 500
"""Images in one transaction."""
AT_LEAST_EVERY_S = 0.5
"""A slow folder's first images do not wait for the others."""


def item_of(source: Source) -> NewItem:
    """A found image as an item; one that cannot be opened at all is refused."""
    name = to_text(source.name)
    return NewItem(source.key, name, source.size, source.mtime_ns, refusal=source.refusal)


def list_folder(queue: Queue, run_id: int, root: Path, stopped: Callable[[float], bool]) -> None:
    """Queue every image under ``root`` and close the job; what is known already stays.

    ``stopped(seconds)`` waits that long and says whether to end. A store that fails is waited
    for. Raises ``Unavailable`` when the folder is not there: nothing is closed then.
    """
    if not root.is_dir():
        raise missing(root)
    try:
        for batch in _batches(item_of(source) for source in Selection(root, (root,)).walk()):
            if not _patiently(partial(queue.add, run_id, batch), stopped):
                return
        if not root.is_dir():
            raise missing(root)
        _patiently(partial(queue.close, run_id), stopped)
    except BadRequest:
        log.info("listing ended: the job was closed or cancelled", extra={"run": run_id})


def missing(root: Path) -> Unavailable:
    """The folder of a job is not there at present."""
    return Unavailable(f"the folder '{to_text(str(root))}' is not there; put it back or cancel")


def _batches(found: Iterable[NewItem]) -> Iterator[list[NewItem]]:
    batch: list[NewItem] = []
    began = time.monotonic()
    for item in found:
        batch.append(item)
        if len(batch) == AT_ONCE or time.monotonic() - began > AT_LEAST_EVERY_S:
            yield batch
            batch, began = [], time.monotonic()
    yield batch


def _patiently(write: Callable[[], object], stopped: Callable[[float], bool]) -> bool:
    """Write, as often as it takes; False when it was stopped first."""
    tried = 0
    while not stopped(backoff_s(tried, longest_s=10.0) if tried else 0.0):
        try:
            write()
        except (Unavailable, StorageFull) as failure:
            tried += 1
            log.warning("listing waits: %s", failure)
        else:
            return True
    return False


STILL_WRITTEN_S = 10.0
"""A file that changed this recently may not be whole yet."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image that can be labelled; its bytes are durable."""

    image: Image
    stored: NewImage
    perceptual_hash: int
    """Difference hash, signed 64 bits."""


class ImageReader:
    """Reads the items of one job. Safe for threads."""

    def __init__(self, blobs: Blobs, root: Path | None, limits: ImageLimits) -> None:
        """``root`` is the folder, resolved, of a job that has one."""
        self._blobs = blobs
        self._root = root
        self._limits = limits

    def prepare(self, item: Item) -> Prepared:
        """Read, decode and keep one image.

        Raises ``InvalidInput`` and ``NotAllowed`` for the image's own faults, ``Replaced``,
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
        stored = NewImage.of(image.sha256, content)
        return Prepared(image, stored, perceptual_hash(image.pixels))

    def _from_folder(self, item: Item) -> tuple[Source, bytes]:
        """The file as it stands, when that is how it was listed."""
        root = self._root
        if root is None:
            raise BadImage("the image was never uploaded; send it again")
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


# Which folders a server may read: those it was told about, and nothing that links lead to.


def allowed(root: str, roots: Sequence[Path]) -> Path:
    """The folder that a client named, with its links resolved.

    Raises ``NotAllowed`` when it is not inside one of ``roots`` (what is there stays unsaid),
    ``NotFound`` when it is and there is no such folder, and ``InvalidInput`` for no path at all.
    """
    path = Path(root)
    if not path.is_absolute() or "\x00" in root:
        raise InvalidInput(f"expected the absolute path of a folder on the server, got '{root}'")
    if ".." in path.parts:
        raise NotAllowed(f"'{root}' holds '..'; write the path without it")
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(known)) for known in roots):
        raise NotAllowed(
            f"this server may not read '{root}'; start it with --allow-root and that folder, or "
            "upload the images"
        )
    if not real.is_dir():
        raise NotFound(f"there is no folder '{root}' on the server; check the path")
    return real
