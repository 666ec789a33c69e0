"""The folder that a run writes to, and what it writes when its images are labelled.

One process at a time uses a folder, for one run only: ``run.json`` says which run it is and which
job has its results, and a different run is refused.
"""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from secondlook.config.settings import RENAMED, ImageSettings
from secondlook.core.clips import ClipFrames
from secondlook.core.files import explain_write_errors, one_line, remove, replacing
from secondlook.core.image_folder import ImageFile, read_image_file
from secondlook.core.images import decode
from secondlook.core.types import Pixels
from secondlook.datasets.checked_files import VERIFIED_FILES
from secondlook.datasets.division import UNDIVIDED, SplitPlan, divide, empty_splits
from secondlook.datasets.writers import (
    LABEL_FORMATS,
    DoubtfulImages,
    Labels,
    copied_images,
    write_format,
)
from secondlook.evaluation.run_stats import RunStats
from secondlook_client.errors import BadImage, NotFound, OutputExists
from secondlook_client.values import LabelResult

RUN, FAILED, GALLERY, STORE = "run.json", "failed.jsonl", "gallery.html", ".store"
ANSWERS = ".answers.jsonl"
"""What the verifier said of tracks, until their run has it."""
FINISHED = ".finished.json"
"""What ``finished_run`` knows of a run that is finished; the next run begins by removing it."""
STAGED = ".images"
"""Copies of images, until every format links to them."""
OWN_FILES = (
    *(*LABEL_FORMATS, *VERIFIED_FILES, GALLERY, FAILED),
    *(STAGED, FINISHED, ANSWERS, STORE, RUN),
)
"""Everything that a run writes. ``clear`` removes these and nothing else, in this order: as long as
``run.json`` exists, the others are known to be a run's."""
JOB = "job"
TRACK = "track"
"""In ``run.json``: whether objects are followed."""
LABELS = "labels"
"""In ``run.json``: the run that has the labels, where it is not the job's; ``claim`` forgets it."""
NOT_RECORDED = (
    ("", "calibrator", ""),
    ("", "segmenter", ""),
    ("settings", "duplicate_iou", 1.0),
    ("settings", "segment", "none"),
)
"""What runs of before did not record: (group, name, what it was)."""
SHOWN = 600
"""Images of a run's gallery at most, unless another number is asked for."""


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be labelled."""

    name: str
    reason: str
    """A stable word for programs."""
    message: str


class OutputFolder:
    """One run's folder. A context manager; raises ``OutputExists`` when it is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_job = ""
        """The job of the run that ``clear`` removed, if there was one."""
        with explain_write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    @property
    def shown(self) -> str:
        """What people call it."""
        return str(self.path)

    def publish(self) -> None:
        """Put what was written where people look for it: it is there already."""

    @property
    def store(self) -> Path:
        """The data folder of a service that is started for this run."""
        return self.path / STORE

    def data_folder(self, fresh: bool) -> Path:
        """``store``; with ``fresh`` what an earlier run wrote is removed before."""
        if fresh:
            self.clear()
        return self.store

    def clear(self) -> None:
        """Remove what an earlier run wrote, and nothing else."""
        if not (self.path / RUN).exists():
            return
        before = _read(self.path / RUN)
        self.left_job = str(before.get(JOB, "")) if isinstance(before, dict) else ""
        for name in OWN_FILES:
            remove(self.path / name)

    def claim(self, identity: Mapping[str, Any]) -> str:
        """The name of the run's job: a new one where the folder has no run yet.

        ``identity``: JSON values, which must all be equal for a run to be continued. Raises
        ``OutputExists`` when the folder holds another run.
        """
        path = self.path / RUN
        remove(self.path / FINISHED)
        if not path.exists():
            self._refuse_foreign_files()
            job = f"label {self.path.resolve().name or 'images'} {uuid4().hex[:8]}"
            job = one_line(job)[-200:].strip()
            with replacing(path) as part:
                text = json.dumps({JOB: job, **identity}, indent=2)
                part.write_text(text + "\n", encoding="utf-8")
            return job
        before = self._run(identity)
        job = str(before.pop(JOB, "")) if before else ""
        if before:
            before.pop(LABELS, None)
        if not job or before != identity:
            raise self._other_run(before, identity)
        return job

    def note_labels(self, run: str) -> None:
        """The labels are those of another run of the store than the job's."""
        path = self.path / RUN
        record = {**(_read(path) or {}), LABELS: run}
        with replacing(path) as part:
            part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def check_same_run(self, known: Mapping[str, Any]) -> None:
        """Raises ``OutputExists`` as ``claim`` would, by what is ``known`` of its identity."""
        if not (self.path / RUN).exists():
            self._refuse_foreign_files()
            return
        before = self._run(known)
        if before is None or any(before.get(key) != known[key] for key in known):
            raise self._other_run(before and {key: before.get(key) for key in known}, known)

    def _run(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The content of ``run.json`` with today's names; None when it cannot be read.

        What runs of before did not record is there as it was then, if ``identity`` has it.
        """
        before = _read(self.path / RUN)
        if not isinstance(before, dict):
            return None
        if isinstance(settings := before.get("settings"), dict):
            before["settings"] = {RENAMED.get(name, name): settings[name] for name in settings}
        for group, key, then in NOT_RECORDED:
            known, now = (of.get(group) if group else of for of in (before, identity))
            if isinstance(known, dict) and isinstance(now, Mapping) and key in now:
                known.setdefault(key, then)
        for key in ("proposer", "verifier"):  # as the embedded models were called before
            if str(before.get(key, "")).startswith(f"{key}@"):
                before[key] = f"demo-{before[key]}"
        return before

    def _other_run(self, before: Any, identity: Mapping[str, Any]) -> OutputExists:
        return OutputExists(
            f"{self.path} has a run with {_difference(before, identity)}; give another --out to "
            "keep it, or --fresh to start over"
        )

    def _refuse_foreign_files(self) -> None:
        # A crash may leave the hidden ones alone.
        made = (name for name in OWN_FILES if not name.startswith("."))
        foreign = next((name for name in made if os.path.lexists(self.path / name)), None)
        if foreign:
            raise OutputExists(
                f"{self.path} has a {foreign} that was not written by a run; move it away or give "
                "another --out"
            )


def store_of(folder: Path) -> Path:
    """The data folder of the run in ``folder``. Raises ``NotFound`` when the run has none."""
    if not (folder / STORE).is_dir():
        raise NotFound(
            f"{folder} has no store of its own: it is not the --out of `secondlook label`, or the "
            "run's results are kept elsewhere (--server, --data); give that store with --data"
        )
    return folder / STORE


def run_in(folder: Path) -> str:
    """The name of the run whose results are in ``folder``. Raises ``NotFound``."""
    record = _read(folder / RUN)
    job = record.get(JOB) if isinstance(record, dict) else None
    if not isinstance(job, str) or not job:
        raise NotFound(f"{folder / RUN} names no run; give its name, and its store with --data")
    labels = record.get(LABELS)
    return labels if isinstance(labels, str) and labels else job


def _lock(out: Path) -> int:
    """Lock the folder; the system releases it when the process ends, however it ends."""
    with explain_write_errors(out):
        handle = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failure:
        if failure.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return handle  # a file system without locks; better unlocked than not at all
        os.close(handle)
        raise OutputExists(
            f"{out} is in use by another run; wait for it or give another --out"
        ) from None
    return handle


def _read(path: Path) -> Any:
    """The content of ``run.json``; None when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _difference(before: Any, now: Mapping[str, Any]) -> str:
    if not isinstance(before, dict):
        return "a run.json that cannot be read"
    for key in (*now, *before):
        then, wanted = before.get(key), now.get(key)
        if isinstance(then, dict) and isinstance(wanted, dict) and then != wanted:
            return f"different {key}: {_difference(then, wanted).removeprefix('different ')}"
        if then != wanted:
            return f"different {key} ({_short(then)}, now {_short(wanted)})"
    return "other settings"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return (text if len(text) <= 60 else text[:57] + "...") or "none"


@dataclass(frozen=True)
class WrittenOutputs:
    """The counts of the whole run, and the files that were written."""

    stats: RunStats
    failed: int
    """Images without a result; ``failed.jsonl`` has the reasons."""
    paths: tuple[Path, ...]
    classes: tuple[str, ...] = ()
    """Of the run, in the order of its ontology."""
    notes: tuple[str, ...] = ()
    """Sentences about the datasets: what became of images in doubt, and splits without an image."""


@dataclass(frozen=True)
class DatasetLayout:
    """How a run's datasets are written, whatever their format."""

    plan: SplitPlan = UNDIVIDED
    copy_images: bool = False
    """Copy the images instead of linking to them."""
    unsure: DoubtfulImages = DoubtfulImages.SEPARATE
    nothing_proposed: DoubtfulImages = DoubtfulImages.SEPARATE
    """What YOLO makes of images in doubt."""


PLAIN_LAYOUT = DatasetLayout()


def write_outputs(
    out: Path,
    labels: Labels,
    load: Callable[[str], Pixels],
    failures: Iterable[FailedImage],
    *,
    formats: Sequence[str],
    shown: int,
    plan: SplitPlan = UNDIVIDED,
    run: str = "",
    hashes: Iterable[int | None] = (),
    copy: Callable[[str, LabelResult], bytes] | None = None,
) -> WrittenOutputs:
    """Write the formats, the gallery (at most ``shown`` images; 0: none) and ``failed.jsonl``.

    ``load`` gives the pixels of an image by its name; with ``copy``, which gives the bytes of an
    image by its name and result, images are copied instead of placed. ``run`` is the name of the
    run's job, and ``hashes`` are the perceptual hashes of the images, in their order. Everything is
    streamed, so memory does not grow with the run, save for some 200 bytes an image where it is
    divided. After ``StorageFull`` nothing is lost, and the same command writes the rest later.
    """
    failed = write_failures(out / FAILED, failures)
    stats = RunStats.of(result for _, result in labels.results())
    splits = divide(labels, plan, run, hashes)
    notes = [*empty_splits(plan, [*splits])]
    with _copying(out, splits, copy) as placed:
        paths = [write_format(name, placed, out, notes) for name in formats]
    if shown:
        from secondlook.reports import gallery

        best = gallery.pick(labels.images(), shown)
        title = ", ".join(labels.classes[:4])
        if len(labels.classes) > 4:
            title += f" and {len(labels.classes) - 4} more"
        originals = [f"{name}/images/{split}/" for name in formats for split in splits]
        paths.append(
            gallery.write(
                out / GALLERY,
                title,
                stats,
                best,
                load,
                classes=labels.classes,
                failed=failed,
                originals=[folder for folder in originals if (out / folder).is_dir()],
            )
        )
    return WrittenOutputs(stats, failed, tuple(paths), tuple(labels.classes), tuple(notes))


@contextmanager
def _copying(
    out: Path, splits: Mapping[str, Labels], copy: Callable[[str, LabelResult], bytes] | None
) -> Iterator[Mapping[str, Labels]]:
    """The same labels, whose images are copied with ``copy`` if it is given."""
    if copy is None:
        yield splits
        return
    staged = out / STAGED
    with explain_write_errors(out):
        remove(staged)
        staged.mkdir()
    place = copied_images(staged, copy)
    try:
        yield {name: replace(labels, place_image=place) for name, labels in splits.items()}
    finally:
        remove(staged)


def write_failures(path: Path, failures: Iterable[FailedImage]) -> int:
    """Write a line of JSON for each image; how many there are."""
    count = 0
    with replacing(path) as part, part.open("wb") as file:
        for image in failures:
            file.write(json.dumps(asdict(image)).encode("ascii") + b"\n")
            count += 1
    return count


def read_failures(path: Path) -> list[FailedImage]:
    """What ``write_failures`` wrote."""
    with path.open(encoding="ascii") as file:
        return [FailedImage(**json.loads(line)) for line in file]


def image_reader(
    root: Path, limits: ImageSettings, clips: ClipFrames | None = None
) -> Callable[[str], bytes]:
    """A function from an image's name to its bytes; raises ``BadImage`` if it is gone.

    With ``clips``, names of frames of their videos are read from there.
    """

    def read(name: str) -> bytes:
        if clips and (frame := clips.named(name)):
            return clips.read(frame, limits.max_image_bytes)
        path = root / name
        try:
            found = path.stat()
        except OSError as failure:
            raise BadImage(f"the image is gone ({failure.strerror})") from None
        source = ImageFile(name, path, found.st_size, found.st_mtime_ns)
        return read_image_file(source, limits.max_image_bytes)

    return read


def image_loader(
    root: Path, limits: ImageSettings, clips: ClipFrames | None = None
) -> Callable[[str], Pixels]:
    """A function from an image's name to its upright pixels; raises ``BadImage`` if it is gone."""
    read = image_reader(root, limits, clips)
    return lambda name: decode(read(name), name, limits).pixels
