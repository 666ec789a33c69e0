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
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    start_error,
)
from secondlook.models.remote import MAX_NEW_TOKENS, TOP_LOGPROBS, RemoteVerifier, self_test
from secondlook.models.yes_no import closed_question
from secondlook_client.errors import BadSetting, NotFound
from secondlook_client.values import Answer

log = logging.getLogger(__name__)

KEY_VARIABLE = "SECONDLOOK_OPENAI_API_KEY"
TOP_LOGPROBS_FALLBACKS = (TOP_LOGPROBS, 5, 0)
"""How many likeliest tokens to ask for, next when a server refuses: llama.cpp and vLLM take 20 as
they come, some gateways 5, some know no probabilities at all."""
MAX_THINKING_TOKENS = 256
"""Asked for where ``max_tokens`` is refused for ``max_completion_tokens``: models that want it
count what they think with the answer, and with a few tokens never come to one."""


LISTS_NOTHING = (404, 405, 501)
"""Statuses of a server that works without a list of its models."""


@dataclass(frozen=True)
class RequestForm:
    """Which of the optional parameters a server takes; learned from its refusals."""

    level: int = 0
    """Index in ``TOP_LOGPROBS_FALLBACKS``."""
    counts_thinking: bool = False
    """``max_completion_tokens`` in place of ``max_tokens``."""
    temperature: bool = True

    def parameters(self) -> dict[str, Any]:
        """The optional part of a request."""
        top = TOP_LOGPROBS_FALLBACKS[self.level]
        return {
            **({"logprobs": True, "top_logprobs": top} if top else {}),
            **({"temperature": 0} if self.temperature else {}),
            **(
                {"max_completion_tokens": MAX_THINKING_TOKENS}
                if self.counts_thinking
                else {"max_tokens": MAX_NEW_TOKENS}
            ),
        }

    def without(self, words: str) -> "RequestForm | None":
        """The form to try after a refusal in these words; None when they name no parameter."""
        words = words.lower()
        if "logprob" in words and self.level + 1 < len(TOP_LOGPROBS_FALLBACKS):
            return replace(self, level=self.level + 1)
        if "max_completion_tokens" in words and not self.counts_thinking:
            return replace(self, counts_thinking=True)
        if "temperature" in words and self.temperature:
            return replace(self, temperature=False)
        return None


class OpenAIVerifier(RemoteVerifier):
    """Yes/no questions to a model behind an OpenAI-compatible server. Thread-safe."""

    _form = RequestForm()

    async def _ask(self, image: bytes, question: str, left_s: float) -> Answer:
        while True:
            form = self._form
            body = self._body(image, question, form)
            try:
                reply = await self._server.request("POST", "chat/completions", body, left_s=left_s)
            except (RefusedError, FailedError) as failure:
                # With any status: 400 and 422, but 403, 500 and 501 were seen as well.
                simpler = form.without(failure.words) if failure.status else None
                if simpler is None:
                    raise
                if self._form == form:
                    log.info("%s; asking without it", failure)
                    self._form = simpler
                continue
            return self._choice(reply)

    def _body(self, image: bytes, question: str, form: RequestForm) -> dict[str, Any]:
        kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": closed_question(question)},
        ]
        messages = [{"role": "user", "content": content}]
        return {"model": self.name, "messages": messages, **form.parameters()}

    def _choice(self, reply: Any) -> Answer:
        try:
            choice = reply["choices"][0]
            places = choice.get("logprobs") or {}
            return self._read(choice["message"], places.get("content"))
        except (LookupError, TypeError, AttributeError) as garbled:
            raise FailedError(
                f"{self._server.name} sent a reply that is cut off or without an answer"
            ) from garbled


def load(argument: str, options: ModelSettings) -> OpenAIVerifier:
    """A verifier from ``MODEL@http://host:port/v1``; tested once with a synthetic image.

    Raises ``MissingExtra`` without httpx, ``BadSetting`` for another spec, a wrong key or a wrong
    address, ``Unavailable`` when no server answers, ``NotFound`` when it does not serve the model.
    """
    try:
        import httpx  # noqa: F401
    except ImportError as missing:
        raise missing_extra("the verifier openai:", "openai") from missing
    model, address = split_spec(argument)
    if not model or not address:
        raise BadSetting(
            "expected openai:MODEL@http://host:port/v1; "
            "for example openai:Qwen/Qwen2.5-VL-3B-Instruct@http://127.0.0.1:8000/v1"
        )
    server = ModelServer(
        parse_address(address),
        "the model server",
        options.backend_timeout_s,
        key=os.environ.get(KEY_VARIABLE, ""),
        key_hint=f"set {KEY_VARIABLE}",
        path_hint="most addresses end in /v1",
    )
    digest = _digest(_served(server, model), model)
    verifier = OpenAIVerifier(server, model, digest, options)
    for problem in self_test(verifier.answer, model):
        log.warning(problem)
    return verifier


def _served(server: ModelServer, model: str) -> Mapping[str, Any]:
    """How the server describes the model; empty when it lists none (not every server does)."""
    listed: dict[str, Any] = {}
    try:
        reply = server.call("GET", "models")
        listed = {str(one["id"]): one for one in reply["data"]}
    except ModelServerFailure as failure:
        if failure.status not in LISTS_NOTHING or not server.has_path:
            raise start_error(failure, server.url) from failure
    except (LookupError, TypeError):
        pass
    if not listed:
        log.warning(
            "%s does not say which models it serves; '%s' is assumed to be one of them",
            server.url,
            model,
        )
        return {}
    if model not in listed:
        has = printable(", ".join(sorted(listed)), 1000)
        raise NotFound(f"the server at {server.url} does not serve '{model}'; it serves: {has}")
    return listed[model] if isinstance(listed[model], dict) else {}


def _digest(described: Mapping[str, Any], model: str) -> str:
    """Hash of what the server says of the model: these servers have no hash of the weights.

    Times and permissions are left out, which change at every start.
    """
    kept = {
        name: value for name, value in described.items() if name not in ("created", "permission")
    }
    text = json.dumps([model, kept], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
