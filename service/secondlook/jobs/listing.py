"""The folder of a job, found picture by picture and put into the queue."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from secondlook.errors import BadRequest, StorageFull, Unavailable
from secondlook.jobs.faults import backoff_s
from secondlook.runs.folder import Selection, Source
from secondlook.runs.names import to_text
from secondlook.store.queue import NewItem, Queue

log = logging.getLogger(__name__)

AT_ONCE = 500
"""Pictures in one transaction."""
AT_LEAST_EVERY_S = 0.5
"""A slow folder's first pictures do not wait for the others."""


def item_of(source: Source) -> NewItem:
    """A found picture as an item; one that cannot be opened at all is refused."""
    name = to_text(source.name)
    return NewItem(source.key, name, source.size, source.mtime_ns, refusal=source.refusal)


def list_folder(queue: Queue, run_id: int, root: Path, stopped: Callable[[float], bool]) -> None:
    """Queue every picture under ``root`` and close the job; what is known already stays.

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
