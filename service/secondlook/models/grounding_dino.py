"""Stage one on transformers' Grounding DINO and MM Grounding DINO (arXiv 2303.05499, 2401.02361).

Captions: ``[CLS] phrase . phrase . [SEP]`` as token ids, built from the ids of each phrase, so that
the token span of every phrase is known exactly. A class is scored from that span in the logits,
read directly: matching decoded words instead, as the processor's post-processing does, turns "man"
into "woman" and "cat dog" into nothing, and its names changed between releases.

Pixels: value for value what the model's own image processor gives, and nothing else (its guessing
of formats and its annotations take time that a small model would notice). The shape in which an
image enters depends on that image alone, never on the others of its batch: normalisation layers
and attention windows see the padding. So a batch gives the same boxes as one image at a time.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForZeroShotObjectDetection,
    AutoTokenizer,
)

from secondlook.config.settings import ModelSettings
from secondlook.core import boxes as box_ops
from secondlook.core.types import Image, Proposals
from secondlook.models import cpu_speedups, cuda_speedups, loading
from secondlook.models.caption_features import (
    accept_text_features,
    reads_captions,
    text_features,
)
from secondlook.models.cuda_graphs import Run
from secondlook.models.grounding_dino_layers import (
    fuse_half_products,
    replace_attention,
    replace_for_cache,
)
from secondlook.models.image_processor import (
    interpolation_of,
    normalisation_of,
    resize_pixels,
    size_entries,
)
from secondlook.models.loading import Placement, choose_placement
from secondlook.models.spec_options import split_options
from secondlook_client.errors import BadOntology, BadSetting

MODEL_TYPES = ("grounding-dino", "mm-grounding-dino")
MAX_TOKENS = 256
"""Tokens of the longest caption that the published checkpoints read, ``[CLS]`` and ``[SEP]``
included."""
_PIXELS_PER_PASS = {"cpu": 2**19}
"""Pixels in one pass of the model. A CPU gains nothing from more, and memory grows with them."""
_PIXELS_PER_PASS_ON_GPU = 2**24
Shape = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens around the phrases of a caption; the defaults are BERT's.

    Both Grounding DINO classes of transformers compare ids with these very numbers to tell
    phrases apart, so a vocabulary that numbers them otherwise is silently misread by the model.
    """

    start: int = 101
    end: int = 102
    stop: int = 1012
    """Closes a phrase."""
    question: int = 1029
    """Closes a phrase too, as the model reads it; never written by us."""


@dataclass(frozen=True)
class Caption:
    """One caption and where each of its phrases stands."""

    ids: tuple[int, ...]
    phrases: tuple[int, ...]
    """Indices into the packed phrases, in order."""
    spans: tuple[tuple[int, int], ...]
    """For each phrase the positions in ``ids`` of its first token and after its last."""


@dataclass(frozen=True)
class PixelSettings:
    """How images are resized, normalised and padded."""

    shortest: int
    """Length that the shorter side is brought to, pixels …"""
    longest: int
    """… unless the longer side would exceed this."""
    mean: tuple[float, ...]
    """Per channel, of pixel values in 0 … 255."""
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    pad_to: Shape | None = None
    """Fixed canvas, where the processor has one."""
    multiple: int = 1
    """Canvas sides are rounded up to a multiple of this; 1 pads nothing."""
    least_cells: int = 0
    """A canvas has at least this many cells (the model picks that many queries from them) …"""
    cell: int = 8
    """… of this many pixels a side."""

    def resized(self, height: int, width: int) -> Shape:
        """The shape that an image is resized to, sides of at least one pixel.

        The arithmetic, its rounding included, is that of DETR's published preprocessing.
        """
        short, long = min(height, width), max(height, width)
        target: float = self.shortest
        if long / short * self.shortest > self.longest:
            target = self.longest * short / long
        size = round(target)
        if short == size:
            return height, width
        size, other = max(1, size), max(1, int(target * long / short))
        return (size, other) if height <= width else (other, size)

    def canvas(self, resized: Shape) -> Shape:
        """The padded shape in which an image of this resized shape enters the model."""
        if self.pad_to is not None:
            return max(self.pad_to[0], resized[0]), max(self.pad_to[1], resized[1])
        height, width = (-(-side // self.multiple) * self.multiple for side in resized)
        while (height // self.cell) * (width // self.cell) < self.least_cells:
            height, width = (
                (height + self.cell, width) if height <= width else (height, width + self.cell)
            )
        return height, width


@dataclass(frozen=True)
class SpecSettings:
    """What a spec sets, as in ``transformers:ORG/NAME?max_phrases=1&pad=32``.

    The defaults give what the authors' own code gives.
    """

    max_phrases: int | None = None
    """Phrases in one caption at most; None packs as many as fit. 1 finds most and costs a pass of
    the model for each phrase."""
    pad: int = 1
    """Images are padded to a multiple of this many pixels. 1 pads nothing: scores equal those
    of the original code, but only images of one resized shape share a batch."""
    tokenizer: str | None = None
    """Folder of BERT's tokenizer, for checkpoints that come without one."""


@dataclass(frozen=True, eq=False)
class _CaptionTensors:
    """One caption as tensors on the model's device."""

    ids: torch.Tensor
    """(1, T) int64."""
    features: torch.Tensor
    """(1, T, C): what the text encoder gives for them."""
    spans: torch.Tensor
    """(phrases, longest span) int64: positions of each phrase's tokens, the last one repeated."""
    columns: NDArray[np.intp]
    """(phrases,): where their scores belong among all phrases asked for."""


class GroundingDinoProposer:
    """Boxes from words. Thread-safe: the model is only read.

    The result for an image does not depend on the others of its batch: it enters in a shape of
    its own, and only images of that shape and the same caption share a batch.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pixels: PixelSettings,
        *,
        name: str,
        digest: str,
        placement: Placement,
        batch: int = ModelSettings.model_batch,
        max_phrases: int | None = None,
    ) -> None:
        """``model`` is an ``…GroundingDinoForObjectDetection``, ``tokenizer`` its BERT tokenizer.

        The model is changed in place: parts of it are replaced by faster ones with the same
        outputs. ``max_phrases`` limits the phrases of a caption, see ``pack_captions``. Raises
        ``BadSetting`` when the tokenizer numbers the special tokens otherwise than the model,
        which would then silently misread every caption.
        """
        self.name = name
        self.digest = digest
        self.device = placement.device.type
        self._model = _prepare_for_device(model, placement)
        self._tokenizer = tokenizer
        self._pixels = pixels
        self._placement = placement
        self._batch = batch
        self._max_phrases = max_phrases
        self._tokenizing = Lock()
        self._captions = lru_cache(maxsize=64)(self._caption_tensors)
        self._run: Run = self._run_model
        if placement.device.type == "cuda" and not reads_captions(model):
            self._run = cuda_speedups.graphed(self._run_model, placement.device)
        _check_special_tokens(tokenizer)

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """See ``propose.Proposer``. Boxes of several captions stand one after the other."""
        captions = self._captions(tuple(phrases))
        launched = []
        for rows in self._batches(images):
            members = [images[row] for row in rows]
            pixels, mask = preprocess(members, self._pixels, self._placement.device)
            launched += [
                (rows, caption, self._forward(pixels, mask, caption)) for caption in captions
            ]
        # Read only now: while a GPU computes one batch, the next is prepared.
        found: dict[int, list[Proposals]] = {row: [] for row in range(len(images))}
        for rows, caption, output in launched:
            boxes, scores = np.split(output.cpu().numpy(), [4], axis=-1)
            for row, relative, per_phrase in zip(rows, boxes, scores, strict=True):
                kept = per_phrase.max(axis=1) >= floor
                wide = np.zeros((int(kept.sum()), len(phrases)), dtype=np.float32)
                wide[:, caption.columns] = per_phrase[kept]
                size = images[row].width, images[row].height
                found[row].append(Proposals(box_ops.from_cxcywh(relative[kept], *size), wide))
        return [_concatenate(parts, len(phrases)) for parts in found.values()]

    def _batches(self, images: Sequence[Image]) -> Iterator[list[int]]:
        """Rows of images that share a batch: one canvas, bounded in number."""
        by_canvas: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, image in enumerate(images):
            resized = self._pixels.resized(image.height, image.width)
            by_canvas[self._pixels.canvas(resized)].append(row)
        room = _PIXELS_PER_PASS.get(self._placement.device.type, _PIXELS_PER_PASS_ON_GPU)
        for (height, width), rows in by_canvas.items():
            size = max(1, min(self._batch, room // (height * width)))
            yield from (rows[start : start + size] for start in range(0, len(rows), size))

    @torch.inference_mode()
    def _forward(
        self, pixels: torch.Tensor, mask: torch.Tensor, caption: _CaptionTensors
    ) -> torch.Tensor:
        """(B, Q, 4 + phrases) on the device: relative centre and size of boxes, then scores."""
        ids = caption.ids.expand(len(pixels), -1)
        features = caption.features.expand(len(pixels), -1, -1)
        logits, boxes = self._run(pixels, mask, ids, features)
        scores = logits[..., caption.spans].amax(dim=-1).float().sigmoid()
        return torch.cat([boxes.float(), scores], dim=-1)

    def _run_model(
        self,
        pixels: torch.Tensor,
        mask: torch.Tensor,
        ids: torch.Tensor,
        features: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Logits (B, Q, longest caption) and relative boxes (B, Q, 4)."""
        with self._placement.autocast():
            output = self._model(
                pixel_values=pixels,
                pixel_mask=mask,
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                token_type_ids=features,  # see accept_text_features
            )
        return output.logits, output.pred_boxes

    def _caption_tensors(self, phrases: tuple[str, ...]) -> tuple[_CaptionTensors, ...]:
        captions = pack_captions(
            phrases,
            self._tokenise,
            max_tokens=self._model.config.max_text_len,
            max_phrases=self._max_phrases,
        )
        return tuple(self._to_tensors(caption) for caption in captions)

    def _to_tensors(self, caption: Caption) -> _CaptionTensors:
        device = self._placement.device
        ids = torch.tensor([caption.ids], device=device)
        with self._placement.autocast():
            features = text_features(self._model, ids)
        longest = max(stop - start for start, stop in caption.spans)
        spans = [
            [min(start + offset, stop - 1) for offset in range(longest)]
            for start, stop in caption.spans
        ]
        columns = np.asarray(caption.phrases, dtype=np.intp)
        return _CaptionTensors(ids, features, torch.tensor(spans, device=device), columns)

    def _tokenise(self, phrase: str) -> list[int]:
        with self._tokenizing:  # a fast tokenizer panics when two threads set it up at once
            return self._tokenizer(phrase, add_special_tokens=False)["input_ids"]


def load(argument: str, options: ModelSettings) -> GroundingDinoProposer:
    """A checkpoint by folder or hub id, safetensors only, with ``?max_phrases=…&pad=…`` if wanted.

    Raises ``NotFound`` when it cannot be had and ``BadSetting`` when it is no Grounding DINO.
    """
    where, settings = parse_spec(argument)
    folder = loading.checkpoint_folder(where, remote_code=options.trust_remote_code)
    name = loading.short_name(where)
    placement = choose_placement(options)
    own = {"local_files_only": True, "trust_remote_code": options.trust_remote_code}
    config = AutoConfig.from_pretrained(folder, **own)
    if config.model_type not in MODEL_TYPES:
        raise BadSetting(
            f"'{name}' is a '{config.model_type}' model; expected one of {', '.join(MODEL_TYPES)}. "
            "Other detectors plug in as a proposer of their own (package.module:attribute)"
        )
    model = AutoModelForZeroShotObjectDetection.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, **own
    )
    processor = AutoImageProcessor.from_pretrained(folder, **own)
    return GroundingDinoProposer(
        model,
        AutoTokenizer.from_pretrained(folder, **own),
        read_pixel_settings(
            processor,
            multiple=settings.pad,
            least_cells=config.num_queries,
            cell=finest_stride(model),
        ),
        name=name,
        digest=loading.digest_of_folder(folder),
        placement=placement,
        batch=options.model_batch,
        max_phrases=settings.max_phrases,
    )


def parse_spec(argument: str, *, tokenizer: bool = False) -> tuple[str, SpecSettings]:
    """``where?key=value&…`` as ``where`` and its settings; ``tokenizer`` allows that one too.

    Raises ``BadSetting`` for a setting that is unknown, out of range, or given twice.
    """
    allowed = ("max_phrases", "pad", "tokenizer")[: 3 if tokenizer else 2]
    where, found = split_options(argument, allowed)
    max_phrases = _whole_number(found, "max_phrases", 1, 256)
    pad = _whole_number(found, "pad", 1, 4096) or 1
    return where, SpecSettings(max_phrases, pad, found.get("tokenizer"))


def _whole_number(settings: Mapping[str, str], key: str, low: int, high: int) -> int | None:
    text = settings.get(key)
    if text is None:
        return None
    if not text.isdecimal() or not low <= int(text) <= high:
        raise BadSetting(f"expected {key} from {low} to {high}, got '{text}'")
    return int(text)


def finest_stride(model: Any) -> int:
    """Pixels a side of one cell of the model's finest feature map.

    The model takes its ``num_queries`` best cells and fails when there are fewer, as on a long and
    thin image; the canvas is made large enough with this number.
    """
    return 64 // _features_of_64(model)[0].shape[-1]


def _features_of_64(model: Any) -> tuple[torch.Tensor, ...]:
    """The backbone's feature maps of a blank square of 64 pixels."""
    with torch.inference_mode():
        blank = torch.zeros(1, 3, 64, 64, device=model.device)
        return tuple(model.model.backbone.conv_encoder.model(blank).feature_maps)


def _prepare_for_device(model: Any, placement: Placement) -> Any:
    """The model on the device, in the form that runs fastest there."""
    device = placement.device
    model = model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    if reads_captions(model):  # another package's: none of its parts has a faster one here
        return model
    accept_text_features(model)
    if device.type == "cuda":
        cuda_speedups.replace_deformable_attention(model)
    elif device.type == "cpu":
        replace_for_cache(model)
    else:  # Apple's, where none of these was tried
        return model
    replace_attention(model)
    cpu_speedups.fuse_conv_bn(model, lambda: _features_of_64(model))
    cpu_speedups.use_channels_last(model)
    cpu_speedups.cast_weights(model, placement.dtype)
    if device.type == "cpu":
        fuse_half_products(model)
    return model


def _check_special_tokens(tokenizer: Any) -> None:
    ids = SpecialTokens()
    expected = {"[CLS]": ids.start, "[SEP]": ids.end, ".": ids.stop, "?": ids.question}
    got = {token: tokenizer.convert_tokens_to_ids(token) for token in expected}
    if got != expected:
        raise BadSetting(
            f"the tokenizer numbers {got}, the model expects {expected} (BERT's own numbers); "
            "give the checkpoint the tokenizer it was trained with"
        )


def _concatenate(parts: list[Proposals], columns: int) -> Proposals:
    if len(parts) == 1:
        return parts[0]
    empty = Proposals(np.zeros((0, 4), np.float32), np.zeros((0, columns), np.float32))
    every = [empty, *parts]
    return Proposals(
        np.concatenate([part.boxes for part in every]),
        np.concatenate([part.scores for part in every]),
    )


def pack_captions(
    phrases: Sequence[str],
    tokenise: Callable[[str], Sequence[int]],
    *,
    max_tokens: int = MAX_TOKENS,
    max_phrases: int | None = None,
    special: SpecialTokens | None = None,
) -> tuple[Caption, ...]:
    """Pack whole phrases, in order, into as few captions as first-fit in order gives.

    ``tokenise`` gives the ids of one phrase without special tokens. ``max_phrases`` (≥ 1) limits
    how many phrases share a caption: a phrase alone is found more often than among others
    (https://github.com/IDEA-Research/GroundingDINO/issues/141), at the price of one pass of the
    model for each caption. Raises ``BadOntology`` for a phrase that does not fit a caption by
    itself, has no token, or holds one of the special tokens.
    """
    special = special or SpecialTokens()
    captions: list[Caption] = []
    waiting: list[tuple[int, tuple[int, ...]]] = []
    used = 2
    for index, phrase in enumerate(phrases):
        ids = _checked(phrase, tuple(tokenise(phrase)), max_tokens, special)
        full = max_phrases is not None and len(waiting) >= max_phrases
        if waiting and (full or used + len(ids) + 1 > max_tokens):
            captions.append(_write(waiting, special))
            waiting, used = [], 2
        waiting.append((index, ids))
        used += len(ids) + 1
    if waiting:
        captions.append(_write(waiting, special))
    return tuple(captions)


def _checked(
    phrase: str, ids: tuple[int, ...], max_tokens: int, special: SpecialTokens
) -> tuple[int, ...]:
    allowed = max_tokens - 3
    if not ids:
        raise BadOntology(
            f"phrase {phrase!r} has no token in this proposer's vocabulary; give it words"
        )
    if len(ids) > allowed:
        raise BadOntology(
            f"phrase '{_short(phrase)}' has {len(ids)} tokens, at most {allowed} fit in a "
            "caption of this proposer; shorten it"
        )
    if {special.start, special.end, special.stop, special.question}.intersection(ids):
        raise BadOntology(
            f"phrase '{_short(phrase)}' holds a token that ends a phrase in the proposer's caption "
            "(such as '.', '?' or '[SEP]'); leave it out"
        )
    return ids


def _short(phrase: str, limit: int = 60) -> str:
    return phrase if len(phrase) <= limit else f"{phrase[:limit]}…"


def _write(members: list[tuple[int, tuple[int, ...]]], special: SpecialTokens) -> Caption:
    ids = [special.start]
    spans = []
    for _, phrase in members:
        spans.append((len(ids), len(ids) + len(phrase)))
        ids += [*phrase, special.stop]
    return Caption((*ids, special.end), tuple(index for index, _ in members), tuple(spans))


def read_pixel_settings(processor: Any, **more: int) -> PixelSettings:
    """The settings of a transformers image processor; ``more`` sets the fields that it lacks.

    Raises ``BadSetting`` for another way of resizing than Grounding DINO's.
    """
    size = size_entries(processor.size)
    if "shortest_edge" not in size or "longest_edge" not in size:
        raise BadSetting(
            "the checkpoint's image processor resizes by "
            f"{size}; expected shortest_edge and longest_edge, "
            "as every Grounding DINO has; correct its preprocessor_config.json"
        )
    pad = size_entries(processor.pad_size)
    mean, std = normalisation_of(processor)
    return PixelSettings(
        shortest=size["shortest_edge"],
        longest=size["longest_edge"],
        mean=mean,
        std=std,
        interpolation=interpolation_of(processor),
        pad_to=(pad["height"], pad["width"]) if pad else None,
        **more,
    )


def preprocess(
    images: Sequence[Image], settings: PixelSettings, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one canvas as the model's input.

    Returns pixel values (B, 3, H, W) float32 in channels-last layout, the layout both
    of decoded images and of fast convolutions, and the mask (B, H, W) int64: 1 for image,
    0 for padding. Padding is 0 after normalisation.
    """
    shapes = [settings.resized(image.height, image.width) for image in images]
    height, width = settings.canvas(shapes[0])
    way = settings.interpolation
    mean, std = _channels(settings, device)
    pixels = mean.expand(len(images), height, width, 3).contiguous()
    mask = torch.zeros(len(images), height, width, dtype=torch.long, device=device)
    for row, (image, (high, wide)) in enumerate(zip(images, shapes, strict=True)):
        if device.type == "cuda":
            sized = cuda_speedups.upload_resized(image.pixels, (high, wide), way, device)
        else:
            sized = resize_pixels(image.pixels, (high, wide), way)
        pixels[row, :high, :wide] = sized
        mask[row, :high, :wide] = 1
    pixels.sub_(mean).div_(std)
    return pixels.permute(0, 3, 1, 2), mask


@lru_cache(maxsize=64)
def _channels(settings: PixelSettings, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and divisor on the device. Kept, because a GPU would be waited for to copy them."""
    return torch.tensor(settings.mean, device=device), torch.tensor(settings.std, device=device)
