"""Labels written as COCO, YOLO, Pascal VOC and Parquet.

Every writer streams: it reads the results as often as it must and holds one image at a time.
Accepted boxes become labels, rejected ones are left out, and unsure ones become what each format
has for "do not learn from this": crowd regions (COCO), ``difficult`` objects (VOC), and for YOLO,
which has nothing of the kind, an image that is kept out of the training list.

To add a format, write a module with ``write_splits`` and enter it in ``EXPORT_FORMATS``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from secondlook.datasets.writers import coco, parquet, voc, yolo
from secondlook.datasets.writers.label_set import Labels

__all__ = ["EXPORT_FORMATS", "OUTPUTS", "WRITERS", "ExportFormat", "Labels"]

WRITERS: Mapping[str, Callable[[Labels, Path], Path]] = {
    "coco": coco.write,
    "yolo": yolo.write,
    "voc": voc.write,
}
"""What ``secondlook label`` writes, by name: each takes the labels and a folder, and returns the
file or folder made below it."""

OUTPUTS = ("coco.json", "yolo", "voc")
"""The files and folders that these writers make."""


@dataclass(frozen=True)
class ExportFormat:
    """A format of ``secondlook snapshot export``."""

    write: Callable[[Mapping[str, Labels], Path], None]
    """Takes the labels of each split, whose images are in ``OUT/images/SPLIT``, and OUT."""
    how_to_open: str
    """For the README.md of an export."""
    image_files: bool = True
    """Whether it needs the files in ``OUT/images``."""


EXPORT_FORMATS: Mapping[str, ExportFormat] = {
    "coco": ExportFormat(
        coco.write_splits,
        "COCO: `annotations/SPLIT.json`, images in `images/SPLIT`. Ignore regions (unsure boxes) "
        "have `iscrowd` 1; rejected boxes are under `hard_negatives`.",
    ),
    "yolo": ExportFormat(
        yolo.write_splits,
        "YOLO: `yolo detect train data=data.yaml`. Images with an ignore region (an unsure box) "
        "are in `unsure.txt` and no other list.",
    ),
    "voc": ExportFormat(
        voc.write_splits,
        "Pascal VOC: `voc/Annotations/SPLIT`, images in `images/SPLIT`. Ignore regions (unsure "
        "boxes) have `difficult` 1.",
    ),
    "parquet": ExportFormat(
        parquet.write_splits,
        'Parquet: `datasets.load_dataset("parquet", data_dir="data")`. Each object has a `kind`: '
        "`label`, `ignore` or `hard_negative`.",
        image_files=False,
    ),
}
