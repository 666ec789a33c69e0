"""What may be labelled: a folder, files, or images in memory."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeAlias

import numpy as np
from PIL import Image as PILImage

from secondlook.cli.label import check_has_image
from secondlook.cli.output_folder import image_loader
from secondlook.config.settings import ImageSettings
from secondlook.core.clips import clips_in
from secondlook.core.frame_names import DEFAULT_FPS
from secondlook.core.image_folder import ImageSelection, select_images
from secondlook.core.images import decode, suffix_of
from secondlook.core.types import Pixels
from secondlook.datasets.writers import linked_images
from secondlook_client.errors import InvalidInput, SecondlookError
from secondlook_client.images import ImageInput, encode_image, image_bytes
from secondlook_client.values import LabelResult

ImagesInput: TypeAlias = "ImageInput | Iterable[ImageInput]"
"""A folder, a file, an image in memory, or several of them; see ``given_images``."""
FIRST = 16
"""Images of an iterator that are kept, to be shown; the others are freed once they are labelled."""


class GivenImages(Protocol):
    """Images with a name each, which no other has."""

    def count(self) -> int | None:
        """How many there are; None where nobody knows before the end."""

    def encoded(self) -> Iterator[tuple[str, bytes | SecondlookError]]:
        """(name, encoded image, or why there is none), in order; one in memory at a time."""

    def pixels(self, name: str) -> Pixels:
        """The upright image again. Raises a ``SecondlookError`` where it is gone."""

    def check_kept(self) -> None:
        """Raise ``InvalidInput`` where not all images are at hand any more."""

    def file_name(self, name: str) -> str:
        """What its file in a dataset is called; ``pixels`` takes this name too."""

    def place(self, name: str, result: LabelResult, path: Path) -> None:
        """Put the image of that file name at ``path``, without loss; raises as ``pixels``."""


def given_images(
    images: ImagesInput,
    limits: ImageSettings,
    *,
    raw: bool = False,
    out: Path | None = None,
    fps: float = DEFAULT_FPS,
) -> GivenImages:
    """What ``images`` names or holds.

    A path is a folder, with everything below it, or a file; so is each of a list of paths. A video
    is its frames, ``fps`` of each second. Anything else is an image in memory, or an iterable of
    them; ``raw`` sends those without loss, for a service of this process. ``out`` is a folder that
    is left out. Raises ``NotFound``, ``InvalidInput`` and, for a video, ``MissingExtra``.
    """
    if isinstance(images, str | os.PathLike):
        return _files([Path(images)], limits, out, fps)
    if isinstance(images, bytes | bytearray | memoryview | PILImage.Image):
        return ImagesInMemory([images], limits, raw)
    if isinstance(images, np.ndarray) and images.ndim < 4:
        return ImagesInMemory([images], limits, raw)
    if not isinstance(images, Iterable):
        raise InvalidInput(
            "expected a folder, paths, bytes, numpy arrays or Pillow images, got "
            f"{type(images).__module__}.{type(images).__qualname__}"
        )
    whole: Iterable[Any] = images if isinstance(images, Sequence | np.ndarray) else iter(images)
    first, whole = _peeked(whole)
    if isinstance(first, str | os.PathLike):
        return _files(_paths(whole), limits, out, fps)
    return ImagesInMemory(whole, limits, raw)


def _files(paths: list[Path], limits: ImageSettings, out: Path | None, fps: float) -> GivenImages:
    return FilesGiven(select_images(paths, out, clips_in(paths, limits, fps)), limits)


def _peeked(images: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first image, and all of them. Raises ``InvalidInput`` where there is none."""
    walk = iter(images)
    try:
        first = next(walk)
    except StopIteration:
        raise InvalidInput("no image is given; name a folder or some files") from None
    return first, itertools.chain([first], walk) if walk is images else images


def _paths(listed: Iterable[Any]) -> list[Path]:
    paths = []
    for one in listed:
        if not isinstance(one, str | os.PathLike):
            raise InvalidInput(
                f"expected paths, as the first one is, got {type(one).__qualname__}; give paths or "
                "images in memory, not both"
            )
        paths.append(Path(one))
    return paths


class FilesGiven:
    """Files and folders; a name is the path below their common folder."""

    def __init__(self, selection: ImageSelection, limits: ImageSettings) -> None:
        """Raises ``InvalidInput`` where there is no image."""
        check_has_image(selection)
        self.selection = selection
        self._limits = limits
        self.pixels = image_loader(selection.root, limits, selection.clips)
        self._linked = linked_images(selection.root)

    def count(self) -> int | None:
        """See ``GivenImages``."""
        return sum(1 for _ in self.selection.walk())

    def encoded(self) -> Iterator[tuple[str, bytes | SecondlookError]]:
        """See ``GivenImages``."""
        for file in self.selection.walk():
            try:
                yield file.name, self.selection.read(file, self._limits.max_image_bytes)
            except SecondlookError as failure:
                yield file.name, failure

    def check_kept(self) -> None:
        """See ``GivenImages``."""

    def file_name(self, name: str) -> str:
        """See ``GivenImages``."""
        return name

    def place(self, name: str, result: LabelResult, path: Path) -> None:
        """See ``GivenImages``."""
        clips = self.selection.clips
        if clips and (frame := clips.named(name)):
            path.write_bytes(clips.read(frame, self._limits.max_image_bytes))
        else:
            self._linked(name, result, path)


class ImagesInMemory:
    """Arrays, Pillow images and bytes; the name is the number, from "0"."""

    def __init__(self, images: Iterable[ImageInput], limits: ImageSettings, raw: bool) -> None:
        """Of a sequence nothing is copied; of another iterable the first are kept."""
        self._images = images
        self._kept: Any = images if hasattr(images, "__getitem__") else []
        self._limits = limits
        self._raw = raw
        self._count = 0

    def count(self) -> int | None:
        """See ``GivenImages``."""
        return len(self._images) if isinstance(self._images, Sized) else None

    def encoded(self) -> Iterator[tuple[str, bytes | SecondlookError]]:
        """See ``GivenImages``."""
        for number, image in enumerate(self._images):
            self._count = number + 1
            if self._kept is not self._images and number < FIRST:
                self._kept.append(image)
            try:
                yield str(number), _encoded(image, "bmp") if self._raw else image_bytes(image)
            except SecondlookError as failure:
                yield str(number), failure

    def pixels(self, name: str) -> Pixels:
        """See ``GivenImages``."""
        return decode(_encoded(self._image(name), "bmp"), name, self._limits).pixels

    def check_kept(self) -> None:
        """See ``GivenImages``."""
        if self._count > len(self._kept):
            raise InvalidInput(
                "the images came from an iterator, so only the first are at hand; give a list, or "
                "write them to a folder and label that"
            )

    def file_name(self, name: str) -> str:
        """See ``GivenImages``."""
        image = self._image(name)
        is_encoded = not isinstance(image, np.ndarray | PILImage.Image)
        return f"{name}.{suffix_of(image_bytes(image)) if is_encoded else 'png'}"

    def place(self, name: str, result: LabelResult, path: Path) -> None:
        """See ``GivenImages``."""
        path.write_bytes(_encoded(self._image(name), "png"))

    def _image(self, name: str) -> ImageInput:
        image: ImageInput = self._kept[int(PurePosixPath(name).stem)]
        return image


def _encoded(image: ImageInput, form: str) -> bytes:
    """Without loss: an array or Pillow image in this form, anything else as it is."""
    if isinstance(image, np.ndarray | PILImage.Image):
        return encode_image(image, form)
    return image_bytes(image)
