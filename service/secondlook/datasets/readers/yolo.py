"""YOLO folders: ``data.yaml`` with names and splits, and a text file of relative boxes an image.

A split is a folder of images, a list of them, or several of either. The labels of
``images/a.jpg`` are ``labels/a.txt``, or ``a.txt`` beside it where no folder is called images.
Everything is looked for below the folder of ``data.yaml``, wherever that was made.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from secondlook.core.boxes import Xyxy
from secondlook.datasets.image_cache import SUFFIXES
from secondlook.datasets.readers.annotations import (
    MAX_CLASSES,
    MAX_IMAGES,
    ClassBox,
    ImageBoxes,
    ParsedDataset,
    SkipCounter,
    at_most,
    checked_size,
    safe_join,
)
from secondlook.datasets.samples import Sample
from secondlook_client.errors import InvalidInput, NotFound

MAX_YAML, MAX_LABELS, MAX_LIST = 1 << 20, 1 << 20, 1 << 28
"""Bytes of ``data.yaml``, of one image's labels, and of a list of images."""
SLACK = 0.01
"""How far outside of [0, 1] a number may lie, because of rounding."""
_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def find_yolo(folder: Path) -> Path | None:
    """The YAML file of a YOLO folder, if it is one."""
    return next((p for p in (folder / "data.yaml", folder / "data.yml") if p.is_file()), None)


def read_yolo(name: str, file: Path) -> ParsedDataset:
    """The dataset of a ``data.yaml``.

    Raises ``NotFound`` and ``InvalidInput``, which name the file, the line and the way out.
    """
    config = _load(file)
    classes = _classes(config, file)
    home = _home(config, file)
    skips, reader = SkipCounter(), _LabelReader(classes)
    samples: dict[str, tuple[Sample, ...]] = {}
    for key, split in _KEYS.items():
        if config.get(key) and split not in samples:
            paths = _images(config[key], key, home, file)
            samples[split] = tuple(_samples(paths, file.parent, reader, skips))
    if not samples:
        raise InvalidInput(f"{file} has no 'train'; it is not a YOLO dataset")
    warnings = (*skips.warnings(home), *reader.warnings(file))
    return ParsedDataset(name, classes, samples, warnings)


def _samples(
    paths: Iterator[Path], root: Path, reader: "_LabelReader", skips: SkipCounter
) -> Iterator[Sample]:
    for path in paths:
        name = path.relative_to(root).as_posix()
        if skips.is_there(path, name):
            size = checked_size(path, name, None)
            yield skips.sample(path, name, size, reader.read(path, root, size))


def _load(file: Path) -> Mapping[str, Any]:
    text = _text(file, MAX_YAML)
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as failure:
        raise InvalidInput(f"{file} is not YAML: {str(failure).splitlines()[0]}") from None
    if not isinstance(config, dict):
        raise InvalidInput(f"{file}: expected entries such as train and names")
    return config


def _text(file: Path, most: int) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise InvalidInput(f"{file} has more than {most >> 10:,} KiB; it is not a label file")
        return content.decode("utf-8")
    except FileNotFoundError:
        raise NotFound(f"{file} does not exist") from None
    except (OSError, UnicodeDecodeError) as failure:
        cause = getattr(failure, "strerror", None) or "it is not UTF-8 text"
        raise InvalidInput(f"{file} cannot be read: {cause}") from None


def _classes(config: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    names = config.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise InvalidInput(f"{file}: expected names numbered from 0 without gaps")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InvalidInput(f"{file}: expected 'names' as a list of classes")
    classes = tuple(at_most((str(name) for name in names), "classes", MAX_CLASSES))
    if len(set(classes)) < len(classes):
        raise InvalidInput(f"{file}: a class is listed twice in its names")
    return classes


def _home(config: Mapping[str, Any], file: Path) -> Path:
    """The folder that paths are relative to: ``path`` if it is a folder below, else the file's own.

    The ``path`` in most such files is one of the machine on which they were made.
    """
    given = config.get("path")
    if isinstance(given, str) and given:
        path = PurePosixPath(given)
        if not path.is_absolute() and ".." not in path.parts and "\0" not in given:
            inner = file.parent / path
            if inner.is_dir():
                return inner
    return file.parent


def _images(value: Any, key: str, home: Path, file: Path) -> Iterator[Path]:
    """The images of a split, each once."""
    entries = value if isinstance(value, list) else [value]
    seen: set[Path] = set()
    for entry in entries:
        if not isinstance(entry, str) or not entry:
            raise InvalidInput(f"{file}: expected '{key}' as a path or a list of paths")
        for path in _of_place(_place(entry, key, home, file), home):
            if path not in seen:
                seen.add(path)
                if len(seen) > MAX_IMAGES:
                    raise InvalidInput(f"{file}: '{key}' has more than {MAX_IMAGES:,} images")
                yield path


def _place(entry: str, key: str, home: Path, file: Path) -> Path:
    """The folder or list. Leading ``..`` are dropped: Roboflow writes ``../train/images``."""
    path = PurePosixPath(entry.replace("\\", "/"))
    parts = [*path.parts]
    while parts and parts[0] in ("..", "."):
        parts.pop(0)
    if path.is_absolute() or ".." in parts or "\0" in entry:
        raise InvalidInput(
            f"{file}: '{key}' is '{entry:.80}'; give a path relative to the folder of that file"
        )
    found = next(
        (p for p in (home.joinpath(*parts), file.parent.joinpath(*parts)) if p.exists()), None
    )
    if found is None:
        raise NotFound(f"{file}: '{key}' is '{entry:.80}', which is not below {home}")
    return found


def _of_place(place: Path, home: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
        return
    for line in _text(place, MAX_LIST).splitlines():
        entry = line.strip()
        if entry:
            yield safe_join(home if home in place.parents else place.parent, entry)


class _LabelReader:
    """Reads the label files and counts those that are missing."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._read = 0
        self._missing = 0

    def read(self, image: Path, root: Path, size: tuple[int, int]) -> ImageBoxes:
        """The boxes of ``image``, below ``root``, of ``size`` (width, height)."""
        path = _labels_path(image, root)
        if not path.is_file():
            self._missing += 1
            return ImageBoxes()
        self._read += 1
        rows: list[ClassBox] = []
        for number, line in enumerate(_text(path, MAX_LABELS).splitlines(), start=1):
            if line.strip():
                rows.append(_row(line, f"{path}:{number}", len(self._classes), size))
        return ImageBoxes(labels=rows)

    def warnings(self, file: Path) -> tuple[str, ...]:
        """How many label files are missing. Raises ``InvalidInput`` when all are."""
        if self._missing and not self._read:
            raise InvalidInput(
                f"{file}: none of its images has a label file; the labels of images/a.jpg are "
                "expected in labels/a.txt"
            )
        if not self._missing:
            return ()
        return (f"{self._missing:,} images have no label file; they are taken as empty",)


def _labels_path(image: Path, root: Path) -> Path:
    parts = [*image.relative_to(root).with_suffix(".txt").parts]
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return root.joinpath(*parts)


def _row(line: str, where: str, classes: int, size: tuple[int, int]) -> ClassBox:
    """Box and class of one line; a polygon (three points or more) becomes its bounding box."""
    words = line.split()
    try:
        number, values = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        raise InvalidInput(
            f"{where}: expected a class number and 4 numbers, got '{line:.60}'"
        ) from None
    if not 0 <= number < classes:
        raise InvalidInput(f"{where}: class {number} is not among the {classes} of data.yaml")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise InvalidInput(f"{where}: expected 4 numbers after the class, got {len(values)}")
    if not all(math.isfinite(v) and -SLACK <= v <= 1 + SLACK for v in values):
        raise InvalidInput(f"{where}: expected numbers from 0 to 1 (shares of the image's sides)")
    return _box(values, *size), number


def _box(values: list[float], width: int, height: int) -> Xyxy:
    if len(values) == 4:
        x, y, w, h = values
        low, high = (x - w / 2, y - h / 2), (x + w / 2, y + h / 2)
    else:
        low, high = (min(values[::2]), min(values[1::2])), (max(values[::2]), max(values[1::2]))
    return low[0] * width, low[1] * height, high[0] * width, high[1] * height
