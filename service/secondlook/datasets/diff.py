"""What changed from one snapshot to another."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from secondlook.core.boxes import Xyxy
from secondlook.datasets.manifest import Entry, SnapshotManifest, entries
from secondlook.store.blobs import Blobs
from secondlook_client.values import BoxKind


class ChangeKind(StrEnum):
    """How an image differs between two snapshots."""

    ADDED = "added"
    REMOVED = "removed"
    RELABELLED = "relabelled"
    """Its boxes or masks differ."""
    MOVED = "moved"
    """It is in another split, with the same boxes."""


@dataclass(frozen=True)
class ImageChange:
    """One image that differs."""

    change: ChangeKind
    sha256: str
    name: str
    gained: tuple[str, ...] = ()
    """Class and kind of each box that only the new snapshot has, e.g. ``dog label``."""
    lost: tuple[str, ...] = ()
    """The same for boxes that only the old snapshot has."""


@dataclass
class DiffCounts:
    """The counts of a comparison; ``add`` each change."""

    changes: Counter[ChangeKind] = field(default_factory=Counter)
    gained: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Boxes by class and kind, on images that both snapshots have."""

    def add(self, change: ImageChange) -> None:
        """Count one image."""
        self.changes[change.change] += 1
        self.gained.update(change.gained)
        self.lost.update(change.lost)


def compare_snapshots(
    blobs: Blobs, old: SnapshotManifest, new: SnapshotManifest
) -> Iterator[ImageChange]:
    """Every image that differs, by hash; holds one part of each manifest at a time.

    Raises ``NotFound``, ``Damaged`` and ``StoreUnavailable``.
    """
    before, after = entries(blobs, old), entries(blobs, new)
    _, a = next(before, _END)
    _, b = next(after, _END)
    while a or b:
        if b is None or (a and a.sha256 < b.sha256):
            assert a
            yield ImageChange(ChangeKind.REMOVED, a.sha256, a.name)
            _, a = next(before, _END)
        elif a is None or b.sha256 < a.sha256:
            yield ImageChange(ChangeKind.ADDED, b.sha256, b.name)
            _, b = next(after, _END)
        else:
            yield from _change(a, b, old, new)
            _, a = next(before, _END)
            _, b = next(after, _END)


_END: tuple[int, Entry | None] = (0, None)


def _change(
    a: Entry, b: Entry, old: SnapshotManifest, new: SnapshotManifest
) -> Iterator[ImageChange]:
    before, after = _boxes(a, old), _boxes(b, new)
    if before != after:
        gained, lost = _names(after - before), _names(before - after)
        yield ImageChange(ChangeKind.RELABELLED, b.sha256, b.name, gained, lost)
    elif a.split != b.split:
        yield ImageChange(ChangeKind.MOVED, b.sha256, b.name)


Boxes = Counter[tuple[str, BoxKind, Xyxy, str]]
"""By class, kind, edges, and the code of the mask (empty without one)."""


def _boxes(entry: Entry, manifest: SnapshotManifest) -> Boxes:
    """By class name, as the same class may have another index in each manifest."""
    return Counter(
        (
            manifest.classes[box.class_index],
            box.kind,
            box.xyxy,
            box.segmentation.mask.counts if box.segmentation else "",
        )
        for box in entry.boxes
    )


def _names(boxes: Boxes) -> tuple[str, ...]:
    found = (f"{name} {kind.value.replace('_', ' ')}" for name, kind, *_ in boxes.elements())
    return tuple(sorted(found))
