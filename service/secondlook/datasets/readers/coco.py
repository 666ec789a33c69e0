"""COCO folders in the layouts that are in use.

    annotations/SPLIT.json, images/SPLIT/…                  our own ``snapshot export``
    annotations/instances_SPLIT2017.json, SPLIT2017/…       COCO; also below images/
    SPLIT/_annotations.coco.json, SPLIT/…                   Roboflow
    any.json, images/… or images beside it                one file without splits

``iscrowd`` and ``ignore`` make an ignore region for their class; the list ``hard_negatives`` of our
own exports is read too.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from secondlook.datasets.readers.coco_json import CocoFile, entry_value, is_number, read_json
from secondlook.datasets.samples import Sample
from secondlook_client.errors import InvalidInput, NotFound

MAX_BYTES = 1 << 29
"""Size of one file; COCO's own largest has 448 MB."""
TRIED = 20
"""Images that are looked up to find the folder that names are relative to."""
_SPLITS = {"train": "train", "val": "val", "test": "test"}
"""A word in the name of a file or folder, and its split; ``valid`` contains ``val``."""
_LISTS = ("images", "annotations", "categories")


def find_coco(folder: Path) -> dict[str, Path]:
    """The COCO files of a folder by split (``""``: no split is named); empty when there are none.

    Raises ``InvalidInput`` when two files seem to be the same split.
    """
    found: dict[str, Path] = {}
    patterns = ("annotations/*.json", "*/_annotations.coco.json", "_annotations.coco.json")
    for path in sorted(itertools.chain.from_iterable(map(folder.glob, patterns))):
        word = path.parent.name if path.name == "_annotations.coco.json" else path.stem
        split = _split_of(word)
        if path.stem.startswith(("captions", "person_keypoints", "panoptic", "stuff")):
            continue
        if split in found:
            raise InvalidInput(
                f"{found[split].name} and {path.name} in {folder} may both be '{split}'; give the "
                "path of one of them, or move the other away"
            )
        found[split] = path
    if not found:
        single = [p for p in sorted(folder.glob("*.json")) if _looks_like_coco(p)]
        if len(single) > 1:
            names = ", ".join(path.name for path in single[:5])
            raise InvalidInput(f"{folder} has several COCO files ({names}); give the path of one")
        found = {"": single[0]} if single else {}
    return found


def read_coco(name: str, files: Mapping[str, Path], root: Path) -> ParsedDataset:
    """The dataset in ``files`` (by split), whose images are in or below ``root``.

    Classes are identified by name, since ids mean nothing outside their own file. Raises
    ``NotFound`` and ``InvalidInput``, which name the file and the entry.
    """
    sets = {split: _TrainingCoco(path, split, root) for split, path in files.items()}
    classes = tuple(
        dict.fromkeys(itertools.chain.from_iterable(s.classes() for s in sets.values()))
    )
    places = {class_name: place for place, class_name in enumerate(classes)}
    skips = SkipCounter()
    samples = {split: tuple(read.samples(places, skips)) for split, read in sets.items()}
    return ParsedDataset(name, classes, samples, skips.warnings(root))


def _split_of(word: str) -> str:
    return next((split for known, split in _SPLITS.items() if known in word.lower()), "")


def _looks_like_coco(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            head = file.read(1 << 16)
    except (OSError, UnicodeDecodeError):
        return False
    return any(re.search(rf'"{key}"\s*:\s*\[', head) for key in _LISTS)


class _TrainingCoco(CocoFile):
    """One file, with the folder that its images are in."""

    def __init__(self, path: Path, split: str, root: Path) -> None:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{path} has more than {MAX_BYTES >> 20} MiB; split the dataset")
        super().__init__(path, read_json(path))
        for _ in at_most(self.names.values(), "classes", MAX_CLASSES):
            pass
        if len(self.images) > MAX_IMAGES:
            raise InvalidInput(f"{path}: more than {MAX_IMAGES:,} images")
        self._split, self._root = split, root

    def classes(self) -> list[str]:
        """In the order of the file, without those that only group others."""
        entries = self.categories.values()
        # Roboflow lists the project itself as category 0.
        groups = {str(entry.get("supercategory", "")) for entry in entries} - {""}
        # COCO too has classes with the name of their group ("person").
        own_group = {e["id"] for e in entries if e.get("supercategory") == e["name"]}
        used = {entry.category_id for entry in self.annotations()} | own_group
        return [name for key, name in self.names.items() if key in used or name not in groups]

    def samples(self, places: Mapping[str, int], skips: SkipCounter) -> Iterator[Sample]:
        """Every image that exists, in the order of the file."""
        boxes = self._boxes(places)
        where = {key: f"{self.path}: images[{n}]" for n, key in enumerate(self.images)}
        names = {
            key: str(entry_value(entry, "file_name", where[key]))
            for key, entry in self.images.items()
        }
        folder = self._folder([*names.values()])
        for key, entry in self.images.items():
            path = safe_join(folder, names[key])
            if skips.is_there(path, names[key]):
                size = checked_size(path, names[key], _declared(entry, where[key]))
                yield skips.sample(path, names[key], size, boxes[key])

    def _boxes(self, places: Mapping[str, int]) -> dict[Any, ImageBoxes]:
        """The boxes of each image, by its id."""
        lists: dict[Any, tuple[list[ClassBox], list[ClassBox], list[ClassBox]]] = {
            key: ([], [], []) for key in self.images
        }
        for key in ("annotations", "hard_negatives"):
            for entry in self.annotations(key, optional=key == "hard_negatives"):
                labels, ignore, negatives = lists[entry.image_id]
                rows = negatives if key == "hard_negatives" else ignore if entry.ignore else labels
                rows.append((entry.box, places[self.names[entry.category_id]]))
        return {key: ImageBoxes(*rows) for key, rows in lists.items()}

    def _folder(self, names: Sequence[str]) -> Path:
        """Where the images are: the first likely folder that has one of the first few."""
        root, folders = self._root, (self._split, self.path.stem.removeprefix("instances_"))
        likely = [
            *(root / "images" / name for name in folders if name),
            *(root / name for name in folders if name),
            self.path.parent,
            self.path.parent / "images",
            root / "images",
            root,
        ]
        for folder in likely:
            if any(safe_join(folder, name).is_file() for name in names[:TRIED]):
                return folder
        if not names:
            return root
        raise NotFound(
            f"{self.path} lists '{names[0]:.80}', which is in none of "
            f"{', '.join(str(folder) for folder in dict.fromkeys(likely))}; put the images there"
        )


def _declared(entry: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """The size of an image as the file has it, if it has one."""
    if "width" not in entry or "height" not in entry:
        return None
    width, height = entry["width"], entry["height"]
    if not is_number(width) or not is_number(height):
        raise InvalidInput(f"{where}: expected numbers as width and height")
    return int(width), int(height)
