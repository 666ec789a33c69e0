"""The OpenAI-compatible verifier against a server over a real socket, faults included."""

import base64
import re
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from openai_server import Behaviour, FakeOpenAI, Top
from PIL import Image as PILImage

from secondlook.config.settings import ModelSettings
from secondlook.core.types import VQAQuery
from secondlook.models import model_server, remote
from secondlook.models import openai as adapter
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


LOGPROBS_REFUSED = [
    (422, {"detail": [{"loc": ["body", "logprobs"], "msg": "Extra inputs are not permitted"}]}),
    (422, {"object": "error", "message": {"detail": [{"loc": ["body", "logprobs"], "msg": "no"}]}}),
    (400, {"object": "error", "message": "[{'loc': ('body', 'logprobs')}]", "code": 400}),
    (403, {"error": {"message": "You are not allowed to request logprobs from this model"}}),
    (500, {"error": "logprobs is not implemented for this model"}),
    (501, {"error": "logprobs is not implemented"}),
]


@pytest.mark.parametrize("refusal", LOGPROBS_REFUSED, ids=lambda r: str(r[0]))
def test_refused_probabilities_are_done_without(server: FakeOpenAI, refusal: Any) -> None:
    server.behaviour.refuse = lambda request: refusal if "logprobs" in request else None
    answer = asked(load(server))
    assert answer.p_yes == pytest.approx(0.9) and not answer.exact


def test_a_model_that_counts_its_thoughts_is_asked_in_its_way(server: FakeOpenAI) -> None:
    def refuse(request: dict[str, Any]) -> Any:
        words = ""
        if "max_tokens" in request:
            words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        elif "temperature" in request:
            words = "Unsupported value: 'temperature' does not support 0 with this model."
        return (400, {"error": {"message": words}}) if words else None

    server.behaviour.refuse = refuse
    verifier = load(server)
    before = len(server.requests)
    assert asked(verifier).p_yes == pytest.approx(0.8 / 0.95)
    assert len(server.requests) == before + 1, "what it refuses is learned once"
    assert server.requests[-1]["max_completion_tokens"] > 100


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            {"error": {"message": "At most 0 image(s) may be provided", "code": 400}},
            "At most 0 image",
        ),
        ({"error": "image input is not supported"}, "image input is not supported"),
        ({"object": "error", "message": "no such adapter"}, "no such adapter"),
        ({"detail": [{"loc": ["body", "messages"], "msg": "too long"}]}, "body.messages: too long"),
        ({"detail": "Not Found"}, "Not Found"),
    ],
)
@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_the_servers_own_words_are_in_the_error(
    server: FakeOpenAI, status: int, said: Any, shown: str
) -> None:
    verifier = load(server)
    server.behaviour.refuse = lambda request: (status, said)
    answer = asked(verifier)
    assert answer.p_yes is None and shown in answer.error and str(status) in answer.error


@pytest.mark.parametrize(("code", "tries"), [(429, TRIES), (503, TRIES), (400, 1), ("x", TRIES)])
def test_an_error_with_status_200_is_an_error(server: FakeOpenAI, code: Any, tries: int) -> None:
    verifier = load(server)
    before = len(server.requests)
    said = {"error": {"message": "Upstream provider rate limited", "code": code}}
    server.behaviour.refuse = lambda request: (200, said)
    answer = asked(verifier)
    assert answer.p_yes is None and "Upstream provider rate limited" in answer.error
    assert len(server.requests) - before == tries


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        (b"<!doctype html><title>Sign in &amp; go</title><body>x", "Sign in & go"),
        (b"<html><style>p{}</style><body><h1>Bad Gateway</h1> nginx</html>", "Bad Gateway nginx"),
    ],
)
def test_a_web_page_is_quoted(server: FakeOpenAI, page: bytes, shown: str) -> None:
    verifier = load(server)
    server.behaviour.body, server.behaviour.kind = page, "text/html"
    assert shown in asked(verifier).error
    server.behaviour.models_status = 502
    with pytest.raises(Unavailable, match=re.escape(shown)):
        load(server)


@pytest.mark.parametrize("content", [[{"type": "text", "text": "Yes"}], ["Yes"], "Yes."])
def test_content_may_be_a_list_of_parts(server: FakeOpenAI, content: Any) -> None:
    server.behaviour.most_top = 0
    server.behaviour.content = lambda text: content
    assert asked(load(server)).p_yes == pytest.approx(0.9)


@pytest.mark.parametrize(
    "content", [None, "", [], [{"type": "image_url"}], 7, {"text": "Yes"}, "No image was provided"]
)
def test_content_without_an_answer_is_an_abstention(server: FakeOpenAI, content: Any) -> None:
    server.behaviour.most_top = 0
    server.behaviour.content = lambda text: content
    answer = asked(load(server))
    assert answer.p_yes is None and answer.error == ""


def test_a_first_token_of_another_sentence_is_no_answer(server: FakeOpenAI) -> None:
    server.behaviour.reply = lambda question, shown: [
        [("No", 0.98), ("Yes", 0.01)],
        [(" image", 0.9)],
        [(" was", 0.9)],
    ]
    answer = asked(load(server))
    assert answer.p_yes is None and answer.raw == "No image was"


@pytest.mark.parametrize(
    "answer",
    [
        b'{"choices":[{"message":{"role":"assistant","content":null,"refusal":"I cannot"}}]}',
        b'{"choices":[{"message":{"content":"","reasoning_content":"I cannot yet say"}}]}',
    ],
)
def test_what_is_said_in_place_of_an_answer_is_shown(server: FakeOpenAI, answer: bytes) -> None:
    verifier = load(server)
    server.behaviour.body = answer
    found = asked(verifier)
    assert found.p_yes is None and "I cannot" in found.raw


@pytest.mark.parametrize("number", ["null", "NaN", '"x"', "[]"])
def test_probabilities_that_are_no_numbers_are_passed_over(server: FakeOpenAI, number: str) -> None:
    verifier = load(server)
    top = f'{{"token":"Yes","logprob":{number}}}'
    content = f'[{{"token":"Yes","logprob":{number},"top_logprobs":[{top}, 3]}}, 4]'
    reply = f'{{"choices":[{{"message":{{"content":"Yes"}},"logprobs":{{"content":{content}}}}}]}}'
    server.behaviour.body = reply.encode()
    answer = asked(verifier)
    assert answer.p_yes == pytest.approx(0.9) and not answer.exact


def test_the_limit_holds_while_bytes_drip(server: FakeOpenAI) -> None:
    verifier = load(server, backend_timeout_s=0.5)
    server.behaviour.drip_s = 0.05
    began = time.monotonic()
    answer = asked(verifier)
    assert time.monotonic() - began < 2
    assert answer.p_yes is None and "in time" in answer.error


def test_a_reply_is_read_up_to_a_limit(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = load(server)
    monkeypatch.setattr(model_server, "MAX_REPLY_BYTES", 1 << 20)
    server.behaviour.body = b" " * (2 << 20)
    assert "more than 1 MiB" in asked(verifier).error


def test_retry_after_may_be_a_date(server: FakeOpenAI) -> None:
    verifier = load(server, backend_timeout_s=20.0)
    before = len(server.requests)
    server.behaviour.status = lambda number: 429
    server.behaviour.headers = {"Retry-After": "Wed, 21 Oct 2037 07:28:00 GMT"}
    assert "asks to wait" in asked(verifier).error
    assert len(server.requests) - before == 1
    server.behaviour.headers = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert f"{TRIES} tries" in asked(verifier).error


def test_a_redirect_names_its_target_and_is_not_followed(server: FakeOpenAI) -> None:
    verifier = load(server)
    server.behaviour.headers = {"Location": "https://me:s3cret@elsewhere.example/v2?key=s3cret"}
    server.behaviour.status = lambda number: 307
    error = asked(verifier).error
    assert "redirects to https://elsewhere.example/v2;" in error and "s3cret" not in error
    server.behaviour.models_status = 301
    with pytest.raises(BadSetting, match="redirects to https://elsewhere"):
        load(server)


def test_a_missing_v1_is_suggested(server: FakeOpenAI) -> None:
    with pytest.raises(BadSetting, match=r"404.*end in /v1"):
        adapter.load(f"tiny-vlm@http://{server.host}", ModelSettings(backend_timeout_s=2.0))


def test_a_server_without_a_list_of_models_works(server: FakeOpenAI) -> None:
    server.behaviour.models_status = 404
    assert asked(load(server)).p_yes == pytest.approx(0.8 / 0.95)


def test_secrets_stay_out_of_errors(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-s3cret")
    verifier = load(server)
    server.behaviour.refuse = lambda request: (401, {"error": "Incorrect key: sk-s3cret \x1b[31m"})
    error = asked(verifier).error
    assert "Incorrect key: …" in error and KEY_VARIABLE in error
    assert "s3cret" not in error + caplog.text and "\x1b" not in error
    url = f"http://me:pass%20word@{server.host}/v1?key=s3cret"
    server.behaviour.refuse = lambda request: None
    with caplog.at_level("DEBUG"):
        adapter.load(f"tiny-vlm@{url}", ModelSettings(backend_timeout_s=2.0))
    wanted = base64.b64encode(b"me:pass word").decode()
    assert server.headers[-1]["Authorization"] == f"Basic {wanted}"
    assert not re.search("pass.word|s3cret", caplog.text)


def test_addresses_of_ipv6_and_without_a_scheme() -> None:
    running = FakeOpenAI(Behaviour(reply=by_colour), host="::1")
    try:
        for address in (running.url, f"{running.host}/v1"):
            verifier = adapter.load(f"tiny-vlm@{address}", ModelSettings(backend_timeout_s=2.0))
            assert asked(verifier).p_yes == pytest.approx(0.8 / 0.95)
    finally:
        running.close()


def test_tls_and_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    running = FakeOpenAI(Behaviour(reply=by_colour), tls=context)
    options = ModelSettings(backend_timeout_s=2.0)
    try:
        with pytest.raises(Unavailable, match=r"not trusted \(self-signed.*SSL_CERT_FILE"):
            adapter.load(f"tiny-vlm@{running.url}", options)
        with pytest.raises(Unavailable, match="cut off"):
            adapter.load(f"tiny-vlm@http://{running.host}/v1", options)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        verifier = adapter.load(f"tiny-vlm@{running.url}", options)
        assert asked(verifier).p_yes == pytest.approx(0.8 / 0.95)
    finally:
        running.close()


def test_https_to_a_server_without_tls(server: FakeOpenAI) -> None:
    with pytest.raises(Unavailable, match="speaks no TLS"):
        adapter.load(f"m@https://{server.host}/v1", ModelSettings(backend_timeout_s=2.0))


def self_signed(folder: Path) -> Path:
    """A file with a key for 127.0.0.1 and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path
