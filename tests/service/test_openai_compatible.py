"""The OpenAI-compatible verifier against a server over a real socket, faults included."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from openai_server import Behaviour, FakeOpenAI, Top
from PIL import Image as PILImage

from secondlook.config.settings import ModelSettings
from secondlook.core.types import VQAQuery
from secondlook.models import openai as adapter
from secondlook.models import remote
from secondlook.models.openai import KEY_VARIABLE, OpenAIVerifier
from secondlook.models.remote import RetryLimits, encode_view
from secondlook_client.errors import BadSetting, NotFound, Unavailable
from secondlook_client.retry import RetryPolicy

RED = np.full((40, 50, 3), (200, 20, 20), np.uint8)
TRIES = 4


def by_colour(question: str, image: PILImage.Image) -> list[Top]:
    """Sees whether an image is red in its middle, and nothing else."""
    red, _, blue = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    if "red" in question and red > blue:
        return [[("Yes", 0.7), (" yes", 0.1), ("No", 0.15), ("The", 0.05)]]
    return [[("No", 0.9), ("Yes", 0.1)]]


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    running = FakeOpenAI(Behaviour(reply=by_colour))
    yield running
    running.close()


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        remote,
        "RetryLimits",
        lambda total_s: RetryLimits(total_s, TRIES, RetryPolicy(first_s=0.01, longest_s=0.02)),
    )


def load(server: FakeOpenAI, **options: Any) -> OpenAIVerifier:
    given = ModelSettings(**{"backend_timeout_s": 2.0, "backend_concurrency": 2, **options})
    return adapter.load(f"tiny-vlm@{server.url}", given)


def asked(verifier: OpenAIVerifier) -> Any:
    return verifier.answer([VQAQuery(RED, ("Is it red?",))])[0][0]


def test_probabilities_come_from_the_first_token(server: FakeOpenAI) -> None:
    verifier = load(server)
    assert verifier.name == "tiny-vlm" and len(verifier.digest) == 12
    red, cat = verifier.answer([VQAQuery(RED, ("Is it red?", "Is it a cat?"))])[0]
    assert red.p_yes == pytest.approx(0.8 / 0.95) and red.exact
    assert cat.p_yes == pytest.approx(0.1)
    assert server.requests[-1]["temperature"] == 0
    assert server.requests[-1]["max_tokens"] <= 4


@pytest.mark.parametrize(("most", "exact", "p_yes"), [(5, True, 0.8 / 0.95), (0, False, 0.9)])
def test_a_server_with_fewer_probabilities(
    server: FakeOpenAI, most: int, exact: bool, p_yes: float
) -> None:
    server.behaviour.most_top = most
    verifier = load(server)
    answer = asked(verifier)
    assert answer.exact is exact and answer.p_yes == pytest.approx(p_yes)
    before = len(server.requests)
    asked(verifier)
    assert len(server.requests) == before + 1, "what it refuses is learned once"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_refusal_is_tried_again(server: FakeOpenAI, status: int) -> None:
    verifier = load(server)
    before = len(server.requests)
    server.behaviour.status = lambda number: status if number - before <= 2 else 200
    assert asked(verifier).p_yes == pytest.approx(0.8 / 0.95)
    assert len(server.requests) - before == 3


@pytest.mark.parametrize(("status", "tries"), [(503, TRIES), (400, 1), (404, 1), (401, 1)])
def test_a_lasting_refusal_is_no_verdict(server: FakeOpenAI, status: int, tries: int) -> None:
    verifier = load(server)
    before = len(server.requests)
    server.behaviour.status = lambda number: status
    answer = asked(verifier)
    assert answer.p_yes is None and "the model server" in answer.error
    assert len(server.requests) - before == tries


def test_retry_after_is_kept_to_and_never_waited_out_beyond_the_limit(server: FakeOpenAI) -> None:
    verifier = load(server, backend_timeout_s=0.5)
    before = len(server.requests)
    server.behaviour.status = lambda number: 429
    server.behaviour.headers = {"Retry-After": "30"}
    assert "429" in asked(verifier).error
    assert len(server.requests) - before == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"<html></html>"],
)
def test_a_garbled_reply_is_no_verdict(server: FakeOpenAI, body: bytes) -> None:
    verifier = load(server)
    server.behaviour.body = body
    answer = asked(verifier)
    assert answer.p_yes is None and "cut off" in answer.error


def test_a_server_that_went_away_is_no_verdict(server: FakeOpenAI) -> None:
    verifier = load(server)
    server.close()
    answer = asked(verifier)
    assert answer.p_yes is None and "cannot be reached" in answer.error


def test_the_key_comes_from_the_environment(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviour.key = "s3cret"
    with pytest.raises(BadSetting, match=KEY_VARIABLE):
        load(server)
    monkeypatch.setenv(KEY_VARIABLE, "s3cret")
    assert asked(load(server)).p_yes == pytest.approx(0.8 / 0.95)


def test_a_model_that_is_not_served_is_named(server: FakeOpenAI) -> None:
    server.behaviour.models = ("other",)
    with pytest.raises(NotFound, match="serves: other"):
        load(server)


def test_no_server_and_no_address(server: FakeOpenAI) -> None:
    server.close()
    with pytest.raises(Unavailable, match="no server answers"):
        load(server)
    with pytest.raises(BadSetting, match="openai:MODEL@http"):
        adapter.load("tiny-vlm", ModelSettings())


def test_the_digest_outlives_a_restart_and_tells_models_apart() -> None:
    first = adapter._digest({"id": "a", "created": 1, "permission": [{"id": "x"}]}, "a")
    assert first == adapter._digest({"id": "a", "created": 2, "permission": []}, "a")
    assert first != adapter._digest({"id": "a", "root": "b"}, "a")


def test_views_travel_whole_and_large_ones_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    assert encode_view(noise).startswith(b"\x89PNG")
    large = np.tile(noise, (6, 6, 1))
    assert encode_view(large).startswith(b"\xff\xd8")
    assert len(encode_view(large)) < large.nbytes
