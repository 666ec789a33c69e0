"""The images of a dataset with their annotations, to be verified rather than trained on.

Every split counts, an image that is in several of them once, with the boxes of all. Images without
a box stay among them: they are part of the dataset that is written afterwards.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.core.files import name_to_text
from secondlook.core.image_folder import ImageSelection, select_files
from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.core.types import Boxes
from secondlook.datasets.readers.annotations import ParsedDataset
from secondlook.datasets.samples import Sample
from secondlook.labeling.annotated_boxes import AskedBoxes
from secondlook_client.errors import BadOntology, InvalidInput
from secondlook_client.ontology import (
    FORBIDDEN_IN_PHRASE,
    ClassSpec,
    Ontology,
    default_question,
    normal,
)

NAMED = 12
"""Classes that a message names."""


@dataclass(frozen=True, eq=False)
class ImageAnnotations:
    """One image of a dataset."""

    name: str
    """The path of its file below the root of the set, with forward slashes."""
    sample: Sample
    """Its annotations; the crowd and ignore regions among them are not asked about."""
    entries: tuple[tuple[str, str], ...]
    """(split, name in the dataset) of every entry that leads to it."""

    @property
    def split(self) -> str:
        """The first one that it is in; empty where the dataset names none."""
        return self.entries[0][0]


@dataclass(frozen=True, eq=False)
class AnnotatedSet:
    """All images of a dataset that can be read."""

    classes: tuple[str, ...]
    """As the dataset has them."""
    root: Path
    images: tuple[ImageAnnotations, ...]
    unusable: tuple[Sample, ...]
    """Images that cannot be read, each with its ``problem``."""
    ontology: str = ""
    """YAML beside the dataset, with phrases and questions of its classes; empty without one."""

    @classmethod
    def of(cls, data: ParsedDataset) -> "AnnotatedSet":
        """Raises ``InvalidInput`` when no image can be read or none has a box to ask about."""
        by_path: dict[Path, list[tuple[str, Sample]]] = {}
        unusable = []
        for split, samples in data.samples.items():
            for sample in samples:
                if sample.problem:
                    unusable.append(sample)
                else:
                    path = Path(os.path.realpath(sample.path.parent)) / sample.path.name
                    by_path.setdefault(path, []).append((split, sample))
        _check_some(data, by_path, unusable)
        root = select_files([*by_path]).root
        images = tuple(_image(path, root, found) for path, found in by_path.items())
        return cls(data.classes, root, images, tuple(unusable), data.ontology)

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Annotations of each class that could be asked about."""
        counted: Counter[int] = Counter()
        for image in self.images:
            counted.update(image.sample.classes.tolist())
        return {name: counted[place] for place, name in enumerate(self.classes)}

    @property
    def ignored(self) -> int:
        """Crowd and ignore regions, about which nothing is asked."""
        return sum(len(image.sample.ignore) for image in self.images)

    def selection(self, names: Collection[str]) -> ImageSelection:
        """The files of the images called so, in the order of the set."""
        return select_files([self.root / i.name for i in self.images if i.name in names])

    def asked(self, place_of: Mapping[str, int]) -> dict[str, AskedBoxes]:
        """What is asked about each image, by its name in a job.

        ``place_of``: places in the ontology by class of the dataset; of other classes nothing is
        asked. An image without a box to ask about is left out.
        """
        places = np.array([place_of.get(name, -1) for name in self.classes], dtype=np.int64)
        found = {}
        for image in self.images:
            of_box = places[image.sample.classes]
            if (of_box >= 0).any():
                rows = of_box >= 0
                boxes = AskedBoxes(image.sample.boxes[rows], of_box[rows])
                found[name_to_text(image.name)] = boxes
        return found


def _check_some(
    data: ParsedDataset, by_path: Mapping[Path, object], unusable: Sequence[Sample]
) -> None:
    if not by_path:
        first = f": {unusable[0].name}: {unusable[0].problem}" if unusable else ""
        raise InvalidInput(
            f"none of the {len(unusable):,} images of '{data.name}' can be read{first}; give the "
            "folder that they are in with --images"
        )


def _image(path: Path, root: Path, found: Sequence[tuple[str, Sample]]) -> ImageAnnotations:
    first, *others = (sample for _, sample in found)
    for other in others:
        first = _with_boxes_of(first, other)
    entries = tuple((split, sample.name) for split, sample in found)
    return ImageAnnotations(path.relative_to(root).as_posix(), first, entries)


def _with_boxes_of(sample: Sample, other: Sample) -> Sample:
    """``sample`` with the boxes of ``other``, an entry of the same image, that it lacks."""
    new = _new(sample.boxes, sample.classes, other.boxes, other.classes)
    new_ignore = _new(sample.ignore, sample.ignore_classes, other.ignore, other.ignore_classes)
    more_masks = [mask for mask, is_new in zip(other.masks, new, strict=False) if is_new]
    return replace(
        sample,
        boxes=np.concatenate([sample.boxes, other.boxes[new]]),
        classes=np.concatenate([sample.classes, other.classes[new]]),
        masks=(*sample.masks, *more_masks),
        ignore=np.concatenate([sample.ignore, other.ignore[new_ignore]]),
        ignore_classes=np.concatenate([sample.ignore_classes, other.ignore_classes[new_ignore]]),
    )


def _new(
    boxes: Boxes, classes: NDArray[np.int64], more: Boxes, more_classes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of ``more`` are not among the boxes."""
    same = (boxes[None] == more[:, None]).all(axis=2) & (classes[None] == more_classes[:, None])
    new: NDArray[np.bool_] = ~same.any(axis=1)
    return new


@dataclass(frozen=True)
class ClassQuestions:
    """What is asked about the annotations of each class."""

    ontology: Ontology
    place_of: Mapping[str, int]
    """The place in the ontology by class of the dataset, of those that are asked about."""

    @property
    def names(self) -> dict[str, str]:
        """The name in the ontology, likewise."""
        return {name: self.ontology.names[place] for name, place in self.place_of.items()}


def class_questions(
    annotated: AnnotatedSet, given: Ontology | None, only: Sequence[str]
) -> ClassQuestions:
    """A class of the ontology for each class that has annotations, asked in its own words.

    The words come from ``given``, else from the dataset's own ontology, else they are "Is this a
    <name>?". ``only`` names the classes that are asked about (empty: all); the others can still be
    suggested. Classes that differ only by capital letters share a question. Raises
    ``InvalidInput`` for a class that the dataset lacks and ``BadOntology`` for a name that cannot
    be asked about.
    """
    used = [name for name, count in annotated.counts.items() if count]
    if not used:
        raise InvalidInput("the dataset has no annotation to ask about: no box with an area")
    specs = {spec.name.casefold(): spec for spec in _specs(annotated.ontology)}
    specs |= {spec.name.casefold(): spec for spec in given.classes} if given else {}
    # A class in a contrast group is asked about beside the others of it, annotated or not.
    alone = [spec.name for spec in given.classes if not spec.group] if given else []
    _check_known(annotated, alone, "-c")
    _check_known(annotated, only, "--only")
    names = list(dict.fromkeys(name.casefold() for name in used))
    first = {name.casefold(): name for name in reversed(used)}
    every = _with_groups(names, specs)
    ontology = Ontology(tuple(specs.get(n) or _default_spec(first[n]) for n in every))
    places = {spec.name.casefold(): place for place, spec in enumerate(ontology.classes)}
    wanted = {name.casefold() for name in only or used}
    return ClassQuestions(
        ontology, {name: places[name.casefold()] for name in used if name.casefold() in wanted}
    )


def _specs(text: str) -> tuple[ClassSpec, ...]:
    """Of the ontology beside the dataset; one that cannot be read is none."""
    try:
        return ontology_from_yaml(text).classes if text else ()
    except BadOntology:
        return ()


def _with_groups(names: Sequence[str], specs: Mapping[str, ClassSpec]) -> list[str]:
    """``names``, and the classes that stand in a contrast group with one of them."""
    groups = {specs[name].group for name in names if name in specs} - {""}
    others = (name for name, spec in specs.items() if spec.group in groups)
    return list(dict.fromkeys((*names, *others)))


def _default_spec(name: str) -> ClassSpec:
    words = " ".join(name.replace("_", " ").split()) or name
    phrase = words
    for character in FORBIDDEN_IN_PHRASE:
        phrase = phrase.replace(character, " ")
    return ClassSpec(name, (normal(phrase) or "object",), default_question(words))


def _check_known(annotated: AnnotatedSet, names: Sequence[str], flag: str) -> None:
    known = {name.casefold() for name in annotated.classes}
    for name in names:
        if name.casefold() not in known:
            listed = ", ".join(_first(annotated.classes))
            raise InvalidInput(
                f"{flag}: the annotations have no class '{name}'; their classes are {listed}"
            )


def _first(names: Sequence[str]) -> Iterator[str]:
    yield from names[:NAMED]
    if len(names) > NAMED:
        yield f"and {len(names) - NAMED} more"
