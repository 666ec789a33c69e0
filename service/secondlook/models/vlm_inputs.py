"""The inputs of a transformers vision-language model: prompts and pixels.

A prompt is cut behind its last image token. Everything before depends on the view alone (the
*prefix*), everything after on the question alone (the *suffix*), so that each is made once.

A processor resizes, rescales and normalises image by image with checks around each step, which for
a small model takes longer than the model. ``plan_pixels`` reads those steps off the processors of
two families, for a whole batch at once; the plan is compared with the processor before it is used.

The published checkpoints of Idefics3 and SmolVLM enlarge every image to 2048 pixels or so and cut
it into up to 16 tiles beside a small copy, each of which the model sees: that is for pages of text.
``tiles_of`` makes it as many as a view has pixels for, which is one for most boxes.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torchvision.transforms import InterpolationMode, v2

from secondlook.core.types import Pixels
from secondlook.models.yes_no import closed_question
from secondlook_client.errors import BadSetting

MAX_CACHED_QUESTIONS = 4096
"""Questions whose tokens are cached; a run asks a few dozen."""

MAX_EDGE = 4096
"""Beyond it the SmolVLM family scales down once more; such checkpoints go through the processor."""

TOLERANCE = 1.5 / 255
"""Largest difference from the processor's own values, as a share of full brightness. The same
resize is used, so that only the last rounding may differ."""

_FILTERS = {
    1: InterpolationMode.LANCZOS,
    2: InterpolationMode.BILINEAR,
    3: InterpolationMode.BICUBIC,
}
"""By Pillow's numbers, in which checkpoints name them."""

Tokens = dict[str, torch.Tensor]
"""Aligned vectors over the tokens of a prompt: ``input_ids``, and token types where a model has
them. Long integers."""


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """Views whose prefixes differ in pixels only, so that they fit one batch unpadded."""

    rows: tuple[int, ...]
    """Which of the views asked about these are."""
    prefix: Tokens
    """(prefix length,) each; the same for all views of the batch."""
    images: dict[str, torch.Tensor]
    """Pixels, masks and grids; each tensor's first axis is a whole multiple of ``len(rows)``."""

    def images_of(self, views: torch.Tensor) -> dict[str, torch.Tensor]:
        """The image tensors of ``views``, (R,) long positions in ``rows``, repeats allowed."""
        return {name: _pick(tensor, len(self.rows), views) for name, tensor in self.images.items()}


def _pick(tensor: torch.Tensor, views: int, wanted: torch.Tensor) -> torch.Tensor:
    """The parts of ``tensor`` that belong to the views ``wanted``, when it holds ``views``.

    Models with a free image size flatten the patches of all images into one axis.
    """
    return tensor.unflatten(0, (views, -1))[wanted].flatten(0, 1)


@dataclass(frozen=True)
class Tiles:
    """Into how many tiles a processor cuts a view: as many as it does by itself."""

    side: int = 0
    """Of a tile, pixels; 0: that of a processor which is not told."""

    def whole(self, shape: tuple[int, ...]) -> bool:
        """Whether a view of (height, width, …) is told to be one tile, or nothing is told."""
        return not self.side or max(shape[:2]) <= self.side

    def arguments(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """What the processor is told for a view of (height, width, …)."""
        return {}


@dataclass(frozen=True)
class EnlargedTiles(Tiles):
    """Idefics3 and SmolVLM enlarge every view: to as many whole tiles as it has pixels for."""

    longest: int = 0
    """Side to which the processor enlarges by itself."""

    def arguments(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Size, and for a small view that it is not cut."""
        if self.whole(shape):
            return {"size": {"longest_edge": self.side}, "do_image_splitting": False}
        needed = math.ceil(max(shape[:2]) / self.side) * self.side
        return {"size": {"longest_edge": min(needed, self.longest)}}


@dataclass(frozen=True)
class ShapedTiles(Tiles):
    """InternVL takes the grid of a view's shape, 4 x 3 for 40 x 30 pixels: at most its pixels'."""

    most: int = 1
    """Tiles that the processor takes by itself."""

    def arguments(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Number of tiles, and for a small view that it is not cut."""
        if self.whole(shape):
            return {"crop_to_patches": False}
        rows, columns = (math.ceil(side / self.side) for side in shape[:2])
        return {"max_patches": min(rows * columns, self.most)}


def tiles_of(image_processor: Any) -> Tiles:
    """Those that a view has pixels for, where a processor cuts smaller ones into tiles too."""
    size = getattr(image_processor, "size", None) or {}
    tile = getattr(image_processor, "max_image_size", None) or {}
    longest, side = _side(size, "longest_edge"), _side(tile, "longest_edge")
    if getattr(image_processor, "do_image_splitting", False) and 0 < side < longest:
        return EnlargedTiles(side, longest)
    if hasattr(image_processor, "crop_to_patches") and (square := _side(size, "height")):
        return ShapedTiles(square, int(image_processor.max_patches))
    return Tiles()


class PromptEncoder:
    """Turns questions and views into a model's inputs, by its own processor."""

    def __init__(
        self, processor: Any, image_token_id: int, device: torch.device, tiles: Tiles
    ) -> None:
        """Raises ``BadSetting`` when the checkpoint's template puts the question first."""
        self._processor = processor
        self._tiles = tiles
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._image_token_id = image_token_id
        self._device = device
        self._suffixes: dict[str, Tokens] = {}
        self._probe = PILImage.fromarray(synthetic_image(64, 64, seed=0))
        first = self._cut(self._encode(self._probe, "Is this a cat?"))[0]
        second = self._cut(self._encode(self._probe, "Is this a red dog in a small tree?"))[0]
        if not torch.equal(first["input_ids"], second["input_ids"]):
            raise BadSetting(
                "the checkpoint's chat template puts the question before the image, so the "
                "image cannot be read once for many questions; use another checkpoint"
            )

    def text(self, question: str) -> str:
        """The prompt of a question, with one placeholder for the image."""
        asked = closed_question(question)
        template = getattr(self._processor, "chat_template", None)
        if not (template or getattr(self._tokenizer, "chat_template", None)):
            return f"{getattr(self._processor, 'image_token', '')}{asked}"
        content = [{"type": "image"}, {"type": "text", "text": asked}]
        message = [{"role": "user", "content": content}]
        return str(self._processor.apply_chat_template(message, add_generation_prompt=True))

    def suffix(self, question: str) -> Tokens:
        """The tokens after the last image token, as the processor itself makes them."""
        known = self._suffixes.get(question)
        if known is None:
            known = self._cut(self._encode(self._probe, question))[1]
            if len(self._suffixes) >= MAX_CACHED_QUESTIONS:
                self._suffixes.clear()
            self._suffixes[question] = known
        return known

    def template(self) -> tuple[Tokens, dict[str, torch.Tensor]]:
        """Prefix and image tensors of a probe image: the shapes that the model expects."""
        encoded = self._encode(self._probe, "Is this a cat?")
        return self._cut(encoded)[0], _images(encoded)

    def view(self, pixels: Pixels) -> tuple[Tokens, dict[str, torch.Tensor]]:
        """Prefix and image tensors of one view, by the processor."""
        encoded = self._encode(PILImage.fromarray(pixels), "Is this a cat?")
        return self._cut(encoded)[0], _images(encoded)

    def batches(self, views: Mapping[int, Pixels]) -> list[ViewBatch]:
        """Every view, by its row, through the processor; those that fit one batch together."""
        by_shape: dict[Hashable, list[int]] = {}
        made = {row: self.view(pixels) for row, pixels in views.items()}
        for row, (prefix, images) in made.items():
            by_shape.setdefault(_batch_key(prefix, images), []).append(row)
        return [
            ViewBatch(
                tuple(rows),
                made[rows[0]][0],
                {
                    name: torch.cat([made[row][1][name] for row in rows])
                    for name in made[rows[0]][1]
                },
            )
            for rows in by_shape.values()
        ]

    def _encode(self, image: PILImage.Image, question: str) -> dict[str, torch.Tensor]:
        text = self.text(question)
        begin = getattr(self._tokenizer, "bos_token", None)
        # A template may write the beginning-of-text token itself; a second one changes answers.
        special = {} if not (begin and text.startswith(begin)) else {"add_special_tokens": False}
        told = self._tiles.arguments((image.height, image.width))
        made = self._processor(text=[text], images=[image], return_tensors="pt", **special, **told)
        return {
            name: value.to(self._device) for name, value in made.items() if torch.is_tensor(value)
        }

    def _cut(self, encoded: dict[str, torch.Tensor]) -> tuple[Tokens, Tokens]:
        ids = encoded["input_ids"]
        places = torch.nonzero(ids[0] == self._image_token_id)
        if not len(places):
            raise BadSetting(
                "the checkpoint's prompt has no place for an image; "
                "it is not a vision-language model that can be asked about one"
            )
        end = int(places[-1]) + 1
        aligned = {
            name: value[0]
            for name, value in encoded.items()
            if name == "input_ids" or name.endswith("token_type_ids")
        }
        return (
            {name: value[:end] for name, value in aligned.items()},
            {name: value[end:] for name, value in aligned.items()},
        )


def _images(encoded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that are not about the text: none has the shape of the token ids."""
    text = encoded["input_ids"].shape
    return {name: value for name, value in encoded.items() if value.shape != text}


def _batch_key(prefix: Tokens, images: dict[str, torch.Tensor]) -> Hashable:
    """Equal for views that fit one batch: same tokens, same shapes, same grids."""
    ids = tuple(prefix["input_ids"].tolist())
    shapes = tuple((name, tuple(value.shape)) for name, value in sorted(images.items()))
    grids = tuple(
        tuple(value.flatten().tolist())
        for name, value in sorted(images.items())
        if not name.startswith("pixel") and not value.is_floating_point()
    )
    return ids, shapes, grids


def synthetic_image(height: int, width: int, seed: int) -> Pixels:
    """A disc on colour gradients, (height, width, 3) uint8, for self-tests."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    gradient = np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1) * 200
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(height, width) / 3) ** 2
    gradient[inside] = np.random.default_rng(seed).integers(0, 255, 3)
    return gradient.astype(np.uint8)


@dataclass(frozen=True)
class PixelPlan:
    """Resize to (side_h, side_w), perhaps over a first size that keeps the aspect, and scale."""

    first_edge: int
    """Longest side of the first resize; 0 for none."""
    height: int
    width: int
    resample: InterpolationMode
    factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, views: Sequence[Pixels]) -> torch.Tensor:
        """(len(views), 3, height, width) float32 on the CPU."""
        levels = torch.stack([self._resized(pixels) for pixels in views]).to(torch.float32)
        mean, std = torch.tensor(self.mean).view(3, 1, 1), torch.tensor(self.std).view(3, 1, 1)
        return levels.mul_(self.factor / std).sub_(mean / std)

    def _resized(self, pixels: Pixels) -> torch.Tensor:
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.first_edge:
            image = self._to(image, *_longest_edge(pixels.shape, self.first_edge))
        return self._to(image, self.height, self.width)

    def _to(self, image: torch.Tensor, height: int, width: int) -> torch.Tensor:
        if image.shape[1:] == (height, width):
            return image
        return v2.functional.resize(image, [height, width], self.resample, antialias=True)


def _longest_edge(shape: tuple[int, ...], edge: int) -> tuple[int, int]:
    """(height, width) with the longer side ``edge`` and the other one rounded up to even."""
    height, width = shape[:2]
    aspect = width / height
    if width >= height:
        short = int(edge / aspect)
        return max(short + short % 2, 1), edge
    short = int(edge * aspect)
    return edge, max(short + short % 2, 1)


def plan_pixels(image_processor: Any, tiles: Tiles) -> PixelPlan | None:
    """The plan of a transformers image processor, or None when it does more than a plan can.

    It is for views that are one of the ``tiles``.
    """
    told = tiles.arguments((1, 1))
    if not getattr(image_processor, "do_resize", False) or _does_more(image_processor, told):
        return None
    size = told.get("size") or getattr(image_processor, "size", None) or {}
    tile = getattr(image_processor, "max_image_size", None) or {}
    first, height, width = 0, _side(size, "height"), _side(size, "width")
    if _side(tile, "longest_edge"):
        first = _side(size, "longest_edge")
        height = width = _side(tile, "longest_edge")
    resample = _FILTERS.get(int(getattr(image_processor, "resample", None) or 0))
    if not height or not width or first > MAX_EDGE or resample is None:
        return None
    normal = bool(getattr(image_processor, "do_normalize", False))
    rescale = bool(getattr(image_processor, "do_rescale", False))
    return PixelPlan(
        first_edge=first,
        height=height,
        width=width,
        resample=resample,
        factor=float(image_processor.rescale_factor) if rescale else 1.0,
        mean=_three(image_processor.image_mean) if normal else (0.0, 0.0, 0.0),
        std=_three(image_processor.image_std) if normal else (1.0, 1.0, 1.0),
    )


def _does_more(image_processor: Any, told: Mapping[str, Any]) -> bool:
    steps = ("do_image_splitting", "do_pan_and_scan", "do_center_crop")
    return any(told.get(step, getattr(image_processor, step, False)) for step in steps)


def _side(size: Any, name: str) -> int:
    value = size.get(name) if isinstance(size, dict) else getattr(size, name, None)
    return int(value or 0)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values if isinstance(values, list | tuple) else (values,) * 3
    return float(red), float(green), float(blue)


def agrees(planned: PixelPlan, views: Sequence[Pixels], expected: torch.Tensor) -> bool:
    """Whether the plan gives what the processor gave for ``views``, (N, …, 3, height, width)."""
    made = planned(views)
    if made.numel() != expected.numel() or made.shape[-2:] != expected.shape[-2:]:
        return False
    step = 1 / min(planned.std) * (planned.factor * 255)
    difference = (made.reshape(expected.shape) - expected.float().cpu()).abs().max()
    return bool(difference <= TOLERANCE * step)
