"""Stage three on transformers' SAM, SAM-HQ, SAM 2 and EdgeTAM (arXiv 2304.02643, 2306.01567,
2408.00714, 2501.07256): ``sam:ORG/NAME`` or ``sam:FOLDER``.

Pixels enter value for value as the model's own image processor gives them. A batch of prompts gives
the same masks as one prompt at a time: those of one decoder call have equally many tokens, since
SAM attends to padding. A lone click is answered with the three masks of the ambiguity-aware output,
everything else with the one mask that the model makes for it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoImageProcessor, AutoModelForMaskGeneration

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image
from secondlook.labeling.segmenter import ImageEncoding, MaskCandidate, SegmentationPrompt
from secondlook.models import loading
from secondlook.models.cpu_speedups import fuse_conv_bn, use_channels_last
from secondlook.models.image_processor import (
    interpolation_of,
    normalisation_of,
    resize_pixels,
    size_entries,
)
from secondlook.models.loading import Placement, choose_placement
from secondlook.models.mask_logits import (
    PROMPT_LOGIT,
    InputFrame,
    MaskUpsampler,
    logits_of,
    longest_side_frame,
    prompt_as_logits,
)
from secondlook.models.sam2_speedups import skip_position_encodings, skip_unused_scores
from secondlook.models.segmentation_prompts import CheckedPrompt, check_prompts
from secondlook_client.errors import BadSetting, NotFound

MODEL_TYPES = ("sam", "sam_hq", "sam2", "sam2_video", "edgetam", "edgetam_video")
"""The published SAM 2 and EdgeTAM checkpoints are of the video models, which hold the image's."""
_PIXELS_PER_PASS = {"cpu": 2**19}
"""Pixels in one pass of the encoder. A CPU gains nothing from more, and memory grows with them."""
_PIXELS_PER_PASS_ON_GPU = 2**24
_CELLS_PER_PASS = {"cpu": 2**15}
"""Cells of the encoding times prompts in one pass of the decoder: about 10 KB each."""
_CELLS_PER_PASS_ON_GPU = 2**18
WINDOW_FILL = 0.8
"""Share of a window's side that a prompt may take, so that the object may be larger than told."""


@dataclass(frozen=True)
class SegmenterPixels:
    """How images become the square input of a segmenter."""

    side: int
    """Of the input, pixels."""
    mean: tuple[float, ...]
    """Per channel, of pixel values in 0 … 255."""
    std: tuple[float, ...]
    stretched: bool = False
    """Images fill the input, as in SAM 2, and do not keep their shape in its corner."""
    interpolation: str = "bilinear"

    def frame(self, width: int, height: int) -> InputFrame:
        """Where an image of this size lies in the input."""
        if self.stretched:
            return InputFrame((width, height), (self.side,) * 2, self.side, enlarged_once=True)
        return longest_side_frame(width, height, self.side)


_Window = tuple[int, int]
"""The first column and row, in cells of the encoding, of the part that is decoded."""


class _PromptShape(NamedTuple):
    """What prompts of one decoder call have in common."""

    box: bool
    points: int
    mask: bool
    several: bool
    """Whether several masks are wanted."""
    windowed: bool
    """Whether a window around the prompt is all that is decoded."""


class SamSegmenter:
    """Masks from boxes and clicks. Thread-safe: the model is only read."""

    def __init__(
        self,
        model: Any,
        pixels: SegmenterPixels,
        *,
        name: str,
        digest: str,
        placement: Placement,
        batch: int = ModelSettings.model_batch,
    ) -> None:
        """``model`` is transformers' ``SamModel``, ``SamHQModel``, ``Sam2Model`` or
        ``EdgeTamModel``. Where its configuration says ``prompts_as_masks``, each prompt enters it
        as a mask too: see ``prompt_as_logits``. Where it has a ``prompt_window``, prompts that fit
        a window of so many cells a side are answered from that part of the encoding alone."""
        self.name = name
        self.digest = digest
        self._model = model.eval().requires_grad_(False).to(placement.device)
        self._pixels = pixels
        self._placement = placement
        self._batch = batch
        skip_position_encodings(model)
        skip_unused_scores(model)
        small = torch.zeros(1, 3, 64, 64, device=placement.device)
        if fuse_conv_bn(model, lambda: model.vision_encoder(small)):
            use_channels_last(model)
        self._as_masks = bool(getattr(model.config, "prompts_as_masks", False))
        self._cells = int(model.prompt_encoder.image_embedding_size[0])
        window = getattr(model.config, "prompt_window", 0) if self._as_masks else 0
        self._window = min(int(window), self._cells)
        with torch.inference_mode():
            positions = self._model.get_image_wide_positional_embeddings()
        # The class computes this constant with every call, a tenth of the time of a small one.
        self._model.get_image_wide_positional_embeddings = lambda: positions
        self._positions = positions

    def encode(self, images: Sequence[Image]) -> list[ImageEncoding]:
        """See ``labeling.segmenter.Segmenter``."""
        room = _PIXELS_PER_PASS.get(self._placement.device.type, _PIXELS_PER_PASS_ON_GPU)
        size = max(1, min(self._batch, room // self._pixels.side**2))
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        return [encoding for part in parts for encoding in self._encode(part)]

    @torch.inference_mode()
    def _encode(self, images: Sequence[Image]) -> list[ImageEncoding]:
        pixels = preprocess(images, self._pixels, self._placement.device)
        with self._placement.autocast():
            found = self._model.get_image_embeddings(pixels)
        maps = _feature_maps(found)
        encodings = []
        for row, image in enumerate(images):
            # A copy: a part of the batch would keep the whole of it in memory.
            own = tuple(one[row : row + 1].clone() for one in maps)
            nbytes = sum(one.nbytes for one in own)
            encodings.append(ImageEncoding((image.width, image.height), own, nbytes))
        return encodings

    def segment(
        self, encoding: ImageEncoding, prompts: Sequence[SegmentationPrompt]
    ) -> list[tuple[MaskCandidate, ...]]:
        """See ``labeling.segmenter.Segmenter``."""
        checked = check_prompts(prompts, encoding.size)
        frame = self._pixels.frame(*encoding.size)
        upsampler = MaskUpsampler(frame, 4 * self._cells)
        rows_of: dict[_PromptShape, list[int]] = defaultdict(list)
        windows = [self._window_around(prompt, frame) for prompt in checked]
        for row, (prompt, window) in enumerate(zip(checked, windows, strict=True)):
            rows_of[self._shape(prompt, window)].append(row)
        room = _CELLS_PER_PASS.get(self._placement.device.type, _CELLS_PER_PASS_ON_GPU)
        size = max(1, room // self._cells**2)
        found: dict[int, tuple[MaskCandidate, ...]] = {}
        for shape, rows in rows_of.items():
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                members = [checked[row] for row in part]
                at = [window for row in part if (window := windows[row])]
                logits, qualities = self._decode(encoding, members, shape, frame, at)
                for row, of_prompt, values in zip(part, logits, qualities, strict=True):
                    found[row] = upsampler.candidates(of_prompt, values)
        return [found[row] for row in range(len(prompts))]

    @torch.inference_mode()
    def _decode(
        self,
        encoding: ImageEncoding,
        prompts: Sequence[CheckedPrompt],
        shape: _PromptShape,
        frame: InputFrame,
        windows: Sequence[_Window],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (N, masks, h, w) and predicted IoUs (N, masks) of prompts of one shape."""
        maps: Any = encoding.features
        inputs = self._prompt_inputs(prompts, shape, frame)
        if shape.windowed:
            return self._decode_windows(maps, inputs, windows, shape.several)
        if shape.mask:  # SAM takes masks a picture, not a prompt: as many pictures as prompts
            maps = tuple(one.expand(len(prompts), -1, -1, -1) for one in maps)
        else:
            inputs = {key: value.transpose(0, 1) for key, value in inputs.items()}
        with self._placement.autocast():
            output = self._model(**self._encoded(maps), **inputs, multimask_output=shape.several)
        logits = output.pred_masks.float().flatten(0, 1).cpu().numpy()
        return logits, output.iou_scores.float().flatten(0, 1).cpu().numpy()

    def _decode_windows(
        self,
        maps: tuple[torch.Tensor, ...],
        inputs: dict[str, torch.Tensor],
        windows: Sequence[_Window],
        several: bool,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As ``_decode``; nothing of the object is expected outside of the windows."""

        def cut(level: torch.Tensor) -> torch.Tensor:
            """The windows' parts of one map of the image, or each of its own of (N, C, H, W)."""
            scale = level.shape[-1] // self._cells
            size = scale * self._window
            rows = [0] * len(windows) if len(level) == 1 else range(len(windows))
            parts = [
                level[row, :, scale * y : scale * y + size, scale * x : scale * x + size]
                for row, (x, y) in zip(rows, windows, strict=True)
            ]
            return torch.stack(parts)

        with self._placement.autocast():
            sparse, dense = self._model.prompt_encoder(
                inputs.get("input_points"),
                inputs.get("input_labels"),
                inputs.get("input_boxes"),
                cut(inputs["input_masks"]),
            )
            found, qualities, *_ = self._model.mask_decoder(
                image_embeddings=cut(maps[-1]),
                image_positional_embeddings=cut(self._positions),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=several,
                high_resolution_features=[cut(level) for level in maps[:-1]],
            )
        parts = found[:, 0].float().cpu().numpy()
        grid, size = 4 * self._cells, 4 * self._window
        logits = np.full((*parts.shape[:2], grid, grid), -PROMPT_LOGIT, np.float32)
        for whole, part, (x, y) in zip(logits, parts, windows, strict=True):
            whole[:, 4 * y : 4 * y + size, 4 * x : 4 * x + size] = part
        return logits, qualities[:, 0].float().cpu().numpy()

    def _prompt_inputs(
        self, prompts: Sequence[CheckedPrompt], shape: _PromptShape, frame: InputFrame
    ) -> dict[str, torch.Tensor]:
        """What the model calls them, each (N, 1, …) but for the masks: (N, 1, h, w)."""
        device = self._placement.device
        inputs = {}
        if shape.points:
            points = frame.to_input(np.stack([prompt.points for prompt in prompts]))
            labels = np.stack([prompt.labels for prompt in prompts])
            inputs["input_points"] = torch.from_numpy(points).to(device)[:, None]
            inputs["input_labels"] = torch.from_numpy(labels).to(device)[:, None]
        if shape.box:
            corners = np.array([prompt.box for prompt in prompts]).reshape(-1, 2, 2)
            boxes = frame.to_input(corners).reshape(-1, 1, 4)
            inputs["input_boxes"] = torch.from_numpy(boxes).to(device)
        if shape.mask:
            masks = np.stack([self._mask_of(prompt, frame) for prompt in prompts])
            inputs["input_masks"] = torch.from_numpy(masks).to(device)[:, None]
        return inputs

    def _mask_of(self, prompt: CheckedPrompt, frame: InputFrame) -> NDArray[np.float32]:
        if self._as_masks:
            return prompt_as_logits(prompt, frame, 4 * self._cells)
        assert prompt.previous is not None  # else its shape has no mask
        return logits_of(prompt.previous, frame, 4 * self._cells)

    def _shape(self, prompt: CheckedPrompt, window: _Window | None) -> _PromptShape:
        return _PromptShape(
            prompt.box is not None,
            len(prompt.points),
            self._as_masks or prompt.previous is not None,
            prompt.ambiguous,
            window is not None,
        )

    def _window_around(self, prompt: CheckedPrompt, frame: InputFrame) -> _Window | None:
        """The window to decode for a prompt; None where it does not fit one, and where nothing
        tells how large the object is."""
        mended = len(prompt.points) and prompt.previous is not None and prompt.previous.any()
        if not self._window or (prompt.box is None and not mended):
            return None
        cell = self._pixels.side / self._cells
        low, high = prompt_extent(prompt, frame)
        if float((high - low).max()) > WINDOW_FILL * self._window * cell:
            return None
        first = np.round((low + high) / 2 / cell - self._window / 2)
        x, y = first.clip(0, self._cells - self._window).astype(int).tolist()
        return x, y

    def _encoded(self, maps: tuple[torch.Tensor, ...]) -> dict[str, Any]:
        """An encoding as the model's forward pass takes it."""
        kind = self._model.config.model_type
        if kind == "sam":
            return {"image_embeddings": maps[0]}
        if kind == "sam_hq":
            # Stored with channels first; the model expects them last.
            return {
                "image_embeddings": maps[0],
                "intermediate_embeddings": [maps[1].permute(0, 2, 3, 1)],
            }
        return {"image_embeddings": [*maps]}


def prompt_extent(
    prompt: CheckedPrompt, frame: InputFrame
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The upper left and lower right corner, (2,) pixels of the input, of all that a prompt has."""
    corners = [prompt.points]
    if prompt.box is not None:
        corners.append(np.array(prompt.box, np.float32).reshape(2, 2))
    if prompt.previous is not None and prompt.previous.any():
        rows = np.flatnonzero(prompt.previous.any(1))
        columns = np.flatnonzero(prompt.previous.any(0))
        corners.append(np.array([(columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)]))
    points = frame.to_input(np.concatenate(corners))
    return points.min(axis=0), points.max(axis=0)


def _feature_maps(found: Any) -> tuple[torch.Tensor, ...]:
    """What must be kept of ``get_image_embeddings``, each (B, C, H, W)."""
    if isinstance(found, torch.Tensor):
        return (found,)
    if isinstance(found, tuple):  # SAM-HQ: its decoder reads the first of the earlier features
        return found[0], found[1][0].permute(0, 3, 1, 2)
    return tuple(found)


def preprocess(
    images: Sequence[Image], settings: SegmenterPixels, device: torch.device
) -> torch.Tensor:
    """Images as the model's input (B, 3, side, side) float32; padding is 0 after normalisation."""
    mean = torch.tensor(settings.mean, device=device)
    pixels = mean.expand(len(images), settings.side, settings.side, 3).contiguous()
    for row, image in enumerate(images):
        wide, high = settings.frame(image.width, image.height).resized
        pixels[row, :high, :wide] = resize_pixels(
            image.pixels, (high, wide), settings.interpolation
        )
    pixels.sub_(mean).div_(torch.tensor(settings.std, device=device))
    return pixels.permute(0, 3, 1, 2)


def load(argument: str, options: ModelSettings) -> SamSegmenter:
    """A checkpoint by folder or hub id, safetensors only, none of its own code.

    Raises ``NotFound`` when it cannot be had and ``BadSetting`` when it is no segmenter that
    answers to boxes and clicks.
    """
    folder = loading.checkpoint_folder(argument)
    name = loading.short_name(argument)
    placement = choose_placement(options)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type not in MODEL_TYPES:
        raise BadSetting(
            f"'{name}' is a '{config.model_type}' model; expected one of {', '.join(MODEL_TYPES)}. "
            "Other segmenters plug in as one of their own (package.module:attribute)"
        )
    model, report = AutoModelForMaskGeneration.from_pretrained(
        folder,
        use_safetensors=True,
        dtype=torch.float32,
        local_files_only=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise NotFound(
            f"'{name}' lacks {len(missing)} weights of a '{config.model_type}' model, e.g. "
            f"'{missing[0]}'; fetch the whole checkpoint again"
        )
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    return SamSegmenter(
        model,
        read_pixels(processor, int(model.prompt_encoder.input_image_size)),
        name=name,
        digest=loading.digest_of_folder(folder),
        placement=placement,
        batch=options.model_batch,
    )


def read_pixels(processor: Any, side: int) -> SegmenterPixels:
    """The settings of a transformers image processor for a model whose input has this side.

    Raises ``BadSetting`` for a processor that resizes to another size than the model takes.
    """
    size = size_entries(processor.size)
    stretched = "longest_edge" not in size
    wanted = {"height": side, "width": side} if stretched else {"longest_edge": side}
    padded = stretched or set(size_entries(processor.pad_size).values()) == {side}
    if size != wanted or not padded:
        raise BadSetting(
            f"the checkpoint's image processor resizes to {size}, and the model takes images of "
            f"{side} × {side} pixels; correct its preprocessor_config.json"
        )
    mean, std = normalisation_of(processor)
    return SegmenterPixels(side, mean, std, stretched, interpolation_of(processor))
