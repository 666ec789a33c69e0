"""Make a snapshot: gather what the query finds, group and split it, write the manifest, name it."""

import logging
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from secondlook.dataset.gathering import Gathering, gather, sorted_boxes
from secondlook.dataset.grouping import Forest, group_id, join_near, split_of
from secondlook.dataset.manifest import BoxKind, Entry, ManifestWriter, entry_of
from secondlook.dataset.query import GroupBy, Query
from secondlook.dataset.statistics import Statistics
from secondlook.errors import BadOntology, InvalidInput
from secondlook.ontology import Ontology
from secondlook.ontology_text import dump
from secondlook.store import Store
from secondlook.store.care import nothing_forgotten
from secondlook.store.runs import Run
from secondlook.store.snapshots import Snapshot

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
    picture_ids = array("q", (gathering.picture_ids[number] for _, number in kept))
    return store.snapshots.add(name, manifest.sha256, query.to_json(), counted, picture_ids)


def _fits(record: dict[str, Any], query: Query, classes: int, left_out: Counter[str]) -> bool:
    """Whether a picture belongs in; if not, why is counted."""
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
        return "the query finds no picture; see `secondlook job list` for what is labelled"
    reasons = ", ".join(f"{count} {why}" for why, count in left_out.items())
    return f"the query leaves no picture: {reasons}. Ask for less"


def _groups(gathering: Gathering, kept: Sequence[tuple[bytes, int]]) -> list[str]:
    """The group of each picture that is kept, in that order."""
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
    hashed = [place for place, (_, n) in enumerate(kept) if gathering.likenesses[n] is not None]
    likenesses = [gathering.likenesses[kept[place][1]] for place in hashed]
    join_near(forest, np.array(hashed, dtype=np.int64), np.array(likenesses, dtype=np.int64))
    roots = forest.roots().tolist()
    best: dict[int, tuple[bool, str]] = {}
    for name, root in zip(names, roots, strict=True):
        # A stream's or folder's name outlasts the pictures in it; the lowest hash does not.
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
        "label more pictures"
        if query.group_by is GroupBy.TIME
        else "group one camera's pictures with `--group-by time`, others by likeness, or label "
        "more streams"
    )
    groups = sum(split["groups"] for split in counted["splits"].values())
    empty = [share.name for share in query.split if share.name not in counted["splits"]]
    for name in empty:
        log.warning(
            "split '%s' got no picture: the snapshot has %s, and a group is never divided; %s",
            name,
            "1 group" if groups == 1 else f"{groups} groups",
            way_out,
        )
    if groups == 1 and counted["pictures"] > 1 and not empty:
        log.warning(
            "all %d pictures are one group, which is never divided: a training could hold none of "
            "them out; %s",
            counted["pictures"],
            way_out,
        )
