"""Labels written as COCO, YOLO and Pascal VOC.

Every writer streams: it reads the results as often as it must and holds one image at a time.
Accepted boxes become labels, rejected ones are left out, and unsure ones become what each format
has for "do not learn from this": crowd regions (COCO), ``difficult`` objects (VOC), and for YOLO,
which has nothing of the kind, an image that is kept out of the training list.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from secondlook.datasets.writers import coco, voc, yolo
from secondlook.datasets.writers.label_set import Labels

__all__ = ["OUTPUTS", "WRITERS", "Labels"]

WRITERS: Mapping[str, Callable[[Labels, Path], Path]] = {
    "coco": coco.write,
    "yolo": yolo.write,
    "voc": voc.write,
}
"""By name: each takes the labels and a folder, and returns the file or folder made below it."""

OUTPUTS = ("coco.json", "yolo", "voc")
"""What the writers make."""
