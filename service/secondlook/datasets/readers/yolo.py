"""YOLO folders: ``data.yaml`` with names and splits, and a text file of relative boxes an image.

A split is a folder of images, a list of them, or several of either. The labels of
``images/a.jpg`` are ``labels/a.txt``, or ``a.txt`` beside it where no folder is called images.
Everything is looked for below the folder of ``data.yaml``, wherever that was made.

A row is read by what ``data.yaml`` says it is (``kpt_shape``, ``task``), see ``RowFormat``. A row
that is nothing of that costs that row; it is counted and named.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.core.boxes import Xyxy
from secondlook.core.image_folder import IMAGE_SUFFIXES, OUTPUT_TAG, UNREADABLE_FORMATS, is_hidden
from secondlook.datasets.readers.annotations import (
    MAX_CLASSES,
    MAX_IMAGES,
    ClassBox,
    ImageBoxes,
    ParsedDataset,
    SampleMaker,
    Size,
    at_most,
    below,
    display_name,
)
from secondlook.datasets.readers.fields import (
    RowChecks,
    number,
    read_bytes,
    read_text,
    read_yaml,
    shown,
    split_row,
    whole_number,
)
from secondlook.datasets.readers.segmentations import outline_mask
from secondlook.datasets.samples import Sample, bad_sample
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.masks import Mask

MAX_YAML, MAX_LABELS, MAX_LIST = 1 << 20, 1 << 24, 1 << 28
"""Bytes of ``data.yaml``, of one image's labels, and of a list of images."""
SLACK = 0.01
"""How far outside of [0, 1] a number may lie, because of rounding."""
ALIKE_ROWS = 5
"""Long rows from which it is odd that all have the same number of values."""
CLASSES_FILE = "classes.txt"
"""One class a line; all images are in ``images``."""
ALL_IMAGES = ""
"""The key of a dataset without splits; YAML has none like it that counts."""
_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SET_ASIDE = {
    "unsure": "with an unsure box",
    "nothing_proposed": "on which nothing was proposed",
}
"""Folders of our own exports beside ``images``, whose images no training takes."""
_NULLS = ("", "null", "Null", "NULL", "~")


@dataclass(frozen=True)
class RowFormat:
    """What the numbers after a row's class mean.

    4: centre and size. In a set of key points (``keypoints`` numbers a row) these follow, then a
    row has 4 + keypoints numbers. Elsewhere 6, 8, 10 … are the corners of an outline; the box is
    their extent. An outline is a mask, but for those of 8 numbers, which are rotated boxes unless
    ``task`` is ``segment``. One number more than a box is a confidence, as
    predictions have it.
    """

    keypoints: int = 0
    segment: bool = False

    def is_mask(self, values: Sequence[float]) -> bool:
        """Whether what ``box`` gave is the outline of an object's pixels."""
        return len(values) > 4 and (self.segment or len(values) != 8)

    def box(self, values: list[float]) -> tuple[list[float], bool]:
        """Relative centre and size (4 numbers) or outline (6 or more), and whether a confidence
        followed.

        Raises ``ValueError`` where the number of values fits nothing.
        """
        count = len(values)
        for extra in (0, 1):
            if count == 4 + extra or (self.keypoints and count == 4 + self.keypoints + extra):
                if extra and not 0 <= values[-1] <= 1:
                    raise ValueError(f"expected a confidence from 0 to 1, got {values[-1]:g}")
                return values[:4], bool(extra)
        if self.keypoints:
            raise ValueError(
                f"expected 4 numbers after the class, and {self.keypoints} of key points by "
                f"kpt_shape, got {count}"
            )
        if count < 6 or count % 2:
            raise ValueError(
                f"expected 4 numbers after the class, or the x and y of 3 points and more, got "
                f"{count}; if there are key points, data.yaml must have kpt_shape"
            )
        return values, False


def find_yolo(folder: Path) -> Path | None:
    """The file that describes a YOLO folder, if it is one: YAML, or the ``classes.txt`` beside
    ``images`` and ``labels`` that Label Studio writes."""
    for path in (folder / "data.yaml", folder / "data.yml"):
        if path.is_file():
            return path
    listed = folder / CLASSES_FILE
    parts = (folder / "images", folder / "labels")
    return listed if listed.is_file() and all(part.is_dir() for part in parts) else None


def read_yolo(name: str, file: Path, masks: bool = False) -> ParsedDataset:
    """The dataset of a ``data.yaml`` or ``classes.txt``.

    ``masks``: read outlines as masks too, which takes its time. Raises ``NotFound`` and
    ``InvalidInput``, which name the file, the line and the way out.
    """
    notes: list[str] = []
    if file.name == CLASSES_FILE:
        lines = read_text(file, MAX_YAML, notes).split("\n")
        config = {"names": [line.strip() for line in lines if line.strip()], ALL_IMAGES: "images"}
    else:
        config = read_yaml(file, MAX_YAML, notes)
    names = _names(config, file, notes)
    classes = tuple(dict.fromkeys(names.values()))
    places = {number: classes.index(class_name) for number, class_name in names.items()}
    home = _home(config, file)
    maker, reader = SampleMaker(), _LabelReader(places, _row_format(config, file), masks)
    samples: dict[str, tuple[Sample, ...]] = {}
    keys = {ALL_IMAGES: ""} if file.name == CLASSES_FILE else _KEYS
    for key, split in keys.items():
        if _given(config.get(key, "")) and split not in samples:
            entries = _entries(config[key], key, home, file)
            samples[split] = tuple(_samples(entries, file.parent, reader, maker))
    if not samples:
        raise InvalidInput(f"{file} has no 'train'; it is not a YOLO dataset")
    warnings = (*notes, *reader.warnings(file), *maker.warnings(), *_set_aside(file.parent))
    return ParsedDataset(name, classes, samples, warnings, format="yolo")


def _samples(
    entries: Iterator[tuple[str, Path | None]],
    root: Path,
    reader: "_LabelReader",
    maker: SampleMaker,
) -> Iterator[Sample]:
    for entry, path in entries:
        if path is None:
            name = display_name(entry)
            yield bad_sample(Path(name), name, "it is missing")
            continue
        name = display_name(path.relative_to(root).as_posix())
        if form := UNREADABLE_FORMATS.get(path.suffix.lower()):
            yield bad_sample(path, name, f"{form} is not read; convert it to JPEG")
            continue
        yield maker.checked_sample(path, name, None, reader.of(path, root))


def _set_aside(home: Path) -> Iterator[str]:
    """A sentence for each kind of images that our own exports keep separate."""
    for folder, what in SET_ASIDE.items():
        if (home / OUTPUT_TAG).is_file() and (count := len(_images_in(home / folder))):
            yield f"{count:,} images {what} are in {home / folder}; they are left out"


def _given(value: Any) -> bool:
    return value not in _NULLS and value != []


def _names(config: Mapping[str, Any], file: Path, notes: list[str]) -> dict[int, str]:
    """The classes by number, as they are written: ``no`` and ``1.0`` are names."""
    found, count = config.get("names", ""), _count(config, file)
    if not _given(found) and count:
        notes.append(f"{file} has no names; the classes are called class_0 to class_{count - 1}")
        found = [f"class_{place}" for place in range(min(count, MAX_CLASSES + 1))]
    try:
        if isinstance(found, list):
            found = dict(enumerate(found))
        if not isinstance(found, dict) or not found:
            raise ValueError("expected 'names' as a list of classes")
        names = {whole_number(key): name for key, name in found.items()}
        if len(names) < len(found) or any(key < 0 for key in names):
            raise ValueError("expected names numbered from 0, each number once")
        wrong = next((name for name in names.values() if not isinstance(name, str)), None)
        if wrong is not None:
            raise ValueError(f"expected names as texts, got a {type(wrong).__name__}")
    except ValueError as cause:
        raise InvalidInput(f"{file}: {cause}") from None
    names = dict(sorted(names.items()))
    for _ in at_most(names.values(), "classes", MAX_CLASSES):
        pass
    if count is not None and count != len(names):
        notes.append(f"{file}: nc is {count} and there are {len(names)} names; the names count")
    twice = [name for name, times in Counter(names.values()).items() if times > 1]
    if twice:
        notes.append(f"{file}: class '{twice[0]:.60}' is listed twice; both are one class")
    return names


def _count(config: Mapping[str, Any], file: Path) -> int | None:
    if not _given(config.get("nc", "")):
        return None
    try:
        return whole_number(config["nc"])
    except ValueError as cause:
        raise InvalidInput(f"{file}: nc: {cause}") from None


def _row_format(config: Mapping[str, Any], file: Path) -> RowFormat:
    task, shape = str(config.get("task", "")).lower(), config.get("kpt_shape", "")
    if task.startswith("classif"):
        raise InvalidInput(
            f"{file}: its task is {shown(task)}, so it has no boxes; give a dataset for detect, "
            "segment, pose or obb"
        )
    if not _given(shape):
        if task in ("pose", "keypoints") or _given(config.get("flip_idx", "")):
            raise InvalidInput(
                f"{file} is of key points and has no kpt_shape, so it is not known how many "
                "numbers a row has; add it, such as kpt_shape: [17, 3]"
            )
        return RowFormat(segment=task.startswith("segment"))
    try:
        points, numbers = map(whole_number, shape)
        if points < 1 or numbers not in (2, 3):
            raise ValueError
    except (ValueError, TypeError):
        raise InvalidInput(
            f"{file}: expected kpt_shape as [key points, 2 or 3], got {shown(shape)}"
        ) from None
    return RowFormat(points * numbers)


def _home(config: Mapping[str, Any], file: Path) -> Path:
    """The folder that paths are relative to: ``path`` if it is a folder below, else the file's own.

    The ``path`` in most such files is one of the machine on which they were made.
    """
    given = config.get("path", "")
    if isinstance(given, str) and _given(given) and not _absolute(given):
        inner = below(given, [file.parent]) if ".." not in Path(given).parts else None
        if inner is not None and inner.is_dir():
            return inner
    return file.parent


def _absolute(entry: str) -> bool:
    return entry.startswith(("/", "\\")) or entry[1:2] == ":"


def _entries(value: Any, key: str, home: Path, file: Path) -> Iterator[tuple[str, Path | None]]:
    """The images of a split, each once, as they are named and where they are (None: nowhere)."""
    seen: set[Path] = set()
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, str) or not _given(entry):
            raise InvalidInput(f"{file}: expected '{key}' as a path or a list of paths")
        place = below(entry, [home, file.parent])
        if place is None:
            raise NotFound(
                f"{file}: '{key}' is '{entry:.80}', which is not below {home}; give a path "
                "relative to the folder of that file"
            )
        for name, path in _of_place(place, home):
            if path is None or path not in seen:
                if path is not None:
                    seen.add(path)
                if len(seen) > MAX_IMAGES:
                    raise InvalidInput(f"{file}: '{key}' has more than {MAX_IMAGES:,} images")
                yield name, path


def _of_place(place: Path, home: Path) -> Iterator[tuple[str, Path | None]]:
    if place.is_dir():
        yield from ((path.name, path) for path in _images_in(place))
        return
    roots = [place.parent, home]
    leads: dict[Path, str] = {}
    for entry in _lines(place):
        path = below(entry, roots)
        # The end of a path of another machine may be that of several.
        other = leads.setdefault(path, entry) if path and _absolute(entry) else entry
        if os.path.normpath(other) != os.path.normpath(entry):
            raise InvalidInput(
                f"{place}: '{other:.200}' and '{entry:.200}' are paths of another machine, and "
                f"both lead to {path}; write them relative to {home}"
            )
        yield entry, path


def _lines(file: Path) -> Iterator[str]:
    """The entries of a list. Names are bytes: one that is not UTF-8 is a name all the same."""
    content = read_bytes(file, MAX_LIST)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        text = read_text(file, MAX_LIST)
    else:
        text = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf"))
    for line in text.split("\n"):  # not splitlines, which also ends lines within names
        if entry := line.strip(" \t\r"):
            yield entry


def _images_in(folder: Path) -> list[Path]:
    """Those in a folder and below; not hidden ones, nor what systems and tools add."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        if OUTPUT_TAG in files and Path(root) != folder:
            folders[:] = []  # copies of the images here, in a dataset of their own
            continue
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
            if not is_hidden(name) and (suffix in IMAGE_SUFFIXES or suffix in UNREADABLE_FORMATS):
                found.append(Path(root, name))
    return sorted(found)


class _LabelReader:
    """Reads the label files; counts those that are missing, and their rows."""

    def __init__(self, places: Mapping[int, int], form: RowFormat, masks: bool) -> None:
        """``places``: of the classes, by their number in the files."""
        self._places, self._form = places, form
        self._masks = RowChecks("masks") if masks else None
        self._read, self._missing, self._with_confidence = 0, 0, 0
        self._rows = RowChecks("rows of labels")
        self._lengths: Counter[int] = Counter()

    def of(self, image: Path, root: Path) -> Callable[[Size], ImageBoxes]:
        """Gives the boxes of ``image``, below ``root``, once its size is known."""
        return lambda size: self._boxes(image, root, size)

    def _boxes(self, image: Path, root: Path, size: Size) -> ImageBoxes:
        path = _labels_path(image, root)
        if path is None:
            self._missing += 1
            return ImageBoxes()
        # Names of classes do not occur here, and all else is ASCII in any encoding.
        text = read_text(path, MAX_LABELS)
        self._read += 1
        rows: list[ClassBox] = []
        masks: list[Mask | None] = []
        for place, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    values, class_place = self._row(line)
                except ValueError as cause:
                    self._rows.bad(f"{path}:{place}", cause)
                else:
                    self._rows.good()
                    rows.append((_box(values, *size), class_place))
                    masks.append(self._mask(values, size, f"{path}:{place}"))
        return ImageBoxes(labels=rows, masks=masks if self._masks else ())

    def _mask(self, values: list[float], size: Size, where: str) -> Mask | None:
        """What is in an outline, if that is wanted."""
        if self._masks is None or not self._form.is_mask(values):
            return None
        try:
            found = outline_mask(values, size)
        except ValueError as cause:
            self._masks.bad(where, cause)
            return None
        self._masks.good()
        return found

    def _row(self, line: str) -> tuple[list[float], int]:
        """Relative box or outline and class of one line. Raises ``ValueError``."""
        words = split_row(line)
        try:
            class_number, values = whole_number(words[0]), [number(word) for word in words[1:]]
        except ValueError as cause:
            raise ValueError(f"expected a class number and 4 numbers: {cause}") from None
        place = self._places.get(class_number)
        if place is None:
            raise ValueError(
                f"class {class_number} is not among the {len(self._places)} of data.yaml"
            )
        found, with_confidence = self._form.box(values)
        if len(found) == 4 and min(found[2:]) < 0:
            raise ValueError("a box cannot have a negative side")
        if not all(-SLACK <= value <= 1 + SLACK for value in found):
            raise ValueError("expected numbers from 0 to 1 (shares of the image's sides)")
        self._with_confidence += with_confidence
        self._lengths[len(found)] += 1
        return found, place

    def warnings(self, file: Path) -> Iterator[str]:
        """What was skipped. Raises ``InvalidInput`` when all files are missing or most rows bad."""
        if self._missing and not self._read:
            raise InvalidInput(
                f"{file}: none of its images has a label file; the labels of images/a.jpg are "
                "expected in labels/a.txt"
            )
        self._rows.check(file)
        yield from self._rows.warnings()
        yield from self._masks.warnings() if self._masks else ()
        if self._missing:
            yield f"{self._missing:,} images have no label file; they are taken as empty"
        if self._with_confidence:
            yield (
                f"{self._with_confidence:,} rows end with a confidence, as predictions do; they "
                "are taken as true"
            )
        longest = max(self._lengths, default=0)
        if longest > 8 and len(self._lengths) == 1 and self._lengths[longest] >= ALIKE_ROWS:
            yield (
                f"all rows have {longest} numbers after the class and are read as outlines; if "
                f"they are boxes with key points, add kpt_shape to {file.name}"
            )


def _labels_path(image: Path, root: Path) -> Path | None:
    """The label file of an image: ``labels`` for the last ``images`` in its path; None: none."""
    parts = [*image.relative_to(root).parts[:-1]]
    likely = [parts]
    for place in reversed(range(len(parts))):
        if parts[place].lower() == "images":
            names = dict.fromkeys(("labels", "Labels", "LABELS"))
            likely = [[*parts[:place], name, *parts[place + 1 :]] for name in names]
            break
    for folders in likely:
        for suffix in (".txt", ".TXT"):
            path = root.joinpath(*folders, image.stem + suffix)
            if os.path.isfile(path):  # noqa: PTH113 (the method of a path raises for long names)
                return path
    return None


def _box(values: list[float], width: int, height: int) -> Xyxy:
    if len(values) == 4:
        x, y, w, h = values
        low, high = (x - w / 2, y - h / 2), (x + w / 2, y + h / 2)
    else:
        low, high = (min(values[::2]), min(values[1::2])), (max(values[::2]), max(values[1::2]))
    return low[0] * width, low[1] * height, high[0] * width, high[1] * height
