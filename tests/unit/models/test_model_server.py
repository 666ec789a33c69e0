"""Addresses, and the words that are found in any reply."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.models.model_server import (
    _decode,
    parse_address,
    printable,
    retry_after_s,
    shown_url,
    split_spec,
)
from secondlook_client.errors import BadSetting


@pytest.mark.parametrize(
    ("argument", "model", "address"),
    [
        ("moondream", "moondream", ""),
        ("llava:7b-v1.6", "llava:7b-v1.6", ""),
        ("m@http://h:1", "m", "http://h:1"),
        ("m@h:11434", "m", "h:11434"),
        ("llava:7b@gpu-box", "llava:7b", "gpu-box"),
        ("hf.co/a/b:Q4@10.0.0.2:11434/ollama", "hf.co/a/b:Q4", "10.0.0.2:11434/ollama"),
        ("m@[::1]:11434", "m", "[::1]:11434"),
        ("m@::1", "m", "::1"),
        ("m@https://me:p@ss@h:1/v1", "m", "https://me:p@ss@h:1/v1"),
        ("a@b@h:1", "a@b", "h:1"),
        ("m@sha256:0123abcd", "m@sha256:0123abcd", ""),
        ("m@sha256:0123abcd@h:1", "m@sha256:0123abcd", "h:1"),
        ("", "", ""),
    ],
)
def test_a_spec_is_a_model_and_an_address(argument: str, model: str, address: str) -> None:
    assert split_spec(argument) == (model, address)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("h", "http://h:11434"),
        ("h:80", "http://h:80"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("::1", "http://[::1]:11434"),
        ("[fe80::1]:99", "http://[fe80::1]:99"),
        ("http://h/", "http://h"),
        ("HTTPS://h:1/v1/", "https://h:1/v1"),
        ("https://me:secret@h/v1?key=secret#x", "https://h/v1"),
    ],
)
def test_an_address_becomes_a_url_without_secrets(text: str, url: str) -> None:
    assert parse_address(text, 11434).url == url


def test_user_and_password_are_kept_apart() -> None:
    assert parse_address("http://me:a%40b@h").auth == ("me", "a@b")
    assert parse_address("http://h").auth is None


@pytest.mark.parametrize("text", ["", "http://", "ftp://h", "http://h:99999", "a b", "http://[::1"])
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="address of a model server"):
        parse_address(text)


@given(st.text(max_size=50))
def test_any_spec_is_read_or_refused(text: str) -> None:
    model, address = split_spec(text)
    assert len(model) + len(address) <= len(text)
    with suppress(BadSetting):
        assert parse_address(address).url.startswith("http")


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("7") == 7
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < retry_after_s(soon) <= 30
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@given(st.text(max_size=40))
def test_any_retry_after_is_read(header: str) -> None:
    assert retry_after_s(header) >= 0


@given(st.binary(max_size=300), st.sampled_from(["text/html", "application/json", ""]))
def test_any_body_has_words_of_one_safe_line(body: bytes, kind: str) -> None:
    _, words = _decode(body, kind)
    assert words.isprintable() and len(words) <= 300


KEYS = st.sampled_from(["error", "message", "detail", "msg", "loc"])
BODIES = st.recursive(
    st.none() | st.text(max_size=5) | st.integers() | st.booleans(),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(KEYS, one),
)


@given(BODIES)
def test_an_error_of_any_shape_has_words(value: object) -> None:
    assert isinstance(_decode(json.dumps(value).encode(), "")[1], str)


def test_nothing_commands_the_terminal() -> None:
    assert printable("a\x1b[2J\u202e\r\nb") == r"a\x1b[2J\u202e b"
    assert printable("x" * 1000) == "x" * 299 + "…"
    assert _decode(b"[" * 100_000, "")[0] is None


def test_urls_are_shown_without_secrets() -> None:
    assert shown_url("https://me:x@h/p?key=1#f") == "https://h/p"
    assert shown_url("/v2/models") == "/v2/models"
    assert shown_url("http://[") == ""
