"""Messages of datasets to values and back."""

import json
from dataclasses import dataclass

from secondlook.dataset.manifest import Box, BoxKind, Entry, Manifest
from secondlook.dataset.query import DEFAULT_SPLIT, GroupBy, Query, SplitShare, query_of
from secondlook.errors import BadRequest
from secondlook.store.snapshots import Snapshot
from secondlook_client.v1 import datasets_pb2 as pb

_KINDS = {
    BoxKind.LABEL: pb.BOX_KIND_LABEL,
    BoxKind.IGNORE: pb.BOX_KIND_IGNORE,
    BoxKind.HARD_NEGATIVE: pb.BOX_KIND_HARD_NEGATIVE,
}
_GROUPS = {
    pb.GROUP_BY_UNSPECIFIED: GroupBy.AUTO,
    pb.GROUP_BY_AUTO: GroupBy.AUTO,
    pb.GROUP_BY_FOLDER: GroupBy.FOLDER,
    pb.GROUP_BY_LIKENESS: GroupBy.LIKENESS,
    pb.GROUP_BY_TIME: GroupBy.TIME,
}
_GROUP_NUMBERS = {value: number for number, value in _GROUPS.items()}
PREFIX = 16
"""Hex digits of a manifest's hash that a cursor begins with."""


@dataclass(frozen=True)
class Slice:
    """What one call pulls of a manifest."""

    split: str
    """Empty: all."""
    shard: int
    shards: int
    after: int
    """Place, among the pictures of the split, from which on they are sent."""

    def cursor(self, manifest: Manifest, place: int) -> str:
        """What a client asks with to go on behind the picture at ``place``."""
        return f"{manifest.sha256[:PREFIX]}.{self.split}.{self.shard}.{self.shards}.{place}"


def slice_of(request: pb.PullRequest, manifest: Manifest) -> Slice:
    """The checked slice. Raises ``BadRequest``."""
    shards = request.shards or 1
    if request.shard >= shards:
        raise BadRequest(
            f"shard {request.shard} is out of range: of {shards} shards the first is 0 and the "
            f"last {shards - 1}"
        )
    if request.split and request.split not in manifest.splits:
        raise BadRequest(
            f"the snapshot has no split '{request.split:.60}', only {', '.join(manifest.splits)}"
        )
    whole = Slice(request.split, request.shard, shards, 0)
    if not request.cursor:
        return whole
    return Slice(request.split, request.shard, shards, _place(request.cursor, whole, manifest) + 1)


def _place(cursor: str, whole: Slice, manifest: Manifest) -> int:
    """Of the picture that the cursor came with."""
    parts = cursor.split(".")
    if len(parts) != 5 or not parts[4].isdecimal() or len(parts[4]) > 18:
        raise BadRequest(f"'{cursor:.80}' is no cursor; send one that Pull has given, or none")
    if parts[0] != manifest.sha256[:PREFIX]:
        raise BadRequest(
            "the cursor is of another snapshot; leave it out to pull this one from the beginning"
        )
    place = int(parts[4])
    if cursor != whole.cursor(manifest, place):
        raise BadRequest(
            f"the cursor is of shard {parts[2]} of {parts[3]} of split '{parts[1]:.40}', not of "
            f"shard {whole.shard} of {whole.shards} of split '{whole.split}'; ask for what it was "
            "given for, or begin anew without it"
        )
    return place


def query_value(message: pb.SnapshotQuery) -> Query:
    """The checked query. Raises ``InvalidInput``."""
    if message.group_by not in _GROUPS:
        raise BadRequest(
            f"expected group_by {', '.join(GroupBy)}, got number {message.group_by}; is the client "
            "newer than the server?"
        )
    split = tuple(SplitShare(share.name, share.weight) for share in message.split)
    return Query(
        runs=tuple(message.runs),
        ontology=message.ontology,
        classes=tuple(message.classes),
        since=message.since if message.HasField("since") else None,
        until=message.until if message.HasField("until") else None,
        min_probability=message.min_probability,
        empties=not message.without_empties,
        ignore=not message.without_ignore,
        hard_negatives=message.hard_negatives,
        split=split or DEFAULT_SPLIT,
        group_by=_GROUPS[message.group_by],
    )


def query_message(query: Query) -> pb.SnapshotQuery:
    """The message that ``query_value`` reads back as an equal value."""
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
        split=[pb.SplitShare(name=share.name, weight=share.weight) for share in query.split],
        group_by=_GROUP_NUMBERS[query.group_by],
    )


def snapshot_message(snapshot: Snapshot) -> pb.Snapshot:
    """A snapshot without its pictures."""
    splits = snapshot.statistics["splits"]
    return pb.Snapshot(
        name=snapshot.name,
        manifest=snapshot.manifest,
        classes=snapshot.statistics["classes"],
        splits={name: counts["pictures"] for name, counts in splits.items()},
        statistics_json=json.dumps(snapshot.statistics, sort_keys=True),
        query=query_message(query_of(snapshot.query)),
        created_at=snapshot.created_at,
    )


def picture_message(entry: Entry, cursor: str, content: bytes) -> pb.SnapshotPicture:
    """One picture; ``content`` is empty where only its labels are wanted."""
    return pb.SnapshotPicture(
        sha256=entry.sha256,
        # A file's name may hold bytes that are no text.
        name=entry.name.encode("utf-8", "replace").decode(),
        format=entry.format,
        width=entry.width,
        height=entry.height,
        split=entry.split,
        group=entry.group,
        boxes=[_box_message(box) for box in entry.boxes],
        content=content,
        cursor=cursor,
    )


def _box_message(box: Box) -> pb.SnapshotBox:
    x1, y1, x2, y2 = box.xyxy
    return pb.SnapshotBox(
        class_index=box.class_index,
        x1=x1,
        y1=y1,
        x2=x2,
        y2=y2,
        kind=_KINDS[box.kind],
        probability=box.probability,
        score=box.score,
        p_yes=box.p_yes,
        reason=box.reason,
    )
