"""What every model behind a network has in common: limits, retries, and images as bytes.

A question is tried until it is answered, until trying again makes no sense, or until its time is
up; then it has no verdict. It is never answered with no because a server was down.
"""

import io
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from secondlook.core.types import Answer, Ask, Pixels

log = logging.getLogger(__name__)

MIN_SIDE = 64
"""Several vision models behind these servers fail on, or see nothing in, smaller images."""
PNG_PIXELS = 1 << 20
"""Larger views travel as JPEG at quality 95: as PNG they take longer to pack than to answer."""
FEW_TOKENS = 4
"""Tokens asked for: one answers; a template may put a line break first, words may need more."""
TOP_TOKENS = 20
"""Likeliest tokens asked for at each place; the most that Ollama, vLLM and OpenAI give."""

SEEN = "Is there a red circle in this image?"
ABSURD = "Is there a crowd of elephants in this image?"


class RefusedError(Exception):
    """The backend said no to this question for good; the message is safe to show."""


class FailedError(Exception):
    """The backend failed on this question and may do better on the next try."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnreachableError(FailedError):
    """Nothing answers at all: no other question of this batch will fare better either."""


@dataclass(frozen=True)
class Patience:
    """How long and how often one question is tried."""

    total_s: float
    """No try begins later than this after the first; one under way is told what is left of it."""
    tries: int = 5
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0

    def wait_s(self, tried: int) -> float:
        """Seconds before the next try after ``tried`` ones: doubling, up to half of it random.

        Without the randomness all questions that a restarted server refused at one moment would
        come back at one moment.
        """
        longest = min(self.longest_wait_s, self.first_wait_s * 2 ** (tried - 1))
        return longest * random.uniform(0.5, 1.0)


class RemoteAsker:
    """Asks questions over a network, at most ``concurrency`` at one time. Thread-safe.

    ``ask(image, question, left_s)`` asks once; it raises ``FailedError``, ``UnreachableError``
    or ``RefusedError``.
    """

    def __init__(
        self,
        ask: Callable[[bytes, str, float], Answer],
        patience: Patience,
        concurrency: int,
        name: str,
    ) -> None:
        self._ask = ask
        self._patience = patience
        self._name = name
        self._waiting: queue.SimpleQueue[_Question] = queue.SimpleQueue()
        # Daemons, unlike the threads of an executor, do not hold up the end of the process.
        for index in range(concurrency):
            threading.Thread(target=self._work, name=f"ask-{index}", daemon=True).start()

    def answer(self, asks: Sequence[Ask]) -> list[tuple[Answer, ...]]:
        """Every answer, in order; a question that could not be answered has ``error`` set.

        The questions of one view follow each other, so that a server which keeps the last prompt
        reads the image once.
        """
        gone = threading.Event()
        asked: list[list[_Question]] = []
        for ask in asks:
            image = packed(ask.pixels)
            asked.append([_Question(image, question, gone) for question in ask.questions])
            for question in asked[-1]:
                self._waiting.put(question)
        return [tuple(question.answer.result() for question in of_view) for of_view in asked]

    def _work(self) -> None:
        while True:
            question = self._waiting.get()
            try:
                question.answer.set_result(self._persist(question))
            except Exception as bug:  # an answer must come, or its image waits for ever
                log.exception("%s: a question failed", self._name)
                cause = f"{self._name} failed ({type(bug).__name__}); see the log"
                question.answer.set_result(Answer(None, error=cause))

    def _persist(self, question: "_Question") -> Answer:
        """One question to its end."""
        ends = time.monotonic() + self._patience.total_s
        tried = 0
        while not question.gone.is_set():
            tried += 1
            try:
                left_s = max(ends - time.monotonic(), 0.001)
                return self._ask(question.image, question.text, left_s)
            except RefusedError as refusal:
                return Answer(None, error=str(refusal))
            except FailedError as failure:
                wait_s = max(self._patience.wait_s(tried), failure.retry_after_s)
                if tried == self._patience.tries or time.monotonic() + wait_s >= ends:
                    return self._give_up(question, failure, tried)
                log.info("%s: %s; trying again in %.1f s", self._name, failure, wait_s)
                time.sleep(wait_s)
        return Answer(None, error=f"{self._name} does not answer")

    def _give_up(self, question: "_Question", failure: FailedError, tried: int) -> Answer:
        log.warning("%s: %s; gave up after %d tries", self._name, failure, tried)
        if isinstance(failure, UnreachableError):
            question.gone.set()
        return Answer(None, error=f"{failure} ({tried} {'try' if tried == 1 else 'tries'})")


@dataclass(frozen=True, eq=False)
class _Question:
    image: bytes
    text: str
    gone: threading.Event
    """Set for the whole batch once the backend was given up on."""
    answer: "Future[Answer]" = field(default_factory=Future)


def packed(pixels: Pixels) -> bytes:
    """A view as the bytes of an image file: PNG, or JPEG where that would be large."""
    file = io.BytesIO()
    image = PILImage.fromarray(pixels)
    if pixels.shape[0] * pixels.shape[1] <= PNG_PIXELS:
        image.save(file, "PNG", compress_level=1)
    else:
        image.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def red_disc() -> Pixels:
    """A red disc on white, (224, 224, 3) uint8: what the self-test asks about."""
    image = PILImage.new("RGB", (224, 224), "white")
    ImageDraw.Draw(image).ellipse((42, 42, 182, 182), fill="red")
    return np.asarray(image)


def self_test(ask: Callable[[Sequence[Ask]], Sequence[Sequence[Answer]]], name: str) -> list[str]:
    """Ask about a drawn image what has a plain answer; returns what is wrong, in sentences.

    A model that gives nothing, or the same to everything, would make a whole run unsure or
    useless; better to be told at the start. The run goes on: some models still tell real
    images apart.
    """
    seen, absurd = ask([Ask(red_disc(), (SEEN, ABSURD))])[0]
    if seen.error or absurd.error:
        return [f"{name} failed the start-up test: {seen.error or absurd.error}"]
    if seen.p_yes is None or absurd.p_yes is None:
        raw = seen.raw if seen.p_yes is None else absurd.raw
        return [
            f"{name} did not answer a plain question with yes or no (it said {raw!r}), so boxes "
            "will be unsure; try another model"
        ]
    if seen.p_yes <= absurd.p_yes or seen.p_yes < 0.5 or absurd.p_yes > 0.5:
        return [
            f"{name} answers a drawn red disc wrongly: P(yes) {seen.p_yes:.2f} to '{SEEN}' and "
            f"{absurd.p_yes:.2f} to '{ABSURD}'; check its labels, or try another model"
        ]
    return []
