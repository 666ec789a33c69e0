"""Labels written as COCO, YOLO, Pascal VOC, Parquet, and for Label Studio, CVAT and FiftyOne;
tracks as MOTChallenge and CVAT have them.

Every writer streams: it reads the results as often as it must and holds one image at a time.
Accepted boxes become labels, rejected ones are left out, and unsure ones become what each format
has for "do not learn from this": crowd regions (COCO), ``difficult`` objects (VOC), and for YOLO,
which has nothing of the kind, what ``DoubtfulImages`` says. A label's mask goes along wherever the
format has a place for it; ``yolo`` alone has boxes only.

To add a format, write a module with ``write`` and enter it in ``EXPORT_FORMATS``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secondlook.core.files import replacing
from secondlook.core.image_folder import tag_output
from secondlook.core.ontology_yaml import dump
from secondlook.datasets.writers import (
    coco,
    cvat,
    cvat_video,
    fiftyone,
    label_studio,
    mot,
    parquet,
    voc,
    yolo,
)
from secondlook.datasets.writers.label_set import (
    DoubtfulImages,
    LabelledImage,
    Labels,
    PlaceImage,
    Provenance,
    copied_images,
    linked_images,
)

__all__ = [
    "EXPORT_FORMATS",
    "LABEL_FORMATS",
    "SNAPSHOT_FORMATS",
    "UNSPLIT",
    "DoubtfulImages",
    "ExportFormat",
    "LabelledImage",
    "Labels",
    "PlaceImage",
    "Provenance",
    "copied_images",
    "linked_images",
    "write_format",
]

UNSPLIT = "default"
"""The name of the only split of what is not divided; other programs call it so too."""


@dataclass(frozen=True)
class ExportFormat:
    """A format of ``secondlook snapshot export``."""

    folder: str
    """What is made in the output folder."""
    write: Callable[[Mapping[str, Labels], Path], Sequence[str] | None]
    """Takes the labels of each split, and that folder, which is new. May return sentences about
    what is not as in other formats."""
    how_to_open: str
    """For the README.md of an export."""
    image_files: bool = True
    """Whether it uses ``Labels.place_image``; else it uses ``Labels.image_bytes``."""
    of_videos: bool = False
    """Whether it is of tracks through frames in their order, which a snapshot does not keep."""


EXPORT_FORMATS: Mapping[str, ExportFormat] = {
    "coco": ExportFormat(
        "coco",
        coco.write,
        "COCO: `coco/annotations/instances_SPLIT.json`, images in `coco/images/SPLIT`. Ignore "
        "regions (unsure boxes) have `iscrowd` 1; rejected boxes are under `hard_negatives`. Masks "
        "are run-length codes.",
    ),
    "coco-polygons": ExportFormat(
        "coco-polygons",
        coco.write_polygons,
        "COCO with polygons: `coco-polygons/`, the same with masks as polygons.",
    ),
    "yolo": ExportFormat(
        "yolo",
        yolo.write,
        "YOLO: `yolo detect train data=yolo/data.yaml`. It has no ignore regions.",
    ),
    "yolo-seg": ExportFormat(
        "yolo-seg",
        yolo.write_outlines,
        "YOLO with outlines: `yolo segment train data=yolo-seg/data.yaml`. It has no ignore "
        "regions; each object is one row.",
    ),
    "voc": ExportFormat(
        "voc",
        voc.write,
        "Pascal VOC: `voc/` with `JPEGImages`, `Annotations`, `ImageSets/Main/SPLIT.txt` and "
        "`labelmap.txt`. Ignore regions (unsure boxes) have `difficult` 1. Masks are in "
        "`SegmentationClass` and `SegmentationObject`.",
    ),
    "parquet": ExportFormat(
        "data",
        parquet.write,
        'Parquet: `datasets.load_dataset("parquet", data_dir="data")`. Each object has a `kind`: '
        "`label`, `ignore` or `hard_negative`, and a `mask` where it was segmented.",
        image_files=False,
    ),
    "label-studio": ExportFormat(
        label_studio.FOLDER,
        label_studio.write,
        "Label Studio: import `label-studio/tasks.json` into a project with `label_config.xml`; "
        "local files are served below this folder.",
    ),
    "cvat": ExportFormat(
        "cvat",
        cvat.write,
        "CVAT for images 1.1: a task of the images in `cvat/SPLIT/images` with the labels of "
        "`cvat/labels.json`, to which `cvat/SPLIT/annotations.xml` is uploaded.",
    ),
    "fiftyone": ExportFormat(
        "fiftyone",
        fiftyone.write,
        'FiftyOne: `fiftyone.Dataset.from_dir(dataset_dir="fiftyone", '
        "dataset_type=fiftyone.types.FiftyOneDataset)`. The labels are in the field `secondlook`.",
    ),
    "mot": ExportFormat(
        "mot",
        mot.write,
        "MOTChallenge: `mot/SPLIT/SEQUENCE/gt/gt.txt` with the frames in `img1`.",
        of_videos=True,
    ),
    cvat_video.FOLDER: ExportFormat(
        cvat_video.FOLDER,
        cvat_video.write,
        "CVAT for video 1.1: `cvat-video/SPLIT/SEQUENCE/annotations.xml`, for a task of the frames "
        "in `images`.",
        of_videos=True,
    ),
}

LABEL_FORMATS = tuple(name for name, kind in EXPORT_FORMATS.items() if kind.image_files)
"""What ``secondlook label`` writes."""
SNAPSHOT_FORMATS = tuple(name for name, kind in EXPORT_FORMATS.items() if not kind.of_videos)
"""What ``secondlook snapshot export`` writes."""


def write_format(
    name: str, splits: Mapping[str, Labels], out: Path, notes: list[str] | None = None
) -> Path:
    """Write a format's folder into ``out``, replacing an older one once the new one is complete.

    Returns the folder; ``notes`` gets sentences about what is in it. Raises ``StorageFull``,
    ``MissingExtra`` (Parquet), and what reading results and images raises.
    """
    kind = EXPORT_FORMATS[name]
    folder = out / kind.folder
    with replacing(folder) as part:
        part.mkdir(parents=True)
        tag_output(part)
        found = kind.write(splits, part) or ()
        provenance = next(iter(splits.values())).provenance
        if provenance and kind.image_files:  # a training finds questions and groups there
            (part / "ontology.yaml").write_text(dump(provenance.ontology), encoding="utf-8")
    if notes is not None:
        notes += [note for note in found if note not in notes]  # YOLO's two formats have the same
    return folder
