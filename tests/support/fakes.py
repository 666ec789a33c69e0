"""Scripted models: the two seams that every test of ours fakes. Everything around them is real."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Image, Proposals, VQAQuery
from secondlook.labeling.segmenter import ImageEncoding, MaskCandidate, SegmentationPrompt
from secondlook_client.values import Answer

Row = tuple[tuple[float, float, float, float], Mapping[str, float]]
"""A box and its score by phrase; phrases left out score 0."""

WHOLE: tuple[float, float, float, float] = (0.25, 0.25, 0.75, 0.75)


def make_image(name: str = "", width: int = 40, height: int = 30, shade: int = 128) -> Image:
    """A plain image whose hash is made of its name and shape."""
    pixels = np.full((height, width, 3), shade, dtype=np.uint8)
    digest = hashlib.sha256(f"{name} {width} {height} {shade}".encode()).hexdigest()
    return Image(pixels, digest, name)


class ScriptedProposer:
    """Answers from a script: rows by image, or the middle of the image for every phrase.

    ``script(image, phrases)`` returns the rows of one image, or raises. ``batches`` records the
    size of each call, ``seen`` the names of the images, ``delay_s`` is the time a call takes, and
    ``gate`` (when given) must be set before a call returns.
    """

    name = "scripted"
    digest = "p0"

    def __init__(
        self,
        script: Callable[[Image, Sequence[str]], Sequence[Row]] | None = None,
        delay_s: float = 0.0,
        gate: threading.Event | None = None,
    ) -> None:
        self.script = script or _middle
        self.delay_s = delay_s
        self.gate = gate
        self.batches: list[int] = []
        self.seen: list[str] = []
        self.started = threading.Event()

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """The script's rows for each image."""
        self.batches.append(len(images))
        self.seen += [image.name for image in images]
        self.started.set()
        if self.gate is not None:
            assert self.gate.wait(30), "a test forgot to open the gate"
        time.sleep(self.delay_s)
        return [_proposals(self.script(image, phrases), phrases, floor) for image in images]


class ScriptedVerifier:
    """Answers from a script: P(yes) by question.

    ``script(question)`` returns P(yes), a whole ``Answer``, or raises. ``views`` counts the views
    seen and ``questions`` records every question asked.
    """

    name = "scripted"
    digest = "v0"
    min_side = 8

    def __init__(
        self,
        script: Callable[[str], float | Answer] | Mapping[str, float | Answer] | float = 1.0,
        delay_s: float = 0.0,
    ) -> None:
        self.script = script
        self.delay_s = delay_s
        self.views = 0
        self.calls = 0
        self.questions: list[str] = []

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """The script's answer to every question."""
        self.calls += 1
        self.views += len(queries)
        self.questions += [question for query in queries for question in query.questions]
        time.sleep(self.delay_s)
        return [tuple(self._one(question) for question in query.questions) for query in queries]

    def _one(self, question: str) -> Answer:
        if isinstance(self.script, float | int):
            said: float | Answer = self.script
        elif isinstance(self.script, Mapping):
            said = self.script[question]
        else:
            said = self.script(question)
        return said if isinstance(said, Answer) else Answer(said, "yes" if said > 0.5 else "no")


class ScriptedSegmenter:
    """Answers a prompt from a script: the mask of an object, or several.

    ``script(prompt, size)``, ``size`` width and height of the image, returns the pixels of the
    mask, (H, W) bool, or whole candidates, or raises; by default the object is an ellipse that
    fills the box, or the pixels around the first click. ``encoded`` has the names of the images.
    """

    name = "scripted"
    digest = "s0"

    def __init__(
        self,
        script: Callable[
            [SegmentationPrompt, tuple[int, int]],
            NDArray[np.bool_] | Sequence[MaskCandidate],
        ]
        | None = None,
        quality: float = 0.9,
        stability: float = 0.95,
    ) -> None:
        self.script = script or ellipse
        self.measured = quality, stability
        self.encoded: list[str] = []
        self.batches: list[int] = []
        self.prompts: list[SegmentationPrompt] = []

    def encode(self, images: Sequence[Image]) -> list[ImageEncoding]:
        """An encoding that takes as many bytes as the image has pixels."""
        self.encoded += [image.name for image in images]
        self.batches.append(len(images))
        return [
            ImageEncoding((image.width, image.height), image.name, image.width * image.height)
            for image in images
        ]

    def segment(
        self, encoding: ImageEncoding, prompts: Sequence[SegmentationPrompt]
    ) -> list[tuple[MaskCandidate, ...]]:
        """The script's mask of each prompt."""
        self.prompts += prompts
        return [self._candidates(self.script(one, encoding.size)) for one in prompts]

    def _candidates(
        self, found: NDArray[np.bool_] | Sequence[MaskCandidate]
    ) -> tuple[MaskCandidate, ...]:
        if isinstance(found, np.ndarray):
            return (MaskCandidate(found, *self.measured),)
        return tuple(found)


def ellipse(prompt: SegmentationPrompt, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The ellipse in the prompt's box, or one of 9 pixels around its first click."""
    x, y = prompt.inside[0] if prompt.inside else (0.0, 0.0)
    left, top, right, bottom = prompt.box or (x - 4, y - 4, x + 5, y + 5)
    ys, xs = np.mgrid[: size[1], : size[0]] + 0.5
    across = (xs - (left + right) / 2) / max((right - left) / 2, 0.5)
    down = (ys - (top + bottom) / 2) / max((bottom - top) / 2, 0.5)
    inside: NDArray[np.bool_] = across**2 + down**2 <= 1
    return inside


def object_and_parts(prompt: SegmentationPrompt, size: tuple[int, int]) -> Sequence[MaskCandidate]:
    """Of a lone click the whole ellipse, a part of 9 pixels and a speck of one; else one mask, to
    which the earlier one belongs."""
    whole = ellipse(prompt, size)
    if prompt.previous is not None:
        return [MaskCandidate(whole | prompt.previous, 0.8, 0.9)]
    if prompt.box or len(prompt.inside) + len(prompt.outside) != 1:
        return [MaskCandidate(whole, 0.95, 0.9)]
    x, y = (int(edge) for edge in prompt.inside[0])
    part, speck = np.zeros_like(whole), np.zeros_like(whole)
    part[y - 1 : y + 2, x - 1 : x + 2], speck[y, x] = True, True
    figures = ((whole, 0.9, 0.9), (part, 0.8, 0.7), (speck, 0.3, 0.5))
    return [MaskCandidate(*one) for one in figures]


def _middle(image: Image, phrases: Sequence[str]) -> list[Row]:
    left, top, right, bottom = WHOLE
    box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    return [(box, dict.fromkeys(phrases, 0.9))]


def _proposals(rows: Sequence[Row], phrases: Sequence[str], floor: float) -> Proposals:
    kept = [row for row in rows if max(row[1].values(), default=0.0) >= floor]
    boxes = np.array([box for box, _ in kept], dtype=np.float32).reshape(-1, 4)
    scores = np.array([[row.get(p, 0.0) for p in phrases] for _, row in kept], dtype=np.float32)
    return Proposals(boxes, scores.reshape(-1, len(phrases)))
