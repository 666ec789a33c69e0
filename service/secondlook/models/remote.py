"""What every verifier behind a network has in common: limits, retries, and images as bytes.

A question is tried until it is answered, until another try cannot help, or until its time is up;
then it has no verdict. It is never answered with no because a server was down.
"""

import io
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Pixels, VQAQuery
from secondlook.models.yes_no import answer_from_text
from secondlook_client.retry import RetryPolicy
from secondlook_client.values import Answer

log = logging.getLogger(__name__)

MIN_SIDE = 64
"""Several vision models behind these servers fail on, or see nothing in, smaller images."""
PNG_PIXELS = 1 << 20
"""Larger views travel as JPEG at quality 95: as PNG they take longer to pack than to answer."""
MAX_NEW_TOKENS = 4
"""Tokens asked for: one answers; a template may put a line break first, words may need more."""
TOP_LOGPROBS = 20
"""Likeliest tokens asked for at each place; the most that Ollama, vLLM and OpenAI give."""

PRESENT_QUESTION = "Is there a red circle in this image?"
ABSENT_QUESTION = "Is there a crowd of elephants in this image?"


class RefusedError(Exception):
    """The backend refused this question for good; the message is safe to show."""


class FailedError(Exception):
    """The backend failed on this question and may do better on the next try."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnreachableError(FailedError):
    """Nothing answers at all: no other question of this batch will fare better either."""


_BACKOFF = RetryPolicy(first_s=0.25, longest_s=8.0)


@dataclass(frozen=True)
class RetryLimits:
    """How long and how often one question is tried."""

    total_s: float
    """No try begins later than this after the first; one under way gets the time that is left."""
    tries: int = 5
    backoff: RetryPolicy = _BACKOFF
    """Partly random: without that, all questions that a restarted server refused at one moment
    would come back at one moment."""


class RemoteVerifier(ABC):
    """A verifier whose model runs on a server; a subclass says how one question is asked.

    Thread-safe where ``_ask`` is.
    """

    min_side = MIN_SIDE

    def __init__(
        self, client: Any, model: str, digest: str, options: ModelSettings, server: str
    ) -> None:
        """``client`` speaks the server's protocol; ``server`` is its name in errors."""
        self.name = model
        self.digest = digest
        self._client = client
        self._warned = False
        limits = RetryLimits(options.backend_timeout_s)
        self._pool = QueryPool(self._ask, limits, options.backend_concurrency, server)

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """See ``Verifier.answer``; never raises."""
        return self._pool.answer(queries)

    @abstractmethod
    def _ask(self, image: bytes, question: str, left_s: float) -> Answer:
        """One try, see ``QueryPool``."""

    def _from_text(self, words: str, note: str = "") -> Answer:
        """Read an answer without probabilities; warns the first time that there is one."""
        if words and not self._warned:
            self._warned = True
            log.warning(
                "%s gives no probabilities%s; answers are read from their text", self.name, note
            )
        return answer_from_text(words)


class QueryPool:
    """Asks questions over a network, at most ``concurrency`` at one time. Thread-safe.

    ``ask(image, question, left_s)`` asks once; it raises ``FailedError``, ``UnreachableError``
    or ``RefusedError``.
    """

    def __init__(
        self,
        ask: Callable[[bytes, str, float], Answer],
        limits: RetryLimits,
        concurrency: int,
        name: str,
    ) -> None:
        self._ask = ask
        self._limits = limits
        self._name = name
        self._waiting: queue.SimpleQueue[_Question] = queue.SimpleQueue()
        # Daemons, unlike the threads of an executor, do not hold up the end of the process.
        for index in range(concurrency):
            threading.Thread(target=self._work, name=f"ask-{index}", daemon=True).start()

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """Every answer, in order; a question that could not be answered has ``error`` set.

        The questions of one view follow each other, so that a server which keeps the last prompt
        reads the image once.
        """
        unreachable = threading.Event()
        asked: list[list[_Question]] = []
        for query in queries:
            image = encode_view(query.pixels)
            asked.append([_Question(image, question, unreachable) for question in query.questions])
            for question in asked[-1]:
                self._waiting.put(question)
        return [tuple(question.answer.result() for question in of_view) for of_view in asked]

    def _work(self) -> None:
        while True:
            question = self._waiting.get()
            try:
                question.answer.set_result(self._ask_with_retries(question))
            except Exception as bug:  # an answer must come, or its image waits for ever
                log.exception("%s: a question failed", self._name)
                cause = f"{self._name} failed ({type(bug).__name__}); see the log"
                question.answer.set_result(Answer(None, error=cause))

    def _ask_with_retries(self, question: "_Question") -> Answer:
        """Ask one question until it is answered or given up."""
        ends = time.monotonic() + self._limits.total_s
        tried = 0
        while not question.unreachable.is_set():
            tried += 1
            try:
                left_s = max(ends - time.monotonic(), 0.001)
                return self._ask(question.image, question.text, left_s)
            except RefusedError as refusal:
                return Answer(None, error=str(refusal))
            except FailedError as failure:
                wait_s = max(self._limits.backoff.backoff_s(tried), failure.retry_after_s)
                if tried == self._limits.tries or time.monotonic() + wait_s >= ends:
                    return self._give_up(question, failure, tried)
                log.info("%s: %s; trying again in %.1f s", self._name, failure, wait_s)
                time.sleep(wait_s)
        return Answer(None, error=f"{self._name} does not answer")

    def _give_up(self, question: "_Question", failure: FailedError, tried: int) -> Answer:
        log.warning("%s: %s; gave up after %d tries", self._name, failure, tried)
        if isinstance(failure, UnreachableError):
            question.unreachable.set()
        return Answer(None, error=f"{failure} ({tried} {'try' if tried == 1 else 'tries'})")


@dataclass(frozen=True, eq=False)
class _Question:
    image: bytes
    text: str
    unreachable: threading.Event
    """Set for the whole batch once the backend was given up on."""
    answer: "Future[Answer]" = field(default_factory=Future)


def encode_view(pixels: Pixels) -> bytes:
    """A view as the bytes of an image file: PNG, or JPEG where that would be large."""
    file = io.BytesIO()
    image = PILImage.fromarray(pixels)
    if pixels.shape[0] * pixels.shape[1] <= PNG_PIXELS:
        image.save(file, "PNG", compress_level=1)
    else:
        image.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def _red_disc() -> Pixels:
    """A red disc on white, (224, 224, 3) uint8: the self-test's image."""
    image = PILImage.new("RGB", (224, 224), "white")
    ImageDraw.Draw(image).ellipse((42, 42, 182, 182), fill="red")
    return np.asarray(image)


def self_test(
    ask: Callable[[Sequence[VQAQuery]], Sequence[Sequence[Answer]]], name: str
) -> list[str]:
    """Ask two questions with obvious answers about a synthetic image; returns what is wrong.

    A model that gives no answer, or always the same, would make a whole run unsure or useless;
    better to learn that at the start. The run goes on: some models still tell real images apart.
    """
    present, absent = ask([VQAQuery(_red_disc(), (PRESENT_QUESTION, ABSENT_QUESTION))])[0]
    if present.error or absent.error:
        return [f"{name} failed the start-up test: {present.error or absent.error}"]
    if present.p_yes is None or absent.p_yes is None:
        raw = present.raw if present.p_yes is None else absent.raw
        return [
            f"{name} did not answer a simple question with yes or no (it said {raw!r}), so boxes "
            "will be unsure; try another model"
        ]
    if present.p_yes <= absent.p_yes or present.p_yes < 0.5 or absent.p_yes > 0.5:
        return [
            f"{name} is wrong about a synthetic red disc: P(yes) is {present.p_yes:.2f} for "
            f"'{PRESENT_QUESTION}' and {absent.p_yes:.2f} for '{ABSENT_QUESTION}'; check its "
            "labels, or try another model"
        ]
    return []
