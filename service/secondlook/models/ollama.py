"""Stage two by Ollama's native API (extra ``ollama``, which is httpx).

Spec: ``ollama:MODEL`` or ``ollama:MODEL@HOST``, where HOST is ``http://host:11434``, ``host:port``
or ``https://host/path``; without one OLLAMA_HOST counts, as for Ollama's own programs, and
OLLAMA_API_KEY is sent if it is set. P(yes) comes from the first token's ``top_logprobs``, which
Ollama has given since 0.12.11; an older one is read from its text, and the answer says so
(``exact`` False).

Ollama's Python package is not used: it follows redirects, reads replies of any length, and drops
the server's words when an error does not look as it expects.

Concurrency: Ollama works on ``OLLAMA_NUM_PARALLEL`` requests (1 by default, and several vision
models are held to 1), queues 512 and refuses the rest with 503. A few requests in flight keep its
queue from running dry while the next image is on its way; more only fill the queue.
"""

import base64
import logging
import os
from typing import Any

from secondlook.config.extras import missing_extra
from secondlook.config.settings import ModelSettings
from secondlook.models.model_server import (
    FailedError,
    ModelServer,
    ModelServerFailure,
    RefusedError,
    parse_address,
    printable,
    split_spec,
)
from secondlook.models.remote import MAX_NEW_TOKENS, TOP_LOGPROBS, RemoteVerifier, self_test
from secondlook.models.yes_no import closed_question
from secondlook_client.errors import BadSetting, NotFound, Unavailable
from secondlook_client.values import Answer

log = logging.getLogger(__name__)

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 11434
LOAD_S = 300.0
"""The first question may wait for the model to be read from the disk."""


class OllamaVerifier(RemoteVerifier):
    """Yes/no questions to a model that an Ollama server runs. Thread-safe."""

    def __init__(
        self,
        server: ModelServer,
        model: str,
        digest: str,
        options: ModelSettings,
        silence_s: float = 0.0,
    ) -> None:
        """``silence_s``: how long the first byte of an answer may take, where that is longer."""
        total_s = max(silence_s, options.backend_timeout_s)
        super().__init__(server, model, digest, options, total_s)
        self._silence_s = silence_s
        self._logprobs = True
        """False once the server refused to give any."""

    async def _ask(self, image: bytes, question: str, left_s: float) -> Answer:
        asked = self._logprobs
        try:
            reply = await self._server.request(
                "POST",
                "api/chat",
                self._body(image, question, asked),
                left_s=left_s,
                silence_s=self._silence_s,
            )
        except (RefusedError, FailedError) as failure:
            if asked and "logprob" in failure.words.lower():
                self._logprobs = False
                return await self._ask(image, question, left_s)
            if failure.status == 404:
                said = f": {failure.words}" if failure.words else ""
                raise RefusedError(
                    f"Ollama no longer has the model '{self.name}'{said}", 404, failure.words
                ) from failure
            raise
        note = " (Ollama has them since 0.12.11, its cloud does not)"
        try:
            return self._read(reply["message"], reply.get("logprobs"), note)
        except (LookupError, TypeError, AttributeError) as garbled:
            raise FailedError(
                "Ollama sent a reply that is cut off or without an answer"
            ) from garbled

    def _body(self, image: bytes, question: str, logprobs: bool) -> dict[str, Any]:
        shown = base64.b64encode(image).decode()
        return {
            "model": self.name,
            "messages": [{"role": "user", "content": closed_question(question), "images": [shown]}],
            "stream": False,
            "think": False,
            **({"logprobs": True, "top_logprobs": TOP_LOGPROBS} if logprobs else {}),
            "options": {"temperature": 0, "num_predict": MAX_NEW_TOKENS},
        }


def load(argument: str, options: ModelSettings) -> OllamaVerifier:
    """A verifier from ``MODEL`` or ``MODEL@http://host:port``; tested once with a synthetic image.

    Raises ``MissingExtra`` without httpx, ``Unavailable`` when no server answers, ``NotFound``
    when it lacks the model, ``BadSetting`` when it refuses, or the model takes no images.
    """
    try:
        import httpx  # noqa: F401
    except ImportError as missing:
        raise missing_extra("the verifier ollama:", "ollama") from missing
    model, host = split_spec(argument)
    if not model:
        raise BadSetting("expected ollama:MODEL or ollama:MODEL@http://host:11434, no model given")
    server = ModelServer(
        parse_address(host or os.environ.get("OLLAMA_HOST") or DEFAULT_HOST, DEFAULT_PORT),
        "Ollama",
        options.backend_timeout_s,
        key=os.environ.get("OLLAMA_API_KEY", ""),
        key_hint="set OLLAMA_API_KEY",
    )
    digest = _digest(server, model)
    _check_takes_images(server, model)
    first = OllamaVerifier(server, model, digest, options, silence_s=LOAD_S)
    for problem in self_test(first.answer, model):
        log.warning(problem)
    return OllamaVerifier(server, model, digest, options)


def _digest(server: ModelServer, model: str) -> str:
    """First 12 hex digits of the digest that the server lists the model with."""
    try:
        models = server.call("GET", "api/tags")["models"]
        listed = {str(one["model"]): str(one.get("digest") or "") for one in models}
    except RefusedError as refusal:
        raise BadSetting(str(refusal)) from refusal
    except (FailedError, LookupError, TypeError, AttributeError) as down:
        cause = down if isinstance(down, FailedError) else "what answers there is no Ollama server"
        raise Unavailable(
            f"no Ollama server answers at {server.url}; start it with `ollama serve`, "
            f"or name its address: ollama:MODEL@http://host:11434 ({cause})"
        ) from down
    full = model if ":" in model.rpartition("/")[2] else f"{model}:latest"
    if full not in listed:
        has = printable(", ".join(sorted(listed)), 1000) or "no model at all"
        raise NotFound(
            f"the Ollama server has no model '{model}' (it has {has}); "
            f"get it with `ollama pull {model}`"
        )
    return listed[full].removeprefix("sha256:")[:12]


def _check_takes_images(server: ModelServer, model: str) -> None:
    """Servers list a model's capabilities since 0.6.4; with older ones nothing is checked."""
    try:
        able = server.call("POST", "api/show", {"model": model})["capabilities"]
        can = printable(", ".join(able))
    except (ModelServerFailure, LookupError, TypeError):
        return
    if able and "vision" not in able:
        raise BadSetting(
            f"the model '{model}' takes no images (it can do: {can}); "
            "use one with vision, for example ollama:moondream"
        )
