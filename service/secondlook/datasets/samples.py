"""The samples of a training: images on this disk, with their boxes of every kind.

Boxes are float32 pixel xyxy in the upright image, as everywhere; every box has an area.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.core.types import Boxes
from secondlook_client.masks import Mask
from secondlook_client.values import EmptyReason


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its boxes."""

    path: Path
    """Of the file; its pixels are not in memory."""
    width: int
    height: int
    """Pixels, upright (EXIF orientation applied)."""
    name: str
    """For people; a path relative to the dataset, or what the image came with."""
    sha256: str
    """Of the file's bytes, 64 hex digits; empty where it has not been computed."""
    boxes: Boxes
    """(N, 4): the objects to find."""
    classes: NDArray[np.int64]
    """(N,): their classes, places in the training set's ``classes``."""
    ignore: Boxes
    """(I, 4): ignore regions (unsure boxes); nothing is learnt or scored there."""
    ignore_classes: NDArray[np.int64]
    """(I,): the class to be ignored in each region, -1 for every class."""
    negatives: Boxes
    """(K, 4): hard negatives, background that was taken for an object and rejected."""
    negative_classes: NDArray[np.int64]
    """(K,): the classes that they were proposed for."""
    group: str = ""
    """Samples of one group stay in one split; empty: the image is its own group."""
    problem: str = ""
    """Why the image cannot be used; such a sample has no size and no boxes. Empty: it can."""
    masks: tuple[Mask | None, ...] = ()
    """Of ``boxes``, one for each; () where nobody asked for masks. No training uses them."""
    empty: EmptyReason | None = None
    """Why it has no box, where the dataset says so and leaves it open whether it is background."""


@dataclass(frozen=True)
class UnusableImage:
    """An image of a dataset that is left out."""

    name: str
    path: str
    reason: str


@dataclass(frozen=True)
class RecordedImage:
    """What one image was when a training began."""

    labels: str
    """Hash of its size and boxes, hex."""
    size: int
    """Of its file, in bytes."""
    sha256: str = ""
    """Of its file, where a split was made by it."""


@dataclass(frozen=True)
class ImageRecord:
    """The images that a training set was made of, by which a training that goes on knows them."""

    used: Mapping[str, RecordedImage] = field(default_factory=dict)
    """By ``image_key``."""
    left_out: tuple[UnusableImage, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """A dataset as a training takes it: two splits, of which no group is in both."""

    name: str
    """The snapshot's, or the folder's; for people."""
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    """Never learnt from: early stopping, thresholds, calibration and the report use it."""
    split: str
    """What ``held_out`` is called, e.g. ``val``."""
    digest: str
    """Hash of the content, 64 hex digits: the snapshot's manifest, or of a folder's names, file
    sizes and boxes. Equal digests mean the same held-out images."""
    ontology: str = ""
    """YAML text of the classes with phrases and questions; empty where they are not known."""
    warnings: tuple[str, ...] = ()
    """What was left out or looks wrong, a sentence each, for a person."""
    images: ImageRecord = ImageRecord()
    """Which images it was made of, and which were left out."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The contrast group of each class, empty where it stands alone; () if all do.

        Raises ``BadOntology`` for an ontology that cannot be read.
        """
        if not self.ontology:
            return ()
        specs = ontology_from_yaml(self.ontology, f"the ontology of {self.name}").classes
        group_of = {spec.name: spec.group for spec in specs}
        groups = [group_of.get(name, "") for name in self.classes]
        contrasts = tuple(group if groups.count(group) > 1 else "" for group in groups)
        return contrasts if any(contrasts) else ()


def bad_sample(path: Path, name: str, problem: str, sha256: str = "") -> Sample:
    """A sample for an image that cannot be used."""
    none, nobody = boxes_array(()), class_array(())
    return Sample(
        path, 0, 0, name, sha256, none, nobody, none, nobody, none, nobody, problem=problem
    )


def image_key(split: str, name: str) -> str:
    """What an image of a dataset is known by in its record."""
    return f"{split}/{name}"


def boxes_array(rows: Iterable[Iterable[float]]) -> Boxes:
    """(N, 4) float32 from any rows of four; (0, 4) from none."""
    return np.asarray([tuple(row) for row in rows], dtype=np.float32).reshape(-1, 4)


def class_array(numbers: Iterable[int]) -> NDArray[np.int64]:
    """(N,) int64 from any numbers; (0,) from none."""
    return np.asarray([*numbers], dtype=np.int64)
