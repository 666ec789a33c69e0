"""The images and boxes of a stored run as vectors, computed once for each model and kept."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import ImageSettings
from secondlook.core.boxes import Xyxy
from secondlook.core.cancellation import check_cancelled
from secondlook.core.decoding import ImageDecoder
from secondlook.core.image_folder import select_images
from secondlook.core.types import Image
from secondlook.labeling.embedder import Embedder, Vectors, box_crops, embed_checked
from secondlook.review.visited_images import (
    MAX_FAILED,
    Keeper,
    LookAtBatches,
    Progress,
    Visit,
    visit_run,
)
from secondlook.store import Store
from secondlook.store.embeddings import EmbeddedPlace
from secondlook.store.results import Result
from secondlook.store.runs import Run
from secondlook_client.errors import InvalidInput, LocalFailure

MAX_FILES = 10_000
"""Of a folder."""
PIXELS_AT_ONCE = 2**24
"""Of images and crops that are embedded in one call: 50 MB."""


Embedded = Mapping[EmbeddedPlace, NDArray[np.float32]]
"""(D,) unit vectors of images and boxes."""


def embed_run(
    store: Store,
    run: Run,
    model: str,
    looks: LookAtBatches[Embedded],
    *,
    boxes: bool = False,
    again: bool = False,
    progress: Progress = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Visit:
    """Embed the images of a run, and their judged ``boxes`` too, and keep the vectors.

    ``looks`` is ``EmbedImages`` with the same ``boxes`` and an embedder of which ``model`` is the
    ``name@digest``. What the store has of this model is not computed again, unless ``again``:
    images are shared by all runs. Otherwise as ``visit_run``.
    """
    keeper = _KeepVectors(store, model, boxes)
    return visit_run(store, run, keeper, looks, again=again, progress=progress, stopped=stopped)


@dataclass(frozen=True, eq=False)
class EmbedImages:
    """Looks at images by an embedder, and at their judged ``boxes`` too."""

    embedder: Embedder
    boxes: bool = False

    def __call__(self, images: Iterable[tuple[Result, Image]]) -> Embedded:
        """The vector of each place. Raises ``BadSetting`` for what is no vector."""
        found: dict[EmbeddedPlace, NDArray[np.float32]] = {}
        for some in _batches(self._shown(images)):
            vectors = embed_checked(self.embedder, [image for _, image in some])
            found.update((place, vector) for (place, _), vector in zip(some, vectors, strict=True))
        return found

    def _shown(
        self, images: Iterable[tuple[Result, Image]]
    ) -> Iterator[tuple[EmbeddedPlace, Image]]:
        for result, image in images:
            yield EmbeddedPlace(result.image_id), image
            boxes = judged_boxes(result) if self.boxes else ()
            for box, crop in zip(boxes, box_crops(image, boxes), strict=True):
                yield EmbeddedPlace(result.image_id, box), crop


def judged_boxes(result: Result) -> tuple[Xyxy, ...]:
    """The boxes that were judged on an image, each once."""
    judged = result.labelled.judgements
    return tuple(dict.fromkeys(stored_box(one.box) for one in judged if not one.whole_image))


def stored_box(box: Xyxy) -> Xyxy:
    """A box as the store has it, in float32."""
    x1, y1, x2, y2 = np.array(box, np.float32).tolist()
    return x1, y1, x2, y2


@dataclass(frozen=True, eq=False)
class EmbeddedFiles:
    """Images of a folder as vectors; nothing of them is stored."""

    names: Sequence[str]
    """(N,)."""
    vectors: Vectors
    """(N, D)."""
    failed: Sequence[str]
    """Why others could not be embedded; at most ``MAX_FAILED``."""


def embed_files(folder: Path, embedder: Embedder, limits: ImageSettings) -> EmbeddedFiles:
    """The first ``MAX_FILES`` images of a folder, which may be anybody's.

    What cannot be read is left out. Raises ``InvalidInput`` where no image is left.
    """
    names: list[str] = []
    vectors: list[Vectors] = []
    failed: list[str] = []
    selection, stopping = select_images([folder]), threading.Event()
    with closing(ImageDecoder(limits)) as decoder:
        for file in islice(selection.walk(), MAX_FILES):
            check_cancelled()
            try:
                content = selection.read(file, limits.max_image_bytes)
                image = decoder.decode(content, file.name, stopping)
            except (InvalidInput, LocalFailure) as failure:
                failed.append(f"{file.name}: {failure}")
                continue
            names.append(file.name)
            vectors.append(embed_checked(embedder, [image]))
    if not names:
        raise InvalidInput(f"no image of {folder} could be read; {failed[0] if failed else ''}")
    return EmbeddedFiles(names, np.concatenate(vectors), failed[:MAX_FAILED])


@dataclass(frozen=True, eq=False)
class _KeepVectors(Keeper[Embedded]):
    """Keeps vectors."""

    store: Store
    model: str
    boxes: bool

    def kept(self, results: Sequence[Result]) -> Collection[int]:
        places = {one.cursor: self._places(one) for one in results}
        ids = sorted({one.image_id for one in results})
        embeddings = self.store.embeddings
        there = set(embeddings.of_images(self.model, ids))
        if self.boxes:
            there |= set(embeddings.of_images(self.model, ids, boxes=True))
        return [cursor for cursor, wanted in places.items() if there.issuperset(wanted)]

    def keep(self, found: Embedded) -> None:
        self.store.embeddings.put(self.model, found)

    def _places(self, result: Result) -> list[EmbeddedPlace]:
        boxes = judged_boxes(result) if self.boxes else ()
        return [EmbeddedPlace(result.image_id, box) for box in (None, *boxes)]


def _batches(
    shown: Iterable[tuple[EmbeddedPlace, Image]],
) -> Iterator[list[tuple[EmbeddedPlace, Image]]]:
    """In parts of about ``PIXELS_AT_ONCE``, so that large images do not fill the memory."""
    some: list[tuple[EmbeddedPlace, Image]] = []
    pixels = 0
    for place, image in shown:
        some.append((place, image))
        pixels += image.width * image.height
        if pixels >= PIXELS_AT_ONCE:
            yield some
            some, pixels = [], 0
    if some:
        yield some
