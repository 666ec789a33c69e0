"""Pascal VOC: an XML file an image, in the layouts that are in use.

    ImageSets/Main/SPLIT.txt, Annotations/NAME.xml, JPEGImages/NAME.jpg    VOC, our own, CVAT
    Annotations/NAME.xml and images/NAME.jpg                               without splits
    SPLIT/NAME.xml, SPLIT/NAME.jpg                                         Roboflow
    NAME.xml, NAME.jpg                                                     LabelImg

Corners are whole pixels counted from 1, as VOC has them. An object with ``difficult`` 1 is an
ignore region for its class; what our own exports say of an image without objects (``empty``) is
read too. Of a ``labelmap.txt`` the order of the classes is taken; without one they are sorted.
How XML is read, see ``plain_xml``.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from secondlook.core.boxes import Xyxy
from secondlook.core.image_folder import IMAGE_SUFFIXES, is_hidden
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
    split_of_word,
)
from secondlook.datasets.readers.fields import RowChecks, flag, number, read_text, shown, side
from secondlook.datasets.readers.plain_xml import parse_xml
from secondlook.datasets.samples import Sample, bad_sample
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.values import EmptyReason

MAX_XML, MAX_LIST, MAX_LABELMAP = 1 << 22, 1 << 26, 1 << 20
"""Bytes of one image's annotation, of a split's list, and of ``labelmap.txt``."""
_HEAD = 1 << 12
"""Bytes of an XML file that show whether it is one of VOC."""
_OF_ONE_CLASS = re.compile(r"\S+\s+-?[01]")
"""A line of VOC's lists of one class, such as ``dog_train.txt``."""
_IMAGE_FOLDERS = ("JPEGImages", "images", "")


def find_voc(folder: Path) -> Path | None:
    """``folder``, if it has annotations of Pascal VOC; else None."""
    found = next(_xml_files(folder / "Annotations"), None)
    return folder if found or any(_beside_images(folder).values()) else None


def read_voc(name: str, root: Path) -> ParsedDataset:
    """The dataset in a folder that ``find_voc`` found.

    Raises ``InvalidInput`` and ``NotFound``, which name the file and the entry.
    """
    notes: list[str] = []
    checks = RowChecks("objects")
    splits = {
        split: [_annotation(file, entry, checks, notes) for entry, file in files]
        for split, files in _splits(root).items()
    }
    checks.check(root)
    found = {box.class_name for items in splits.values() for item in items for box in item.boxes}
    listed = _label_map(root, notes)
    classes = tuple(
        at_most(dict.fromkeys((*listed, *sorted(found - {*listed}))), "classes", MAX_CLASSES)
    )
    places = {class_name: place for place, class_name in enumerate(classes)}
    maker, images = SampleMaker(), _Images(root)
    samples = {
        split: tuple(_sample(item, images, places, maker) for item in items)
        for split, items in splits.items()
    }
    # Every file may have the same odd encoding.
    more = (f"{notes[0]}; so are {len(notes) - 1:,} more files",) if len(notes) > 1 else notes
    told = (*more, *checks.warnings(), *maker.warnings())
    return ParsedDataset(name, classes, samples, told, format="voc")


@dataclass(frozen=True, slots=True)
class _VocBox:
    class_name: str
    box: Xyxy
    ignore: bool


@dataclass(frozen=True, slots=True)
class _VocImage:
    """One annotation file, or an entry of a list that has none."""

    entry: str
    """The annotation's path without ``.xml``, below the folder of annotations."""
    file: Path | None
    name: str = ""
    """The ``filename`` that the annotation gives."""
    size: Size | None = None
    boxes: tuple[_VocBox, ...] = ()
    problem: str = ""
    empty: EmptyReason | None = None
    """What our own exports say; None elsewhere."""


_Files = list[tuple[str, Path | None]]
"""Annotations as they are named, and where they are (None: nowhere)."""


def _splits(root: Path) -> dict[str, _Files]:
    """The annotations of each split, ``""`` where none is named."""
    annotations = root / "Annotations"
    if not annotations.is_dir():
        beside = _beside_images(root).items()
        splits: dict[str, _Files] = {
            split: [(_entry_of(file, root), file) for file in files] for split, files in beside
        }
    elif lists := _own_lists(root / "ImageSets"):
        splits = {
            split: [(entry, below(f"{entry}.xml", [annotations])) for entry in dict.fromkeys(lines)]
            for split, lines in lists.items()
        }
    else:
        splits = {"": [(_entry_of(file, annotations), file) for file in _xml_files(annotations)]}
    if sum(map(len, splits.values())) > MAX_IMAGES:
        raise InvalidInput(f"{root} has more than {MAX_IMAGES:,} images")
    return splits


def _entry_of(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _own_lists(folder: Path) -> dict[str, list[str]]:
    """The entries of each split, with those of our own exports that no other trainer is to take:
    their annotations say why, see ``samples.Sample.empty``."""
    lists = _lists(folder / "Main")
    for split, entries in _lists(folder / "nothing_proposed").items():
        lists.setdefault(split, []).extend(entries)
    return lists


def _lists(folder: Path) -> dict[str, list[str]]:
    """The entries of each split's list, without VOC's lists of one class."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.txt")) if folder.is_dir() else ():
        if is_hidden(file.name):
            continue
        lines = [line.strip() for line in read_text(file, MAX_LIST).split("\n")]
        entries = [line.strip('"') for line in lines if line and not line.startswith("#")]
        if not (entries and all(map(_OF_ONE_CLASS.fullmatch, entries))):
            found[file.stem] = entries
    both = found.pop("trainval", None)
    if both and not found.keys() & {"train", "val"}:
        found["train"] = both
    return found


def _xml_files(folder: Path) -> Iterator[Path]:
    """Those in a folder and below, sorted, without hidden ones."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(files):
            if name.lower().endswith(".xml") and not is_hidden(name):
                yield Path(place, name)


def _beside_images(folder: Path) -> dict[str, list[Path]]:
    """Annotations that lie beside their images: of the folder itself, or of a folder a split."""
    places = {"": folder}
    if folder.is_dir():
        inner = (path for path in sorted(folder.iterdir()) if path.is_dir())
        places |= {split: path for path in inner if (split := split_of_word(path.name))}
    found: dict[str, list[Path]] = {}
    for split, place in places.items():
        files = sorted(p for p in place.glob("*.xml") if p.is_file() and not is_hidden(p.name))
        if files and _looks_like_voc(files[0]):
            found[split] = files
    return found


def _looks_like_voc(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return b"<annotation" in stream.read(_HEAD).replace(b"\0", b"")
    except OSError:
        return False


class _Images:
    """Finds the image of an annotation: by the same stem, as VOC has it, else by ``filename``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        folders = (root / name for name in _IMAGE_FOLDERS)
        self._folders = [folder for folder in folders if folder.is_dir()]
        self._by_stem: dict[Path, dict[str, Path]] = {}

    def find(self, image: _VocImage) -> Path | None:
        """Where the image is; None: nowhere."""
        for folder in self._folders:
            inner, stem = os.path.split(image.entry)
            if ".." not in Path(inner).parts and not os.path.isabs(inner):  # noqa: PTH117
                found = self._stems(folder / inner).get(stem)
                if found:
                    return found
        return below(image.name, self._folders) if image.name else None

    def _stems(self, folder: Path) -> dict[str, Path]:
        if folder not in self._by_stem:
            files = sorted(folder.iterdir()) if folder.is_dir() else []
            images = (path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
            self._by_stem[folder] = {path.stem: path for path in images}
        return self._by_stem[folder]

    def display_name(self, path: Path) -> str:
        """For people: the path below the dataset's folder."""
        return display_name(path.relative_to(self._root).as_posix())


def _sample(
    image: _VocImage, images: _Images, places: Mapping[str, int], maker: SampleMaker
) -> Sample:
    path = images.find(image)
    name = images.display_name(path) if path else display_name(image.name or image.entry)
    if path is None or image.problem:
        return bad_sample(path or Path(name), name, image.problem or "it is missing")
    rows: tuple[list[ClassBox], list[ClassBox]] = [], []
    for box in image.boxes:
        rows[box.ignore].append((box.box, places[box.class_name]))
    sample = maker.checked_sample(path, name, image.size, lambda _: ImageBoxes(*rows))
    return replace(sample, empty=image.empty)


def _annotation(file: Path | None, entry: str, checks: RowChecks, notes: list[str]) -> _VocImage:
    if file is None:
        problem = "it has no annotation file, so it is not known what is on it"
        return _VocImage(entry, None, problem=problem)
    try:
        root = parse_xml(read_text(file, MAX_XML, notes))
    except (InvalidInput, NotFound) as cause:
        return _VocImage(entry, file, problem=str(cause))
    except ValueError as cause:
        return _VocImage(entry, file, problem=f"{file} cannot be read: {cause}")
    width, height = (side(_text(root, f"size/{key}")) for key in ("width", "height"))
    size = (width, height) if width and height else None
    empty = _text(root, "empty")
    return _VocImage(
        entry,
        file,
        _text(root, "filename"),
        size,
        _boxes(root, file, checks),
        empty=EmptyReason(empty) if empty in tuple(EmptyReason) else None,
    )


def _boxes(root: ElementTree.Element, file: Path, checks: RowChecks) -> tuple[_VocBox, ...]:
    boxes = []
    for place, found in enumerate(root.findall("object"), start=1):
        try:
            boxes.append(_box(found))
        except ValueError as cause:
            checks.bad(f"{file}, object {place}", cause)
        else:
            checks.good()
    return tuple(boxes)


def _box(found: ElementTree.Element) -> _VocBox:
    """One object. Raises ``ValueError``."""
    class_name = _text(found, "name")
    if not class_name:
        raise ValueError("it has no name")
    if found.find("bndbox") is None:
        raise ValueError("it has no bndbox")
    x1, y1, x2, y2 = (
        number(_text(found, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")
    )
    if x2 < x1 or y2 < y1:
        raise ValueError(f"its corners are the wrong way round: {shown([x1, y1, x2, y2])}")
    return _VocBox(class_name, (x1 - 1, y1 - 1, x2, y2), flag(_text(found, "difficult")))


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _label_map(root: Path, notes: list[str]) -> Sequence[str]:
    """The classes of ``labelmap.txt``, in order; empty without one."""
    file = root / "labelmap.txt"
    if not file.is_file():
        return ()
    lines = (line.strip() for line in read_text(file, MAX_LABELMAP, notes).split("\n"))
    names = (line.split(":")[0].strip() for line in lines if line and not line.startswith("#"))
    return [name for name in dict.fromkeys(names) if name and name.lower() != "background"]
