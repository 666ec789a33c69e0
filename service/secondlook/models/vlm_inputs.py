"""What a transformers vision-language model is fed: views, questions, and how they join.

A prompt is cut behind its last image token. Everything before depends on the view alone (the
*head*), everything after on the question alone (the *tail*), so that each is made once.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from secondlook.errors import BadSetting
from secondlook.labels import Pixels
from secondlook.models.answers import closed

MAX_TAILS = 4096
"""Questions whose tokens are kept; a run asks a few dozen."""

Tokens = dict[str, torch.Tensor]
"""Aligned vectors over the tokens of a prompt: ``input_ids``, and token types where a model has
them. Long integers."""


@dataclass(frozen=True, eq=False)
class Group:
    """Views whose heads are equal but for the pixels, so that they fit one batch unpadded."""

    rows: tuple[int, ...]
    """Which of the views asked about these are."""
    head: Tokens
    """(head length,) each; the same for all views of the group."""
    images: dict[str, torch.Tensor]
    """Pixels, masks and grids; each tensor's first axis is a whole multiple of ``len(rows)``."""

    def images_of(self, views: torch.Tensor) -> dict[str, torch.Tensor]:
        """The image tensors of ``views``, (R,) long positions in ``rows``, repeats allowed."""
        return {name: pick(tensor, len(self.rows), views) for name, tensor in self.images.items()}


def pick(tensor: torch.Tensor, views: int, wanted: torch.Tensor) -> torch.Tensor:
    """The parts of ``tensor`` that belong to the views ``wanted``, when it holds ``views``.

    Models with a free picture size flatten the patches of all pictures into one axis.
    """
    return tensor.unflatten(0, (views, -1))[wanted].flatten(0, 1)


class Prompts:
    """The text side of a processor, and its picture side where it has to be asked for each view."""

    def __init__(self, processor: Any, image_token_id: int, device: torch.device) -> None:
        """Raises ``BadSetting`` when the checkpoint's template puts the question first."""
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._image_token_id = image_token_id
        self._device = device
        self._tails: dict[str, Tokens] = {}
        self._probe = PILImage.fromarray(drawn(64, 64, seed=0))
        first = self._cut(self._encode(self._probe, "Is this a cat?"))[0]
        second = self._cut(self._encode(self._probe, "Is this a red dog in a small tree?"))[0]
        if not torch.equal(first["input_ids"], second["input_ids"]):
            raise BadSetting(
                "the checkpoint's chat template puts the question before the picture, so the "
                "picture cannot be read once for many questions; use another checkpoint"
            )

    def text(self, question: str) -> str:
        """The prompt of a question, with one placeholder for the picture."""
        asked = closed(question)
        template = getattr(self._processor, "chat_template", None)
        if not (template or getattr(self._tokenizer, "chat_template", None)):
            return f"{getattr(self._processor, 'image_token', '')}{asked}"
        content = [{"type": "image"}, {"type": "text", "text": asked}]
        message = [{"role": "user", "content": content}]
        return str(self._processor.apply_chat_template(message, add_generation_prompt=True))

    def tail(self, question: str) -> Tokens:
        """The tokens after the last image token, as the processor itself makes them."""
        known = self._tails.get(question)
        if known is None:
            known = self._cut(self._encode(self._probe, question))[1]
            if len(self._tails) >= MAX_TAILS:
                self._tails.clear()
            self._tails[question] = known
        return known

    def template(self) -> tuple[Tokens, dict[str, torch.Tensor]]:
        """Head and image tensors of one probe picture: the shapes that the model expects."""
        encoded = self._encode(self._probe, "Is this a cat?")
        return self._cut(encoded)[0], _images(encoded)

    def view(self, pixels: Pixels) -> tuple[Tokens, dict[str, torch.Tensor]]:
        """Head and image tensors of one view, by the processor."""
        encoded = self._encode(PILImage.fromarray(pixels), "Is this a cat?")
        return self._cut(encoded)[0], _images(encoded)

    def groups(self, views: Sequence[Pixels]) -> list[Group]:
        """Every view through the processor, those that fit one batch together."""
        together: dict[Hashable, list[int]] = {}
        made = [self.view(pixels) for pixels in views]
        for row, (head, images) in enumerate(made):
            together.setdefault(_key(head, images), []).append(row)
        return [
            Group(
                tuple(rows),
                made[rows[0]][0],
                {
                    name: torch.cat([made[row][1][name] for row in rows])
                    for name in made[rows[0]][1]
                },
            )
            for rows in together.values()
        ]

    def _encode(self, picture: PILImage.Image, question: str) -> dict[str, torch.Tensor]:
        text = self.text(question)
        begin = getattr(self._tokenizer, "bos_token", None)
        # A template may write the beginning-of-text token itself; a second one changes answers.
        special = {} if not (begin and text.startswith(begin)) else {"add_special_tokens": False}
        made = self._processor(text=[text], images=[picture], return_tensors="pt", **special)
        return {
            name: value.to(self._device) for name, value in made.items() if torch.is_tensor(value)
        }

    def _cut(self, encoded: dict[str, torch.Tensor]) -> tuple[Tokens, Tokens]:
        ids = encoded["input_ids"]
        places = torch.nonzero(ids[0] == self._image_token_id)
        if not len(places):
            raise BadSetting(
                "the checkpoint's prompt has no place for a picture; "
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
    """Whatever is not about the text: nothing of it has the shape of the token ids."""
    text = encoded["input_ids"].shape
    return {name: value for name, value in encoded.items() if value.shape != text}


def _key(head: Tokens, images: dict[str, torch.Tensor]) -> Hashable:
    """Equal for views that fit one batch: same tokens, same shapes, same grids."""
    ids = tuple(head["input_ids"].tolist())
    shapes = tuple((name, tuple(value.shape)) for name, value in sorted(images.items()))
    grids = tuple(
        tuple(value.flatten().tolist())
        for name, value in sorted(images.items())
        if not name.startswith("pixel") and not value.is_floating_point()
    )
    return ids, shapes, grids


def drawn(height: int, width: int, seed: int) -> Pixels:
    """A drawn picture, (height, width, 3) uint8, for self-tests: a disc on coloured slopes."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    slopes = np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1) * 200
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(height, width) / 3) ** 2
    slopes[inside] = np.random.default_rng(seed).integers(0, 255, 3)
    return slopes.astype(np.uint8)
