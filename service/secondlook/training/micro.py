"""Training of a micro-model: a clip and about five labels in, a folder for ``micro:FOLDER`` out.

1. The labelled frames are read, and brought into even light.
2. The finder, any proposer, gives the boxes among which the target is told apart.
3. A head learns from crops of them (``micro_crops``, ``micro_head``).
4. The embedder remembers what frames of the clip look like, so that the model keeps to its scene.

The folder is replaced as a whole: what served before goes on until the new one is there.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import EMBEDDERS, PROPOSERS, ImageSettings, ModelSettings
from secondlook.core.boxes import iou
from secondlook.core.decoding import ImageDecoder
from secondlook.core.files import explain_write_errors, one_line, replacing
from secondlook.core.frame_names import frame_address
from secondlook.core.image_folder import VIDEO_SUFFIXES, ImageFile, ImageSelection
from secondlook.core.types import Boxes, Image
from secondlook.labeling.embedder import Embedder, Vectors, embed_checked
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.vocabulary import ChecksPhrases
from secondlook.models.micro import FINDER_FLOOR, in_even_light
from secondlook.models.micro_folder import (
    HEAD,
    LABELS,
    SCENE,
    MicroManifest,
    described_files,
    is_micro_folder,
    read_micro_manifest,
    write_micro_manifest,
)
from secondlook.models.micro_set import check_adapter
from secondlook.models.registry import load_embedder, load_proposer
from secondlook.training.micro_crops import CropSampler, LabelledFrame
from secondlook.training.micro_head import (
    HeadEnsemble,
    HeadTraining,
    export_head,
    train_head,
)
from secondlook.training.micro_labels import FrameLabels, checked, write_labels
from secondlook.training.torch_student import TorchStudent
from secondlook_client.errors import InvalidInput, LocalFailure, OutputExists

SIDE = 80
"""Pixels of a crop: a figure of a video is seldom larger."""
BATCH = 24
MEMBERS = 2
"""Heads whose mean decides, each trained for its share of the steps and the time."""
SCENE_FRAMES = 96
"""Frames of the clip that are remembered, evenly spread."""
SCENE_MARGIN = 1.3
"""How much farther than any frame of the clip from its nearest other one a frame may be. On six
rendered clips other frames of the same clip came to 0.95, and those of another one began at 1.4
to 2.3."""
LEAST_DISTANCE = 1e-3
"""Of a scene whose frames are all alike."""
FOUND_IOU = 0.5
"""Overlap with a label from which a box of the finder counts as on it."""
FEW = 2
"""Labels up to which a warning says so."""
FINDER_BATCH = 8
MAX_LISTED = 100_000
"""Frames of a clip that are known by name; of a longer one every second, every fourth, …"""


@dataclass(frozen=True)
class MicroTraining:
    """How a micro-model is made."""

    class_name: str
    finder: str
    """Spec of a proposer."""
    phrase: str
    embedder: str
    start: str
    """``demo`` or the folder of a student whose backbone the head begins with."""
    steps: int
    minutes: float
    """Most time of the head's training."""
    seed: int


@dataclass(frozen=True)
class MicroProgress:
    """Where a training is."""

    step: int
    of: int
    loss: float


@dataclass(frozen=True, eq=False)
class MicroParts:
    """The models of others that a micro-model works with."""

    finder: Proposer
    embedder: Embedder


def train_micro(
    clip: ImageSelection,
    labels: Sequence[FrameLabels],
    how: MicroTraining,
    parts: MicroParts,
    out: Path,
    limits: ImageSettings,
    tell: Callable[[MicroProgress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[MicroManifest, list[str]]:
    """Train a micro-model on ``labels`` of frames of ``clip`` into the folder ``out``.

    Gives its manifest and warnings, a sentence each. A micro-model that is in ``out`` is replaced
    by one with the next version number. Raises ``OutputExists`` for another folder,
    ``InvalidInput`` for labels that do not fit the clip or each other and where the finder sees
    none of them, ``Cancelled``, ``StorageFull``, and what the models raise.
    """
    before = previous_version(out)
    began = time.monotonic()
    with closing(_ClipReader(clip, limits, stop)) as reader:
        frames, warnings = _labelled_frames(reader, labels, how, parts)
        vectors = _scene(reader, parts.embedder)
        name = reader.clip_name
    warnings += _check_found(frames, how)
    sampler = CropSampler(frames, SIDE, how.seed)
    heads = _trained_heads(sampler, how, tell, stop)
    if not sampler.places.others:
        warnings.append("the labelled frames show nothing else; it may take any object for it")
    known = [frame.labels for frame in frames]
    with explain_write_errors(out), replacing(out) as folder:
        folder.mkdir(parents=True)
        export_head(heads, folder / HEAD, SIDE)
        np.save(folder / SCENE, vectors, allow_pickle=False)
        write_labels(folder / LABELS, how.class_name, known)
        manifest = MicroManifest(
            name=before.name if before else one_line(out.resolve().name)[:200] or "micro",
            class_name=how.class_name,
            finder=how.finder,
            phrase=how.phrase,
            embedder=how.embedder,
            scene_distance=_scene_distance(vectors),
            side=SIDE,
            clip=one_line(name)[:200],
            labels=sum(len(one.boxes) for one in known),
            negatives=sum(len(one.negatives) for one in known),
            frames=len(known),
            seconds=round(time.monotonic() - began, 1),
            version=before.version + 1 if before else 1,
            parent=before.digest if before else "",
            files=described_files(folder),
            created_at=time.time(),
        )
        write_micro_manifest(folder, manifest)
    return manifest, warnings


def _trained_heads(
    sampler: CropSampler,
    how: MicroTraining,
    tell: Callable[[MicroProgress], None],
    stop: Callable[[], bool],
) -> HeadEnsemble:
    steps = max(1, how.steps // MEMBERS)
    heads = []
    for member in range(MEMBERS):
        of_head = HeadTraining(SIDE, steps, BATCH, 60 * how.minutes / MEMBERS, how.seed + member)

        def told(step: int, loss: float, before: int = member * steps) -> None:
            tell(MicroProgress(before + step, MEMBERS * steps, loss))

        heads.append(train_head(sampler, TorchStudent.open(how.start), of_head, told, stop))
    return HeadEnsemble(heads).eval()


def previous_version(out: Path) -> MicroManifest | None:
    """The manifest of the micro-model in ``out``; None for a folder that is new or empty.

    Raises ``OutputExists`` for one that holds anything else, and ``Damaged``.
    """
    if is_micro_folder(out):
        return read_micro_manifest(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out} holds something else; give a new folder as --out")
    return None


class _ClipReader:
    """The frames of a clip: a video, or a folder of images."""

    def __init__(
        self, clip: ImageSelection, limits: ImageSettings, stop: Callable[[], bool]
    ) -> None:
        self._clip, self._limits, self._stop = clip, limits, stop
        self._decoder = ImageDecoder(limits)
        self._files = _thinned(clip)
        if not self._files:
            raise InvalidInput("the clip has no frame that can be read; give a video or a folder")

    @property
    def clip_name(self) -> str:
        """Of the video or the folder."""
        return self._clip.sources[0].name or "clip"

    def close(self) -> None:
        self._decoder.close()
        if self._clip.clips:
            self._clip.clips.close()

    def sample(self, count: int) -> list[Image]:
        """At most so many frames, evenly spread; those that cannot be read are left out."""
        step = max(1, -(-len(self._files) // count))
        found = []
        for file in self._files[::step]:
            try:
                found.append(self.read(file))
            except (InvalidInput, LocalFailure):
                continue
        if not found:
            raise InvalidInput("no frame of the clip can be decoded; give another file")
        return found

    def read(self, file: ImageFile) -> Image:
        """One frame. Raises ``BadImage`` and others, which are ``InvalidInput``."""
        data = self._clip.read(file, self._limits.max_image_bytes)
        return self._decoder.decode(data, file.name, threading.Event())

    def named(self, name: str) -> Image:
        """The frame of that name. Raises ``InvalidInput`` where the clip has none."""
        file = self._find(name)
        if file is None:
            raise InvalidInput(
                f"the labels are of '{name:.80}', and the clip has no such frame; the first is "
                f"'{self._files[0].name:.80}'. Frames are named as in `secondlook label`"
            )
        try:
            return self.read(file)
        except (InvalidInput, LocalFailure) as failure:
            raise InvalidInput(
                f"'{name:.80}', which has labels, cannot be read ({failure}); is the video cut "
                "short, or another one than was labelled? Frames are named by their own times, "
                "which need not be even, as in `secondlook label`"
            ) from failure

    def _find(self, name: str) -> ImageFile | None:
        """By the whole name, or without the folders before it: tools write both."""
        own = {file.name: file for file in self._files}
        if name in own:
            return own[name]
        last = PurePosixPath(name).name
        same = [file for known, file in own.items() if PurePosixPath(known).name == last]
        if len(same) == 1:
            return same[0]
        address = frame_address(last)
        videos = {f.frame_ms is not None and frame_address(f.name) for f in self._files}
        clips = {one.clip for one in videos if one}
        if address and self._clip.clips:
            for clip in clips:
                if PurePosixPath(clip).name == address.clip:
                    return self._clip.clips.named(replace(address, clip=clip).name)
        return None


def _thinned(clip: ImageSelection) -> list[ImageFile]:
    """The images of a clip, at most ``MAX_LISTED``, evenly spread. Raises ``InvalidInput`` for a
    video that cannot be read."""
    files: list[ImageFile] = []
    every = 1
    for number, file in enumerate(clip.walk()):
        if file.refusal:
            if file.path.suffix.lower() in VIDEO_SUFFIXES:
                raise InvalidInput(file.refusal)
            continue
        if number % every == 0:
            files.append(file)
        if len(files) > MAX_LISTED:
            files, every = files[::2], 2 * every
    return files


def _labelled_frames(
    reader: _ClipReader, labels: Sequence[FrameLabels], how: MicroTraining, parts: MicroParts
) -> tuple[list[LabelledFrame], list[str]]:
    if not any(len(one.boxes) for one in labels):
        raise InvalidInput("there is no label; mark the target in about five frames of the clip")
    images, known, warnings = [], [], []
    for one in labels:
        image = reader.named(one.name)
        fitting, notes = checked(one, image.width, image.height)
        images.append(image)
        known.append(fitting)
        warnings += notes
    found: list[Boxes] = []
    for at in range(0, len(images), FINDER_BATCH):
        some = parts.finder.propose(images[at : at + FINDER_BATCH], [how.phrase], FINDER_FLOOR)
        found += [one.boxes for one in some]
    frames = [
        LabelledFrame(in_even_light(image.pixels), of_image, boxes)
        for image, of_image, boxes in zip(images, known, found, strict=True)
    ]
    return frames, warnings


def _check_found(frames: Sequence[LabelledFrame], how: MicroTraining) -> list[str]:
    """Warnings of what the labels are too few for, and of what the finder does not see.

    Raises ``InvalidInput`` where it sees no label at all: a micro-model judges its boxes.
    """
    overlaps = [iou(one.labels.boxes, one.found).max(axis=1, initial=0) for one in frames]
    seen = np.concatenate(overlaps) >= FOUND_IOU
    warnings = []
    if not seen.any():
        raise InvalidInput(
            f"the finder '{how.finder}' has no box on any of {len(seen)} labels when it is asked "
            f"for '{how.phrase}': the clip does not show the class there, the labels are of frames "
            "that were not upright, or the finder does not know such objects; give --phrase what "
            "kind of object it is, or another --finder"
        )
    if not seen.all():
        warnings.append(
            f"the finder '{how.finder}' has no box on {int((~seen).sum())} of {len(seen)} labels "
            f"when it is asked for '{how.phrase}'; about so many will not be found"
        )
    if len(seen) <= FEW:
        warnings.append(f"{len(seen)} label(s) only; five in different frames find far more")
    return warnings


def _scene(reader: _ClipReader, embedder: Embedder) -> Vectors:
    images = reader.sample(SCENE_FRAMES)
    even = [Image(in_even_light(one.pixels), one.sha256, one.name) for one in images]
    return embed_checked(embedder, even)


def _scene_distance(vectors: Vectors) -> float:
    """The largest distance of a frame to its nearest other one, with ``SCENE_MARGIN``."""
    if len(vectors) < 2:
        return LEAST_DISTANCE
    alike: NDArray[np.float32] = vectors @ vectors.T
    np.fill_diagonal(alike, -1.0)
    farthest = float(1 - alike.max(axis=1).min())
    return min(2.0, max(LEAST_DISTANCE, SCENE_MARGIN * farthest))


def load_parts(how: MicroTraining, options: ModelSettings) -> MicroParts:
    """The finder and the embedder. Raises what loading them raises, and ``BadOntology`` for a
    phrase that the finder does not know."""
    check_adapter(PROPOSERS, how.finder)
    check_adapter(EMBEDDERS, how.embedder)
    finder = load_proposer(how.finder, replace(options, tile=0))  # as the micro-model loads it
    if isinstance(finder, ChecksPhrases):
        finder.check_phrases([how.phrase])
    return MicroParts(finder, load_embedder(how.embedder, options))
