"""COCO files, read entry by entry by one rule for every command.

An entry that cannot be read costs that entry; it is counted and named, and a file of which most
entries cannot be read is refused. An image that is listed several times, under one id or several,
is one image with the boxes of all of them. Categories of one name are one class, whatever their
ids, since ids mean nothing outside their own file.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from secondlook.core.boxes import Xyxy
from secondlook.core.files import text_to_name
from secondlook.datasets.readers.fields import (
    RowChecks,
    flag,
    identifier,
    number,
    read_text,
    shown,
    side,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.values import EmptyReason

MAX_BYTES = 1 << 29
"""Size of one file; COCO's own largest has 448 MB."""

Id = int | str
"""Of an image or a category, as ``fields.identifier`` gives it."""


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image of a file."""

    name: str
    """Its ``file_name`` with forward slashes; empty where it has none."""
    size: tuple[int, int] | None
    """Width and height as the file has them, if they can be those of an image."""
    original_name: str = ""
    """What our exports say where the name that the image came with cannot be a ``file_name``."""
    empty: EmptyReason | None = None
    """What our own exports say; None elsewhere."""


@dataclass(frozen=True, slots=True)
class CocoEntry:
    """One annotation, or one row of a results list."""

    image_id: Id
    """Of an image that is listed several times, that of its first entry."""
    category_id: Id
    box: Xyxy
    """As the file has it: perhaps outside of the image or without an area, never turned over."""
    ignore: bool
    """``iscrowd`` or ``ignore``: an ignore region."""
    score: float | None
    """None where the file has none."""
    segmentation: Any = None
    """As the file has it, unchecked; see ``segmentations.coco_mask``."""


class CocoFile:
    """A whole dataset: images, categories and annotations."""

    def __init__(self, path: Path, plain: Any, notes: Sequence[str] = ()) -> None:
        """``plain`` is the file's JSON; ``notes`` are warnings from reading it.

        Raises ``InvalidInput`` naming the file and the entry.
        """
        if not isinstance(plain, dict):
            raise InvalidInput(
                f"{path}: expected a COCO dataset (an object with images, annotations and "
                f"categories), got a {type(plain).__name__}"
            )
        self.path, self._plain, self._notes = path, plain, [*notes]
        self._checks: list[RowChecks] = []
        self._first_id: dict[Id, Id] = {}
        self._repeated, self._first_repeated = 0, ""
        self.images: dict[Id, CocoImage] = self._read_images()
        """By their first id, in the file's order."""
        self._supercategories: dict[Id, str] = {}
        self.names: dict[Id, str] = self._read_categories()
        """Of the categories, by id."""
        self.annotations = self._read_annotations("annotations")
        """Each is of an image and a category of the file."""

    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the file.

        Without categories that no annotation uses and that only group others, as Roboflow lists
        the project itself as category 0, or that stand for the background.
        """
        used = {self.names[entry.category_id] for entry in self.annotations}
        groups = set(self._supercategories.values()) - {""}
        # COCO too has classes with the name of their group ("person").
        own_group = {n for key, n in self.names.items() if self._supercategories[key] == n}
        return tuple(
            dict.fromkeys(
                name
                for name in self.names.values()
                if name in used
                or name in own_group
                or not (name in groups or name.strip("_").lower() == "background")
            )
        )

    def warnings(self) -> Iterator[str]:
        """What was left out or put together, a sentence each."""
        yield from self._notes
        for check in self._checks:
            for sentence in check.warnings():
                yield f"{self.path.name}: {sentence}"
        listed = len(self._first_id) + self._repeated - len(self.images)
        if listed:
            yield (
                f"{self.path.name}: {listed:,} entries list an image once more, the first "
                f"'{self._first_repeated}'; the boxes of each image are put together"
            )

    def first_id(self, key: Id) -> Id | None:
        """The key in ``images`` of the image with the id ``key``; None where there is none."""
        return self._first_id.get(key)

    def hard_negatives(self) -> list[CocoEntry]:
        """The list of rejected boxes in our own exports; empty elsewhere."""
        return self._read_annotations("hard_negatives", optional=True)

    @property
    def says_background(self) -> bool:
        """Whether images on which nothing was proposed are meant as background, as in an export of
        a snapshot that was asked to hold them."""
        info = self._plain.get("info")
        return isinstance(info, dict) and info.get("nothing_proposed") == "background"

    def _read_images(self) -> dict[Id, CocoImage]:
        images: dict[Id, CocoImage] = {}
        by_name: dict[str, Id] = {}
        for place, key, entry in self._with_ids("images"):
            image = self._image(entry, place)
            first = self._first_id.get(key)
            if first is not None and images[first].name != image.name:
                raise InvalidInput(
                    f"{self.path}: images[{place}]: {key!r} is the id of '{images[first].name}' "
                    f"and of '{image.name}', so it is not known whose its boxes are; give each "
                    "image an id of its own"
                )
            self._repeated += first is not None
            first = by_name.setdefault(image.name, key) if image.name else key
            self._first_id[key] = first
            before = images.setdefault(first, image)
            if before is not image:
                self._first_repeated = self._first_repeated or image.name
                if before.size and image.size and before.size != image.size:
                    raise InvalidInput(
                        f"{self.path}: images[{place}]: '{image.name}' is listed twice, with "
                        f"{before.size} and {image.size} pixels; remove the wrong entry"
                    )
                images[first] = replace(before, size=before.size or image.size)
        return images

    def _image(self, entry: Mapping[str, Any], place: int) -> CocoImage:
        name = entry.get("file_name")
        text = str(PurePosixPath(name.replace("\\", "/"))) if isinstance(name, str) else ""
        width, height = side(entry.get("width")), side(entry.get("height"))
        original, empty = entry.get("original_name"), entry.get("empty")
        return CocoImage(
            text if name else "",
            (width, height) if width and height else None,
            text_to_name(original) if isinstance(original, str) else "",
            EmptyReason(empty) if empty in tuple(EmptyReason) else None,
        )

    def _read_categories(self) -> dict[Id, str]:
        names: dict[Id, str] = {}
        for place, key, entry in self._with_ids("categories"):
            name = entry.get("name")
            if not isinstance(name, str | int | float) or isinstance(name, bool) or name == "":
                self._checks[-1].bad(f"categories[{place}]", f"it has no 'name': {shown(name)}")
                continue
            if names.setdefault(key, str(name)) != str(name):
                raise InvalidInput(
                    f"{self.path}: categories[{place}]: {key!r} is the id of '{names[key]}' and of "
                    f"'{name}'; give each category an id of its own"
                )
            group = entry.get("supercategory")
            self._supercategories[key] = group if isinstance(group, str) else ""
        return names

    def _with_ids(self, key: str) -> Iterator[tuple[int, Id, Mapping[str, Any]]]:
        """The entries of the list ``key`` that have an id, with their place in it."""
        check = RowChecks(key)
        self._checks.append(check)
        for place, entry in enumerate(self._list(key)):
            try:
                found = place, identifier(_value(entry, "id")), entry
            except ValueError as cause:
                check.bad(f"{key}[{place}]", cause)
            else:
                check.good()
                yield found
        check.check(self.path)

    def _read_annotations(self, key: str, *, optional: bool = False) -> list[CocoEntry]:
        check = RowChecks(key.replace("_", " "))
        self._checks.append(check)
        entries: list[CocoEntry] = []
        copies: dict[tuple[Any, ...], Id] = {}
        for place, plain in enumerate(self._list(key, optional=optional)):
            try:
                entry = coco_entry(plain)
                if entry.image_id not in self._first_id:
                    raise ValueError(f"image_id {entry.image_id!r} is not among its images")
                if entry.category_id not in self.names:
                    raise ValueError(
                        f"category_id {entry.category_id!r} is not among its categories"
                    )
            except ValueError as cause:
                check.bad(f"{key}[{place}]", cause)
                continue
            check.good()
            if len(self._first_id) > len(self.images):
                own, first = entry.image_id, self._first_id[entry.image_id]
                entry = replace(entry, image_id=first)
                # Each copy of an image may come with all of its boxes.
                row = (first, self.names[entry.category_id], entry.box, entry.ignore)
                if copies.setdefault(row, own) != own:
                    continue
            entries.append(entry)
        check.check(self.path)
        return entries

    def _list(self, key: str, *, optional: bool = False) -> list[Any]:
        found = self._plain.get(key, [] if optional else None)
        if not isinstance(found, list):
            raise InvalidInput(f"{self.path}: it has no list '{key}'; it is not a COCO dataset")
        return found


def read_json(path: Path, notes: list[str] | None = None) -> Any:
    """The content of a JSON file. Raises ``NotFound`` and ``InvalidInput``, which name it.

    ``notes`` gets a sentence where its encoding had to be guessed.
    """
    try:
        return json.loads(read_text(path, MAX_BYTES, notes))
    except (ValueError, RecursionError) as failure:
        raise InvalidInput(f"{path} is not JSON ({failure}); give a COCO file") from None


def coco_entry(plain: Any) -> CocoEntry:
    """One annotation or result, whatever its ids mean. Raises ``ValueError``."""
    image_id, category_id = (_id(plain, key) for key in ("image_id", "category_id"))
    box = _box(plain)
    ignore = flag(plain.get("iscrowd")) or flag(plain.get("ignore"))
    score = plain.get("score")
    read_score = None if score is None else _score(score)
    return CocoEntry(image_id, category_id, box, ignore, read_score, plain.get("segmentation"))


def _id(plain: Any, key: str) -> Id:
    value = _value(plain, key)
    try:
        return identifier(value)
    except ValueError as cause:
        raise ValueError(f"{key}: {cause}") from None


def _score(value: Any) -> float:
    try:
        return number(value)
    except ValueError as cause:
        raise ValueError(f"score: {cause}") from None


def _box(plain: Mapping[str, Any]) -> Xyxy:
    bbox = plain.get("bbox")
    if not bbox and plain.get("segmentation"):
        return _extent(plain["segmentation"])
    try:
        if not isinstance(bbox, list) or len(bbox) != 4:
            raise ValueError
        x, y, width, height = map(number, bbox)
    except ValueError:
        raise ValueError(f"expected bbox [x, y, width, height], got {shown(bbox)}") from None
    if width < 0 or height < 0:
        raise ValueError(f"a bbox cannot have a negative side, got {shown(bbox)}")
    return x, y, x + width, y + height


def _extent(segmentation: Any) -> Xyxy:
    """The box around polygons, for the annotations that have no box of their own."""
    if not isinstance(segmentation, list):
        raise ValueError("it has a mask and no bbox, which is not read; write the bbox too")
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise ValueError("it has no bbox, and its segmentation is not a list of x and y")
        values = [number(value) for value in polygon]
        xs += values[::2]
        ys += values[1::2]
    if not xs:
        raise ValueError("it has no bbox and an empty segmentation")
    return min(xs), min(ys), max(xs), max(ys)


def _value(entry: Any, key: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"it has no '{key}'")
    return entry[key]
