"""Snapshots and their images as values, and the messages that they come in."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from secondlook_client.errors import Damaged, InvalidRequest
from secondlook_client.v1 import datasets_pb2 as pb


class BoxKind(StrEnum):
    """What a box says to whoever trains on it."""

    LABEL = "label"
    """An object of the class: learn it."""
    IGNORE = "ignore"
    """Nobody is sure: learn nothing from this region, neither object nor background."""
    HARD_NEGATIVE = "hard_negative"
    """Proposed for the class and rejected: background that looks like it."""


_KINDS = {
    pb.BOX_KIND_LABEL: BoxKind.LABEL,
    pb.BOX_KIND_IGNORE: BoxKind.IGNORE,
    pb.BOX_KIND_HARD_NEGATIVE: BoxKind.HARD_NEGATIVE,
}
_GROUPS = {
    "auto": pb.GROUP_BY_AUTO,
    "folder": pb.GROUP_BY_FOLDER,
    "similarity": pb.GROUP_BY_SIMILARITY,
    "time": pb.GROUP_BY_TIME,
}


@dataclass(frozen=True)
class Box:
    """A box of an image."""

    class_name: str
    class_index: int
    """Place in the snapshot's classes, from 0."""
    xyxy: tuple[float, float, float, float]
    """Pixels of the upright image (EXIF orientation applied)."""
    kind: BoxKind
    probability: float
    """That the label is right, [0, 1]."""
    score: float
    """The proposer's, [0, 1]."""
    p_yes: float | None
    """The verifier's, [0, 1]; None when there was no verdict."""
    reason: str
    """One sentence for a person."""


@dataclass(frozen=True)
class Example:
    """An image of a snapshot with all that is known of it."""

    sha256: str
    name: str
    """Where it came from, for people; never to be used as a path."""
    format: str
    """The usual suffix of such files, without the dot."""
    width: int
    height: int
    """Pixels, upright."""
    split: str
    group: str
    """What keeps it on the side of others, 16 hex digits."""
    boxes: tuple[Box, ...]
    content: bytes
    """The file's bytes, checked by ``sha256``; empty where only labels were asked for."""
    cursor: str = ""
    """``pull(cursor=...)`` goes on behind this image."""

    def of(self, kind: BoxKind) -> tuple[Box, ...]:
        """The boxes of this kind."""
        return tuple(box for box in self.boxes if box.kind is kind)

    @property
    def labels(self) -> tuple[Box, ...]:
        """What to learn."""
        return self.of(BoxKind.LABEL)


@dataclass(frozen=True)
class Snapshot:
    """A dataset with a name, which never changes."""

    name: str
    manifest: str
    """Hash of its content, 64 hex digits."""
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    """Images by part."""
    statistics: Mapping[str, Any]
    """Counts of everything; and ``ontology``, what was asked for, as YAML."""
    created_at: float
    """Seconds since 1970."""

    def count(self, split: str = "") -> int:
        """Images of a part; empty: of all. Raises ``InvalidRequest`` when there is none."""
        if not split:
            return sum(self.splits.values())
        if split not in self.splits:
            raise InvalidRequest(
                f"snapshot '{self.name}' has no image in a split '{split}'; there are "
                f"{', '.join(sorted(self.splits))}"
            )
        return self.splits[split]


@dataclass(frozen=True)
class SnapshotQuery:
    """Which images and boxes a new snapshot shall hold; the server checks it."""

    runs: Sequence[str] = ()
    """Names; where several judged an image for one class, the later counts."""
    ontology: str = ""
    """Digest, 16 hex digits: all runs with it, where none is named."""
    classes: Sequence[str] = ()
    """Kept, in this order; empty: every class of the runs."""
    since: float | None = None
    until: float | None = None
    """Decided from, and before, these times; seconds since 1970."""
    min_probability: float = 0.0
    """An accepted box below it becomes an ignore region."""
    empties: bool = True
    """Keep images on which nothing was accepted and nothing is unsure."""
    ignore: bool = True
    """Keep images that have an ignore region."""
    hard_negatives: bool = False
    """Keep rejected boxes."""
    split: Mapping[str, float] | None = None
    """Weight by part; None: 0.8 ``train`` and 0.2 ``val``."""
    group_by: str = "auto"
    """What falls into one part as a whole: ``auto``, ``folder``, ``similarity`` or, for the images
    of one fixed camera, ``time``."""


def query_message(query: SnapshotQuery) -> pb.SnapshotQuery:
    """The message for a query. Raises ``InvalidRequest``."""
    if query.group_by not in _GROUPS:
        raise InvalidRequest(f"expected group_by {', '.join(_GROUPS)}, got {query.group_by!r}")
    if isinstance(query.runs, str) or isinstance(query.classes, str):
        raise InvalidRequest("expected lists of runs and classes, got one text")
    split = (query.split or {}).items()
    return pb.SnapshotQuery(
        runs=query.runs,
        ontology=query.ontology,
        classes=query.classes,
        since=query.since,
        until=query.until,
        min_probability=query.min_probability,
        without_empties=not query.empties,
        without_ignore=not query.ignore,
        hard_negatives=query.hard_negatives,
        split=[pb.SplitShare(name=name, weight=weight) for name, weight in split],
        group_by=_GROUPS[query.group_by],
    )


def snapshot_value(message: pb.Snapshot) -> Snapshot:
    """The value of an answer."""
    return Snapshot(
        name=message.name,
        manifest=message.manifest,
        classes=tuple(message.classes),
        splits=dict(message.splits),
        statistics=json.loads(message.statistics_json),
        created_at=message.created_at,
    )


def example_value(message: pb.SnapshotImage, classes: Sequence[str], content: bytes) -> Example:
    """The value of an image, with these bytes."""
    return Example(
        sha256=message.sha256,
        name=message.name,
        format=message.format,
        width=message.width,
        height=message.height,
        split=message.split,
        group=message.group,
        boxes=tuple(_box(box, classes) for box in message.boxes),
        content=content,
        cursor=message.cursor,
    )


def _box(message: pb.SnapshotBox, classes: Sequence[str]) -> Box:
    return Box(
        class_name=classes[message.class_index],
        class_index=message.class_index,
        xyxy=(message.x1, message.y1, message.x2, message.y2),
        # A kind that a newer server may add is one that this client cannot learn from.
        kind=_KINDS.get(message.kind, BoxKind.IGNORE),
        probability=message.probability,
        score=message.score,
        p_yes=message.p_yes if message.HasField("p_yes") else None,
        reason=message.reason,
    )


def checked(sha256: str, content: bytes) -> bytes:
    """``content`` if that is its hash. Raises ``Damaged``."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(
            f"image {sha256[:12]} came with other bytes than its hash says; run `secondlook "
            "check` where the server's store is"
        )
    return content
