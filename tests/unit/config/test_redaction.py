"""Secrets never leave: not in URLs of any kind, not as values of variables."""

import json
import logging
import string

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.config import redaction
from secondlook.config.entrypoint import run_group
from secondlook.config.redaction import redacted, url_scheme
from secondlook.server.json_logs import JsonFormatter
from secondlook.store.database import Database
from secondlook_client.errors import BadSetting, Unavailable

SECRET = "hunter2SECRET"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql://u:{SECRET}@h:5432/db", "postgresql://…@h:5432/db"),
        (f"postgresql://u:{SECRET}/a@b@h/db", "postgresql://…@h/db"),
        (f"POST http://{SECRET}@h/v1 'OK'", "POST http://…@h/v1 'OK'"),
        (f"rtsp://cam/1?user=a&password={SECRET}", "rtsp://cam/1?user=a&password=…"),
        (f"s3://b/p?aws_secret_access_key={SECRET}&x=1", "s3://b/p?aws_secret_access_key=…&x=1"),
        (f"openai:m@u:{SECRET}@127.0.0.1/v1", "openai:m@…@127.0.0.1/v1"),
        (f'"http://u:{SECRET}@h/"', '"http://…@h/"'),
        ("http://127.0.0.1:8000/v1/name@x", "http://127.0.0.1:8000/v1/name@x"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("postgresql://user:password@host:port/name", "postgresql://user:password@host:port/name"),
        ("name@sha256:ab, a@b.c", "name@sha256:ab, a@b.c"),
    ],
)
def test_what_is_shown_of_a_text(text, shown) -> None:
    assert redacted(text) == shown


unreserved = st.text(string.ascii_letters + string.digits + "-._~%!$&*+,;=:", min_size=1)


@given(
    scheme=st.sampled_from(["http", "postgresql", "postgresql+psycopg", "s3", "rtsp"]),
    user=st.text(string.ascii_lowercase, min_size=1, max_size=8),
    password=unreserved.map(lambda part: f"{SECRET}{part}{SECRET}"),
    before=st.sampled_from(["", "cannot reach ", "(", "'", "url="]),
    path=st.sampled_from(["", "/", "/db?x=1", ":8000/v1/a@b"]),
)
def test_no_password_of_a_url_is_left(scheme, user, password, before, path) -> None:
    shown = redacted(f"{before}{scheme}://{user}:{password}@host{path}")
    assert SECRET not in shown and f"{scheme}://…@host" in shown


def test_values_of_variables_that_hold_keys_are_hidden(monkeypatch) -> None:
    monkeypatch.setenv("SECONDLOOK_OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("SOME_TOKEN", "short")
    redaction._known_secrets.cache_clear()
    try:
        assert redacted(f"the key {SECRET} is short") == "the key … is short"
    finally:
        redaction._known_secrets.cache_clear()


def test_logs_and_tracebacks_hide_them() -> None:
    try:
        raise ValueError(f"no answer from http://u:{SECRET}@h/")
    except ValueError as failure:
        told = logging.LogRecord(
            "x", logging.ERROR, "f.py", 1, "%s", (f"http://u:{SECRET}@h/",), None
        )
        told.exc_info = (ValueError, failure, failure.__traceback__)
        told.where = f"postgresql://u:{SECRET}@h/db"
    line = JsonFormatter().format(told)
    assert SECRET not in line and SECRET not in json.loads(line)["exception"]


def test_errors_on_the_terminal_hide_them(capsys) -> None:
    @click.group()
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        raise Unavailable(f"no answer from http://u:{SECRET}@h/")

    assert run_group(group, "x", ["fail"]) == 1
    assert capsys.readouterr().err == "error: no answer from http://…@h/\n"


@pytest.mark.parametrize(
    "url",
    [
        f"u:{SECRET}@h/x",
        f"{SECRET}",
        f"mysql://u:{SECRET}@h/x",
        f"postgresql://u:1:{SECRET}/x",
        f"{SECRET} x://y",
    ],
)
def test_a_wrong_database_url_is_not_repeated(url) -> None:
    with pytest.raises(BadSetting) as refused:
        Database(url)
    assert SECRET not in str(refused.value)


def test_the_scheme_of_a_url_alone_is_shown() -> None:
    assert url_scheme("mysql://u:p@h") == "one that begins with 'mysql'"
    assert url_scheme("u:p@h") == url_scheme("a b://c") == "one without a scheme"
