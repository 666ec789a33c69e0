"""The vendor's moondream package: what our adapter calls exists and takes what we give it.

Weights cannot be had on a test machine, so the package's own client runs on an engine that stands
in for its inference. Needs ``pip install moondream``; without its native kernels (they need a
machine that they are built for) the package still imports.
"""

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from secondlook.config.settings import ModelSettings
from secondlook.core.types import VQAQuery
from secondlook.labeling.verifier import Verifier
from secondlook.models import moondream as adapter
from secondlook.models.moondream import DEFAULT_MODEL, MoondreamVerifier
from secondlook_client.errors import NotFound, Unavailable

moondream = pytest.importorskip("moondream", reason="pip install 'secondlook[moondream]'")
photon = pytest.importorskip("moondream.photon_client")

VIEW = np.full((64, 80, 3), (200, 20, 20), np.uint8)


class StandInModel:
    """Where the vendor's client hands over to its engine."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def query(self, **prompt: Any) -> Any:
        self.asked.append(prompt)
        said = "Yes, it is." if "red" in prompt["question"] else "It is not"
        return SimpleNamespace(output={"answer": said})


@pytest.fixture
def client() -> Any:
    """The vendor's real client around the stand-in."""
    import asyncio
    import threading

    made = photon.PhotonClient.__new__(photon.PhotonClient)
    made._adapter = None
    made._model = StandInModel()
    made._loop = asyncio.new_event_loop()
    threading.Thread(target=made._loop.run_forever, daemon=True).start()
    return made


def test_the_calls_fit_the_real_signatures() -> None:
    inspect.signature(moondream.vl).bind(local=True, model=DEFAULT_MODEL, device="cuda")
    assert DEFAULT_MODEL in moondream.photon_models()
    query = inspect.signature(photon.PhotonClient.query)
    query.bind(None, image=None, question="?", settings={"temperature": 0.0, "max_tokens": 4})
    inspect.signature(photon.PhotonClient.encode_image).bind(None, None)
    settings = moondream.types.SamplingSettings.__annotations__
    assert {"temperature", "max_tokens"} <= set(settings)


def test_answers_through_the_vendors_client(client: Any) -> None:
    verifier = MoondreamVerifier(client, DEFAULT_MODEL, "0" * 12, concurrency=2)
    assert isinstance(verifier, Verifier)
    red, cat = verifier.answer([VQAQuery(VIEW, ("Is it red?", "Is it a cat?"))])[0]
    assert red.p_yes == pytest.approx(0.9) and not red.exact
    assert cat.p_yes is None and cat.raw == "It is not" and not cat.error
    asked = client._model.asked
    assert {prompt["question"] for prompt in asked} == {
        "Is it red? Answer yes or no.",
        "Is it a cat? Answer yes or no.",
    }
    assert all(prompt["image"][:2] == b"\xff\xd8" for prompt in asked), "an image was sent"


def test_a_question_that_fails_is_no_verdict(client: Any) -> None:
    async def crash(**prompt: Any) -> Any:
        raise RuntimeError("out of memory")

    client._model.query = crash
    verifier = MoondreamVerifier(client, DEFAULT_MODEL, "0" * 12, concurrency=1)
    (answer,) = verifier.answer([VQAQuery(VIEW, ("Is it red?",))])[0]
    assert answer.p_yes is None and "Moondream failed" in answer.error


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(NotFound, match=DEFAULT_MODEL):
        adapter.load("no-such-model", ModelSettings())


def test_a_machine_that_cannot_run_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: Any) -> Any:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(moondream, "vl", refuse)
    with pytest.raises(Unavailable, match="ollama:moondream"):
        adapter.load(DEFAULT_MODEL, ModelSettings())
