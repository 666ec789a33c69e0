"""What the runs of a query say of each picture, one record a picture, in bounded memory.

The records lie in a file; what stays in memory is what sorting and grouping need, some 200 bytes
a picture.
"""

import json
import re
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, Self

from secondlook.dataset.grouping import block_id
from secondlook.dataset.manifest import BoxKind, canonical, path_of
from secondlook.dataset.query import GroupBy, Query
from secondlook.labels import Judgement, Outcome
from secondlook.store import Store
from secondlook.store.records import Result
from secondlook.store.runs import Run
from secondlook.store.snapshots import Facts

PAGE = 200
_KINDS = {
    Outcome.ACCEPT: BoxKind.LABEL,
    Outcome.UNSURE: BoxKind.IGNORE,
    Outcome.REJECT: BoxKind.HARD_NEGATIVE,
}
_DIGITS = re.compile("[0-9]+")
_ORDER = {kind: place for place, kind in enumerate(BoxKind)}


class Gathering:
    """Records by picture, each the plain form of an entry without split and group.

    A context manager, which removes the file. ``add`` everything, then read.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="secondlook-")  # noqa: SIM115 (closed at exit)
        self._places = array("Q")
        self._lengths = array("L")
        self._numbers: dict[bytes, int] = {}
        self.picture_ids = array("q")
        self.likenesses: list[int | None] = []
        self.sources: dict[str, list[int]] = {}
        """Numbers of the pictures that came from one stream or folder, by its name."""
        self.blocks: dict[int, str] = {}
        """The group of each picture, by its number, where time alone decides."""

    def __len__(self) -> int:
        return len(self._numbers)

    def number_of(self, sha256: bytes) -> int | None:
        """Of a picture that was added."""
        return self._numbers.get(sha256)

    def in_order(self) -> list[tuple[bytes, int]]:
        """(sha256, number) of every picture, sorted."""
        return sorted(self._numbers.items())

    def record(self, number: int) -> dict[str, Any]:
        """What was put last for a picture."""
        self._file.seek(self._places[number])
        plain: dict[str, Any] = json.loads(self._file.read(self._lengths[number]))
        return plain

    def put(self, sha256: bytes, picture_id: int, likeness: int | None, record: Any) -> int:
        """Add a picture, or replace its record; its number."""
        line = canonical(record)
        number = self._numbers.setdefault(sha256, len(self._numbers))
        if number == len(self._places):
            self.picture_ids.append(picture_id)
            self.likenesses.append(likeness)
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
    """Every picture that ``runs`` decided on, with what the last of them says of each class.

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
        facts = store.snapshots.facts(result.picture_id for result in page)
        for result in page:
            early = query.since is not None and result.made_at < query.since
            late = query.until is not None and result.made_at >= query.until
            if not (early or late):
                yield result, facts[result.picture_id]


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
    return gathering.put(sha256, result.picture_id, facts.likeness, record)


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
    """What a picture came from that keeps it with others; None: only its likeness does."""
    if group_by in (GroupBy.LIKENESS, GroupBy.TIME):
        return None
    if run.kind == "capture":
        return f"stream:{run.name}"
    if group_by is GroupBy.FOLDER:
        return f"folder:{PurePosixPath(name).parent}"
    return None


def _cut(
    gathering: Gathering, run: Run, items: Sequence[tuple[int, str]], of_items: Mapping[int, int]
) -> None:
    """Put the pictures ``of_items`` (numbers by item) of a run into blocks.

    All ``items`` of the run hold their places, whatever is kept: what is labelled late or left out
    moves no other picture. A picture that came several times belongs where it came first.
    """
    for place, (item, _) in enumerate(_in_time(run, items)):
        if item in of_items:
            gathering.blocks.setdefault(of_items[item], block_id(run.name, place))


def _in_time(run: Run, items: Sequence[tuple[int, str]]) -> Sequence[tuple[int, str]]:
    """(Item, name) of a run in the order in which the pictures were taken, as far as it is known.

    A stream's as they came: numbered upwards, and after a clock was set back still in order.
    Others come in any order and go by name, where 9 is before 10.
    """
    if run.kind == "capture":
        return items
    return sorted(items, key=lambda item: (_DIGITS.sub(_padded, item[1]), item))


def _padded(digits: re.Match[str]) -> str:
    return digits[0].zfill(20)
