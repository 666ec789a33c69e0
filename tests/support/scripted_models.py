"""Models without weights, for commands in a process of their own: ``--proposer scripted_models:…``

The proposer finds the bright half of an image; the verifier says yes to what the argument names.
"""

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fakes import ScriptedSegmenter, object_and_parts
from numpy.typing import NDArray

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image, Proposals, VQAQuery
from secondlook.labeling.segmenter import ImageEncoding, MaskCandidate, SegmentationPrompt
from secondlook_client.values import Answer


class BrightHalf:
    """One box an image, on its brighter half, for every phrase alike."""

    name = "bright-half"
    digest = "1"

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """Waits a while for each image, and notes in a file what it was asked for."""
        found = []
        for image in images:
            time.sleep(self._pause_s)
            if log := os.environ.get("SCRIPTED_LOG"):
                with Path(log).open("a", encoding="utf-8") as file:
                    file.write(image.sha256 + "\n")
            half = image.width / 2
            left = image.pixels[:, : int(half)].mean() >= image.pixels[:, int(half) :].mean()
            box = [0, 0, half, image.height] if left else [half, 0, image.width, image.height]
            scores = np.full((1, len(phrases)), 0.9, dtype=np.float32)
            found.append(Proposals(np.array([box], dtype=np.float32), scores))
        return found


class Agreeable:
    """Says yes to questions that hold its word, no to the others."""

    name = "agreeable"
    digest = "1"
    min_side = 8

    def __init__(self, word: str) -> None:
        self._word = word

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """P(yes) 0.9 or 0.1."""
        return [tuple(self._one(q) for q in query.questions) for query in queries]

    def _one(self, question: str) -> Answer:
        yes = self._word in question
        return Answer(0.9 if yes else 0.1, "Yes" if yes else "No")


class SlowlyAgreeable(Agreeable):
    """Takes a while for each view, and notes in a file that it was asked."""

    def __init__(self, word: str, pause_s: float) -> None:
        super().__init__(word)
        self._pause_s = pause_s

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """As ``Agreeable``."""
        for query in queries:
            time.sleep(self._pause_s)
            with Path(os.environ["SCRIPTED_LOG"]).open("a", encoding="utf-8") as file:
                file.write(f"{query.questions}\n")
        return super().answer(queries)


def bright_half(argument: str, options: ModelSettings) -> BrightHalf:
    """``argument``: seconds that each image takes."""
    return BrightHalf(float(argument or 0))


class Hanging(BrightHalf):
    """Never ends an image that is wider than 100 pixels."""

    def __init__(self, how: str) -> None:
        super().__init__(0.0)
        self._how = how

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """Once it hangs it notes that on standard output."""
        if any(image.width > 100 for image in images):
            print("hangs", flush=True)
            while self._how == "python":
                pass
            threading.Event().wait()
        return super().propose(images, phrases, floor)


def hanging(argument: str, options: ModelSettings) -> Hanging:
    """``argument``: ``waiting`` for an event, or ``python`` for a loop of Python code."""
    return Hanging(argument)


class Deadly(BrightHalf):
    """Ends its process at an image that is wider than 100 pixels."""

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """As ``BrightHalf``, unless it dies."""
        if any(image.width > 100 for image in images):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().propose(images, phrases, floor)


def deadly(argument: str, options: ModelSettings) -> Deadly:
    """``argument``: seconds that each image takes."""
    return Deadly(float(argument or 0))


class MeanColour:
    """Embeds an image as its mean colour; ends its process at one wider than 100 pixels."""

    name, digest, dimensions = "colour", "1", 4

    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, 4), of any length above 0."""
        if any(image.width > 100 for image in images):
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([[*image.pixels.mean((0, 1)), 1] for image in images], np.float32)


def mean_colour(argument: str, options: ModelSettings) -> MeanColour:
    """Has no use for an argument."""
    return MeanColour()


def slow_to_load(argument: str, options: ModelSettings) -> BrightHalf:
    """Says on standard output that it is being loaded, for a minute."""
    print("loading", flush=True)
    time.sleep(60)
    return BrightHalf(0.0)


def agreeable(argument: str, options: ModelSettings) -> Agreeable:
    """``argument``: the word."""
    return Agreeable(argument or "dog")


def agreeable_slowly(argument: str, options: ModelSettings) -> SlowlyAgreeable:
    """``argument``: seconds that each view takes; says yes to dogs."""
    return SlowlyAgreeable("dog", float(argument))


class BrightPixels:
    """The pixels of a box that are brighter than middle grey."""

    name = "bright-pixels"
    digest = "1"

    def encode(self, images: Sequence[Image]) -> list[ImageEncoding]:
        """The images themselves."""
        return [
            ImageEncoding((one.width, one.height), one.pixels, one.pixels.nbytes) for one in images
        ]

    def segment(
        self, encoding: ImageEncoding, prompts: Sequence[SegmentationPrompt]
    ) -> list[tuple[MaskCandidate, ...]]:
        """One mask for each box."""
        found = []
        for prompt in prompts:
            assert prompt.box and isinstance(encoding.features, np.ndarray)
            left, top, right, bottom = map(round, prompt.box)
            inside = np.zeros(encoding.features.shape[:2], dtype=bool)
            inside[top:bottom, left:right] = True
            pixels = inside & (encoding.features.mean(axis=2) > 128)
            found.append((MaskCandidate(pixels, 0.9, 0.95),))
        return found


class BrokenSegmenter(BrightPixels):
    """Encodes nothing."""

    def encode(self, images: Sequence[Image]) -> list[ImageEncoding]:
        """Raises."""
        raise RuntimeError("no memory")


def broken_segmenter(argument: str, options: ModelSettings) -> BrokenSegmenter:
    """``scripted_models:broken_segmenter``."""
    return BrokenSegmenter()


def bright_pixels(argument: str, options: ModelSettings) -> BrightPixels:
    """``scripted_models:bright_pixels``."""
    return BrightPixels()


def ellipses(argument: str, options: ModelSettings) -> ScriptedSegmenter:
    """``scripted_models:ellipses``."""
    return ScriptedSegmenter(object_and_parts)
