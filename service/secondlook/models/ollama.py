"""Stage two by Ollama's native API, through the ``ollama`` package (extra ``ollama``).

Spec: ``ollama:MODEL`` or ``ollama:MODEL@http://host:11434``. P(yes) comes from the first token's
``top_logprobs``, which Ollama has given since 0.12.11; an older one is read from its text, and the
answer says so (``exact`` False).

Concurrency: Ollama works on ``OLLAMA_NUM_PARALLEL`` requests (1 by default, and several vision
models are held to 1), queues 512 and refuses the rest with 503. A few requests in flight keep its
queue from running dry while the next image is on its way; more only fill the queue.
"""

import logging
import re
from dataclasses import replace
from typing import Any

from secondlook.config.settings import ModelSettings
from secondlook.models.remote import (
    MAX_NEW_TOKENS,
    TOP_LOGPROBS,
    FailedError,
    RefusedError,
    RemoteVerifier,
    UnreachableError,
    self_test,
)
from secondlook.models.yes_no import (
    answer_from_logprobs,
    answer_position,
    closed_question,
)
from secondlook_client.errors import BadSetting, MissingExtra, NotFound, Unavailable
from secondlook_client.values import Answer

log = logging.getLogger(__name__)

LOAD_S = 300.0
"""The first question may wait for the model to be read from the disk."""

_SPEC = re.compile(r"(?P<model>.+?)(?:@(?P<host>https?://.+))?", re.DOTALL)


class OllamaVerifier(RemoteVerifier):
    """Yes/no questions to a model that an Ollama server runs. Thread-safe."""

    def __init__(self, client: Any, model: str, digest: str, options: ModelSettings) -> None:
        """``client`` is an ``ollama.Client`` whose time limit is ``options.backend_timeout_s``."""
        super().__init__(client, model, digest, options, f"Ollama ({model})")

    def _ask(self, image: bytes, question: str, left_s: float) -> Answer:
        """One try. The client's time limit is fixed, so ``left_s`` cannot be passed on."""
        import httpx
        from ollama import ResponseError

        try:
            reply = self._chat(image, question)
        except ResponseError as refusal:
            raise _refusal(refusal.status_code, self.name) from refusal
        except httpx.TimeoutException as late:
            raise UnreachableError("Ollama did not answer in time") from late
        except ConnectionError as down:
            raise UnreachableError("Ollama cannot be reached") from down
        except (httpx.HTTPError, ValueError, TypeError, AttributeError) as garbled:
            raise FailedError("Ollama sent a reply that is cut off or malformed") from garbled
        return self._read(reply)

    def _chat(self, image: bytes, question: str) -> Any:
        return self._client.chat(
            model=self.name,
            messages=[{"role": "user", "content": closed_question(question), "images": [image]}],
            stream=False,
            think=False,
            logprobs=True,
            top_logprobs=TOP_LOGPROBS,
            options={"temperature": 0, "num_predict": MAX_NEW_TOKENS},
        )

    def _read(self, reply: Any) -> Answer:
        places = reply.logprobs or []
        first = answer_position([place.token for place in places])
        if first is not None and places[first].top_logprobs:
            top = [(one.token, one.logprob) for one in places[first].top_logprobs]
            return answer_from_logprobs(top, raw=places[first].token)
        note = " (Ollama has them since 0.12.11, its cloud does not)"
        return self._from_text(reply.message.content or "", note)


def _refusal(status: int, model: str) -> Exception:
    """What an HTTP status means for a question: another try, or none."""
    if status == 404:
        return RefusedError(f"Ollama no longer has the model '{model}'")
    if status == 429 or status >= 500:
        return FailedError(f"Ollama answered with status {status}")
    return RefusedError(f"Ollama refused the question with status {status}")


def load(argument: str, options: ModelSettings) -> OllamaVerifier:
    """A verifier from ``MODEL`` or ``MODEL@http://host:port``; tested once with a synthetic image.

    Raises ``MissingExtra`` without the package, ``Unavailable`` when no server answers,
    ``NotFound`` when it lacks the model, ``BadSetting`` when the model takes no images.
    """
    try:
        import ollama
    except ImportError as missing:
        raise MissingExtra(
            "the ollama package is not installed; run: pip install 'secondlook[ollama]'"
        ) from missing
    named = _SPEC.fullmatch(argument)
    if not named:
        raise BadSetting("expected ollama:MODEL or ollama:MODEL@http://host:11434, no model given")
    model, host = named["model"], named["host"]
    client = ollama.Client(host=host, timeout=options.backend_timeout_s)
    digest = _digest(client, model, host or "the default address")
    _check_takes_images(client, model)
    patient = replace(options, backend_timeout_s=max(LOAD_S, options.backend_timeout_s))
    first = ollama.Client(host=host, timeout=patient.backend_timeout_s)
    for problem in self_test(OllamaVerifier(first, model, digest, patient).answer, model):
        log.warning(problem)
    return OllamaVerifier(client, model, digest, options)


def _digest(client: Any, model: str, where: str) -> str:
    """First 12 hex digits of the digest that the server lists the model with."""
    import httpx
    from ollama import ResponseError

    try:
        listed = {str(one.model): str(one.digest or "") for one in client.list().models}
    except (ConnectionError, httpx.HTTPError, ResponseError, ValueError) as down:
        raise Unavailable(
            f"no Ollama server answers at {where}; start it with `ollama serve`, "
            "or name its address: ollama:MODEL@http://host:11434"
        ) from down
    full = model if ":" in model.rpartition("/")[2] else f"{model}:latest"
    if full not in listed:
        has = ", ".join(sorted(listed)) or "no model at all"
        raise NotFound(
            f"the Ollama server has no model '{model}' (it has {has}); "
            f"get it with `ollama pull {model}`"
        )
    return listed[full].removeprefix("sha256:")[:12]


def _check_takes_images(client: Any, model: str) -> None:
    """Servers list a model's capabilities since 0.6.4; with older ones nothing is checked."""
    import httpx
    from ollama import ResponseError

    try:
        able = client.show(model).capabilities
    except (ConnectionError, httpx.HTTPError, ResponseError, ValueError):
        return
    if able and "vision" not in able:
        raise BadSetting(
            f"the model '{model}' takes no images (it can do: {', '.join(able)}); "
            "use one with vision, for example ollama:moondream"
        )
