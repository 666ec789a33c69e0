"""What changed from one snapshot to another."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from secondlook.datasets.manifest import BoxKind, Entry, Manifest, entries
from secondlook.store.blobs import Blobs


class Change(StrEnum):
    """What became of an image."""

    ADDED = "added"
    REMOVED = "removed"
    RELABELLED = "relabelled"
    """Its boxes differ."""
    MOVED = "moved"
    """It stands in another split, with the same boxes."""


@dataclass(frozen=True)
class Changed:
    """One image that is not as it was."""

    change: Change
    sha256: str
    name: str
    gained: tuple[str, ...] = ()
    """What boxes say that they did not say before, e.g. ``dog label``."""
    lost: tuple[str, ...] = ()


@dataclass
class Difference:
    """The figures of a comparison. ``add`` each change."""

    changes: Counter[Change] = field(default_factory=Counter)
    gained: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Boxes by what they say, in images that both have."""

    def add(self, changed: Changed) -> None:
        """Count one image in."""
        self.changes[changed.change] += 1
        self.gained.update(changed.gained)
        self.lost.update(changed.lost)


def compare(blobs: Blobs, old: Manifest, new: Manifest) -> Iterator[Changed]:
    """Every image that differs, by hash; holds a part of each manifest at a time.

    Raises ``NotFound``, ``Damaged`` and ``StoreUnavailable``.
    """
    before, after = entries(blobs, old), entries(blobs, new)
    _, a = next(before, _END)
    _, b = next(after, _END)
    while a or b:
        if b is None or (a and a.sha256 < b.sha256):
            assert a
            yield Changed(Change.REMOVED, a.sha256, a.name)
            _, a = next(before, _END)
        elif a is None or b.sha256 < a.sha256:
            yield Changed(Change.ADDED, b.sha256, b.name)
            _, b = next(after, _END)
        else:
            yield from _changed(a, b, old, new)
            _, a = next(before, _END)
            _, b = next(after, _END)


_END: tuple[int, Entry | None] = (0, None)


def _changed(a: Entry, b: Entry, old: Manifest, new: Manifest) -> Iterator[Changed]:
    before, after = _said(a, old), _said(b, new)
    if before != after:
        gained, lost = after - before, before - after
        yield Changed(Change.RELABELLED, b.sha256, b.name, _words(gained), _words(lost))
    elif a.split != b.split:
        yield Changed(Change.MOVED, b.sha256, b.name, (), ())


Said = Counter[tuple[str, BoxKind, tuple[float, float, float, float]]]


def _said(entry: Entry, manifest: Manifest) -> Said:
    """By class name, as the same class may have another number."""
    return Counter((manifest.classes[b.class_index], b.kind, b.xyxy) for b in entry.boxes)


def _words(said: Said) -> tuple[str, ...]:
    found = (f"{name} {kind.value.replace('_', ' ')}" for name, kind, _ in said.elements())
    return tuple(sorted(found))
