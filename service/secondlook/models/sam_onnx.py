"""Stage three in onnxruntime: ``sam-onnx:ENCODER.onnx,DECODER.onnx``, or a folder with the two.

A pair as MobileSAM and the authors' ``export_onnx_model.py`` make it, and as browsers run it. The
encoder takes one image (1, 3, side, side), normalised and padded at the right and bottom. The
decoder takes the image's embedding, points with labels (1 inside, 0 outside, 2 and 3 a box's
corners, -1 none), an earlier mask, and gives logits with predicted IoUs. Its inputs are told apart
by their shapes. Behind the paths:

    size      side of the input in pixels, where the encoder leaves it open (else 1024)
    mean,std  what is subtracted from values of 0 … 255 and what they are divided by, one number or
              three (else ImageNet's, the authors')

Files from strangers are checked (``detector.onnx_safety``) and tried in a child process with limits
of memory and time before they are opened here. It needs onnxruntime and no torch.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.config.settings import ModelSettings
from secondlook.core.processors import available_cpus
from secondlook.core.sandbox import SandboxCall, SandboxLimits
from secondlook.core.types import Image
from secondlook.detector.onnx_safety import refuse_unsafe
from secondlook.detector.runtime import MAX_THREADS, open_session
from secondlook.detector.trial import TrialLimits, peak_memory_mb, run_trial
from secondlook.labeling.segmenter import ImageEncoding, MaskCandidate, SegmentationPrompt
from secondlook.models.mask_logits import (
    InputFrame,
    MaskUpsampler,
    logits_of,
    longest_side_frame,
)
from secondlook.models.onnx_detector import read_onnx
from secondlook.models.segmentation_prompts import MAX_CLICKS, CheckedPrompt, check_prompts
from secondlook.models.spec_options import parse_channels, split_options
from secondlook_client.errors import BadSetting, Damaged, NotFound

OPTIONS = ("size", "mean", "std")
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
DEFAULT_SIDE = 1024
MIN_SIDE, MAX_SIDE = 32, 2048
"""Pixels of the input."""
TRIAL = TrialLimits(memory_mb=8192, cpu_s=300.0, image_s=120.0)
"""Of a pair that its user chose: the largest encoder takes a minute an image on one core."""
SIZE_INPUT = "orig_im_size"
"""The decoder's input that says to which size it enlarges masks; the authors' name."""
_LEFT_CORNER, _RIGHT_CORNER, _NO_POINT = 2, 3, -1
"""Labels of points that are no clicks."""
_ENLARGED = 16.0
"""Pixels a side of the masks that the decoder itself enlarges, which are not used."""
_SHAPES = (
    "expected an encoder of images (1, 3, side, side) to one embedding (1, C, h, w), and a decoder "
    "of that embedding, points (1, N, 2), labels (1, N), a mask (1, 1, 4h, 4w), a flag (1), and at "
    f"most '{SIZE_INPUT}' (2), as segment-anything's export_onnx_model.py makes it"
)


class SamEncoderGraph:
    """A session of a checked encoder. Thread-safe."""

    def __init__(self, model: bytes, threads: int, side: int | None) -> None:
        """``side`` is for a file that leaves it open.

        Raises ``BadSetting`` for inputs that are no encoder's, ``Damaged`` and ``MissingExtra``.
        """
        self._session = open_session(model, threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            raise _misfit("the encoder", inputs)
        self._name, shape = inputs[0].name, inputs[0].shape
        self._last = shape[3] == 3 and shape[1] != 3
        sides = {s for s in (shape[1:3] if self._last else shape[2:]) if isinstance(s, int)}
        several = isinstance(shape[0], int) and shape[0] != 1
        if shape[3 if self._last else 1] != 3 or len(sides) > 1 or several:
            raise _misfit("the encoder", inputs)
        fixed = sides.pop() if sides else None
        if fixed and side and side != fixed:
            raise BadSetting(f"the encoder's input is {fixed} × {fixed}; leave out ?size=")
        self.side = fixed or side or DEFAULT_SIDE
        """Of its input, pixels."""
        if not MIN_SIDE <= self.side <= MAX_SIDE:
            raise BadSetting(
                f"the encoder's input is {self.side} × {self.side} pixels; expected sides of "
                f"{MIN_SIDE} to {MAX_SIDE}"
            )

    def run(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The embedding of one image (side, side, 3). Raises ``Damaged`` when the model fails."""
        batch = pixels[None] if self._last else pixels.transpose(2, 0, 1)[None]
        values = _run(self._session, None, {self._name: np.ascontiguousarray(batch, np.float32)})
        if len(values) != 1:
            raise Damaged(f"the encoder gives {len(values)} outputs. {_SHAPES}")
        found: NDArray[np.float32] = values[0]
        return found


class SamDecoderGraph:
    """A session of a checked decoder. Thread-safe."""

    def __init__(self, model: bytes, threads: int) -> None:
        """Raises ``BadSetting`` for inputs or outputs that are no decoder's, ``Damaged`` and
        ``MissingExtra``."""
        self._session = open_session(model, threads)
        self._names = _decoder_inputs(self._session.get_inputs())
        shapes = {value.name: value.shape for value in self._session.get_inputs()}
        self.embedding = (1, *shapes[self._names["embedding"]][1:])
        """Shape of the embedding, (1, C, h, w)."""
        self.grid = int(shapes[self._names["mask"]][2])
        """Cells a side of an earlier mask, and of the logits."""
        self._outputs = self._find_outputs()

    def run(
        self,
        embedding: NDArray[np.float32],
        points: NDArray[np.float32],
        labels: NDArray[np.float32],
        previous: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (masks, grid, grid) and predicted IoUs (masks,) of one prompt.

        ``points`` (P, 2) in pixels of the input, ``previous`` (grid, grid) logits. Raises
        ``Damaged`` when the model fails.
        """
        feed = self._feed(embedding, points, labels, previous)
        logits, qualities = _run(self._session, list(self._outputs), feed)
        masks = qualities.size
        if logits.shape != (1, masks, self.grid, self.grid) or not masks:
            raise Damaged(
                f"the decoder gives {logits.shape} logits and {qualities.shape} predicted IoUs, "
                "other shapes than when opened"
            )
        return logits[0].astype(np.float32), qualities.reshape(-1).astype(np.float32)

    def _feed(
        self,
        embedding: NDArray[np.float32],
        points: NDArray[np.float32],
        labels: NDArray[np.float32],
        previous: NDArray[np.float32] | None,
    ) -> dict[str, NDArray[np.float32]]:
        none = np.zeros((self.grid, self.grid), np.float32)
        values = {
            "embedding": embedding,
            "points": points[None],
            "labels": labels[None],
            "mask": (none if previous is None else previous)[None, None],
            "flag": np.array([previous is not None]),
            "size": np.array([_ENLARGED, _ENLARGED]),
        }
        return {name: values[role].astype(np.float32) for role, name in self._names.items()}

    def _find_outputs(self) -> tuple[str, str]:
        """The names of the logits and of the predicted IoUs."""
        names = [output.name for output in self._session.get_outputs()]
        blank = np.zeros(self.embedding, np.float32)
        points, labels = np.zeros((2, 2), np.float32), np.array([1, _NO_POINT], np.float32)
        values = _run(self._session, names, self._feed(blank, points, labels, None))
        shapes = {name: value.shape for name, value in zip(names, values, strict=True)}
        logits = [n for n, s in shapes.items() if len(s) == 4 and s[2:] == (self.grid,) * 2]
        qualities = [n for n, s in shapes.items() if len(s) == 2 and s[0] == 1]
        # Where the decoder also enlarges to just this size, the authors' name tells.
        logits = [n for n in logits if n == "low_res_masks"] or logits
        qualities = [n for n in qualities if n == "iou_predictions"] or qualities
        if len(logits) != 1 or len(qualities) != 1:
            given = ", ".join(f"{name:.40} {shape}" for name, shape in [*shapes.items()][:8])
            raise BadSetting(
                f"the decoder gives {given}; expected logits (1, masks, {self.grid}, {self.grid}) "
                "and predicted IoUs (1, masks)"
            )
        return logits[0], qualities[0]


def _decoder_inputs(inputs: Sequence[Any]) -> dict[str, str]:
    """The names of the decoder's inputs by what they are for."""
    found: dict[str, str] = {}
    for value in inputs:
        role = _role(value.shape)
        misnamed = (value.name == SIZE_INPUT) != (role == "size")
        if role is None or role in found or misnamed or value.type != "tensor(float)":
            raise _misfit("the decoder", inputs)
        found[role] = value.name
    if {"embedding", "points", "labels", "mask", "flag"} - found.keys():
        raise _misfit("the decoder", inputs)
    return found


def _role(shape: Sequence[Any]) -> str | None:
    """What a decoder's input of this shape is for; None where that cannot be told."""
    known = all(isinstance(side, int) and 0 < side < 2**14 for side in shape[1:])
    if len(shape) == 4 and known:
        return "embedding" if shape[1] > 1 else "mask" if shape[2] == shape[3] else None
    if len(shape) == 3 and shape[2] == 2:
        return "points"
    return {(1,): "flag", (2,): "size"}.get(tuple(shape), "labels" if len(shape) == 2 else None)


def _misfit(what: str, inputs: Sequence[Any]) -> BadSetting:
    shown = ", ".join(f"{v.name:.40} {v.shape} {v.type}" for v in inputs[:8])
    return BadSetting(f"{what} takes {shown}; {_SHAPES}")


def _run(session: Any, names: list[str] | None, feed: Mapping[str, Any]) -> list[Any]:
    try:
        values: list[Any] = session.run(names, feed)
    except Exception as cause:  # onnxruntime's own errors, and MemoryError
        raise Damaged(f"the model fails while it runs: {str(cause)[:200]}") from cause
    return values


@dataclass(frozen=True)
class PixelNormalisation:
    """What is done to values of 0 … 255, per channel."""

    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


class SamOnnxSegmenter:
    """Masks from boxes and clicks by a pair of ONNX files. Thread-safe."""

    def __init__(
        self,
        encoder: SamEncoderGraph,
        decoder: SamDecoderGraph,
        pixels: PixelNormalisation,
        *,
        name: str,
        digest: str,
    ) -> None:
        self.name = name
        self.digest = digest
        self._encoder = encoder
        self._decoder = decoder
        self._pixels = pixels

    def encode(self, images: Sequence[Image]) -> list[ImageEncoding]:
        """See ``labeling.segmenter.Segmenter``. One at a time: a batch saves a CPU nothing."""
        return [self._encode(image) for image in images]

    def _encode(self, image: Image) -> ImageEncoding:
        embedding = self._encoder.run(self._input(image))
        if embedding.shape != self._decoder.embedding:
            raise Damaged(
                f"the encoder gives {embedding.shape}, and the decoder takes "
                f"{self._decoder.embedding}: they do not belong together"
            )
        return ImageEncoding((image.width, image.height), embedding, embedding.nbytes)

    def _input(self, image: Image) -> NDArray[np.float32]:
        """(side, side, 3); padding is 0 after normalisation, as the authors pad."""
        size = self._frame(image.width, image.height).resized
        canvas = PILImage.fromarray(np.ascontiguousarray(image.pixels))
        sized = np.asarray(canvas.resize(size, PILImage.Resampling.BILINEAR), np.float32)
        pixels = np.zeros((self._encoder.side, self._encoder.side, 3), np.float32)
        mean, std = (np.array(v, np.float32) for v in (self._pixels.mean, self._pixels.std))
        pixels[: size[1], : size[0]] = (sized - mean) / std
        return pixels

    def _frame(self, width: int, height: int) -> InputFrame:
        return longest_side_frame(width, height, self._encoder.side)

    def segment(
        self, encoding: ImageEncoding, prompts: Sequence[SegmentationPrompt]
    ) -> list[tuple[MaskCandidate, ...]]:
        """See ``labeling.segmenter.Segmenter``. A decoder exported for a single mask gives one."""
        frame = self._frame(*encoding.size)
        checked = check_prompts(prompts, encoding.size)
        upsampler = MaskUpsampler(frame, self._decoder.grid)
        return [upsampler.candidates(*self._decoded(encoding, prompt, frame)) for prompt in checked]

    def _decoded(
        self, encoding: ImageEncoding, prompt: CheckedPrompt, frame: InputFrame
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (masks, grid, grid) and predicted IoUs (masks,) that answer a prompt."""
        embedding: Any = encoding.features
        earlier = prompt.previous
        previous = None if earlier is None else logits_of(earlier, frame, self._decoder.grid)
        points, labels = _points(prompt, frame)
        logits, qualities = self._decoder.run(embedding, points, labels, previous)
        rows = _wanted(qualities, prompt.ambiguous)
        return logits[rows], qualities[rows]


def _points(
    prompt: CheckedPrompt, frame: InputFrame
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Clicks, then the corners of the box or else the point that means there is none."""
    if prompt.box is not None:
        more = np.array(prompt.box, np.float32).reshape(2, 2)
        kinds = [_LEFT_CORNER, _RIGHT_CORNER]
    else:
        more, kinds = np.zeros((1, 2), np.float32), [_NO_POINT]
    points = frame.to_input(np.concatenate([prompt.points, more]))
    return points, np.concatenate([prompt.labels, kinds]).astype(np.float32)


def _wanted(qualities: NDArray[np.float32], ambiguous: bool) -> list[int]:
    """The rows of a decoder's masks that answer a prompt.

    The authors' model has one mask for a clear prompt and then three for an ambiguous one; exported
    for a single mask it chooses itself.
    """
    several = list(range(1, len(qualities))) if len(qualities) == 4 else [*range(len(qualities))]
    if ambiguous:
        return several[:3]
    return [0] if len(qualities) == 4 else [int(qualities.argmax())]


def load(argument: str, options: ModelSettings) -> SamOnnxSegmenter:
    """The pair of ONNX files; see the head of this module.

    Raises ``NotFound`` for paths that are not there, ``BadSetting`` for a pair that does not fit,
    ``Damaged`` for one that is refused, and ``MissingExtra``.
    """
    where, settings = split_options(argument, OPTIONS)
    files = find_pair(where)
    encoder, decoder = (read_onnx(file) for file in files)
    side = _parse_side(settings.get("size"))
    pixels = PixelNormalisation(
        parse_channels(settings, "mean") or MEAN, parse_channels(settings, "std") or STD
    )
    refuse_unsafe(encoder)
    refuse_unsafe(decoder, fixed=[SIZE_INPUT])
    _try(encoder, decoder, side)
    threads = options.threads or min(available_cpus(), MAX_THREADS)
    graphs = SamEncoderGraph(encoder, threads, side), SamDecoderGraph(decoder, threads)
    total = hashlib.sha256(encoder)
    total.update(hashlib.sha256(decoder).digest() + repr((graphs[0].side, pixels)).encode())
    name = "".join(c if c.isprintable() else "?" for c in files[0].stem)[:100]
    short = name.removesuffix("encoder").rstrip("_-.") or name
    return SamOnnxSegmenter(*graphs, pixels, name=short, digest=total.hexdigest()[:12])


def find_pair(where: str) -> tuple[Path, Path]:
    """Encoder and decoder: two files with a comma between them, or those of a folder.

    Raises ``NotFound``, which says what to give.
    """
    folder = Path(where).expanduser()
    if folder.is_dir():
        files = sorted(folder.glob("*.onnx"))
        pair = [[f for f in files if role in f.stem.lower()] for role in ("encoder", "decoder")]
        if [len(found) for found in pair] != [1, 1]:
            names = ", ".join(file.name for file in files[:8]) or "none"
            raise NotFound(
                f"the folder '{where}' holds no pair of one *encoder*.onnx and one *decoder*.onnx "
                f"(ONNX files there: {names}); name the two: sam-onnx:ENCODER.onnx,DECODER.onnx"
            )
        return pair[0][0], pair[1][0]
    paths = [Path(part.strip()).expanduser() for part in where.split(",")]
    missing = [path.name for path in paths if not path.is_file()]
    if len(paths) != 2 or missing:
        lacking = f"there is no file '{missing[0]}'" if missing else f"'{where}' is one file"
        raise NotFound(f"{lacking}; give sam-onnx:ENCODER.onnx,DECODER.onnx or a folder with both")
    return paths[0], paths[1]


def _parse_side(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not MIN_SIDE <= int(text[:6]) <= MAX_SIDE:
        raise BadSetting(f"expected size from {MIN_SIDE} to {MAX_SIDE} pixels, got '{text:.20}'")
    return int(text)


def _try(encoder: bytes, decoder: bytes, side: int | None) -> None:
    """Run the pair in a child process first. Raises ``Damaged`` for one that takes too much."""
    within = SandboxLimits(TRIAL.cpu_s, TRIAL.memory_mb * 2**20)
    call = SandboxCall(measure, encoder + decoder, len(encoder), side, within=within)
    result = run_trial(call, TRIAL)
    if result.image_s > TRIAL.image_s:
        raise Damaged(
            f"the encoder takes {result.image_s:.1f} s for one image, of {TRIAL.image_s:g} s "
            "allowed; use a smaller one"
        )


def measure(models: bytes, encoder_bytes: int, side: int | None) -> tuple[float, float]:
    """In the child: (CPU seconds of one image, peak memory in megabytes).

    The decoder runs with as many points as it may ever get.
    """
    try:
        encoder = SamEncoderGraph(bytes(models[:encoder_bytes]), 1, side)
        decoder = SamDecoderGraph(bytes(models[encoder_bytes:]), 1)
        began = time.process_time()
        noise = np.random.default_rng(0).random((encoder.side, encoder.side, 3), np.float32)
        embedding = encoder.run(noise)
        seconds = time.process_time() - began
        if embedding.shape != decoder.embedding:
            raise BadSetting(
                f"the encoder gives {embedding.shape}, and the decoder takes {decoder.embedding}: "
                "they do not belong together; give the two files of one export"
            )
        points = np.zeros((MAX_CLICKS + 2, 2), np.float32)
        decoder.run(embedding, points, np.ones(len(points), np.float32))
    except Damaged as failure:
        if "alloc" in str(failure.__cause__):  # of C++, which onnxruntime passes on as text
            raise MemoryError from failure
        raise
    return seconds, peak_memory_mb()
