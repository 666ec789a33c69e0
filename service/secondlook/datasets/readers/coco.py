"""COCO folders in the layouts that are in use.

    annotations/instances_SPLIT.json, images/SPLIT/…        our own ``snapshot export``, CVAT
    annotations/instances_SPLIT2017.json, SPLIT2017/…       COCO; also below images/
    SPLIT/_annotations.coco.json, SPLIT/…                   Roboflow
    labels.json, data/…                                     FiftyOne
    any.json, images/… or images beside it                  one file without splits

Hidden files, and what systems and tools add to folders, are no datasets. ``iscrowd`` and ``ignore``
make an ignore region for their class; the list ``hard_negatives`` of our own exports is read too.
"""

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from secondlook.core.image_folder import is_hidden
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
    safe_join,
    split_of_word,
)
from secondlook.datasets.readers.coco_json import CocoEntry, CocoFile, CocoImage, Id, read_json
from secondlook.datasets.readers.fields import RowChecks
from secondlook.datasets.readers.segmentations import coco_mask
from secondlook.datasets.samples import Sample, bad_sample
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.values import EmptyReason

HEAD = 1 << 18
"""Bytes of a JSON file that show whether it is one of COCO."""
TRIED = 20
"""Images that are looked up to find the folder that names are relative to."""
_OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "stuff")
_LISTS = ("images", "annotations", "categories")


def find_coco(folder: Path) -> dict[str, Path]:
    """The COCO files of a folder by split (``""``: no split is named); empty when there are none.

    Raises ``InvalidInput`` when two files seem to be the same split.
    """
    found: dict[str, Path] = {}
    patterns = ("annotations/*.json", "*/_annotations.coco.json", "_annotations.coco.json")
    for path in sorted(itertools.chain.from_iterable(_found(folder, p) for p in patterns)):
        word = path.parent.name if path.name == "_annotations.coco.json" else path.stem
        split = split_of_word(word)
        if path.stem.startswith(_OTHER_TASKS):
            continue
        if split in found:
            raise InvalidInput(
                f"{found[split].name} and {path.name} in {folder} may both be '{split}'; give the "
                "path of one of them, or move the other away"
            )
        found[split] = path
    if not found:
        single = [p for p in sorted(_found(folder, "*.json")) if _looks_like_coco(p)]
        if len(single) > 1:
            names = ", ".join(path.name for path in single[:5])
            raise InvalidInput(f"{folder} has several COCO files ({names}); give the path of one")
        found = {"": single[0]} if single else {}
    return found


def coco_files(path: Path) -> list[Path]:
    """``path`` itself, or the COCO file of each split of a folder, such as that of a run.

    Raises ``InvalidInput`` for a folder with none.
    """
    if not path.is_dir():
        return [path]
    found = next(filter(None, map(find_coco, (path, path / "coco"))), {})
    if not found:
        raise InvalidInput(f"{path} has no COCO file; give the path of one")
    return [*found.values()]


def only_coco_file(path: Path) -> Path:
    """``path`` itself, or the only COCO file of a folder.

    Raises ``InvalidInput`` for a folder with none or several.
    """
    found = coco_files(path)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise InvalidInput(f"{path} has {names}; give the path of one")
    return found[0]


def read_coco(
    name: str,
    files: Mapping[str, Path],
    root: Path,
    images: Path | None = None,
    masks: bool = False,
) -> ParsedDataset:
    """The dataset in ``files`` (by split), whose images are in or below ``root``, or ``images``.

    ``masks``: read them too, which takes its time. Classes are identified by name, since ids mean
    nothing outside their own file. Raises ``NotFound`` and ``InvalidInput``, which name the file
    and the entry.
    """
    sets = {split: _TrainingCoco(path, split, root, images, masks) for split, path in files.items()}
    classes = tuple(
        dict.fromkeys(itertools.chain.from_iterable(s.classes() for s in sets.values()))
    )
    places = {class_name: place for place, class_name in enumerate(classes)}
    maker = SampleMaker()
    samples = {split: tuple(read.samples(places, maker)) for split, read in sets.items()}
    warnings = (sentence for read in sets.values() for sentence in read.warnings())
    told = (*warnings, *maker.warnings())
    return ParsedDataset(name, classes, samples, told, format="coco", files=files)


def _found(folder: Path, pattern: str) -> Iterator[Path]:
    """Files of a pattern, without hidden ones."""
    for path in folder.glob(pattern):
        if not any(map(is_hidden, path.relative_to(folder).parts)) and path.is_file():
            yield path


def _looks_like_coco(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    text = head.replace(b"\0", b"")  # of UTF-16
    found = [key for key in _LISTS if re.search(rf'"{key}"\s*:\s*\['.encode(), text)]
    # Label Studio's notes.json has categories alone; in long files they may be all that is seen.
    return bool(found) and (found != ["categories"] or len(head) == HEAD)


class _TrainingCoco:
    """One file, with the folder that its images are in."""

    def __init__(
        self, path: Path, split: str, root: Path, images: Path | None, masks: bool
    ) -> None:
        notes: list[str] = []
        self._file = CocoFile(path, read_json(path, notes), notes)
        if len(self._file.images) > MAX_IMAGES:
            raise InvalidInput(f"{path}: more than {MAX_IMAGES:,} images")
        self._path, self._split, self._root, self._images = path, split, root, images
        self._masks = RowChecks("masks") if masks else None
        self._labels: dict[Id, list[CocoEntry]] = defaultdict(list)
        """Of each image, those that are no ignore regions; only where masks are read."""
        for entry in self._file.annotations if masks else ():
            if not entry.ignore:
                self._labels[entry.image_id].append(entry)

    def classes(self) -> tuple[str, ...]:
        return tuple(at_most(self._file.classes(), "classes", MAX_CLASSES))

    def warnings(self) -> Iterator[str]:
        yield from self._file.warnings()
        if self._masks:
            yield from (f"{self._path.name}: {found}" for found in self._masks.warnings())

    def samples(self, places: Mapping[str, int], maker: SampleMaker) -> Iterator[Sample]:
        """Every image, in the order of the file."""
        boxes = self._boxes(places)
        folder = self._folder([i.name for i in self._file.images.values() if i.name])
        of_path: dict[Path, str] = {}
        for key, image in self._file.images.items():
            name = display_name(image.name)
            if not image.name:
                yield bad_sample(self._path, f"image {key!r}", "it has no file_name in the file")
                continue
            path = _place(folder, image)
            if path is None:
                yield bad_sample(folder / name, name, "it is missing")
                continue
            other = of_path.setdefault(path, image.name)
            if other != image.name:
                raise InvalidInput(
                    f"{self._path}: '{other}' and '{image.name}' are names of other machines, and "
                    f"both lead to {path}; write paths relative to the images' folder"
                )
            of_image = partial(self._with_masks, boxes[key], key)
            sample = maker.checked_sample(path, name, image.size, of_image)
            told = image.empty is EmptyReason.NOTHING_PROPOSED and self._file.says_background
            yield sample if told else replace(sample, empty=image.empty)

    def _boxes(self, places: Mapping[str, int]) -> dict[Id, ImageBoxes]:
        """The boxes of each image, by its id."""
        file = self._file
        lists: dict[Id, tuple[list[ClassBox], list[ClassBox], list[ClassBox]]] = {
            key: ([], [], []) for key in file.images
        }
        for entry in file.annotations:
            labels, ignore, _ = lists[entry.image_id]
            row = entry.box, places[file.names[entry.category_id]]
            (ignore if entry.ignore else labels).append(row)
        for entry in file.hard_negatives():
            if (place := places.get(file.names[entry.category_id])) is not None:
                lists[entry.image_id][2].append((entry.box, place))
        return {key: ImageBoxes(*rows) for key, rows in lists.items()}

    def _with_masks(self, boxes: ImageBoxes, key: Id, size: Size) -> ImageBoxes:
        if self._masks is None:
            return boxes
        found = []
        for place, entry in enumerate(self._labels[key]):
            try:
                found.append(coco_mask(entry.segmentation, size, entry.box))
                self._masks.good()
            except ValueError as cause:
                found.append(None)
                name = self._file.images[key].name
                self._masks.bad(f"'{display_name(name)}', label {place + 1}", cause)
        return replace(boxes, masks=found)

    def _folder(self, names: Sequence[str]) -> Path:
        """Where the images are: the first likely folder that has one of the first few."""
        if self._images is not None:
            return self._images
        root, path = self._root, self._path
        folders = (self._split, path.stem.removeprefix("instances_"))
        likely = [
            *(root / "images" / name for name in folders if name),
            *(root / name for name in folders if name),
            path.parent,
            path.parent / "images",
            root / "images",
            root / "data",
            root,
        ]
        for folder in likely:
            if any(_is_there(folder, name) for name in names[:TRIED]):
                return folder
        for folder in likely:  # names of another machine, of which only the end is here
            if any(below(name, [folder]) for name in names[:TRIED]):
                return folder
        if not names:
            return root
        raise NotFound(
            f"{path} lists '{names[0]:.80}', which is in none of "
            f"{', '.join(str(folder) for folder in dict.fromkeys(likely))}; put the images there"
        )


def _is_there(folder: Path, name: str) -> bool:
    try:
        return os.path.isfile(safe_join(folder, name))  # noqa: PTH113 (that of a path may raise)
    except InvalidInput:
        return False


def _place(folder: Path, image: CocoImage) -> Path | None:
    """Where an image is: by its name, or the end of a path of another machine; None: nowhere."""
    if _is_there(folder, image.name):
        return folder / image.name
    return below(image.name, [folder])
