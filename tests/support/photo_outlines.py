"""Photos with outlines of objects that were drawn by hand (``tests/data/outlines``).

The photos themselves are not part of the project; they are in the folder that SECONDLOOK_TEST_DATA
names.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondlook.core.masks import mask_from_polygons

OUTLINES = Path(__file__).parents[1] / "data" / "outlines" / "photos.json"


@dataclass(frozen=True, eq=False)
class OutlinedPhoto:
    """A photo and the objects on it that were outlined."""

    path: Path
    kinds: tuple[str, ...]
    masks: NDArray[np.bool_]
    """(N, H, W), the visible part of each object."""


def outlined_photos(data: Path) -> list[OutlinedPhoto]:
    """All photos of which there are outlines.

    Raises ``FileNotFoundError`` where ``data`` lacks one, ``ValueError`` where it is another photo.
    """
    return [_read(data, entry) for entry in json.loads(OUTLINES.read_text())]


def _read(data: Path, entry: dict[str, Any]) -> OutlinedPhoto:
    path = data / entry["photo"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path} is not the photo that was outlined")
    with Image.open(path) as photo:
        size = photo.size
    masks = [filled(one["rings"], size) for one in entry["objects"]]
    return OutlinedPhoto(path, tuple(one["kind"] for one in entry["objects"]), np.array(masks))


def filled(rings: list[list[list[float]]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """What the first ring encloses without what the others do, (H, W)."""
    outer, *holes = (mask_from_polygons([ring], *size).to_array() for ring in rings)
    for hole in holes:
        outer &= ~hole
    return outer
