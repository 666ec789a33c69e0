"""Make a snapshot: gather what the query finds, group and split it, write the manifest, name it."""

import json
import logging
import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, Self

import numpy as np

from secondlook.core.errors import BadOntology, InvalidInput
from secondlook.core.ontology import Ontology
from secondlook.core.ontology_yaml import dump
from secondlook.core.types import Judgement, Outcome
from secondlook.datasets.manifest import (
    BoxKind,
    Entry,
    ManifestWriter,
    canonical,
    entry_of,
    path_of,
)
from secondlook.datasets.query import GroupBy, Query
from secondlook.datasets.splits import Forest, block_id, group_id, join_near, split_of
from secondlook.store import Store
from secondlook.store.locks import nothing_forgotten
from secondlook.store.results import Result
from secondlook.store.runs import Run
from secondlook.store.snapshots import Facts, Snapshot

# What the runs of a query say of each image, one record an image, in bounded memory.
#
# The records lie in a file; what stays in memory is what sorting and grouping need, some 200 bytes
# an image.

PAGE = 200
_KINDS = {
    Outcome.ACCEPT: BoxKind.LABEL,
    Outcome.UNSURE: BoxKind.IGNORE,
    Outcome.REJECT: BoxKind.HARD_NEGATIVE,
}
_DIGITS = re.compile("[0-9]+")
_ORDER = {kind: place for place, kind in enumerate(BoxKind)}


class Gathering:
    """Records by image, each the plain form of an entry without split and group.

    A context manager, which removes the file. ``add`` everything, then read.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="secondlook-")  # noqa: SIM115 (closed at exit)
        self._places = array("Q")
        self._lengths = array("L")
        self._numbers: dict[bytes, int] = {}
        self.image_ids = array("q")
        self.hashes: list[int | None] = []
        self.sources: dict[str, list[int]] = {}
        """Numbers of the images that came from one stream or folder, by its name."""
        self.blocks: dict[int, str] = {}
        """The group of each image, by its number, where time alone decides."""

    def __len__(self) -> int:
        return len(self._numbers)

    def number_of(self, sha256: bytes) -> int | None:
        """Of an image that was added."""
        return self._numbers.get(sha256)

    def in_order(self) -> list[tuple[bytes, int]]:
        """(sha256, number) of every image, sorted."""
        return sorted(self._numbers.items())

    def record(self, number: int) -> dict[str, Any]:
        """What was put last for an image."""
        self._file.seek(self._places[number])
        plain: dict[str, Any] = json.loads(self._file.read(self._lengths[number]))
        return plain

    def put(self, sha256: bytes, image_id: int, perceptual_hash: int | None, record: Any) -> int:
        """Add an image, or replace its record; its number."""
        line = canonical(record)
        number = self._numbers.setdefault(sha256, len(self._numbers))
        if number == len(self._places):
            self.image_ids.append(image_id)
            self.hashes.append(perceptual_hash)
            self._places.append(0)
            self._lengths.append(0)
        self._places[number] = self._file.seek(0, 2)
        self._lengths[number] = len(line)
        self._file.write(line)
        return number

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def gather(store: Store, query: Query, runs: Sequence[Run], classes: Sequence[str]) -> Gathering:
    """Every image that ``runs`` decided on, with what the last of them says of each class.

    Records hold ``judged`` (the classes that some run decided on) besides an entry's own fields.
    """
    places = {name: place for place, name in enumerate(classes)}
    gathering = Gathering()
    try:
        for run in runs:
            of_run = {places[name] for name in run.ontology.names if name in places}
            came_with = store.snapshots.labelled_by(run)
            of_items: dict[int, int] = {}
            for result, facts in _results(store, run, query):
                number = _add(gathering, result, facts, of_run, places, query)
                if query.group_by is GroupBy.TIME:
                    of_items[result.item_id] = number
                source = _source(query.group_by, came_with, result.labelled.name)
                if source is not None:
                    gathering.sources.setdefault(source, []).append(number)
            if query.group_by is GroupBy.TIME:
                _cut(gathering, came_with, store.snapshots.items(came_with), of_items)
    except BaseException:
        gathering.__exit__(None, None, None)
        raise
    return gathering


def _results(store: Store, run: Run, query: Query) -> Iterator[tuple[Result, Facts]]:
    after = 0
    while page := store.records.results(run.id, after, PAGE):
        after = page[-1].cursor
        facts = store.snapshots.facts(result.image_id for result in page)
        for result in page:
            early = query.since is not None and result.made_at < query.since
            late = query.until is not None and result.made_at >= query.until
            if not (early or late):
                yield result, facts[result.image_id]


def _add(
    gathering: Gathering,
    result: Result,
    facts: Facts,
    of_run: set[int],
    places: dict[str, int],
    query: Query,
) -> int:
    labelled = result.labelled
    sha256 = bytes.fromhex(labelled.sha256)
    boxes = [
        _plain_box(judgement, places[judgement.class_name], query.min_probability)
        for judgement in labelled.judgements
        if judgement.class_name in places
        and (query.hard_negatives or judgement.decision.outcome is not Outcome.REJECT)
    ]
    record = {
        "sha256": labelled.sha256,
        "name": labelled.name,
        "format": result.format,
        "size": facts.size,
        "width": labelled.width,
        "height": labelled.height,
        "boxes": boxes,
        "judged": sorted(of_run),
        "models": sorted({labelled.evidence.proposer, labelled.evidence.verifier} - {""}),
        **path_of(labelled),
    }
    before = gathering.number_of(sha256)
    if before is not None:
        record = _merged(gathering.record(before), record)
    return gathering.put(sha256, result.image_id, facts.perceptual_hash, record)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``new`` counts for the classes that it judged; of two names the lower one stands."""
    kept = [box for box in old["boxes"] if box["class"] not in new["judged"]]
    return {
        **new,
        "name": min(old["name"], new["name"]),
        "boxes": kept + new["boxes"],
        "judged": sorted({*old["judged"], *new["judged"]}),
        "models": sorted({*old["models"], *new["models"]}),
    }


def _plain_box(judgement: Judgement, place: int, min_probability: float) -> dict[str, Any]:
    kind = _KINDS[judgement.decision.outcome]
    if kind is BoxKind.LABEL and judgement.decision.probability < min_probability:
        kind = BoxKind.IGNORE
    p_yes = judgement.verdict.answer.p_yes if judgement.verdict else None
    return {
        "class": place,
        "box": [round(value, 2) for value in judgement.box],
        "kind": kind.value,
        "probability": round(judgement.decision.probability, 4),
        "score": round(judgement.score, 4),
        "p_yes": None if p_yes is None else round(p_yes, 4),
        "reason": judgement.decision.reason,
    }


def sorted_boxes(boxes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Labels, then ignore regions, then hard negatives; each by class and the most likely first."""
    return sorted(
        boxes,
        key=lambda b: (_ORDER[BoxKind(b["kind"])], b["class"], -b["probability"], b["box"]),
    )


def _source(group_by: GroupBy, run: Run, name: str) -> str | None:
    """What an image came from that keeps it with others; None: only its similarity does."""
    if group_by in (GroupBy.SIMILARITY, GroupBy.TIME):
        return None
    if run.kind == "capture":
        return f"stream:{run.name}"
    if group_by is GroupBy.FOLDER:
        return f"folder:{PurePosixPath(name).parent}"
    return None


def _cut(
    gathering: Gathering, run: Run, items: Sequence[tuple[int, str]], of_items: Mapping[int, int]
) -> None:
    """Put the images ``of_items`` (numbers by item) of a run into blocks.

    All ``items`` of the run hold their places, whatever is kept: what is labelled late or left out
    moves no other image. An image that came several times belongs where it came first.
    """
    for place, (item, _) in enumerate(_in_time(run, items)):
        if item in of_items:
            gathering.blocks.setdefault(of_items[item], block_id(run.name, place))


def _in_time(run: Run, items: Sequence[tuple[int, str]]) -> Sequence[tuple[int, str]]:
    """(Item, name) of a run in the order in which the images were taken, as far as it is known.

    A stream's as they came: numbered upwards, and after a clock was set back still in order.
    Others come in any order and go by name, where 9 is before 10.
    """
    if run.kind == "capture":
        return items
    return sorted(items, key=lambda item: (_DIGITS.sub(_padded, item[1]), item))


def _padded(digits: re.Match[str]) -> str:
    return digits[0].zfill(20)


# Counts of everything in a snapshot, added up one image at a time.

SMALL, MEDIUM = 32**2, 96**2
"""Areas in square pixels up to which a box counts as small or medium, as in COCO."""


class Statistics:
    """``add`` each image, then take ``plain``."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._boxes: dict[str, dict[BoxKind, Counter[int]]] = {}
        self._images: Counter[str] = Counter()
        self._empty: Counter[str] = Counter()
        self._with_ignore: Counter[str] = Counter()
        self._groups: dict[str, set[str]] = {}
        self._sizes: Counter[str] = Counter()
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Count one image in."""
        self._images[entry.split] += 1
        self._empty[entry.split] += entry.verified_empty
        self._with_ignore[entry.split] += bool(entry.of(BoxKind.IGNORE))
        self._groups.setdefault(entry.split, set()).add(entry.group)
        self._bytes += entry.size
        kinds = self._boxes.setdefault(entry.split, {kind: Counter() for kind in BoxKind})
        for box in entry.boxes:
            kinds[box.kind][box.class_index] += 1
            if box.kind is BoxKind.LABEL:
                self._sizes[_size(box.xyxy)] += 1

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON: totals, then the same by split and class."""
        return {
            "classes": list(self._classes),
            "images": self._images.total(),
            "bytes": self._bytes,
            "labels": sum(kinds[BoxKind.LABEL].total() for kinds in self._boxes.values()),
            "label_sizes": {name: self._sizes[name] for name in ("small", "medium", "large")},
            "splits": {name: self._split(name) for name in sorted(self._images)},
        }

    def _split(self, name: str) -> dict[str, Any]:
        return {
            "images": self._images[name],
            "groups": len(self._groups[name]),
            "verified_empty": self._empty[name],
            "with_ignore": self._with_ignore[name],
            "classes": {
                class_name: {kind.value: self._boxes[name][kind][place] for kind in BoxKind}
                for place, class_name in enumerate(self._classes)
            },
        }


def _size(xyxy: tuple[float, float, float, float]) -> str:
    area = (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])
    if area <= SMALL:
        return "small"
    return "medium" if area <= MEDIUM else "large"


log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def create_snapshot(store: Store, name: str, query: Query) -> Snapshot:
    """Freeze what ``query`` finds under ``name``.

    Raises ``AlreadyExists`` for a name in use, ``NotFound`` for a run that is not there,
    ``InvalidInput`` for a name that cannot be used, classes that no run has and a query that finds
    nothing, and what the store raises.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            "a snapshot's name has 1 to 200 letters, digits, '-', '_' or '.' and begins with a "
            f"letter or digit; '{name:.60}' does not"
        )
    store.snapshots.check_free(name)
    runs = _runs(store, query)
    classes = _classes(query, runs)
    with (
        nothing_forgotten(store.database),
        gather(store, query, runs, classes) as gathering,
    ):
        return _freeze(store, name, query, classes, _ontology(classes, runs), gathering)


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
    """YAML of what was asked for, so that a student's frames can be labelled like its lessons.

    The latest run's word for each class counts; one side of a contrast stands alone.
    """
    specs = {spec.name: spec for run in runs for spec in run.ontology.classes}
    try:
        return dump(Ontology(tuple(specs[name] for name in classes)))
    except BadOntology:  # for example one class of a contrast group, the other left out
        alone = (replace(specs[name], group="") for name in classes)
        return dump(Ontology(tuple(alone)))


def _freeze(
    store: Store,
    name: str,
    query: Query,
    classes: tuple[str, ...],
    ontology: str,
    gathering: Gathering,
) -> Snapshot:
    left_out: Counter[str] = Counter()
    kept = [
        (sha256, number)
        for sha256, number in gathering.in_order()
        if _fits(gathering.record(number), query, len(classes), left_out)
    ]
    if not kept:
        raise InvalidInput(_nothing(left_out))
    groups = _groups(gathering, kept)
    writer, statistics = ManifestWriter(store.blobs), Statistics(classes)
    models: set[str] = set()
    for (_, number), group in zip(kept, groups, strict=True):
        record = gathering.record(number)
        models.update(record["models"])
        entry = _entry(record, group, query)
        writer.add(entry)
        statistics.add(entry)
    splits = [share.name for share in query.split]
    manifest = writer.finish(classes, splits, models)
    left = dict(sorted(left_out.items()))
    counted = {**statistics.plain(), "left_out": left, "ontology": ontology}
    _warn(query, counted)
    image_ids = array("q", (gathering.image_ids[number] for _, number in kept))
    return store.snapshots.add(name, manifest.sha256, query.to_json(), counted, image_ids)


def _fits(record: dict[str, Any], query: Query, classes: int, left_out: Counter[str]) -> bool:
    """Whether an image belongs in; if not, why is counted."""
    kinds = {box["kind"] for box in record["boxes"]}
    if len(record["judged"]) < classes:
        why = "not judged for every class"
    elif not query.ignore and BoxKind.IGNORE in kinds:
        why = "with an ignore region"
    elif not query.empties and not kinds & {BoxKind.LABEL, BoxKind.IGNORE}:
        why = "verified empty"
    else:
        return True
    left_out[why] += 1
    return False


def _nothing(left_out: Counter[str]) -> str:
    if not left_out:
        return "the query finds no image; see `secondlook job list` for what is labelled"
    reasons = ", ".join(f"{count} {why}" for why, count in left_out.items())
    return f"the query leaves no image: {reasons}. Ask for less"


def _groups(gathering: Gathering, kept: Sequence[tuple[bytes, int]]) -> list[str]:
    """The group of each image that is kept, in that order."""
    if gathering.blocks:
        return [gathering.blocks[number] for _, number in kept]
    places = {number: place for place, (_, number) in enumerate(kept)}
    forest = Forest(len(kept))
    names = [sha256.hex() for sha256, _ in kept]
    for source, numbers in sorted(gathering.sources.items(), reverse=True):
        members = np.array([places[n] for n in numbers if n in places], dtype=np.int64)
        if len(members):
            forest.join(members[1:], np.full(len(members) - 1, members[0]))
            names[members.min()] = source
    hashed = [place for place, (_, n) in enumerate(kept) if gathering.hashes[n] is not None]
    hashes = [gathering.hashes[kept[place][1]] for place in hashed]
    join_near(forest, np.array(hashed, dtype=np.int64), np.array(hashes, dtype=np.int64))
    roots = forest.roots().tolist()
    best: dict[int, tuple[bool, str]] = {}
    for name, root in zip(names, roots, strict=True):
        # A stream's or folder's name outlasts the images in it; the lowest hash does not.
        candidate = (":" not in name, name)
        best[root] = min(best.get(root, candidate), candidate)
    ids = {root: group_id(name) for root, (_, name) in best.items()}
    return [ids[root] for root in roots]


def _entry(record: dict[str, Any], group: str, query: Query) -> Entry:
    boxes = sorted_boxes(record["boxes"])
    plain = {key: value for key, value in record.items() if key not in ("judged", "models")}
    split = split_of(group, query.split)
    return entry_of({**plain, "boxes": boxes, "group": group, "split": split})


def _warn(query: Query, counted: dict[str, Any]) -> None:
    way_out = (
        "label more images"
        if query.group_by is GroupBy.TIME
        else "group one camera's images with `--group-by time`, others by similarity, or label "
        "more streams"
    )
    groups = sum(split["groups"] for split in counted["splits"].values())
    empty = [share.name for share in query.split if share.name not in counted["splits"]]
    for name in empty:
        log.warning(
            "split '%s' got no image: the snapshot has %s, and a group is never divided; %s",
            name,
            "1 group" if groups == 1 else f"{groups} groups",
            way_out,
        )
    if groups == 1 and counted["images"] > 1 and not empty:
        log.warning(
            "all %d images are one group, which is never divided: a training could hold none of "
            "them out; %s",
            counted["images"],
            way_out,
        )
