"""Stage two by the vendor's own ``moondream`` package, in process (extra ``moondream``).

Spec: ``moondream:MODEL``, for example ``moondream:moondream2``; alone it means ``moondream2``. The
package runs Moondream 2 and 3, Qwen 3.5 and Gemma 4 on NVIDIA and Apple hardware and, for some
models, on the CPU, without remote code. It fetches weights from a hub on first use, and, by its
own account, reports usage counts (no images) to its vendor while it runs.

It gives text and no probabilities, so answers have ``exact`` False. Its prefix cache shares the
encoding of an image between questions that follow each other.
"""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from PIL import Image as PILImage

from secondlook.config.extras import missing_extra
from secondlook.config.settings import ModelSettings
from secondlook.core.types import VQAQuery
from secondlook.models.remote import MAX_NEW_TOKENS, MIN_SIDE, self_test
from secondlook.models.yes_no import answer_from_text, closed_question
from secondlook_client.errors import NotFound, Unavailable
from secondlook_client.values import Answer

log = logging.getLogger(__name__)

DEFAULT_MODEL = "moondream2"


class MoondreamVerifier:
    """Yes/no questions to a model that the ``moondream`` package runs. Thread-safe."""

    min_side = MIN_SIDE

    def __init__(self, client: Any, model: str, digest: str, concurrency: int) -> None:
        """``client`` is what ``moondream.vl(local=True, ...)`` returns."""
        self.name = model
        self.digest = digest
        self._client = client
        # The package batches what is in flight at one time.
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="moondream")

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """Every answer, in order; a question that the package fails on has ``error`` set."""
        views = [self._client.encode_image(PILImage.fromarray(query.pixels)) for query in queries]
        waiting = [
            [self._pool.submit(self._ask, view, question) for question in query.questions]
            for view, query in zip(views, queries, strict=True)
        ]
        return [tuple(future.result() for future in of_view) for of_view in waiting]

    def _ask(self, view: Any, question: str) -> Answer:
        try:
            reply = self._client.query(
                image=view,
                question=closed_question(question),
                settings={"temperature": 0.0, "max_tokens": MAX_NEW_TOKENS},
            )
            return answer_from_text(str(reply["answer"]))
        except Exception as failure:  # the package documents none of its errors
            log.exception("%s failed on a question", self.name)
            return Answer(None, error=f"Moondream failed ({type(failure).__name__}); see the log")


def load(argument: str, options: ModelSettings) -> MoondreamVerifier:
    """A verifier from one of the package's model names; tested once with a synthetic image.

    Raises ``MissingExtra`` without the package, ``NotFound`` for a model that it does not know,
    ``Unavailable`` when it cannot start the model here.
    """
    try:
        import moondream
    except ImportError as missing:
        raise missing_extra("the verifier moondream:", "moondream") from missing
    model = argument or DEFAULT_MODEL
    known = moondream.photon_models()
    if model.split("@")[0] not in known and model.rpartition("/")[0] not in known:
        raise NotFound(f"the moondream package has no model '{model}'; it has: {', '.join(known)}")
    verifier = MoondreamVerifier(
        _start(moondream, model, options), model, _digest(model), options.backend_concurrency
    )
    for problem in self_test(verifier.answer, model):
        log.warning(problem)
    return verifier


def _start(moondream: Any, model: str, options: ModelSettings) -> Any:
    placed = {} if options.device == "auto" else {"device": options.device}
    try:
        return moondream.vl(local=True, model=model, **placed)
    except Exception as failure:  # the package documents none of its errors
        reason = (str(failure).strip().splitlines() or [""])[0][:200]
        raise Unavailable(
            f"the moondream package cannot start '{model}' here "
            f"({type(failure).__name__}: {reason}). It needs a network at first use, for the "
            "weights, and for most models an NVIDIA GPU or Apple silicon; without them use "
            "ollama:moondream"
        ) from failure


def _digest(model: str) -> str:
    """Of the model's name and the versions that run it: the package gives no hash of weights."""
    parts = [model]
    for package in ("moondream", "kestrel"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(package)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
