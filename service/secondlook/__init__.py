"""Label images with words: Grounding DINO proposes boxes, a local vision-language model takes a
second look at each one, and only what survives becomes a label.

    import secondlook

    labels = secondlook.label("photos/", ["dog", "cat"])
    labels.save("labels/")
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secondlook.api.label_results import LabelResults
    from secondlook.api.labeler import Labeler, label
    from secondlook.api.segmented_image import SegmentedImage, segment

__all__ = ["LabelResults", "Labeler", "SegmentedImage", "label", "segment"]

_MODULES = {
    "LabelResults": "label_results",
    "Labeler": "labeler",
    "SegmentedImage": "segmented_image",
    "label": "labeler",
    "segment": "segmented_image",
}
"""Where each name is; imported at its first use, so that no part of the package pays for it."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.api.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
