"""A trained detector as stage one: ``onnx:PATH``, with the names of its classes as phrases.

``PATH`` is the folder of a student, an ONNX file, or a folder with one such file. Which head a file
has (``detector_heads``), how large its input is and what its classes are called (``class_names``)
is read from it where it can be told reliably. The rest is said behind the path:

    onnx:yolox_nano.onnx
    onnx:faces.onnx?mean=127&std=128&names=faces.txt

    head      one of ``detector_heads.HEADS``
    size      WIDTHxHEIGHT of the input, where the file leaves it open (else 640x640)
    channels  rgb or bgr
    mean,std  what is subtracted from values of 0 … 255 and what they are divided by: one number, or
              three in the order of the channels; mean=0&std=255 gives 0 … 1
    resize    stretch, letterbox (grey at the right and bottom), or letterbox_center
    names     a file of class names, or ``coco``

A file from strangers is checked (``detector.onnx_safety``) and tried in a child process with limits
of memory and time before it is opened here. It needs onnxruntime and no torch.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import ModelSettings
from secondlook.core import boxes as box_ops
from secondlook.core.processors import available_cpus
from secondlook.core.sandbox import SandboxCall, SandboxLimits
from secondlook.core.types import STUDENT, Boxes, Image, Pixels, Proposals
from secondlook.detector.manifest import FILE_NAME, MAX_FILE
from secondlook.detector.onnx_safety import refuse_unsafe
from secondlook.detector.runtime import (
    MAX_THREADS,
    OnnxDetector,
    open_session,
    stretch,
)
from secondlook.detector.trial import TrialLimits, open_tried, peak_memory_mb, run_trial
from secondlook.labeling.vocabulary import Vocabulary
from secondlook.models.class_names import coco_names, find_names, read_text
from secondlook.models.detector_heads import (
    HEADS,
    DetectorHead,
    Outputs,
    Size,
    described,
    detection_outputs,
    find_head,
)
from secondlook.models.spec_options import parse_channels, split_options
from secondlook_client.errors import BadSetting, Damaged, NotFound

OPTIONS = ("head", "size", "channels", "mean", "std", "resize", "names")
RESIZES = ("stretch", "letterbox", "letterbox_center")
TRIAL = TrialLimits(memory_mb=4096, cpu_s=120.0, image_s=30.0)
"""Of a detector that its user chose: the large ones need some seconds an image on one core."""
DEFAULT_SIZE = (640, 640)
MIN_SIDE, MAX_SIDE = 32, 4096
"""Pixels of an input."""
PIXELS_PER_RUN = 2**22
"""Of a batch at most: a CPU gains nothing from more, and memory grows with them."""
GREY = 114
"""What YOLO models are trained to see around an image."""
NMS_IOU = 0.65
"""IoU above which two boxes of one class are one object, as YOLOX and its like are evaluated."""
NMS_CANDIDATES = 1000
"""Pairs of box and class that are compared with each other: the best ones."""
_SIZES_INPUT = "orig_target_sizes"
"""Second input of RT-DETR and D-FINE: the sizes that their boxes are scaled to."""
_ELEMENTS: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(uint8)": np.dtype(np.uint8),
}
_OUTSIDE = 0.01
"""How far scores may leave 0 … 1 by rounding."""


@dataclass(frozen=True)
class InputPlacement:
    """Where an image lies in the input of a model: x' = x · scale + offset, and y alike."""

    scale: tuple[float, float]
    offset: tuple[int, int]

    def to_image(self, boxes: Boxes) -> Boxes:
        """Boxes (N, 4) in pixels of the input, as pixels of the image."""
        return ((boxes - np.tile(self.offset, 2)) / np.tile(self.scale, 2)).astype(np.float32)

    def to_input(self, boxes: Boxes) -> Boxes:
        """Boxes (N, 4) in pixels of the image, as pixels of the input."""
        return (boxes * np.tile(self.scale, 2) + np.tile(self.offset, 2)).astype(np.float32)


def place(pixels: Pixels, size: Size, resize: str) -> tuple[Pixels, InputPlacement]:
    """An image (H, W, 3) as an input of ``size`` (width, height), and where it lies in it.

    ``resize`` is one of ``RESIZES``; the letterboxes keep the image's shape.
    """
    height, width = pixels.shape[:2]
    if resize == "stretch":
        return stretch(pixels, size), InputPlacement((size[0] / width, size[1] / height), (0, 0))
    factor = min(size[0] / width, size[1] / height)
    inner = tuple(
        min(full, max(1, round(side * factor)))
        for side, full in zip((width, height), size, strict=True)
    )
    centre = resize == "letterbox_center"
    left, top = (
        (full - side) // 2 if centre else 0 for full, side in zip(size, inner, strict=True)
    )
    canvas = np.full((size[1], size[0], 3), GREY, np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = stretch(pixels, (inner[0], inner[1]))
    return canvas, InputPlacement((inner[0] / width, inner[1] / height), (left, top))


@dataclass(frozen=True)
class PixelRecipe:
    """How an image becomes numbers for a model."""

    channels: str
    mean: tuple[float, ...]
    """One, or one a channel; of values of 0 … 255."""
    std: tuple[float, ...]
    resize: str

    def normalised(self, canvases: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, H, W, 3) float32 of RGB canvases."""
        ordered = canvases[..., ::-1] if self.channels == "bgr" else canvases
        numbers = ordered.astype(np.float32)
        numbers -= np.asarray(self.mean, np.float32)
        numbers /= np.asarray(self.std, np.float32)
        return numbers


class DetectorGraph:
    """A session of a checked ONNX file: canvases in, outputs by name out. Thread-safe."""

    def __init__(self, model: bytes, threads: int, size: Size | None) -> None:
        """``size`` is for a file that leaves it open.

        Raises ``BadSetting`` for inputs that are no detector's, ``Damaged`` and ``MissingExtra``.
        """
        self._session = open_session(model, threads)
        inputs = self._session.get_inputs()
        images = [value for value in inputs if len(value.shape) == 4]
        extra = [value.name for value in inputs if len(value.shape) != 4]
        shown = ", ".join(f"{value.name:.40} {value.shape}" for value in inputs[:8])
        if len(images) != 1 or extra not in ([], [_SIZES_INPUT]):
            raise BadSetting(
                f"the model takes {shown}; expected one image (B, 3, H, W) or (B, H, W, 3), and "
                f"at most '{_SIZES_INPUT}' beside it"
            )
        self._name, shape = images[0].name, images[0].shape
        self._wants_sizes = bool(extra)
        self._last = shape[3] == 3 and shape[1] != 3
        if images[0].type not in _ELEMENTS or shape[3 if self._last else 1] != 3:
            raise BadSetting(
                f"the model takes {shown} of {images[0].type}; expected images of three channels "
                f"of {', '.join(_ELEMENTS)}"
            )
        self.dtype = _ELEMENTS[images[0].type]
        self.batched = not isinstance(shape[0], int)
        """Whether it takes several images at a time."""
        if not self.batched and shape[0] != 1:
            raise BadSetting(f"the model takes {shown}: a fixed batch; export it with a batch of 1")
        self.size = _input_size(shape[1:3] if self._last else shape[2:4], size, self.metadata)

    @property
    def metadata(self) -> dict[str, str]:
        """What its publisher wrote into the file."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, images: NDArray[np.generic]) -> Outputs:
        """The outputs for (B, H, W, 3) numbers. Raises ``Damaged`` when the model fails."""
        batch = images if self._last else images.transpose(0, 3, 1, 2)
        feed: dict[str, Any] = {self._name: np.ascontiguousarray(batch, self.dtype)}
        if self._wants_sizes:
            feed[_SIZES_INPUT] = np.tile(np.array(self.size, np.int64), (len(images), 1))
        try:
            values = self._session.run(None, feed)
        except Exception as cause:  # onnxruntime's own errors, and MemoryError
            raise Damaged(f"the model fails while it runs: {str(cause)[:200]}") from cause
        names = [output.name for output in self._session.get_outputs()]
        return detection_outputs(dict(zip(names, values, strict=True)))


class DetectorProposer:
    """Boxes of a detector that knows a fixed list of classes. Thread-safe."""

    def __init__(
        self,
        detect: Callable[[Sequence[Pixels], float], list[Proposals]],
        classes: Sequence[str],
        name: str,
        digest: str,
    ) -> None:
        """``detect(images, floor)``: see the method of that name."""
        self._detect = detect
        self.vocabulary = Vocabulary(classes, f"the detector '{name}'")
        self.name = name
        self.digest = digest

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in the order of its scores."""
        return self.vocabulary.names

    def detect(self, images: Sequence[Pixels], floor: float) -> list[Proposals]:
        """What is on each image, (H, W, 3) uint8 RGB of any size.

        Scores have one column for each of ``classes``; a box's best one is at least ``floor``.
        Raises ``Damaged`` when the model fails or its output is not that of a detector.
        """
        return self._detect(images, floor)

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """See ``labeling.proposer.Proposer``."""
        columns = self.vocabulary.columns(phrases)
        proposed = []
        for found in self.detect([image.pixels for image in images], floor):
            scores = found.scores[:, columns]
            kept = scores.max(axis=1, initial=0) >= floor
            proposed.append(Proposals(found.boxes[kept], scores[kept]))
        return proposed

    def check_phrases(self, phrases: Sequence[str]) -> None:
        """See ``labeling.vocabulary.ChecksPhrases``."""
        self.vocabulary.columns(phrases)


class _FileDetector:
    """An ONNX file with its head, pixels and classes."""

    def __init__(
        self,
        graph: DetectorGraph,
        head: DetectorHead,
        pixels: PixelRecipe,
        classes: int,
        batch: int,
    ) -> None:
        self._graph, self._head, self._pixels, self._classes = graph, head, pixels, classes
        room = max(1, PIXELS_PER_RUN // math.prod(graph.size))
        # With suppression in the graph, images of one batch may have different numbers of boxes.
        together = graph.batched and head.name != "boxes_scores_labels"
        self._batch = min(batch, room) if together else 1

    def detect(self, images: Sequence[Pixels], floor: float) -> list[Proposals]:
        parts = [images[at : at + self._batch] for at in range(0, len(images), self._batch)]
        return [found for part in parts for found in self._detect_batch(part, floor)]

    def _detect_batch(self, images: Sequence[Pixels], floor: float) -> list[Proposals]:
        graph = self._graph
        placed = [place(pixels, graph.size, self._pixels.resize) for pixels in images]
        canvases = np.stack([canvas for canvas, _ in placed])
        numbers = canvases if graph.dtype == np.uint8 else self._pixels.normalised(canvases)
        outputs = graph.run(numbers)
        boxes, scores = self._head.decode(outputs, graph.size, self._classes)
        if len(boxes) != len(images) or scores.shape != (*boxes.shape[:2], self._classes):
            raise Damaged(f"the model gives {described(outputs)}, other shapes than when opened")
        # A triple of exports with suppression may be padded with -1, in score and label.
        if not np.isfinite(scores).all() or scores.max(initial=0) > 1 + _OUTSIDE:
            raise Damaged(
                "the model gives scores that are no probabilities; if they are logits, export it "
                "with the sigmoid"
            )
        return [
            self._select(rows, columns.clip(0, 1), placement, pixels, floor)
            for rows, columns, (_, placement), pixels in zip(
                boxes, scores, placed, images, strict=True
            )
        ]

    def _select(
        self,
        boxes: Boxes,
        scores: NDArray[np.float32],
        placement: InputPlacement,
        pixels: Pixels,
        floor: float,
    ) -> Proposals:
        rows = np.flatnonzero(scores.max(axis=1, initial=0) >= max(floor, 1e-6))
        near = box_ops.clip(placement.to_image(boxes[rows]), pixels.shape[1], pixels.shape[0])
        sound = box_ops.area(near) > 0
        near, scores = near[sound], scores[rows[sound]]
        if self._head.duplicates:
            near, scores = without_duplicates(near, scores, floor)
        order = np.argsort(-scores.max(axis=1, initial=0), kind="stable")
        return Proposals(near[order], scores[order])


def without_duplicates(
    boxes: Boxes, scores: NDArray[np.float32], floor: float
) -> tuple[Boxes, NDArray[np.float32]]:
    """Class-wise non-maximum suppression of (N, 4) boxes with (N, C) scores.

    A score that a better box of its class suppresses becomes 0; a box without a score of at least
    ``floor`` is left out.
    """
    rows, columns = np.nonzero(scores >= max(floor, 1e-6))
    found = scores[rows, columns]
    best = np.argsort(-found, kind="stable")[:NMS_CANDIDATES]
    rows, columns, found = rows[best], columns[best], found[best]
    kept = box_ops.nms(boxes[rows], found, NMS_IOU, columns.astype(np.int64))
    survived = np.zeros_like(scores)
    survived[rows[kept], columns[kept]] = found[kept]
    some = survived.any(axis=1)
    return boxes[some], survived[some]


def load(argument: str, options: ModelSettings) -> DetectorProposer:
    """The detector in a student's folder or an ONNX file; see the head of this module.

    Raises ``NotFound`` for a path that is not there, ``BadSetting`` for a model that is not
    understood, ``Damaged`` for one that is refused, and ``MissingExtra``.
    """
    where, settings = split_options(argument, OPTIONS)
    path = Path(where).expanduser()
    if (path / FILE_NAME).is_file():
        if settings:
            raise BadSetting(f"'{where}' is a student, whose manifest says all; leave out the ?…")
        return _load_student(path, options)
    file = _onnx_file(path, where)
    return _load_file(file, settings, options)


def _load_student(folder: Path, options: ModelSettings) -> DetectorProposer:
    """Its scores are its calibrated probabilities, which mean the same for every student."""
    detector = open_tried(folder, "fp32", options.threads)
    manifest = detector.manifest

    def detect(images: Sequence[Pixels], floor: float) -> list[Proposals]:
        return [_as_columns(detector, found, floor) for found in detector.detect(images)]

    name = manifest.name.removeprefix(STUDENT) or "student"
    return DetectorProposer(detect, manifest.classes, name, manifest.digest[:12])


def _as_columns(detector: OnnxDetector, found: Any, floor: float) -> Proposals:
    """Detections as one row a box, with the probability of each class."""
    probabilities = detector.probability(found)
    boxes, rows = np.unique(found.boxes, axis=0, return_inverse=True)
    scores = np.zeros((len(boxes), len(detector.manifest.classes)), np.float32)
    np.maximum.at(scores, (rows.ravel(), found.classes), probabilities)
    order = np.argsort(-scores.max(axis=1, initial=0), kind="stable")
    order = order[scores[order].max(axis=1, initial=0) >= floor]
    return Proposals(boxes[order].reshape(-1, 4).astype(np.float32), scores[order])


def _onnx_file(path: Path, where: str) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.onnx")) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found[:8])
        raise NotFound(f"the folder '{where}' holds {len(found)} ONNX files: {names}; name one")
    raise NotFound(
        f"'{where}' is neither an ONNX file nor a folder with one or with a student; "
        "give onnx:PATH/model.onnx"
    )


def _load_file(file: Path, settings: Mapping[str, str], options: ModelSettings) -> DetectorProposer:
    model = read_onnx(file)
    wanted = _parse_size(settings["size"]) if "size" in settings else None
    refuse_unsafe(model, suppression=True)
    _try(model, wanted)
    graph = DetectorGraph(model, options.threads or min(available_cpus(), MAX_THREADS), wanted)
    outputs = graph.run(_noise(graph))
    names = find_names(file, settings.get("names", ""), graph.metadata)
    head = _head(outputs, graph.size, len(names or ()), settings.get("head"))
    classes = _classes(head, outputs, graph.size, names, file)
    pixels = _recipe(head, graph, settings, file)
    detector = _FileDetector(graph, head, pixels, len(classes), options.model_batch)
    detector.detect([np.zeros((64, 64, 3), np.uint8)], 0.5)  # whatever is wrong shows now
    total = hashlib.sha256(model)
    total.update(repr((head.name, graph.size, pixels, classes)).encode())
    name = "".join(c if c.isprintable() else "?" for c in file.stem)[:100]
    return DetectorProposer(
        detector.detect, classes, name.removeprefix(STUDENT), total.hexdigest()[:12]
    )


def read_onnx(file: Path) -> bytes:
    """The bytes of a model. Raises ``NotFound``, and ``BadSetting`` for one that is too large."""
    try:
        with file.open("rb") as stream:
            model = stream.read(MAX_FILE + 1)
    except OSError as cause:
        raise NotFound(f"'{file.name}' cannot be read ({cause.strerror})") from cause
    if len(model) > MAX_FILE:
        raise BadSetting(f"'{file.name}' has more than {MAX_FILE:,} bytes; give a smaller model")
    return model


def _try(model: bytes, size: Size | None) -> None:
    """Run it in a child process first. Raises ``Damaged`` for one that takes too much."""
    within = SandboxLimits(TRIAL.cpu_s, TRIAL.memory_mb * 2**20)
    result = run_trial(SandboxCall(measure, model, size, within=within), TRIAL)
    if result.image_s > TRIAL.image_s:
        raise Damaged(
            f"the model takes {result.image_s:.1f} s for one image, of {TRIAL.image_s:g} s allowed"
        )


def measure(model: bytes, size: Size | None) -> tuple[float, float]:
    """In the child: (CPU seconds of one image, peak memory in megabytes)."""
    try:
        graph = DetectorGraph(bytes(model), 1, size)
        graph.run(_noise(graph))
        began = time.process_time()
        graph.run(_noise(graph))
    except Damaged as failure:
        if "alloc" in str(failure.__cause__):  # of C++, which onnxruntime passes on as text
            raise MemoryError from failure
        raise
    return time.process_time() - began, peak_memory_mb()


def _noise(graph: DetectorGraph) -> NDArray[np.generic]:
    """One input of noise, as numbers that suit any normalisation."""
    width, height = graph.size
    noise = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    return noise if graph.dtype == np.uint8 else noise.astype(np.float32) / 255


def _head(outputs: Outputs, size: Size, names: int, given: str | None) -> DetectorHead:
    if given is None:
        return find_head(outputs, size, names)
    if given not in HEADS:
        raise BadSetting(f"head '{given}' is unknown; known are {', '.join(HEADS)}")
    return HEADS[given]


def _classes(
    head: DetectorHead,
    outputs: Outputs,
    size: Size,
    names: tuple[str, ...] | None,
    file: Path,
) -> tuple[str, ...]:
    """The names that fit the outputs. Raises ``BadSetting`` saying what to give."""
    try:
        columns = head.decode(outputs, size, len(names or ()))[1].shape[-1]
    except (ValueError, IndexError, KeyError, StopIteration, RuntimeError) as cause:
        raise BadSetting(
            f"the outputs {described(outputs)} are not those of head '{head.name}'"
        ) from cause
    if names is None:
        spare = 1 if head.name in ("detr", "boxes_scores") else 0
        names = coco_names(columns) or (coco_names(columns - spare) if spare else None)
    if names is None:
        count = f"has {columns} classes" if columns else "does not say its classes"
        raise BadSetting(
            f"'{file.name}' {count}, and nobody wrote their names; put them into "
            f"{file.stem}.names beside it, one a line, or give ?names=FILE (?names=coco for "
            "COCO's 80)"
        )
    if head.decode(outputs, size, len(names))[1].shape[-1] != len(names):
        raise BadSetting(
            f"'{file.name}' gives {described(outputs)}, which is {columns} classes as head "
            f"'{head.name}', and there are {len(names)} names ({names[0]}, …); give the names "
            "that belong to it with ?names=FILE, or another ?head="
        )
    return names


def _recipe(
    head: DetectorHead, graph: DetectorGraph, settings: Mapping[str, str], file: Path
) -> PixelRecipe:
    """How its pixels are prepared: as said in the spec, beside the file, or usual for its head."""
    usual = head.pixels
    channels = _one_of("channels", settings.get("channels", usual.channels), ("rgb", "bgr"))
    resize = _one_of("resize", settings.get("resize", usual.resize), RESIZES)
    if graph.dtype == np.uint8:
        if {"mean", "std"} & settings.keys():
            raise BadSetting("the model takes bytes; leave out mean and std, it normalises itself")
        return PixelRecipe(channels, (0.0,), (1.0,), resize)
    mean, std = (parse_channels(settings, key) for key in ("mean", "std"))
    beside = _processor(file.parent / "preprocessor_config.json")
    mean = mean or (beside[0] if beside else None)
    std = std or (beside[1] if beside else usual.std)
    if std is None or (mean is None and usual.std is None):
        raise BadSetting(
            f"models with the outputs of head '{head.name}' are trained on pixels that are "
            "normalised in different ways; say which: ?mean=0&std=255 for values of 0 to 1, or "
            "?mean=123.675,116.28,103.53&std=58.395,57.12,57.375 for ImageNet's"
        )
    return PixelRecipe(channels, mean or (0.0,), std, resize)


def _processor(file: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and divisor of values of 0 … 255 in a transformers image processor's settings."""
    try:
        config = json.loads(read_text(file)) if file.is_file() else None
        if not isinstance(config, dict):
            return None
        scale = 1 / float(config["rescale_factor"]) if config.get("do_rescale", True) else 1.0
        if not config.get("do_normalize"):
            return (0.0,), (scale,)
        mean = tuple(float(value) * scale for value in config["image_mean"])
        return mean, tuple(float(value) * scale for value in config["image_std"])
    except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError):
        return None


def _input_size(sides: Sequence[Any], wanted: Size | None, metadata: Mapping[str, str]) -> Size:
    """Width and height of the input, of the (height, width) that the file declares."""
    height, width = (side if isinstance(side, int) and side > 0 else 0 for side in sides)
    if height and width:
        if wanted and wanted != (width, height):
            raise BadSetting(f"the model's input is {width}x{height}; leave out ?size=")
        size = (width, height)
    else:
        size = wanted or _ultralytics_size(metadata.get("imgsz", "")) or DEFAULT_SIZE
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise BadSetting(
            f"the model's input is {size[0]}x{size[1]}; expected sides of {MIN_SIDE} to {MAX_SIDE}"
        )
    return size


def _ultralytics_size(text: str) -> Size | None:
    """Of ``[height, width]`` in metadata."""
    parts = text.strip("[] ").split(",")
    if len(parts) != 2 or not all(p.strip().isdecimal() and len(p) < 8 for p in parts):
        return None
    return int(parts[1]), int(parts[0])


def _parse_size(text: str) -> Size:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdecimal() and len(p) < 6 for p in parts):
        raise BadSetting(f"expected size=WIDTHxHEIGHT in pixels, such as 640x640, got '{text}'")
    return int(parts[0]), int(parts[1])


def _one_of(key: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise BadSetting(f"expected {key} to be one of {', '.join(known)}, got '{value}'")
    return value
