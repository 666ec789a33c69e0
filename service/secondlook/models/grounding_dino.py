"""Stage one on transformers' Grounding DINO and MM Grounding DINO (arXiv 2303.05499, 2401.02361).

Pictures that share a caption and a canvas go through the model together. A class is scored from
the token span of its phrase in the logits, read directly: the processor's post-processing gives
decoded words instead, whose names changed between releases.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
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

from secondlook import boxes as box_ops
from secondlook.captions import Caption, Marks, pack
from secondlook.config import ModelOptions
from secondlook.errors import BadSetting
from secondlook.labels import Image, Proposals
from secondlook.models import arguments, checkpoints, convolutions, deformable, fusion
from secondlook.models.devices import Placement, place
from secondlook.models.pixels import PixelSettings, prepare, settings_of

MODEL_TYPES = ("grounding-dino", "mm-grounding-dino")
_PIXELS_AT_ONCE = {"cpu": 2**19}
"""Pixels in one pass of the model. A CPU gains nothing from more, and memory grows with them."""
_PIXELS_AT_ONCE_ELSEWHERE = 2**24


@dataclass(frozen=True, eq=False)
class _Prompt:
    """One caption as tensors on the model's device."""

    ids: torch.Tensor
    """(1, T) int64."""
    spans: torch.Tensor
    """(phrases, longest span) int64: positions of each phrase's tokens, the last one repeated."""
    columns: NDArray[np.intp]
    """(phrases,): where their scores belong among all phrases asked for."""


class GroundingDinoProposer:
    """Boxes from words. Thread-safe: the model is only read.

    The result for a picture does not depend on its company: it enters in a shape of its own, and
    only pictures of that shape and the same caption share a batch.
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
        batch: int = 32,
        together: int | None = None,
    ) -> None:
        """``model`` is an ``…GroundingDinoForObjectDetection``, ``tokenizer`` its BERT tokenizer.

        The model is taken over: parts of it are replaced by quicker ones with the same outputs.
        Raises ``BadSetting`` when the tokenizer numbers the marks of a caption otherwise than
        the model, which would misread every caption without a word.
        """
        self.name = name
        self.digest = digest
        self._model = _ready(model, placement.device)
        self._tokenizer = tokenizer
        self._pixels = pixels
        self._placement = placement
        self._batch = batch
        self._together = together
        self._tokenizing = Lock()
        self._prompts = lru_cache(maxsize=64)(self._write_prompts)
        _check_marks(tokenizer)

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """See ``propose.Proposer``. Boxes of several captions stand one after the other."""
        prompts = self._prompts(tuple(phrases))
        found: dict[int, list[Proposals]] = {row: [] for row in range(len(images))}
        for rows in self._batches(images):
            members = [images[row] for row in rows]
            pixels, mask = prepare(members, self._pixels, self._placement.device)
            for prompt in prompts:
                boxes, scores = self._ask(pixels, mask, prompt)
                for row, near, seen in zip(rows, boxes, scores, strict=True):
                    kept = seen.max(axis=1) >= floor
                    wide = np.zeros((int(kept.sum()), len(phrases)), dtype=np.float32)
                    wide[:, prompt.columns] = seen[kept]
                    size = images[row].width, images[row].height
                    found[row].append(Proposals(box_ops.from_cxcywh(near[kept], *size), wide))
        return [_joined(parts, len(phrases)) for parts in found.values()]

    def _batches(self, images: Sequence[Image]) -> Iterator[list[int]]:
        """Rows of pictures that enter the model together: one canvas, bounded in number."""
        by_canvas: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, image in enumerate(images):
            resized = self._pixels.resized(image.height, image.width)
            by_canvas[self._pixels.canvas(resized)].append(row)
        room = _PIXELS_AT_ONCE.get(self._placement.device.type, _PIXELS_AT_ONCE_ELSEWHERE)
        for (height, width), rows in by_canvas.items():
            size = max(1, min(self._batch, room // (height * width)))
            yield from (rows[start : start + size] for start in range(0, len(rows), size))

    @torch.inference_mode()
    def _ask(
        self, pixels: torch.Tensor, mask: torch.Tensor, prompt: _Prompt
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Relative boxes (B, Q, 4) as centre and size, and scores (B, Q, phrases)."""
        ids = prompt.ids.expand(len(pixels), -1)
        with self._placement.autocast():
            output = self._model(
                pixel_values=pixels,
                pixel_mask=mask,
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                token_type_ids=torch.zeros_like(ids),
            )
        scores = output.logits[..., prompt.spans].amax(dim=-1).float().sigmoid()
        together = torch.cat([output.pred_boxes.float(), scores], dim=-1).cpu().numpy()
        return together[..., :4], together[..., 4:]

    def _write_prompts(self, phrases: tuple[str, ...]) -> tuple[_Prompt, ...]:
        captions = pack(
            phrases,
            self._tokenise,
            max_tokens=self._model.config.max_text_len,
            max_phrases=self._together,
        )
        return tuple(_prompt(caption, self._placement.device) for caption in captions)

    def _tokenise(self, phrase: str) -> list[int]:
        with self._tokenizing:  # a fast tokenizer panics when two threads set it up at once
            return self._tokenizer(phrase, add_special_tokens=False)["input_ids"]


def load(argument: str, options: ModelOptions) -> GroundingDinoProposer:
    """A checkpoint by folder or hub id, with ``?together=…&pad=…`` where wanted.

    Raises ``NotFound`` when it cannot be had and ``BadSetting`` when it is no Grounding DINO.
    """
    where, settings = arguments.split(argument, ("together", "pad"))
    folder = checkpoints.folder_of(where, remote_code=options.trust_remote_code)
    name = where.rstrip("/").rpartition("/")[2] or where
    return load_folder(folder, options, name=name, prompting=arguments.prompting(settings))


def load_folder(
    folder: Path, options: ModelOptions, *, name: str, prompting: arguments.Prompting
) -> GroundingDinoProposer:
    """A checkpoint in a local folder, safetensors only."""
    placement = place(options)
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
        settings_of(
            processor,
            multiple=prompting.pad,
            least_cells=config.num_queries,
            cell=finest_cell(model),
        ),
        name=name,
        digest=checkpoints.digest_of_folder(folder),
        placement=placement,
        batch=options.batch,
        together=prompting.together,
    )


def finest_cell(model: Any) -> int:
    """Pixels a side of one cell of the model's finest feature map.

    The model takes its ``num_queries`` best cells and fails when there are fewer, which a long
    and thin picture would bring about; the canvas is made large enough with this number.
    """
    return 64 // _features_of_64(model)[0].shape[-1]


def _features_of_64(model: Any) -> tuple[torch.Tensor, ...]:
    """The backbone's feature maps of a blank square of 64 pixels."""
    with torch.inference_mode():
        blank = torch.zeros(1, 3, 64, 64, device=model.device)
        return tuple(model.model.backbone.conv_encoder.model(blank).feature_maps)


def _ready(model: Any, device: torch.device) -> Any:
    """The model in the form in which it runs fastest on the device."""
    model = model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        deformable.quicken(model)
        fusion.quicken(model)
        convolutions.quicken(model, lambda: _features_of_64(model))
    return model


def _check_marks(tokenizer: Any) -> None:
    marks = Marks()
    expected = {"[CLS]": marks.start, "[SEP]": marks.end, ".": marks.stop, "?": marks.question}
    got = {token: tokenizer.convert_tokens_to_ids(token) for token in expected}
    if got != expected:
        raise BadSetting(
            f"the tokenizer numbers {got}, the model expects {expected} (BERT's own numbers); "
            "give the checkpoint the tokenizer it was trained with"
        )


def _prompt(caption: Caption, device: torch.device) -> _Prompt:
    longest = max(stop - start for start, stop in caption.spans)
    spans = [
        [min(start + offset, stop - 1) for offset in range(longest)]
        for start, stop in caption.spans
    ]
    return _Prompt(
        torch.tensor([caption.ids], device=device),
        torch.tensor(spans, device=device),
        np.asarray(caption.phrases, dtype=np.intp),
    )


def _joined(parts: list[Proposals], columns: int) -> Proposals:
    if len(parts) == 1:
        return parts[0]
    empty = Proposals(np.zeros((0, 4), np.float32), np.zeros((0, columns), np.float32))
    together = [empty, *parts]
    return Proposals(
        np.concatenate([part.boxes for part in together]),
        np.concatenate([part.scores for part in together]),
    )
