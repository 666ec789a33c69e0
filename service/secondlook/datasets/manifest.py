"""The manifest: what a snapshot is, as text that is the same on every machine.

A root blob names the classes, the models and the parts; each part is a blob of JSON lines, one a
image, ``PART`` images long. Images are sorted by hash, objects by key, and there is neither a
time nor a number of the database in it, so the root's own hash is a hash of the content.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from secondlook.core.errors import Damaged
from secondlook.core.types import Labelled, LabelPath
from secondlook.store.blobs import Blobs

FORMAT = 2
PART = 1000
"""Images a part: a few hundred kilobytes, read whole to give any of them."""


class BoxKind(StrEnum):
    """What a box says to whoever trains on it."""

    LABEL = "label"
    """An object of the class."""
    IGNORE = "ignore"
    """Nobody is sure: neither object nor background."""
    HARD_NEGATIVE = "hard_negative"
    """Proposed for the class and rejected."""


@dataclass(frozen=True)
class Box:
    """A box of an image."""

    class_index: int
    """Place in the manifest's classes."""
    xyxy: tuple[float, float, float, float]
    """Pixels of the upright image, to a hundredth."""
    kind: BoxKind
    probability: float
    """That the label is right, [0, 1]."""
    score: float
    """The proposer's, [0, 1]."""
    p_yes: float | None
    """The verifier's, [0, 1]; None without a verdict."""
    reason: str
    """One sentence for a person."""


@dataclass(frozen=True)
class Entry:
    """An image of a snapshot."""

    sha256: str
    name: str
    """Where it came from, for people; never a path."""
    format: str
    """Suffix of such files, without the dot."""
    size: int
    """Bytes."""
    width: int
    height: int
    """Pixels, upright."""
    split: str
    group: str
    """What keeps it on the side of others, 16 hex digits."""
    boxes: tuple[Box, ...]
    path: LabelPath = LabelPath.TEACHERS
    """Who labelled it; by the last run that had a say, where there are several."""

    def of(self, kind: BoxKind) -> tuple[Box, ...]:
        """The boxes of this kind."""
        return tuple(box for box in self.boxes if box.kind is kind)

    @property
    def verified_empty(self) -> bool:
        """Looked at twice: nothing there, and nothing in doubt."""
        return all(box.kind is BoxKind.HARD_NEGATIVE for box in self.boxes)


@dataclass(frozen=True)
class Part:
    """Some consecutive images."""

    sha256: str
    images: Mapping[str, int]
    """How many, by split."""


@dataclass(frozen=True)
class Manifest:
    """The root. Its images are read with ``entries``."""

    sha256: str
    """Of the root: the snapshot's hash."""
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    models: tuple[str, ...]
    """Names and digests of every proposer and verifier that had a say."""
    parts: tuple[Part, ...]

    def count(self, split: str = "") -> int:
        """Images of a split; empty: of all."""
        return sum(
            count for p in self.parts for name, count in p.images.items() if split in ("", name)
        )


def load_manifest(blobs: Blobs, sha256: str) -> Manifest:
    """The root of a snapshot. Raises ``NotFound``, ``Damaged`` and ``StoreUnavailable``."""
    plain = json.loads(blobs.get(sha256))
    if plain["format"] not in (1, FORMAT):
        raise Damaged(
            f"manifest {sha256[:12]} has format {plain['format']} and this version reads {FORMAT}; "
            "was it made by a newer secondlook?"
        )
    counts = "images" if plain["format"] == FORMAT else "pictures"
    parts = tuple(Part(part["sha256"], part[counts]) for part in plain["parts"])
    classes, splits, models = (tuple(plain[name]) for name in ("classes", "splits", "models"))
    return Manifest(sha256, classes, splits, models, parts)


def entries(
    blobs: Blobs, manifest: Manifest, split: str = "", after: int = 0, shard: int = 0, of: int = 1
) -> Iterator[tuple[int, Entry]]:
    """(place, image) of a split (empty: all) in order, from place ``after`` on.

    The places of a split count from 0; a shard has those that leave ``shard`` when divided by
    ``of``. Reads one part at a time, and none that has nothing to give. Raises as
    ``load_manifest``.
    """
    first = 0
    for part in manifest.parts:
        count = sum(n for name, n in part.images.items() if split in ("", name))
        if first + count > after:
            of_split = (e for e in part_entries(blobs.get(part.sha256)) if split in ("", e.split))
            for place, entry in enumerate(of_split, start=first):
                if place >= after and place % of == shard:
                    yield place, entry
        first += count


def part_entries(content: bytes) -> Iterator[Entry]:
    """The images of one part."""
    return (entry_of(json.loads(line)) for line in content.splitlines())


def entry_of(plain: Mapping[str, Any]) -> Entry:
    """Read what ``plain_entry`` made."""
    path = LabelPath(plain.get("path", LabelPath.TEACHERS))
    return Entry(**{**plain, "boxes": tuple(_box_of(box) for box in plain["boxes"]), "path": path})


def _box_of(plain: Mapping[str, Any]) -> Box:
    x1, y1, x2, y2 = plain["box"]
    return Box(
        class_index=plain["class"],
        xyxy=(x1, y1, x2, y2),
        kind=BoxKind(plain["kind"]),
        probability=plain["probability"],
        score=plain["score"],
        p_yes=plain["p_yes"],
        reason=plain["reason"],
    )


def plain_entry(entry: Entry) -> dict[str, Any]:
    """Plain values for JSON."""
    boxes = [
        {
            "class": box.class_index,
            "box": box.xyxy,
            "kind": box.kind,
            "probability": box.probability,
            "score": box.score,
            "p_yes": box.p_yes,
            "reason": box.reason,
        }
        for box in entry.boxes
    ]
    return {**{name: getattr(entry, name) for name in _PLAIN}, "boxes": boxes, **path_of(entry)}


def path_of(labelled: Entry | Labelled) -> dict[str, str]:
    """What a record says of who labelled it: nothing where the models did, as in older ones."""
    taught = labelled.path is LabelPath.TEACHERS
    return {} if taught else {"path": labelled.path.value}


_PLAIN = ("sha256", "name", "format", "size", "width", "height", "split", "group")


class ManifestWriter:
    """Puts a manifest into the blob store, a part at a time."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._lines: list[bytes] = []
        self._images: dict[str, int] = {}
        self._parts: list[Part] = []

    def add(self, entry: Entry) -> None:
        """The next image; they come sorted by sha256."""
        self._lines.append(canonical(plain_entry(entry)) + b"\n")
        self._images[entry.split] = self._images.get(entry.split, 0) + 1
        if len(self._lines) == PART:
            self._put_part()

    def finish(
        self, classes: Iterable[str], splits: Iterable[str], models: Iterable[str]
    ) -> Manifest:
        """Put what is left and the root. Raises ``StoreUnavailable`` and ``StorageFull``."""
        if self._lines:
            self._put_part()
        root = {
            "format": FORMAT,
            "classes": list(classes),
            "splits": list(splits),
            "models": sorted(models),
            "parts": [{"sha256": p.sha256, "images": dict(p.images)} for p in self._parts],
        }
        return load_manifest(self._blobs, self._blobs.put(canonical(root)))

    def _put_part(self) -> None:
        sha256 = self._blobs.put(b"".join(self._lines))
        self._parts.append(Part(sha256, self._images))
        self._lines, self._images = [], {}


def canonical(plain: Mapping[str, Any]) -> bytes:
    """The one way to write these values as JSON: sorted keys, no spaces, ASCII."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")
