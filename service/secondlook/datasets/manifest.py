"""The manifest: the content of a snapshot, as text that is the same on every machine.

A root blob names the classes, the models and the parts; each part is a blob of JSON lines, one an
image, ``PART`` images long. Images are sorted by hash and keys by name, and there is neither a time
nor a database id in it, so the root's own hash is a hash of the content.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from secondlook.core.boxes import Xyxy
from secondlook.core.types import Labelled
from secondlook.store.blobs import Blobs
from secondlook_client.errors import Damaged, InvalidInput
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.values import BoxKind, EmptyReason, LabelPath

FORMAT = 2
PART = 1000
"""Images in a part: a few hundred kilobytes, which are read as one."""


@dataclass(frozen=True)
class ManifestBox:
    """A box of an image."""

    class_index: int
    """Place in the manifest's classes."""
    xyxy: Xyxy
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
    segmentation: Segmentation | None = None
    """The object's mask, of the image's size; None where the box has none."""
    track: int = 0
    """Number of the object that was followed through a video, of one object in one snapshot; 0
    where nothing was tracked."""


@dataclass(frozen=True)
class Entry:
    """An image of a snapshot."""

    sha256: str
    name: str
    """The name it came with, for people; never used as a path."""
    format: str
    """Suffix of its files, without the dot."""
    size: int
    """Bytes."""
    width: int
    height: int
    """Pixels, upright."""
    split: str
    group: str
    """Images of one group are all in one split; 16 hex digits."""
    boxes: tuple[ManifestBox, ...]
    path: LabelPath = LabelPath.TEACHERS
    """Who labelled it, in the last of the runs."""
    empty: EmptyReason | None = None
    """Why it has neither a label nor an ignore region; of several runs that judged classes of it,
    the reason that says least. None where it has one; in manifests of before this was kept too."""

    def of(self, kind: BoxKind) -> tuple[ManifestBox, ...]:
        """The boxes of this kind."""
        return tuple(box for box in self.boxes if box.kind is kind)

    @property
    def is_empty(self) -> bool:
        """Whether it has neither a label nor an ignore region, for whatever reason."""
        return all(box.kind is BoxKind.HARD_NEGATIVE for box in self.boxes)


@dataclass(frozen=True)
class ManifestPart:
    """Some consecutive images."""

    sha256: str
    images: Mapping[str, int]
    """How many, by split."""


@dataclass(frozen=True)
class SnapshotManifest:
    """The root. Its images are read with ``entries``."""

    sha256: str
    """Of the root: the snapshot's hash."""
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    models: tuple[str, ...]
    """Names and digests of every proposer, verifier and segmenter that labelled images of it."""
    parts: tuple[ManifestPart, ...]

    def count(self, split: str = "") -> int:
        """Number of images in a split; empty: in all."""
        return sum(
            count for p in self.parts for name, count in p.images.items() if split in ("", name)
        )


def load_manifest(blobs: Blobs, sha256: str) -> SnapshotManifest:
    """The root of a snapshot. Raises ``NotFound``, ``Damaged`` and ``StoreUnavailable``."""
    root = _decoded(blobs.get(sha256), _Root, f"manifest {sha256[:12]}")
    if root.format not in (1, FORMAT):
        raise Damaged(
            f"manifest {sha256[:12]} has format {root.format} and this version reads {FORMAT}; "
            "was it made by a newer secondlook?"
        )
    parts = tuple(
        ManifestPart(part.sha256, part.images if root.format == FORMAT else part.pictures)
        for part in root.parts
    )
    return SnapshotManifest(sha256, root.classes, root.splits, root.models, parts)


def entries(
    blobs: Blobs,
    manifest: SnapshotManifest,
    split: str = "",
    after: int = 0,
    shard: int = 0,
    of: int = 1,
) -> Iterator[tuple[int, Entry]]:
    """(place, image) of a split (empty: all) in order, from place ``after`` on.

    The places of a split count from 0; shard ``shard`` of ``of`` has those with place % of ==
    shard. Reads one part at a time and skips those without such images. Raises what
    ``load_manifest`` raises.
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
    """The images of one part. Raises ``Damaged`` at a line that is none."""
    for line in content.splitlines():
        yield _entry_of(_decoded(line, _StoredEntry, "an image of a snapshot's manifest"))


def entry_from_json(plain: Mapping[str, Any]) -> Entry:
    """Read what ``entry_to_json`` made."""
    return _entry_of(msgspec.convert(plain, _StoredEntry))


_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _StoredPart(msgspec.Struct):
    sha256: _Sha256
    images: dict[str, _Count] = {}
    pictures: dict[str, _Count] = {}
    """The same in format 1."""


class _Root(msgspec.Struct):
    format: int
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    models: tuple[str, ...]
    parts: tuple[_StoredPart, ...]


class _StoredMask(msgspec.Struct):
    counts: str
    quality: float
    stability: float
    model: str


class _StoredBox(msgspec.Struct):
    class_index: _Count = msgspec.field(name="class")
    box: Xyxy
    kind: BoxKind
    probability: float
    score: float
    p_yes: float | None
    reason: str
    mask: _StoredMask | None = None
    track: _Count = 0


class _StoredEntry(msgspec.Struct):
    sha256: _Sha256
    name: str
    format: str
    size: _Count
    width: _Count
    height: _Count
    split: str
    group: str
    boxes: tuple[_StoredBox, ...]
    path: LabelPath = LabelPath.TEACHERS
    empty: EmptyReason | None = None


_Stored = TypeVar("_Stored")


def _decoded(content: bytes, kind: type[_Stored], what: str) -> _Stored:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise Damaged(
            f"{what} cannot be read ({cause}); `secondlook check` says what else is damaged"
        ) from cause


def _entry_of(stored: _StoredEntry) -> Entry:
    fields = {name: getattr(stored, name) for name in _FIELDS}
    boxes = tuple(
        ManifestBox(
            b.class_index,
            b.box,
            b.kind,
            b.probability,
            b.score,
            b.p_yes,
            b.reason,
            _segmentation(b.mask, stored) if b.mask else None,
            b.track,
        )
        for b in stored.boxes
    )
    return Entry(**fields, boxes=boxes, path=stored.path, empty=stored.empty)


def _segmentation(stored: _StoredMask, of: _StoredEntry) -> Segmentation:
    try:
        mask = Mask(of.width, of.height, stored.counts)
    except InvalidInput as cause:
        raise Damaged(
            f"a mask of image {of.sha256[:12]} in a snapshot's manifest cannot be read: {cause}"
        ) from cause
    return Segmentation(mask, stored.quality, stored.stability, stored.model)


def segmentation_field(segmentation: Segmentation | None) -> dict[str, Any]:
    """The ``mask`` of a box as the manifest has it; left out for a box that has none, so that
    manifests without masks keep their hash. The size is the image's."""
    if segmentation is None:
        return {}
    mask = {
        "counts": segmentation.mask.counts,
        "quality": round(segmentation.quality, 4),
        "stability": round(segmentation.stability, 4),
        "model": segmentation.model,
    }
    return {"mask": mask}


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """Values for JSON."""
    boxes = [
        {
            "class": box.class_index,
            "box": box.xyxy,
            "kind": box.kind,
            "probability": box.probability,
            "score": box.score,
            "p_yes": box.p_yes,
            "reason": box.reason,
            **segmentation_field(box.segmentation),
            **track_field(box.track),
        }
        for box in entry.boxes
    ]
    fields = {name: getattr(entry, name) for name in _FIELDS}
    empty = {"empty": entry.empty.value} if entry.empty else {}
    return {**fields, "boxes": boxes, **path_field(entry), **empty}


def track_field(track: int) -> dict[str, int]:
    """The ``track`` of a box; left out for one that has none, as its mask is."""
    return {"track": track} if track else {}


def path_field(labelled: Entry | Labelled) -> dict[str, str]:
    """The record's ``path``; left out for the teachers, so that older manifests keep their hash."""
    by_teachers = labelled.path is LabelPath.TEACHERS
    return {} if by_teachers else {"path": labelled.path.value}


_FIELDS = ("sha256", "name", "format", "size", "width", "height", "split", "group")


class ManifestWriter:
    """Writes a manifest to the blob store, a part at a time."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._lines: list[bytes] = []
        self._images: dict[str, int] = {}
        self._parts: list[ManifestPart] = []

    def add(self, entry: Entry) -> None:
        """Add the next image; they come sorted by sha256."""
        self._lines.append(canonical_json(entry_to_json(entry)) + b"\n")
        self._images[entry.split] = self._images.get(entry.split, 0) + 1
        if len(self._lines) == PART:
            self._put_part()

    def finish(
        self, classes: Iterable[str], splits: Iterable[str], models: Iterable[str]
    ) -> SnapshotManifest:
        """Write the last part and the root. Raises ``StoreUnavailable`` and ``StorageFull``."""
        if self._lines:
            self._put_part()
        root = {
            "format": FORMAT,
            "classes": list(classes),
            "splits": list(splits),
            "models": sorted(models),
            "parts": [{"sha256": p.sha256, "images": dict(p.images)} for p in self._parts],
        }
        return load_manifest(self._blobs, self._blobs.put(canonical_json(root)))

    def _put_part(self) -> None:
        sha256 = self._blobs.put(b"".join(self._lines))
        self._parts.append(ManifestPart(sha256, self._images))
        self._lines, self._images = [], {}


def canonical_json(plain: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys, no spaces, in ASCII: equal values give equal bytes."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")
