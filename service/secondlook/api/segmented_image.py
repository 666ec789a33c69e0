"""``secondlook.segment``: one object of one image, outlined by points or a box."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PILImage

from secondlook.cli.segment import (
    CANDIDATES,
    ObjectPrompt,
    outline,
    segmenting,
    write_cutout,
    write_mask,
)
from secondlook.config.settings import SOURCES, ImageSettings
from secondlook.core.cutout import cut_out
from secondlook.core.images import decode
from secondlook_client.errors import InvalidInput
from secondlook_client.images import ImageInput, encode_image, image_bytes
from secondlook_client.masks import Mask, Segmentation

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SegmentedImage:
    """An object of an image, with all that it may be."""

    candidates: tuple[Segmentation, ...]
    """The best predicted quality first; several where one click may mean a part or the whole."""
    chosen: int
    """Which of them was asked for, from 0."""
    _content: bytes = field(repr=False)
    _limits: ImageSettings = field(repr=False)

    @property
    def mask(self) -> Mask:
        """The pixels of the object."""
        return self.candidates[self.chosen].mask

    @property
    def pixels(self) -> "NDArray[np.bool_]":
        """(H, W) bool of the upright image; True is the object."""
        return self.mask.to_array()

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The tight box, pixel xyxy."""
        return self.mask.box

    def cutout(self) -> PILImage.Image:
        """The object in its tight box, RGBA, on a transparent background."""
        return cut_out(decode(self._content, "", self._limits).pixels, self.mask)

    def _repr_png_(self) -> bytes:
        """For notebooks: the object, cut out."""
        content = io.BytesIO()
        self.cutout().save(content, "PNG")
        return content.getvalue()

    def save(self, path: str | os.PathLike[str], *, crop: bool = False) -> None:
        """Write the mask as a PNG (255 is the object), or with ``crop`` the object cut out."""
        if crop:
            write_cutout(Path(path), self._content, self.mask, self._limits)
        else:
            write_mask(Path(path), self.mask)


def segment(
    image: ImageInput,
    *,
    box: tuple[float, float, float, float] | None = None,
    inside: Sequence[tuple[float, float]] = (),
    outside: Sequence[tuple[float, float]] = (),
    candidate: str | int = CANDIDATES[0],
    segmenter: str | None = None,
    device: str | None = None,
    server: str | None = None,
    **settings: Any,
) -> SegmentedImage:
    """Outline one object of an image; no class is needed.

        sam = "sam:facebook/sam-vit-base"
        dog = secondlook.segment("street.jpg", box=(20, 10, 50, 40), segmenter=sam)
        dog.cutout().save("dog.png")

    ``image`` is a path, encoded bytes, a numpy array in RGB or a Pillow image. ``box`` is roughly
    around the object, pixel xyxy; ``inside`` and ``outside`` are points (x, y) on it and beside it.
    ``candidate`` is ``best``, ``smallest`` or a number from 1, as in `secondlook segment`, whose
    settings the others are; ``server`` (host:port) uses a running service.

    The segmenter is loaded for this one image: to outline many, or click by click, use
    ``secondlook_client.Client(...).segmentation``. Raises ``InvalidInput`` for points outside of
    the image, and where there is no object.
    """
    if str(candidate) not in CANDIDATES:
        raise InvalidInput(
            f"expected a candidate of {', '.join(CANDIDATES)}, got {candidate!r:.60}"
        )
    config = settings.pop("config", None)
    read = SOURCES.load(
        {"segmenter": segmenter, "device": device, **settings},
        Path(config) if config else None,
        source=lambda name: f"{name}=",
    )
    if isinstance(image, np.ndarray | PILImage.Image):
        image = encode_image(image, "png")  # without loss
    content = image_bytes(image)
    with segmenting(server, read) as client:
        found = outline(client, content, ObjectPrompt(box, inside, outside), str(candidate))
    return SegmentedImage(found.candidates, found.chosen, content, read.images)
