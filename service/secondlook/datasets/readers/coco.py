"""COCO folders as people have them.

    annotations/SPLIT.json, images/SPLIT/…                  our own ``snapshot export``
    annotations/instances_SPLIT2017.json, SPLIT2017/…       COCO; also below images/
    SPLIT/_annotations.coco.json, SPLIT/…                   Roboflow
    any.json, images/… or images beside it                one file without parts

``iscrowd`` and ``ignore`` make a region where nothing is learnt about its class; the list
``hard_negatives`` of our own exports is read where it is there.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.core.errors import InvalidInput, NotFound
from secondlook.datasets.readers.annotations import (
    MAX_CLASSES,
    MAX_IMAGES,
    Corners,
    Known,
    Named,
    Parts,
    Tally,
    below,
    bounded,
    measured,
)
from secondlook.datasets.readers.coco_json import entry_value, read_json
from secondlook.datasets.samples import Sample

MAX_BYTES = 1 << 29
"""Of one file; COCO's own largest has 448 MB."""
LARGEST = 1e9
"""Of a coordinate, pixels."""
TRIED = 20
"""Images looked for to find out which folder the names are relative to."""
_PARTS = {"train": "train", "val": "val", "test": "test"}
"""A word in a file's or folder's name and the part that it means; ``valid`` has ``val`` in it."""
_LISTS = ("images", "annotations", "categories")


def find_coco(folder: Path) -> dict[str, Path]:
    """The COCO files of a folder by part (``""``: nobody says which); empty when there are none.

    Raises ``InvalidInput`` when two files seem to be the same part.
    """
    found: dict[str, Path] = {}
    patterns = ("annotations/*.json", "*/_annotations.coco.json", "_annotations.coco.json")
    for path in sorted(itertools.chain.from_iterable(map(folder.glob, patterns))):
        word = path.parent.name if path.name == "_annotations.coco.json" else path.stem
        part = _part_of(word)
        if path.stem.startswith(("captions", "person_keypoints", "panoptic", "stuff")):
            continue
        if part in found:
            raise InvalidInput(
                f"{found[part].name} and {path.name} in {folder} may both be '{part}'; give the "
                "path of one of them, or put the other elsewhere"
            )
        found[part] = path
    if not found:
        single = [p for p in sorted(folder.glob("*.json")) if _looks_like_coco(p)]
        if len(single) > 1:
            names = ", ".join(path.name for path in single[:5])
            raise InvalidInput(f"{folder} has several COCO files ({names}); give the path of one")
        found = {"": single[0]} if single else {}
    return found


def read_coco(name: str, files: Mapping[str, Path], root: Path) -> Parts:
    """The data set in ``files`` (by part), whose images lie in or below ``root``.

    Classes are told apart by name, since ids mean nothing outside their own file. Raises
    ``NotFound`` and ``InvalidInput``, which name the file and the entry.
    """
    sets = {part: _CocoFile(path, part, root) for part, path in files.items()}
    classes = tuple(dict.fromkeys(itertools.chain.from_iterable(s.names() for s in sets.values())))
    places = {class_name: place for place, class_name in enumerate(classes)}
    tally = Tally()
    samples = {part: tuple(read.samples(places, tally)) for part, read in sets.items()}
    return Parts(name, classes, samples, tally.warnings(root))


def _part_of(word: str) -> str:
    return next((part for known, part in _PARTS.items() if known in word.lower()), "")


def _looks_like_coco(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            head = file.read(1 << 16)
    except (OSError, UnicodeDecodeError):
        return False
    return any(re.search(rf'"{key}"\s*:\s*\[', head) for key in _LISTS)


@dataclass(frozen=True)
class _Entry:
    image: Any
    category: Any
    corners: Corners
    crowd: bool


class _CocoFile:
    """One file, checked entry by entry."""

    def __init__(self, path: Path, part: str, root: Path) -> None:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{path} has more than {MAX_BYTES >> 20} MiB; split the dataset")
        plain = read_json(path)
        for key in _LISTS:
            if not isinstance(plain, dict) or not isinstance(plain.get(key), list):
                raise InvalidInput(f"{path}: it has no list '{key}'; it is no COCO data set")
        if not isinstance(plain.get("hard_negatives", []), list):
            raise InvalidInput(f"{path}: its 'hard_negatives' is no list")
        self._path, self._part, self._root = path, part, root
        self._plain: dict[str, Any] = plain
        self._categories = self._read_categories()

    def names(self) -> list[str]:
        """Of its classes, in the file's order, without those that only group others."""
        groups = {
            str(entry.get("supercategory", "")) for entry in self._plain["categories"]
        }  # Roboflow lists the project itself as category 0
        used = {entry.category for entry in self._entries("annotations")}
        return [
            name
            for number, name in self._categories.items()
            if number in used or name not in groups - {""} or self._is_own_group(number)
        ]

    def samples(self, places: Mapping[str, int], tally: Tally) -> Iterator[Sample]:
        """Every image that is there, in the file's order."""
        known = self._known(places)
        images = self._plain["images"]
        folder = self._folder([self._file_name(n, entry) for n, entry in enumerate(images)])
        for place, entry in enumerate(images):
            name = self._file_name(place, entry)
            path = below(folder, name)
            if tally.is_there(path, name):
                where = f"{self._path}: images[{place}]"
                size = measured(path, name, _declared(entry, where))
                of_image = known.get(entry_value(entry, "id", where), Known())
                yield tally.sample(path, name, size, of_image)

    def _is_own_group(self, number: Any) -> bool:
        """COCO too has classes that are called like their group ("person")."""
        return any(
            entry.get("id") == number and entry.get("supercategory") == entry.get("name")
            for entry in self._plain["categories"]
        )

    def _read_categories(self) -> dict[Any, str]:
        names: dict[Any, str] = {}
        for place, entry in enumerate(self._plain["categories"]):
            where = f"{self._path}: categories[{place}]"
            names[entry_value(entry, "id", where)] = str(entry_value(entry, "name", where))
        for _ in bounded(names.values(), "classes", MAX_CLASSES):
            pass
        if len(set(names.values())) < len(self._plain["categories"]):
            raise InvalidInput(f"{self._path}: a name or id stands twice among its categories")
        return names

    def _known(self, places: Mapping[str, int]) -> dict[Any, Known]:
        """What is said of each image, by its id."""
        images = self._plain["images"]
        lists: dict[Any, tuple[list[Named], list[Named], list[Named]]] = {
            entry_value(entry, "id", f"{self._path}: images[{place}]"): ([], [], [])
            for place, entry in enumerate(images)
        }
        if len(lists) < len(images):
            raise InvalidInput(f"{self._path}: an id stands twice among its images")
        for key in ("annotations", "hard_negatives"):
            for place, entry in enumerate(self._entries(key)):
                where = f"{self._path}: {key}[{place}]"
                if entry.image not in lists:
                    raise InvalidInput(f"{where}: image_id {entry.image!r} is not in its images")
                if entry.category not in self._categories:
                    raise InvalidInput(
                        f"{where}: category_id {entry.category!r} is not in its categories"
                    )
                labels, ignore, negatives = lists[entry.image]
                rows = negatives if key == "hard_negatives" else ignore if entry.crowd else labels
                rows.append((entry.corners, places[self._categories[entry.category]]))
        return {number: Known(*rows) for number, rows in lists.items()}

    def _entries(self, key: str) -> Iterator[_Entry]:
        for place, entry in enumerate(self._plain.get(key, ())):
            where = f"{self._path}: {key}[{place}]"
            yield _Entry(
                entry_value(entry, "image_id", where),
                entry_value(entry, "category_id", where),
                _corners(entry_value(entry, "bbox", where), where),
                bool(entry.get("iscrowd") or entry.get("ignore")),
            )

    def _file_name(self, place: int, entry: Any) -> str:
        if place >= MAX_IMAGES:
            raise InvalidInput(f"{self._path}: more than {MAX_IMAGES:,} images")
        return str(entry_value(entry, "file_name", f"{self._path}: images[{place}]"))

    def _folder(self, names: Sequence[str]) -> Path:
        """Where the images are: the first likely folder that has one of the first few."""
        root, parts = self._root, (self._part, self._path.stem.removeprefix("instances_"))
        likely = [
            *(root / "images" / part for part in parts if part),
            *(root / part for part in parts if part),
            self._path.parent,
            self._path.parent / "images",
            root / "images",
            root,
        ]
        for folder in likely:
            if any(below(folder, name).is_file() for name in names[:TRIED]):
                return folder
        if not names:
            return root
        raise NotFound(
            f"{self._path} names '{names[0]:.80}', which is in none of "
            f"{', '.join(str(folder) for folder in dict.fromkeys(likely))}; put the images there"
        )


def _declared(entry: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """The size that the file says an image has, if it says one."""
    if "width" not in entry or "height" not in entry:
        return None
    width, height = entry["width"], entry["height"]
    if not _is_number(width) or not _is_number(height):
        raise InvalidInput(f"{where}: expected numbers as width and height")
    return int(width), int(height)


def _is_number(value: Any) -> bool:
    """Whether it is one that a float can hold; JSON also has NaN, Infinity and any long integer."""
    return isinstance(value, int | float) and -LARGEST < value < LARGEST


def _corners(bbox: Any, where: str) -> Corners:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise InvalidInput(f"{where}: expected bbox [x, y, width, height], got {bbox!s:.60}")
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height
