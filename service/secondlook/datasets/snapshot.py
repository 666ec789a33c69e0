"""Create a snapshot: freeze what a query finds in the store under a name.

1. ``SnapshotBuilder.add_run`` reads the runs of the query and keeps one record an image: what the
   last run that judged a class decided on it.
2. Images that belong together become one group, and every group falls into one split
   (``datasets.splits``).
3. The manifest goes to the blob store (``datasets.manifest``); its hash and the counts of
   ``Statistics`` go to the database under the snapshot's name.
"""

import json
import logging
import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from secondlook.core.boxes import Xyxy
from secondlook.core.cancellation import check_cancelled
from secondlook.core.ontology_yaml import dump
from secondlook.datasets.manifest import (
    Entry,
    ManifestWriter,
    canonical_json,
    entry_from_json,
    path_field,
    segmentation_field,
    track_field,
)
from secondlook.datasets.query import Query
from secondlook.datasets.splits import block_id, by_time, group_images, source_of, split_of
from secondlook.labeling.duplicates import hard_negatives
from secondlook.store import Store
from secondlook.store.guarantees import GuaranteeState, guarantee_of
from secondlook.store.locks import deletion_blocked
from secondlook.store.results import Result
from secondlook.store.runs import Run
from secondlook.store.snapshots import ImageFacts, SnapshotRow
from secondlook_client.errors import BadOntology, InvalidInput
from secondlook_client.ontology import Ontology
from secondlook_client.values import (
    BoxKind,
    EmptyReason,
    GroupBy,
    Judgement,
    Outcome,
)

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
PAGE = 200
"""Results read from the database at a time."""
SMALL, MEDIUM = 32**2, 96**2
"""Areas in square pixels up to which a box counts as small or medium, as in COCO."""
_KIND_OF = {
    Outcome.ACCEPT: BoxKind.LABEL,
    Outcome.UNSURE: BoxKind.IGNORE,
    Outcome.REJECT: BoxKind.HARD_NEGATIVE,
}
LEFT_OUT_EMPTY = {
    EmptyReason.NOTHING_PROPOSED: "on which nothing was proposed",
    EmptyReason.ALL_REJECTED: "on which every box was rejected",
    EmptyReason.VERIFIED_EMPTY: "verified empty",
}
"""Why the query leaves an image out, as it stands in the statistics."""
EMPTY_WORDS = {
    EmptyReason.NOTHING_PROPOSED: "empty, nothing proposed",
    EmptyReason.ALL_REJECTED: "empty, every box rejected",
    EmptyReason.VERIFIED_EMPTY: "verified empty",
}
NOT_IN_FORCE = {
    GuaranteeState.ASKING: "is not certified yet: answer its queue, then give the same "
    "`secondlook guarantee create` again",
    GuaranteeState.NOT_REACHED: "guarantees nothing: its certificate says how many more answers "
    "it would take",
    GuaranteeState.BROKEN: "no longer holds, as its history says; make a new one",
    GuaranteeState.WITHDRAWN: "was withdrawn; make a new one",
}
"""Why a guarantee is no reason to trust a label, by its state."""
_KIND_ORDER = {kind: place for place, kind in enumerate(BoxKind)}


def create_snapshot(store: Store, name: str, query: Query, created_by: str = "") -> SnapshotRow:
    """Freeze what ``query`` finds under ``name``; ``created_by`` names the token that asks for it.

    Raises ``AlreadyExists`` for a name in use, ``NotFound`` for a run that is not there,
    ``InvalidInput`` for a name that cannot be used, classes that no run has, a guarantee that does
    not hold or was not applied and a query that finds nothing, ``Cancelled`` (see
    ``core.cancellation``), and what the store raises.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            "a snapshot's name has 1 to 200 letters, digits, '-', '_' or '.' and begins with a "
            f"letter or digit; '{name:.60}' does not"
        )
    store.snapshots.check_free(name)
    if query.guarantee:
        query = guaranteed_query(store, query)
    runs = _runs(store, query)
    classes = _classes(query, runs)
    with deletion_blocked(store.database), SnapshotBuilder(store, query, classes) as builder:
        for run in runs:
            builder.add_run(run)
        return builder.save(name, _ontology(classes, runs), created_by)


def guaranteed_query(store: Store, query: Query) -> Query:
    """``query`` with the run, the classes and the certificate of its guarantee.

    Raises ``NotFound`` for an unknown guarantee, and ``InvalidInput`` for one that does not hold or
    was not applied, and for other runs or classes than its own.
    """
    row = store.guarantees.get(query.guarantee)
    if row.state is not GuaranteeState.HOLDS:
        raise InvalidInput(f"guarantee '{row.name}' {NOT_IN_FORCE[row.state]}")
    applied = store.guarantees.applied(row.name)
    if applied is None:
        raise InvalidInput(
            f"guarantee '{row.name}' is not applied yet: `secondlook guarantee apply {row.name}` "
            f"decides the run '{row.run}' again by its limits, without a model"
        )
    for what, given, own in (
        ("run", query.runs, (applied.run,)),
        ("class", query.classes, applied.classes),
    ):
        other = [name for name in given if name not in own]
        if other:
            raise InvalidInput(
                f"{what} '{other[0]:.200}' is not under the guarantee '{row.name}', which is of "
                f"{', '.join(own)}; leave it out, or make the snapshot without --guarantee"
            )
    classes = query.classes or applied.classes
    return replace(query, runs=(applied.run,), classes=classes, certificate=row.certificate)


def _runs(store: Store, query: Query) -> list[Run]:
    runs = store.snapshots.runs(query.runs, query.ontology)
    for run in runs:
        if query.ontology and run.ontology.digest != query.ontology:
            raise InvalidInput(
                f"run '{run.name}' has the ontology {run.ontology.digest}, not {query.ontology}; "
                "leave the run or the ontology out"
            )
    return runs


def _classes(query: Query, runs: Sequence[Run]) -> tuple[str, ...]:
    known = dict.fromkeys(name for run in runs for name in run.ontology.names)
    unknown = [name for name in query.classes if name not in known]
    if unknown:
        raise InvalidInput(
            f"no run has a class '{unknown[0]}'; there are {', '.join(list(known)[:10])}"
        )
    return query.classes or tuple(known)


def _ontology(classes: tuple[str, ...], runs: Sequence[Run]) -> str:
    """YAML of the classes, so that frames of a student's device can be labelled like its data.

    A class is taken from the latest run that has it; a class whose contrast group is incomplete
    leaves its group.
    """
    specs = {spec.name: spec for run in runs for spec in run.ontology.classes}
    try:
        return dump(Ontology(tuple(specs[name] for name in classes)))
    except BadOntology:  # for example one class of a contrast group without the other
        ungrouped = (replace(specs[name], group="") for name in classes)
        return dump(Ontology(tuple(ungrouped)))


class SnapshotBuilder:
    """Collects what runs decided on each image, then writes the snapshot.

    A record is the JSON of a manifest entry without split and group, plus ``judged`` (the classes
    that some run decided on, each with the reason for which the image was empty) and ``models``.
    Records lie in a temporary file; what stays in memory
    is what sorting and grouping need, some 200 bytes an image. A context manager, which removes
    the file. Call ``add_run`` for every run, the earliest first, then ``save``.
    """

    def __init__(self, store: Store, query: Query, classes: Sequence[str]) -> None:
        self._store = store
        self._query = query
        self._classes = classes
        self._class_index = {name: place for place, name in enumerate(classes)}
        self._file = tempfile.TemporaryFile(prefix="secondlook-")  # noqa: SIM115 (closed at exit)
        self._numbers: dict[bytes, int] = {}
        """A number for each image, by its sha256; the lists below are indexed by it."""
        self._offsets = array("Q")
        self._image_ids = array("q")
        self._hashes: list[int | None] = []
        self._sources: dict[str, list[int]] = {}
        """Numbers of the images that came from one stream or folder, by its name."""
        self._tracks = self._tracks_before = 0
        """Highest numbers of a track so far, and in earlier runs: each run counts from 1."""
        self._blocks: dict[int, str] = {}
        """The group of each image, by its number, where time alone decides."""
        self._ended_guarantees: dict[str, list[str]] = {}
        """For the statistics; empty where no run decided under one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add_run(self, run: Run) -> None:
        """Add every image that ``run`` decided on; it outranks the runs added before."""
        if told := _ended_guarantee(self._store, run, self._query):
            log.warning("%s", told)
            self._ended_guarantees.setdefault("ended_guarantees", []).append(told)
        judged = {self._class_index[n] for n in run.ontology.names if n in self._class_index}
        source_run = self._store.snapshots.labelled_by(run)
        self._tracks_before = self._tracks
        numbers: dict[int, int] = {}
        for result, facts in self._results(run):
            number = self._add(result, facts, judged)
            if self._query.group_by is GroupBy.TIME:
                numbers[result.item_id] = number
            source = self._source(source_run, result.labelled.name)
            if source is not None:
                self._sources.setdefault(source, []).append(number)
        if self._query.group_by is GroupBy.TIME:
            self._cut_into_blocks(source_run, numbers)

    def save(self, name: str, ontology: str, created_by: str = "") -> SnapshotRow:
        """Write the manifest and give it its name; ``ontology`` is the YAML of the classes."""
        left_out: Counter[str] = Counter()
        kept = [
            (sha256, number)
            for sha256, number in sorted(self._numbers.items())
            if self._belongs(self._record(number), left_out)
        ]
        if not kept:
            raise InvalidInput(_nothing_found(left_out))
        writer, statistics = ManifestWriter(self._store.blobs), Statistics(self._classes)
        models: set[str] = set()
        for (_, number), group in zip(kept, self._groups(kept), strict=True):
            record = self._record(number)
            models.update(record["models"])
            entry = _entry(record, group, split_of(group, self._query.split))
            writer.add(entry)
            statistics.add(entry)
        splits = [share.name for share in self._query.split]
        manifest = writer.finish(self._classes, splits, models)
        counts = {
            **statistics.to_json(),
            "left_out": dict(sorted(left_out.items())),
            "ontology": ontology,
            **_guarantee_told(self._store, self._query),
            **self._ended_guarantees,
        }
        _warn_of_few_groups(self._query, counts)
        image_ids = array("q", (self._image_ids[number] for _, number in kept))
        query = self._query.to_json()
        return self._store.snapshots.add(
            name, manifest.sha256, query, counts, image_ids, created_by
        )

    def _results(self, run: Run) -> Iterator[tuple[Result, ImageFacts]]:
        since, until, after = self._query.since, self._query.until, 0
        while page := self._store.results.page(run.id, after, PAGE):
            after = page[-1].cursor
            facts = self._store.snapshots.facts(result.image_id for result in page)
            for result in page:
                early = since is not None and result.decided_at < since
                late = until is not None and result.decided_at >= until
                if not (early or late):
                    yield result, facts[result.image_id]

    def _add(self, result: Result, facts: ImageFacts, judged: set[int]) -> int:
        """Add an image, or merge it with what earlier runs decided; its number."""
        labelled, evidence = result.labelled, result.labelled.evidence
        of_classes = [j for j in labelled.judgements if j.class_name in self._class_index]
        negatives = hard_negatives(of_classes) if self._query.hard_negatives else set()
        boxes = [
            self._box(judgement)
            for place, judgement in enumerate(of_classes)
            if judgement.outcome is not Outcome.REJECT or place in negatives
        ]
        empty = labelled.empty_of(of_classes)
        record = {
            "sha256": labelled.sha256,
            "name": labelled.name,
            "format": result.format,
            "size": facts.size,
            "width": labelled.width,
            "height": labelled.height,
            "boxes": boxes,
            "judged": {str(place): empty for place in sorted(judged)},
            "models": sorted({evidence.proposer, evidence.verifier, evidence.segmenter} - {""}),
            **path_field(labelled),
        }
        number = self._numbers.setdefault(bytes.fromhex(labelled.sha256), len(self._numbers))
        if number == len(self._offsets):
            self._image_ids.append(result.image_id)
            self._hashes.append(facts.perceptual_hash)
            self._offsets.append(0)
        else:
            record = _merged(self._record(number), record)
        self._offsets[number] = self._file.seek(0, 2)
        self._file.write(canonical_json(record) + b"\n")
        return number

    def _box(self, judgement: Judgement) -> dict[str, Any]:
        decision = judgement.decision
        kind = _KIND_OF[decision.outcome]
        if kind is BoxKind.LABEL and decision.probability < self._query.min_probability:
            kind = BoxKind.IGNORE
        p_yes = judgement.verdict.answer.p_yes if judgement.verdict else None
        return {
            "class": self._class_index[judgement.class_name],
            "box": [round(value, 2) for value in judgement.box],
            "kind": kind.value,
            "probability": round(decision.probability, 4),
            "score": round(judgement.score, 4),
            "p_yes": None if p_yes is None else round(p_yes, 4),
            "reason": decision.reason,
            **segmentation_field(judgement.segmentation),
            **track_field(self._track(judgement.track)),
        }

    def _track(self, of_run: int) -> int:
        """The number in the snapshot of a track of the run that is added."""
        number = self._tracks_before + of_run if of_run else 0
        self._tracks = max(self._tracks, number)
        return number

    def _record(self, number: int) -> dict[str, Any]:
        check_cancelled()
        self._file.seek(self._offsets[number])
        record: dict[str, Any] = json.loads(self._file.readline())
        return record

    def _source(self, run: Run, name: str) -> str | None:
        """The stream, folder or video that keeps an image with others; None: only similarity
        does."""
        if self._query.group_by in (GroupBy.SIMILARITY, GroupBy.TIME):
            return None
        if run.kind == "capture":
            return f"stream:{run.name}"
        return source_of(name, self._query.group_by)

    def _cut_into_blocks(self, run: Run, numbers: dict[int, int]) -> None:
        """Cut a run into blocks of time; ``numbers`` of its images by item.

        Every item of the run takes a place, whether its image is kept or not: an image that is
        labelled late or left out moves no other one. One that came several times belongs where it
        came first.
        """
        items = _in_order_of_time(run, self._store.snapshots.items(run))
        for place, (item, _) in enumerate(items):
            if item in numbers:
                self._blocks.setdefault(numbers[item], block_id(run.name, place))

    def _belongs(self, record: dict[str, Any], left_out: Counter[str]) -> bool:
        """Whether an image belongs in the snapshot; the reason is counted when it does not."""
        kinds = {box["kind"] for box in record["boxes"]}
        empty = _empty_reason(record)
        if len(record["judged"]) < len(self._classes):
            reason = "not judged for every class"
        elif not self._query.ignore and BoxKind.IGNORE in kinds:
            reason = "with an ignore region"
        elif empty and empty not in self._query.empty:
            reason = LEFT_OUT_EMPTY[empty]
        else:
            return True
        left_out[reason] += 1
        return False

    def _groups(self, kept: Sequence[tuple[bytes, int]]) -> list[str]:
        """The group of each (sha256, number) in ``kept``, in that order."""
        if self._blocks:
            return [self._blocks[number] for _, number in kept]
        places = {number: place for place, (_, number) in enumerate(kept)}
        sources = {
            source: [places[number] for number in numbers if number in places]
            for source, numbers in self._sources.items()
        }
        hashes = [self._hashes[number] for _, number in kept]
        return group_images([sha256.hex() for sha256, _ in kept], hashes, sources)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``new`` counts for the classes that it judged; of two names the lower one is kept."""
    kept = [box for box in old["boxes"] if str(box["class"]) not in new["judged"]]
    return {
        **new,
        "name": min(old["name"], new["name"]),
        "boxes": kept + new["boxes"],
        "judged": {**old["judged"], **new["judged"]},
        "models": sorted({*old["models"], *new["models"]}),
    }


def _empty_reason(record: dict[str, Any]) -> EmptyReason | None:
    """Why the image has neither a label nor an ignore region: the reason that says least."""
    if any(box["kind"] != BoxKind.HARD_NEGATIVE for box in record["boxes"]):
        return None
    reasons = {reason for reason in record["judged"].values() if reason}
    return next((reason for reason in EmptyReason if reason in reasons), None)


def _entry(record: dict[str, Any], group: str, split: str) -> Entry:
    """Boxes: labels, then ignore regions, then hard negatives; by class, the most likely first."""
    boxes = sorted(
        record["boxes"],
        key=lambda b: (_KIND_ORDER[BoxKind(b["kind"])], b["class"], -b["probability"], b["box"]),
    )
    fields = {key: value for key, value in record.items() if key not in ("judged", "models")}
    found = {"boxes": boxes, "group": group, "split": split, "empty": _empty_reason(record)}
    return entry_from_json({**fields, **found})


def _in_order_of_time(run: Run, items: Sequence[tuple[int, str]]) -> Sequence[tuple[int, str]]:
    """(Item, name) of a run in the order in which the images were taken, as far as it is known.

    A stream's as they came: numbered upwards, and after a clock was set back still in order.
    Others come in any order and go by name, where 9 is before 10.
    """
    if run.kind == "capture":
        return items
    return sorted(items, key=lambda item: (by_time(item[1]), item))


def _nothing_found(left_out: Counter[str]) -> str:
    if not left_out:
        return "the query finds no image; see `secondlook job list` for what is labelled"
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    nobody_looked = LEFT_OUT_EMPTY[EmptyReason.NOTHING_PROPOSED] in left_out
    way_out = "Ask for less"
    if nobody_looked:
        way_out += ", or label with --verify-empty; --empty all takes them as background"
    return f"the query leaves no image: {reasons}. {way_out}"


def _guarantee_told(store: Store, query: Query) -> dict[str, Any]:
    """What a dataset card says of the guarantee, for the statistics; nothing without one."""
    applied = store.guarantees.applied(query.guarantee) if query.guarantee else None
    if applied is None:
        return {}
    return {"guarantee": {"name": query.guarantee, "summary": list(applied.summary)}}


def _ended_guarantee(store: Store, run: Run, query: Query) -> str:
    """What is to be known of labels that were accepted under a guarantee which has ended; or
    empty."""
    name = guarantee_of(run.settings)
    row = store.guarantees.find(name) if name else None
    since = store.guarantees.doubtful_since(name) if row else None
    if row is None or since is None:
        return ""
    what = "was withdrawn" if row.state is GuaranteeState.WITHDRAWN else "no longer holds"
    if run.parent_id is not None or not since:
        return f"the labels of '{run.name}' were accepted under guarantee '{name}', which {what}"
    count = store.results.accepted_after(run.id, max(since, query.since or 0.0), query.until)
    if not count:
        return ""
    moment = datetime.fromtimestamp(since, UTC).isoformat()
    return (
        f"of the boxes of '{run.name}', {count:,} were accepted under guarantee '{name}' after "
        f"nothing spoke against it for the last time; it {what}. `secondlook guarantee show "
        f"{name} --doubtful -` lists them, and a snapshot with `--until {moment}` leaves them out"
    )


def _warn_of_few_groups(query: Query, counts: dict[str, Any]) -> None:
    """Log when a split stays empty, or when there is but one group, which cannot be divided."""
    way_out = (
        "label more images"
        if query.group_by is GroupBy.TIME
        else "group one camera's images with `--group-by time`, others by similarity, or label "
        "more streams"
    )
    groups = sum(split["groups"] for split in counts["splits"].values())
    empty = [share.name for share in query.split if share.name not in counts["splits"]]
    for name in empty:
        log.warning(
            "split '%s' got no image: the snapshot has %s, and a group is never divided; %s",
            name,
            "1 group" if groups == 1 else f"{groups} groups",
            way_out,
        )
    if groups == 1 and counts["images"] > 1 and not empty:
        log.warning(
            "all %d images are one group, which is never divided: a training could hold none of "
            "them out; %s",
            counts["images"],
            way_out,
        )


class Statistics:
    """Counts of everything in a snapshot: ``add`` each image, then take ``to_json``."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._boxes: dict[str, dict[BoxKind, Counter[int]]] = {}
        self._images: Counter[str] = Counter()
        self._empty: Counter[tuple[str, EmptyReason]] = Counter()
        self._with_ignore: Counter[str] = Counter()
        self._groups: dict[str, set[str]] = {}
        self._sizes: Counter[str] = Counter()
        self._masks = 0
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Count one image."""
        self._images[entry.split] += 1
        if entry.empty:
            self._empty[entry.split, entry.empty] += 1
        self._with_ignore[entry.split] += bool(entry.of(BoxKind.IGNORE))
        self._groups.setdefault(entry.split, set()).add(entry.group)
        self._bytes += entry.size
        kinds = self._boxes.setdefault(entry.split, {kind: Counter() for kind in BoxKind})
        for box in entry.boxes:
            kinds[box.kind][box.class_index] += 1
            if box.kind is BoxKind.LABEL:
                self._sizes[_size(box.xyxy)] += 1
                self._masks += box.segmentation is not None

    def to_json(self) -> dict[str, Any]:
        """Values for JSON: totals, then the same by split and class."""
        return {
            "classes": list(self._classes),
            "images": self._images.total(),
            "bytes": self._bytes,
            "labels": sum(kinds[BoxKind.LABEL].total() for kinds in self._boxes.values()),
            "labels_with_mask": self._masks,
            "label_sizes": {name: self._sizes[name] for name in ("small", "medium", "large")},
            "splits": {name: self._split(name) for name in sorted(self._images)},
        }

    def _split(self, name: str) -> dict[str, Any]:
        return {
            "images": self._images[name],
            "groups": len(self._groups[name]),
            "empty": {reason.value: self._empty[name, reason] for reason in EmptyReason},
            "with_ignore": self._with_ignore[name],
            "classes": {
                class_name: {kind.value: self._boxes[name][kind][place] for kind in BoxKind}
                for place, class_name in enumerate(self._classes)
            },
        }


def empty_counts(splits: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """How many images of each split are empty, by reason in words; only the reasons there are.

    ``splits`` are those of ``Statistics.to_json``, perhaps written before reasons were kept.
    """
    counts = {
        EMPTY_WORDS[reason]: [split.get("empty", {}).get(reason.value, 0) for split in splits]
        for reason in EmptyReason
    }
    counts["empty, the reason was not kept"] = [split.get("verified_empty", 0) for split in splits]
    return {what: numbers for what, numbers in counts.items() if any(numbers)}


def _size(xyxy: Xyxy) -> str:
    area = (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])
    if area <= SMALL:
        return "small"
    return "medium" if area <= MEDIUM else "large"
