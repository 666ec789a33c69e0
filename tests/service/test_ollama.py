"""The Ollama verifier against a server that speaks its protocol, faults included.

Whatever goes wrong, a box is unsure: never rejected because the backend failed.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from ollama_server import DIGEST, Behaviour, FakeOllama, Top
from PIL import Image as PILImage

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image, Proposals, VQAQuery
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.models import ollama as adapter
from secondlook.models import remote
from secondlook.models.ollama import OllamaVerifier
from secondlook.models.remote import RetryLimits
from secondlook_client.errors import BadSetting, NotFound, Unavailable
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.retry import RetryPolicy
from secondlook_client.values import Answer, Outcome

RED = np.full((40, 50, 3), (200, 20, 20), np.uint8)
BLUE = np.full((30, 30, 3), (20, 20, 200), np.uint8)
SOON = RetryPolicy(first_s=0.01, longest_s=0.02)
QUICK = RetryLimits(1.0, tries=4, backoff=SOON)


def by_colour(question: str, image: PILImage.Image) -> list[Top]:
    """Sees whether an image is red in its middle, and nothing else."""
    red, _, blue = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    if "red" in question and red > blue:
        return [[("Yes", 0.7), (" yes", 0.1), ("No", 0.15), ("The", 0.05)]]
    return [[("No", 0.9), ("Yes", 0.1)]]


@pytest.fixture
def server() -> Iterator[FakeOllama]:
    running = FakeOllama(Behaviour(reply=by_colour))
    yield running
    running.close()


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "LOAD_S", 1.0)
    monkeypatch.setattr(
        remote,
        "RetryLimits",
        lambda total_s: RetryLimits(total_s, 4, SOON),
    )


def load(server: FakeOllama, **options: Any) -> OllamaVerifier:
    given = ModelSettings(**{"backend_timeout_s": 1.0, "backend_concurrency": 2, **options})
    return adapter.load(f"moondream@{server.url}", given)


class OneBox:
    """Proposes the whole image as a red thing."""

    name, digest = "one-box", "0"

    def propose(self, images: Any, phrases: Any, floor: float) -> list[Proposals]:
        return [
            Proposals(
                np.array([[0, 0, image.width, image.height]], np.float32),
                np.full((1, len(phrases)), 0.9, np.float32),
            )
            for image in images
        ]


def judged(verifier: OllamaVerifier, pixels: np.ndarray = RED) -> tuple[Outcome, Answer]:
    """What the real pipeline makes of one box that the verifier is asked about."""
    ontology = Ontology((ClassSpec("red thing", question="Is this a red thing?"),))
    task = Task(Image(pixels, sha256="0" * 64), ontology)
    (judgement,) = Pipeline(OneBox(), verifier).label([task])[0].judgements
    assert judgement.verdict is not None
    return judgement.decision.outcome, judgement.verdict.answer


def test_probabilities_come_from_the_first_token(server: FakeOllama) -> None:
    verifier = load(server)
    assert verifier.name == "moondream"
    assert verifier.digest == DIGEST.removeprefix("sha256:")[:12]
    answers = verifier.answer(
        [VQAQuery(RED, ("Is it red?", "Is it a cat?")), VQAQuery(BLUE, ("Red?",))]
    )
    assert answers[0][0].p_yes == pytest.approx(0.8 / 0.95) and answers[0][0].exact
    assert answers[0][1].p_yes == pytest.approx(0.1) and answers[0][1].raw == "No"
    assert answers[1][0].p_yes == pytest.approx(0.1)
    assert judged(verifier)[0] is Outcome.ACCEPT
    assert judged(verifier, BLUE)[0] is Outcome.REJECT


def test_what_is_sent(server: FakeOllama) -> None:
    load(server).answer([VQAQuery(RED, ("Is it red?",))])
    (request,) = server.asked
    assert request["messages"][0]["content"] == "Is it red? Answer yes or no."
    assert request["options"]["temperature"] == 0
    assert request["logprobs"] is True and request["top_logprobs"] == 20
    assert request["stream"] is False and request["think"] is False


def test_leading_white_space_is_not_the_answer(server: FakeOllama) -> None:
    verifier = load(server)
    server.behaviour.reply = lambda question, image: [[("\n", 0.9)], [(" Yes", 0.6), ("No", 0.4)]]
    assert verifier.answer([VQAQuery(RED, ("Red?",))])[0][0].p_yes == pytest.approx(0.6)


def test_an_old_server_is_read_by_its_words(
    server: FakeOllama, caplog: pytest.LogCaptureFixture
) -> None:
    server.behaviour.logprobs = False
    verifier = load(server)
    outcome, answer = judged(verifier)
    assert outcome is Outcome.ACCEPT
    assert answer.p_yes == pytest.approx(0.9) and not answer.exact
    assert "0.12.11" in caplog.text


@pytest.mark.parametrize("said", ["maybe", "It is not", ""])
@pytest.mark.parametrize("logprobs", [True, False])
def test_an_answer_that_is_neither_is_unsure(server: FakeOllama, said: str, logprobs: bool) -> None:
    verifier = load(server)
    server.behaviour.logprobs = logprobs
    server.behaviour.reply = lambda question, image: [[(said, 0.9), ("The", 0.1)]]
    outcome, answer = judged(verifier)
    assert outcome is Outcome.UNSURE
    assert answer.p_yes is None and answer.error == ""


@pytest.mark.parametrize(
    "fault", ["503", "429", "500", "truncated", "html", "list", "cut", "error"]
)
def test_a_passing_fault_is_tried_again(server: FakeOllama, fault: str) -> None:
    verifier = load(server)
    before = len(server.requests)
    server.behaviour.fault = lambda number: fault if number - before <= 2 else ""
    outcome, answer = judged(verifier)
    assert outcome is Outcome.ACCEPT and answer.error == ""
    assert len(server.requests) - before == 3


@pytest.mark.parametrize("fault", ["503", "500", "truncated", "html", "list", "cut", "error"])
def test_a_lasting_fault_is_no_verdict(server: FakeOllama, fault: str) -> None:
    verifier = load(server)
    before = len(server.requests)
    server.behaviour.fault = lambda number: fault
    outcome, answer = judged(verifier)
    assert outcome is Outcome.UNSURE
    assert answer.p_yes is None and "Ollama" in answer.error
    assert len(server.requests) - before == QUICK.tries
    server.behaviour.fault = lambda number: ""
    assert judged(verifier)[0] is Outcome.ACCEPT, "a failure must not be remembered"


def test_an_empty_reply_is_no_verdict(server: FakeOllama) -> None:
    verifier = load(server)
    server.behaviour.fault = lambda number: "empty"
    outcome, answer = judged(verifier)
    assert outcome is Outcome.UNSURE and answer.p_yes is None


def test_a_body_that_is_no_object_does_not_break_the_error_path(server: FakeOllama) -> None:
    verifier = load(server)
    server.behaviour.status_body = b"[]"
    server.behaviour.fault = lambda number: "503"
    assert judged(verifier)[0] is Outcome.UNSURE


def test_a_hanging_server_is_left_in_time(server: FakeOllama) -> None:
    verifier = load(server, backend_timeout_s=0.3, backend_concurrency=1)
    server.behaviour.fault = lambda number: "hang"
    answers = verifier.answer([VQAQuery(RED, ("Red?", "Blue?", "Green?"))])[0]
    assert [answer.p_yes for answer in answers] == [None] * 3
    assert "in time" in answers[0].error
    # One question waited; the others are not made to wait for the same silence.
    assert len(server.asked) == 1


def test_a_server_that_went_away_is_no_verdict(server: FakeOllama) -> None:
    verifier = load(server)
    server.close()
    outcome, answer = judged(verifier)
    assert outcome is Outcome.UNSURE
    assert "cannot be reached" in answer.error and f"{QUICK.tries} tries" in answer.error


def test_a_model_that_was_removed_is_no_verdict_and_not_tried_again(server: FakeOllama) -> None:
    verifier = load(server)
    server.behaviour.models.clear()
    outcome, answer = judged(verifier)
    assert outcome is Outcome.UNSURE and "no longer has the model" in answer.error


def test_one_view_that_fails_leaves_the_others(server: FakeOllama) -> None:
    verifier = load(server, backend_concurrency=1)

    before = len(server.requests)
    server.behaviour.fault = lambda number: "500" if before + 1 < number <= before + 5 else ""
    answers = verifier.answer(
        [VQAQuery(RED, ("red?",)), VQAQuery(BLUE, ("red?",)), VQAQuery(RED, ("red?",))]
    )
    assert [answer.error != "" for (answer,) in answers] == [False, True, False]


@pytest.mark.parametrize("limit", [1, 3])
def test_never_more_at_once_than_allowed(server: FakeOllama, limit: int) -> None:
    verifier = load(server, backend_concurrency=limit)
    server.most_at_once = 0
    server.behaviour.meeting = limit
    queries = [VQAQuery(RED, ("red?", "blue?"))] * 3
    callers = [threading.Thread(target=verifier.answer, args=(queries,)) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(server.asked) == 12
    assert server.most_at_once == limit


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (lambda question, image: [[("", 1.0)]], "did not answer a simple question"),
        (
            lambda question, image: [[("Yes", 0.9), ("No", 0.1)]],
            "is wrong about a synthetic red disc",
        ),
        (lambda question, image: [[("I", 0.9)]], "did not answer a simple question"),
    ],
)
def test_the_start_up_test_warns(
    server: FakeOllama,
    reply: Callable[[str, PILImage.Image], list[Top]],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.behaviour.reply = reply
    with caplog.at_level(logging.WARNING):
        load(server)
    assert words in caplog.text


def test_a_sound_model_starts_without_a_warning(
    server: FakeOllama, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="secondlook"):
        load(server)
    assert caplog.text == ""


def test_a_missing_model_says_how_to_get_it(server: FakeOllama) -> None:
    server.behaviour.models = {"llava:7b": ("vision",)}
    with pytest.raises(NotFound, match=r"it has llava:7b.*`ollama pull moondream`"):
        load(server)


def test_a_model_that_cannot_see_is_refused(server: FakeOllama) -> None:
    server.behaviour.models = {"moondream:latest": ("completion",)}
    with pytest.raises(BadSetting, match="takes no images"):
        load(server)


def test_no_server_says_how_to_start_one(server: FakeOllama) -> None:
    server.close()
    with pytest.raises(Unavailable, match="ollama serve"):
        load(server)


def test_no_model_named() -> None:
    with pytest.raises(BadSetting, match="ollama:MODEL"):
        adapter.load("", ModelSettings())


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (b'{"error":"model requires more system memory (8 GiB)"}', "requires more system memory"),
        (b"<html><title>502 Bad Gateway</title></html>", "502 Bad Gateway"),
        (b"plain words", "plain words"),
    ],
)
def test_the_servers_own_words_are_in_the_error(
    server: FakeOllama, status: bytes, words: str
) -> None:
    verifier = load(server)
    server.behaviour.status_body = status
    server.behaviour.fault = lambda number: "500"
    assert words in judged(verifier)[1].error


def test_the_limit_holds_while_bytes_drip(
    server: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = load(server, backend_timeout_s=0.3, backend_concurrency=1)
    server.behaviour.fault = lambda number: "drip"
    began = time.monotonic()
    answer = judged(verifier)[1]
    assert answer.p_yes is None and "in time" in answer.error
    assert time.monotonic() - began < 2
    # At the start a silence is granted, in which a model is loaded; a server that drips loads none.
    monkeypatch.setattr(adapter, "LOAD_S", 60.0)
    load(server, backend_timeout_s=0.3)
    assert time.monotonic() - began < 6


def test_a_model_may_be_loaded_slowly_at_the_start(
    server: FakeOllama, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapter, "LOAD_S", 10.0)
    slow = by_colour

    def loading(question: str, image: PILImage.Image) -> list[Top]:
        time.sleep(0.4)
        return slow(question, image)

    server.behaviour.reply = loading
    load(server, backend_timeout_s=0.2)
    assert "in time" not in caplog.text


def test_a_first_token_of_another_sentence_is_no_answer(server: FakeOllama) -> None:
    verifier = load(server)
    server.behaviour.reply = lambda question, image: [[("No", 0.98)], [(" image", 0.9)]]
    outcome, answer = judged(verifier)
    assert outcome is Outcome.UNSURE and answer.raw == "No image"


def test_the_host_may_come_without_a_scheme_or_from_the_environment(
    server: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = server.url.removeprefix("http://")
    options = ModelSettings(backend_timeout_s=2.0)
    server.behaviour.models = {"hf.co/you/llava:Q4_K_M": ("vision",)}
    assert adapter.load(f"hf.co/you/llava:Q4_K_M@{host}", options).name == "hf.co/you/llava:Q4_K_M"
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert adapter.load("hf.co/you/llava:Q4_K_M", options).name == "hf.co/you/llava:Q4_K_M"
