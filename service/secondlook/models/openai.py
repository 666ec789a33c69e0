"""Stage two by any server that speaks OpenAI's chat completions: vLLM, llama.cpp, LM Studio.

Spec: ``openai:MODEL@http://host:port/v1``. P(yes) comes from ``top_logprobs`` of the first token;
a server that gives none is read from its text, and the answer says so (``exact`` False). A key, if
the server wants one, is read from SECONDLOOK_OPENAI_API_KEY and sent to that host only.
"""

import base64
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
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

KEY_VARIABLE = "SECONDLOOK_OPENAI_API_KEY"
TOP_LOGPROBS_FALLBACKS = (TOP_LOGPROBS, 5, 0)
"""How many likeliest tokens to ask for, next when a server refuses: llama.cpp and vLLM take 20 as
they come, some gateways 5, some know no probabilities at all."""

_SPEC = re.compile(r"(?P<model>.+?)@(?P<url>https?://[^\s]+)")


class OpenAIVerifier(RemoteVerifier):
    """Yes/no questions to a model behind an OpenAI-compatible server. Thread-safe."""

    def __init__(self, client: Any, model: str, digest: str, options: ModelSettings) -> None:
        """``client`` is an ``httpx.Client`` whose base URL ends in ``/v1``."""
        self._top = 0
        super().__init__(client, model, digest, options, f"server ({model})")

    def _ask(self, image: bytes, question: str, left_s: float) -> Answer:
        import httpx

        level = self._top
        body = self._body(image, question, TOP_LOGPROBS_FALLBACKS[level])
        try:
            reply = self._client.post("chat/completions", json=body, timeout=left_s)
        except (httpx.ConnectError, httpx.TimeoutException) as down:
            late = isinstance(down, httpx.ReadTimeout)
            what = "did not answer in time" if late else "cannot be reached"
            raise UnreachableError(f"the model server {what}") from down
        except httpx.HTTPError as cut:
            raise FailedError("the model server broke off its reply") from cut
        if reply.status_code == 400 and "logprobs" in reply.text and body.get("logprobs"):
            self._top = max(self._top, level + 1)
            raise FailedError("the model server gives fewer probabilities")
        if reply.status_code != 200:
            raise _refusal(reply.status_code, reply.headers)
        try:
            return self._read(reply.json()["choices"][0])
        except (ValueError, LookupError, TypeError, AttributeError) as garbled:
            raise FailedError("the model server sent a reply that is cut off") from garbled

    def _body(self, image: bytes, question: str, top: int) -> dict[str, Any]:
        kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": closed_question(question)},
        ]
        return {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": MAX_NEW_TOKENS,
            "temperature": 0,
            **({"logprobs": True, "top_logprobs": top} if top else {}),
        }

    def _read(self, choice: Mapping[str, Any]) -> Answer:
        words = choice["message"].get("content") or ""
        places = (choice.get("logprobs") or {}).get("content") or []
        first = answer_position([place["token"] for place in places])
        if first is not None and places[first].get("top_logprobs"):
            top = [
                (str(one["token"]), float(one["logprob"])) for one in places[first]["top_logprobs"]
            ]
            return answer_from_logprobs(top, raw=places[first]["token"])
        return self._from_text(words)


def _refusal(status: int, headers: Mapping[str, str]) -> Exception:
    """What an HTTP status means for a question: another try, or none."""
    if status in (408, 425, 429) or status >= 500:
        after = headers.get("retry-after", "")
        wait_s = float(after) if after.isdigit() else 0.0  # it may also be a date: not worth it
        return FailedError(f"the model server answered with status {status}", wait_s)
    if status in (401, 403):
        return RefusedError(f"the model server wants another key ({KEY_VARIABLE})")
    return RefusedError(f"the model server refused the question with status {status}")


def load(argument: str, options: ModelSettings) -> OpenAIVerifier:
    """A verifier from ``MODEL@http://host:port/v1``; tested once with a synthetic image.

    Raises ``MissingExtra`` without httpx, ``BadSetting`` for another spec or a wrong key,
    ``Unavailable`` when no server answers, ``NotFound`` when it does not serve the model.
    """
    try:
        import httpx
    except ImportError as missing:
        raise MissingExtra(
            "httpx is not installed; run: pip install 'secondlook[openai]'"
        ) from missing
    named = _SPEC.fullmatch(argument)
    if not named:
        raise BadSetting(
            f"expected openai:MODEL@http://host:port/v1, got 'openai:{argument}'; "
            "for example openai:Qwen/Qwen2.5-VL-3B-Instruct@http://127.0.0.1:8000/v1"
        )
    key = os.environ.get(KEY_VARIABLE)
    client = httpx.Client(
        base_url=named["url"].rstrip("/") + "/",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=options.backend_timeout_s,
    )
    digest = _digest(_served(client, named["model"], named["url"]), named["model"])
    verifier = OpenAIVerifier(client, named["model"], digest, options)
    for problem in self_test(verifier.answer, named["model"]):
        log.warning(problem)
    return verifier


def _served(client: Any, model: str, url: str) -> Mapping[str, Any]:
    """How the server describes the model; empty when it lists none (not every server does)."""
    import httpx

    try:
        reply = client.get("models")
    except httpx.HTTPError as down:
        raise Unavailable(f"no server answers at {url}; start it, or correct the address") from down
    if reply.status_code in (401, 403):
        raise BadSetting(f"the server at {url} wants a key; set {KEY_VARIABLE}")
    try:
        listed = {str(one["id"]): one for one in reply.json()["data"]}
    except (ValueError, LookupError, TypeError):
        log.warning(
            "%s does not say which models it serves; '%s' is assumed to be one of them", url, model
        )
        return {}
    if model not in listed:
        has = ", ".join(sorted(listed)) or "none"
        raise NotFound(f"the server at {url} does not serve '{model}'; it serves: {has}")
    return dict(listed[model])


def _digest(described: Mapping[str, Any], model: str) -> str:
    """Hash of what the server says of the model: these servers have no hash of the weights.

    Times and permissions are left out, which change at every start.
    """
    kept = {
        name: value for name, value in described.items() if name not in ("created", "permission")
    }
    text = json.dumps([model, kept], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
