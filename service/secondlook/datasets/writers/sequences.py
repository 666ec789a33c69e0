"""Frames of videos as formats of tracks have them: a folder a sequence, its images by number.

A sequence is a video, or a folder of images in the order of their names. The frames that are in a
dataset are numbered one behind the other, whatever was left out between them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from secondlook.core.frame_names import DEFAULT_FPS, frame_address, sequence_of
from secondlook.core.image_folder import is_hidden
from secondlook.datasets.writers.label_set import FreeNames, LabelledImage, Labels, portable_name
from secondlook_client.values import Judgement, Outcome

UNTRACKED = (
    "a label without a track is in no file of tracks: label with --track to follow the objects"
)
_COMMON = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"))


@dataclass
class Sequence:
    """A video as far as it was written."""

    name: str
    folder: Path
    frames: int = 0
    width: int = 0
    height: int = 0
    """Pixels of its first frame."""
    suffix: str = ".jpg"
    first_ms: int = 0
    last_ms: int = 0
    """Times of its first and last frame; 0 where they say none."""

    @property
    def fps(self) -> float:
        """Frames a second, on average."""
        lasts_ms = self.last_ms - self.first_ms
        return 1000 * (self.frames - 1) / lasts_ms if lasts_ms else DEFAULT_FPS


class SequenceFolders:
    """Puts the images of one split into the folders of their sequences."""

    def __init__(self, folder: Path, images: str, digits: int, first: int) -> None:
        """``folder`` gets a folder a sequence, with the images in ``images``, named by numbers of
        so many ``digits`` from ``first`` on."""
        self._folder, self._images, self._digits, self._first = folder, images, digits, first
        self._names = FreeNames(folder)
        self._known: dict[str, Sequence] = {}
        folder.mkdir(parents=True)

    @property
    def all(self) -> list[Sequence]:
        """Every sequence so far."""
        return list(self._known.values())

    def frames(self, labels: Labels) -> Iterator[tuple[Sequence, int, LabelledImage]]:
        """(sequence, number of the frame, image) of every image, which is in its place then."""
        for image in labels.images():
            sequence = self._sequence(sequence_of(image.name), image)
            number = self._first + sequence.frames
            sequence.frames += 1
            place = f"{self._images}/{number:0{self._digits}}{sequence.suffix}"
            labels.place_image(image.name, image.result, sequence.folder / place)
            address = frame_address(image.name)
            sequence.last_ms = address.ms if address else 0
            yield sequence, number, image

    def _sequence(self, name: str, image: LabelledImage) -> Sequence:
        known = self._known.get(name)
        if known:
            return known
        flat = "__".join(PurePosixPath(portable_name(name)).parts) or "images"
        place = str(self._names.take(PurePosixPath(f"_{flat}" if is_hidden(flat) else flat)))
        suffix, address = PurePosixPath(image.name).suffix.lower(), frame_address(image.name)
        known = Sequence(place, self._folder / place, 0, image.result.width, image.result.height)
        known.suffix = suffix if suffix in _COMMON else ".jpg"
        known.first_ms = address.ms if address else 0
        (known.folder / self._images).mkdir(parents=True)
        self._known[name] = known
        return known


def tracked(image: LabelledImage, *outcomes: Outcome) -> Iterator[Judgement]:
    """What was judged so on an image, and belongs to a track."""
    wanted = (one for one in image.result.judgements if one.track and one.outcome in outcomes)
    yield from wanted


def untracked_note(image: LabelledImage) -> list[str]:
    """A sentence where a label has no track."""
    return [UNTRACKED] if any(not label.track for label in image.result.labels) else []
