"""What every verifier behind a network has in common: limits, retries, and images as bytes.

A question is tried until it is answered, until another try cannot help, or until its time is up;
then it has no verdict. It is never answered with no because a server was down.
"""

import asyncio
import io
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Pixels, VQAQuery
from secondlook.models.model_server import (
    FailedError,
    ModelServer,
    RefusedError,
    UnreachableError,
    submit,
)
from secondlook.models.yes_no import (
    SHOWN,
    answer_from_logprobs,
    answer_from_text,
    answer_position,
)
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
UNREACHABLE = "unreachable"
"""``Answer.reason`` when nothing answers at all."""

PRESENT_QUESTION = "Is there a red circle in this image?"
ABSENT_QUESTION = "Is there a crowd of elephants in this image?"


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
        self,
        server: ModelServer,
        model: str,
        digest: str,
        options: ModelSettings,
        total_s: float | None = None,
    ) -> None:
        """``total_s`` bounds one question, all tries together: ``backend_timeout_s`` by default."""
        self.name = model
        self.digest = digest
        self._server = server
        self._warned = False
        limits = RetryLimits(total_s or options.backend_timeout_s)
        self._pool = QueryPool(self._ask, limits, options.backend_concurrency, server.name)

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """See ``Verifier.answer``; never raises."""
        return self._pool.answer(queries)

    @abstractmethod
    async def _ask(self, image: bytes, question: str, left_s: float) -> Answer:
        """One try, see ``QueryPool``."""

    def _read(self, message: Mapping[str, Any], places: Any, note: str = "") -> Answer:
        """The answer in a chat's ``message`` and in the log probabilities of its tokens.

        ``places`` has one entry a token with its likeliest alternatives, as Ollama and OpenAI give
        them; a server may send anything else. ``note`` says who gives no probabilities.
        """
        text = text_of(message.get("content"))
        places = [place for place in places if isinstance(place, dict)] if places else []
        tokens = [str(place.get("token") or "") for place in places]
        first = answer_position(tokens)
        if first is not None and (top := _likeliest(places[first])):
            return answer_from_logprobs(top, tokens[first], text)
        if not text.strip() and (aside := _aside_of(message)):
            return Answer(None, raw=aside[:SHOWN], exact=False)
        if text.strip() and not self._warned:
            self._warned = True
            log.warning(
                "%s gives no probabilities%s; answers are read from their text", self.name, note
            )
        return answer_from_text(text)


def text_of(content: Any) -> str:
    """The text of a message: a string, or a list of parts as in ``[{"type": "text", …}]``."""
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in content)
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _aside_of(message: Mapping[str, Any]) -> str:
    """What a model said in place of an answer: its refusal, or the thoughts before it."""
    for name in ("refusal", "reasoning_content", "reasoning", "thinking"):
        if isinstance(message.get(name), str) and message[name].strip():
            kind = "refused" if name == "refusal" else "still thinking"
            return f"({kind}) {message[name].strip()}"
    return ""


def _likeliest(place: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(token, log probability) of the likeliest tokens at one place that have a number."""
    listed = place.get("top_logprobs")
    found = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return [
        (str(one.get("token")), float(one["logprob"]))
        for one in found
        if isinstance(one.get("logprob"), int | float) and one["logprob"] == one["logprob"]
    ]


class QueryPool:
    """Asks questions over a network, at most ``concurrency`` at one time. Thread-safe.

    ``ask(image, question, left_s)`` asks once; it raises ``FailedError``, ``UnreachableError``
    or ``RefusedError``.
    """

    def __init__(
        self,
        ask: Callable[[bytes, str, float], Awaitable[Answer]],
        limits: RetryLimits,
        concurrency: int,
        name: str,
    ) -> None:
        self._ask = ask
        self._limits = limits
        self._name = name
        self._slots = asyncio.Semaphore(concurrency)

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """Every answer, in order; a question that could not be answered has ``error`` set.

        The questions of one view follow each other, so that a server which keeps the last prompt
        reads the image once.
        """
        unreachable = threading.Event()
        asked = []
        for query in queries:
            image = encode_view(query.pixels)
            questions = [_Question(image, question, unreachable) for question in query.questions]
            asked.append([submit(self._answer(question)) for question in questions])
        return [tuple(future.result() for future in of_view) for of_view in asked]

    async def _answer(self, question: "_Question") -> Answer:
        async with self._slots:
            try:
                return await self._ask_with_retries(question)
            except Exception as bug:  # an answer must come: a failure is not a no
                log.exception("%s: a question failed", self._name)
                cause = f"{self._name} failed ({type(bug).__name__}); see the log"
                return Answer(None, error=cause)

    async def _ask_with_retries(self, question: "_Question") -> Answer:
        """Ask one question until it is answered or given up."""
        ends = time.monotonic() + self._limits.total_s
        tried = 0
        while not question.unreachable.is_set():
            tried += 1
            try:
                left_s = max(ends - time.monotonic(), 0.001)
                return await self._ask(question.image, question.text, left_s)
            except RefusedError as refusal:
                return Answer(None, error=str(refusal), reason="refused")
            except FailedError as failure:
                wait_s = max(self._limits.backoff.backoff_s(tried), failure.retry_after_s)
                if tried == self._limits.tries or time.monotonic() + wait_s >= ends:
                    return self._give_up(question, failure, tried)
                log.info("%s; trying again in %.1f s", failure, wait_s)
                await asyncio.sleep(wait_s)
        return Answer(None, error=f"{self._name} does not answer", reason=UNREACHABLE)

    def _give_up(self, question: "_Question", failure: FailedError, tried: int) -> Answer:
        tries = f"{tried} {'try' if tried == 1 else 'tries'}"
        log.warning("%s; gave up after %s", failure, tries)
        reason = ""
        if isinstance(failure, UnreachableError):
            question.unreachable.set()
            reason = UNREACHABLE
        return Answer(None, error=f"{failure} ({tries})", reason=reason)


@dataclass(frozen=True, eq=False)
class _Question:
    image: bytes
    text: str
    unreachable: threading.Event
    """Set for the whole batch once the backend was given up on."""


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
