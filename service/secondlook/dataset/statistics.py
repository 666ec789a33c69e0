"""Counts of everything in a snapshot, added up one picture at a time."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from secondlook.dataset.manifest import BoxKind, Entry

SMALL, MEDIUM = 32**2, 96**2
"""Areas in square pixels up to which a box counts as small or medium, as in COCO."""


class Statistics:
    """``add`` each picture, then take ``plain``."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._boxes: dict[str, dict[BoxKind, Counter[int]]] = {}
        self._pictures: Counter[str] = Counter()
        self._empty: Counter[str] = Counter()
        self._with_ignore: Counter[str] = Counter()
        self._groups: dict[str, set[str]] = {}
        self._sizes: Counter[str] = Counter()
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Count one picture in."""
        self._pictures[entry.split] += 1
        self._empty[entry.split] += entry.verified_empty
        self._with_ignore[entry.split] += bool(entry.of(BoxKind.IGNORE))
        self._groups.setdefault(entry.split, set()).add(entry.group)
        self._bytes += entry.size
        kinds = self._boxes.setdefault(entry.split, {kind: Counter() for kind in BoxKind})
        for box in entry.boxes:
            kinds[box.kind][box.class_index] += 1
            if box.kind is BoxKind.LABEL:
                self._sizes[_size(box.xyxy)] += 1

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON: totals, then the same by split and class."""
        return {
            "classes": list(self._classes),
            "pictures": self._pictures.total(),
            "bytes": self._bytes,
            "labels": sum(kinds[BoxKind.LABEL].total() for kinds in self._boxes.values()),
            "label_sizes": {name: self._sizes[name] for name in ("small", "medium", "large")},
            "splits": {name: self._split(name) for name in sorted(self._pictures)},
        }

    def _split(self, name: str) -> dict[str, Any]:
        return {
            "pictures": self._pictures[name],
            "groups": len(self._groups[name]),
            "verified_empty": self._empty[name],
            "with_ignore": self._with_ignore[name],
            "classes": {
                class_name: {kind.value: self._boxes[name][kind][place] for kind in BoxKind}
                for place, class_name in enumerate(self._classes)
            },
        }


def _size(xyxy: tuple[float, float, float, float]) -> str:
    area = (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])
    if area <= SMALL:
        return "small"
    return "medium" if area <= MEDIUM else "large"
