"""COCO files, checked entry by entry; errors name the file and the entry."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.core.boxes import Xyxy
from secondlook_client.errors import InvalidInput, NotFound

MAX_COORDINATE = 1e9
"""Pixels; also excludes numbers of JSON that a float cannot hold."""


@dataclass(frozen=True)
class CocoEntry:
    """One annotation, or one row of a results list."""

    image_id: Any
    category_id: Any
    box: Xyxy
    """As the file has it: perhaps outside of the image, or with a negative side."""
    ignore: bool
    """``iscrowd`` or ``ignore``: an ignore region."""
    plain: Mapping[str, Any]
    """Everything that the file says of it."""
    where: str
    """File and place, for errors."""


class CocoFile:
    """A whole dataset: images, categories and annotations."""

    def __init__(self, path: Path, plain: Any) -> None:
        """``plain`` is the file's JSON. Raises ``InvalidInput`` naming the file and the entry."""
        if not isinstance(plain, dict):
            raise InvalidInput(
                f"{path}: expected a COCO dataset (an object with images, annotations and "
                f"categories), got a {type(plain).__name__}"
            )
        self.path, self._plain = path, plain
        self.images: dict[Any, Mapping[str, Any]] = self._by_id("images")
        """Entries by id, in the file's order."""
        self.categories: dict[Any, Mapping[str, Any]] = self._by_id("categories")
        self.names: dict[Any, str] = {
            key: str(entry_value(entry, "name", f"{path}: categories[{place}]"))
            for place, (key, entry) in enumerate(self.categories.items())
        }
        """Of the categories, by id."""
        refuse_duplicates(path, "names of categories", list(self.names.values()))

    def annotations(
        self, key: str = "annotations", *, optional: bool = False
    ) -> Iterator[CocoEntry]:
        """The entries of the list ``key``, each of an image and a category of the file."""
        for place, plain in enumerate(self._list(key, optional=optional)):
            entry = coco_entry(plain, f"{self.path}: {key}[{place}]")
            if entry.image_id not in self.images:
                raise InvalidInput(
                    f"{entry.where}: image_id {entry.image_id!r} is not among its images"
                )
            if entry.category_id not in self.categories:
                raise InvalidInput(
                    f"{entry.where}: category_id {entry.category_id!r} is not among its categories"
                )
            yield entry

    def _by_id(self, key: str) -> dict[Any, Mapping[str, Any]]:
        entries = self._list(key)
        ids = [entry_value(e, "id", f"{self.path}: {key}[{n}]") for n, e in enumerate(entries)]
        refuse_duplicates(self.path, f"ids of {key}", ids)
        return dict(zip(ids, entries, strict=True))

    def _list(self, key: str, *, optional: bool = False) -> list[Any]:
        found = self._plain.get(key, [] if optional else None)
        if not isinstance(found, list):
            raise InvalidInput(f"{self.path}: it has no list '{key}'; it is not a COCO dataset")
        return found


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ``NotFound`` and ``InvalidInput``, which name it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist; give the path of a COCO file") from None
    except (OSError, UnicodeDecodeError) as failure:
        cause = getattr(failure, "strerror", None) or "it is not UTF-8 text"
        raise InvalidInput(f"{path} cannot be read: {cause}") from None
    except (json.JSONDecodeError, RecursionError) as failure:
        raise InvalidInput(f"{path} is not JSON ({failure}); give a COCO file") from None


def coco_entry(plain: Any, where: str) -> CocoEntry:
    """One annotation or result, whatever its ids mean. Raises ``InvalidInput``."""
    image_id = entry_value(plain, "image_id", where)
    category_id = entry_value(plain, "category_id", where)
    bbox = entry_value(plain, "bbox", where)
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise InvalidInput(f"{where}: expected bbox [x, y, width, height], got {bbox!s:.60}")
    x, y, width, height = map(float, bbox)
    ignore = bool(plain.get("iscrowd") or plain.get("ignore"))
    return CocoEntry(image_id, category_id, (x, y, x + width, y + height), ignore, plain, where)


def entry_value(entry: Any, key: str, where: str) -> Any:
    """``entry[key]``; raises ``InvalidInput`` naming ``where`` when it is missing or not an id."""
    if not isinstance(entry, dict) or key not in entry:
        raise InvalidInput(f"{where} has no '{key}'")
    value = entry[key]
    if key.endswith("id") and not isinstance(value, int | str):
        raise InvalidInput(f"{where}: expected a number as {key}, got {value!r}")
    return value


def is_number(value: Any) -> bool:
    """Whether it is a usual one; JSON also has NaN, Infinity and integers of any length."""
    return isinstance(value, int | float) and -MAX_COORDINATE < value < MAX_COORDINATE


def refuse_duplicates(path: Path, what: str, values: list[Any]) -> None:
    """Raises ``InvalidInput`` where a value stands twice among ``what`` of a file."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise InvalidInput(f"{path}: {value!r} stands twice among the {what}")
        seen.add(value)
