"""Promotion of a student: only when it is as good as the version that devices run.

Both are run on the same held-out images of a snapshot, in its own order, which is by hash: the
first ``MAX_IMAGES`` are a random sample and always the same ones. Groups are assigned to the parts
of a split by hash too, so a later snapshot of the same runs does not train on what an earlier one
held out.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.core.cancellation import check_cancelled
from secondlook.core.images import decode
from secondlook.datasets.manifest import (
    Entry,
    ManifestBox,
    SnapshotManifest,
    entries,
    load_manifest,
)
from secondlook.datasets.samples import Sample, boxes_array, class_array
from secondlook.detector.detections import Detections
from secondlook.detector.manifest import parse_manifest
from secondlook.evaluation.average_precision import average_precision
from secondlook.registry.active_model import open_version
from secondlook.store import Store
from secondlook.store.model_versions import StudentVersion
from secondlook.store.snapshots import SnapshotRow
from secondlook_client.errors import Busy, Cancelled, InvalidInput, NotBetter, NotFound
from secondlook_client.values import BoxKind, ModelComparison

ALLOWED_LOSS = 0.005
"""Of mAP50: two trainings on the same data differ by half a point."""
MAX_IMAGES = 2000
"""Images compared on; minutes on one core."""
MAX_COMPARISON_S = 300.0
"""After which the images compared so far decide: others wait to promote theirs."""
THREADS = 1
"""CPU threads of each model: the server labels meanwhile."""
TRIES = 3
"""Attempts at a promotion while others promote too."""


@dataclass(frozen=True)
class StudentComparison(ModelComparison):
    """mAP50 of two versions on the same images, over the current version's classes there."""

    @property
    def good_enough(self) -> bool:
        """Whether the candidate loses at most ``ALLOWED_LOSS``."""
        return self.candidate_map50 >= self.current_map50 - ALLOWED_LOSS

    def __str__(self) -> str:
        return (
            f"mAP50 {self.candidate_map50:.3f} against {self.current_map50:.3f} of version "
            f"{self.current_version}, on {self.images:,} held-out images ('{self.split}') of "
            f"snapshot '{self.snapshot}'"
        )


def _never() -> bool:
    return False


def promote(
    store: Store,
    name: str,
    version: int,
    *,
    force: bool = False,
    on_snapshot: str = "",
    stopped: Callable[[], bool] = _never,
) -> tuple[StudentVersion, StudentComparison | None]:
    """Make a version current, unless it is worse than the present one; returns the comparison.

    A version is tried in a process of its own before it is opened here. The first version of a name
    only has to pass that; with ``force`` nothing is run.

    Raises ``NotBetter``, ``NotFound``, ``Damaged`` for a student that does not run or takes more
    than a student may, ``InvalidInput`` for a snapshot on which they cannot be compared,
    ``MissingExtra``, ``Busy``, ``Unavailable``, ``Cancelled`` once ``stopped`` or the call is
    cancelled, and what the store raises.
    """
    for _ in range(TRIES):
        candidate = store.model_versions.get(name, version)
        if candidate.current:
            return candidate, None
        current = _current(store, name)
        comparison = None
        if force:
            reason = "promoted by force"
        elif current is None:
            with closing(open_version(store.blobs, candidate, THREADS, stopped)):
                reason = "the first one"
        else:
            comparison = compare(store, candidate, current, on_snapshot, stopped)
            reason = str(comparison)
            if not comparison.good_enough:
                raise NotBetter(
                    f"version {version} of '{name}' is worse: {reason}; train it longer or on "
                    "more images, or promote it with --force"
                )
        if store.model_versions.promote(
            name, version, reason, current.version if current else None
        ):
            return store.model_versions.get(name, version), comparison
    raise Busy(f"others promote versions of '{name}' at the same time; try again in a moment")


def compare(
    store: Store,
    candidate: StudentVersion,
    current: StudentVersion,
    on_snapshot: str = "",
    stopped: Callable[[], bool] = _never,
) -> StudentComparison:
    """Run both on the held-out images of a snapshot (its name; empty: the current version's).

    Raises as ``promote``.
    """
    snapshot = _snapshot(store, current, on_snapshot)
    manifest = load_manifest(store.blobs, snapshot.manifest)
    students = (current, candidate)
    split = _split(manifest, snapshot, [parse_manifest(s.manifest).split for s in students])
    with ExitStack() as stack:
        detectors = [
            stack.enter_context(closing(open_version(store.blobs, student, THREADS, stopped)))
            for student in students
        ]
        classes = detectors[0].manifest.classes
        mappings = [_class_indices(detector.manifest.classes, classes) for detector in detectors]
        truth = _class_indices(manifest.classes, classes)
        samples: list[Sample] = []
        found: list[list[Detections]] = [[], []]
        ends = time.monotonic() + MAX_COMPARISON_S
        for _, entry in islice(entries(store.blobs, manifest, split), MAX_IMAGES):
            if samples and time.monotonic() > ends:
                break
            check_cancelled()
            if stopped():
                raise Cancelled("the comparison was cancelled; ask for the promotion again")
            pixels = decode(store.blobs.get(entry.sha256), entry.name).pixels
            samples.append(_sample(entry, truth))
            for detector, mapping, of_student in zip(detectors, mappings, found, strict=True):
                of_student.append(_mapped(detector.detect([pixels])[0], mapping))
    if not any(len(sample.boxes) for sample in samples):
        raise InvalidInput(
            f"split '{split}' of snapshot '{snapshot.name}' shows none of the classes of version "
            f"{current.version} ({', '.join(classes[:5])}); compare on another --on-snapshot"
        )
    before, after = (average_precision(samples, of, classes).map50 or 0.0 for of in found)
    return StudentComparison(snapshot.name, split, len(samples), current.version, before, after)


def _current(store: Store, name: str) -> StudentVersion | None:
    try:
        return store.model_versions.get(name)
    except NotFound:
        return None


def _snapshot(store: Store, current: StudentVersion, named: str) -> SnapshotRow:
    if named:
        return store.snapshots.get(named)
    found = store.snapshots.with_manifest(current.snapshot) if current.snapshot else None
    if found is None:
        raise NotFound(
            f"the data of version {current.version} of '{current.name}' is no snapshot of this "
            "store (any more), so there is nothing to compare on; name a snapshot with "
            "--on-snapshot, or promote with --force"
        )
    return found


def _split(manifest: SnapshotManifest, snapshot: SnapshotRow, wanted: Sequence[str]) -> str:
    """The current version's held-out split; in a snapshot without it, the candidate's."""
    for split in wanted:
        if split and manifest.count(split):
            return split
    raise InvalidInput(
        f"snapshot '{snapshot.name}' has no image in a split {' or '.join(map(repr, wanted))}, "
        f"only {', '.join(manifest.splits)}; compare on another --on-snapshot"
    )


def _class_indices(classes: Sequence[str], wanted: Sequence[str]) -> NDArray[np.int64]:
    """(len(classes),) the index of each in ``wanted``; -1 where it is not there."""
    return class_array([wanted.index(name) if name in wanted else -1 for name in classes])


def _mapped(found: Detections, indices: NDArray[np.int64]) -> Detections:
    """The detections with other class indices, without those of unknown classes."""
    classes = indices[found.classes]
    kept = classes >= 0
    return Detections(found.boxes[kept], found.scores[kept], classes[kept])


def _sample(entry: Entry, indices: NDArray[np.int64]) -> Sample:
    def of(kind: BoxKind) -> list[ManifestBox]:
        return [box for box in entry.of(kind) if indices[box.class_index] >= 0]

    labels, ignore = of(BoxKind.LABEL), of(BoxKind.IGNORE)
    return Sample(
        path=Path(),
        width=entry.width,
        height=entry.height,
        name=entry.name,
        sha256=entry.sha256,
        boxes=boxes_array(box.xyxy for box in labels),
        classes=class_array(indices[box.class_index] for box in labels),
        ignore=boxes_array(box.xyxy for box in ignore),
        ignore_classes=class_array(indices[box.class_index] for box in ignore),
        negatives=boxes_array([]),
        negative_classes=class_array([]),
        group=entry.group,
    )
