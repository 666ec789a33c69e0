"""Micro-models as stage one: ``micro:FOLDER``, or several at once.

    micro:batman/       one, trained by ``secondlook micro train``
    micro:street/       a folder that holds several
    micro:street.yaml   a file that names several, or an assembly line (``models.micro_set``)

A micro-model judges the boxes of another proposer, its finder: a small network looks at the crop
of each, in the light of its whole frame, and says whether it is the target. It knows the scene of
its clip by an embedder and proposes nothing elsewhere. Of several, each frame is given to those of
the scene that it resembles most, by distance over their own limit, and to none where it is beyond
the limits of all: scores of different micro-models are never averaged.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.config.settings import EMBEDDERS, PROPOSERS, ModelSettings
from secondlook.core import boxes as box_ops
from secondlook.core.processors import available_cpus
from secondlook.core.types import Boxes, Image, Pixels, Proposals
from secondlook.detector.onnx_safety import refuse_unsafe
from secondlook.detector.runtime import MAX_THREADS, open_session
from secondlook.labeling.embedder import Embedder, Vectors, embed_checked, model_of
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.vocabulary import ChecksPhrases, Vocabulary
from secondlook.models.micro_folder import (
    HEAD,
    SCENE,
    MicroManifest,
    read_hashed,
    read_micro_manifest,
    read_scene,
)
from secondlook.models.micro_set import MicroSet, check_adapter, read_micro_set
from secondlook_client.errors import Damaged

FINDER_FLOOR = 0.02
"""Score from which a box of the finder is judged: what it doubts may be the target."""
MARGIN = 0.08
"""Around a box, a share of its sides: so that a loose box is seen to be one."""
LIGHT = 105.0
"""Mean of each channel to which a frame is brought: a scene that gets darker looks the same."""
DARKEST = 8.0
"""A mean below it is taken for it, so that noise of a black frame is not raised to an image."""
STEEPNESS = 1.5
"""Exponent of what the head says: its best threshold was near 0.4 on rendered clips, which becomes
0.25, the default threshold of a class."""
NMS_IOU = 0.45
"""IoU above which two boxes of the target are one object."""
CROPS = 64
"""Crops in one run of the head."""
INPUT, OUTPUT = "crops", "scores"
"""(B, side, side, 3) uint8 RGB and (B,) float32 in [0, 1]."""


def in_even_light(pixels: Pixels) -> Pixels:
    """A frame (H, W, 3) whose channels have the mean ``LIGHT``: grey-world white balance."""
    means = pixels.reshape(-1, 3).mean(axis=0)
    gain = (LIGHT / np.maximum(means, DARKEST)).astype(np.float32)
    return np.clip(pixels * gain, 0, 255).astype(np.uint8)


def cut_crop(frame: PILImage.Image, box: Sequence[float], side: int) -> Pixels:
    """The box with ``MARGIN`` around it, cut to the frame and stretched to (side, side, 3)."""
    x0, y0, x1, y1 = box
    wide, tall = (x1 - x0) * MARGIN, (y1 - y0) * MARGIN
    left, top = max(0.0, x0 - wide), max(0.0, y0 - tall)
    window = (left, top, min(frame.width, x1 + wide), min(frame.height, y1 + tall))
    return np.asarray(frame.resize((side, side), PILImage.Resampling.BILINEAR, box=window))


class CropHead:
    """The network that knows the target, in onnxruntime. Thread-safe."""

    def __init__(self, model: bytes, side: int, threads: int = 0) -> None:
        """Raises ``Damaged`` for anything but a head of crops of ``side`` pixels."""
        refuse_unsafe(model)
        self.side = side
        self._session: Any = open_session(model, threads or min(available_cpus(), MAX_THREADS))
        taken, given = self._session.get_inputs(), self._session.get_outputs()
        shapes = [(one.name, one.type, list(one.shape[1:])) for one in taken]
        if shapes != [(INPUT, "tensor(uint8)", [side, side, 3])] or len(given) != 1:
            raise Damaged(f"{HEAD} takes {shapes}, and its manifest says crops of {side} pixels")

    def scores(self, frame: Pixels, boxes: Boxes) -> NDArray[np.float32]:
        """(N,) how much each box of a frame ``in_even_light`` looks like the target, [0, 1]."""
        image = PILImage.fromarray(frame)
        crops = [cut_crop(image, box, self.side) for box in boxes.tolist()]
        parts = [np.stack(crops[at : at + CROPS]) for at in range(0, len(crops), CROPS)]
        return np.concatenate([np.zeros(0, np.float32), *map(self._run, parts)])

    def _run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            (scores,) = self._session.run(None, {INPUT: crops})
        except Exception as cause:  # onnxruntime's own errors, and MemoryError
            raise Damaged(f"{HEAD} of the micro-model fails while it runs") from cause
        found = np.asarray(scores)
        if found.shape != (len(crops),) or not np.isfinite(found).all():
            raise Damaged(f"{HEAD} gives scores of shape {found.shape} for {len(crops)} crops")
        return found.astype(np.float32).clip(0, 1)


@dataclass(frozen=True, eq=False)
class KnownScene:
    """The frames of a clip as an embedder sees them."""

    vectors: Vectors
    limit: float
    """Cosine distance up to which a frame is of this scene."""

    def remoteness(self, vectors: Vectors) -> NDArray[np.float32]:
        """(N,) the distance of each to its nearest frame over the limit; up to 1 it is here."""
        nearest = (vectors @ self.vectors.T).max(axis=1)
        return np.asarray(np.maximum(0, 1 - nearest) / self.limit, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class MicroModel:
    """One micro-model, open."""

    manifest: MicroManifest
    finder: Proposer
    embedder: Embedder
    head: CropHead
    scene: KnownScene

    def find(self, images: Sequence[Image]) -> list[Proposals]:
        """What may be the target on images of its scene."""
        return self.finder.propose(images, [self.manifest.phrase], FINDER_FLOOR)

    def judged(self, image: Image, found: Proposals, floor: float) -> Proposals:
        """The target among the boxes ``found`` on an image, with one column of scores."""
        boxes = box_ops.clip(found.boxes, image.width, image.height)
        boxes = boxes[box_ops.area(boxes) > 0]
        scores = self.head.scores(in_even_light(image.pixels), boxes) ** STEEPNESS
        rows = np.flatnonzero(scores >= floor)
        kept = rows[box_ops.nms(boxes[rows], scores[rows], NMS_IOU)]
        return Proposals(boxes[kept], scores[kept, None])


def remoteness(models: Sequence[MicroModel], images: Sequence[Image]) -> NDArray[np.float32]:
    """(N, models): how far each image is from each model's scene; up to 1 it is of that scene."""
    vectors: dict[str, Vectors] = {}
    columns = []
    even = [Image(in_even_light(one.pixels), one.sha256, one.name) for one in images]
    for model in models:
        known = model_of(model.embedder)
        if known not in vectors:
            vectors[known] = embed_checked(model.embedder, even)
        columns.append(model.scene.remoteness(vectors[known]))
    return np.stack(columns, axis=1)


class MicroProposer:
    """One micro-model or several as a proposer. Thread-safe."""

    def __init__(self, models: Sequence[MicroModel], name: str) -> None:
        """``name``: for people."""
        self.models = tuple(models)
        classes = dict.fromkeys(one.manifest.class_name for one in self.models)
        self.vocabulary = Vocabulary(tuple(classes), f"micro-model '{name}'")
        self.name = f"micro-{name}"
        parts = [
            f"{one.manifest.digest} {one.finder.digest} {model_of(one.embedder)}"
            for one in self.models
        ]
        self.digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """See ``labeling.proposer.Proposer``. A frame of no known scene has no boxes."""
        columns = self.vocabulary.columns(phrases)
        if not images:
            return []
        empty = Proposals(np.zeros((0, 4), np.float32), np.zeros((0, len(phrases)), np.float32))
        proposed = [empty] * len(images)
        routes = [self._route(row) for row in remoteness(self.models, images)]
        for route, members in groupby(
            sorted(range(len(images)), key=routes.__getitem__), key=routes.__getitem__
        ):
            rows = [*members]
            found = self._with_models(route, [images[row] for row in rows], floor)
            for row, one in zip(rows, found, strict=True):
                scores = one.scores[:, columns]
                kept = scores.max(axis=1, initial=0) >= floor
                proposed[row] = Proposals(one.boxes[kept], scores[kept])
        return proposed

    def check_phrases(self, phrases: Sequence[str]) -> None:
        """See ``labeling.vocabulary.ChecksPhrases``."""
        self.vocabulary.columns(phrases)

    def _route(self, far: NDArray[np.float32]) -> tuple[int, ...]:
        """The models whose scene an image is, by its ``remoteness``: those of the nearest clip."""
        nearest = self.models[int(far.argmin())].manifest
        scene = nearest.clip, nearest.embedder
        return tuple(
            place
            for place, model in enumerate(self.models)
            if (model.manifest.clip, model.manifest.embedder) == scene and far[place] <= 1
        )

    def _with_models(
        self, route: Sequence[int], images: Sequence[Image], floor: float
    ) -> list[Proposals]:
        """What the models at ``route`` find, with a column for each class of the vocabulary."""
        boxes: list[list[Boxes]] = [[np.zeros((0, 4), np.float32)] for _ in images]
        scores = [[np.zeros((0, len(self.vocabulary.names)), np.float32)] for _ in images]
        by_finder: dict[tuple[str, str], list[Proposals]] = {}
        for place in route:
            model = self.models[place]
            column = self.vocabulary.names.index(model.manifest.class_name)
            asked = model.manifest.finder, model.manifest.phrase
            if asked not in by_finder:  # what several tell apart is found once
                by_finder[asked] = model.find(images)
            for row, boxes_found in enumerate(by_finder[asked]):
                found = model.judged(images[row], boxes_found, floor)
                wide = np.zeros((len(found), len(self.vocabulary.names)), np.float32)
                wide[:, column] = found.scores[:, 0]
                boxes[row].append(found.boxes)
                scores[row].append(wide)
        return [
            Proposals(np.concatenate(b), np.concatenate(s))
            for b, s in zip(boxes, scores, strict=True)
        ]


def load(argument: str, options: ModelSettings) -> MicroProposer:
    """The micro-models that ``argument`` names; see the head of this module.

    Raises ``NotFound``, ``Damaged`` for one that is not as its manifest says, ``BadSetting`` for a
    finder that is no registered adapter, and what loading finder and embedder raises.
    """
    path = Path(argument).expanduser()
    wanted = read_micro_set(path)
    loaded: dict[tuple[str, str], Any] = {}
    models = [_open(folder, wanted, options, loaded) for folder in wanted.folders]
    name = "".join(c if c.isprintable() else "?" for c in path.resolve().stem)[:100]
    one = len(models) == 1 and not wanted.find
    return MicroProposer(models, models[0].manifest.name if one else name)


def _open(
    folder: Path, of: MicroSet, options: ModelSettings, loaded: dict[tuple[str, str], Any]
) -> MicroModel:
    """A micro-model; finders and embedders that several share are loaded once."""
    from secondlook.models.registry import load_embedder, load_proposer

    manifest = own = read_micro_manifest(folder)
    if of.find:  # a line's model stands in for its own; so its digest is another one
        manifest = replace(own, finder=of.find, phrase=of.phrase or own.phrase)
    check_adapter(PROPOSERS, manifest.finder)
    check_adapter(EMBEDDERS, manifest.embedder)
    head = CropHead(read_hashed(folder, own, HEAD), own.side, options.threads)
    options = replace(options, tile=0)  # the micro-model as a whole is shown tiles
    for group, spec, read in (
        (PROPOSERS, manifest.finder, load_proposer),
        (EMBEDDERS, manifest.embedder, load_embedder),
    ):
        if (group, spec) not in loaded:
            loaded[group, spec] = read(spec, options)
    finder, embedder = loaded[PROPOSERS, manifest.finder], loaded[EMBEDDERS, manifest.embedder]
    if of.find and isinstance(finder, ChecksPhrases):
        finder.check_phrases([manifest.phrase])
    vectors = read_scene(read_hashed(folder, own, SCENE), embedder.dimensions)
    return MicroModel(manifest, finder, embedder, head, KnownScene(vectors, own.scene_distance))
