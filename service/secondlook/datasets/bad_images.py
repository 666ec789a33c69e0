"""The images of a dataset that cannot be used: found all at once, before anything is learnt.

A few are left out and told; more than a bounded share is refused. What was used is recorded beside
the training, so that one which goes on does so with the same images, though some of them have been
lost or repaired since.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from secondlook.core.files import explain_write_errors, one_line, replacing
from secondlook.core.processors import available_cpus
from secondlook.datasets.image_cache import read_pixels, reason_of
from secondlook.datasets.samples import (
    ImageRecord,
    RecordedImage,
    Sample,
    TrainingSet,
    UnusableImage,
    bad_sample,
    image_key,
)
from secondlook_client.errors import InvalidInput, SecondlookError

NAMED = 5
"""Bad images that a message names."""
MAX_THREADS = 4
"""Each holds a decoded image."""
LIST, RECORD = "bad_images.txt", "images.json"
"""In the folder of a training: the bad images for a person, and all images for one that goes on."""
GONE = "it has changed since the training began"

Splits = Mapping[str, tuple[Sample, ...]]
"""Samples by split."""


@dataclass(frozen=True)
class ImageCheck:
    """How the images of a training set are checked while it is opened."""

    max_bad: float
    """Share of the images that may be left out, [0, 1]."""
    decode: bool = True
    """Whether each image is decoded; else only its header is read."""
    progress: Callable[[int, int], None] | None = None
    """Called with (images done, all images)."""
    folder: Path | None = None
    """Where ``bad_images.txt`` is written."""
    before: ImageRecord | None = None
    """Of the training that goes on: the same images are used, and none is decoded again."""


HEADERS_ONLY = ImageCheck(max_bad=0.1, decode=False)


def without_bad_images(name: str, splits: Splits, check: ImageCheck) -> tuple[Splits, ImageRecord]:
    """The samples that can be used, and a record of all, for the dataset ``name``.

    A training that goes on also gets those that it began with and that are bad now, each with its
    ``problem``. Raises ``InvalidInput`` when more than ``check.max_bad`` are bad; it names the
    first few.
    """
    before = check.before
    if before is not None:
        again, left_out = _as_before(splits, before)
        if len(_bad(again)) <= check.max_bad * len(before.used):
            splits = again
        else:
            before = None  # so many are other ones: the record is of another dataset
    if before is None:
        splits = _decoded(splits, check) if check.decode else splits
        left_out = _bad(splits)
        splits = {split: tuple(s for s in some if not s.problem) for split, some in splits.items()}
    bad = (*left_out, *_bad(splits))
    if check.folder is not None:
        _write_list(check.folder, bad)
    total = sum(map(len, splits.values())) + len(left_out)
    if len(bad) > check.max_bad * total:
        where = f"; all are listed in {check.folder / LIST}" if check.folder else ""
        raise InvalidInput(
            f"{len(bad):,} of the {total:,} images of '{name}' cannot be used, more than "
            f"{100 * check.max_bad:g} %: {summary(bad)}{where}. Repair or remove them"
            + (", or allow more with --max-bad-images" if check.folder else "")
        )
    used = {
        image_key(split, sample.name): _recorded(split, sample, before)
        for split, samples in splits.items()
        for sample in samples
    }
    return splits, ImageRecord(used, left_out)


def warnings_of(record: ImageRecord) -> Iterator[str]:
    """One sentence, if images were left out."""
    if record.left_out:
        total = len(record.left_out) + len(record.used)
        yield (
            f"{len(record.left_out):,} of {total:,} images cannot be used and are left out: "
            f"{summary(record.left_out)}"
        )


def summary(bad: Sequence[UnusableImage]) -> str:
    """The first few with their cause, and how many more there are."""
    named = "; ".join(f"{_called(one)}: {one.reason}" for one in bad[:NAMED])
    return named + (f"; and {len(bad) - NAMED:,} more" if len(bad) > NAMED else "")


def digest_of(classes: Sequence[str], record: ImageRecord) -> str:
    """The hash of a folder: classes, and each image's split, name, file size and boxes."""
    total = hashlib.sha256(json.dumps(classes).encode())
    for key, image in sorted(record.used.items()):
        total.update(json.dumps([key, image.labels, image.size]).encode())
    return total.hexdigest()


def write_record(folder: Path, record: ImageRecord) -> None:
    """Write ``images.json``. Raises ``StorageFull`` and ``InvalidInput`` of files."""
    with replacing(folder / RECORD) as part:
        part.write_text(json.dumps(asdict(record)), encoding="utf-8")


def read_record(folder: Path) -> ImageRecord | None:
    """The record in ``folder``; None where there is none that can be read."""
    try:
        plain = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return ImageRecord(
            {key: RecordedImage(**fields) for key, fields in plain["used"].items()},
            tuple(UnusableImage(**fields) for fields in plain["left_out"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


class BadImageCount:
    """Counts the images that turn out to be bad while a training runs."""

    def __init__(self, data: TrainingSet, max_bad: float, folder: Path | None = None) -> None:
        """``max_bad``: share of all images; ``folder``: where the list of them is, if anywhere."""
        every = (*data.train, *data.held_out)
        self._paths = {sample.path for sample in every if sample.problem}
        self._left_out = len(data.images.left_out)
        self._total = len(every) + self._left_out
        self._max_bad, self._folder = max_bad, folder

    def add(self, sample: Sample, cause: str) -> str:
        """Count an image and add it to the list; a sentence for the user the first time.

        Raises ``InvalidInput`` when there are more than may be left out.
        """
        if sample.path in self._paths:
            return ""
        self._paths.add(sample.path)
        one = _unusable(replace(sample, problem=cause))
        if self._folder is not None:
            with explain_write_errors(self._folder), _list_file(self._folder).open("a") as file:
                file.write(_line(one))
        bad = len(self._paths) + self._left_out
        if bad > self._max_bad * self._total:
            raise InvalidInput(
                f"{bad:,} of {self._total:,} images cannot be used, more than "
                f"{100 * self._max_bad:g} %; the last is {summary([one])}. Put them back and run "
                "the same command again, or allow more with --max-bad-images"
            )
        return f"{summary([one])}; it is left out, {bad:,} of {self._total:,} are bad"


def readable(samples: Sequence[Sample], count: BadImageCount) -> tuple[Sample, ...]:
    """The samples that can be decoded now; the others are added to ``count``."""
    checked = _decoded({"": tuple(samples)}, HEADERS_ONLY)[""]
    for sample in checked:
        if sample.problem:
            count.add(sample, sample.problem)
    return tuple(sample for sample in checked if not sample.problem)


def _decoded(splits: Splits, check: ImageCheck) -> Splits:
    """The same samples; those that cannot be decoded have their problem."""
    every = [sample for samples in splits.values() for sample in samples]
    checked: list[Sample] = []
    with ThreadPoolExecutor(min(MAX_THREADS, available_cpus()), "check") as threads:
        for done, sample in enumerate(threads.map(_tried, every), start=1):
            checked.append(sample)
            if check.progress:
                check.progress(done, len(every))
    rest = iter(checked)
    return {split: tuple(next(rest) for _ in samples) for split, samples in splits.items()}


def _tried(sample: Sample) -> Sample:
    if sample.problem:
        return sample
    try:
        read_pixels(sample)
    except SecondlookError as cause:
        return bad_sample(sample.path, sample.name, reason_of(cause), sample.sha256)
    return sample


def _as_before(splits: Splits, before: ImageRecord) -> tuple[Splits, tuple[UnusableImage, ...]]:
    """The samples of the record, in its order, and after them any new ones.

    Those that are bad, lost or other files by now have a problem.
    """
    found = {image_key(split, s.name): s for split, some in splits.items() for s in some}
    again: dict[str, list[Sample]] = {split: [] for split in splits}
    for key, image in before.used.items():
        split, _, name = key.partition("/")
        sample = found.pop(key, None) or bad_sample(Path(name), name, "it is missing")
        if not sample.problem and _replaced(sample, image):
            sample = bad_sample(sample.path, sample.name, GONE)
        if sample.problem:
            sample = replace(sample, sha256=sample.sha256 or image.sha256)
        again.setdefault(split, []).append(sample)
    left_out = {one.name for one in before.left_out}
    new = {key: sample for key, sample in found.items() if sample.name not in left_out}
    for key, sample in new.items():
        if not sample.problem:
            again[key.partition("/")[0]].append(sample)
    bad = (_unusable(sample) for sample in new.values() if sample.problem)
    return {split: tuple(some) for split, some in again.items()}, (*before.left_out, *bad)


def _replaced(sample: Sample, image: RecordedImage) -> bool:
    """Whether the labels are those of the record and the file is not."""
    return _labels_hash(sample) == image.labels and _size(sample) != image.size


def _recorded(split: str, sample: Sample, before: ImageRecord | None) -> RecordedImage:
    known = before.used.get(image_key(split, sample.name)) if before else None
    if sample.problem and known:
        return known
    return RecordedImage(_labels_hash(sample), _size(sample), sample.sha256)


def _labels_hash(sample: Sample) -> str:
    total = hashlib.sha256(json.dumps([sample.width, sample.height]).encode())
    for rows in (sample.boxes, sample.ignore, sample.negatives):
        total.update(len(rows).to_bytes(4) + np.ascontiguousarray(rows).tobytes())
    for numbers in (sample.classes, sample.ignore_classes, sample.negative_classes):
        total.update(numbers.tobytes())
    return total.hexdigest()


def _size(sample: Sample) -> int:
    try:
        return sample.path.stat().st_size
    except OSError:
        return 0


def _bad(splits: Splits) -> tuple[UnusableImage, ...]:
    return tuple(_unusable(s) for samples in splits.values() for s in samples if s.problem)


def _unusable(sample: Sample) -> UnusableImage:
    path = str(sample.path).encode("utf-8", "backslashreplace").decode()
    return UnusableImage(sample.name, path, sample.problem)


def _write_list(folder: Path, bad: Sequence[UnusableImage]) -> None:
    path = _list_file(folder)
    with explain_write_errors(path):
        if not bad:
            path.unlink(missing_ok=True)
            return
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text("".join(map(_line, bad)), encoding="utf-8")


def _called(one: UnusableImage) -> str:
    return one.path if one.path.endswith(one.name) else f"'{one.name}' ({one.path})"


def _list_file(folder: Path) -> Path:
    return folder / LIST


def _line(one: UnusableImage) -> str:
    return one_line(f"{one.path}: {one.reason}") + "\n"
