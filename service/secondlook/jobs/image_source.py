"""Where the images of a job come from: folders that may be read, listing, reading and decoding.

A folder is listed into the queue in the background; each item is then read, checked against its
listing, decoded, and its bytes are stored before it is labelled.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

from secondlook.core.decoding import ImageDecoder
from secondlook.core.files import FolderRoot, name_to_text, text_to_name
from secondlook.core.image_folder import (
    IMAGE_SUFFIXES,
    ImageFile,
    ImageSelection,
    LeftOut,
    is_hidden,
    read_opened,
)
from secondlook.core.perceptual_hash import perceptual_hash
from secondlook.jobs.failures import Replaced, Unfinished
from secondlook.labeling.pipeline import Task
from secondlook.store.blobs import Blobs
from secondlook.store.images import NewImage
from secondlook.store.queue import Item, JobQueue, NewItem
from secondlook_client.errors import (
    BadImage,
    BadRequest,
    DecodingFailed,
    InvalidInput,
    NotAllowed,
    NotFound,
    StorageFull,
    Unavailable,
)
from secondlook_client.ontology import Ontology
from secondlook_client.retry import RetryPolicy

log = logging.getLogger(__name__)

BATCH = 500
"""Images queued in one transaction."""
BATCH_WINDOW_S = 0.5
"""The first images of a slow folder do not wait longer than this for the others."""
WRITE_RETRY = RetryPolicy(first_s=1.0, longest_s=10.0)
"""Waits between attempts to queue a batch while the store is unavailable."""
MAX_FOLDERS, MAX_ENTRIES = 1000, 20_000
"""Folders that one listing names, and files and folders that it looks at."""
RECENT_S = 10.0
"""A file that changed this recently may still be being written."""


def allowed_folder(root: str, roots: Sequence[Path]) -> Path:
    """The folder that a client named, with links resolved.

    Raises ``NotAllowed`` when it is not inside one of ``roots`` (whether it exists is not
    revealed), ``NotFound`` when it is and does not exist, and ``InvalidInput`` for a bad path.
    """
    path = Path(root)
    if not path.is_absolute() or "\x00" in root:
        raise InvalidInput(f"expected the absolute path of a folder on the server, got '{root}'")
    if ".." in path.parts:
        raise NotAllowed(f"'{root}' holds '..'; write the path without it")
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(known)) for known in roots):
        raise NotAllowed(
            f"this server may not read '{root}'; start it with --image-roots and that folder, or "
            "upload the images"
        )
    if not real.is_dir():
        raise NotFound(f"there is no folder '{root}' on the server; check the path")
    return real


@dataclass(frozen=True)
class FolderListing:
    """What lies directly in a folder that jobs may read."""

    folders: tuple[str, ...]
    """Absolute paths, sorted."""
    images: int
    """Files whose names end as those of images do."""
    more: bool
    """Whether there is more than was looked at."""


def allowed_folders(path: str, roots: Sequence[Path]) -> FolderListing:
    """The folders inside of ``path`` that a job may read; with an empty one ``roots`` themselves.

    Hidden ones, links and names that are no text are left out. Raises what ``allowed_folder``
    raises, and ``NotFound`` for a folder that cannot be read.
    """
    if not path:
        known = sorted({os.path.realpath(root) for root in roots if root.is_dir()})
        return FolderListing(tuple(known[:MAX_FOLDERS]), 0, len(known) > MAX_FOLDERS)
    real = allowed_folder(path, roots)
    folders, images, seen = [], 0, 0
    try:
        with os.scandir(real) as entries:
            for entry in islice(entries, MAX_ENTRIES):
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                    images += 1
    except OSError as cause:
        raise NotFound(f"the folder '{path}' cannot be read: {cause.strerror}") from cause
    shown = sorted(name for name in folders if not is_hidden(name) and name.isprintable())
    more = seen >= MAX_ENTRIES or len(shown) > MAX_FOLDERS
    return FolderListing(tuple(str(real / name) for name in shown[:MAX_FOLDERS]), images, more)


def list_folder(queue: JobQueue, run_id: int, root: Path, stopped: Callable[[float], bool]) -> None:
    """Queue every image under ``root`` and close the job; known items stay as they are.

    ``stopped(seconds)`` waits that long and says whether to end. Writes are retried while the
    store is unavailable. Raises ``Unavailable`` when the folder is missing: then nothing is
    closed.
    """
    if not root.is_dir():
        raise _folder_missing(root)
    left_out = LeftOut()
    found = ImageSelection(root, (root,)).walk(left_out)
    try:
        for batch in _batches(_item(source) for source in found):
            if not _retried(partial(queue.add, run_id, batch), stopped):
                return
        if not root.is_dir():
            raise _folder_missing(root)
        if left_out:
            log.info("left out of the folder: %s", left_out, extra={"run": run_id})
        _retried(partial(queue.close, run_id), stopped)
    except BadRequest:
        log.info("listing ended: the job was closed or cancelled", extra={"run": run_id})


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A decoded image whose bytes are durable."""

    task: Task
    stored: NewImage
    perceptual_hash: int
    """Difference hash, signed 64 bits."""


class ImageReader:
    """Reads the items of one job. Thread-safe."""

    def __init__(
        self,
        blobs: Blobs,
        root: Path | None,
        decoder: ImageDecoder,
        ontology: Ontology,
        source: str,
    ) -> None:
        """``root`` is the folder, resolved, of a job that has one; ``source``: see ``Task``."""
        self._blobs = blobs
        self._root = root
        self._decoder = decoder
        self._ontology = ontology
        self._source = source

    def prepare(self, item: Item, stopping: threading.Event) -> PreparedImage:
        """Read and decode one image and store its bytes.

        Raises ``ShuttingDown`` once ``stopping`` is set, ``InvalidInput`` and ``NotAllowed`` for
        the image's own faults, ``Replaced``, ``Unfinished``, ``Unavailable`` while the folder is
        missing, ``NotFound`` and ``Damaged`` for stored bytes, and ``StoreUnavailable`` and
        ``StorageFull``.
        """
        if item.sha256:
            return self._prepared(self._blobs.get(item.sha256), item.name, stopping)
        source, content = self._from_folder(item)
        try:
            prepared = self._prepared(content, item.name, stopping)
        except DecodingFailed:  # it would take as long again
            raise
        except InvalidInput as failure:
            if time.time() - source.mtime_ns / 1e9 < RECENT_S:
                raise Unfinished(str(failure)) from failure
            raise
        self._blobs.put(content)
        return prepared

    def _prepared(self, content: bytes, name: str, stopping: threading.Event) -> PreparedImage:
        image = self._decoder.decode(content, name, stopping)
        stored = NewImage.of(image.sha256, content)
        task = Task(image, self._ontology, self._source)
        return PreparedImage(task, stored, perceptual_hash(image.pixels))

    def _from_folder(self, item: Item) -> tuple[ImageFile, bytes]:
        """The file and its bytes, if it is the one that was listed."""
        root = self._root
        if root is None:
            raise BadImage("the image was never uploaded; send it again")
        name = text_to_name(item.name)
        with self._opened(root, name) as file:

            def found() -> ImageFile:
                now = os.fstat(file.fileno())
                return ImageFile(name, root / name, now.st_size, now.st_mtime_ns, root=root)

            source = found()
            if (source.size, source.mtime_ns) != (item.size, item.mtime_ns):
                raise Replaced(_item(source))
            content = read_opened(file, self._decoder.limits.max_image_bytes)
            if found() != source:
                raise Unfinished("the file changed while it was read")
        return source, content

    def _opened(self, root: Path, name: str) -> IO[bytes]:
        """The file, which lies beneath ``root`` and stays the same one if its name is replaced."""
        try:
            return os.fdopen(FolderRoot(root).open(name), "rb")
        except OSError as failure:
            if not root.is_dir():
                raise _folder_missing(root) from None
            cause = (failure.strerror or "it cannot be read").lower()
            raise Unfinished(f"the file cannot be opened: {cause}") from None


def _item(source: ImageFile) -> NewItem:
    """A listed image as an item; one that cannot be opened at all fails at once."""
    name = name_to_text(source.name)
    return NewItem(source.key, name, source.size, source.mtime_ns, refusal=source.refusal)


def _folder_missing(root: Path) -> Unavailable:
    return Unavailable(
        f"the folder '{name_to_text(str(root))}' is missing; put it back or cancel the job"
    )


def _batches(found: Iterable[NewItem]) -> Iterator[list[NewItem]]:
    batch: list[NewItem] = []
    began = time.monotonic()
    for item in found:
        batch.append(item)
        if len(batch) == BATCH or time.monotonic() - began > BATCH_WINDOW_S:
            yield batch
            batch, began = [], time.monotonic()
    yield batch


def _retried(write: Callable[[], object], stopped: Callable[[float], bool]) -> bool:
    """Call ``write`` until the store is available; False when stopped before."""
    failed = 0
    while not stopped(WRITE_RETRY.backoff_s(failed) if failed else 0.0):
        try:
            write()
        except (Unavailable, StorageFull) as failure:
            failed += 1
            log.warning("listing is waiting: %s", failure)
        else:
            return True
    return False
